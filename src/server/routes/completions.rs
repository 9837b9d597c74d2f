//! The OpenAI dialect's `POST /v1/chat/completions`. In: a body that is forwarded byte for byte but for the members
//! named in [`prepare`]. Out: the backend's answer, plain or as events.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::input::{From, cache_control, field, invalid, read_json};
use crate::server::error::{ApiError, Dialect};
use crate::server::estimate::MOST_CHOICES;
use crate::server::exchange::{self, Ask, Keep};
use crate::server::json::{self, Edit, Object};
use crate::server::models::Model;
use crate::server::outcome::{self, Answer};
use crate::server::state::{AppState, Live};
use crate::server::upstream_body::{NotTokens, output_cap};

/// A chat completion request. Fields that are not listed go to the backend unchanged.
#[derive(ToSchema)]
#[schema(example = json!({"model": "echo-1", "messages": [{"role": "user", "content": "Hello, how are you?"}]}))]
#[expect(dead_code, reason = "the body is forwarded as bytes; this is its description")]
pub struct ChatCompletionRequest {
    /// A model of this service. Default: the service's.
    model: Option<String>,
    /// The conversation so far, at least one message.
    #[schema(min_items = 1)]
    messages: Vec<serde_json::Value>,
    /// Answer as server-sent events. Default: false.
    stream: Option<bool>,
    /// With `include_usage: true` a last chunk holds the usage.
    stream_options: Option<serde_json::Value>,
}

/// An error of the OpenAI dialect.
#[derive(Serialize, ToSchema)]
pub struct OpenAiError {
    /// What is wrong.
    error: OpenAiErrorBody,
}

/// What is wrong, in the form that the SDKs read.
#[derive(Serialize, ToSchema)]
pub struct OpenAiErrorBody {
    /// In words.
    message: String,
    /// The class, such as `invalid_request_error`.
    r#type: String,
    /// The field.
    param: Option<String>,
    /// A stable code, such as `model_not_found`.
    code: Option<String>,
}

/// Ask a model.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "openai", request_body = ChatCompletionRequest,
    responses((status = 200, description = "A chat.completion object, or chat.completion.chunk events", body = serde_json::Value),
        (status = 400, description = "Not JSON, or a field is not allowed", body = OpenAiError),
        (status = 404, description = "No such model", body = OpenAiError),
        (status = 429, description = "A limit is reached", body = OpenAiError),
        (status = 503, description = "The backend is not available", body = OpenAiError)))]
pub async fn chat_completions(
    State(state): State<AppState>,
    from: From,
    headers: HeaderMap,
    body: Body,
) -> Response {
    match prepare(&state, from, &headers, body).await {
        Ok((ask, live)) => {
            let outcome = exchange::answer(&state, &live, ask).await;
            let mut extra = outcome.headers();
            let mut response = match outcome.result {
                Ok(Answer::Plain(plain)) => {
                    extra.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                    Body::from(plain.completion).into_response()
                }
                Ok(Answer::Stream { body, fault, .. }) => outcome::event_stream(body, fault),
                Err(error) => error.into_response(Dialect::OpenAi),
            };
            response.headers_mut().extend(extra);
            response
        }
        Err(error) => error.into_response(Dialect::OpenAi),
    }
}

async fn prepare(
    state: &AppState,
    from: From,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Ask, Arc<Live>), ApiError> {
    let started = Instant::now();
    let live = state.live()?;
    let (body, room) = read_json(state, headers, body).await?;
    let object = json::object(&body).map_err(|error| ApiError::BadJson(error.to_string()))?;
    let model = live.model(field::<String>(&object, "model", "a string")?.as_deref())?;
    let stream = field(&object, "stream", "true or false")?.unwrap_or(false);
    let messages = messages(&object, live.config.dynamic.defaults.system_prompt.as_deref())?;
    let include_usage = include_usage(&object)?;
    output_cap(&object).map_err(|NotTokens(field)| invalid(field, "a whole number of tokens, at least 1"))?;
    check_choices(&object)?;
    let cache = cache_control(headers);
    let members = object.members().map(|(name, value)| match (&messages, name) {
        (Some(messages), "messages") => (name, messages.as_bytes()),
        _ => (name, value),
    });
    let keep = Keep::new(&live, &from.caller, cache, &model, members);
    let ask = Ask {
        caller: from.caller,
        id: from.id,
        trace: from.trace,
        room,
        body: upstream_body(&body, &object, &model, messages.as_deref(), stream)?,
        dialect: Dialect::OpenAi,
        stream,
        include_usage,
        cache,
        keep,
        conversation: None,
        model,
        started,
    };
    Ok((ask, live))
}

