//! `/v1/responses`: plain and streamed, functions, and what is stored of it, over the built-in backend and a scripted one.

use std::time::Duration;

use ::http::Method;
use bytes::Bytes;
use chatservice::server::config::{ModelConfig, PriceConfig, RequestDefaults, RequestLimit};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::http::{self, Answer};
use crate::metrics;
use crate::mock_openai::{End, MockOpenAi, Piece, Script, event, whole_stream, word_event};
use crate::redis_server::RedisServer;
use crate::server::{TestServer, cache, echo, openai};

async fn respond(server: &TestServer, body: &Value) -> Answer {
    http::post(&server.at("/v1/responses"), body).await
}

/// One that is answered.
async fn answered(server: &TestServer, body: &Value) -> Value {
    let answer = respond(server, body).await;
    assert_eq!(answer.status, 200, "{body}: {:?}", answer.body);
    answer.json()
}

fn text(response: &Value) -> String {
    let parts =
        response["output"].as_array().unwrap().iter().filter_map(|item| item["content"].as_array()).flatten();
    parts.filter_map(|part| part["text"].as_str()).collect()
}

/// The events of a stream: each has the name of its type, and they are numbered from 0.
fn events(answer: &Answer) -> Vec<Value> {
    let text = std::str::from_utf8(&answer.body).unwrap();
    let events: Vec<Value> = text
        .split("\n\n")
        .filter(|event| !event.is_empty() && !event.starts_with(':'))
        .map(|event| {
            let (name, data) = event.split_once('\n').unwrap();
            let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            assert_eq!(name.strip_prefix("event: ").unwrap(), data["type"], "{event}");
            data
        })
        .collect();
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number, "{event}");
    }
    events
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

async fn streamed(server: &TestServer, mut body: Value) -> Vec<Value> {
    body["stream"] = json!(true);
    let answer = respond(server, &body).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    assert_eq!(answer.header("content-type"), "text/event-stream");
    assert_eq!(answer.header("x-accel-buffering"), "no");
    events(&answer)
}

/// A plain answer that calls functions.
fn calls(text: Option<&str>, calls: &[(&str, &str, &str)]) -> Script {
    let calls: Vec<Value> = calls
        .iter()
        .map(|(id, name, arguments)| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}))
        .collect();
    let body = json!({"id": "c", "object": "chat.completion", "created": 1, "model": "mock", "choices": [{"index": 0,
        "message": {"role": "assistant", "content": text, "tool_calls": calls}, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13,
            "prompt_tokens_details": {"cached_tokens": 8}, "completion_tokens_details": {"reasoning_tokens": 3}}});
    Script::Status(200, vec![], body.to_string())
}

fn chunk(delta: &Value, finish_reason: Option<&str>) -> Piece {
    let choice = json!({"index": 0, "delta": delta, "finish_reason": finish_reason});
    let chunk = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "mock", "choices": [choice]});
    Piece::Send(event(&chunk.to_string()))
}

