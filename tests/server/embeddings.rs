//! `/v1/embeddings`: over the built-in backend and over an OpenAI-compatible one, with the same limits, cache, retries and
//! accounting as an answer has.

use std::time::Duration;

use ::http::Method;
use chatservice::server::config::{ModelConfig, PriceConfig, RequestLimit};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::http::{self, Answer};
use crate::metrics;
use crate::mock_openai::{MockOpenAi, Script};
use crate::redis_server::RedisServer;
use crate::server::{TestServer, cache, echo, openai};

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

fn vectors(tokens: u64) -> Script {
    let body = json!({"object": "list", "model": "embedder", "data": [{"object": "embedding", "index": 0,
        "embedding": [0.25, -0.5]}], "usage": {"prompt_tokens": tokens, "total_tokens": tokens}});
    Script::Status(200, vec![], body.to_string())
}

async fn embed(server: &TestServer, body: &Value) -> Answer {
    http::post(&server.at("/v1/embeddings"), body).await
}

/// 1 USD for a million tokens of input, 1000 for output, of which there is none.
fn priced(base_url: &str) -> chatservice::server::config::ServerConfig {
    let mut config = openai(base_url);
    config.dynamic.models = vec![ModelConfig {
        upstream_model: Some("text-embedding-3-small".to_owned()),
        max_output_tokens: Some(100),
        price: Some(PriceConfig {
            input_per_million_tokens: "1".to_owned(),
            output_per_million_tokens: "1000".to_owned(),
        }),
        ..ModelConfig::named("gpt-4o-mini")
    }];
    config
}

#[tokio::test]
async fn the_built_in_backend_has_vectors_offline() {
    let server = TestServer::start(echo()).await;
    let answer = embed(&server, &json!({"input": ["a red apple", "the red apple"], "dimensions": 16})).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    assert_eq!(answer.header("content-type"), "application/json");
    let body = answer.json();
    assert_eq!((&body["object"], &body["model"]), (&json!("list"), &json!("echo-1")));
    assert_eq!(body["data"][1]["index"], 1);
    assert_eq!(body["data"][0]["embedding"].as_array().unwrap().len(), 16);
    assert_eq!(body["usage"], json!({"prompt_tokens": 6, "total_tokens": 6}));
    let same = embed(&server, &json!({"input": "a red apple", "dimensions": 16})).await.json();
    assert_eq!(same["data"][0]["embedding"], body["data"][0]["embedding"]);
}

#[tokio::test]
async fn the_body_goes_upstream_as_it_is_and_the_answer_comes_back_as_it_is() {
    let mock = MockOpenAi::start().await;
    let upstream = r#"{ "object":"list","data":[{"index":0,"embedding":"AACAPg=="}],"model":"x", "usage":{"prompt_tokens":3,"total_tokens":3},"more":1.50}"#;
    mock.script(Script::Status(200, vec![], upstream.to_owned()));
    let server = TestServer::start(priced(&mock.base_url())).await;
    let body = r#"{"input": [[1, 2,3]],"model":"gpt-4o-mini", "encoding_format":"base64","unknown":12345678901234567890123,"dimensions":8}"#;
    let answer = http::send(Method::POST, &server.at("/v1/embeddings"), JSON, body.as_bytes()).await;
    assert_eq!(answer.body, upstream);
    assert_eq!(answer.header("x-upstream-request-id"), "req-mock");
    assert_eq!(answer.header("x-chat-cost-usd"), "0.000003000", "the prompt's price alone");
    let request = &mock.requests()[0];
    assert_eq!(request.line, "POST /v1/embeddings HTTP/1.1");
    assert_eq!(request.body, body.replace("gpt-4o-mini", "text-embedding-3-small"), "and no output cap");
}

#[tokio::test]
async fn equal_requests_share_a_call_and_its_kept_answer_and_chat_has_another() {
    let mock = MockOpenAi::start().await;
    mock.script(vectors(5).gated()).script(Script::Words(1));
    let mut config = openai(&mock.base_url());
    config.dynamic.cache = Some(cache());
    let server = TestServer::start(config).await;
    let body = json!({"input": "a", "messages": [{"role": "user", "content": "a"}]});
    let asked = join_all((0..5).map(|_| embed(&server, &body)));
    let gate = async {
        mock.wait_requests(1).await;
        mock.open_gate();
    };
    let (answers, ()) = tokio::join!(asked, gate);
    assert!(answers.iter().all(|answer| answer.status == 200));
    let later = embed(&server, &body).await;
    assert_eq!((later.header("x-chat-cache"), later.header("x-chat-cost-usd")), ("hit", "0.000000000"));
    assert_eq!(mock.count(), 1);
    let chat = http::post(&server.at("/v1/chat/completions"), &body).await;
    assert_eq!((chat.header("x-chat-cache"), &chat.json()["object"]), ("miss", &json!("chat.completion")));
}

