//! The OpenAI dialect's `POST /v1/chat/completions`. In: a body that is forwarded byte for byte but for the members
//! named in [`prepare`]. Out: the backend's answer, plain or as events.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::input::{From, Kind, cache_control, check_kinds, field, invalid, read_json};
use crate::server::error::{ApiError, Dialect};
use crate::server::estimate::MOST_CHOICES;
use crate::server::exchange::{self, Ask, Form, Keep};
use crate::server::json::{self, Edit, Object};
use crate::server::models::Model;
use crate::server::openapi::schemas::{ChatCompletion, ChatCompletionRequest};
use crate::server::operation::Operation;
use crate::server::outcome::{self, Answer, Outcome};
use crate::server::state::{AppState, Live};
use crate::server::upstream_body::{Known, NotTokens, output_cap};

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
    /// The field, where it is one.
    #[schema(required)]
    param: Option<String>,
    /// A stable code, such as `model_not_found`; null where a backend refused without one.
    #[schema(required)]
    code: Option<String>,
}

/// Ask a model.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "openai", request_body = ChatCompletionRequest,
    responses((status = 200, description = "A chat.completion object, or chat.completion.chunk events", body = ChatCompletion)))]
pub async fn chat_completions(
    State(state): State<AppState>,
    from: From,
    headers: HeaderMap,
    body: Body,
) -> Response {
    match prepare(&state, from, &headers, body).await {
        Ok((ask, live)) => respond(exchange::answer(&state, &live, ask).await),
        Err(error) => error.into_response(Dialect::OpenAi),
    }
}

/// The backend's answer as it came, with the headers about it.
pub(super) fn respond(outcome: Outcome) -> Response {
    let mut extra = outcome.headers();
    let mut response = match outcome.result {
        Ok(Answer::Plain(plain)) => {
            extra.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            let mut response = Response::new(Body::from(plain.completion));
            *response.headers_mut() = extra;
            return response;
        }
        Ok(Answer::Stream { body, fault, .. }) => outcome::event_stream(body, fault),
        Err(error) => error.into_response(Dialect::OpenAi),
    };
    response.headers_mut().extend(extra);
    response
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
    check_kinds(&object, KINDS)?;
    check_tools(&object)?;
    let cache = cache_control(headers);
    let members = object.members().map(|(name, value)| match (&messages, name) {
        (Some(messages), "messages") => (name, messages.as_bytes()),
        _ => (name, value),
    });
    let keep = Keep::new(&live, &from.caller, cache, (Operation::Chat, &model), members);
    let upstream = upstream_body(&body, &object, &model, messages.as_deref(), stream)?;
    let known = known(&live, Operation::Chat, (&body, &object), &model, &upstream);
    let ask = Ask {
        caller: from.caller,
        id: from.id,
        trace: from.trace,
        room,
        body: upstream,
        known,
        operation: Operation::Chat,
        form: Form::Chunks,
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

/// Members whose type every backend agrees on. What is not named here goes on unread.
const KINDS: &[(&str, Kind)] = &[
    ("audio", Kind::Object),
    ("frequency_penalty", Kind::Number),
    ("function_call", Kind::TextOrObject),
    ("functions", Kind::Array),
    ("logit_bias", Kind::Object),
    ("logprobs", Kind::Bool),
    ("metadata", Kind::Object),
    ("modalities", Kind::Array),
    ("parallel_tool_calls", Kind::Bool),
    ("prediction", Kind::Object),
    ("presence_penalty", Kind::Number),
    ("prompt_cache_key", Kind::Text),
    ("reasoning_effort", Kind::Text),
    ("response_format", Kind::Object),
    ("safety_identifier", Kind::Text),
    ("seed", Kind::Whole),
    ("service_tier", Kind::Text),
    ("stop", Kind::TextOrTexts),
    ("store", Kind::Bool),
    ("temperature", Kind::Number),
    ("tool_choice", Kind::TextOrObject),
    ("tools", Kind::Array),
    ("top_logprobs", Kind::Whole),
    ("top_p", Kind::Number),
    ("user", Kind::Text),
    ("verbosity", Kind::Text),
    ("web_search_options", Kind::Object),
];

/// A function that the model may call, as far as it is checked.
const TOOL: &str = "an object such as {\"type\": \"function\", \"function\": {\"name\": \"get_weather\"}}";

/// Reads an object. An array of its values would do for serde too.
fn object_of<'a, T: serde::Deserialize<'a>>(value: &'a RawValue) -> Option<T> {
    if Kind::Object.fits(value.get().as_bytes()) { serde_json::from_str(value.get()).ok() } else { None }
}

/// Checks that each of `tools` is an object with a `type`.
fn check_tools(object: &Object<'_>) -> Result<(), ApiError> {
    #[derive(serde::Deserialize)]
    struct Tool<'a> {
        #[serde(borrow, rename = "type")]
        _kind: Cow<'a, str>,
    }
    let Some(tools) = object.non_null("tools") else { return Ok(()) };
    let tools: Vec<&RawValue> = serde_json::from_slice(tools).map_err(|_| invalid("tools", "an array"))?;
    for (index, tool) in tools.iter().enumerate() {
        object_of::<Tool<'_>>(tool).ok_or_else(|| invalid(&format!("tools[{index}]"), TOOL))?;
    }
    Ok(())
}

/// Checks `messages`; with a default system prompt that no message makes superfluous, the array with it in front.
fn messages(object: &Object<'_>, system_prompt: Option<&str>) -> Result<Option<String>, ApiError> {
    #[derive(serde::Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        role: Cow<'a, str>,
        #[serde(borrow)]
        content: Option<&'a RawValue>,
        #[serde(borrow)]
        tool_calls: Option<&'a RawValue>,
        #[serde(borrow)]
        tool_call_id: Option<&'a RawValue>,
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
        let message: Message<'_> = object_of(message).ok_or_else(|| {
            invalid(&name, "an object with a `role` such as user, assistant, system or tool")
        })?;
        system |= message.role == "system" || message.role == "developer";
        for (member, value, kind) in [
            ("tool_calls", message.tool_calls, Kind::Array),
            ("tool_call_id", message.tool_call_id, Kind::Text),
        ] {
            if value.is_some_and(|value| !kind.fits(value.get().as_bytes())) {
                return Err(invalid(&format!("{name}.{member}"), kind.allowed()));
            }
        }
        if let Some(content) = message.content {
            check_content(&name, content)?;
        }
    }
    let Some(prompt) = system_prompt.filter(|_| !system) else { return Ok(None) };
    let first = serde_json::json!({ "role": "system", "content": prompt });
    let rest = parsed.iter().map(|message| message.get());
    let all: Vec<String> = std::iter::once(first.to_string()).chain(rest.map(str::to_owned)).collect();
    Ok(Some(format!("[{}]", all.join(","))))
}

