//! `ServerConfig`: the contract between the planes. The operator writes it into a ConfigMap, the server parses it.
//! In: `controller::validate` (from a ChatService) or the environment. Out: everything a server needs to know.
//!
//! What is under [`ServerConfig::fixed`] changes the pod; what is under [`ServerConfig::dynamic`] only changes
//! behaviour. Durations and sizes are plain integers with the unit in the name.
//! [`super::config_file`] reads the file.

use std::fmt::Write as _;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::constants::drain;
use crate::crd::{
    BudgetPeriod, CacheScope, LimitMode, LogFormat, LogLevel, MaxTokensField, OnStoreFailure, Per,
};

mod callers;

pub use callers::{AuthConfig, CallerConfig, ServiceAccountsConfig, SigningKey, TokenIssuer};

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

/// What changes the pod: what is mounted, and what is made once at the start. A new field is left out of the file while it
/// has its default: see [`ServerConfig::static_hash`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StaticConfig {
    /// Name of the Secret with the backend's key, for messages; its files are in `mount::CREDENTIALS_DIR`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret: Option<String>,
    /// Name of the Secret with the Redis address, for messages; its files are in `mount::REDIS_DIR`. None: memory store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_secret: Option<String>,
    /// Name of the ConfigMap with the backend's certificate authority, for messages; its file is in `mount::CA_DIR`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_config_map: Option<String>,
    /// Name of the Secret with callers' API keys, for messages; its files are in `mount::API_KEYS_DIR`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_keys_secret: Option<String>,
    /// Name of the Secret with the API's certificate, for messages; its files are in `mount::TLS_DIR`. None: plain HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_secret: Option<String>,
    /// Where traces go, an OTLP endpoint over HTTP. The exporter is made once, at the start. None: no traces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
    /// Form of the log. A subscriber is installed once, so it is fixed for the life of the process.
    #[serde(default)]
    pub log_format: LogFormat,
    /// From SIGTERM to SIGKILL, in seconds: the pod's `terminationGracePeriodSeconds`.
    #[serde(default = "default_grace_seconds", skip_serializing_if = "is_default_grace")]
    pub grace_seconds: u32,
}

impl Default for StaticConfig {
    fn default() -> Self {
        Self {
            credentials_secret: None,
            redis_secret: None,
            ca_config_map: None,
            api_keys_secret: None,
            tls_secret: None,
            otlp_endpoint: None,
            log_format: LogFormat::default(),
            grace_seconds: drain::DEFAULT_GRACE_SECONDS,
        }
    }
}

fn default_grace_seconds() -> u32 {
    drain::DEFAULT_GRACE_SECONDS
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_default_grace(seconds: &u32) -> bool {
    *seconds == drain::DEFAULT_GRACE_SECONDS
}

/// What only changes behaviour.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DynamicConfig {
    /// The model of a request that names none; one of [`Self::models`].
    pub model: String,
    /// What callers may ask for, in the order of the spec; never empty.
    pub models: Vec<ModelConfig>,
    /// What answers.
    pub backend: BackendConfig,
    /// How long each part of a call to it may take.
    #[serde(default)]
    pub timeouts: TimeoutConfig,
    /// Calls made for one request at most, the first one counted. At least 1.
    #[serde(default = "default_attempts")]
    pub max_attempts: u32,
    /// What fills requests.
    pub defaults: RequestDefaults,
    /// How much may be asked. Everything None: no limit.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// How much money may be spent. None: no budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetConfig>,
    /// The cache. None: off, and no coalescing either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheConfig>,
    /// How callers prove who they are. None: the service is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthConfig>,
    /// Proxies whose `X-Forwarded-For` is believed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<IpNet>,
    /// Conversations.
    pub conversations: ConversationConfig,
    /// Origins whose pages may ask, as browsers write them, or `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cors_origins: Vec<String>,
    /// Whether `/playground` is there.
    #[serde(default = "yes")]
    pub playground: bool,
    /// Level of the log.
    #[serde(default)]
    pub log_level: LogLevel,
}

fn yes() -> bool {
    true
}

impl DynamicConfig {
    /// One model of one backend, everything else at its default: no limits, no cache.
    #[must_use]
    pub fn new(model: &str, backend: BackendConfig) -> Self {
        Self {
            model: model.to_owned(),
            models: vec![ModelConfig::named(model)],
            backend,
            timeouts: TimeoutConfig::default(),
            max_attempts: DEFAULT_ATTEMPTS,
            defaults: RequestDefaults::default(),
            limits: LimitsConfig::default(),
            budget: None,
            cache: None,
            auth: None,
            trusted_proxies: Vec::new(),
            conversations: ConversationConfig::default(),
            cors_origins: Vec::new(),
            playground: true,
            log_level: LogLevel::default(),
        }
    }
}

/// `spec.retries.maxAttempts` when it is left out.
pub const DEFAULT_ATTEMPTS: u32 = 3;

fn default_attempts() -> u32 {
    DEFAULT_ATTEMPTS
}

/// A model that callers may ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelConfig {
    /// What callers call it.
    pub name: String,
    /// What the backend calls it. None: the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_model: Option<String>,
    /// Its price. None: that of the built-in table, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<PriceConfig>,
    /// Most tokens of an answer, where it is known; reserved for a budget, and then sent upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
    /// Names of models that are tried in this order when this one has no answer. Never leads back to one already tried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallbacks: Vec<String>,
    /// What the output cap is called. None: `max_completion_tokens` for api.openai.com, else `max_tokens`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens_field: Option<MaxTokensField>,
    /// Members of a request that this model refuses and that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub omit: Vec<String>,
}

