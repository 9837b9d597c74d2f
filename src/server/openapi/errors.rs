//! The errors of each operation. In: its path and method. Out: a response for each status, with an example for each code
//! that is the very body which the server sends.

use std::time::Duration;

use utoipa::openapi::path::{HttpMethod, Operation};
use utoipa::openapi::{Content, Ref, RefOr, Response};

use super::put;
use crate::server::auth::Refusal;
use crate::server::backend::BackendError;
use crate::server::error::{ApiError, Dialect};
use crate::server::routes::input::{MAX_BODY, invalid, unsupported};

/// What an operation does, as far as its errors go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Says something of the server.
    Service,
    /// Asks a model.
    Ask,
    /// Reads or erases what is stored.
    Stored,
    /// Says something of the models.
    Models,
}

impl Kind {
    pub(super) fn of(path: &str, method: &HttpMethod) -> Self {
        match (path, method) {
            (_, HttpMethod::Post) => Self::Ask,
            ("/" | "/health", _) => Self::Service,
            (path, _) if path.starts_with("/v1/models") => Self::Models,
            _ => Self::Stored,
        }
    }
}

/// Adds the errors.
pub(super) fn describe(path: &str, kind: Kind, operation: &mut Operation) {
    let dialect = Dialect::of(path);
    let schema = match dialect {
        Dialect::Simple => "SimpleError",
        Dialect::OpenAi => "OpenAiError",
    };
    for error in errors(path, kind, dialect) {
        let status = error.status(dialect).as_u16();
        let body = error.body(dialect);
        let code = body["error"]["code"].as_str().or(body["error"].as_str()).unwrap_or("error").to_owned();
        let response = operation.responses.responses.entry(status.to_string());
        let response = response.or_insert_with(|| RefOr::T(Response::new(means(status))));
        let RefOr::T(response) = response else { continue };
        let json = response.content.entry("application/json".to_owned());
        let json = json.or_insert_with(|| RefOr::T(Content::new(Some(Ref::from_schema_name(schema)))));
        if let RefOr::T(json) = json {
            put(json, &code, when(&error), body);
        }
    }
}

fn means(status: u16) -> &'static str {
    match status {
        400 => "What is asked is not JSON, not allowed or not supported",
        401 => "The service asks who calls, and nobody known does",
        403 => "The caller is known and may not ask here",
        404 => "What is named does not exist here",
        409 => "The request met another one at the backend",
        413 => "The body is too large",
        415 => "The body is not sent as JSON",
        422 => "A field is not allowed",
        429 => "A limit is reached",
        502 => "The backend's answer cannot be used",
        503 => "Not available just now",
        504 => "The backend took too long",
        _ => "An error",
    }
}

/// Every error that an operation can end with for a reason of its own.
fn errors(path: &str, kind: Kind, dialect: Dialect) -> Vec<ApiError> {
    let half = Duration::from_millis(500);
    let mut errors = match kind {
        Kind::Service => return Vec::new(),
        Kind::Models => vec![ApiError::NotReady],
        Kind::Stored => vec![ApiError::StoreUnavailable],
        Kind::Ask => vec![
            ApiError::BadJson("expected a key in double quotes at byte 1".to_owned()),
            missing(path),
            ApiError::PayloadTooLarge { limit: MAX_BODY },
            ApiError::UnsupportedMediaType,
            ApiError::BudgetSpent { budget: "25.00 USD a month".to_owned() },
            ApiError::Backend(conflict()),
            ApiError::Backend(BackendError::Auth),
            ApiError::Backend(BackendError::Broken("it is not a JSON object".to_owned())),
            ApiError::Backend(BackendError::QuotaExhausted),
            ApiError::Backend(BackendError::Unavailable("it answered with status 500".to_owned())),
            ApiError::Overloaded { retry_after: half },
            ApiError::Backend(BackendError::Timeout(Duration::from_mins(10))),
        ],
    };
    if matches!(path, "/v1/models/{model}") || kind == Kind::Ask {
        errors.push(ApiError::ModelNotFound { model: "no-such-model".to_owned() });
    }
    match path {
        "/v1/responses" => errors.extend([
            unsupported("background", "leave it out; what is supported is described at /docs"),
            ApiError::PreviousResponseNotFound,
            ApiError::ItemNotFound { id: "msg_9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a690001".to_owned() },
        ]),
        "/v1/responses/{id}/input_items" => {
            errors.extend([ApiError::ResponseNotFound, invalid("limit", "a whole number from 1 to 100")]);
        }
        "/v1/responses/{id}" => errors.push(ApiError::ResponseNotFound),
        _ if dialect == Dialect::Simple => errors.push(ApiError::ConversationNotFound),
        _ => {}
    }
    errors.push(Refusal::Missing.into());
    errors.push(Refusal::NotAllowed { account: "shop/web".to_owned() }.into());
    let limit = "60 requests per 60 s".to_owned();
    errors.push(ApiError::RateLimited { limit, retry_after: half });
    errors
}

