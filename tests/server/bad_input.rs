//! What is refused, with which status and in which dialect's body.

use ::http::Method;
use serde_json::{Value, json};

use crate::http;
use crate::server::{TestServer, echo};

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

/// A body, the status in the simple dialect, and a word of the message.
const SIMPLE: &[(&str, u16, &str)] = &[
    ("", 400, "JSON"),
    ("{", 400, "JSON"),
    ("[]", 400, "JSON"),
    (r#"{"message": NaN}"#, 400, "JSON"),
    (r#"{"message": "a", "message": "b"}"#, 400, "duplicate"),
    ("{\"message\": \"\\ud800\"}", 400, "JSON"),
    ("{}", 422, "`message` must be a string of 1 to 5000 characters"),
    (r#"{"message": ""}"#, 422, "`message`"),
    (r#"{"message": "   "}"#, 422, "`message`"),
    (r#"{"message": 5}"#, 422, "`message`"),
    (r#"{"message": "a", "temperature": 2.1}"#, 422, "`temperature` must be a number from 0 to 2"),
    (r#"{"message": "a", "temperature": "hot"}"#, 422, "`temperature`"),
    (r#"{"message": "a", "max_tokens": 0}"#, 422, "`max_tokens` must be a whole number from 1 to 4000"),
    (r#"{"message": "a", "max_tokens": 4001}"#, 422, "`max_tokens`"),
    (r#"{"message": "a", "max_tokens": 1.5}"#, 422, "`max_tokens`"),
    (r#"{"message": "a", "stream": "yes"}"#, 422, "`stream`"),
    (r#"{"message": "a", "conversation_id": "mine"}"#, 422, "`conversation_id`"),
    (r#"{"message": "a", "max_token": 5}"#, 422, "no field `max_token`"),
    (r#"{"message": "a", "model": "gpt-9"}"#, 404, "gpt-9"),
    (r#"{"message": "a", "conversation_id": "9b2d3a52-4b8a-4b52-9d3e-2f6a1c8e7d10"}"#, 404, "conversation"),
];

#[tokio::test]
async fn the_simple_dialect_names_the_field_and_what_is_allowed() {
    let server = TestServer::start(echo()).await;
    for path in ["/api/v1/chat", "/api/v1/chat/stream"] {
        for (body, status, word) in SIMPLE {
            let answer = http::send(Method::POST, &server.at(path), JSON, body.as_bytes()).await;
            assert_eq!(answer.status, *status, "{body}: {:?}", answer.body);
            let error = answer.json();
            assert!(error["error"].is_string(), "{body}: {error}");
            assert!(error["message"].as_str().unwrap().contains(word), "{body}: {error}");
            assert!(!answer.header("x-request-id").is_empty());
        }
    }
    let long = json!({"message": "x".repeat(5001)});
    assert_eq!(http::post(&server.at("/api/v1/chat"), &long).await.status, 422);
    let just = json!({"message": "\u{e9}".repeat(5000)});
    assert_eq!(
        http::post(&server.at("/api/v1/chat"), &just).await.status,
        200,
        "characters count, not bytes"
    );
}

/// A body, the status in OpenAI's dialect, `param` and `code`.
const OPENAI: &[(&str, u16, Option<&str>, &str)] = &[
    ("{", 400, None, "invalid_json"),
    (r#"{"messages": []}"#, 400, Some("messages"), "invalid_value"),
    ("{}", 400, Some("messages"), "invalid_value"),
    (r#"{"messages": "hi"}"#, 400, Some("messages"), "invalid_value"),
    (r#"{"messages": [{"content": "a"}]}"#, 400, Some("messages[0]"), "invalid_value"),
    (
        r#"{"messages": [{"role": "user", "content": "a"}], "stream": 1}"#,
        400,
        Some("stream"),
        "invalid_value",
    ),
    (
        r#"{"messages": [{"role": "user", "content": "a"}], "stream_options": 1}"#,
        400,
        Some("stream_options"),
        "invalid_value",
    ),
    (r#"{"messages": [{"role": "user", "content": "a"}], "model": 1}"#, 400, Some("model"), "invalid_value"),
    (r#"{"messages": [{"role": "user", "content": "a", "role": "b"}]}"#, 400, None, "invalid_json"),
    (
        r#"{"messages": [{"role": "user", "content": "a"}], "model": "gpt-9"}"#,
        404,
        Some("model"),
        "model_not_found",
    ),
];

#[tokio::test]
async fn the_openai_dialect_answers_in_the_form_that_sdks_read() {
    let server = TestServer::start(echo()).await;
    for (body, status, param, code) in OPENAI {
        let answer =
            http::send(Method::POST, &server.at("/v1/chat/completions"), JSON, body.as_bytes()).await;
        assert_eq!(answer.status, *status, "{body}: {:?}", answer.body);
        let error = &answer.json()["error"];
        assert_eq!(error["type"], "invalid_request_error", "{body}");
        assert_eq!(error["code"], *code, "{body}");
        assert_eq!(error["param"], param.map_or(Value::Null, Value::from), "{body}");
    }
}

#[tokio::test]
async fn unknown_paths_methods_and_media_types_are_refused_in_the_dialect_of_the_path() {
    let server = TestServer::start(echo()).await;
    for (method, path, headers, status) in [
        (Method::GET, "/api/v1/nothing", JSON, 404),
        (Method::GET, "/v1/nothing", JSON, 404),
        (Method::GET, "/api/v1/chat", JSON, 405),
        (Method::GET, "/v1/chat/completions", JSON, 405),
        (Method::POST, "/api/v1/chat", &[("content-type", "text/plain")], 415),
        (Method::POST, "/v1/chat/completions", &[("content-type", "text/plain")], 415),
        (Method::POST, "/v1/chat/completions", &[], 415),
        (
            Method::POST,
            "/v1/chat/completions",
            &[("content-type", "application/json"), ("content-encoding", "gzip")],
            415,
        ),
        (Method::POST, "/v1/chat/completions", &[("content-type", "application/json; charset=utf-8")], 400),
    ] {
        let answer = http::send(method.clone(), &server.at(path), headers, b"{}").await;
        assert_eq!(answer.status, status, "{method} {path} {headers:?}");
        let body = answer.json();
        if path.starts_with("/v1/") {
            assert!(body["error"]["message"].is_string(), "{path}: {body}");
        } else {
            assert!(body["error"].is_string(), "{path}: {body}");
        }
        if status == 405 {
            assert_eq!(answer.header("allow"), "POST");
        }
    }
}

#[tokio::test]
async fn x6_a_body_over_the_limit_is_refused_before_it_is_read() {
    let server = TestServer::start(echo()).await;
    let headers = [("content-type", "application/json")];
    let body = vec![b' '; (16 << 20) + 1];
    let answer = http::send(Method::POST, &server.at("/v1/chat/completions"), &headers, &body).await;
    assert_eq!(answer.status, 413);
    assert_eq!(answer.json()["error"]["code"], "payload_too_large");
}

#[tokio::test]
async fn x7_an_object_of_very_many_keys_is_refused_early() {
    let server = TestServer::start(echo()).await;
    let keys: Vec<String> = (0..5000).map(|key| format!("\"k{key}\":0")).collect();
    let body = format!("{{{}}}", keys.join(","));
    let answer = http::send(Method::POST, &server.at("/v1/chat/completions"), JSON, body.as_bytes()).await;
    assert_eq!(answer.status, 400);
    assert!(answer.json()["error"]["message"].as_str().unwrap().contains("4096 keys"));
}
