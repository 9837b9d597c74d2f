//! What is refused, with which status and in which dialect's body.

use ::http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http;
use crate::mock_openai::MockOpenAi;
use crate::openapi_schemas::{Schemas, document};
use crate::server::{TestServer, echo, openai};

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
    (r#"{"message": "a", "conversation_id": 7}"#, 422, "`conversation_id` must be a UUID"),
    (
        r#"{"message": "a", "conversation_id": ["9b2d3a52-4b8a-4b52-9d3e-2f6a1c8e7d10"]}"#,
        422,
        "`conversation_id`",
    ),
    (
        r#"{"message": "a", "system_prompt": 5}"#,
        422,
        "`system_prompt` must be a string of at most 1000 characters",
    ),
    (r#"{"message": "a", "system_prompt": {"text": "b"}}"#, 422, "`system_prompt`"),
    (r#"{"message": "a", "model": 1}"#, 422, "`model` must be a string"),
    (r#"{"message": "a", "model": ["gpt-4o-mini"]}"#, 422, "`model`"),
    (r#"{"message": ["a"]}"#, 422, "`message`"),
    (r#"{"message": null}"#, 422, "`message`"),
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
    let long = json!({"message": "a", "system_prompt": "x".repeat(1001)});
    let refused = http::post(&server.at("/api/v1/chat"), &long).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["details"]["field"]),
        (422, &json!("system_prompt"))
    );
    let just = json!({"message": "\u{e9}".repeat(5000), "system_prompt": "\u{e9}".repeat(1000)});
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

/// Every member of a chat completion that has a type, with a value of another.
#[tokio::test]
async fn every_field_of_a_wrong_type_is_named() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(openai(&mock.base_url())).await;
    let message = json!({"role": "user", "content": "a"});
    let mut cases: Vec<(Value, String)> = Vec::new();
    for (field, wrong) in [
        ("model", json!(1)),
        ("messages", json!({})),
        ("stream", json!("true")),
        ("stream_options", json!([])),
        ("n", json!("2")),
        ("n", json!(0)),
        ("n", json!(1.5)),
        ("max_tokens", json!("9")),
        ("max_completion_tokens", json!(-1)),
        ("temperature", json!("hot")),
        ("top_p", json!(true)),
        ("presence_penalty", json!("1")),
        ("frequency_penalty", json!([])),
        ("seed", json!(1.5)),
        ("seed", json!("1")),
        ("stop", json!(5)),
        ("stop", json!(["a", 1])),
        ("logprobs", json!(1)),
        ("top_logprobs", json!("3")),
        ("logit_bias", json!([1])),
        ("user", json!(7)),
        ("tools", json!({"type": "function"})),
        ("tool_choice", json!(1)),
        ("parallel_tool_calls", json!("yes")),
        ("response_format", json!("json")),
        ("reasoning_effort", json!(1)),
        ("metadata", json!("a")),
        ("store", json!("a")),
        ("service_tier", json!(1)),
        ("modalities", json!("audio")),
        ("audio", json!("alloy")),
        ("prediction", json!("a")),
        ("functions", json!({})),
        ("function_call", json!(1)),
        ("web_search_options", json!(1)),
        ("prompt_cache_key", json!(1)),
        ("safety_identifier", json!([])),
        ("verbosity", json!(1)),
    ] {
        let mut body = json!({"messages": [message]});
        body[field] = wrong;
        cases.push((body, field.to_owned()));
    }
    for (message, param) in [
        (json!("hi"), "messages[0]"),
        (json!(["user", "hi"]), "messages[0]"),
        (json!({"role": 1, "content": "a"}), "messages[0]"),
        (json!({"role": "user", "content": 5}), "messages[0].content"),
        (json!({"role": "user", "content": {"type": "text"}}), "messages[0].content"),
        (json!({"role": "user", "content": ["a"]}), "messages[0].content[0]"),
        (
            json!({"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b"}]}),
            "messages[0].content[1]",
        ),
        (json!({"role": "assistant", "tool_calls": {}}), "messages[0].tool_calls"),
        (json!({"role": "tool", "tool_call_id": 1, "content": "a"}), "messages[0].tool_call_id"),
    ] {
        cases.push((json!({"messages": [message]}), param.to_owned()));
    }
    for tool in [json!("f"), json!(["function"]), json!({"function": {"name": "f"}}), json!({"type": 1})] {
        cases.push((json!({"messages": [message], "tools": [tool]}), "tools[0]".to_owned()));
    }
    for (body, param) in cases {
        let answer = http::post(&server.at("/v1/chat/completions"), &body).await;
        assert_eq!(answer.status, 400, "{body}: {:?}", answer.body);
        let error = &answer.json()["error"];
        assert_eq!(error["param"], param, "{body}: {error}");
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("invalid_request_error"), &json!("invalid_value"))
        );
        assert!(error["message"].as_str().unwrap().contains(&format!("`{param}` must be")), "{error}");
    }
    assert_eq!(mock.count(), 0, "nobody was asked");
}

