//! One response on its way. In: a plain chat completion, or the chunks of one. Out: the response object, or the events that
//! tell it as it comes, with rising numbers, as the SDKs read them.
//!
//! An item is told when its first piece comes. A message ends when a call begins; calls end with the answer, since backends may
//! send pieces of several in turn.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::items::{self, Item, Part, Role};
use super::object::{
    IncompleteDetails, InputTokens, Output, OutputTokens, Reasoning, ResponseFault, ResponseObject,
    ResponseUsage, Status,
};
use super::request::Settings;
use super::{Stored, id_text};
use crate::server::completion::{self, CompletionError, to_bytes};
use crate::server::error::{ApiError, Dialect};
use crate::server::pricing::NanoUsd;
use crate::server::stream::sse;

/// One response.
pub struct Turn {
    id: Uuid,
    created_at: i64,
    completed_at: Option<i64>,
    model: String,
    settings: Settings,
    /// Everything that the model was given.
    said: Vec<Item>,
    output: Vec<Said>,
    finish_reason: Option<String>,
    usage: Option<ResponseUsage>,
    status: Status,
    fault: Option<ResponseFault>,
    /// The number of the next event.
    sequence: u64,
}

/// An item of the answer.
struct Said {
    item: Item,
    /// The `index` of a call among the calls of the chat completion.
    index: Option<u32>,
    /// Its end has been told, or nothing can be added to it any more.
    done: bool,
}

/// A chunk, or a plain answer: `delta` and `message` have the same members.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    choices: Vec<Choice<'a>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: u32,
    #[serde(borrow, alias = "message")]
    delta: Option<Delta<'a>>,
    #[serde(borrow)]
    finish_reason: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    refusal: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    tool_calls: Option<Vec<Call<'a>>>,
}

#[derive(Deserialize)]
struct Call<'a> {
    index: Option<u32>,
    id: Option<String>,
    #[serde(borrow)]
    function: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    name: Option<String>,
    #[serde(borrow)]
    arguments: Option<Cow<'a, str>>,
}

/// What a usage says beyond its sums.
#[derive(Default, Deserialize)]
struct Details {
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct CompletionDetails {
    #[serde(default)]
    reasoning_tokens: Option<u64>,
}

/// Bytes of events.
#[derive(Default)]
struct Told(Vec<u8>);

impl Told {
    fn event(&mut self, name: &str, data: &impl Serialize) {
        self.0.extend_from_slice(b"event: ");
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'\n');
        self.0.extend_from_slice(&sse(&to_bytes(data)));
    }
}

/// An event that holds the whole response.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    sequence_number: u64,
    response: ResponseObject<'a>,
}

/// A piece of a text.
#[derive(Serialize)]
struct Piece<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    sequence_number: u64,
    item_id: &'a str,
    output_index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_index: Option<usize>,
    delta: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<[(); 0]>,
}

/// An event about an item.
#[derive(Serialize)]
struct About<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    sequence_number: u64,
    output_index: usize,
    item: Output<'a>,
}

