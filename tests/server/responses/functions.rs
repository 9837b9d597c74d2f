//! Functions that the model calls, plain and in a stream, and what they returned.

use serde_json::json;

use super::{answered, calls, chunk, kinds, respond, sent, streamed, text, weather};
use crate::mock_openai::{End, MockOpenAi, Piece, Script, event};
use crate::server::{TestServer, openai};

#[tokio::test]
async fn functions_are_called_plain_and_their_results_go_on() {
    let mock = MockOpenAi::start().await;
    mock.script(calls(
        Some("Let me see."),
        &[("call_1", "weather", "{\"city\":\"Bern\"}"), ("call_2", "weather", "{}")],
    ));
    mock.script(Script::Words(2));
    let server = TestServer::start(openai(&mock.base_url())).await;
    let asked = json!({"input": "Weather?", "tools": [weather()], "tool_choice": "required", "instructions": "first"});
    let response = answered(&server, &asked).await;
    let output = response["output"].as_array().unwrap();
    assert_eq!(
        output.iter().map(|item| item["type"].as_str().unwrap()).collect::<Vec<_>>(),
        ["message", "function_call", "function_call"]
    );
    assert!(output.iter().all(|item| item["status"] == "completed"));
    assert_eq!(
        (&output[1]["call_id"], &output[1]["name"], &output[1]["arguments"]),
        (&json!("call_1"), &json!("weather"), &json!("{\"city\":\"Bern\"}"))
    );
    assert_eq!((&response["tools"], &response["tool_choice"]), (&json!([weather()]), &json!("required")));
    assert_eq!(response["usage"]["input_tokens_details"]["cached_tokens"], 8);
    assert_eq!(response["usage"]["output_tokens_details"]["reasoning_tokens"], 3);
    assert_eq!(sent(&mock, 0)["tools"][0]["function"]["name"], "weather");

    let results = json!([{"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
        {"type": "function_call_output", "call_id": "call_2", "output": "rain"}]);
    let next = answered(
        &server,
        &json!({"input": results, "previous_response_id": response["id"], "tools": [weather()]}),
    )
    .await;
    assert_eq!((text(&next), &next["previous_response_id"]), ("word0 word1".to_owned(), &response["id"]));
    let messages = sent(&mock, 1)["messages"].clone();
    let roles: Vec<_> =
        messages.as_array().unwrap().iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "tool"], "instructions are of one response alone");
    assert_eq!(messages[1]["content"], "Let me see.");
    assert_eq!(messages[1]["tool_calls"][1]["id"], "call_2");
    assert_eq!(messages[3], json!({"role": "tool", "tool_call_id": "call_2", "content": "rain"}));

    let orphan = json!({"input": [{"type": "function_call_output", "call_id": "call_9", "output": "x"}], "previous_response_id": response["id"]});
    let refused = respond(&server, &orphan).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["error"]["param"]), (400, &json!("input")));
}