/// Every member that the OpenAPI document has of every request, with every kind of value that its schema does not allow.
#[tokio::test]
async fn what_the_document_does_not_allow_is_refused_by_its_name_in_every_dialect() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(openai(&mock.base_url())).await;
    let (schemas, document) = (Schemas::new(), document());
    let components = &document["components"]["schemas"];
    let values = [json!(true), json!(-1.5), json!("?"), json!([true]), json!({"?": true})];
    let mut sent = 0;
    for (path, request, good) in [
        ("/api/v1/chat", "ChatRequest", json!({"message": "a"})),
        ("/api/v1/chat/stream", "ChatRequest", json!({"message": "a"})),
        (
            "/v1/chat/completions",
            "ChatCompletionRequest",
            json!({"messages": [{"role": "user", "content": "a"}]}),
        ),
        ("/v1/responses", "CreateResponse", json!({"input": "a"})),
        ("/v1/embeddings", "EmbeddingRequest", json!({"input": "a"})),
    ] {
        let status = if path.starts_with("/v1/") { 400 } else { 422 };
        for (member, schema) in components[request]["properties"].as_object().unwrap() {
            for value in &values {
                // What may be chosen, as a word or an object, is the backend's to say.
                let choice = (path, member.as_str()) == ("/v1/chat/completions", "tool_choice");
                if schemas.misfit(schema, value).is_none()
                    || (choice && (value.is_string() || value.is_object()))
                {
                    continue;
                }
                let mut body = good.clone();
                body[member] = value.clone();
                let answer = http::post(&server.at(path), &body).await;
                sent += 1;
                assert_eq!(answer.status, status, "{path}: {body}: {:?}", answer.body);
                let error = answer.json();
                let named = error["error"]["param"].as_str().or(error["details"]["field"].as_str());
                assert!(named.is_some_and(|named| named.starts_with(member)), "{path}: {body}: {error}");
            }
        }
    }
    assert!(sent > 150, "{sent}");
    assert_eq!(mock.count(), 0, "nobody was asked");
}