/// A backend's refusal, as an example of those that are told in its own words.
fn conflict() -> BackendError {
    BackendError::Rejected {
        status: 409,
        message: "another request is at work on this".to_owned(),
        kind: Some("invalid_request_error".to_owned()),
        param: None,
        code: Some("conflict".to_owned()),
    }
}

/// What is said of the body `{}`.
fn missing(path: &str) -> ApiError {
    let (field, allowed) = match path {
        "/v1/chat/completions" => ("messages", "an array of at least one message object, each with a `role`"),
        "/v1/embeddings" => (
            "input",
            "a text, an array of texts, an array of tokens or an array of arrays of tokens, and not empty",
        ),
        "/v1/responses" => ("input", "a string, or an array of at least one item"),
        _ => ("message", "a string of 1 to 5000 characters"),
    };
    invalid(field, allowed)
}

/// When it is met, in a few words.
fn when(error: &ApiError) -> &'static str {
    match error {
        ApiError::BadJson(_) => "Not JSON",
        ApiError::InvalidField { .. } => "A field is missing or not allowed",
        ApiError::ModelNotFound { .. } => "No such model",
        ApiError::ConversationNotFound => "No such conversation, or not any more",
        ApiError::PayloadTooLarge { .. } => "Over 16 MiB",
        ApiError::UnsupportedMediaType => "Another Content-Type, or compressed",
        ApiError::RateLimited { .. } => "Too many requests or tokens",
        ApiError::BudgetSpent { .. } => "The budget is used up: x-should-retry is false",
        ApiError::Overloaded { .. } => "More at once than the server answers",
        ApiError::NotLetIn(Refusal::NotAllowed { .. }) => "A ServiceAccount that is not on the list",
        ApiError::NotLetIn(_) => "No key or token, or one that is not valid here",
        ApiError::NotReady => "The server has just started, or a Secret is missing",
        ApiError::UnsupportedParameter { .. } => "A field of OpenAI's API that this service does not have",
        ApiError::ResponseNotFound => "No such response, or not any more",
        ApiError::PreviousResponseNotFound => "No such response to go on from",
        ApiError::ItemNotFound { .. } => "No such item to refer to",
        ApiError::StoreUnavailable => "The store is away",
        ApiError::Backend(BackendError::Rejected { .. }) => {
            "The backend refuses the request, and is told in its own words: so also its 400, 404, 413 and 422"
        }
        ApiError::Backend(BackendError::Auth) => {
            "The backend refuses the service's key: no fault of the caller"
        }
        ApiError::Backend(BackendError::Broken(_)) => "The backend answers with something else",
        ApiError::Backend(BackendError::QuotaExhausted) => {
            "The service's own quota at the backend is used up"
        }
        ApiError::Backend(BackendError::Timeout(_)) => "The backend does not answer in time",
        ApiError::Backend(_) => "The backend cannot be reached, or fails",
        _ => "An error",
    }
}
