//! Every error a caller can meet, and the one table of what it looks like in each dialect.
//! In: a failure anywhere in the data path. Out: a status, headers and a body in the dialect of the endpoint, or the
//! event that ends a stream.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::auth::Refusal;
use super::backend::BackendError;
use super::responses::STORED_MAX;
use crate::constants;

/// Which API an endpoint speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `/api/v1`.
    Simple,
    /// `/v1`.
    OpenAi,
}

impl Dialect {
    /// The dialect of a path, also of one that does not exist.
    #[must_use]
    pub fn of(path: &str) -> Self {
        let openai = path.starts_with(constants::path::OPENAI_PREFIX)
            || path == constants::path::OPENAI_PREFIX.trim_end_matches('/');
        if openai { Self::OpenAi } else { Self::Simple }
    }
}

/// Why a caller gets no answer. Messages name the field, what is allowed and what to do; none holds a prompt or a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The body is not JSON as we accept it.
    #[error("the request body is not valid JSON: {0}")]
    BadJson(String),
    /// The body is JSON, a field of it is not allowed.
    #[error("{message}")]
    InvalidField {
        /// Path of the field, such as `messages[0].content`.
        field: String,
        /// What is allowed.
        message: String,
    },
    /// The API has this field, and this service cannot do what it asks for.
    #[error("{message}")]
    UnsupportedParameter {
        /// Path of the field, such as `tools[0].type`.
        field: String,
        /// What to do instead.
        message: String,
    },
    /// The model is not one of this service's.
    #[error("the model `{model}` does not exist here; GET /v1/models lists those that do")]
    ModelNotFound {
        /// What was asked for.
        model: String,
    },
    /// Unknown, expired, or somebody else's.
    #[error("there is no such conversation: leave conversation_id out to begin one")]
    ConversationNotFound,
    /// Unknown, expired, not stored, or somebody else's.
    #[error("there is no such response: {}", not_stored())]
    ResponseNotFound,
    /// The same of the one to go on from.
    #[error(
        "the previous response was not found: {}; send what was said so far as `input` instead",
        not_stored()
    )]
    PreviousResponseNotFound,
    /// The same of the item that one refers to.
    #[error("Item with id {id} not found: {}; send the item itself instead", not_stored())]
    ItemNotFound {
        /// Its id.
        id: String,
    },
    /// Who sends it is not let in.
    #[error(transparent)]
    NotLetIn(#[from] Refusal),
    /// `Host` is missing, there twice, or not a host.
    #[error("{0}")]
    BadHost(&'static str),
    /// It is no request of HTTP, or its head is over a limit.
    #[error("{message}")]
    BadHead {
        /// Which status that is.
        status: StatusCode,
        /// What is wrong.
        message: &'static str,
    },
    /// No such path.
    #[error("there is nothing at this path: GET /docs describes the API")]
    NotFound,
    /// The path exists, not with this method.
    #[error("this path does not answer this method: the Allow header lists those it does")]
    MethodNotAllowed,
    /// The body is over the limit.
    #[error("the request body is larger than {limit} bytes")]
    PayloadTooLarge {
        /// The limit.
        limit: usize,
    },
    /// Not JSON by its header, or encoded.
    #[error("send the body as Content-Type: application/json, without Content-Encoding")]
    UnsupportedMediaType,
    /// A limit of this service.
    #[error("the limit of {limit} is reached: try again in {} s", retry_after.as_secs_f64().ceil())]
    RateLimited {
        /// Which, in words: `60 requests per 60 s`.
        limit: String,
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// What is spent leaves too little for this request.
    #[error(
        "the budget of {budget} does not cover this request any more: a smaller request may still fit, and the budget begins anew with the next period (UTC)"
    )]
    BudgetSpent {
        /// In words: `25.00 USD a month`.
        budget: String,
    },
    /// Whether a limit is reached cannot be found out, and then nothing is to be admitted.
    #[error("the limits of this service cannot be checked now: try again in {} s", retry_after.as_secs())]
    LimitsUnknown {
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// More at once than this server takes.
    #[error("this server is busy: try again in {} s", retry_after.as_secs())]
    Overloaded {
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// The process is about to end.
    #[error("this server is shutting down: try again, another one answers")]
    ShuttingDown,
    /// The configuration is not complete yet: a Secret is missing.
    #[error("this server is not ready: its status says what is missing")]
    NotReady,
    /// What is asked for is in the store, and it is away.
    #[error("what this service stores cannot be reached just now: try again in 1 s")]
    StoreUnavailable,
    /// `Cache-Control: only-if-cached` and it is not.
    #[error("no stored answer fits, and the request says only-if-cached")]
    NotCached,
    /// The client sent too slowly, or the request is not HTTP as we accept it.
    #[error("the request body did not arrive in time")]
    RequestTimeout,
    /// The backend.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A fault of ours; the log has more under the request id.
    #[error("an internal error: the log of the server has more under this request's id")]
    Internal,
}

/// One row of the table.
struct Row {
    status: StatusCode,
    /// `error` of the simple dialect.
    simple: &'static str,
    /// `error.type` of OpenAI's.
    kind: &'static str,
    /// `error.code` of OpenAI's.
    code: Option<&'static str>,
    /// Whether another try can help; SDKs would retry 429 and 5xx by themselves.
    retry: bool,
}

const fn row(
    status: StatusCode,
    simple: &'static str,
    kind: &'static str,
    code: Option<&'static str>,
    retry: bool,
) -> Row {
    Row { status, simple, kind, code, retry }
}

const REQUEST: &str = "invalid_request_error";
const SERVER: &str = "server_error";

impl ApiError {
    fn row(&self, dialect: Dialect) -> Row {
        use StatusCode as S;
        match self {
            Self::BadJson(_) => row(S::BAD_REQUEST, "invalid_json", REQUEST, Some("invalid_json"), false),
            Self::InvalidField { .. } => {
                let status =
                    if dialect == Dialect::Simple { S::UNPROCESSABLE_ENTITY } else { S::BAD_REQUEST };
                row(status, "validation_error", REQUEST, Some("invalid_value"), false)
            }
            Self::UnsupportedParameter { .. } => {
                row(S::BAD_REQUEST, "unsupported_parameter", REQUEST, Some("unsupported_parameter"), false)
            }
            Self::ModelNotFound { .. } => {
                row(S::NOT_FOUND, "model_not_found", REQUEST, Some("model_not_found"), false)
            }
            Self::ConversationNotFound => {
                row(S::NOT_FOUND, "conversation_not_found", REQUEST, Some("conversation_not_found"), false)
            }
            Self::ResponseNotFound => {
                row(S::NOT_FOUND, "response_not_found", REQUEST, Some("response_not_found"), false)
            }
            Self::PreviousResponseNotFound => row(
                S::NOT_FOUND,
                "previous_response_not_found",
                REQUEST,
                Some("previous_response_not_found"),
                false,
            ),
            Self::ItemNotFound { .. } => {
                row(S::NOT_FOUND, "item_not_found", REQUEST, Some("item_not_found"), false)
            }
            Self::NotLetIn(Refusal::NotAllowed { .. }) => {
                row(S::FORBIDDEN, "caller_not_allowed", REQUEST, Some("caller_not_allowed"), false)
            }
            Self::BadHost(_) => row(S::BAD_REQUEST, "invalid_host", REQUEST, Some("invalid_host"), false),
            Self::BadHead { status, .. } => {
                let code = match *status {
                    S::REQUEST_HEADER_FIELDS_TOO_LARGE => "headers_too_large",
                    S::URI_TOO_LONG => "uri_too_long",
                    _ => "bad_request",
                };
                row(*status, code, REQUEST, Some(code), false)
            }
            Self::NotFound => row(S::NOT_FOUND, "not_found", REQUEST, Some("unknown_url"), false),
            Self::MethodNotAllowed => {
                row(S::METHOD_NOT_ALLOWED, "method_not_allowed", REQUEST, Some("method_not_supported"), false)
            }
            Self::PayloadTooLarge { .. } => {
                row(S::PAYLOAD_TOO_LARGE, "payload_too_large", REQUEST, Some("payload_too_large"), false)
            }
            Self::UnsupportedMediaType => row(
                S::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                REQUEST,
                Some("unsupported_media_type"),
                false,
            ),
            Self::RateLimited { .. } | Self::NotLetIn(Refusal::Shut { .. }) => row(
                S::TOO_MANY_REQUESTS,
                "rate_limit_exceeded",
                "requests",
                Some("rate_limit_exceeded"),
                true,
            ),
            // One code for all: it is the one that SDKs know.
            Self::NotLetIn(_) => {
                row(S::UNAUTHORIZED, "invalid_api_key", REQUEST, Some("invalid_api_key"), false)
            }
            Self::BudgetSpent { .. } => row(
                S::TOO_MANY_REQUESTS,
                "insufficient_quota",
                "insufficient_quota",
                Some("insufficient_quota"),
                false,
            ),
            Self::LimitsUnknown { .. } => {
                row(S::SERVICE_UNAVAILABLE, "limits_unavailable", SERVER, Some("limits_unavailable"), true)
            }
            Self::Overloaded { .. } => {
                row(S::SERVICE_UNAVAILABLE, "overloaded", SERVER, Some("overloaded"), true)
            }
            Self::ShuttingDown => {
                row(S::SERVICE_UNAVAILABLE, "shutting_down", SERVER, Some("shutting_down"), true)
            }
            Self::NotReady => row(S::SERVICE_UNAVAILABLE, "not_ready", SERVER, Some("not_ready"), true),
            Self::StoreUnavailable => {
                row(S::SERVICE_UNAVAILABLE, "store_unavailable", SERVER, Some("store_unavailable"), true)
            }
            Self::NotCached => row(S::GATEWAY_TIMEOUT, "not_cached", REQUEST, Some("not_cached"), false),
            Self::RequestTimeout => {
                row(S::REQUEST_TIMEOUT, "request_timeout", REQUEST, Some("request_timeout"), true)
            }
            Self::Backend(error) => error.row(),
            Self::Internal => row(S::INTERNAL_SERVER_ERROR, "internal_error", SERVER, None, true),
        }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self, dialect: Dialect) -> StatusCode {
        self.row(dialect).status
    }

    /// The stable code, as the simple dialect, the log and the metrics have it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.row(Dialect::Simple).simple
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. }
            | Self::NotLetIn(Refusal::Shut { retry_after })
            | Self::Overloaded { retry_after }
            | Self::LimitsUnknown { retry_after }
            | Self::Backend(BackendError::Overloaded { retry_after, .. }) => Some(*retry_after),
            Self::StoreUnavailable => Some(Duration::from_secs(1)),
            Self::Backend(BackendError::RateLimited { retry_after }) => {
                Some(retry_after.unwrap_or(Duration::from_secs(1)))
            }
            _ => None,
        }
    }

    /// The body: what a plain request gets, and what a stream's last event holds.
    #[must_use]
    pub fn body(&self, dialect: Dialect) -> Value {
        let row = self.row(dialect);
        match dialect {
            Dialect::Simple => {
                let mut body = json!({ "error": row.simple, "message": self.to_string() });
                if let Self::InvalidField { field, .. } = self {
                    body["details"] = json!({ "field": field });
                }
                if let Some(after) = self.retry_after() {
                    body["retry_after"] = json!(whole_seconds(after));
                }
                body
            }
            Dialect::OpenAi => {
                let (mut kind, mut code, mut param) = (json!(row.kind), json!(row.code), Value::Null);
                let mut message = self.to_string();
                match self {
                    Self::InvalidField { field, .. } | Self::UnsupportedParameter { field, .. } => {
                        param = json!(field);
                    }
                    Self::PreviousResponseNotFound => param = json!("previous_response_id"),
                    Self::ItemNotFound { .. } => param = json!("input"),
                    Self::ModelNotFound { .. } => param = json!("model"),
                    Self::Backend(BackendError::Rejected {
                        kind: k, code: c, param: p, message: m, ..
                    }) => {
                        // The backend's own words: SDK users match on them.
                        message.clone_from(m);
                        kind = k.as_ref().map_or(kind, |k| json!(k));
                        code = json!(c);
                        param = json!(p);
                    }
                    _ => {}
                }
                json!({ "error": { "message": message, "type": kind, "param": param, "code": code } })
            }
        }
    }

    /// The whole response.
    #[must_use]
    pub fn into_response(self, dialect: Dialect) -> Response {
        let row = self.row(dialect);
        let mut response = (row.status, axum::Json(self.body(dialect))).into_response();
        let headers = response.headers_mut();
        if let Some(after) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(after)));
            let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            headers.insert(constants::header::RETRY_AFTER_MS, HeaderValue::from(millis));
        }
        let retried = row.status.is_server_error() || row.status == StatusCode::TOO_MANY_REQUESTS;
        if retried && !row.retry {
            headers.insert(constants::header::SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if row.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // Read by the access log and the metrics, which see only the response.
        response.extensions_mut().insert(ErrorCode(row.simple));
        response
    }
}