fn weather() -> Value {
    json!({"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}})
}

fn sent(mock: &MockOpenAi, request: usize) -> Value {
    serde_json::from_slice(&mock.requests()[request].body).unwrap()
}

#[tokio::test]
async fn a_plain_response_is_what_the_sdks_parse() {
    let server = TestServer::start(echo()).await;
    let body = json!({"input": "Hello there", "instructions": "be kind", "metadata": {"a": "b"}, "temperature": 0.5});
    let answer = respond(&server, &body).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    for header in
        ["x-request-id", "openai-processing-ms", "x-process-time", "x-chat-cost-usd", "x-upstream-request-id"]
    {
        assert!(!answer.header(header).is_empty(), "{header}");
    }
    assert_eq!(answer.header("x-chat-cache"), "bypass");
    let response = answer.json();
    let id = response["id"].as_str().unwrap();
    assert!(id.starts_with("resp_") && id.len() == 37, "{id}");
    assert!(response["created_at"].as_i64() <= response["completed_at"].as_i64());
    let output = &response["output"][0];
    assert!(output["id"].as_str().unwrap().starts_with("msg_"));
    assert_eq!(
        (&output["type"], &output["role"], &output["status"], &output["content"]),
        (
            &json!("message"),
            &json!("assistant"),
            &json!("completed"),
            &json!([{"type": "output_text", "text": "Hello there", "annotations": [], "logprobs": []}])
        )
    );
    for (member, value) in [
        ("object", json!("response")),
        ("status", json!("completed")),
        ("error", json!(null)),
        ("incomplete_details", json!(null)),
        ("instructions", json!("be kind")),
        ("model", json!("echo-1")),
        ("metadata", json!({"a": "b"})),
        ("temperature", json!(0.5)),
        ("top_p", json!(null)),
        ("tools", json!([])),
        ("tool_choice", json!("auto")),
        ("parallel_tool_calls", json!(true)),
        ("previous_response_id", json!(null)),
        ("store", json!(true)),
        ("text", json!({"format": {"type": "text"}})),
        ("truncation", json!("disabled")),
        ("reasoning", json!({"effort": null, "summary": null})),
    ] {
        assert_eq!(response[member], value, "{member}");
    }
    assert_eq!(
        response["usage"],
        json!({"input_tokens": 4, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 2,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 6})
    );
}

#[tokio::test]
async fn a_stream_tells_every_item_part_and_piece_and_the_whole_last() {
    let server = TestServer::start(echo()).await;
    let events = streamed(&server, json!({"input": "one two"})).await;
    assert_eq!(
        kinds(&events),
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    assert_eq!(events[0]["response"]["status"], "in_progress");
    assert_eq!(events[0]["response"]["output"], json!([]));
    let item = &events[2]["item"];
    assert_eq!(
        (&item["status"], &item["content"], &events[2]["output_index"]),
        (&json!("in_progress"), &json!([]), &json!(0))
    );
    for event in &events[3..=7] {
        assert_eq!(
            (&event["item_id"], &event["output_index"], &event["content_index"]),
            (&item["id"], &json!(0), &json!(0))
        );
    }
    assert_eq!(
        (&events[4]["delta"], &events[5]["delta"], &events[6]["text"]),
        (&json!("one"), &json!(" two"), &json!("one two"))
    );
    assert_eq!(events[7]["part"]["text"], "one two");
    let response = &events[9]["response"];
    assert_eq!((&response["output"][0], &response["status"]), (&events[8]["item"], &json!("completed")));
    assert_eq!(response["id"], events[0]["response"]["id"]);
    assert_eq!(
        (&response["usage"]["output_tokens"], &response["usage"]["cost_usd"]),
        (&json!(2), &json!(0.0))
    );
}

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
async fn an_answer_that_was_stopped_is_incomplete_and_says_why() {
    let server = TestServer::start(echo()).await;
    let body = json!({"input": "one two three", "max_output_tokens": 2});
    let response = answered(&server, &body).await;
    assert_eq!(
        (&response["status"], &response["incomplete_details"]),
        (&json!("incomplete"), &json!({"reason": "max_output_tokens"}))
    );
    assert_eq!(
        (&response["output"][0]["status"], text(&response)),
        (&json!("incomplete"), "one two".to_owned())
    );
    assert_eq!(response["completed_at"], json!(null));
    let events = streamed(&server, body).await;
    assert_eq!(events.last().unwrap()["type"], "response.incomplete");
    let stored = http::get(&server.at(&format!("/v1/responses/{}", response["id"].as_str().unwrap()))).await;
    assert_eq!(stored.json()["status"], "incomplete");
}

#[tokio::test]
async fn pictures_schemas_and_caps_reach_the_backend_as_a_chat_completion_has_them() {
    let mock = crate::answering(1).await;
    let mut config = openai(&mock.base_url());
    config.dynamic.defaults =
        RequestDefaults { system_prompt: Some("the service's".to_owned()), ..RequestDefaults::default() };
    let server = TestServer::start(config).await;
    let body = r#"{"input":[{"role":"user","content":[{"type":"input_text","text":"what?"},{"type":"input_image","image_url":"data:image/png;base64,AA=="}]}],
        "text":{"format":{"type":"json_schema","name":"n","schema":{"z":1,"a":{"y":1,"b":2}}}},"max_output_tokens":7,"reasoning":{"effort":"low"}}"#;
    let headers = [("content-type", "application/json")];
    let answer = http::send(Method::POST, &server.at("/v1/responses"), &headers, body.as_bytes()).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let request = mock.requests().remove(0);
    assert_eq!(request.line, "POST /v1/chat/completions HTTP/1.1");
    let text = String::from_utf8(request.body.to_vec()).unwrap();
    for part in [
        r#"{"role":"system","content":"the service's"}"#,
        r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}}"#,
        r#""response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"z":1,"a":{"y":1,"b":2}}}}"#,
        r#""max_tokens":7"#,
        r#""reasoning_effort":"low""#,
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

/// Everything that is stored behaves the same in memory and in Redis.
async fn state(server: &TestServer, other: &TestServer) {
    let first = answered(server, &json!({"input": "My name is Ada", "metadata": {"k": "v"}})).await;
    let second = answered(server, &json!({"input": "And mine?", "previous_response_id": first["id"]})).await;
    let path = |response: &Value| format!("/v1/responses/{}", response["id"].as_str().unwrap());
    for response in [&first, &second] {
        let read = http::get(&other.at(&path(response))).await;
        assert_eq!((read.status.as_u16(), &read.json()), (200, response));
        assert_eq!(
            (read.header("cache-control"), read.header("content-type")),
            ("no-store", "application/json")
        );
    }
    let items = |query: &str| {
        let url = other.at(&format!("{}/input_items{query}", path(&second)));
        async move { http::get(&url).await.json() }
    };
    let all = items("").await;
    let texts: Vec<_> = all["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["content"][0]["text"].as_str().unwrap())
        .collect();
    assert_eq!(
        (texts, &all["object"], &all["has_more"]),
        (vec!["And mine?", "My name is Ada", "My name is Ada"], &json!("list"), &json!(false))
    );
    let page = items("?limit=1&order=asc").await;
    assert_eq!(
        (page["data"].as_array().unwrap().len(), &page["has_more"], &page["first_id"]),
        (1, &json!(true), &all["data"][2]["id"])
    );
    let next = items(&format!("?order=asc&after={}", page["last_id"].as_str().unwrap())).await;
    assert_eq!((next["data"].as_array().unwrap().len(), &next["data"][0]["role"]), (2, &json!("assistant")));
    for (query, param) in
        [("?limit=0", "limit"), ("?order=up", "order"), ("?after=msg_1", "after"), ("?include=x", "include")]
    {
        assert_eq!(items(query).await["error"]["param"], param, "{query}");
    }

    let gone = http::send(Method::DELETE, &other.at(&path(&first)), &[], b"").await;
    assert_eq!(
        (gone.status.as_u16(), gone.json()),
        (200, json!({"id": first["id"], "object": "response", "deleted": true}))
    );
    for (method, path) in [
        (Method::GET, path(&first)),
        (Method::DELETE, path(&first)),
        (Method::GET, format!("{}/input_items", path(&first))),
        (Method::GET, "/v1/responses/resp_9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a69".to_owned()),
        (Method::GET, "/v1/responses/9b2c7f0e-5d3a-4c1b-8a6e-1f2d3c4b5a69".to_owned()),
        (Method::GET, "/v1/responses/%FF".to_owned()),
    ] {
        let answer = http::send(method.clone(), &server.at(&path), &[], b"").await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["error"]["code"]),
            (404, &json!("response_not_found")),
            "{method} {path}"
        );
    }
    // A later one has all that it needs.
    answered(server, &json!({"input": "go on", "previous_response_id": second["id"]})).await;
    for previous in [first["id"].clone(), json!("resp_1"), json!("")] {
        let refused = respond(server, &json!({"input": "go on", "previous_response_id": previous})).await;
        let error = refused.json()["error"].clone();
        assert_eq!(
            (refused.status.as_u16(), &error["code"], &error["param"]),
            (404, &json!("previous_response_not_found"), &json!("previous_response_id"))
        );
    }
    let unstored = answered(server, &json!({"input": "forget me", "store": false})).await;
    assert_eq!(
        (&unstored["store"], http::get(&server.at(&path(&unstored))).await.status.as_u16()),
        (&json!(false), 404)
    );
    let events = streamed(server, json!({"input": "streamed", "previous_response_id": second["id"]})).await;
    let told = events.last().unwrap()["response"].clone();
    assert_eq!(http::get(&other.at(&path(&told))).await.json(), told);
}

#[tokio::test]
async fn responses_are_kept_in_memory() {
    let server = TestServer::start(echo()).await;
    state(&server, &server).await;
}

#[tokio::test]
async fn responses_are_kept_in_redis_for_all_servers_and_every_key_has_a_life() {
    let Some(redis) = RedisServer::start().await else { return };
    let config = echo();
    let first = TestServer::start_on_redis(config.clone(), &redis.url()).await;
    let second = TestServer::start_on_redis(config, &redis.url()).await;
    state(&first, &second).await;
    let keys: Vec<String> = redis.query("KEYS *").await.unwrap();
    assert!(keys.iter().any(|key| key.ends_with(":r1")), "{keys:?}");
    for key in keys {
        let life: i64 = redis.query(&format!("PTTL {key}")).await.unwrap();
        assert!(life > 0, "{key} lives for ever");
    }
}

#[tokio::test]
async fn s1_while_redis_is_away_a_response_is_answered_and_says_that_it_is_not_stored() {
    let Some(mut redis) = RedisServer::start().await else { return };
    let server = TestServer::start_on_redis(echo(), &redis.url()).await;
    let stored = answered(&server, &json!({"input": "stored"})).await;
    redis.kill();
    let response = answered(&server, &json!({"input": "not stored"})).await;
    assert_eq!((&response["store"], &response["status"]), (&json!(false), &json!("completed")));
    let events = streamed(&server, json!({"input": "not stored"})).await;
    assert_eq!(events.last().unwrap()["response"]["store"], false);
    let id = stored["id"].as_str().unwrap();
    for answer in [
        respond(&server, &json!({"input": "go on", "previous_response_id": id})).await,
        http::get(&server.at(&format!("/v1/responses/{id}"))).await,
        http::send(Method::DELETE, &server.at(&format!("/v1/responses/{id}")), &[], b"").await,
    ] {
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["error"]["code"]),
            (503, &json!("store_unavailable"))
        );
        assert_eq!(answer.header("retry-after"), "1");
    }
}

