//! One mounted Secret. In: its directory. Out: its data keys, and the text of one.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Bytes of a data key; a Secret is no larger than 1 MiB.
const FILE_BYTES: u64 = 1 << 20;
/// Names shown in a message.
const NAMES: usize = 10;

/// A mounted Secret, as it was when it was opened.
pub(crate) struct Mount {
    directory: PathBuf,
    names: Vec<String>,
}

impl Mount {
    /// An absent directory is an empty Secret.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        // The kubelet replaces all files at once by replacing this link; behind it none of them changes.
        let directory = directory.join("..data").canonicalize().unwrap_or_else(|_| directory.to_owned());
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { directory, names: Vec::new() });
            }
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            // Names with two dots are the kubelet's own.
            if !name.starts_with("..") {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(Self { directory, names })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// All data keys.
    pub(crate) fn keys(&self) -> &[String] {
        &self.names
    }

    fn has(&self, key: &str) -> bool {
        self.names.iter().any(|name| name == key)
    }

    /// The data keys, for a message.
    pub(crate) fn names(&self) -> String {
        let shown = self.names.iter().take(NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
        match self.names.len().saturating_sub(NAMES) {
            0 => shown,
            more => format!("{shown} and {more} more"),
        }
    }

    /// The text of a data key; None when the Secret does not have the key.
    pub(crate) fn read(&self, key: &str) -> io::Result<Option<String>> {
        if self.has(key) { text_of(&self.directory.join(key)).map(Some) } else { Ok(None) }
    }
}

/// The text of a file without the line break that editors and `echo` leave at its end. Errors hold no part of it.
pub(crate) fn text_of(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    let mut text = String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8"))?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    Ok(text)
}
