//! The response object. In: a [`super::Turn`]. Out: what callers get of it, plain, in events and from the store; and the types
//! of both for the OpenAPI document.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::items::Item;

/// A response.
#[derive(Serialize)]
pub struct ResponseObject<'a> {
    pub(super) id: String,
    pub(super) object: &'static str,
    pub(super) created_at: i64,
    pub(super) status: Status,
    pub(super) background: bool,
    pub(super) completed_at: Option<i64>,
    pub(super) error: Option<ResponseFault>,
    pub(super) incomplete_details: Option<IncompleteDetails>,
    pub(super) instructions: Option<&'a str>,
    pub(super) max_output_tokens: Option<u32>,
    pub(super) max_tool_calls: Option<u32>,
    pub(super) model: &'a str,
    pub(super) output: Vec<Output<'a>>,
    pub(super) parallel_tool_calls: bool,
    pub(super) previous_response_id: Option<&'a str>,
    pub(super) reasoning: Reasoning<'a>,
    pub(super) store: bool,
    pub(super) temperature: Option<&'a RawValue>,
    pub(super) text: &'a RawValue,
    pub(super) tool_choice: &'a RawValue,
    pub(super) tools: Vec<&'a RawValue>,
    pub(super) top_p: Option<&'a RawValue>,
    pub(super) truncation: &'static str,
    pub(super) usage: Option<ResponseUsage>,
    pub(super) user: Option<&'a str>,
    pub(super) metadata: &'a RawValue,
}

/// How far a response has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
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
#[derive(Serialize)]
pub(super) struct Reasoning<'a> {
    pub(super) effort: Option<&'a str>,
    pub(super) summary: Option<()>,
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
    /// USD, in a stream, whose headers leave before it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
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