#[tokio::test]
async fn what_is_too_long_to_be_stored_says_so() {
    let server = TestServer::start(echo()).await;
    let response = answered(&server, &json!({"input": "x".repeat(1 << 20)})).await;
    assert_eq!(response["store"], false);
    assert_eq!(
        http::get(&server.at(&format!("/v1/responses/{}", response["id"].as_str().unwrap()))).await.status,
        404
    );
}

#[tokio::test]
async fn s9_a_stream_that_breaks_ends_as_failed_and_is_not_stored() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(openai(&mock.base_url())).await;
    for script in [
        Script::cut_stream(2, End::Cut),
        Script::cut_stream(2, End::Reset),
        Script::stream_with(2, Bytes::from_static(b"data: {\"error\":{\"message\":\"x\"}}\n\n")),
        Script::stream_with(2, Bytes::from_static(b"data: not json\n\n")),
        Script::stream_with(2, event("[DONE]")),
    ] {
        let shown = format!("{script:?}");
        mock.script(script);
        let events = streamed(&server, json!({"input": "a"})).await;
        let [.., error, failed] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!(
            (&error["type"], &failed["type"]),
            (&json!("error"), &json!("response.failed")),
            "{shown}"
        );
        assert_eq!(error["code"], "backend_invalid_response", "{shown}");
        let response = &failed["response"];
        assert_eq!((&response["status"], &response["store"]), (&json!("failed"), &json!(false)));
        assert_eq!(response["error"]["code"], "backend_invalid_response");
        assert_eq!(response["error"]["message"], error["message"]);
        assert!(!kinds(&events).contains(&"response.completed"), "{shown}");
        let read =
            http::get(&server.at(&format!("/v1/responses/{}", response["id"].as_str().unwrap()))).await;
        assert_eq!(read.status, 404);
    }
}

