//! Streams that do not end well, and clients that leave.

use std::time::Duration;

use ::http::Method;
use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::http;
use crate::metrics;
use crate::mock_openai::{End, MockOpenAi, Piece, Script, event, word_event};
use crate::server::{TestServer, openai};

fn ask() -> Value {
    json!({"messages": [{"role": "user", "content": "stream"}], "stream": true})
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_an_error_event_and_nothing_invented() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(openai(&mock.base_url())).await;
    let in_band =
        json!({"error": {"message": "overloaded", "type": "server_error", "code": null}}).to_string();
    for (name, script) in [
        ("cut", Script::cut_stream(2, End::Cut)),
        ("reset", Script::cut_stream(2, End::Reset)),
        ("no [DONE]", Script::cut_stream(2, End::Clean)),
        ("[DONE] without a finish_reason", Script::stream_with(2, event("[DONE]"))),
        ("in-band error", Script::stream_with(2, event(&in_band))),
        ("garbage", Script::stream_with(2, Bytes::from_static(b"data: {{{\n\n"))),
        ("an event of 2 MiB", Script::stream_with(2, event(&"x".repeat(2 << 20)))),
    ] {
        mock.script(script.clone());
        let events = http::post(&server.at("/v1/chat/completions"), &ask()).await.events();
        let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
        assert!(last["error"]["message"].is_string(), "{name}: {last}");
        assert!(
            events.iter().all(|event| event != "[DONE]" && !event.contains("\"finish_reason\":\"")),
            "{name}: {events:?}"
        );
        mock.script(script);
        let simple =
            http::post(&server.at("/api/v1/chat/stream"), &json!({"message": "stream"})).await.events();
        let last: Value = serde_json::from_str(simple.last().unwrap()).unwrap();
        assert!(last["error"].is_string() && last["finished"] == false, "{name}: {last}");
    }
}

/// Without an id, a role and a chunk of its own for the usage, as some servers send it.
#[tokio::test]
async fn a_stream_has_openais_form_although_the_backends_has_not() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(openai(&mock.base_url())).await;
    let chunk = |id: &str, rest: &str| event(&format!("{{\"id\":\"{id}\",\"model\":\"m\",{rest}}}"));
    let pieces = [
        chunk("", r#""choices":[{"index":0,"delta":{"content":"a"}}],"usage":null"#),
        chunk("x", r#""created":5,"choices":[{"index":0,"delta":{"content":" b"}}],"usage":null"#),
        chunk(
            "y",
            r#""created":6,"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}"#,
        ),
        event("[DONE]"),
    ];
    for include_usage in [false, true] {
        mock.script(Script::Events(pieces.iter().cloned().map(Piece::Send).collect(), End::Clean));
        let mut body = ask();
        body["stream_options"] = json!({"include_usage": include_usage});
        let mut events = http::post(&server.at("/v1/chat/completions"), &body).await.events();
        assert_eq!(events.pop().unwrap(), "[DONE]");
        let chunks: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
        assert!(chunks[0]["id"].as_str().unwrap().starts_with("chatcmpl-"), "{}", chunks[0]);
        for chunk in &chunks {
            assert_eq!((&chunk["id"], &chunk["created"]), (&chunks[0]["id"], &chunks[0]["created"]));
            assert!(include_usage || chunk.get("usage").is_none(), "{chunk}");
        }
        assert_eq!(chunks[0]["choices"][0]["delta"], json!({"content": "a", "role": "assistant"}));
        assert_eq!(chunks[2]["choices"][0]["finish_reason"], "stop");
        assert_eq!(chunks.len(), if include_usage { 4 } else { 3 });
        if include_usage {
            assert_eq!(chunks[3]["choices"], json!([]));
            assert_eq!(chunks[3]["usage"]["prompt_tokens"], 3);
            assert!(chunks[3]["usage"]["cost_usd"].as_f64().unwrap() > 0.0, "{}", chunks[3]);
        }
    }
}

#[tokio::test]
async fn a_fault_before_the_first_event_is_a_real_status() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(openai(&mock.base_url())).await;
    let in_band = json!({"error": {"message": "no", "type": "server_error", "code": null}}).to_string();
    for (script, status) in [
        (Script::cut_stream(0, End::Cut), 502),
        (Script::stream_with(0, event(&in_band)), 503),
        (Script::stream_with(0, Bytes::from_static(b"data: {{{\n\n")), 502),
    ] {
        mock.script(script.clone());
        let answer = http::post(&server.at("/v1/chat/completions"), &ask()).await;
        assert_eq!(answer.status, status, "{script:?}: {:?}", answer.body);
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_upstream_call() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(openai(&mock.base_url())).await;
    // Mid-stream.
    mock.script(Script::Events(vec![Piece::Send(word_event(0)), Piece::Gate], End::Clean));
    let headers = [("content-type", "application/json")];
    let url = server.at("/v1/chat/completions");
    let mut response = http::open(Method::POST, &url, &headers, ask().to_string().as_bytes()).await;
    let first = response.body_mut().frame().await.unwrap().unwrap();
    assert!(first.into_data().unwrap().starts_with(b"data: "));
    drop(response);
    mock.wait_disconnects(1).await;
    // Waiting for a plain answer.
    mock.script(Script::silence());
    let body = json!({"messages": [{"role": "user", "content": "plain"}]}).to_string();
    tokio::select! {
        _ = http::open(Method::POST, &url, &headers, body.as_bytes()) => panic!("nobody answers"),
        () = mock.wait_requests(2) => {}
    }
    mock.wait_disconnects(2).await;
}

#[tokio::test]
async fn a_stream_that_is_open_at_the_end_is_told_so() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(openai(&mock.base_url())).await;
    mock.script(Script::Events(vec![Piece::Send(word_event(0)), Piece::Gate], End::Clean));
    let headers = [("content-type", "application/json")];
    let mut response =
        http::open(Method::POST, &server.at("/v1/chat/completions"), &headers, ask().to_string().as_bytes())
            .await;
    response.body_mut().frame().await.unwrap().unwrap();
    server.shutdown.begin();
    server.shutdown.end_streams();
    let rest = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(rest.to_vec()).unwrap();
    assert!(text.contains("shutting_down") && !text.contains("[DONE]"), "{text}");
    server.stop().await;
}