#[tokio::test]
async fn a_shared_store_keeps_vectors_for_other_servers() {
    let Some(redis) = RedisServer::start().await else { return };
    let mock = MockOpenAi::start().await;
    mock.script(vectors(5));
    let mut config = openai(&mock.base_url());
    config.dynamic.cache = Some(cache());
    let first = TestServer::start_on_redis(config.clone(), &redis.url()).await;
    let second = TestServer::start_on_redis(config, &redis.url()).await;
    let body = json!({"input": "shared"});
    let asked = embed(&first, &body).await;
    assert_eq!(asked.header("x-chat-cache"), "miss", "{:?}", asked.body);
    let deadline = tokio::time::Instant::now() + http::DEADLINE;
    // The answer is put into the store after it has been given.
    while redis.query::<Vec<String>>("KEYS *:c1:*").await.unwrap().is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "the vectors were not stored");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let other = embed(&second, &body).await;
    assert_eq!((other.header("x-chat-cache"), &other.body), ("hit", &asked.body));
}

#[tokio::test]
async fn limits_hold_and_no_answer_is_reserved_for() {
    let mut config = echo();
    config.dynamic.limits.tokens_per_minute = Some(500);
    config.dynamic.limits.requests = Some(RequestLimit { requests: 2, period_seconds: 3600, burst: 2 });
    let server = TestServer::start(config).await;
    let answer = embed(&server, &json!({"input": "two words"})).await;
    // An answer would have reserved its usual 1000 tokens, which is more than there are.
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let left: u64 = answer.header("x-ratelimit-remaining-tokens").parse().unwrap();
    assert!(left > 480, "{left}");
    assert_eq!(embed(&server, &json!({"input": "two words"})).await.status, 200);
    let refused = embed(&server, &json!({"input": "two words"})).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["error"]["code"]),
        (429, &json!("rate_limit_exceeded"))
    );
}

#[tokio::test]
async fn a_call_that_fails_is_tried_again_and_what_was_used_is_counted() {
    let mock = MockOpenAi::start().await;
    mock.script(Script::Status(500, vec![], String::new())).script(vectors(5));
    let server = TestServer::start(priced(&mock.base_url())).await;
    assert_eq!(embed(&server, &json!({"input": "again"})).await.status, 200);
    assert_eq!(mock.count(), 2);
    for line in [
        r#"chat_tokens_total{caller="other",kind="prompt",model="gpt-4o-mini"} 5"#,
        r#"http_requests_total{endpoint="/v1/embeddings",method="POST",status="200"} 1"#,
    ] {
        metrics::wait(&server, line).await;
    }
}

#[tokio::test]
async fn what_is_no_list_of_vectors_is_no_answer() {
    let mock = MockOpenAi::start().await;
    mock.script(Script::Words(3));
    let server = TestServer::start(openai(&mock.base_url())).await;
    let answer = embed(&server, &json!({"input": "a"})).await;
    assert_eq!(answer.status, 502, "{:?}", answer.body);
    assert_eq!(answer.json()["error"]["code"], "backend_invalid_response");
}

#[tokio::test]
async fn the_backends_refusal_is_told_in_its_own_words() {
    let mock = MockOpenAi::start().await;
    let error = json!({"error": {"message": "too long", "type": "invalid_request_error", "param": "input",
        "code": "context_length_exceeded"}});
    mock.script(Script::Status(400, vec![], error.to_string()));
    let server = TestServer::start(openai(&mock.base_url())).await;
    let answer = embed(&server, &json!({"input": "a"})).await;
    assert_eq!((answer.status.as_u16(), answer.json()), (400, error));
}

#[tokio::test]
async fn every_field_of_a_wrong_type_is_named() {
    let server = TestServer::start(echo()).await;
    for (body, param) in [
        (json!({}), "input"),
        (json!({"input": null}), "input"),
        (json!({"input": ""}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": 5}), "input"),
        (json!({"input": true}), "input"),
        (json!({"input": {"text": "a"}}), "input"),
        (json!({"input": ["a", 1]}), "input"),
        (json!({"input": ["a", ["b"]]}), "input"),
        (json!({"input": [[1], "b"]}), "input"),
        (json!({"input": [["a"]]}), "input"),
        (json!({"input": [[]]}), "input"),
        (json!({"input": [-1]}), "input"),
        (json!({"input": [1.5]}), "input"),
        (json!({"input": "a", "model": 1}), "model"),
        (json!({"input": "a", "encoding_format": "hex"}), "encoding_format"),
        (json!({"input": "a", "encoding_format": 1}), "encoding_format"),
        (json!({"input": "a", "dimensions": 0}), "dimensions"),
        (json!({"input": "a", "dimensions": "8"}), "dimensions"),
        (json!({"input": "a", "user": 1}), "user"),
        (json!({"input": "a", "stream": true}), "stream"),
        (json!({"input": "a", "stream_options": {}}), "stream_options"),
    ] {
        let answer = embed(&server, &body).await;
        assert_eq!(answer.status, 400, "{body}");
        let error = &answer.json()["error"];
        assert_eq!((&error["param"], &error["code"]), (&json!(param), &json!("invalid_value")), "{body}");
        assert_eq!(error["type"], "invalid_request_error");
    }
    let unknown = embed(&server, &json!({"input": "a", "model": "gpt-9"})).await;
    assert_eq!((unknown.status.as_u16(), &unknown.json()["error"]["code"]), (404, &json!("model_not_found")));
}
