//! The simple dialect: `POST /api/v1/chat` and `/api/v1/chat/stream`. In: a message. Out: an answer with its
//! conversation, or the same as server-sent events.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::input::{From, cache_control, field, invalid, read_json};
use crate::constants::header as names;
use crate::server::caller::Caller;
use crate::server::completion::{Members, to_bytes};
use crate::server::config::RequestDefaults;
use crate::server::conversations;
use crate::server::error::{ApiError, Dialect};
use crate::server::exchange::{self, Ask, Conversing, Form, Keep};
use crate::server::json::{self, Object};
use crate::server::models::Model;
use crate::server::operation::Operation;
use crate::server::outcome::{self, Answer, Outcome};
use crate::server::state::{AppState, Live};
use crate::server::store::{ConversationId, Retention, StoredTurn};

/// Longest `message`, in characters after trimming.
const MESSAGE_MAX: usize = 5000;
/// Longest `system_prompt`, in characters.
const SYSTEM_PROMPT_MAX: usize = 1000;
/// Largest `max_tokens`.
const MAX_TOKENS_MAX: u32 = 4000;

/// A question.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"message": "Hello, how are you?"}))]
#[expect(
    dead_code,
    reason = "the fields are read one by one, for errors that name them; this is their description"
)]
pub struct ChatRequest {
    /// What the user says, 1 to 5000 characters after trimming.
    #[schema(min_length = 1, max_length = 5000)]
    message: String,
    /// The conversation to go on with: the `conversation_id` of an earlier answer. Absent: a new one.
    #[schema(format = "uuid")]
    conversation_id: Option<String>,
    /// Instructions for the model, at most 1000 characters. Default: the service's.
    #[schema(max_length = 1000)]
    system_prompt: Option<String>,
    /// Sampling temperature, 0 to 2. Default: the service's, else 0.7.
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f64>,
    /// Longest answer in tokens, 1 to 4000. Default: the service's, else 1000.
    #[schema(minimum = 1, maximum = 4000)]
    max_tokens: Option<u32>,
    /// A model of this service. Default: the service's.
    model: Option<String>,
    /// Answer as server-sent events, as `/api/v1/chat/stream` does. Default: false.
    stream: Option<bool>,
}

/// An answer.
#[derive(Serialize, ToSchema)]
pub struct ChatResponse {
    /// What the model says.
    pub message: String,
    /// Send it along to go on with this conversation.
    #[schema(format = "uuid")]
    pub conversation_id: String,
    /// Tokens of prompt and answer, null when the backend did not say.
    #[schema(required)]
    pub tokens_used: Option<u64>,
    /// The model that answered.
    pub model: String,
    /// RFC 3339, UTC.
    pub timestamp: String,
    /// USD, null when the model's price is not known.
    #[schema(required)]
    pub cost_estimate: Option<f64>,
    /// Whether the answer came from the cache.
    pub cached: bool,
    /// Whether the turn was stored: false when the store was away.
    pub persisted: bool,
    /// Why the model stopped: `stop`, `length`, …
    #[schema(required)]
    pub finish_reason: Option<String>,
}

/// One server-sent event of a streamed answer.
#[derive(Serialize, ToSchema)]
pub struct ChatEvent {
    /// The next piece of the answer.
    pub delta: String,
    /// Send it along to go on with this conversation.
    pub conversation_id: String,
    /// True in the last event, which holds the totals.
    pub finished: bool,
    /// Tokens of prompt and answer; null before the last event and when the backend did not say.
    #[schema(required)]
    pub tokens_used: Option<u64>,
    /// The totals; in the last event only.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = ChatTotals)]
    pub totals: Option<ChatTotals>,
}

/// What the last event of a streamed answer adds. Earlier events have none of it.
#[derive(Serialize, ToSchema)]
pub struct ChatTotals {
    /// The model that answered.
    #[schema(required = false)]
    pub model: String,
    /// USD, null when the model's price is not known.
    #[schema(required = false)]
    pub cost_estimate: Option<f64>,
    /// Whether the answer came from the cache.
    #[schema(required = false)]
    pub cached: bool,
    /// Whether the turn was stored.
    #[schema(required = false)]
    pub persisted: bool,
    /// Why the model stopped.
    #[schema(required = false)]
    pub finish_reason: Option<String>,
}