#[tokio::test]
async fn faults_before_the_first_piece_are_real_statuses() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(openai(&mock.base_url())).await;
    let error =
        json!({"error": {"message": "no", "type": "invalid_request_error", "param": "tools", "code": "c"}});
    for stream in [false, true] {
        mock.script(Script::Status(400, vec![], error.to_string()));
        let answer = respond(&server, &json!({"input": "a", "stream": stream})).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (400, error.clone()));
        mock.script(Script::Status(401, vec![], String::new()));
        let answer = respond(&server, &json!({"input": "a", "stream": stream})).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-should-retry")), (502, "false"));
        let unknown = respond(&server, &json!({"input": "a", "model": "gpt-9", "stream": stream})).await;
        assert_eq!(
            (unknown.status.as_u16(), &unknown.json()["error"]["code"]),
            (404, &json!("model_not_found"))
        );
        let unsupported =
            respond(&server, &json!({"input": "a", "background": true, "stream": stream})).await;
        assert_eq!(
            (unsupported.status.as_u16(), &unsupported.json()["error"]["code"]),
            (400, &json!("unsupported_parameter"))
        );
    }
}

#[tokio::test]
async fn s10_a_client_that_leaves_cancels_the_call_and_nothing_is_stored() {
    let Some(redis) = RedisServer::start().await else { return };
    let mock = MockOpenAi::start().await;
    mock.script(Script::Events(vec![Piece::Send(word_event(0)), Piece::Gate], End::Hang));
    let server = TestServer::start_on_redis(openai(&mock.base_url()), &redis.url()).await;
    let body = json!({"input": "a", "stream": true}).to_string();
    let headers = [("content-type", "application/json")];
    let mut response = http::open(Method::POST, &server.at("/v1/responses"), &headers, body.as_bytes()).await;
    let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"event: response.created\n"), "{first:?}");
    drop(response);
    mock.wait_disconnects(1).await;
    metrics::wait(&server, "chat_streams_active 0").await;
    let keys: Vec<String> = redis.query("KEYS *:r1").await.unwrap();
    assert!(keys.is_empty(), "{keys:?}");
}

