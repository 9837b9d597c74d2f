//! The chat completion that asks for a response. In: what was said and the request's settings. Out: its body, the same for
//! equal requests, so that they share a call and an answer with each other and with chat completions.

use std::collections::HashMap;

use serde::{Serialize, Serializer};

use super::calls::{check_ids, results};
use super::items::{Item, Part, Role};
use super::request::{Function, Settings};
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
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::server::json;
    use crate::server::responses::request;

    fn asked(request: &str, system_prompt: Option<&str>) -> Result<String, ApiError> {
        let request = request::read(&json::object(request.as_bytes()).unwrap())?;
        let (body, _) = body("m", &request.input, &request.settings, system_prompt, request.stream)?;
        Ok(serde_json::to_string(&body).unwrap())
    }

    fn messages_of(request: &Value) -> Value {
        let body: Value = serde_json::from_str(&asked(&request.to_string(), None).unwrap()).unwrap();
        body["messages"].clone()
    }

    #[test]
    fn every_setting_has_its_place_and_schemas_stay_as_they_were_written() {
        let request = r#"{"input":"hi","instructions":"be brief","max_output_tokens":9,"temperature":0.50,"top_p":1,"user":"u",
            "tools":[{"type":"function","name":"f","description":"d","parameters":{"z":1,"a":{"y":2,"b":3}},"strict":true}],
            "tool_choice":{"type":"function","name":"f"},"parallel_tool_calls":false,"reasoning":{"effort":"low"},
            "text":{"verbosity":"low","format":{"type":"json_schema","name":"n","schema":{"z":1,"a":2},"strict":true}},"stream":true,
            "metadata":{"a":"b"},"store":false}"#;
        assert_eq!(
            asked(request, Some("unused")).unwrap(),
            concat!(
                r#"{"model":"m","messages":[{"role":"system","content":"be brief"},{"role":"user","content":"hi"}],"#,
                r#""tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"z":1,"a":{"y":2,"b":3}},"strict":true}}],"#,
                r#""tool_choice":{"function":{"name":"f"},"type":"function"},"parallel_tool_calls":false,"#,
                r#""response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"z":1,"a":2},"strict":true}},"#,
                r#""reasoning_effort":"low","verbosity":"low","user":"u","max_completion_tokens":9,"temperature":0.50,"top_p":1,"#,
                r#""stream":true,"stream_options":{"include_usage":true}}"#,
            )
        );
        // Without tools a backend refuses what is about them.
        let bare = asked(r#"{"input":"hi","tool_choice":"auto","parallel_tool_calls":true}"#, None).unwrap();
        assert_eq!(bare, r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#);
    }

    #[test]
    fn the_services_prompt_is_for_those_who_bring_none() {
        let first = |request: &str| {
            let body: Value = serde_json::from_str(&asked(request, Some("service")).unwrap()).unwrap();
            body["messages"][0].clone()
        };
        assert_eq!(first(r#"{"input":"hi"}"#), json!({"role": "system", "content": "service"}));
        assert_eq!(first(r#"{"input":"hi","instructions":"own"}"#)["content"], "own");
        assert_eq!(first(r#"{"input":[{"role":"developer","content":"own"}]}"#)["role"], "developer");
    }

    #[test]
    fn calls_of_one_answer_are_one_message_with_the_text_in_front_of_them() {
        let call = |id: &str| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"});
        let output = |id: &str| json!({"type": "function_call_output", "call_id": id, "output": id});
        let said = json!({"input": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "let me see"},
            call("a"), call("b"), output("a"), output("b"), call("c"), output("c")]});
        let function = json!({"name": "f", "arguments": "{}"});
        let called = |id: &str| json!({"id": id, "type": "function", "function": function});
        assert_eq!(
            messages_of(&said),
            json!([
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "let me see", "tool_calls": [called("a"), called("b")]},
                {"role": "tool", "content": "a", "tool_call_id": "a"},
                {"role": "tool", "content": "b", "tool_call_id": "b"},
                {"role": "assistant", "content": null, "tool_calls": [called("c")]},
                {"role": "tool", "content": "c", "tool_call_id": "c"},
            ])
        );
    }

    #[test]
    fn results_stand_behind_their_calls_however_they_were_said() {
        let call = |id: &str| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"});
        let output =
            |id: &str, output: &str| json!({"type": "function_call_output", "call_id": id, "output": output});
        let model = |text: &str| json!({"role": "assistant", "content": text});
        let user = || json!({"role": "user", "content": "and?"});
        let calls = |ids: &[&str]| -> Value {
            ids.iter()
                .map(|id| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}}))
                .collect()
        };
        let tool = |id: &str, output: &str| json!({"role": "tool", "content": output, "tool_call_id": id});
        for (said, sent) in [
            // The text comes behind the calls.
            (
                json!([call("a"), call("b"), model("so far"), output("b", "2"), output("a", "1")]),
                json!([
                    {"role": "assistant", "content": "so far", "tool_calls": calls(&["a", "b"])}, tool("a", "1"), tool("b", "2"),
                ]),
            ),
            // On both sides.
            (
                json!([model("let me"), call("a"), model("see"), output("a", "1")]),
                json!([
                    {"role": "assistant", "content": [{"type": "text", "text": "let me"}, {"type": "text", "text": "see"}],
                        "tool_calls": calls(&["a"])},
                    tool("a", "1"),
                ]),
            ),
            // Somebody speaks before the function has returned.
            (
                json!([call("a"), user(), output("a", "1"), model("done")]),
                json!([
                    {"role": "assistant", "content": null, "tool_calls": calls(&["a"])}, tool("a", "1"), user(), model("done"),
                ]),
            ),
            // One result comes late.
            (
                json!([call("a"), call("b"), output("a", "1"), model("one more"), output("b", "2")]),
                json!([
                    {"role": "assistant", "content": null, "tool_calls": calls(&["a", "b"])}, tool("a", "1"), tool("b", "2"),
                    model("one more"),
                ]),
            ),
            // A backend begins anew with its ids.
            (
                json!([call("a"), output("a", "1"), model("x"), user(), call("a"), output("a", "2")]),
                json!([
                    {"role": "assistant", "content": null, "tool_calls": calls(&["a"])}, tool("a", "1"), model("x"), user(),
                    {"role": "assistant", "content": null, "tool_calls": calls(&["a"])}, tool("a", "2"),
                ]),
            ),
            (
                json!([call("a"), {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, output("a", "1")]),
                json!([{"role": "assistant", "content": null, "refusal": "no", "tool_calls": calls(&["a"])}, tool("a", "1")]),
            ),
        ] {
            assert_eq!(messages_of(&json!({"input": said})), sent, "{said}");
        }
    }

    #[test]
    fn what_no_backend_could_be_asked_is_refused_by_its_id() {
        let call = |id: &str| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"});
        let output = |id: &str| json!({"type": "function_call_output", "call_id": id, "output": "1"});
        let named = |id: &str| json!({"role": "user", "content": "hi", "id": id});
        for (said, begins) in [
            (json!([call("a"), call("b"), output("a")]), "No tool output found for function call b: add "),
            (json!([call("b"), call("a")]), "No tool output found for function call b: "),
            (json!([call("a"), output("a"), call("a")]), "No tool output found for function call a: "),
            (
                json!([call("x".repeat(999).as_str())]),
                &format!("No tool output found for function call {}: ", "x".repeat(64)),
            ),
            (json!([output("a"), call("a")]), "No tool call found for function call output with call_id a: "),
            (
                json!([call("a"), output("a"), output("a")]),
                "Several tool outputs found for function call a: ",
            ),
            (json!([named("msg_1"), named("msg_2"), named("msg_1")]), "Duplicate item found with id msg_1: "),
        ] {
            let error = asked(&json!({"input": said}).to_string(), None).err().unwrap();
            let ApiError::InvalidField { field, message } = error else { panic!("{said}: {error}") };
            assert!(field == "input" && message.starts_with(begins), "{said}: {message}");
        }
    }

    #[test]
    fn pictures_and_refusals_go_where_a_chat_completion_has_them() {
        let said = json!({"input": [
            {"role": "user", "content": [{"type": "input_text", "text": "what?"},
                {"type": "input_image", "image_url": "https://x.example/1.png", "detail": "low"}]},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]}]});
        assert_eq!(
            messages_of(&said),
            json!([
                {"role": "user", "content": [{"type": "text", "text": "what?"},
                    {"type": "image_url", "image_url": {"url": "https://x.example/1.png", "detail": "low"}}]},
                {"role": "assistant", "content": null, "refusal": "no"},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            ])
        );
    }
}
