//! A Redis that is away and comes back: what was given up meanwhile stays given up, and a server that nobody asks anything
//! finds out both by itself.

use std::time::Duration;

use ::http::Method;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::http::{self, DEADLINE};
use crate::mock_openai::{MockOpenAi, Script};
use crate::process_support::Process;
use crate::redis_server::RedisServer;
use crate::server::{TestServer, openai};

/// Nothing is limited, so nothing but conversations needs Redis.
const IDLE: &str = "apiVersion: chatservice.dev/v1alpha1
kind: ChatService
metadata: { name: demo, namespace: chat }
spec:
  model: echo
  backend: { echo: {} }
  conversations: { ttl: 1h }
  redis: { secretRef: { name: demo-redis } }
  logging: { format: json }
";

/// Waits until the server says so of its Redis.
async fn says_connected(server: &Process, connected: bool) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let status = http::get(&format!("{}/status", server.admin)).await.json();
        if status["redisConnected"] == connected {
            return;
        }
        assert!(Instant::now() < deadline, "{status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn s3_a_server_that_nobody_asks_says_that_redis_is_away_and_finds_it_again() {
    let Some(mut redis) = RedisServer::start().await else { return };
    redis.kill();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("chat.yaml");
    std::fs::write(&file, IDLE).unwrap();
    let server = Process::of(&file, &redis.url()).await;
    for _ in 0..2 {
        says_connected(&server, false).await;
        redis.restart().await;
        says_connected(&server, true).await;
        redis.kill();
    }
}

/// A turn whose answer is whole when Redis has just been frozen. Out: whether Redis was sent the turn, and heard of it when
/// it thawed; false where the server had given Redis up before, so that there was nothing to hear.
async fn give_up_a_turn(
    redis: &RedisServer,
    mock: &MockOpenAi,
    server: &TestServer,
    stream: bool,
    first: bool,
) -> bool {
    let url = server.at("/api/v1/chat");
    let mut kept = Vec::new();
    let said = format!("given up {}", uuid::Uuid::new_v4());
    let mut body = json!({"message": said, "stream": stream});
    if !first {
        mock.script(Script::Words(2));
        let answer = http::post(&url, &json!({"message": "kept"})).await.json();
        if answer["persisted"] != true {
            return false;
        }
        kept = vec![json!("kept"), answer["message"].clone()];
        body["conversation_id"] = answer["conversation_id"].clone();
    }
    let monitor = redis::Client::open(redis.url()).unwrap().get_async_monitor().await.unwrap();
    let mut commands = monitor.into_on_message::<String>();
    let before = mock.count();
    mock.script(Script::Words(3).gated());
    let mut asking = JoinSet::new();
    asking.spawn(async move { http::post(&url, &body).await });
    // By then the history has been read.
    mock.wait_requests(before + 1).await;
    redis.freeze();
    mock.open_gate();
    let answer = asking.join_next().await.unwrap().unwrap();
    redis.thaw();
    assert_eq!(answer.status, 200);
    let answer: Value =
        if stream { serde_json::from_str(answer.events().last().unwrap()).unwrap() } else { answer.json() };
    assert_eq!(answer["persisted"], false, "{answer}");

    let mut heard = false;
    let () = redis::cmd("ECHO").arg("the-end").query_async(&mut redis.connection().await).await.unwrap();
    loop {
        let command = tokio::time::timeout(DEADLINE, commands.next()).await.unwrap().unwrap();
        heard |= command.contains("\"EVALSHA\"") && command.contains(&said);
        if command.contains("the-end") {
            break;
        }
    }
    let id = answer["conversation_id"].as_str().unwrap();
    let stored = server.at(&format!("/api/v1/conversations/{id}"));
    let deadline = Instant::now() + DEADLINE;
    let shown = loop {
        let shown = http::send(Method::GET, &stored, &[], b"").await;
        if shown.status != 503 {
            break shown;
        }
        assert!(Instant::now() < deadline, "Redis is not used again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(shown.status, if first { 404 } else { 200 });
    let shown = shown.json();
    let messages = shown["messages"].as_array().into_iter().flatten();
    assert_eq!(messages.map(|message| message["content"].clone()).collect::<Vec<_>>(), kept);
    heard
}

/// The script that stores a turn is in the socket of a frozen Redis, which runs it when it thaws, long after the caller
/// was told that nothing is stored.
#[tokio::test]
async fn s1_a_turn_that_was_given_up_is_not_stored_once_a_frozen_redis_thaws() {
    let Some(redis) = RedisServer::start().await else { return };
    let mock = MockOpenAi::start().await;
    let server = TestServer::start_on_redis(openai(&mock.base_url()), &redis.url()).await;
    for (stream, first) in [(false, false), (true, false), (false, true), (true, true)] {
        let deadline = Instant::now() + 2 * DEADLINE;
        while !give_up_a_turn(&redis, &mock, &server, stream, first).await {
            assert!(Instant::now() < deadline, "Redis never heard of a turn that was given up");
        }
    }
}
