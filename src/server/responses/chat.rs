//! The chat completion that asks for a response. In: what was said and the request's settings. Out: its body, the same for
//! equal requests, so that they share a call and an answer with each other and with chat completions.

use std::collections::HashMap;

use serde::{Serialize, Serializer};

use super::calls::{check_ids, results};
use super::items::{Item, Part, Role};
use super::request::Settings;
use super::tools::Function;
use crate::server::completion::Members;
use crate::server::error::ApiError;

/// What a message is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The service's own prompt.
    Service,
    /// The request's `instructions`.
    Instructions,
    /// The item at this place among all that is said.
    Item(usize),
    /// More than one item.
    Several,
}

/// A message of a chat completion.
#[derive(Serialize)]
struct Message<'a> {
    #[serde(skip)]
    origin: Origin,
    role: &'static str,
    content: Option<Content<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<&'a str>,
}

/// A single text is written as such: not every backend takes parts.
struct Content<'a>(Vec<ContentPart<'a>>);

impl Serialize for Content<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [ContentPart::Text { text }] => serializer.serialize_str(text),
            parts => parts.serialize(serializer),
        }
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ContentPart<'a> {
    Text { text: &'a str },
    ImageUrl { image_url: ImageUrl<'a> },
}

#[derive(Serialize)]
struct ImageUrl<'a> {
    url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

#[derive(Serialize)]
struct ToolCall<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    function: Called<'a>,
}

#[derive(Serialize)]
struct Called<'a> {
    name: &'a str,
    arguments: &'a str,
}

/// A tool of a chat completion.
#[derive(Serialize)]
struct Tool<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    function: &'a Function,
}

/// The body, for the model with this name, and the origin of each of its messages. `system_prompt` is the service's own, used
/// where the caller brings none.
pub(in crate::server) fn body<'a>(
    model: &'a str,
    said: &[Item],
    settings: &Settings,
    system_prompt: Option<&str>,
    stream: bool,
) -> Result<(Members<'a>, Vec<Origin>), ApiError> {
    check_ids(said)?;
    let results = results(said)?;
    let brings_own = settings.instructions.is_some() || said.iter().any(Item::is_instruction);
    let own = settings.instructions.as_deref().map(|text| (Origin::Instructions, text));
    let instructions = own.or(system_prompt.filter(|_| !brings_own).map(|text| (Origin::Service, text)));
    let mut body = Members::default();
    body.push("model", model);
    let messages = messages(instructions, said, &results);
    body.push("messages", &messages);
    let origins = messages.iter().map(|message| message.origin).collect();
    if !settings.tools.is_empty() {
        let tool = |tool| Tool { kind: "function", function: tool };
        let tools: Vec<_> = settings.tools.iter().map(|given| tool(&given.function)).collect();
        body.push("tools", &tools);
        match (&settings.chosen, &settings.tool_choice) {
            (Some(name), _) => {
                body.push(
                    "tool_choice",
                    &serde_json::json!({ "type": "function", "function": { "name": name } }),
                );
            }
            (None, Some(word)) => body.push("tool_choice", word),
            (None, None) => {}
        }
        if let Some(parallel) = settings.parallel_tool_calls {
            body.push("parallel_tool_calls", &parallel);
        }
    }
    if let Some(format) = &settings.format {
        body.push("response_format", format);
    }
    for (name, value) in
        [("reasoning_effort", &settings.effort), ("verbosity", &settings.verbosity), ("user", &settings.user)]
    {
        if let Some(value) = value {
            body.push(name, value);
        }
    }
    if let Some(cap) = settings.max_output_tokens {
        body.push("max_completion_tokens", &cap);
    }
    for (name, value) in [("temperature", &settings.temperature), ("top_p", &settings.top_p)] {
        if let Some(value) = value {
            body.push(name, value);
        }
    }
    if stream {
        body.push("stream", &true);
        body.push("stream_options", &serde_json::json!({ "include_usage": true }));
    }
    Ok((body, origins))
}

/// What one answer said and called is one message, and the results of its calls stand directly behind it: backends refuse
/// anything else. Here the text may also come behind the calls, and results wherever the caller put them.
fn messages<'a>(
    instructions: Option<(Origin, &'a str)>,
    said: &'a [Item],
    results: &HashMap<usize, usize>,
) -> Vec<Message<'a>> {
    let mut messages: Vec<Message<'a>> = Vec::new();
    if let Some((origin, text)) = instructions {
        messages.push(Message::new(origin, "system", text));
    }
    // The results that are to follow the last message.
    let mut owed: Vec<Message<'a>> = Vec::new();
    for (place, item) in said.iter().enumerate() {
        match item {
            Item::Message { role: Role::Assistant, content, .. } if !owed.is_empty() => {
                if let Some(last) = messages.last_mut() {
                    last.origin = Origin::Several;
                    last.add(content);
                }
            }
            Item::Message { role, content, .. } => {
                messages.append(&mut owed);
                messages.push(message(Origin::Item(place), *role, content));
            }
            Item::Call { call_id, name, arguments, .. } => {
                match messages.last_mut().filter(|last| last.role == "assistant") {
                    Some(last) => last.origin = Origin::Several,
                    None => messages.push(Message::empty(Origin::Item(place), "assistant")),
                }
                if let Some(last) = messages.last_mut() {
                    let function = Called { name, arguments };
                    last.tool_calls.push(ToolCall { id: call_id, kind: "function", function });
                }
                if let Some(result) = results.get(&place)
                    && let Some(Item::Output { output, .. }) = said.get(*result)
                {
                    let message = Message::new(Origin::Item(*result), "tool", output);
                    owed.push(Message { tool_call_id: Some(call_id), ..message });
                }
            }
            Item::Output { .. } => messages.append(&mut owed),
        }
    }
    messages.append(&mut owed);
    messages
}

fn message(origin: Origin, role: Role, content: &[Part]) -> Message<'_> {
    let role = match role {
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::System => "system",
        Role::Developer => "developer",
    };
    let mut message = Message::empty(origin, role);
    message.add(content);
    if message.content.is_none() && message.refusal.is_none() {
        message.content = Some(Content(vec![ContentPart::Text { text: "" }]));
    }
    message
}

fn part(part: &Part) -> Option<ContentPart<'_>> {
    match part {
        Part::Text(text) | Part::Said(text) => Some(ContentPart::Text { text }),
        Part::Image { url, detail } => {
            Some(ContentPart::ImageUrl { image_url: ImageUrl { url, detail: detail.as_deref() } })
        }
        Part::Refusal(_) => None,
    }
}

impl<'a> Message<'a> {
    fn empty(origin: Origin, role: &'static str) -> Self {
        Self { origin, role, content: None, refusal: None, tool_calls: Vec::new(), tool_call_id: None }
    }

    fn new(origin: Origin, role: &'static str, text: &'a str) -> Self {
        Self { content: Some(Content(vec![ContentPart::Text { text }])), ..Self::empty(origin, role) }
    }

    /// Adds what is said.
    fn add(&mut self, content: &'a [Part]) {
        let mut parts = content.iter().filter_map(part).peekable();
        if parts.peek().is_some() {
            self.content.get_or_insert_with(|| Content(Vec::new())).0.extend(parts);
        }
        let refusal = content.iter().find_map(|part| match part {
            Part::Refusal(refusal) => Some(refusal.as_str()),
            _ => None,
        });
        self.refusal = self.refusal.or(refusal);
    }
}

#[cfg(test)]
mod tests;
