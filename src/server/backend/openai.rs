//! Any OpenAI-compatible API. In: a request body, sent as it is. Out: the answer, or the error that its status, its
//! silence or its stream means.

use std::time::Duration;

use futures::future::BoxFuture;
use secrecy::SecretString;

use super::{Backend, BackendError, UpstreamAnswer, UpstreamRequest};

/// The host that a key may be sent to when its owner named none.
pub const DEFAULT_ALLOWED_HOST: &str = "api.openai.com";

/// How long each part of a call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Name resolution, TCP and TLS together.
    pub connect: Duration,
    /// Streams: from the call to the first event.
    pub first_token: Duration,
    /// Streams: from one event to the next, while somebody waits for it.
    pub idle: Duration,
    /// The whole call, streams too.
    pub request: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            first_token: Duration::from_secs(120),
            idle: Duration::from_secs(60),
            request: Duration::from_secs(600),
        }
    }
}

/// What [`OpenAi`] needs to know.
#[derive(Clone, Debug)]
pub struct OpenAiOptions {
    /// The URL in front of `/chat/completions`.
    pub base_url: String,
    /// The key; None: calls carry no Authorization.
    pub api_key: Option<SecretString>,
    /// Hosts that the key may be sent to; without any, [`DEFAULT_ALLOWED_HOST`] alone. Loopback inside a cluster is
    /// called only when it is named here.
    pub allowed_hosts: Vec<String>,
    /// Whether this runs in a cluster, where loopback is the pod itself.
    pub in_cluster: bool,
    /// Deadlines.
    pub timeouts: Timeouts,
}

/// Why options were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// The base URL is not one.
    #[error("the base URL {0}")]
    BaseUrl(String),
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

/// An OpenAI-compatible API.
pub struct OpenAi {
    options: OpenAiOptions,
}

impl OpenAi {
    /// Checks the options and prepares a client; nothing is dialled.
    pub fn new(options: OpenAiOptions) -> Result<Self, OptionsError> {
        Ok(Self { options })
    }
}

impl Backend for OpenAi {
    fn call(&self, _request: UpstreamRequest) -> BoxFuture<'_, Result<UpstreamAnswer, BackendError>> {
        Box::pin(async { Err(BackendError::Unavailable(self.options.base_url.clone())) })
    }
}
