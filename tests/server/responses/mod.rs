//! `/v1/responses` over the built-in backend and a scripted one. In: requests. Out: what is answered, told and stored.

use serde_json::{Value, json};

use crate::http::{self, Answer};
use crate::mock_openai::{MockOpenAi, Piece, Script, event};
use crate::server::TestServer;

mod functions;
mod plain;
mod references;
mod stored;
mod streamed;

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