#[tokio::test]
async fn a_stream_that_ends_within_the_grace_period_is_whole() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(openai(&mock.base_url())).await;
    let mut pieces = vec![Piece::Send(word_event(0)), Piece::Gate];
    pieces.extend(crate::mock_openai::whole_stream(2, true).into_iter().skip(1).map(Piece::Send));
    mock.script(Script::Events(pieces, End::Clean));
    let headers = [("content-type", "application/json")];
    let mut response =
        http::open(Method::POST, &server.at("/v1/chat/completions"), &headers, ask().to_string().as_bytes())
            .await;
    response.body_mut().frame().await.unwrap().unwrap();
    server.shutdown.begin();
    mock.open_gate();
    let rest = response.into_body().collect().await.unwrap().to_bytes();
    assert!(rest.ends_with(b"data: [DONE]\n\n"), "{rest:?}");
    server.stop().await;
}

#[tokio::test]
async fn s8_a_backend_that_hangs_is_told_before_the_first_event_by_status_and_behind_it_by_an_event() {
    let mock = MockOpenAi::start().await;
    let mut config = openai(&mock.base_url());
    config.dynamic.timeouts.first_token_ms = 300;
    config.dynamic.timeouts.idle_ms = 300;
    let server = TestServer::start(config).await;
    // Comments are no answer.
    let dripping = || {
        let drip =
            [Piece::Send(Bytes::from_static(b": still here\n\n")), Piece::Wait(Duration::from_millis(50))];
        std::iter::repeat_n(drip, 400).flatten()
    };
    let hang = |begun: usize, drips: bool| {
        let mut pieces: Vec<Piece> = (0..begun).map(|word| Piece::Send(word_event(word))).collect();
        pieces.extend(dripping().filter(|_| drips));
        Script::Events(pieces, End::Hang)
    };
    for (number, (script, status)) in [
        (Script::silence(), 504),
        (hang(0, false), 504),
        (hang(0, true), 504),
        (hang(2, false), 200),
        (hang(2, true), 200),
    ]
    .into_iter()
    .enumerate()
    {
        mock.script(script.clone());
        let answer = http::post(&server.at("/v1/chat/completions"), &ask()).await;
        assert_eq!(answer.status, status, "{script:?}");
        let error = if status == 200 {
            serde_json::from_str(answer.events().last().unwrap()).unwrap()
        } else {
            answer.json()
        };
        assert_eq!(error["error"]["code"], "backend_timeout", "{script:?}: {error}");
        mock.wait_disconnects(number + 1).await;
    }
    let calls = "openai_api_calls_total{model=\"gpt-4o-mini\",status=\"backend_timeout\"} 5";
    for line in [calls, "chat_requests_in_flight 0", "chat_streams_active 0"] {
        metrics::wait(&server, line).await;
    }
    assert_eq!(mock.requests().len(), 5, "none was tried again: it may have been done");
    let paid = metrics::value(&server, "openai_tokens_used_total{model=\"gpt-4o-mini\"}").await;
    assert!(paid >= 5, "every call pays at least its prompt: {paid}");
}