impl ModelConfig {
    /// A model of which nothing but the name is said.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }
}

/// A price in decimals of USD for a million tokens, as the spec has it: `"0.15"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PriceConfig {
    /// Of the prompt.
    pub input_per_million_tokens: String,
    /// Of the answer.
    pub output_per_million_tokens: String,
}

/// How long each part of a call may take, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TimeoutConfig {
    /// Name resolution, TCP and TLS together.
    pub connect_ms: u64,
    /// Streams: from the call to the first event.
    pub first_token_ms: u64,
    /// Streams: from one event to the next, while somebody waits for it.
    pub idle_ms: u64,
    /// The whole request: its attempts together, streams too.
    pub request_ms: u64,
}

impl Default for TimeoutConfig {
    fn default() -> Self {
        Self { connect_ms: 1000, first_token_ms: 120_000, idle_ms: 60_000, request_ms: 600_000 }
    }
}

/// How much may be asked. What is None is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitsConfig {
    /// Requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<RequestLimit>,
    /// Tokens a minute: the size of a bucket that refills evenly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u32>,
    /// Requests at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent_requests: Option<u32>,
    /// Who has these limits.
    #[serde(default)]
    pub per: Per,
    /// What holds while Redis is away.
    #[serde(default)]
    pub on_store_failure: OnStoreFailure,
    /// Whether they are enforced.
    #[serde(default)]
    pub mode: LimitMode,
}

/// How much money may be spent in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BudgetConfig {
    /// Billionths of a USD.
    pub amount_nano_usd: u64,
    /// The period, of the calendar in UTC.
    pub period: BudgetPeriod,
    /// Who has this budget.
    pub per: Per,
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
        /// The proxy that calls go through. None: none, whatever the environment says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        proxy_url: Option<String>,
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
    /// Whose equal requests share an answer.
    #[serde(default, skip_serializing_if = "CacheScope::is_default")]
    pub scope: CacheScope,
}

/// Memory of conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConversationConfig {
    /// Life of a conversation after its last turn.
    pub ttl_ms: u64,
    /// Messages kept and sent along.
    pub max_messages: u32,
    /// Tokens of them all, estimated. None: not bounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
}

impl Default for ConversationConfig {
    fn default() -> Self {
        Self { ttl_ms: 24 * 60 * 60 * 1000, max_messages: 20, max_tokens: None }
    }
}

impl ServerConfig {
    /// The text of the file: indented JSON in the order of the fields, so that equal configurations are equal bytes.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Names what the file says: the first 16 hex digits of the SHA-256 of everything but the generation, which rises
    /// with every edit of the spec, also with those that change nothing here.
    #[must_use]
    pub fn hash(&self) -> String {
        hash_of(serde_json::to_value(self).unwrap_or_default())
    }

    /// What pods are made for, an annotation of their template: a hash of what only a new pod can take up. Nothing of the
    /// operator is in it, or its upgrade would replace pods whose image the spec names.
    #[must_use]
    pub fn static_hash(&self) -> String {
        digest(&serde_json::to_value(&self.fixed).unwrap_or_default())
    }
}

/// [`ServerConfig::hash`] of a file's JSON. Fields that this build does not know count as well, so that a server that
/// is older than the operator names a file as the operator does.
pub(super) fn hash_of(mut file: serde_json::Value) -> String {
    if let Some(generation) = file.pointer_mut("/identity/generation") {
        *generation = 0.into();
    }
    digest(&file)
}

/// The first 16 hex digits of the SHA-256 of a value as JSON.
fn digest(value: &serde_json::Value) -> String {
    let digest = Sha256::digest(serde_json::to_vec(value).unwrap_or_default());
    digest.iter().take(8).fold(String::with_capacity(16), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
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
            dynamic: DynamicConfig::new("echo-1", BackendConfig::Echo {}),
        }
    }

    #[test]
    fn the_hash_changes_with_behaviour_and_not_with_the_generation() {
        let mut other = config();
        other.identity.generation += 1;
        assert_eq!(other.hash(), config().hash());
        other.dynamic.model = "echo-2".into();
        assert_ne!(other.hash(), config().hash());
    }

    #[test]
    fn the_static_hash_changes_with_what_only_a_new_pod_takes_up() {
        let mut other = config();
        other.dynamic.model = "echo-2".into();
        other.dynamic.log_level = LogLevel::Debug;
        other.identity.uid = "u-2".into();
        assert_eq!(other.static_hash(), config().static_hash());
        let changes: [fn(&mut StaticConfig); 8] = [
            |fixed| fixed.tls_secret = Some("tls".into()),
            |fixed| fixed.grace_seconds = 90,
            |fixed| fixed.credentials_secret = Some("openai".into()),
            |fixed| fixed.redis_secret = Some("redis".into()),
            |fixed| fixed.ca_config_map = Some("private-ca".into()),
            |fixed| fixed.api_keys_secret = Some("keys".into()),
            |fixed| fixed.otlp_endpoint = Some("http://otel:4318".into()),
            |fixed| fixed.log_format = LogFormat::Text,
        ];
        for change in changes {
            let mut other = config();
            change(&mut other.fixed);
            assert_ne!(other.static_hash(), config().static_hash());
        }
    }

    /// Pods of an older operator carry it: a build that computes another one replaces them all.
    #[test]
    fn the_static_hash_of_a_spec_is_the_same_in_every_version() {
        assert_eq!(config().static_hash(), "81639c8d0c441758");
    }
}
