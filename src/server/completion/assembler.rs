//! From a stream to a plain answer. In: the data of each chunk. Out: what the chunk adds, and in the end the
//! `chat.completion` that says the same.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::{CHUNK, COMPLETION, CompletionError, MAX_BYTES, MAX_PARTS, Members, usage};
use crate::server::json::{self, Object};
use crate::server::settlement::Usage;

/// What one chunk adds.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Chunk {
    /// Text of choice 0.
    pub text: String,
    /// Its `finish_reason`.
    pub finish_reason: Option<String>,
    /// Whether the chunk has no choice and reports the usage: callers that did not ask for it do not get it.
    pub usage_only: bool,
    /// Choices that begin with this chunk and do not tell their role.
    pub roleless: Vec<u32>,
}

/// Lengths in place of the text: an answer is not for logs.
impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk")
            .field("text_bytes", &self.text.len())
            .field("finish_reason", &self.finish_reason)
            .field("usage_only", &self.usage_only)
            .field("roleless", &self.roleless)
            .finish()
    }
}

/// Puts the chunks of one stream together.
#[derive(Default)]
pub struct Assembler {
    /// `id`, `created`, `model`, `service_tier`, `system_fingerprint`: the last that came.
    head: BTreeMap<&'static str, Box<RawValue>>,
    choices: BTreeMap<u32, Choice>,
    usage: Option<Box<RawValue>>,
    bytes: usize,
    pieces: u64,
    unfaithful: bool,
}

#[derive(Default)]
struct Choice {
    role: Option<String>,
    content: Option<String>,
    refusal: Option<String>,
    tool_calls: BTreeMap<u32, ToolCall>,
    finish_reason: Option<String>,
}

#[derive(Default)]
struct ToolCall {
    id: Option<String>,
    kind: Option<String>,
    name: Option<String>,
    arguments: String,
}

/// Members of a plain answer that are the same in every chunk, in the order they are written.
const HEAD: [&str; 5] = ["id", "created", "model", "service_tier", "system_fingerprint"];

impl Assembler {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the data of an event. After an error the stream is of no more use.
    pub fn push(&mut self, data: &[u8]) -> Result<Chunk, CompletionError> {
        self.add(&json::object(data).map_err(|_| NOT_A_CHUNK)?)
    }

    /// The same of data that has been parsed.
    pub fn add(&mut self, object: &Object<'_>) -> Result<Chunk, CompletionError> {
        self.bytes = self.bytes.saturating_add(object.bytes());
        if self.bytes > MAX_BYTES {
            return Err(CompletionError::TooLarge);
        }
        let mut choices: Option<Vec<&RawValue>> = None;
        let mut reports_usage = false;
        for (key, value) in object.members() {
            match key {
                "choices" => choices = Some(parse_raw(value)?),
                "usage" if value != b"null" => {
                    self.usage = Some(parse_raw::<Box<RawValue>>(value)?);
                    reports_usage = true;
                }
                // `obfuscation` only pads; `object` is told by the form of the answer.
                "usage" | "object" | "obfuscation" => {}
                _ => match HEAD.iter().find(|head| **head == key) {
                    Some(head) if value != b"null" => {
                        self.head.insert(head, parse_raw::<Box<RawValue>>(value)?);
                    }
                    Some(_) => {}
                    None => self.unknown(value),
                },
            }
        }
        let choices = choices.ok_or(NOT_A_CHUNK)?;
        let mut chunk = Chunk { usage_only: choices.is_empty() && reports_usage, ..Chunk::default() };
        for choice in choices {
            self.choice(choice, &mut chunk)?;
        }
        Ok(chunk)
    }

    fn choice(&mut self, raw: &RawValue, chunk: &mut Chunk) -> Result<(), CompletionError> {
        let object = json::object(raw.get().as_bytes()).map_err(|_| NOT_A_CHUNK)?;
        let index = optional::<u32>(&object, "index")?.unwrap_or(0);
        if self.choices.len() >= MAX_PARTS && !self.choices.contains_key(&index) {
            return Err(CompletionError::TooLarge);
        }
        let known = self.choices.remove(&index);
        let begins = known.is_none();
        let mut choice = known.unwrap_or_default();
        for (key, value) in object.members() {
            match key {
                "delta" if value != b"null" => {
                    let text = self.delta(value, &mut choice)?;
                    if index == 0 {
                        chunk.text.push_str(&text.unwrap_or_default());
                    }
                }
                "index" | "delta" | "finish_reason" => {}
                _ => self.unknown(value),
            }
        }
        if let Some(reason) = optional::<String>(&object, "finish_reason")? {
            if index == 0 {
                chunk.finish_reason = Some(reason.clone());
            }
            choice.finish_reason = Some(reason);
        }
        if begins && choice.role.is_none() {
            chunk.roleless.push(index);
        }
        self.choices.insert(index, choice);
        Ok(())
    }

    /// Adds a delta; the text that it holds.
    fn delta(&mut self, raw: &[u8], choice: &mut Choice) -> Result<Option<String>, CompletionError> {
        let object = json::object(raw).map_err(|_| NOT_A_CHUNK)?;
        for (key, value) in object.members() {
            match key {
                "tool_calls" if value != b"null" => {
                    for call in parse_raw::<Vec<&RawValue>>(value)? {
                        self.tool_call(call, choice)?;
                    }
                }
                "role" | "content" | "refusal" | "tool_calls" => {}
                _ => self.unknown(value),
            }
        }
        if let Some(role) = optional::<String>(&object, "role")? {
            choice.role = Some(role);
        }
        let content = optional::<String>(&object, "content")?;
        let refusal = optional::<String>(&object, "refusal")?;
        for (part, whole) in [(&content, &mut choice.content), (&refusal, &mut choice.refusal)] {
            if let Some(part) = part {
                self.pieces += u64::from(!part.is_empty());
                whole.get_or_insert_default().push_str(part);
            }
        }
        Ok(content)
    }

