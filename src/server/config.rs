//! `ServerConfig`: the contract between the planes. The operator writes it into a ConfigMap, the server parses it.
//! In: `controller::validate` (from a ChatService) or the environment. Out: everything a server needs to know.
//!
//! What is under [`ServerConfig::fixed`] changes the pod; what is under [`ServerConfig::dynamic`] only changes
//! behaviour. A server reads its file once, at its start, so a change of either rolls pods. Durations and sizes are plain integers with the unit in the name.
//! The mounted file is read leniently, because an older server may meet a newer operator: unknown fields are ignored.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::crd::{LogFormat, LogLevel};

/// The form of the file that this build writes. It rises when an older server would misread a newer file.
pub const FORMAT_VERSION: u32 = 1;

/// Everything a server is told. Secrets are not in here: they are mounted beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerConfig {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    /// Which ChatService this is.
    pub identity: Identity,
    /// What changes the pod.
    #[serde(rename = "static")]
    pub fixed: StaticConfig,
    /// What only changes behaviour.
    pub dynamic: DynamicConfig,
}

/// Which ChatService a server runs for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// `metadata.namespace`; `local` outside a cluster.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`, in Redis keys and cache keys; outside a cluster a hash of the name.
    pub uid: String,
    /// `metadata.generation` that this configuration was made from. Not part of [`ServerConfig::hash`].
    pub generation: i64,
}

/// What changes the pod: which Secrets are mounted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StaticConfig {
    /// Name of the Secret with the backend's key, for messages; its files are in `mount::CREDENTIALS_DIR`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret: Option<String>,
    /// Name of the Secret with the Redis address, for messages; its files are in `mount::REDIS_DIR`. None: memory store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_secret: Option<String>,
    /// Form of the log. A subscriber is installed once, so it is fixed for the life of the process.
    #[serde(default)]
    pub log_format: LogFormat,
}

/// What only changes behaviour.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DynamicConfig {
    /// The model of a request that names none.
    pub model: String,
    /// What answers.
    pub backend: BackendConfig,
    /// What fills requests.
    pub defaults: RequestDefaults,
    /// Requests a caller may make. None: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_limit: Option<RequestLimit>,
    /// The cache. None: off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheConfig>,
    /// Conversations.
    pub conversations: ConversationConfig,
    /// Level of the log.
    #[serde(default)]
    pub log_level: LogLevel,
}

/// What answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BackendConfig {
    /// The built-in one.
    #[serde(rename_all = "camelCase")]
    Echo {},
    /// An OpenAI-compatible API.
    #[serde(rename_all = "camelCase")]
    OpenAi {
        /// The URL in front of `/chat/completions`, without a trailing slash.
        base_url: String,
    },
}

impl BackendConfig {
    /// `echo` or `openai`, as in status, metrics and messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Echo {} => "echo",
            Self::OpenAi { .. } => "openai",
        }
    }
}

/// What fills a request that leaves it out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestDefaults {
    /// Both dialects, only where no message is a system or developer message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
    /// Simple dialect only.
    pub temperature: f64,
    /// Simple dialect only.
    pub max_tokens: u32,
}

impl Default for RequestDefaults {
    fn default() -> Self {
        Self { system_prompt: None, temperature: 0.7, max_tokens: 1000 }
    }
}

/// A rate with a burst: `requests` in every `period_seconds`, evenly refilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestLimit {
    /// Requests in a period; what `x-ratelimit-limit-requests` says.
    pub requests: u32,
    /// The period.
    pub period_seconds: u32,
    /// Requests that may come at once.
    pub burst: u32,
}

/// The exact-match cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheConfig {
    /// Life of an entry, before the jitter of 10 %.
    pub ttl_ms: u64,
    /// Bytes of memory for entries of a pod, keys and overhead counted.
    pub memory_bytes: u64,
}

/// Memory of conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConversationConfig {
    /// Life of a conversation after its last turn.
    pub ttl_ms: u64,
    /// Messages kept and sent along.
    pub max_messages: u32,
}

impl Default for ConversationConfig {
    fn default() -> Self {
        Self { ttl_ms: 24 * 60 * 60 * 1000, max_messages: 20 }
    }
}

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

impl ServerConfig {
    /// Reads a mounted file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, &name),
            Err(source) => Err(ConfigError::Read { path: name, source }),
        }
    }

    /// Reads the text of a mounted file; `path` is for messages.
    pub fn parse(text: &str, path: &str) -> Result<Self, ConfigError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Form {
            format_version: u32,
        }
        let parse_error = |error: serde_json::Error| ConfigError::Parse {
            path: path.to_owned(),
            message: error.to_string(),
        };
        let form: Form = serde_json::from_str(text).map_err(parse_error)?;
        if form.format_version == 0 || form.format_version > FORMAT_VERSION {
            return Err(ConfigError::Format { path: path.to_owned(), found: form.format_version });
        }
        serde_json::from_str(text).map_err(parse_error)
    }

    /// The text of the file: indented JSON in the order of the fields, so that equal configurations are equal bytes.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The first 16 hex digits of the SHA-256 of everything but the generation, which rises with every edit of the
    /// spec, also with those that change nothing here.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut hashed = self.clone();
        hashed.identity.generation = 0;
        let digest = Sha256::digest(serde_json::to_vec(&hashed).unwrap_or_default());
        digest.iter().take(8).fold(String::with_capacity(16), |mut hex, byte| {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ServerConfig {
        ServerConfig {
            format_version: FORMAT_VERSION,
            identity: Identity {
                namespace: "chat".into(),
                name: "demo".into(),
                uid: "u-1".into(),
                generation: 3,
            },
            fixed: StaticConfig::default(),
            dynamic: DynamicConfig {
                model: "echo-1".into(),
                backend: BackendConfig::Echo {},
                defaults: RequestDefaults::default(),
                request_limit: Some(RequestLimit { requests: 60, period_seconds: 60, burst: 10 }),
                cache: None,
                conversations: ConversationConfig::default(),
                log_level: LogLevel::Info,
            },
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(ServerConfig::parse(&config().to_text(), "config.json").unwrap(), config());
    }

    #[test]
    fn fields_of_a_newer_operator_are_ignored() {
        let mut value = serde_json::to_value(config()).unwrap();
        value["dynamic"]["fromTheFuture"] = serde_json::json!({"a": 1});
        assert_eq!(ServerConfig::parse(&value.to_string(), "config.json").unwrap(), config());
    }

    #[test]
    fn a_newer_form_is_refused_with_what_to_do() {
        let mut newer = config();
        newer.format_version = FORMAT_VERSION + 1;
        let error = ServerConfig::parse(&newer.to_text(), "config.json").unwrap_err().to_string();
        assert!(error.contains("upgrade the server's image"), "{error}");
    }

    #[test]
    fn the_hash_changes_with_behaviour_and_not_with_the_generation() {
        let mut other = config();
        other.identity.generation += 1;
        assert_eq!(other.hash(), config().hash());
        other.dynamic.model = "echo-2".into();
        assert_ne!(other.hash(), config().hash());
    }
}
