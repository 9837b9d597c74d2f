//! An answer put together. In: a chat completion, or one chunk after the other. Out: the items of a response, and, for a
//! stream, an event for each piece of them.
//!
//! An item is told when its first piece comes. A message ends when a call begins; calls end with the answer, since backends may
//! send pieces of several in turn.

use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::delta::{Answer, Call, usage_of};
use super::items::{Item, Part, Role};
use super::object::{Output, Status};
use super::turn::Turn;
use crate::server::completion::CompletionError;
use crate::server::pricing::NanoUsd;

/// An item of the answer.
pub(super) struct Said {
    pub(super) item: Item,
    /// The `index` of a call among the calls of the chat completion.
    index: Option<u32>,
    /// Its end has been told, or nothing can be added to it any more.
    pub(super) done: bool,
}

/// The rest of an event about a piece of a text.
#[derive(Serialize)]
struct Piece<'a> {
    item_id: &'a str,
    output_index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_index: Option<usize>,
    delta: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<[(); 0]>,
}

/// The rest of an event about an item.
#[derive(Serialize)]
struct About<'a> {
    output_index: usize,
    item: Output<'a>,
}

impl Turn {
    /// Takes in a chunk, or the whole.
    pub(super) fn take(&mut self, data: &[u8]) -> Result<(), CompletionError> {
        const NOT_ONE: CompletionError = CompletionError::Not("chat completion");
        let answer: Answer<'_> = serde_json::from_slice(data).map_err(|_| NOT_ONE)?;
        if let Some(usage) = answer.usage.and_then(usage_of) {
            self.usage = Some(usage);
        }
        // Of the choices there is one: several cannot be asked for.
        let Some(choice) = answer.choices.into_iter().find(|choice| choice.index == 0) else { return Ok(()) };
        if let Some(delta) = choice.delta {
            self.text(delta.content.as_deref().unwrap_or_default(), false);
            self.text(delta.refusal.as_deref().unwrap_or_default(), true);
            for call in delta.tool_calls.unwrap_or_default() {
                self.call(call);
            }
        }
        if let Some(reason) = choice.finish_reason {
            self.finish_reason = Some(reason.into_owned());
        }
        Ok(())
    }

    /// All has come.
    pub(super) fn end(&mut self, cost: Option<NanoUsd>) {
        self.status = match self.finish_reason.as_deref() {
            // No reason is not a good one.
            None | Some("length" | "content_filter") => Status::Incomplete,
            Some(_) => Status::Completed,
        };
        if self.status == Status::Completed {
            self.completed_at = Some(jiff::Timestamp::now().as_second());
        }
        let last = self.output.len().checked_sub(1);
        for index in 0..self.output.len() {
            if self.output.get(index).is_some_and(|said| !said.done) {
                let status = if Some(index) == last { self.status } else { Status::Completed };
                self.end_item(index, status);
            }
        }
        if let Some(usage) = &mut self.usage {
            usage.cost_usd = cost.map(NanoUsd::usd);
        }
    }

    /// A piece of a text, or of a refusal.
    fn text(&mut self, piece: &str, refusal: bool) {
        if piece.is_empty() {
            return;
        }
        let last = self.output.last();
        let goes_on = matches!(last, Some(Said { item: Item::Message { .. }, done: false, .. }));
        let output_index = if goes_on {
            self.output.len() - 1
        } else {
            let id = self.ids.item("msg");
            self.begin_item(Item::Message { id, role: Role::Assistant, content: Vec::new() }, None)
        };
        let is_refusal = match self.output.get(output_index).map(|said| &said.item) {
            Some(Item::Message { content, .. }) => {
                content.last().map(|part| matches!(part, Part::Refusal(_)))
            }
            _ => return,
        };
        if is_refusal != Some(refusal) {
            self.end_part(output_index);
            self.begin_part(output_index, refusal);
        }
        let Some(Item::Message { id, content, .. }) =
            self.output.get_mut(output_index).map(|said| &mut said.item)
        else {
            return;
        };
        let content_index = Some(content.len().saturating_sub(1));
        if let Some(Part::Said(text) | Part::Refusal(text)) = content.last_mut() {
            text.push_str(piece);
        }
        let kind = if refusal { "response.refusal.delta" } else { "response.output_text.delta" };
        let logprobs = (!refusal).then_some([]);
        self.told.event(kind, &Piece { item_id: id, output_index, content_index, delta: piece, logprobs });
    }