    fn tool_call(&mut self, raw: &RawValue, choice: &mut Choice) -> Result<(), CompletionError> {
        let object = json::object(raw.get().as_bytes()).map_err(|_| NOT_A_CHUNK)?;
        let Some(index) = optional::<u32>(&object, "index")? else {
            // Which call it belongs to cannot be known.
            self.unfaithful = true;
            return Ok(());
        };
        if choice.tool_calls.len() >= MAX_PARTS && !choice.tool_calls.contains_key(&index) {
            return Err(CompletionError::TooLarge);
        }
        let call = choice.tool_calls.entry(index).or_default();
        if let Some(id) = optional::<String>(&object, "id")? {
            call.id = Some(id);
        }
        if let Some(kind) = optional::<String>(&object, "type")? {
            call.kind = Some(kind);
        }
        if let Some(function) = object.non_null("function") {
            let function = json::object(function).map_err(|_| NOT_A_CHUNK)?;
            if let Some(name) = optional::<String>(&function, "name")? {
                call.name.get_or_insert_default().push_str(&name);
            }
            if let Some(arguments) = optional::<String>(&function, "arguments")? {
                self.pieces += u64::from(!arguments.is_empty());
                call.arguments.push_str(&arguments);
            }
            self.unknown_but(&function, &["name", "arguments"]);
        }
        self.unknown_but(&object, &["index", "id", "type", "function"]);
        Ok(())
    }

    fn unknown(&mut self, value: &[u8]) {
        self.unfaithful |= value != b"null";
    }

    fn unknown_but(&mut self, object: &Object<'_>, known: &[&str]) {
        for (_, value) in object.members().filter(|(key, _)| !known.contains(key)) {
            self.unknown(value);
        }
    }

    /// Text of choice 0 so far.
    #[must_use]
    pub fn text(&self) -> &str {
        self.choices.get(&0).and_then(|choice| choice.content.as_deref()).unwrap_or_default()
    }

    /// `finish_reason` of choice 0.
    #[must_use]
    pub fn finish_reason(&self) -> Option<&str> {
        self.choices.get(&0)?.finish_reason.as_deref()
    }

    /// Deltas with something in them, of all choices: about the tokens delivered, where no usage is reported.
    #[must_use]
    pub fn pieces(&self) -> u64 {
        self.pieces
    }

    /// The reported usage, if it can be.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        usage(self.usage.as_deref()?)
    }

    /// Whether every choice has its `finish_reason`, and there is one.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.choices.is_empty() && self.choices.values().all(|choice| choice.finish_reason.is_some())
    }

    /// Whether [`Assembler::completion`] says all that the chunks said. If not, it must not be cached.
    #[must_use]
    pub fn is_faithful(&self) -> bool {
        !self.unfaithful
    }

    /// The chunk with the usage, for backends that send none of its own; None when no usage is reported.
    #[must_use]
    pub fn usage_chunk(&self) -> Option<Vec<u8>> {
        let usage = self.usage.as_ref()?;
        let mut out = self.head(CHUNK);
        out.push("choices", &[(); 0]);
        out.push("usage", usage);
        serde_json::to_vec(&out).ok()
    }

    /// What an answer and its chunks begin with.
    fn head(&self, object: &'static str) -> Members<'_> {
        let mut out = Members::default();
        for key in HEAD {
            if let Some(value) = self.head.get(key) {
                out.0.push((Cow::Borrowed(key), Cow::Borrowed(value)));
            }
            if key == "id" {
                out.push("object", object);
            }
        }
        out
    }

    /// The plain answer.
    #[must_use]
    pub fn completion(&self) -> Vec<u8> {
        let mut out = self.head(COMPLETION);
        let choices: Vec<Members<'_>> =
            self.choices.iter().map(|(index, choice)| choice.members(*index)).collect();
        out.push("choices", &choices);
        out.push("usage", &self.usage);
        serde_json::to_vec(&out).unwrap_or_default()
    }
}

impl Choice {
    fn members(&self, index: u32) -> Members<'_> {
        let mut message = Members::default();
        message.push("role", self.role.as_deref().unwrap_or("assistant"));
        message.push("content", &self.content);
        message.push("refusal", &self.refusal);
        if !self.tool_calls.is_empty() {
            let calls: Vec<Members<'_>> = self.tool_calls.values().map(ToolCall::members).collect();
            message.push("tool_calls", &calls);
        }
        let mut choice = Members::default();
        choice.push("index", &index);
        choice.push("message", &message);
        choice.push("logprobs", &());
        choice.push("finish_reason", &self.finish_reason);
        choice
    }
}

impl ToolCall {
    fn members(&self) -> Members<'_> {
        let mut function = Members::default();
        function.push("name", self.name.as_deref().unwrap_or_default());
        function.push("arguments", &self.arguments);
        let mut call = Members::default();
        call.push("id", &self.id);
        call.push("type", self.kind.as_deref().unwrap_or("function"));
        call.push("function", &function);
        call
    }
}

const NOT_A_CHUNK: CompletionError = CompletionError::Not(CHUNK);

fn parse_raw<'a, T: serde::Deserialize<'a>>(value: &'a [u8]) -> Result<T, CompletionError> {
    serde_json::from_slice(value).map_err(|_| NOT_A_CHUNK)
}

/// A member of this type; None when it is not there or null.
fn optional<T: DeserializeOwned>(object: &Object<'_>, key: &str) -> Result<Option<T>, CompletionError> {
    object.non_null(key).map(parse_raw).transpose()
}
