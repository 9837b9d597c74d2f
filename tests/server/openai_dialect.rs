//! `/v1/chat/completions` and `/v1/models`.

use chatservice::server::config::RequestLimit;
use serde_json::{Value, json};

use crate::http;
use crate::server::{TestServer, echo};

fn ask(text: &str) -> Value {
    json!({"model": "echo-1", "messages": [{"role": "user", "content": text}]})
}

#[tokio::test]
async fn a_plain_answer_is_a_chat_completion() {
    let server = TestServer::start(echo()).await;
    let answer = http::post(&server.at("/v1/chat/completions"), &ask("Hello there")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/json");
    assert!(!answer.header("openai-processing-ms").is_empty());
    let body = answer.json();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], "echo-1");
    assert_eq!(
        body["choices"][0]["message"],
        json!({"role": "assistant", "content": "Hello there", "refusal": null})
    );
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["usage"]["total_tokens"], 4);
}

#[tokio::test]
async fn a_stream_has_one_id_a_role_first_a_finish_reason_last_and_done() {
    let server = TestServer::start(echo()).await;
    let mut body = ask("one two three");
    body["stream"] = json!(true);
    let answer = http::post(&server.at("/v1/chat/completions"), &body).await;
    assert_eq!(answer.header("content-type"), "text/event-stream");
    assert_eq!(answer.header("x-accel-buffering"), "no");
    let events = answer.events();
    assert_eq!(events.last().unwrap(), "[DONE]");
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|data| serde_json::from_str(data).unwrap()).collect();
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk["id"] == chunks[0]["id"] && chunk["object"] == "chat.completion.chunk")
    );
    assert!(chunks.iter().all(|chunk| chunk["choices"] != json!([])), "the usage was not asked for");
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
    let text: String =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, "one two three");
}

#[tokio::test]
async fn the_usage_comes_in_a_stream_when_it_was_asked_for() {
    let server = TestServer::start(echo()).await;
    let mut body = ask("one two");
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let events = http::post(&server.at("/v1/chat/completions"), &body).await.events();
    let usage: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["total_tokens"], 4);
    assert_eq!(usage["usage"]["cost_usd"], 0.0);
}

#[tokio::test]
async fn a_request_without_a_model_gets_the_services() {
    let server = TestServer::start(echo()).await;
    let answer = http::post(
        &server.at("/v1/chat/completions"),
        &json!({"messages": [{"role": "user", "content": "hi"}]}),
    )
    .await;
    assert_eq!(answer.json()["model"], "echo-1");
}

#[tokio::test]
async fn looking_at_models_is_a_request_of_its_caller() {
    let mut config = echo();
    config.dynamic.limits.requests = Some(RequestLimit { requests: 2, period_seconds: 3600, burst: 2 });
    let server = TestServer::start(config).await;
    let list = http::get(&server.at("/v1/models")).await;
    assert_eq!((list.status.as_u16(), list.header("x-ratelimit-remaining-requests")), (200, "1"));
    assert_eq!(http::get(&server.at("/v1/models/echo-1")).await.status, 200);
    let refused = http::get(&server.at("/v1/models")).await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.json()["error"]["code"], "rate_limit_exceeded");
}

#[tokio::test]
async fn a_name_that_is_no_text_is_the_name_of_no_model() {
    let server = TestServer::start(echo()).await;
    for path in ["/v1/models/%FF", "/v1/models/a/%FF", "/v1/models/gpt-9", "/v1/models/a/b/c"] {
        let answer = http::get(&server.at(path)).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["error"]["code"]),
            (404, &json!("model_not_found")),
            "{path}"
        );
    }
}

#[tokio::test]
async fn the_models_are_listed() {
    let server = TestServer::start(echo()).await;
    let models = http::get(&server.at("/v1/models")).await.json();
    assert_eq!(models["object"], "list");
    assert_eq!(models["data"][0]["id"], "echo-1");
    assert_eq!(models["data"][0]["object"], "model");
    assert_eq!(models["data"][0]["owned_by"], "demo");
}
