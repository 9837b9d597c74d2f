//! What a response is asked as: its settings, and who said what in which order.

use serde_json::{Value, json};

use super::*;
use crate::server::json;
use crate::server::responses::items::Given;
use crate::server::responses::request;

fn asked(request: &str, system_prompt: Option<&str>) -> Result<String, ApiError> {
    let request = request::read(&json::object(request.as_bytes()).unwrap())?;
    let item = |given| match given {
        Given::Item(item) => item,
        Given::Reference(id) => panic!("{id}"),
    };
    let said: Vec<Item> = request.input.into_iter().map(item).collect();
    let (body, _) = body("m", &said, &request.settings, system_prompt, request.stream)?;
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
        (json!([call("a"), output("a"), output("a")]), "Several tool outputs found for function call a: "),
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
