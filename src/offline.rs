//! What needs no cluster and no server: `validate` and `render`. In: files with ChatServices. Out: what is wrong with
//! them, or the objects that the operator would apply.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::controller::build::build;
use crate::controller::dereference::References;
use crate::controller::validate::{Defaults, Problem, server_config, validate as decide};
use crate::crd::ChatService;
use crate::document::{self, DocumentError};
use crate::output;

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The problems have been shown, one a line; this is the sum.
    #[error("{bad} of {files} files cannot be applied")]
    Invalid {
        /// Files with problems.
        bad: usize,
        /// Files.
        files: usize,
    },
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
}

/// Checks every file, shows what is wrong with any and what is right.
pub fn validate(files: &[PathBuf]) -> Result<(), OfflineError> {
    each(files, |path, services| {
        for service in services {
            match server_config(service) {
                Ok(_) => {
                    output::print(&format!("{}: ChatService {} is valid\n", path.display(), name(service)))?;
                }
                Err(problems) => return Ok(Err(problems)),
            }
        }
        Ok(Ok(()))
    })
}

/// The objects of all ChatServices of all files, as YAML. `namespace` is for those that name none.
pub fn render(files: &[PathBuf], defaults: &Defaults, namespace: &str) -> Result<String, OfflineError> {
    let mut text = String::new();
    each(files, |_, services| {
        for service in services {
            service.metadata.namespace.get_or_insert_with(|| namespace.to_owned());
            let decided = match decide(service, &References::default(), defaults) {
                Ok(decided) => decided,
                Err(problems) => return Ok(Err(problems)),
            };
            for object in build(&decided).to_values() {
                text.push_str("---\n");
                text.push_str(&yaml(&object)?);
            }
        }
        Ok(Ok(()))
    })?;
    Ok(text)
}

/// Gives each file's ChatServices to `work`, and shows what is wrong with a file or with what `work` says of it.
fn each(
    files: &[PathBuf],
    mut work: impl FnMut(&Path, &mut [ChatService]) -> std::io::Result<Result<(), Vec<Problem>>>,
) -> Result<(), OfflineError> {
    let mut bad = 0;
    for path in files {
        let lines = match document::read(path) {
            Err(DocumentError::Invalid(problems)) => problems.iter().map(ToString::to_string).collect(),
            Err(error) => vec![error.to_string()],
            Ok(mut services) => match work(path, &mut services)? {
                Err(problems) => {
                    problems.iter().map(|problem| format!("{}: {problem}", path.display())).collect()
                }
                Ok(()) => Vec::new(),
            },
        };
        bad += usize::from(!lines.is_empty());
        for line in &lines {
            output::complain(line);
        }
    }
    if bad == 0 { Ok(()) } else { Err(OfflineError::Invalid { bad, files: files.len() }) }
}

fn name(service: &ChatService) -> &str {
    service.metadata.name.as_deref().unwrap_or_default()
}

/// YAML in which a long line stays one line, where it can be found and compared; a text of several is a block.
pub fn yaml(object: &impl Serialize) -> std::io::Result<String> {
    let options = serde_saphyr::ser_options! { folded_wrap_chars: 100_000 };
    serde_saphyr::to_string_with_options(object, options).map_err(std::io::Error::other)
}