/// Checks `messages`; with a default system prompt that no message makes superfluous, the array with it in front.
fn messages(object: &Object<'_>, system_prompt: Option<&str>) -> Result<Option<String>, ApiError> {
    #[derive(serde::Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        role: Cow<'a, str>,
    }
    let allowed = "an array of at least one message object, each with a `role`";
    let raw = object.get("messages").ok_or_else(|| invalid("messages", allowed))?;
    let parsed: Vec<&RawValue> = serde_json::from_slice(raw).map_err(|_| invalid("messages", allowed))?;
    if parsed.is_empty() {
        return Err(invalid("messages", allowed));
    }
    let mut system = false;
    for (index, message) in parsed.iter().enumerate() {
        let name = format!("messages[{index}]");
        let role = serde_json::from_str::<Message<'_>>(message.get())
            .map_err(|_| invalid(&name, "an object with a `role` such as user, assistant, system or tool"))?
            .role;
        system |= role == "system" || role == "developer";
    }
    let Some(prompt) = system_prompt.filter(|_| !system) else { return Ok(None) };
    let first = serde_json::json!({ "role": "system", "content": prompt });
    let rest = parsed.iter().map(|message| message.get());
    let all: Vec<String> = std::iter::once(first.to_string()).chain(rest.map(str::to_owned)).collect();
    Ok(Some(format!("[{}]", all.join(","))))
}

/// Checks `n`, by which everything that is reserved is multiplied.
fn check_choices(object: &Object<'_>) -> Result<(), ApiError> {
    let allowed = format!("a whole number from 1 to {MOST_CHOICES}");
    match field::<u64>(object, "n", &allowed)? {
        Some(choices) if !(1..=MOST_CHOICES).contains(&choices) => Err(invalid("n", &allowed)),
        _ => Ok(()),
    }
}

fn include_usage(object: &Object<'_>) -> Result<bool, ApiError> {
    #[derive(Default, serde::Deserialize)]
    struct StreamOptions {
        #[serde(default)]
        include_usage: Option<bool>,
    }
    let allowed = "an object such as {\"include_usage\": true}";
    let options: Option<StreamOptions> = field(object, "stream_options", allowed)?;
    Ok(options.and_then(|options| options.include_usage).unwrap_or(false))
}

/// The body as every model's call begins with it. Only what must change does: a missing model, the default system prompt, and for a
/// stream the request for its usage, without which nothing could be charged.
fn upstream_body(
    body: &Bytes,
    object: &Object<'_>,
    model: &Model,
    messages: Option<&str>,
    stream: bool,
) -> Result<Bytes, ApiError> {
    let mut edits = Vec::new();
    let named: Option<String> = field(object, "model", "a string")?;
    let quoted = serde_json::Value::from(&*model.name).to_string();
    if named.as_deref() != Some(&*model.name) {
        edits.push(Edit::Set { key: "model", value: quoted.as_bytes() });
    }
    if let Some(messages) = messages {
        edits.push(Edit::Set { key: "messages", value: messages.as_bytes() });
    }
    let options = if stream { Some(stream_options(object)?) } else { None };
    if let Some(options) = &options {
        edits.push(Edit::Set { key: "stream_options", value: options });
    }
    if edits.is_empty() {
        return Ok(body.clone());
    }
    Ok(Bytes::from(object.rewrite(&edits)))
}

/// The caller's `stream_options` with `include_usage: true`.
fn stream_options(object: &Object<'_>) -> Result<Vec<u8>, ApiError> {
    match object.non_null("stream_options") {
        None => Ok(br#"{"include_usage":true}"#.to_vec()),
        Some(raw) => {
            let options = json::object(raw).map_err(|error| ApiError::BadJson(error.to_string()))?;
            Ok(options.rewrite(&[Edit::Set { key: "include_usage", value: b"true" }]))
        }
    }
}
