//! Conversations of the simple dialect, on both stores.

use serde_json::{Value, json};

use crate::http;
use crate::mock_openai::MockOpenAi;
use crate::redis_server::RedisServer;
use crate::server::{TestServer, openai};

fn messages(mock: &MockOpenAi) -> Vec<Value> {
    let body: Value = serde_json::from_slice(&mock.requests().last().unwrap().body).unwrap();
    body["messages"].as_array().unwrap().clone()
}

async fn the_model_is_told_what_came_before(server: &TestServer, mock: &MockOpenAi) {
    let url = server.at("/api/v1/chat");
    let first = http::post(&url, &json!({"message": "My name is Ada."})).await.json();
    let id = first["conversation_id"].clone();
    let second = http::post(&url, &json!({"message": "Who am I?", "conversation_id": id})).await.json();
    assert_eq!(second["conversation_id"], id);
    let sent = messages(mock);
    assert_eq!(sent.len(), 3);
    assert_eq!(sent[0], json!({"role": "user", "content": "My name is Ada."}));
    assert_eq!(sent[1]["role"], "assistant");
    assert_eq!(sent[1]["content"], first["message"]);
    assert_eq!(sent[2], json!({"role": "user", "content": "Who am I?"}));
    // A streamed turn is a turn as well.
    let stream =
        http::post(&server.at("/api/v1/chat/stream"), &json!({"message": "third", "conversation_id": id}))
            .await;
    assert!(stream.events().last().unwrap().contains("\"persisted\":true"));
    http::post(&url, &json!({"message": "fourth", "conversation_id": id, "system_prompt": "Be brief."}))
        .await;
    let sent = messages(mock);
    assert_eq!(sent.len(), 8, "a system prompt, three turns and the question");
    assert_eq!(sent[0], json!({"role": "system", "content": "Be brief."}));
}

#[tokio::test]
async fn a_conversation_goes_on_in_memory() {
    let mock = crate::answering(12).await;
    let server = TestServer::start(openai(&mock.base_url())).await;
    the_model_is_told_what_came_before(&server, &mock).await;
}

#[tokio::test]
async fn a_conversation_goes_on_in_redis_and_on_another_server() {
    let Some(redis) = RedisServer::start().await else { return };
    let mock = crate::answering(12).await;
    let config = openai(&mock.base_url());
    let one = TestServer::start_on_redis(config.clone(), &redis.url()).await;
    the_model_is_told_what_came_before(&one, &mock).await;
    let other = TestServer::start_on_redis(config, &redis.url()).await;
    let begun = http::post(&one.at("/api/v1/chat"), &json!({"message": "begun here"})).await.json();
    let ask = json!({"message": "continued there", "conversation_id": begun["conversation_id"]});
    assert_eq!(http::post(&other.at("/api/v1/chat"), &ask).await.status, 200);
    assert_eq!(messages(&mock)[0]["content"], "begun here");
}

#[tokio::test]
async fn only_the_last_messages_are_kept_whole_turn_by_whole_turn() {
    let mock = crate::answering(12).await;
    let mut config = openai(&mock.base_url());
    config.dynamic.conversations.max_messages = 4;
    let server = TestServer::start(config).await;
    let url = server.at("/api/v1/chat");
    let id = http::post(&url, &json!({"message": "turn 0"})).await.json()["conversation_id"].clone();
    for turn in 1..5 {
        http::post(&url, &json!({"message": format!("turn {turn}"), "conversation_id": id})).await;
    }
    let sent = messages(&mock);
    assert_eq!(sent.len(), 5, "two whole turns and the question");
    assert_eq!(sent[0]["content"], "turn 2");
}

#[tokio::test]
async fn the_services_system_prompt_is_added_only_where_a_request_has_none() {
    let mock = crate::answering(12).await;
    let mut config = openai(&mock.base_url());
    config.dynamic.defaults.system_prompt = Some("You are a parrot.".to_owned());
    let server = TestServer::start(config).await;
    http::post(&server.at("/api/v1/chat"), &json!({"message": "hi"})).await;
    assert_eq!(messages(&mock)[0], json!({"role": "system", "content": "You are a parrot."}));
    let url = server.at("/v1/chat/completions");
    http::post(&url, &json!({"messages": [{"role": "user", "content": "hi"}]})).await;
    assert_eq!(messages(&mock)[0]["content"], "You are a parrot.");
    for role in ["system", "developer"] {
        http::post(
            &url,
            &json!({"messages": [{"role": role, "content": "own"}, {"role": "user", "content": "hi"}]}),
        )
        .await;
        assert_eq!(messages(&mock).len(), 2, "{role}");
    }
}
