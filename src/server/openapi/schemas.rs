//! What the OpenAI dialect passes on as bytes, described. In: nothing. Out: schemas of a chat completion, of its request and
//! chunks and of the events of a response, and the form of answers that come as events.

#![expect(dead_code, reason = "these types are never made: they are descriptions")]

use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{Content, RefOr};

use crate::server::responses::object::ResponseObject;
use crate::server::responses::schema::{ContentPart, ResponseItem};
use crate::server::routes::completions::OpenAiErrorBody;

/// A chat completion request. Fields that are not listed go to the backend unchanged.
#[derive(ToSchema)]
#[schema(example = json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello, how are you?"}]}))]
pub(in crate::server) struct ChatCompletionRequest {
    /// A model of this service. Default: the service's.
    model: Option<String>,
    /// The conversation so far, at least one message.
    #[schema(min_items = 1)]
    messages: Vec<ChatMessage>,
    /// Answer as server-sent events. Default: false.
    stream: Option<bool>,
    /// What a stream tells beside the answer.
    stream_options: Option<StreamOptions>,
    /// Longest answer in tokens.
    #[schema(minimum = 1)]
    max_completion_tokens: Option<u32>,
    /// The same by its older name.
    #[schema(minimum = 1)]
    max_tokens: Option<u32>,
    /// How many answers. Default: 1.
    #[schema(minimum = 1, maximum = 128)]
    n: Option<u32>,
    /// Sampling temperature. Default: the backend's.
    temperature: Option<f64>,
    /// Nucleus sampling. Default: the backend's.
    top_p: Option<f64>,
    /// Where the answer ends.
    stop: Option<Stop>,
    /// What the model may call.
    tools: Option<Vec<ChatTool>>,
    /// Whether, and which: `auto`, `none`, `required` or `{"type": "function", "function": {"name": …}}`. Default: auto.
    tool_choice: Option<ChatToolChoice>,
    /// The form of the text: `{"type": "json_object"}`, or `json_schema` with a schema.
    #[schema(value_type = Option<Object>)]
    response_format: Option<Value>,
}

/// What a stream tells beside the answer.
#[derive(ToSchema)]
struct StreamOptions {
    /// Whether a last chunk holds the usage. Default: false.
    include_usage: Option<bool>,
}

/// A message.
#[derive(ToSchema)]
struct ChatMessage {
    /// Who says it: `system`, `developer`, `user`, `assistant` or `tool`.
    role: String,
    /// What is said; null in a message that only calls functions.
    content: Option<ChatContent>,
    /// In a message of the assistant: the functions that it called, as its answer had them.
    #[schema(value_type = Option<Vec<Object>>)]
    tool_calls: Option<Vec<Value>>,
    /// In a message with the role `tool`: the call whose result it is.
    tool_call_id: Option<String>,
}

/// A text, or parts.
#[derive(ToSchema)]
#[serde(untagged)]
enum ChatContent {
    Text(String),
    Parts(Vec<ChatPart>),
}

/// A part of a message. Each type has fields of its own, which go to the backend unchanged.
#[derive(ToSchema)]
struct ChatPart {
    /// What it is, such as `text`, `image_url` or `input_audio`.
    r#type: String,
    /// The text of a `text`.
    #[schema(nullable = false)]
    text: Option<String>,
    /// The picture of an `image_url`: its `url`, which may be `data:…`, and `detail`.
    #[schema(nullable = false, value_type = Option<Object>)]
    image_url: Option<Value>,
}

/// Texts at which the answer ends.
#[derive(ToSchema)]
#[serde(untagged)]
enum Stop {
    One(String),
    Several(Vec<String>),
}

/// What the model may call.
#[derive(ToSchema)]
struct ChatTool {
    /// What it is: mostly `function`.
    r#type: String,
    /// The function: its `name`, `description`, `parameters` and `strict`.
    #[schema(nullable = false, value_type = Option<Object>)]
    function: Option<Value>,
}

/// Whether functions are called, and which.
#[derive(ToSchema)]
#[serde(untagged)]
enum ChatToolChoice {
    Word(String),
    #[schema(value_type = Object)]
    One(Value),
}

