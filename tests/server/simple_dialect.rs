//! `/api/v1/chat` and `/api/v1/chat/stream`.

use serde_json::{Value, json};

use crate::http;
use crate::server::{TestServer, echo};

#[tokio::test]
async fn a_question_gets_an_answer_with_everything_about_it() {
    let server = TestServer::start(echo()).await;
    let answer = http::post(&server.at("/api/v1/chat"), &json!({"message": "  Hello there  "})).await;
    assert_eq!(answer.status, 200);
    let body = answer.json();
    assert_eq!(body["message"], "Hello there", "the message is trimmed, then echoed");
    assert_eq!(body["model"], "echo-1");
    assert_eq!(body["finish_reason"], "stop");
    assert_eq!(body["cached"], false);
    assert_eq!(body["persisted"], true);
    assert_eq!(body["cost_estimate"], 0.0, "the built-in backend is free");
    assert_eq!(body["tokens_used"], 4, "two words each way");
    assert!(body["timestamp"].as_str().unwrap().ends_with('Z'));
    uuid::Uuid::parse_str(body["conversation_id"].as_str().unwrap()).unwrap();
}

#[tokio::test]
async fn a_stream_ends_with_finished_and_the_totals() {
    let server = TestServer::start(echo()).await;
    for (path, body) in [
        ("/api/v1/chat/stream", json!({"message": "one two three"})),
        ("/api/v1/chat", json!({"message": "one two three", "stream": true})),
    ] {
        let answer = http::post(&server.at(path), &body).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), "text/event-stream");
        assert_eq!(answer.header("cache-control"), "no-store");
        let events: Vec<Value> =
            answer.events().iter().map(|data| serde_json::from_str(data).unwrap()).collect();
        let (last, deltas) = events.split_last().unwrap();
        assert!(deltas.iter().all(|event| event["finished"] == false));
        let text: String = deltas.iter().map(|event| event["delta"].as_str().unwrap()).collect();
        assert_eq!(text, "one two three");
        assert_eq!(deltas.len(), 3);
        assert_eq!(last["finished"], true);
        assert_eq!(last["tokens_used"], 6);
        assert_eq!(last["finish_reason"], "stop");
        assert_eq!(last["persisted"], true);
        assert_eq!(last["conversation_id"], answer.header("x-conversation-id"));
    }
}

#[tokio::test]
async fn max_tokens_ends_an_answer_with_length() {
    let server = TestServer::start(echo()).await;
    let answer =
        http::post(&server.at("/api/v1/chat"), &json!({"message": "a b c d", "max_tokens": 2})).await;
    assert_eq!(answer.json()["message"], "a b");
    assert_eq!(answer.json()["finish_reason"], "length");
}

#[tokio::test]
async fn text_is_never_altered() {
    let server = TestServer::start(echo()).await;
    let text = "<b>\"quotes\"</b> & {braces} \u{1F600} \\ back\nnew line\ttab";
    let answer = http::post(&server.at("/api/v1/chat"), &json!({"message": text})).await;
    assert_eq!(answer.json()["message"], text);
}
