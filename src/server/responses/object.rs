//! The response object. In: a [`super::Turn`]. Out: what callers get of it, plain, in events and from the store; and the types
//! of both for the OpenAPI document.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::items::Item;
use super::schema::{FunctionTool, ResponseItem, TextForm, ToolChoice};

/// A response.
#[derive(Serialize, ToSchema)]
pub struct ResponseObject<'a> {
    /// What to read it by, and to go on from.
    #[schema(example = "resp_9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a69")]
    pub(super) id: String,
    /// Always `response`.
    #[schema(example = "response")]
    pub(super) object: &'static str,
    /// Seconds since 1970.
    pub(super) created_at: i64,
    /// How far it has got.
    pub(super) status: Status,
    /// Always false.
    pub(super) background: bool,
    /// Seconds since 1970; null where the answer is not complete.
    #[schema(required)]
    pub(super) completed_at: Option<i64>,
    /// Why there is no answer.
    #[schema(required)]
    pub(super) error: Option<ResponseFault>,
    /// Why it stops early.
    #[schema(required)]
    pub(super) incomplete_details: Option<IncompleteDetails>,
    /// As it was asked for.
    #[schema(required)]
    pub(super) instructions: Option<&'a str>,
    /// As it was asked for.
    #[schema(required)]
    pub(super) max_output_tokens: Option<u32>,
    /// Always null.
    #[schema(required)]
    pub(super) max_tool_calls: Option<u32>,
    /// The model that answered.
    pub(super) model: &'a str,
    /// What it says and which functions it calls: items of the types `message` and `function_call`.
    #[schema(value_type = Vec<ResponseItem>)]
    pub(super) output: Vec<Output<'a>>,
    /// As it was asked for; true where it was not.
    pub(super) parallel_tool_calls: bool,
    /// The response that it goes on from.
    #[schema(required)]
    pub(super) previous_response_id: Option<&'a str>,
    /// As it was asked for.
    pub(super) reasoning: Reasoning<'a>,
    /// Whether it can be read later: false too where it is longer than 1 MiB with all that was said, or the store was away.
    pub(super) store: bool,
    /// As it was asked for.
    #[schema(required, value_type = Option<f64>)]
    pub(super) temperature: Option<&'a RawValue>,
    /// As it was asked for.
    #[schema(value_type = TextForm)]
    pub(super) text: &'a RawValue,
    /// As it was asked for.
    #[schema(value_type = ToolChoice)]
    pub(super) tool_choice: &'a RawValue,
    /// As they were given.
    #[schema(value_type = Vec<FunctionTool>)]
    pub(super) tools: Vec<&'a RawValue>,
    /// As it was asked for.
    #[schema(required, value_type = Option<f64>)]
    pub(super) top_p: Option<&'a RawValue>,
    /// Always `disabled`.
    pub(super) truncation: &'static str,
    /// What it took; null when the backend did not say.
    #[schema(required)]
    pub(super) usage: Option<ResponseUsage>,
    /// As it was asked for.
    #[schema(required)]
    pub(super) user: Option<&'a str>,
    /// The caller's notes.
    #[schema(value_type = BTreeMap<String, String>)]
    pub(super) metadata: &'a RawValue,
}

/// How far a response has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ResponseStatus)]
pub enum Status {
    /// The model answers.
    InProgress,
    /// All is there.
    Completed,
    /// The model was stopped: `incomplete_details` says why.
    Incomplete,
    /// There is no answer, or no more of it: `error` says why.
    Failed,
}

impl Status {
    fn of_items(self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Incomplete | Self::Failed => "incomplete",
        }
    }
}

/// An item of the model's, and how far it has got.
pub(super) struct Output<'a> {
    pub(super) item: &'a Item,
    pub(super) status: Status,
}

impl Serialize for Output<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.item.with_status(self.status.of_items(), serializer)
    }
}

/// Why there is no answer.
#[derive(Clone, Serialize, ToSchema)]
pub struct ResponseFault {
    /// A stable code, such as `backend_invalid_response`.
    pub(super) code: String,
    /// In words.
    pub(super) message: String,
}

/// Why an answer stops early.
#[derive(Clone, Copy, Serialize, ToSchema)]
pub struct IncompleteDetails {
    /// `max_output_tokens` or `content_filter`.
    #[schema(example = "max_output_tokens")]
    pub(super) reason: &'static str,
}

/// How long the model was to think.
#[derive(Serialize, ToSchema)]
pub(super) struct Reasoning<'a> {
    /// As it was asked for.
    #[schema(required)]
    pub(super) effort: Option<&'a str>,
    /// Always null.
    #[schema(required)]
    pub(super) summary: Option<&'a str>,
}

/// Tokens of a response.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct ResponseUsage {
    /// Of everything that the model was given.
    pub(super) input_tokens: u64,
    /// Which of these.
    pub(super) input_tokens_details: InputTokens,
    /// Of what it answered.
    pub(super) output_tokens: u64,
    /// Which of these.
    pub(super) output_tokens_details: OutputTokens,
    /// Both.
    pub(super) total_tokens: u64,
    /// USD, in a stream, whose headers leave before it is known; absent when the model's price is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) cost_usd: Option<f64>,
}

/// Tokens of the input by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct InputTokens {
    /// Those that the backend had in its own cache.
    pub(super) cached_tokens: u64,
}

/// Tokens of the output by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct OutputTokens {
    /// Those that the model thought in.
    pub(super) reasoning_tokens: u64,
}
