//! A request of the Responses API and the items of both sides, as the OpenAPI document describes them. In: nothing, since these
//! types are never made: what comes is read member by member, for errors that name the one that is wrong. Out: schemas.

#![expect(dead_code, reason = "these types are never made: they are descriptions")]

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::ToSchema;

use super::items::Role;

/// A request for a response. What is not listed is refused with the code `unsupported_parameter`.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "gpt-4o-mini", "input": "Hello, how are you?"}))]
pub struct CreateResponse {
    /// A model of this service. Default: the service's.
    model: Option<String>,
    /// What is said: a text, or at least one item.
    input: ResponseInput,
    /// What the model is told in front of everything, for this response alone. Default: the service's prompt.
    instructions: Option<String>,
    /// Go on from this response: the model is given what was said until then.
    #[schema(example = "resp_9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a69")]
    previous_response_id: Option<String>,
    /// Whether the response can be read, and gone on from, later. Default: true.
    store: Option<bool>,
    /// Answer as server-sent events. Default: false.
    stream: Option<bool>,
    /// How the events are.
    stream_options: Option<ResponseStreamOptions>,
    /// Functions that the model may call.
    tools: Option<Vec<FunctionTool>>,
    /// Whether, and which. Default: auto.
    tool_choice: Option<ToolChoice>,
    /// Whether the model may call several functions at once. Default: the backend's.
    parallel_tool_calls: Option<bool>,
    /// The form of the text.
    text: Option<TextForm>,
    /// How models that think do so.
    reasoning: Option<ReasoningEffort>,
    /// Longest answer in tokens.
    #[schema(minimum = 1)]
    max_output_tokens: Option<u32>,
    /// Sampling temperature. Default: the backend's.
    temperature: Option<f64>,
    /// Nucleus sampling. Default: the backend's.
    top_p: Option<f64>,
    /// Up to 16 notes of the caller's own, which the response repeats: names of at most 64 characters, values of at most 512.
    metadata: Option<BTreeMap<String, String>>,
    /// Who asks, for the backend.
    user: Option<String>,
}

/// What is said.
#[derive(ToSchema)]
#[serde(untagged)]
enum ResponseInput {
    /// The text of a user.
    #[schema(example = "Hello, how are you?")]
    Text(String),
    /// Items, in order.
    Items(Vec<InputItem>),
}

/// What somebody says, what a function is called with, or what it returned. Items of an answer may be sent back as they are.
#[derive(ToSchema)]
#[serde(untagged)]
enum InputItem {
    Message(InputMessage),
    FunctionCall(InputFunctionCall),
    FunctionCallOutput(InputFunctionCallOutput),
    Reference(ItemReference),
}

/// An item of a response that is stored, sent by its id alone.
#[derive(ToSchema)]
struct ItemReference {
    /// May be left out.
    r#type: Option<ItemReferenceType>,
    /// Its id.
    id: String,
}

/// That it is a reference.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
enum ItemReferenceType {
    ItemReference,
}

/// Something that somebody says.
#[derive(ToSchema)]
struct InputMessage {
    /// May be left out.
    r#type: Option<MessageType>,
    /// Who says it.
    role: Role,
    /// A text, or parts: of a user `input_text` and `input_image`, of the model `output_text` and `refusal`, of others `input_text`.
    content: Content,
    /// Its id, which no other item has. Default: a new one.
    id: Option<String>,
    /// Not looked at.
    status: Option<ItemStatus>,
}

/// That it is a message.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
enum MessageType {
    Message,
}

/// The model has called a function.
#[derive(ToSchema)]
struct InputFunctionCall {
    /// What it is.
    r#type: FunctionCallType,
    /// What its output refers to.
    call_id: String,
    /// The function.
    name: String,
    /// JSON, as the model wrote it.
    arguments: String,
    /// Its id, which no other item has. Default: a new one.
    id: Option<String>,
    /// Not looked at.
    status: Option<ItemStatus>,
}

/// That it is a call of a function.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
enum FunctionCallType {
    FunctionCall,
}

/// What a function has returned. Each call has one, behind it.
#[derive(ToSchema)]
struct InputFunctionCallOutput {
    /// What it is.
    r#type: FunctionCallOutputType,
    /// The call.
    call_id: String,
    /// A text, or parts that are `input_text`.
    output: Content,
    /// Its id, which no other item has. Default: a new one.
    id: Option<String>,
    /// Not looked at.
    status: Option<ItemStatus>,
}

/// That it is the output of a function.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
enum FunctionCallOutputType {
    FunctionCallOutput,
}