#[tokio::test]
async fn functions_are_called_in_a_stream() {
    let mock = MockOpenAi::start().await;
    let call = |index: u32, id: Option<&str>, name: Option<&str>, arguments: &str| {
        let mut call = json!({"index": index, "function": {"arguments": arguments}});
        if let (Some(id), Some(name)) = (id, name) {
            call["id"] = json!(id);
            call["type"] = json!("function");
            call["function"]["name"] = json!(name);
        }
        chunk(&json!({"tool_calls": [call]}), None)
    };
    let pieces = vec![
        chunk(&json!({"role": "assistant", "content": "Hm"}), None),
        call(0, Some("call_1"), Some("weather"), ""),
        call(0, None, None, "{\"city\":"),
        call(1, Some("call_2"), Some("time"), "{"),
        // Pieces of two calls in turn.
        call(0, None, None, "1}"),
        call(1, None, None, "}"),
        chunk(&json!({}), Some("tool_calls")),
        Piece::Send(event("[DONE]")),
    ];
    mock.script(Script::Events(pieces, End::Clean));
    let server = TestServer::start(openai(&mock.base_url())).await;
    let events = streamed(&server, json!({"input": "a", "tools": [weather()]})).await;
    assert_eq!(
        kinds(&events)[2..],
        [
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let done: Vec<_> =
        events.iter().filter(|event| event["type"] == "response.function_call_arguments.done").collect();
    assert_eq!(
        done.iter()
            .map(|event| (
                event["output_index"].as_u64().unwrap(),
                event["name"].as_str().unwrap(),
                event["arguments"].as_str().unwrap()
            ))
            .collect::<Vec<_>>(),
        [(1, "weather", "{\"city\":1}"), (2, "time", "{}")]
    );
    let output = events.last().unwrap()["response"]["output"].clone();
    assert_eq!((&output[1]["call_id"], &output[2]["call_id"]), (&json!("call_1"), &json!("call_2")));
    assert_eq!(output[1]["id"], done[0]["item_id"]);
}

#[tokio::test]
async fn whole_calls_without_an_index_and_a_refusal_are_told_too() {
    let mock = MockOpenAi::start().await;
    let calls = json!([{"id": "a", "function": {"name": "f", "arguments": "1"}}, {"id": "b", "function": {"name": "g", "arguments": "2"}}]);
    mock.script(Script::Events(
        vec![chunk(&json!({"tool_calls": calls}), Some("tool_calls")), Piece::Send(event("[DONE]"))],
        End::Clean,
    ));
    mock.script(Script::Events(
        vec![
            chunk(&json!({"refusal": "I "}), None),
            chunk(&json!({"refusal": "won't"}), Some("stop")),
            Piece::Send(event("[DONE]")),
        ],
        End::Clean,
    ));
    let server = TestServer::start(openai(&mock.base_url())).await;
    let events = streamed(&server, json!({"input": "a"})).await;
    let output = events.last().unwrap()["response"]["output"].clone();
    assert_eq!(
        (&output[0]["arguments"], &output[1]["name"], &output[1]["arguments"]),
        (&json!("1"), &json!("g"), &json!("2"))
    );
    let events = streamed(&server, json!({"input": "b"})).await;
    assert_eq!(
        kinds(&events)[3..7],
        [
            "response.content_part.added",
            "response.refusal.delta",
            "response.refusal.delta",
            "response.refusal.done"
        ]
    );
    assert_eq!(events[6]["refusal"], "I won't");
    let output = &events.last().unwrap()["response"]["output"][0];
    assert_eq!(output["content"], json!([{"type": "refusal", "refusal": "I won't"}]));
}

#[tokio::test]
async fn a_text_behind_the_calls_leaves_a_conversation_that_goes_on() {
    let mock = MockOpenAi::start().await;
    let calls = json!([{"index": 0, "id": "call_1", "function": {"name": "weather", "arguments": "{}"}}]);
    let told = || {
        let pieces = vec![
            chunk(&json!({"tool_calls": calls}), None),
            chunk(&json!({"content": "Let me "}), None),
            chunk(&json!({"content": "see."}), Some("tool_calls")),
            Piece::Send(event("[DONE]")),
        ];
        Script::Events(pieces, End::Clean)
    };
    mock.script(told()).script(Script::Words(1)).script(Script::Words(1));
    let server = TestServer::start(openai(&mock.base_url())).await;
    let question = json!({"role": "user", "content": "Weather?"});
    let events = streamed(&server, json!({"input": [question], "tools": [weather()]})).await;
    let response = events.last().unwrap()["response"].clone();
    let kinds: Vec<_> =
        response["output"].as_array().unwrap().iter().map(|item| item["type"].clone()).collect();
    assert_eq!(kinds, ["function_call", "message"], "as it was told");

    let output = json!({"type": "function_call_output", "call_id": "call_1", "output": "sunny"});
    answered(&server, &json!({"input": [output], "previous_response_id": response["id"]})).await;
    // The same by a caller who keeps the conversation itself.
    let mut input = vec![question];
    input.extend(response["output"].as_array().unwrap().clone());
    input.push(output);
    answered(&server, &json!({"input": input})).await;
    let function = json!({"name": "weather", "arguments": "{}"});
    for request in [1, 2] {
        assert_eq!(
            sent(&mock, request)["messages"],
            json!([
                {"role": "user", "content": "Weather?"},
                {"role": "assistant", "content": "Let me see.", "tool_calls": [{"id": "call_1", "type": "function", "function": function}]},
                {"role": "tool", "content": "sunny", "tool_call_id": "call_1"},
            ])
        );
    }
}

#[tokio::test]
async fn a_call_without_its_output_is_refused_by_its_id() {
    let mock = MockOpenAi::start().await;
    mock.script(calls(None, &[("call_1", "weather", "{}"), ("call_2", "weather", "{}")]));
    let server = TestServer::start(openai(&mock.base_url())).await;
    let response = answered(&server, &json!({"input": "Weather?", "tools": [weather()]})).await;
    let output = json!({"type": "function_call_output", "call_id": "call_1", "output": "sunny"});
    let orphan = json!({"type": "function_call_output", "call_id": "call_9", "output": "sunny"});
    for (input, begins) in [
        (json!("And now?"), "No tool output found for function call call_1: "),
        (json!([output]), "No tool output found for function call call_2: "),
        (json!([orphan]), "No tool call found for function call output with call_id call_9: "),
        (json!([output, output]), "Several tool outputs found for function call call_1: "),
    ] {
        for stream in [false, true] {
            let body = json!({"input": input, "previous_response_id": response["id"], "stream": stream});
            let refused = respond(&server, &body).await;
            let error = refused.json()["error"].clone();
            assert_eq!(
                (refused.status.as_u16(), &error["code"], &error["param"]),
                (400, &json!("invalid_value"), &json!("input")),
                "{error}"
            );
            assert!(error["message"].as_str().unwrap().starts_with(begins), "{error}");
        }
    }
    assert_eq!(mock.count(), 1, "the backend is asked for nothing that it would refuse");
}

#[tokio::test]
async fn calls_are_told_apart_however_a_backend_numbers_them() {
    let mock = MockOpenAi::start().await;
    let call = |id: &str, name: Option<&str>, arguments: &str| {
        let function = json!({"name": name, "arguments": arguments});
        chunk(&json!({"tool_calls": [{"index": 0, "id": id, "function": function}]}), None)
    };
    let end = || [chunk(&json!({}), Some("tool_calls")), Piece::Send(event("[DONE]"))];
    // Whole calls, each with the index 0.
    let mut whole = vec![call("a", Some("f"), "1"), call("b", Some("g"), "2")];
    whole.extend(end());
    // A new id with each piece of one call.
    let mut pieces = vec![call("a", Some("f"), "{"), call("b", None, "}")];
    pieces.extend(end());
    // No id worth the name.
    let mut nameless = vec![call("", Some("f"), "{"), call("", None, "}")];
    nameless.extend(end());
    for (pieces, told) in
        [(whole, vec![("f", "1"), ("g", "2")]), (pieces, vec![("f", "{}")]), (nameless, vec![("f", "{}")])]
    {
        mock.script(Script::Events(pieces, End::Clean));
        let server = TestServer::start(openai(&mock.base_url())).await;
        let events = streamed(&server, json!({"input": "a"})).await;
        let output = events.last().unwrap()["response"]["output"].clone();
        let came: Vec<_> = output
            .as_array()
            .unwrap()
            .iter()
            .map(|item| (item["name"].as_str().unwrap(), item["arguments"].as_str().unwrap()))
            .collect();
        assert_eq!(came, told);
        assert!(output.as_array().unwrap().iter().all(|item| !item["call_id"].as_str().unwrap().is_empty()));
    }
}