    /// A piece of a call.
    fn call(&mut self, call: Call<'_>) {
        let id = call.id.filter(|id| !id.is_empty());
        let function = call.function.unwrap_or_default();
        let more = function.name.unwrap_or_default();
        let output_index = if let Some(position) = self.begun(call.index, id.as_deref(), &more) {
            if let Some(Item::Call { name, .. }) = self.output.get_mut(position).map(|said| &mut said.item) {
                name.push_str(&more);
            }
            position
        } else {
            let item = Item::Call {
                id: self.ids.item("fc"),
                call_id: id.unwrap_or_else(|| format!("call_{}", Uuid::new_v4().simple())),
                name: more,
                arguments: String::new(),
            };
            self.begin_item(item, call.index)
        };
        let piece = function.arguments.unwrap_or_default();
        if piece.is_empty() {
            return;
        }
        if let Some(Item::Call { id, arguments, .. }) =
            self.output.get_mut(output_index).map(|said| &mut said.item)
        {
            arguments.push_str(&piece);
            let piece =
                Piece { item_id: id, output_index, content_index: None, delta: &piece, logprobs: None };
            self.told.event("response.function_call_arguments.delta", &piece);
        }
    }

    /// The call that a piece goes on with. Some backends send whole calls without an `index`: those with an id begin a new one.
    /// Others give several whole calls the same `index`: those with another id and a name begin a new one too. An id alone does
    /// not: there are backends that make up another one for each piece.
    fn begun(&self, index: Option<u32>, id: Option<&str>, name: &str) -> Option<usize> {
        let is_call = |said: &Said| matches!(said.item, Item::Call { .. });
        match (index, id) {
            (Some(_), _) => {
                let position = self.output.iter().rposition(|said| is_call(said) && said.index == index)?;
                let same = match self.output.get(position).map(|said| &said.item) {
                    Some(Item::Call { call_id, .. }) => id.is_none_or(|id| id == call_id),
                    _ => false,
                };
                (same || name.is_empty()).then_some(position)
            }
            (None, Some(_)) => None,
            (None, None) => self.output.iter().rposition(is_call),
        }
    }

    /// Appends an item; where it stands.
    fn begin_item(&mut self, item: Item, index: Option<u32>) -> usize {
        let output_index = self.output.len();
        if let Some(Said { item: Item::Message { .. }, done: false, .. }) = self.output.last() {
            self.end_item(output_index - 1, Status::Completed);
        }
        let status = Status::InProgress;
        let about = About { output_index, item: Output { item: &item, status } };
        self.told.event("response.output_item.added", &about);
        self.output.push(Said { item, index, done: false });
        output_index
    }

    fn begin_part(&mut self, output_index: usize, refusal: bool) {
        let part = if refusal { Part::Refusal(String::new()) } else { Part::Said(String::new()) };
        if let Some(Item::Message { id, content, .. }) =
            self.output.get_mut(output_index).map(|said| &mut said.item)
        {
            let about = json!({ "item_id": id, "output_index": output_index, "content_index": content.len(), "part": part });
            self.told.event("response.content_part.added", &about);
            content.push(part);
        }
    }

    /// Tells the end of the last part of a message, if there is one.
    fn end_part(&mut self, output_index: usize) {
        let Some(Item::Message { id, content, .. }) = self.output.get(output_index).map(|said| &said.item)
        else {
            return;
        };
        let Some(part) = content.last() else { return };
        let mut about =
            json!({ "item_id": id, "output_index": output_index, "content_index": content.len() - 1 });
        let mut whole = about.clone();
        whole["part"] = json!(part);
        let kind = match part {
            Part::Refusal(refusal) => {
                about["refusal"] = json!(refusal);
                "response.refusal.done"
            }
            Part::Said(text) | Part::Text(text) => {
                about["text"] = json!(text);
                about["logprobs"] = json!([]);
                "response.output_text.done"
            }
            Part::Image { .. } => return,
        };
        self.told.event(kind, &about);
        self.told.event("response.content_part.done", &whole);
    }

    fn end_item(&mut self, output_index: usize, status: Status) {
        self.end_part(output_index);
        let Some(said) = self.output.get_mut(output_index) else { return };
        said.done = true;
        if let Item::Call { id, name, arguments, .. } = &said.item {
            let about =
                json!({ "item_id": id, "output_index": output_index, "name": name, "arguments": arguments });
            self.told.event("response.function_call_arguments.done", &about);
        }
        let about = About { output_index, item: Output { item: &said.item, status } };
        self.told.event("response.output_item.done", &about);
    }
}