/// The error's code of the simple dialect, in the extensions of an error response.
#[derive(Clone, Copy, Debug)]
pub struct ErrorCode(pub &'static str);

/// The code of the error that ended a stream: its response has left with status 200 by then, so the access log learns of
/// it through this, which the response's extensions and the relay share.
#[derive(Clone, Debug, Default)]
pub struct StreamFault(Arc<OnceLock<&'static str>>);

impl StreamFault {
    /// The stream ends with this.
    pub fn tell(&self, error: &ApiError) {
        // Only the first counts; there is never a second.
        let _ = self.0.set(error.code());
    }

    /// What it ended with, if it did.
    #[must_use]
    pub fn code(&self) -> Option<&'static str> {
        self.0.get().copied()
    }
}

/// Why a response may not be there. Somebody else's is not told from one that never was.
fn not_stored() -> String {
    format!(
        "it has expired or been deleted, its id is another, or it was never stored: because of `store: false`, or because it is larger \
         than {} MiB with all that was said before, and then its `store` is false too",
        STORED_MAX >> 20
    )
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

impl BackendError {
    fn row(&self) -> Row {
        use StatusCode as S;
        match self {
            Self::Rejected { status, .. } => {
                let status = StatusCode::from_u16(*status).unwrap_or(S::BAD_REQUEST);
                row(status, "backend_rejected", REQUEST, None, false)
            }
            Self::Auth => {
                row(S::BAD_GATEWAY, "backend_auth_failed", SERVER, Some("backend_auth_failed"), false)
            }
            Self::QuotaExhausted => row(
                S::SERVICE_UNAVAILABLE,
                "backend_quota_exhausted",
                SERVER,
                Some("backend_quota_exhausted"),
                false,
            ),
            Self::RateLimited { .. } => row(
                S::TOO_MANY_REQUESTS,
                "backend_rate_limited",
                "requests",
                Some("rate_limit_exceeded"),
                true,
            ),
            Self::Unavailable(_) | Self::Overloaded { .. } => {
                row(S::SERVICE_UNAVAILABLE, "backend_unavailable", SERVER, Some("backend_unavailable"), true)
            }
            Self::Timeout(_) => {
                row(S::GATEWAY_TIMEOUT, "backend_timeout", SERVER, Some("backend_timeout"), true)
            }
            Self::Broken(_) => row(
                S::BAD_GATEWAY,
                "backend_invalid_response",
                SERVER,
                Some("backend_invalid_response"),
                true,
            ),
            Self::NotConfigured(_) => row(
                S::SERVICE_UNAVAILABLE,
                "backend_not_configured",
                SERVER,
                Some("backend_not_configured"),
                false,
            ),
        }
    }

    /// Label `status` of `openai_api_calls_total`.
    #[must_use]
    pub fn label(&self) -> &'static str {
        self.row().simple
    }
}