#[tokio::test]
async fn unknown_paths_methods_and_media_types_are_refused_in_the_dialect_of_the_path() {
    let server = TestServer::start(echo()).await;
    for (method, path, headers, status) in [
        (Method::GET, "/api/v1/nothing", JSON, 404),
        (Method::GET, "/v1/nothing", JSON, 404),
        (Method::POST, "/v1/responses/compact", JSON, 404),
        (Method::POST, "/v1/responses/input_tokens", JSON, 404),
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
            assert!(status != 404 || body["error"]["code"] == "unknown_url", "{path}: {body}");
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

/// What two readers could read differently, or what costs more to read than to send. Either dialect, either form.
#[tokio::test]
async fn x7_what_is_not_one_plain_json_document_is_refused_before_anybody_is_asked() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(openai(&mock.base_url())).await;
    let depth = 100_000;
    let deep = |open: &str, close: &str| {
        format!("{{\"messages\": {}1{}}}", open.repeat(depth), close.repeat(depth)).into_bytes()
    };
    let ask = |rest: &str| {
        format!("{{\"message\":\"a\",\"messages\":[{{\"role\":\"user\",\"content\":\"a\"}}]{rest}}}")
            .into_bytes()
    };
    let mut cases = vec![
        deep("[", "]"),
        deep("{\"a\":", "}"),
        "[".repeat(depth).into_bytes(),
        ask(",\"x\": NaN"),
        ask(",\"x\": Infinity"),
        ask(",\"x\": 1e999"),
        ask(",\"x\": 01"),
        ask(",\"x\": \"\\ud800\""),
        ask(",\"x\": \"\\udc00\\ud800\""),
        ask(",\"x\": {\"a\": 1, \"b\": {\"c\": [{\"d\": 1, \"d\": 2}]}}"),
        ask(",\"x\": {\"a\": 1, \"\\u0061\": 2}"),
        ask(",\"model\": \"gpt-4o-mini\", \"model\": \"gpt-9\""),
        ask(",\"x\": 1,"),
        [ask(""), b"{}".to_vec()].concat(),
        [b"\xEF\xBB\xBF".to_vec(), ask("")].concat(),
    ];
    for bytes in [&b"\xFF"[..], b"\xC0\xAF", b"\xED\xA0\x80", b"\xF4\x90\x80\x80", b"\xE2\x82"] {
        let mut body = ask(",\"x\": \"?\"");
        let place = body.iter().position(|byte| *byte == b'?').unwrap();
        body.splice(place..=place, bytes.iter().copied());
        cases.push(body);
    }
    for body in &cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned();
        for path in ["/api/v1/chat", "/api/v1/chat/stream", "/v1/chat/completions"] {
            let answer = http::send(Method::POST, &server.at(path), JSON, body).await;
            assert_eq!(answer.status, 400, "{path}: {shown}");
            let error = answer.json();
            let code = if path.starts_with("/v1/") { &error["error"]["code"] } else { &error["error"] };
            assert_eq!(code, "invalid_json", "{path}: {shown}");
            let seconds = answer.header("x-process-time").parse::<f64>();
            assert!(seconds.is_ok_and(|seconds| seconds >= 0.0 && seconds.is_finite()), "{path}: {shown}");
        }
    }
    assert_eq!(mock.requests().len(), 0);
}

#[tokio::test]
async fn x6_a_body_at_the_limit_is_read_and_one_that_lies_about_its_length_is_not_believed() {
    const LIMIT: usize = 16 << 20;
    let server = TestServer::start(echo()).await;
    let whole = |length: usize| {
        let (before, after) = (r#"{"messages":[{"role":"user","content":"a"}],"x":""#, r#""}"#);
        [before, &"y".repeat(length - before.len() - after.len()), after].concat()
    };
    let url = server.at("/v1/chat/completions");
    for (length, status) in [(LIMIT - 1, 200), (LIMIT, 200), (LIMIT + 1, 413)] {
        let answer = http::send(Method::POST, &url, JSON, whole(length).as_bytes()).await;
        assert_eq!(answer.status, status, "{length} bytes");
    }
    let raw = async |head: &str, parts: &[&[u8]]| {
        let mut client = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).await.unwrap();
        let start = "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json";
        client.write_all(format!("{start}\r\n{head}\r\n\r\n").as_bytes()).await.unwrap();
        for part in parts {
            // Refused in the middle, it need not be read to its end.
            if client.write_all(part).await.is_err() {
                break;
            }
        }
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(http::DEADLINE, client.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    let answer = raw("content-length: 99999999999", &[]).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "by its announcement: {answer}");
    // Chunks announce nothing: they are counted.
    let mebibyte = [b"100000\r\n".to_vec(), vec![b' '; 1 << 20], b"\r\n".to_vec()].concat();
    let answer = raw("transfer-encoding: chunked", &vec![mebibyte.as_slice(); 20]).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    for encoding in ["gzip", "zstd", "br", "deflate", "gzip, identity"] {
        let headers = [("content-type", "application/json"), ("content-encoding", encoding)];
        let answer = http::send(Method::POST, &url, &headers, &[0; 4096]).await;
        assert_eq!(answer.status, 415, "{encoding}: what is not unpacked cannot burst");
    }
}
