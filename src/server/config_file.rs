//! The mounted configuration. In: the text of a file. Out: [`ConfigFile`]: the configuration and what is to be known of the
//! file, or [`ConfigError`].
//!
//! It is read leniently, because an older server may meet a newer operator: fields that this build does not know are
//! left out and listed. A newer `formatVersion` says that leaving something out would be wrong.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::config::{FORMAT_VERSION, ServerConfig, hash_of};

/// Bytes of a file; a ConfigMap is no larger than 1 MiB.
const FILE_BYTES: u64 = 1 << 20;
/// Unknown fields that are listed, and the length of each.
const UNKNOWN_FIELDS: usize = 20;
const UNKNOWN_LENGTH: usize = 128;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a configuration.
    #[error("the configuration {path} is not valid: {message}")]
    Parse {
        /// The file.
        path: String,
        /// What is wrong and where.
        message: String,
    },
    /// The file was written in a form that this build does not know.
    #[error(
        "the configuration {path} has formatVersion {found}, this server reads up to {FORMAT_VERSION}: upgrade the server's image"
    )]
    Format {
        /// The file.
        path: String,
        /// Its form.
        found: u32,
    },
    /// An environment variable is missing or has a bad value.
    #[error("{variable} {message}")]
    Environment {
        /// The variable.
        variable: &'static str,
        /// What is allowed and what to do.
        message: String,
    },
}

/// A configuration as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigFile {
    /// What it says.
    pub config: Arc<ServerConfig>,
    /// Its name, as its writer has it: [`ServerConfig::hash`].
    pub hash: String,
    /// Paths of fields that this build does not know and that have no effect, at most 20.
    pub unknown: Vec<String>,
}

impl From<ServerConfig> for ConfigFile {
    /// One that was not read from a file.
    fn from(config: ServerConfig) -> Self {
        Self { hash: config.hash(), config: Arc::new(config), unknown: Vec::new() }
    }
}

impl ConfigFile {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&text(path)?, &path.display().to_string())
    }

    /// Reads the text of a file; `path` is for messages.
    pub fn parse(text: &str, path: &str) -> Result<Self, ConfigError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Form {
            format_version: u32,
        }
        let invalid =
            |message: String| ConfigError::Parse { path: path.to_owned(), message: unquoted(&message) };
        let form: Form = serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
        if form.format_version == 0 || form.format_version > FORMAT_VERSION {
            return Err(ConfigError::Format { path: path.to_owned(), found: form.format_version });
        }
        let mut unknown = Vec::new();
        let mut track = serde_path_to_error::Track::new();
        let mut json = serde_json::Deserializer::from_str(text);
        let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
        let config = serde_ignored::deserialize(tracked, |field| {
            if unknown.len() < UNKNOWN_FIELDS {
                unknown.push(field.to_string().chars().take(UNKNOWN_LENGTH).collect());
            }
        });
        let config = config.map_err(|error| invalid(format!("{}: {error}", track.path())))?;
        Ok(Self { config: Arc::new(config), hash: hash_of_text(text).unwrap_or_default(), unknown })
    }
}

/// A message of the parser's without what it quotes of the file: that may be a prompt, and the message is logged.
fn unquoted(message: &str) -> String {
    match (message.find('"'), message.rfind('"')) {
        (Some(first), Some(last)) if first < last => {
            format!("{}\"...\"{}", &message[..first], &message[last + 1..])
        }
        _ => message.to_owned(),
    }
}

/// [`ServerConfig::hash`] of a text that need not be a configuration; None when it is not even JSON.
pub(super) fn hash_of_text(text: &str) -> Option<String> {
    serde_json::from_str(text).ok().map(hash_of)
}

/// The text of a file.
pub(super) fn text(path: &Path) -> Result<String, ConfigError> {
    let read = || {
        let mut text = String::new();
        File::open(path)?.take(FILE_BYTES + 1).read_to_string(&mut text)?;
        let fits = text.len() as u64 <= FILE_BYTES;
        fits.then_some(text).ok_or_else(|| std::io::Error::other("it is larger than 1 MiB"))
    };
    read().map_err(|source| ConfigError::Read { path: path.display().to_string(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::config::{BackendConfig, DynamicConfig, Identity, StaticConfig};

    fn config() -> ServerConfig {
        let name = |text: &str| text.to_owned();
        ServerConfig {
            format_version: FORMAT_VERSION,
            identity: Identity {
                namespace: name("chat"),
                name: name("demo"),
                uid: name("u-1"),
                generation: 3,
            },
            fixed: StaticConfig::default(),
            dynamic: DynamicConfig::new("echo-1", BackendConfig::Echo {}),
        }
    }

    fn edited(edit: impl Fn(&mut serde_json::Value)) -> Result<ConfigFile, ConfigError> {
        let mut value = serde_json::to_value(config()).unwrap();
        edit(&mut value);
        ConfigFile::parse(&value.to_string(), "config.json")
    }

    #[test]
    fn what_is_written_is_read_back_and_has_the_writers_name() {
        let read = ConfigFile::parse(&config().to_text(), "config.json").unwrap();
        assert_eq!(
            read,
            ConfigFile { config: Arc::new(config()), hash: config().hash(), unknown: Vec::new() }
        );
        assert_eq!(ConfigFile::from(config()), read);
    }

    #[test]
    fn fields_of_a_newer_operator_are_left_out_listed_and_part_of_the_name() {
        let read = edited(|value| {
            value["dynamic"]["fromTheFuture"] = serde_json::json!({"a": 1});
            value["dynamic"]["models"][0]["colour"] = "blue".into();
        });
        let read = read.unwrap();
        assert_eq!(*read.config, config());
        assert_eq!(read.unknown, ["dynamic.fromTheFuture", "dynamic.models.0.colour"]);
        assert_ne!(read.hash, config().hash());

        let many = edited(|value| {
            for field in 0..1000 {
                value["dynamic"][format!("{field}{}", "x".repeat(1000))] = true.into();
            }
        });
        let unknown = many.unwrap().unknown;
        assert_eq!(unknown.len(), UNKNOWN_FIELDS);
        assert!(unknown.iter().all(|field| field.len() <= UNKNOWN_LENGTH));
    }

    #[test]
    fn a_newer_form_is_refused_with_what_to_do() {
        for form in [FORMAT_VERSION + 1, 0] {
            let error = edited(|value| value["formatVersion"] = form.into()).unwrap_err().to_string();
            assert!(error.contains("upgrade the server's image"), "{error}");
        }
    }

    #[test]
    fn what_is_no_configuration_is_refused_by_the_name_of_the_field() {
        let error = edited(|value| value["dynamic"]["timeouts"] = serde_json::json!({"connectMs": "1s"}));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("config.json") && error.contains("dynamic.timeouts.connectMs"), "{error}");
        let error = edited(|value| value["dynamic"]["defaults"] = "a \"prompt\"".into());
        let error = error.unwrap_err().to_string();
        assert!(error.contains("dynamic.defaults: invalid type: string \"...\", expected"), "{error}");
        assert!(ConfigFile::parse("{", "config.json").is_err());
        assert_eq!(hash_of_text("{"), None);
    }
}