/// An answer of a model. Fields that are not listed are the backend's own.
#[derive(ToSchema)]
pub(in crate::server) struct ChatCompletion {
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
pub(in crate::server) struct Choice {
    /// Which of the answers.
    index: u32,
    /// What the model says.
    message: AssistantMessage,
    /// Why it stopped: `stop`, `length`, `tool_calls` or `content_filter`; null when the backend did not say.
    finish_reason: Option<String>,
}

/// What the model says.
#[derive(ToSchema)]
pub(in crate::server) struct AssistantMessage {
    /// Always `assistant`.
    role: String,
    /// The text; null where there are tool calls alone.
    content: Option<String>,
    /// Functions to be called; send their results as messages with the role `tool`.
    tool_calls: Option<Vec<ToolCall>>,
}

/// A function to be called.
#[derive(ToSchema)]
pub(in crate::server) struct ToolCall {
    /// Send it along with the result, as `tool_call_id`.
    id: String,
    /// Always `function`.
    r#type: String,
    /// Which, and with what.
    function: CalledFunction,
}

/// Which function, and with what.
#[derive(ToSchema)]
pub(in crate::server) struct CalledFunction {
    /// Its name.
    name: String,
    /// JSON, as the model wrote it: check it.
    arguments: String,
}

/// Tokens.
#[derive(ToSchema)]
#[expect(clippy::struct_field_names, reason = "the names are OpenAI's")]
pub(in crate::server) struct Usage {
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
pub(in crate::server) struct ChatCompletionChunk {
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
pub(in crate::server) struct StreamUsage {
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
pub(in crate::server) struct ChunkChoice {
    /// Which of the answers.
    index: u32,
    /// The next piece: `role` in the first, `content` or `tool_calls` in others.
    delta: Delta,
    /// Null until the last piece.
    finish_reason: Option<String>,
}

/// A piece of an answer.
#[derive(ToSchema)]
pub(in crate::server) struct Delta {
    /// In the first.
    role: Option<String>,
    /// The next piece of the text.
    content: Option<String>,
    /// The next pieces of calls.
    tool_calls: Option<Vec<ToolCallPiece>>,
}

/// A piece of a call.
#[derive(ToSchema)]
struct ToolCallPiece {
    /// Which call.
    index: Option<u32>,
    /// In the first piece.
    id: Option<String>,
    /// In the first piece: always `function`.
    r#type: Option<String>,
    /// Which function, and with what.
    function: Option<CalledFunctionPiece>,
}

/// A piece of what a function is called with.
#[derive(ToSchema)]
struct CalledFunctionPiece {
    /// In the first piece.
    name: Option<String>,
    /// The next piece of the JSON.
    arguments: Option<String>,
}

/// One event of a streamed response.
#[derive(ToSchema)]
pub(in crate::server) struct ResponseEvent {
    /// What it tells, such as `response.output_text.delta`: the name of the event too.
    r#type: String,
    /// 0 for the first, then one more each.
    sequence_number: u64,
    /// The response so far: in `response.created`, `response.in_progress`, and, whole, in the last event.
    #[schema(nullable = false)]
    response: Option<ResponseObject<'static>>,
    /// Which item of the output.
    #[schema(nullable = false)]
    output_index: Option<usize>,
    /// Its id.
    #[schema(nullable = false)]
    item_id: Option<String>,
    /// The item: in `response.output_item.added` and `response.output_item.done`.
    #[schema(nullable = false)]
    item: Option<ResponseItem>,
    /// Which part of the item.
    #[schema(nullable = false)]
    content_index: Option<usize>,
    /// The part: in `response.content_part.added` and `response.content_part.done`.
    #[schema(nullable = false)]
    part: Option<ContentPart>,
    /// The next piece of a text, a refusal or the arguments of a call.
    #[schema(nullable = false)]
    delta: Option<String>,
    /// The whole text: in `response.output_text.done`.
    #[schema(nullable = false)]
    text: Option<String>,
    /// The whole refusal: in `response.refusal.done`.
    #[schema(nullable = false)]
    refusal: Option<String>,
    /// Always empty.
    #[schema(nullable = false)]
    logprobs: Option<Vec<Value>>,
    /// The function: in `response.function_call_arguments.done`.
    #[schema(nullable = false)]
    name: Option<String>,
    /// The whole arguments: there too.
    #[schema(nullable = false)]
    arguments: Option<String>,
    /// Of an `error`: a stable code.
    code: Option<String>,
    /// Of an `error`: in words.
    #[schema(nullable = false)]
    message: Option<String>,
    /// Of an `error`: the field.
    param: Option<String>,
    /// Of an `error`: the same once more, where SDKs look for it.
    #[schema(nullable = false)]
    error: Option<OpenAiErrorBody>,
}

/// Gives an operation's answer the form of its events, which its handler does not know.
pub(super) fn describe(path: &str, operation: &mut Operation) {
    let Some(RefOr::T(response)) = operation.responses.responses.get_mut("200") else { return };
    let events = match path {
        "/v1/chat/completions" => {
            "With `stream: true`: server-sent events, the `data` of each a ChatCompletionChunk, and `[DONE]` at the end. A stream that breaks ends with \
             an `error` object in place of `[DONE]`, never as if it were whole."
        }
        "/api/v1/chat" | "/api/v1/chat/stream" => {
            "Server-sent events, the `data` of each a ChatEvent. The last has `finished: true` and the totals; or it is a SimpleError, with the \
             `conversation_id` and `finished: false`, when the answer breaks off."
        }
        "/v1/responses" => {
            "With `stream: true`: server-sent events, the `data` of each a ResponseEvent: `response.created`, pieces of the output, and \
             `response.completed`, `response.incomplete` or `response.failed` at the end."
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