#[tokio::test]
async fn s11_a_stream_that_outlives_the_grace_period_ends_as_failed() {
    let mock = MockOpenAi::start().await;
    mock.script(Script::Events(vec![Piece::Send(word_event(0)), Piece::Gate], End::Hang));
    let server = TestServer::start_as(openai(&mock.base_url()), |options| {
        options.edge.grace = Duration::from_secs(6);
    })
    .await;
    let body = json!({"input": "a", "stream": true}).to_string();
    let headers = [("content-type", "application/json")];
    let response = http::open(Method::POST, &server.at("/v1/responses"), &headers, body.as_bytes()).await;
    server.shutdown.begin();
    let body = tokio::time::timeout(http::DEADLINE, response.into_body().collect())
        .await
        .unwrap()
        .unwrap()
        .to_bytes();
    let events = events(&Answer { status: ::http::StatusCode::OK, headers: ::http::HeaderMap::new(), body });
    let failed = events.last().unwrap();
    assert_eq!(
        (&failed["type"], &failed["response"]["error"]["code"]),
        (&json!("response.failed"), &json!("shutting_down"))
    );
}

#[tokio::test]
async fn equal_requests_share_an_answer_with_each_other_and_with_chat_completions() {
    let mock = crate::answering(1).await;
    let mut config = openai(&mock.base_url());
    config.dynamic.cache = Some(cache());
    let server = TestServer::start(config).await;
    let body = json!({"input": "same"});
    let (miss, hit) = (respond(&server, &body).await, respond(&server, &body).await);
    assert_eq!((miss.header("x-chat-cache"), hit.header("x-chat-cache")), ("miss", "hit"));
    assert_eq!(text(&miss.json()), text(&hit.json()));
    assert_ne!(miss.json()["id"], hit.json()["id"], "each is a response of its own");
    let events = streamed(&server, body).await;
    assert_eq!(text(&events.last().unwrap()["response"]), "word0 word1 word2");
    let chat = r#"{"messages":[{"role":"user","content":"same"}]}"#;
    let headers = [("content-type", "application/json")];
    let chat = http::send(Method::POST, &server.at("/v1/chat/completions"), &headers, chat.as_bytes()).await;
    assert_eq!(chat.header("x-chat-cache"), "hit");
    assert_eq!(mock.count(), 1);
}

