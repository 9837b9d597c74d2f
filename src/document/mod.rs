//! A file with ChatServices, read as a cluster would read it, without one. In: YAML. Out: typed ChatServices with the
//! schema's defaults applied, or everything that is wrong, each with file, line and column.
//!
//! Three passes, all of them always: the YAML itself ([`yaml`]), the structural schema of our CRD with unknown fields
//! refused ([`schema`]), and the CRD's CEL rules ([`rules`]).

use std::fmt;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::constants::{GROUP, KIND, VERSION};
use crate::crd::ChatService;

mod rules;
mod schema;
mod yaml;

use yaml::{Document, Part};

/// Largest file, as the API server's limit of an object is of that order.
const BYTES_MAX: u64 = 1 << 20;

/// One thing that is wrong with a file. Lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named; `<stdin>` for standard input.
    pub file: String,
    /// Where.
    pub line: u64,
    /// Where in the line.
    pub column: u64,
    /// The field, such as `spec.rateLimits.burst`; empty for the document as a whole.
    pub path: String,
    /// What is wrong, what is allowed, what to write.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, path, message } = self;
        let separator = if path.is_empty() { "" } else { ": " };
        write!(f, "{file}:{line}:{column}: {path}{separator}{message}")
    }
}

/// Why a file gives no ChatServices.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It cannot be read.
    #[error("cannot read {file}: {source}")]
    Read {
        /// The file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// It cannot be a ChatService.
    #[error("{file} is larger than {BYTES_MAX} bytes: that cannot be a ChatService")]
    TooLarge {
        /// The file.
        file: String,
    },
    /// It has no document of our kind.
    #[error("{file} has no {KIND}: begin it with apiVersion: {GROUP}/{VERSION} and kind: {KIND}")]
    Empty {
        /// The file.
        file: String,
    },
    /// One line per problem, in the order of the file.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<Problem>),
}

/// Reads a file, or standard input for `-`, and gives its ChatServices: at least one.
pub fn read(path: &Path) -> Result<Vec<ChatService>, DocumentError> {
    let (file, bytes) = if path.as_os_str() == "-" {
        ("<stdin>".to_owned(), take(std::io::stdin().lock()))
    } else {
        (path.display().to_string(), std::fs::File::open(path).and_then(take))
    };
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(source) => return Err(DocumentError::Read { file, source }),
    };
    if bytes.len() as u64 > BYTES_MAX {
        return Err(DocumentError::TooLarge { file });
    }
    match String::from_utf8(bytes) {
        Ok(text) => load(&file, &text),
        Err(error) => {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidData, error.utf8_error());
            Err(DocumentError::Read { file, source })
        }
    }
}

fn take(reader: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The ChatServices of a text: at least one. `file` is for messages. Documents of other groups and kinds, such as a
/// Secret in the same file, are left alone.
pub fn load(file: &str, text: &str) -> Result<Vec<ChatService>, DocumentError> {
    let documents = yaml::parse(text).map_err(|error| {
        let yaml::SyntaxError { line, column, message } = error;
        let problem = Problem { file: file.to_owned(), line, column, path: String::new(), message };
        DocumentError::Invalid(vec![problem])
    })?;
    let (mut services, mut problems) = (Vec::new(), Vec::new());
    for document in documents.iter().filter(|document| is_ours(&document.value)) {
        match check(document) {
            Ok(service) => services.push(service),
            Err(found) => problems.extend(found.into_iter().map(|issue| issue.at(file, document))),
        }
    }
    if !problems.is_empty() {
        problems.sort_by_key(|problem| (problem.line, problem.column));
        Err(DocumentError::Invalid(problems))
    } else if services.is_empty() {
        Err(DocumentError::Empty { file: file.to_owned() })
    } else {
        Ok(services)
    }
}

/// Whether a document is or was meant to be a ChatService: one of the two matches, or neither is there to tell.
fn is_ours(value: &Value) -> bool {
    let of_group = value["apiVersion"].as_str().map(|text| text.split('/').next() == Some(GROUP));
    let of_kind = value["kind"].as_str().map(|kind| kind == KIND);
    match (of_group, of_kind) {
        (None, None) => !value.is_null(),
        (group, kind) => group == Some(true) || kind == Some(true),
    }
}

/// A problem before its position is known.
#[derive(PartialEq)]
struct Issue {
    /// JSON pointer of the field; where it does not exist, its nearest ancestor gives the position.
    pointer: String,
    /// Whether the name or the value is at fault.
    part: Part,
    message: String,
}

impl Issue {
    fn at(self, file: &str, document: &Document) -> Problem {
        let (line, column) = document.position(&self.pointer, self.part);
        Problem { file: file.to_owned(), line, column, path: dotted(&self.pointer), message: self.message }
    }
}

fn check(document: &Document) -> Result<ChatService, Vec<Issue>> {
    let schema = schema::of_crd();
    let value = schema::without_nulls(&schema, &document.value);
    let mut issues = schema::check(&schema, &value);
    issues.extend(rules::check(&schema, &value, &issues));
    if !issues.is_empty() {
        return Err(issues);
    }
    let defaulted = kube::core::cel::apply_defaults(&schema, &value);
    serde_json::from_value(defaulted).map_err(|error| {
        let message = format!("does not fit this version of chatservice: {error}");
        vec![Issue { pointer: String::new(), part: Part::Value, message }]
    })
}

/// `/spec/models/0/name` as `spec.models[0].name`.
fn dotted(pointer: &str) -> String {
    let mut path = String::new();
    for segment in pointer.split('/').skip(1) {
        let segment = segment.replace("~1", "/").replace("~0", "~");
        if segment.bytes().all(|byte| byte.is_ascii_digit()) {
            path.extend(["[", &segment, "]"]);
        } else {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(&segment);
        }
    }
    path
}

/// Adds a segment to a JSON pointer.
fn join(pointer: &str, segment: &str) -> String {
    format!("{pointer}/{}", segment.replace('~', "~0").replace('/', "~1"))
}
