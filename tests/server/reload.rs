//! A new configuration while requests are in flight.

use ::http::Method;
use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::config_mount::ConfigMount;
use crate::http;
use crate::mock_openai::{End, MockOpenAi, Piece, Script, whole_stream};
use crate::server::{TestServer, cache, openai};
use chatservice::server::config::{ModelConfig, RequestLimit, ServerConfig};

/// Writes the configuration and waits until the server says that it runs.
async fn change(server: &TestServer, mount: &mut ConfigMount, config: &ServerConfig) {
    mount.write(&config.to_text());
    let deadline = tokio::time::Instant::now() + http::DEADLINE;
    loop {
        let status = http::get(&format!("{}/status", server.admin)).await.json();
        if status["configHash"] == *config.hash() {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "the new configuration does not run: {status}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

fn upstream_model(mock: &MockOpenAi) -> Value {
    let body: Value = serde_json::from_slice(&mock.requests().last().unwrap().body).unwrap();
    body["model"].clone()
}

#[tokio::test]
async fn a_stream_in_flight_ends_with_what_it_began_with_and_the_next_request_gets_the_new() {
    let mock = MockOpenAi::start().await;
    let mut config = openai(&mock.base_url());
    let mut mount = ConfigMount::new(&config.to_text());
    let server = TestServer::start_from(config.clone(), mount.file()).await;

    let events = whole_stream(3, true);
    let mut pieces = vec![Piece::Send(events[0].clone()), Piece::Send(events[1].clone()), Piece::Gate];
    pieces.extend(events[2..].iter().cloned().map(Piece::Send));
    mock.script(Script::Events(pieces, End::Clean));
    let body = json!({"message": "stream"}).to_string();
    let headers = [("content-type", "application/json")];
    let stream = http::open(Method::POST, &server.at("/api/v1/chat/stream"), &headers, body.as_bytes()).await;
    assert_eq!(stream.status(), 200);

    config.identity.generation += 1;
    config.dynamic.model = "other".to_owned();
    config.dynamic.models = vec![ModelConfig::named("other")];
    change(&server, &mut mount, &config).await;
    mock.script(Script::Words(1));
    let answer = http::post(&server.at("/api/v1/chat"), &json!({"message": "plain"})).await.json();
    assert_eq!(answer["model"], "other");
    assert_eq!(upstream_model(&mock), "other");

    mock.open_gate();
    let whole: Bytes = stream.into_body().collect().await.unwrap().to_bytes();
    let text = std::str::from_utf8(&whole).unwrap();
    let last: Value = serde_json::from_str(text.rsplit("data: ").next().unwrap()).unwrap();
    assert_eq!(last["finished"], true, "{text}");
    assert_eq!(last["model"], "gpt-4o-mini", "{text}");
    assert_eq!(last["persisted"], true, "{text}");
}

#[tokio::test]
async fn limits_answers_and_conversations_outlive_a_change() {
    let mock = crate::answering(3).await;
    let mut config = openai(&mock.base_url());
    config.dynamic.cache = Some(cache());
    config.dynamic.limits.requests = Some(RequestLimit { requests: 1, period_seconds: 3600, burst: 4 });
    let mut mount = ConfigMount::new(&config.to_text());
    let server = TestServer::start_from(config.clone(), mount.file()).await;
    let url = server.at("/api/v1/chat");
    let first = http::post(&url, &json!({"message": "My name is Ada."})).await;
    assert_eq!(first.header("x-ratelimit-remaining-requests"), "3");

    config.dynamic.defaults.system_prompt = None;
    config.dynamic.conversations.max_messages = 10;
    config.dynamic.timeouts.request_ms += 1000;
    change(&server, &mut mount, &config).await;
    let again = http::post(&url, &json!({"message": "My name is Ada."})).await;
    assert_eq!(again.header("x-chat-cache"), "hit");
    assert_eq!(again.header("x-ratelimit-remaining-requests"), "2");
    let id = first.json()["conversation_id"].clone();
    let goes_on = http::post(&url, &json!({"message": "Who am I?", "conversation_id": id})).await;
    assert_eq!(goes_on.status, 200, "{:?}", goes_on.body);

    // Who was refused is let in at once where the limit is gone.
    http::post(&url, &json!({"message": "My name is Ada."})).await;
    assert_eq!(http::post(&url, &json!({"message": "one more"})).await.status, 429);
    config.dynamic.limits.requests = None;
    change(&server, &mut mount, &config).await;
    assert_eq!(http::post(&url, &json!({"message": "My name is Ada."})).await.status, 200);
}

#[tokio::test]
async fn origins_are_allowed_and_no_more_without_a_new_pod() {
    let mock = MockOpenAi::start().await;
    let mut config = openai(&mock.base_url());
    let mut mount = ConfigMount::new(&config.to_text());
    let server = TestServer::start_from(config.clone(), mount.file()).await;
    let origin = "https://app.example.com";
    let allowed = async || {
        let answer = http::send(Method::GET, &server.at("/v1/models"), &[("origin", origin)], b"").await;
        answer.header("access-control-allow-origin").to_owned()
    };
    assert_eq!(allowed().await, "");
    config.dynamic.cors_origins = vec![origin.to_owned()];
    change(&server, &mut mount, &config).await;
    assert_eq!(allowed().await, origin);
    config.dynamic.cors_origins.clear();
    change(&server, &mut mount, &config).await;
    assert_eq!(allowed().await, "");
}