/// An error of the simple dialect.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"error": "validation_error", "message": "`message` must be a string of 1 to 5000 characters", "details": {"field": "message"}}))]
pub struct SimpleError {
    /// A stable code.
    error: String,
    /// What is wrong and what to do.
    message: String,
    /// Which field, where it is one.
    #[schema(nullable = false)]
    details: Option<ErrorDetails>,
    /// Seconds after which another try is worth it, where it may be.
    #[schema(nullable = false)]
    retry_after: Option<u64>,
}

/// What an error is about.
#[derive(Serialize, ToSchema)]
pub struct ErrorDetails {
    /// The field that is not allowed.
    field: String,
}

/// A question that has been read and checked.
struct Question {
    message: String,
    conversation: Option<ConversationId>,
    system_prompt: Option<String>,
    temperature: f64,
    max_tokens: u32,
    model: Option<String>,
    stream: bool,
}

/// Ask and get one answer.
#[utoipa::path(post, path = "/api/v1/chat", tag = "chat", request_body = ChatRequest,
    responses((status = 200, description = "The answer; with `stream: true` the events of /api/v1/chat/stream", body = ChatResponse)))]
pub async fn chat(State(state): State<AppState>, from: From, headers: HeaderMap, body: Body) -> Response {
    answer(&state, from, &headers, body, false).await
}

/// Ask and get the answer as server-sent events.
#[utoipa::path(post, path = "/api/v1/chat/stream", tag = "chat", request_body = ChatRequest,
    responses((status = 200, description = "Events; the last has `finished: true`, or `error`", body = ChatEvent, content_type = "text/event-stream")))]
pub async fn chat_stream(
    State(state): State<AppState>,
    from: From,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answer(&state, from, &headers, body, true).await
}

async fn answer(
    state: &AppState,
    from: From,
    headers: &HeaderMap,
    body: Body,
    always_stream: bool,
) -> Response {
    match prepare(state, from, headers, body, always_stream).await {
        Ok((ask, live)) => respond(exchange::answer(state, &live, ask).await),
        Err(refused) => respond(refused),
    }
}

async fn prepare(
    state: &AppState,
    from: From,
    headers: &HeaderMap,
    body: Body,
    always_stream: bool,
) -> Result<(Ask, Arc<Live>), Outcome> {
    let started = Instant::now();
    let live = state.live()?;
    let (body, room) = read_json(state, headers, body).await?;
    let object = json::object(&body).map_err(|error| ApiError::BadJson(error.to_string()))?;
    let defaults = &live.config.dynamic.defaults;
    let question = read_question(&object, defaults)?;
    let model = live.model(question.model.as_deref())?;
    let (history, id, persistent) = history(state, &live, &from.caller, question.conversation).await?;
    let stream = always_stream || question.stream;
    let cache = cache_control(headers);
    let upstream = upstream_body(&live, &model, &question, &history, stream);
    let members = upstream.0.iter().map(|(name, value)| (name.as_ref(), value.get().as_bytes()));
    let keep = Keep::new(&live, &from.caller, cache, (Operation::Chat, &model), members);
    let ask = Ask {
        caller: from.caller,
        id: from.id,
        trace: from.trace,
        room,
        body: to_bytes(&upstream),
        known: None,
        operation: Operation::Chat,
        form: Form::Simple,
        stream,
        include_usage: true,
        cache,
        keep,
        conversation: Some(Conversing {
            id,
            user: question.message,
            first: question.conversation.is_none(),
            persistent,
        }),
        model,
        started,
    };
    Ok((ask, live))
}