#[tokio::test]
async fn a_streams_usage_and_cost_are_told_although_nobody_asked_the_backend_by_name() {
    let mock = MockOpenAi::start().await;
    mock.script(Script::Words(3));
    let mut config = openai(&mock.base_url());
    config.dynamic.models = vec![ModelConfig {
        price: Some(PriceConfig {
            input_per_million_tokens: "1".to_owned(),
            output_per_million_tokens: "2".to_owned(),
        }),
        ..ModelConfig::named("gpt-4o-mini")
    }];
    let server = TestServer::start(config).await;
    let events = streamed(&server, json!({"input": "a"})).await;
    let usage = events.last().unwrap()["response"]["usage"].clone();
    assert_eq!((&usage["total_tokens"], &usage["cost_usd"]), (&json!(10), &json!(0.000_013)));
    metrics::wait(&server, r#"chat_tokens_total{caller="other",kind="completion",model="gpt-4o-mini"} 3"#)
        .await;
}

#[tokio::test]
async fn reading_a_response_is_a_request_of_its_caller() {
    let mut config = echo();
    config.dynamic.limits.requests = Some(RequestLimit { requests: 2, period_seconds: 3600, burst: 2 });
    let server = TestServer::start(config).await;
    let response = answered(&server, &json!({"input": "a"})).await;
    let url = server.at(&format!("/v1/responses/{}", response["id"].as_str().unwrap()));
    let read = http::get(&url).await;
    assert_eq!((read.status.as_u16(), read.header("x-ratelimit-remaining-requests")), (200, "0"));
    assert_eq!(http::get(&url).await.status, 429);
}

#[tokio::test]
async fn silence_of_the_model_is_an_event_stream_that_is_kept_alive_by_its_first_events() {
    let mock = MockOpenAi::start().await;
    let mut pieces: Vec<Piece> = whole_stream(1, true).into_iter().map(Piece::Send).collect();
    pieces.insert(1, Piece::Gate);
    mock.script(Script::Events(pieces, End::Clean));
    let server = TestServer::start(openai(&mock.base_url())).await;
    let body = json!({"input": "a", "stream": true}).to_string();
    let headers = [("content-type", "application/json")];
    let mut response = http::open(Method::POST, &server.at("/v1/responses"), &headers, body.as_bytes()).await;
    let first =
        tokio::time::timeout(http::DEADLINE, response.body_mut().frame()).await.unwrap().unwrap().unwrap();
    let first = String::from_utf8(first.into_data().unwrap().to_vec()).unwrap();
    assert!(first.contains("event: response.in_progress\n"), "before the model says anything: {first}");
    mock.open_gate();
    let rest = tokio::time::timeout(http::DEADLINE, response.into_body().collect())
        .await
        .unwrap()
        .unwrap()
        .to_bytes();
    assert!(String::from_utf8(rest.to_vec()).unwrap().contains("event: response.completed\n"));
}
