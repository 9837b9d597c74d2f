//! One response on its way. In: what was said, and a plain chat completion or the chunks of one (`assembly.rs`). Out: the
//! response object, and what the store keeps of it; `events.rs` tells it as it comes.

use serde_json::value::RawValue;
use uuid::Uuid;

use super::Stored;
use super::assembly::Said;
use super::events::Told;
use super::ids::{Ids, id_text};
use super::items::Item;
use super::object::{
    IncompleteDetails, Output, Reasoning, ResponseFault, ResponseObject, ResponseUsage, Status,
};
use super::request::Settings;
use crate::server::completion::CompletionError;

/// One response.
pub struct Turn {
    pub(super) ids: Ids,
    created_at: i64,
    pub(super) completed_at: Option<i64>,
    model: String,
    pub(super) settings: Settings,
    /// Everything that the model was given.
    said: Vec<Item>,
    pub(super) output: Vec<Said>,
    pub(super) finish_reason: Option<String>,
    pub(super) usage: Option<ResponseUsage>,
    pub(super) status: Status,
    pub(super) fault: Option<ResponseFault>,
    pub(super) told: Told,
}

impl Turn {
    /// A response to what was said, by the model with this name.
    #[must_use]
    pub fn new(ids: Ids, settings: Settings, said: Vec<Item>, model: &str) -> Self {
        Self {
            ids,
            created_at: jiff::Timestamp::now().as_second(),
            completed_at: None,
            model: model.to_owned(),
            settings,
            said,
            output: Vec::new(),
            finish_reason: None,
            usage: None,
            status: Status::InProgress,
            fault: None,
            told: Told::default(),
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.ids.response()
    }

    /// What was asked for.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What the model is given.
    #[must_use]
    pub fn said(&self) -> &[Item] {
        &self.said
    }

    /// Another model answers, under this name.
    pub fn answered_by(&mut self, model: &str) {
        model.clone_into(&mut self.model);
    }

    /// Whether it is to be stored: a response that failed is not.
    #[must_use]
    pub fn wants_store(&self) -> bool {
        self.settings.store && matches!(self.status, Status::Completed | Status::Incomplete)
    }

    /// It was to be stored and is not.
    pub fn not_stored(&mut self) {
        self.settings.store = false;
    }

    /// As the store has it.
    #[must_use]
    pub fn stored(&self) -> Stored {
        let raw = |item: &Item| serde_json::value::to_raw_value(item).unwrap_or_default();
        Stored {
            response: serde_json::value::to_raw_value(&self.object()).unwrap_or_default(),
            input: self.said.iter().map(raw).collect(),
        }
    }

    /// Takes in a plain chat completion.
    pub fn answer(&mut self, completion: &[u8]) -> Result<(), CompletionError> {
        self.told = Told::silent();
        self.take(completion)?;
        self.end(None);
        Ok(())
    }

    /// The response as it is now.
    #[must_use]
    pub fn object(&self) -> ResponseObject<'_> {
        let settings = &self.settings;
        let last = self.output.len().checked_sub(1);
        let output = self.output.iter().enumerate().map(|(index, said)| Output {
            item: &said.item,
            // What came before the last item is whole, however the answer ended.
            status: if said.done && Some(index) != last { Status::Completed } else { self.status },
        });
        ResponseObject {
            id: id_text(self.id()),
            object: "response",
            created_at: self.created_at,
            status: self.status,
            background: false,
            completed_at: self.completed_at,
            error: self.fault.clone(),
            incomplete_details: self.incomplete_details(),
            instructions: settings.instructions.as_deref(),
            max_output_tokens: settings.max_output_tokens,
            max_tool_calls: None,
            model: &self.model,
            output: output.collect(),
            parallel_tool_calls: settings.parallel_tool_calls.unwrap_or(true),
            previous_response_id: settings.previous.as_deref(),
            reasoning: Reasoning { effort: settings.effort.as_deref(), summary: None },
            store: settings.store,
            temperature: settings.temperature.as_deref(),
            text: settings.text.as_deref().unwrap_or_else(|| constant(r#"{"format":{"type":"text"}}"#)),
            tool_choice: settings.tool_choice.as_deref().unwrap_or_else(|| constant(r#""auto""#)),
            tools: settings.tools.iter().map(|tool| &*tool.raw).collect(),
            top_p: settings.top_p.as_deref(),
            truncation: "disabled",
            usage: self.usage,
            user: settings.user.as_deref(),
            metadata: settings.metadata.as_deref().unwrap_or_else(|| constant("{}")),
        }
    }

    fn incomplete_details(&self) -> Option<IncompleteDetails> {
        let reason = match (self.status, self.finish_reason.as_deref()) {
            (Status::Incomplete, Some("length")) => "max_output_tokens",
            (Status::Incomplete, Some("content_filter")) => "content_filter",
            _ => return None,
        };
        Some(IncompleteDetails { reason })
    }
}

/// JSON of ours.
fn constant(json: &'static str) -> &'static RawValue {
    serde_json::from_str(json).unwrap_or(RawValue::NULL)
}
