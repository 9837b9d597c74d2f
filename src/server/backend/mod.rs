//! What answers. In: one upstream call, its body ready to send. Out: a whole answer, or a stream whose first event has
//! already parsed, or [`BackendError`], which says what the caller is told.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::HeaderValue;
use tokio::time::Instant;

use self::attempts::Marks;
use super::operation::Operation;

mod address;
pub mod attempts;
mod breaker;
pub mod connect;
pub mod echo;
mod events;
pub mod health;
mod http1;
pub mod openai;
mod pool;
mod refusal;
mod retry;
mod route;
pub mod tls;
pub mod upstreams;

/// One call to a backend.
#[derive(Clone)]
pub struct UpstreamRequest {
    /// What is asked for.
    pub operation: Operation,
    /// The JSON body as it goes upstream, byte for byte.
    pub body: Bytes,
    /// Whether the body asks for a stream.
    pub stream: bool,
    /// The end of the request's time: a call may be one of several for it.
    pub deadline: Deadline,
    /// To be set: `written` before the backend can have the request, `refused` as soon as it says that it did nothing.
    pub marks: Marks,
    /// Tells the backend which trace it belongs to.
    pub trace_parent: Option<HeaderValue>,
}

/// When a request's time is over, and how long it was, for the message.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    /// The end.
    pub at: Instant,
    /// From the request's begin to it.
    pub limit: Duration,
}

impl Deadline {
    /// Of a request that began then.
    #[must_use]
    pub fn new(begin: std::time::Instant, limit: Duration) -> Self {
        Self { at: Instant::from_std(begin) + limit, limit }
    }

    /// What is said when it has passed.
    #[must_use]
    pub fn passed(self) -> BackendError {
        BackendError::Timeout(self.limit)
    }
}

/// What a backend answered, with status 200.
pub enum UpstreamAnswer {
    /// A whole `chat.completion` object, or what else the operation is answered with.
    Complete {
        /// The body as it came.
        body: Bytes,
        /// The backend's own id of the call.
        request_id: Option<String>,
    },
    /// Events; the first is a JSON object without an error, those behind it are as they came.
    Stream {
        /// The `data` of each event, `[DONE]` left out. A stream that ends without `[DONE]` yields an error last.
        events: BoxStream<'static, Result<Bytes, BackendError>>,
        /// The backend's own id of the call.
        request_id: Option<String>,
    },
}

/// Why there is no answer, or no more of it. `docs/errors.md` has the table.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize, thiserror::Error)]
pub enum BackendError {
    /// 400, 404, 409, 422 and the like: the caller's request, told with the backend's own words.
    #[error("the backend refused the request with {status}: {message}")]
    Rejected {
        /// The backend's status.
        status: u16,
        /// Its message.
        message: String,
        /// Its `error.type`.
        kind: Option<String>,
        /// Its `error.param`.
        param: Option<String>,
        /// Its `error.code`.
        code: Option<String>,
    },
    /// 401 or 403: our key, not the caller's.
    #[error("the backend refused this service's own credentials")]
    Auth,
    /// 429 with `insufficient_quota`.
    #[error("the backend's quota of this service is spent")]
    QuotaExhausted,
    /// Another 429.
    #[error("the backend limits this service's requests")]
    RateLimited {
        /// Its `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// It says when it may be able to: a 503 with `Retry-After`, or the breaker is open.
    #[error("the backend is not available: {why}")]
    Overloaded {
        /// What it said.
        why: String,
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// 5xx, refused, reset before an answer.
    #[error("the backend is not available: {0}")]
    Unavailable(String),
    /// One of our deadlines passed.
    #[error("the backend did not answer within {0:?}")]
    Timeout(Duration),
    /// It answered 200 with something that is not an answer, or its stream broke.
    #[error("the backend's answer is broken: {0}")]
    Broken(String),
    /// The key may not be sent to this host, or there is none yet.
    #[error("{0}")]
    NotConfigured(String),
}

/// What answers.
pub trait Backend: Send + Sync {
    /// Makes one call. Dropping the future or the stream cancels the call.
    fn call(&self, request: UpstreamRequest) -> BoxFuture<'_, Result<UpstreamAnswer, BackendError>>;
}