impl Turn {
    /// A response to what was said, by the model with this name.
    #[must_use]
    pub fn new(settings: Settings, said: Vec<Item>, model: &str) -> Self {
        Self {
            id: super::new_id(),
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
            sequence: 0,
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.id
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
        self.take(completion, &mut None)?;
        self.end(None, &mut None);
        Ok(())
    }

    /// What a stream begins with; None once that was told.
    pub fn begin(&mut self) -> Option<Bytes> {
        if self.sequence > 0 {
            return None;
        }
        let mut told = Told::default();
        self.whole("response.created", &mut told);
        self.whole("response.in_progress", &mut told);
        Some(Bytes::from(told.0))
    }

    /// Takes in a chunk; None where nothing is told of it.
    pub fn chunk(&mut self, data: &[u8]) -> Result<Option<Bytes>, CompletionError> {
        let mut told = Some(Told::default());
        self.take(data, &mut told)?;
        let told = told.unwrap_or_default().0;
        Ok((!told.is_empty()).then(|| Bytes::from(told)))
    }

    /// The answer is complete: what ends its items. [`Self::finish`] follows, once it is stored.
    pub fn close(&mut self, cost: Option<NanoUsd>) -> Bytes {
        let mut told = Some(Told::default());
        self.end(cost, &mut told);
        Bytes::from(told.unwrap_or_default().0)
    }

    /// The last event of an answer.
    pub fn finish(&mut self) -> Bytes {
        let mut told = Told::default();
        let name = match self.status {
            Status::Incomplete => "response.incomplete",
            _ => "response.completed",
        };
        self.whole(name, &mut told);
        Bytes::from(told.0)
    }

    /// The last events of a stream that cannot be completed.
    pub fn fail(&mut self, error: &ApiError) -> Bytes {
        let mut told = Told(self.begin().unwrap_or_default().to_vec());
        let body = error.body(Dialect::OpenAi);
        let error = &body["error"];
        let text = |name: &str| error[name].as_str().map(str::to_owned);
        let message = text("message").unwrap_or_default();
        self.settings.store = false;
        self.status = Status::Failed;
        self.fault = Some(ResponseFault {
            code: text("code").unwrap_or_else(|| "server_error".to_owned()),
            message: message.clone(),
        });
        let data = json!({ "type": "error", "sequence_number": self.next(), "code": error["code"], "message": message,
            "param": error["param"] });
        told.event("error", &data);
        self.whole("response.failed", &mut told);
        Bytes::from(told.0)
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
            id: id_text(self.id),
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

    fn next(&mut self) -> u64 {
        let number = self.sequence;
        self.sequence += 1;
        number
    }

    fn whole(&mut self, kind: &str, told: &mut Told) {
        let sequence_number = self.next();
        told.event(kind, &Whole { kind, sequence_number, response: self.object() });
    }

    fn take(&mut self, data: &[u8], told: &mut Option<Told>) -> Result<(), CompletionError> {
        const NOT_ONE: CompletionError = CompletionError::Not("chat completion");
        let answer: Answer<'_> = serde_json::from_slice(data).map_err(|_| NOT_ONE)?;
        if let Some(usage) = answer.usage.and_then(usage_of) {
            self.usage = Some(usage);
        }
        // Of the choices there is one: several cannot be asked for.
        let Some(choice) = answer.choices.into_iter().find(|choice| choice.index == 0) else { return Ok(()) };
        if let Some(delta) = choice.delta {
            self.text(delta.content.as_deref().unwrap_or_default(), false, told);
            self.text(delta.refusal.as_deref().unwrap_or_default(), true, told);
            for call in delta.tool_calls.unwrap_or_default() {
                self.call(call, told);
            }
        }
        if let Some(reason) = choice.finish_reason {
            self.finish_reason = Some(reason.into_owned());
        }
        Ok(())
    }

    /// A piece of a text, or of a refusal.
    fn text(&mut self, piece: &str, refusal: bool, told: &mut Option<Told>) {
        if piece.is_empty() {
            return;
        }
        let output_index = match self.output.last() {
            Some(Said { item: Item::Message { .. }, done: false, .. }) => self.output.len() - 1,
            _ => self.begin_item(
                Item::Message { id: items::new_id("msg"), role: Role::Assistant, content: Vec::new() },
                None,
                told,
            ),
        };
        let begins = match self.output.get(output_index).map(|said| &said.item) {
            Some(Item::Message { content, .. }) => match content.last() {
                Some(Part::Refusal(_)) => !refusal,
                Some(_) => refusal,
                None => true,
            },
            _ => return,
        };
        if begins {
            self.end_part(output_index, told);
            self.begin_part(output_index, refusal, told);
        }
        let sequence_number = if told.is_some() { self.next() } else { 0 };
        let Some(Item::Message { id, content, .. }) =
            self.output.get_mut(output_index).map(|said| &mut said.item)
        else {
            return;
        };
        let content_index = Some(content.len().saturating_sub(1));
        if let Some(Part::Said(text) | Part::Refusal(text)) = content.last_mut() {
            text.push_str(piece);
        }
        if let Some(told) = told {
            let kind = if refusal { "response.refusal.delta" } else { "response.output_text.delta" };
            let logprobs = (!refusal).then_some([]);
            let piece = Piece {
                kind,
                sequence_number,
                item_id: id,
                output_index,
                content_index,
                delta: piece,
                logprobs,
            };
            told.event(kind, &piece);
        }
    }

    /// A piece of a call. Some backends send whole calls without an `index`: those with an id begin a new one.
    fn call(&mut self, call: Call<'_>, told: &mut Option<Told>) {
        let is_call = |said: &Said| matches!(said.item, Item::Call { .. });
        let known = match (call.index, &call.id) {
            (Some(index), _) => {
                self.output.iter().position(|said| is_call(said) && said.index == Some(index))
            }
            (None, Some(_)) => None,
            (None, None) => self.output.iter().rposition(is_call),
        };
        let function = call.function.unwrap_or(Function { name: None, arguments: None });
        let output_index = if let Some(position) = known {
            if let Some(Item::Call { name, .. }) = self.output.get_mut(position).map(|said| &mut said.item) {
                name.push_str(&function.name.unwrap_or_default());
            }
            position
        } else {
            let item = Item::Call {
                id: items::new_id("fc"),
                call_id: call.id.unwrap_or_else(|| items::new_id("call")),
                name: function.name.unwrap_or_default(),
                arguments: String::new(),
            };
            self.begin_item(item, call.index, told)
        };
        let piece = function.arguments.unwrap_or_default();
        if piece.is_empty() {
            return;
        }
        let sequence_number = if told.is_some() { self.next() } else { 0 };
        if let Some(Item::Call { id, arguments, .. }) =
            self.output.get_mut(output_index).map(|said| &mut said.item)
        {
            arguments.push_str(&piece);
            if let Some(told) = told {
                let kind = "response.function_call_arguments.delta";
                let piece = Piece {
                    kind,
                    sequence_number,
                    item_id: id,
                    output_index,
                    content_index: None,
                    delta: &piece,
                    logprobs: None,
                };
                told.event(kind, &piece);
            }
        }
    }

    /// Appends an item; where it stands.
    fn begin_item(&mut self, item: Item, index: Option<u32>, told: &mut Option<Told>) -> usize {
        if let Some(Said { item: Item::Message { .. }, done: false, .. }) = self.output.last() {
            self.end_item(self.output.len() - 1, Status::Completed, told);
        }
        if let Some(told) = told {
            let kind = "response.output_item.added";
            let sequence_number = self.next();
            let item = Output { item: &item, status: Status::InProgress };
            told.event(kind, &About { kind, sequence_number, output_index: self.output.len(), item });
        }
        self.output.push(Said { item, index, done: false });
        self.output.len() - 1
    }

    fn begin_part(&mut self, output_index: usize, refusal: bool, told: &mut Option<Told>) {
        let part = if refusal { Part::Refusal(String::new()) } else { Part::Said(String::new()) };
        let Some(Item::Message { id, content, .. }) =
            self.output.get_mut(output_index).map(|said| &mut said.item)
        else {
            return;
        };
        if let Some(told) = told {
            let kind = "response.content_part.added";
            let data = json!({ "type": kind, "sequence_number": self.sequence, "item_id": id, "output_index": output_index,
                "content_index": content.len(), "part": part });
            self.sequence += 1;
            told.event(kind, &data);
        }
        content.push(part);
    }

    /// Tells the end of the last part of a message, if there is one.
    fn end_part(&mut self, output_index: usize, told: &mut Option<Told>) {
        let Some(Item::Message { id, content, .. }) = self.output.get(output_index).map(|said| &said.item)
        else {
            return;
        };
        let (Some(told), Some(part)) = (told, content.last()) else { return };
        let content_index = content.len() - 1;
        let (kind, text) = match part {
            Part::Refusal(text) => ("response.refusal.done", ("refusal", text)),
            Part::Said(text) | Part::Text(text) => ("response.output_text.done", ("text", text)),
            Part::Image { .. } => return,
        };
        let mut data = json!({ "type": kind, "sequence_number": self.sequence, "item_id": id, "output_index": output_index,
            "content_index": content_index });
        data[text.0] = json!(text.1);
        if text.0 == "text" {
            data["logprobs"] = json!([]);
        }
        told.event(kind, &data);
        let kind = "response.content_part.done";
        let data = json!({ "type": kind, "sequence_number": self.sequence + 1, "item_id": id, "output_index": output_index,
            "content_index": content_index, "part": part });
        told.event(kind, &data);
        self.sequence += 2;
    }

    fn end_item(&mut self, output_index: usize, status: Status, told: &mut Option<Told>) {
        self.end_part(output_index, told);
        if let Some(told) = told
            && let Some(said) = self.output.get(output_index)
        {
            if let Item::Call { id, name, arguments, .. } = &said.item {
                let kind = "response.function_call_arguments.done";
                let data = json!({ "type": kind, "sequence_number": self.sequence, "item_id": id,
                    "output_index": output_index, "name": name, "arguments": arguments });
                self.sequence += 1;
                told.event(kind, &data);
            }
            let kind = "response.output_item.done";
            let item = Output { item: &said.item, status };
            told.event(kind, &About { kind, sequence_number: self.sequence, output_index, item });
            self.sequence += 1;
        }
        if let Some(said) = self.output.get_mut(output_index) {
            said.done = true;
        }
    }

    /// All has come.
    fn end(&mut self, cost: Option<NanoUsd>, told: &mut Option<Told>) {
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
                self.end_item(index, status, told);
            }
        }
        if let Some(usage) = &mut self.usage {
            usage.cost_usd = cost.map(NanoUsd::usd);
        }
    }
}

/// None for what no call can have used.
fn usage_of(raw: &RawValue) -> Option<ResponseUsage> {
    let usage = completion::usage(raw)?;
    let details: Details = serde_json::from_str(raw.get()).unwrap_or_default();
    let cached_tokens = details.prompt_tokens_details.and_then(|details| details.cached_tokens);
    let reasoning_tokens = details.completion_tokens_details.and_then(|details| details.reasoning_tokens);
    Some(ResponseUsage {
        input_tokens: usage.prompt_tokens,
        input_tokens_details: InputTokens {
            cached_tokens: cached_tokens.unwrap_or_default().min(usage.prompt_tokens),
        },
        output_tokens: usage.completion_tokens,
        output_tokens_details: OutputTokens {
            reasoning_tokens: reasoning_tokens.unwrap_or_default().min(usage.completion_tokens),
        },
        total_tokens: usage.total(),
        cost_usd: None,
    })
}

/// JSON of ours.
fn constant(json: &'static str) -> &'static RawValue {
    serde_json::from_str(json).unwrap_or(RawValue::NULL)
}
