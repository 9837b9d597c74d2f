//! What the OpenAI dialect passes on as bytes, described. In: nothing. Out: schemas of a chat completion and its chunks, and
//! the form of answers that come as events.

#![expect(dead_code, reason = "these types are never made: they are descriptions")]

use utoipa::ToSchema;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{Content, Ref, RefOr};

/// An answer of a model. Fields that are not listed are the backend's own.
#[derive(ToSchema)]
pub(super) struct ChatCompletion {
    /// Its id.
    id: String,
    /// Always `chat.completion`.
    object: String,
    /// Seconds since 1970.
    created: i64,
    /// The model that answered, by the backend's name.
    model: String,
    /// One answer, or `n`.
    choices: Vec<Choice>,
    /// What it took; null when the backend did not say.
    usage: Option<Usage>,
}

/// One answer.
#[derive(ToSchema)]
pub(super) struct Choice {
    /// Which of the answers.
    index: u32,
    /// What the model says.
    message: AssistantMessage,
    /// Why it stopped: `stop`, `length`, `tool_calls` or `content_filter`.
    finish_reason: String,
}

/// What the model says.
#[derive(ToSchema)]
pub(super) struct AssistantMessage {
    /// Always `assistant`.
    role: String,
    /// The text; null where there are tool calls alone.
    content: Option<String>,
    /// Functions to be called; send their results as messages with the role `tool`.
    tool_calls: Option<Vec<ToolCall>>,
}

/// A function to be called.
#[derive(ToSchema)]
pub(super) struct ToolCall {
    /// Send it along with the result, as `tool_call_id`.
    id: String,
    /// Always `function`.
    r#type: String,
    /// Which, and with what.
    function: CalledFunction,
}

/// Which function, and with what.
#[derive(ToSchema)]
pub(super) struct CalledFunction {
    /// Its name.
    name: String,
    /// JSON, as the model wrote it: check it.
    arguments: String,
}

/// Tokens.
#[derive(ToSchema)]
#[expect(clippy::struct_field_names, reason = "the names are OpenAI's")]
pub(super) struct Usage {
    /// Of the messages.
    prompt_tokens: u64,
    /// Of the answer.
    completion_tokens: u64,
    /// Of both.
    total_tokens: u64,
}

/// One event of a streamed answer. The last before `[DONE]` has no choices and the usage, where
/// `stream_options.include_usage` asks for it.
#[derive(ToSchema)]
pub(super) struct ChatCompletionChunk {
    /// The same in all chunks of an answer.
    id: String,
    /// Always `chat.completion.chunk`.
    object: String,
    /// Seconds since 1970, the same in all chunks.
    created: i64,
    /// The model that answers.
    model: String,
    /// What is new.
    choices: Vec<ChunkChoice>,
    /// In the last chunk alone.
    usage: Option<StreamUsage>,
}

/// Tokens of a stream, and what they cost: its headers leave before that is known.
#[derive(ToSchema)]
pub(super) struct StreamUsage {
    /// Of the messages.
    prompt_tokens: u64,
    /// Of the answer.
    completion_tokens: u64,
    /// Of both.
    total_tokens: u64,
    /// USD; absent when the model's price is not known.
    cost_usd: Option<f64>,
}

/// What is new of one answer.
#[derive(ToSchema)]
pub(super) struct ChunkChoice {
    /// Which of the answers.
    index: u32,
    /// The next piece: `role` in the first, `content` or `tool_calls` in others.
    delta: Delta,
    /// Null until the last piece.
    finish_reason: Option<String>,
}

/// A piece of an answer.
#[derive(ToSchema)]
pub(super) struct Delta {
    /// In the first.
    role: Option<String>,
    /// The next piece of the text.
    content: Option<String>,
}

/// Gives an operation's answer the schemas that its handler does not know.
pub(super) fn describe(path: &str, operation: &mut Operation) {
    let Some(RefOr::T(response)) = operation.responses.responses.get_mut("200") else { return };
    if path == "/v1/chat/completions" {
        let plain = Content::new(Some(Ref::from_schema_name("ChatCompletion")));
        response.content.insert(JSON.to_owned(), RefOr::T(plain));
    }
    let events = match path {
        "/v1/chat/completions" => {
            "With `stream: true`: server-sent events, the `data` of each a ChatCompletionChunk, and `[DONE]` at the end. A stream that breaks ends with \
             an `error` object in place of `[DONE]`, never as if it were whole."
        }
        "/api/v1/chat" | "/api/v1/chat/stream" => {
            "Server-sent events, the `data` of each a ChatEvent. The last has `finished: true` and the totals; or it is a SimpleError, when the answer breaks off."
        }
        "/v1/responses" => {
            "With `stream: true`: server-sent events, each with its `type` as name too and a rising `sequence_number`: `response.created`, pieces of the \
             output, and `response.completed`, `response.incomplete` or `response.failed` at the end."
        }
        _ => return,
    };
    let schema = ObjectBuilder::new().schema_type(Type::String).description(Some(events)).build();
    response.content.insert(EVENTS.to_owned(), RefOr::T(Content::new(Some(schema))));
}

/// Media type of plain answers.
pub(super) const JSON: &str = "application/json";
/// Media type of streamed ones.
pub(super) const EVENTS: &str = "text/event-stream";