fn read_question(object: &Object<'_>, defaults: &RequestDefaults) -> Result<Question, ApiError> {
    const KNOWN: [&str; 7] =
        ["message", "conversation_id", "system_prompt", "temperature", "max_tokens", "model", "stream"];
    if let Some(unknown) = object.members().map(|(key, _)| key).find(|key| !KNOWN.contains(key)) {
        let field: String = unknown.chars().take(64).collect();
        let message = format!("there is no field `{field}`; the fields are {}", KNOWN.join(", "));
        return Err(ApiError::InvalidField { field, message });
    }
    let allowed = "a string of 1 to 5000 characters";
    let message: String = field(object, "message", allowed)?.ok_or_else(|| invalid("message", allowed))?;
    let message = message.trim();
    if message.is_empty() || message.chars().count() > MESSAGE_MAX {
        return Err(invalid("message", allowed));
    }
    let conversation: Option<String> = field(object, "conversation_id", "a UUID string")?;
    let conversation = conversation
        .map(|text| {
            conversations::parse_id(&text)
                .ok_or_else(|| invalid("conversation_id", "a UUID that an answer of this service held"))
        })
        .transpose()?;
    let allowed = "a string of at most 1000 characters";
    let system_prompt: Option<String> = field(object, "system_prompt", allowed)?;
    if system_prompt.as_ref().is_some_and(|text| text.chars().count() > SYSTEM_PROMPT_MAX) {
        return Err(invalid("system_prompt", allowed));
    }
    let allowed = "a number from 0 to 2";
    let temperature = field::<f64>(object, "temperature", allowed)?.unwrap_or(defaults.temperature);
    if !(0.0..=2.0).contains(&temperature) {
        return Err(invalid("temperature", allowed));
    }
    let allowed = "a whole number from 1 to 4000";
    let max_tokens = field::<u32>(object, "max_tokens", allowed)?.unwrap_or(defaults.max_tokens);
    if !(1..=MAX_TOKENS_MAX).contains(&max_tokens) {
        return Err(invalid("max_tokens", allowed));
    }
    Ok(Question {
        message: message.to_owned(),
        conversation,
        system_prompt: system_prompt.or_else(|| defaults.system_prompt.clone()),
        temperature,
        max_tokens,
        model: field(object, "model", "a string")?,
        stream: field(object, "stream", "true or false")?.unwrap_or(false),
    })
}

/// The turns so far, the conversation's id, and whether this turn can be stored.
async fn history(
    state: &AppState,
    live: &Live,
    caller: &Caller,
    conversation: Option<ConversationId>,
) -> Result<(Vec<Arc<StoredTurn>>, ConversationId, bool), ApiError> {
    let Some(id) = conversation else { return Ok((Vec::new(), conversations::new_id(), true)) };
    // Going on with it is a use: it must not end while the model answers.
    let ttl = Retention::from(&live.config.dynamic.conversations).ttl;
    match live.store.conversation(caller.owned(id.0), Some(ttl)).await {
        Ok(Some(conversation)) => Ok((conversation.turns, id, true)),
        Ok(None) => Err(ApiError::ConversationNotFound),
        Err(_) => {
            // The question is answered without what came before, and the answer says that it was not stored.
            state.metrics().store_error("conversation");
            Ok((Vec::new(), id, false))
        }
    }
}

/// As a caller of the OpenAI dialect would ask; a stream for its usage too, without which nothing could be charged.
fn upstream_body<'a>(
    live: &Live,
    model: &'a Model,
    question: &Question,
    history: &[Arc<StoredTurn>],
    stream: bool,
) -> Members<'a> {
    let retention = Retention::from(&live.config.dynamic.conversations);
    let system = question.system_prompt.as_deref();
    let messages = conversations::messages(system, history, &question.message, retention);
    let mut body = Members::default();
    body.push("model", &*model.name);
    body.push("messages", &messages);
    body.push("temperature", &question.temperature);
    body.push("max_tokens", &question.max_tokens);
    if stream {
        body.push("stream", &true);
        body.push("stream_options", &serde_json::json!({ "include_usage": true }));
    }
    body
}

fn respond(outcome: Outcome) -> Response {
    let headers = outcome.headers();
    let mut response = match outcome.result {
        Ok(Answer::Plain(plain)) => {
            let conversation = plain.conversation.map(|turn| turn.id.0.to_string()).unwrap_or_default();
            Json(ChatResponse {
                message: plain.read.text,
                conversation_id: conversation,
                tokens_used: plain.read.usage.map(crate::server::settlement::Usage::total),
                model: plain.model.to_string(),
                timestamp: now(),
                cost_estimate: plain.cost.map(crate::server::pricing::NanoUsd::usd),
                cached: plain.cached,
                persisted: plain.conversation.is_some_and(|turn| turn.persisted),
                finish_reason: plain.read.finish_reason,
            })
            .into_response()
        }
        Ok(Answer::Stream { body, conversation, fault }) => {
            let mut response = outcome::event_stream(body, fault);
            if let Some(id) = conversation
                && let Ok(value) = HeaderValue::from_str(&id.0.to_string())
            {
                response.headers_mut().insert(names::CONVERSATION_ID, value);
            }
            response
        }
        Err(error) => error.into_response(Dialect::Simple),
    };
    response.headers_mut().extend(headers);
    response
}

/// RFC 3339 in UTC, whole seconds.
pub(super) fn now() -> String {
    rfc3339(jiff::Timestamp::now().as_second())
}

/// The same of seconds since 1970; what is no time that a calendar has is 1970.
pub(super) fn rfc3339(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string()
}