/// Checks that a message's content is a text or an array of parts, each with a `type`. What a part holds (a picture, a sound,
/// a file) is the backend's to say.
fn check_content(message: &str, content: &RawValue) -> Result<(), ApiError> {
    #[derive(serde::Deserialize)]
    struct Part<'a> {
        #[serde(borrow, rename = "type")]
        _kind: Cow<'a, str>,
    }
    let name = format!("{message}.content");
    match content.get().as_bytes().first() {
        Some(b'"') => Ok(()),
        Some(b'[') => {
            let allowed = "a string or an array of parts";
            let parts: Vec<&RawValue> =
                serde_json::from_str(content.get()).map_err(|_| invalid(&name, allowed))?;
            for (index, part) in parts.iter().enumerate() {
                object_of::<Part<'_>>(part).ok_or_else(|| {
                    let allowed = "an object with a `type` such as text, image_url or input_audio";
                    invalid(&format!("{name}[{index}]"), allowed)
                })?;
            }
            Ok(())
        }
        _ => Err(invalid(&name, "a string or an array of parts")),
    }
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
    if object.non_null("stream_options").is_some_and(|options| !Kind::Object.fits(options)) {
        return Err(invalid("stream_options", allowed));
    }
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
    if let Some(messages) = messages {
        edits.push(Edit::Set { key: "messages", value: messages.as_bytes() });
    }
    let options = if stream { Some(stream_options(object)?) } else { None };
    if let Some(options) = &options {
        edits.push(Edit::Set { key: "stream_options", value: options });
    }
    with_model(body, object, model, &edits)
}

/// The body with these changes, and the model's name where it has another one or none.
pub(super) fn with_model(
    body: &Bytes,
    object: &Object<'_>,
    model: &Model,
    edits: &[Edit<'_>],
) -> Result<Bytes, ApiError> {
    let mut edits = edits.to_vec();
    let named: Option<String> = field(object, "model", "a string")?;
    let quoted = serde_json::Value::from(&*model.name).to_string();
    if named.as_deref() != Some(&*model.name) {
        edits.push(Edit::Set { key: "model", value: quoted.as_bytes() });
    }
    Ok(if edits.is_empty() { body.clone() } else { Bytes::from(object.rewrite(&edits)) })
}

/// What has been read of what goes upstream, where that is the body as it came.
pub(super) fn known(
    live: &Live,
    operation: Operation,
    (body, object): (&Bytes, &Object<'_>),
    model: &Model,
    upstream: &Bytes,
) -> Option<Known> {
    let same = (upstream.as_ptr(), upstream.len()) == (body.as_ptr(), body.len());
    same.then(|| Known::of(operation, (body, object), model, live.upstreams.always_capped()))
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