/// A text, or parts.
#[derive(ToSchema)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<ContentPart>),
}

/// A part of a message.
#[derive(ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentPart {
    /// Text of a user or a developer.
    #[schema(title = "InputText")]
    InputText {
        /// The text.
        text: String,
    },
    /// A picture.
    #[schema(title = "InputImage")]
    InputImage {
        /// Where it is, or `data:…`.
        image_url: String,
        /// How closely it is looked at: `low`, `high` or `auto`. Default: auto.
        detail: Option<String>,
    },
    /// Text of the model.
    #[schema(title = "OutputText")]
    OutputText {
        /// The text.
        text: String,
        /// Always empty in answers, and not looked at in requests.
        annotations: Option<Vec<Value>>,
        /// The same.
        logprobs: Option<Vec<Value>>,
    },
    /// What the model says in place of an answer.
    #[schema(title = "Refusal")]
    Refusal {
        /// The text.
        refusal: String,
    },
}

/// How far an item has got.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ItemStatus {
    /// More of it may come.
    InProgress,
    /// All of it is there.
    Completed,
    /// It stopped early.
    Incomplete,
}

/// An item in full: of an answer, where it is a message or a function call, or of what a response was made from.
#[derive(ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseItem {
    /// Something that somebody says.
    #[schema(title = "Message")]
    Message {
        /// Its id.
        id: String,
        /// Who says it: in an answer the assistant.
        role: Role,
        /// What, in order.
        content: Vec<ContentPart>,
        /// How far it has got.
        status: ItemStatus,
    },
    /// The model wants a function to be called.
    #[schema(title = "FunctionCall")]
    FunctionCall {
        /// Its id.
        id: String,
        /// Send it along with the output.
        call_id: String,
        /// The function.
        name: String,
        /// JSON, as the model wrote it: check it.
        arguments: String,
        /// How far it has got.
        status: ItemStatus,
    },
    /// What the function returned.
    #[schema(title = "FunctionCallOutput")]
    FunctionCallOutput {
        /// Its id.
        id: String,
        /// The call.
        call_id: String,
        /// What it returned.
        output: String,
        /// How far it has got.
        status: ItemStatus,
    },
}

/// A function that the model may call, and the caller runs.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FunctionTool {
    /// What it is.
    r#type: FunctionType,
    /// Its name.
    #[schema(min_length = 1)]
    name: String,
    /// What it does, for the model.
    description: Option<String>,
    /// A JSON schema of its arguments. The backend gets it as it is.
    #[schema(value_type = Option<Object>)]
    parameters: Option<Value>,
    /// Whether arguments fit the schema in any case. Default: the backend's, which is false for a chat completion: unlike
    /// OpenAI's Responses, this service never rewrites a schema to make it strict.
    strict: Option<bool>,
}

/// That it is a function.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
enum FunctionType {
    Function,
}

/// Whether functions are called, and which.
#[derive(ToSchema)]
#[serde(untagged)]
pub(super) enum ToolChoice {
    /// As the model likes, none at all, or at least one of `tools`.
    Word(ToolChoiceWord),
    /// This one.
    Function(ChosenFunction),
}

/// Whether functions are called.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ToolChoiceWord {
    Auto,
    None,
    Required,
}

/// One of the functions in `tools`.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ChosenFunction {
    /// What it is.
    r#type: FunctionType,
    /// Its name.
    name: String,
}

/// The form of a text.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TextForm {
    /// Whether it is JSON. Default: text.
    format: Option<TextFormat>,
    /// How long it is: `low`, `medium` or `high`. Default: the backend's.
    verbosity: Option<String>,
}

/// Whether a text is JSON.
#[derive(ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum TextFormat {
    /// Any text.
    #[schema(title = "PlainText")]
    Text,
    /// Any JSON object.
    #[schema(title = "JsonObject")]
    JsonObject,
    /// What fits a schema.
    #[schema(title = "JsonSchema")]
    JsonSchema {
        /// A name for the schema.
        name: String,
        /// What it is for, for the model.
        description: Option<String>,
        /// The schema. The backend gets it as it is.
        #[schema(value_type = Object)]
        schema: Value,
        /// Whether the text fits in any case. Default: the backend's.
        strict: Option<bool>,
    },
}

/// How a model thinks.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct ReasoningEffort {
    /// How much: such as `low`, `medium` or `high`. Default: the backend's.
    effort: Option<String>,
}

/// How the events of a response are.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct ResponseStreamOptions {
    /// Whether they are padded: false, since they never are.
    include_obfuscation: Option<bool>,
}
