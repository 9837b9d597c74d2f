//! The chat completion that asks for a response. In: what was said and the request's settings. Out: its body, the same for
//! equal requests, so that they share a call and an answer with each other and with chat completions.

use std::collections::HashSet;

use serde::Serialize;

use super::items::{Item, Part, Role};
use super::request::{Function, Settings};
use crate::server::completion::Members;
use crate::server::error::ApiError;

/// A message of a chat completion.
#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Option<Content<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(&'a str),
    Parts(Vec<ContentPart<'a>>),
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

/// The body, for the model with this name. `system_prompt` is the service's own, used where the caller brings none.
pub(in crate::server) fn body<'a>(
    model: &'a str,
    said: &[Item],
    settings: &Settings,
    system_prompt: Option<&str>,
    stream: bool,
) -> Result<Members<'a>, ApiError> {
    check_outputs(said)?;
    let brings_own = settings.instructions.is_some() || said.iter().any(Item::is_instruction);
    let instructions = settings.instructions.as_deref().or(system_prompt.filter(|_| !brings_own));
    let mut body = Members::default();
    body.push("model", model);
    body.push("messages", &messages(instructions, said));
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
    Ok(body)
}

/// What a function returned must be of a call that was made: models are confused by anything else, and backends refuse it in
/// words of another API.
fn check_outputs(said: &[Item]) -> Result<(), ApiError> {
    let mut called = HashSet::new();
    for item in said {
        match item {
            Item::Call { call_id, .. } => {
                called.insert(call_id.as_str());
            }
            Item::Output { call_id, .. } if !called.contains(call_id.as_str()) => {
                return Err(ApiError::InvalidField {
                    field: "input".to_owned(),
                    message: "there is no function_call with the call_id of a function_call_output: send the call along, or the \
                              previous_response_id of the response that made it"
                        .to_owned(),
                });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Calls of one answer belong to one message, with the text in front of them.
fn messages<'a>(instructions: Option<&'a str>, said: &'a [Item]) -> Vec<Message<'a>> {
    let mut messages: Vec<Message<'a>> = Vec::new();
    if let Some(text) = instructions {
        messages.push(Message::new("system", Some(Content::Text(text))));
    }
    for item in said {
        match item {
            Item::Message { role, content, .. } => messages.push(message(*role, content)),
            Item::Call { call_id, name, arguments, .. } => {
                if messages.last().is_none_or(|last| last.role != "assistant") {
                    messages.push(Message::new("assistant", None));
                }
                if let Some(last) = messages.last_mut() {
                    let function = Called { name, arguments };
                    last.tool_calls.push(ToolCall { id: call_id, kind: "function", function });
                }
            }
            Item::Output { call_id, output, .. } => {
                let message = Message::new("tool", Some(Content::Text(output)));
                messages.push(Message { tool_call_id: Some(call_id), ..message });
            }
        }
    }
    messages
}

fn message(role: Role, content: &[Part]) -> Message<'_> {
    let name = match role {
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::System => "system",
        Role::Developer => "developer",
    };
    let refusal = content.iter().find_map(|part| match part {
        Part::Refusal(refusal) => Some(refusal.as_str()),
        _ => None,
    });
    let parts: Vec<_> = content.iter().filter_map(part).collect();
    let content = match (parts.as_slice(), refusal) {
        ([ContentPart::Text { text }], _) => Some(Content::Text(text)),
        ([], Some(_)) => None,
        ([], None) => Some(Content::Text("")),
        _ => Some(Content::Parts(parts)),
    };
    Message { refusal, ..Message::new(name, content) }
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
    fn new(role: &'static str, content: Option<Content<'a>>) -> Self {
        Self { role, content, refusal: None, tool_calls: Vec::new(), tool_call_id: None }
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
        let body = body("m", &request.input, &request.settings, system_prompt, request.stream)?;
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
        let alone = json!({"input": [output("a"), call("a")]}).to_string();
        let error = asked(&alone, None).err().unwrap();
        assert!(matches!(&error, ApiError::InvalidField { field, .. } if field == "input"), "{error}");
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
