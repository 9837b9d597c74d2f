//! Conversations of the simple dialect, on both stores.

use ::http::Method;
use bytes::Bytes;
use chatservice::server::config::RequestLimit;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::http::{self, Answer};
use crate::mock_openai::{End, MockOpenAi, Piece, Script, event, whole_stream, word_event};
use crate::redis_server::RedisServer;
use crate::server::{TestServer, openai};

fn messages(mock: &MockOpenAi) -> Vec<Value> {
    let body: Value = serde_json::from_slice(&mock.requests().last().unwrap().body).unwrap();
    body["messages"].as_array().unwrap().clone()
}

/// The answer to a turn. None where the store was late: on a busy machine that may be, and the answer says so.
async fn turn(server: &TestServer, mock: &MockOpenAi, body: &Value) -> Option<Value> {
    mock.script(Script::Words(3));
    let answer = http::post(&server.at("/api/v1/chat"), body).await.json();
    (answer["persisted"] == true).then_some(answer)
}

/// What came of a scenario that is begun again while the store is late.
async fn in_time<T>(scenario: impl AsyncFn() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + http::DEADLINE;
    loop {
        if let Some(done) = scenario().await {
            return done;
        }
        assert!(tokio::time::Instant::now() < deadline, "the store is never in time");
    }
}

async fn the_model_is_told_what_came_before(server: &TestServer, mock: &MockOpenAi) -> Option<()> {
    let first = turn(server, mock, &json!({"message": "My name is Ada."})).await?;
    let id = first["conversation_id"].clone();
    let second = turn(server, mock, &json!({"message": "Who am I?", "conversation_id": id})).await?;
    assert_eq!(second["conversation_id"], id);
    let sent = messages(mock);
    assert_eq!(sent.len(), 3);
    assert_eq!(sent[0], json!({"role": "user", "content": "My name is Ada."}));
    assert_eq!(sent[1]["role"], "assistant");
    assert_eq!(sent[1]["content"], first["message"]);
    assert_eq!(sent[2], json!({"role": "user", "content": "Who am I?"}));
    // A streamed turn is a turn as well.
    mock.script(Script::Words(3));
    let body = json!({"message": "third", "conversation_id": id});
    let stream = http::post(&server.at("/api/v1/chat/stream"), &body).await.events();
    let last: Value = serde_json::from_str(stream.last().unwrap()).unwrap();
    if last["persisted"] != true {
        return None;
    }
    let body = json!({"message": "fourth", "conversation_id": id, "system_prompt": "Be brief."});
    turn(server, mock, &body).await?;
    let sent = messages(mock);
    assert_eq!(sent.len(), 8, "a system prompt, three turns and the question");
    assert_eq!(sent[0], json!({"role": "system", "content": "Be brief."}));
    Some(())
}

#[tokio::test]
async fn a_conversation_goes_on_in_memory() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(openai(&mock.base_url())).await;
    the_model_is_told_what_came_before(&server, &mock).await.unwrap();
}

#[tokio::test]
async fn a_conversation_goes_on_in_redis_and_on_another_server() {
    let Some(redis) = RedisServer::start().await else { return };
    let mock = MockOpenAi::start().await;
    let config = openai(&mock.base_url());
    let one = TestServer::start_on_redis(config.clone(), &redis.url()).await;
    in_time(async || the_model_is_told_what_came_before(&one, &mock).await).await;
    let other = TestServer::start_on_redis(config, &redis.url()).await;
    in_time(async || {
        let begun = turn(&one, &mock, &json!({"message": "begun here"})).await?;
        let ask = json!({"message": "continued there", "conversation_id": begun["conversation_id"]});
        turn(&other, &mock, &ask).await?;
        assert_eq!(messages(&mock)[0]["content"], "begun here");
        Some(())
    })
    .await;
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

/// A verb on a conversation.
async fn on(server: &TestServer, method: Method, id: &Value) -> Answer {
    let id = id.as_str().unwrap();
    http::send(method, &server.at(&format!("/api/v1/conversations/{id}")), &[], b"").await
}

async fn it_is_shown_with_its_totals_and_erased(server: &TestServer, mock: &MockOpenAi) -> Option<()> {
    let stored = async |method, id: &Value| {
        let answer = on(server, method, id).await;
        (answer.status != 503).then_some(answer)
    };
    let first = turn(server, mock, &json!({"message": "My name is \"Ada\" <b>."})).await?;
    let id = &first["conversation_id"];
    let second = turn(server, mock, &json!({"message": "Who am I?", "conversation_id": id})).await?;
    let shown = stored(Method::GET, id).await?;
    assert_eq!(shown.header("cache-control"), "no-store");
    let shown = shown.json();
    assert_eq!(shown["conversation_id"], *id);
    assert_eq!(
        shown["messages"],
        json!([
            {"role": "user", "content": "My name is \"Ada\" <b>."},
            {"role": "assistant", "content": first["message"]},
            {"role": "user", "content": "Who am I?"},
            {"role": "assistant", "content": second["message"]},
        ])
    );
    let sum = |field: &str| first[field].as_f64().unwrap() + second[field].as_f64().unwrap();
    assert!((shown["total_tokens"].as_f64().unwrap() - sum("tokens_used")).abs() < 0.5, "{shown}");
    assert!((shown["total_cost"].as_f64().unwrap() - sum("cost_estimate")).abs() < 1e-12, "{shown}");
    let updated: jiff::Timestamp = shown["updated_at"].as_str().unwrap().parse().unwrap();
    assert!(updated.duration_until(jiff::Timestamp::now()).as_secs().abs() < 3600, "{shown}");

    let erased = stored(Method::DELETE, id).await?;
    assert_eq!((erased.status.as_u16(), erased.body.len()), (204, 0));
    for method in [Method::GET, Method::DELETE] {
        let gone = stored(method, id).await?;
        assert_eq!((gone.status.as_u16(), &gone.json()["error"]), (404, &json!("conversation_not_found")));
    }
    let body = json!({"message": "Who?", "conversation_id": id});
    let goes_on = http::post(&server.at("/api/v1/chat"), &body).await;
    if goes_on.status == 200 {
        return None;
    }
    assert_eq!(goes_on.status, 404);
    Some(())
}

#[tokio::test]
async fn a_conversation_is_shown_with_its_totals_and_erased_in_memory() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(openai(&mock.base_url())).await;
    it_is_shown_with_its_totals_and_erased(&server, &mock).await.unwrap();
}

#[tokio::test]
async fn a_conversation_is_shown_with_its_totals_and_erased_in_redis() {
    let Some(redis) = RedisServer::start().await else { return };
    let mock = MockOpenAi::start().await;
    let server = TestServer::start_on_redis(openai(&mock.base_url()), &redis.url()).await;
    in_time(async || it_is_shown_with_its_totals_and_erased(&server, &mock).await).await;
}

/// X3, as far as there are no callers to tell apart: only an id that was given out opens anything.
#[tokio::test]
async fn x3_what_is_no_id_of_ours_is_404_on_every_verb() {
    let server = TestServer::start(openai("http://127.0.0.1:9")).await;
    for id in [
        "1",
        "00000000-0000-0000-0000-000000000000",
        "9b2c7f0e-5d3a-4c1b-8a6e-1f2d3c4b5a69",
        "%7B9b2c7f0e-5d3a-4c1b-8a6e-1f2d3c4b5a69%7D",
        "%ff%fe",
        "%00",
        "..%2f..%2fchat",
    ] {
        for method in [Method::GET, Method::DELETE] {
            let answer = on(&server, method.clone(), &json!(id)).await;
            assert_eq!(answer.status, 404, "{method} {id}");
            assert_eq!(answer.json()["error"], "conversation_not_found", "{method} {id}");
        }
    }
    let answer = on(&server, Method::PUT, &json!("1")).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]), (405, &json!("method_not_allowed")));
}

#[tokio::test]
async fn turns_are_trimmed_until_their_tokens_fit() {
    let mock = crate::answering(4).await;
    let mut config = openai(&mock.base_url());
    // A question of 8 bytes is 2 tokens by estimate, an answer of three words 3 by report.
    config.dynamic.conversations.max_tokens = Some(11);
    let server = TestServer::start(config).await;
    let url = server.at("/api/v1/chat");
    let id = http::post(&url, &json!({"message": "question"})).await.json()["conversation_id"].clone();
    for _ in 0..3 {
        http::post(&url, &json!({"message": "question", "conversation_id": id})).await;
    }
    assert_eq!(messages(&mock).len(), 5, "two whole turns and the question");
    let shown = on(&server, Method::GET, &id).await.json();
    assert_eq!(shown["messages"].as_array().unwrap().len(), 4);
    assert_eq!(shown["total_tokens"], 40, "of all four turns");
}

/// S9: an answer that breaks, fails or is left is no turn.
#[tokio::test]
async fn s9_a_partial_answer_is_not_a_turn() {
    let mock = MockOpenAi::start().await;
    let mut config = openai(&mock.base_url());
    config.dynamic.max_attempts = 1;
    let server = TestServer::start(config).await;
    mock.script(Script::Words(3));
    let whole = http::post(&server.at("/api/v1/chat"), &json!({"message": "whole"})).await.json();
    let id = whole["conversation_id"].clone();
    let in_band =
        json!({"error": {"message": "overloaded", "type": "server_error", "code": null}}).to_string();
    let ask = |stream: bool| json!({"message": "partial", "conversation_id": id, "stream": stream});
    for script in [
        Script::cut_stream(2, End::Cut),
        Script::cut_stream(2, End::Reset),
        Script::cut_stream(2, End::Clean),
        Script::stream_with(2, event("[DONE]")),
        Script::stream_with(2, event(&in_band)),
        Script::stream_with(2, Bytes::from_static(b"data: {{{\n\n")),
    ] {
        mock.script(script.clone());
        let events = http::post(&server.at("/api/v1/chat"), &ask(true)).await.events();
        assert!(events.last().unwrap().contains("\"error\""), "{script:?}: {events:?}");
    }
    mock.script(Script::Status(500, Vec::new(), "{}".to_owned()));
    assert_eq!(http::post(&server.at("/api/v1/chat"), &ask(false)).await.status, 503);
    // A client that leaves in the middle.
    mock.script(Script::Events(vec![Piece::Send(word_event(0))], End::Hang));
    let headers = [("content-type", "application/json")];
    let body = ask(true).to_string();
    let url = server.at("/api/v1/chat");
    let mut stream = http::open(Method::POST, &url, &headers, body.as_bytes()).await.into_body();
    stream.frame().await.unwrap().unwrap();
    drop(stream);
    mock.wait_disconnects(1).await;

    let shown = on(&server, Method::GET, &id).await.json();
    let contents: Vec<&Value> =
        shown["messages"].as_array().unwrap().iter().map(|message| &message["content"]).collect();
    assert_eq!(contents, [&json!("whole"), &whole["message"]]);
    assert_eq!(shown["total_tokens"], whole["tokens_used"]);
}

#[tokio::test]
async fn a_turn_in_flight_does_not_bring_an_erased_conversation_back() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(openai(&mock.base_url())).await;
    mock.script(Script::Words(3));
    let begun = http::post(&server.at("/api/v1/chat"), &json!({"message": "begin"})).await.json();
    let id = &begun["conversation_id"];
    let events = whole_stream(2, true);
    let mut pieces = vec![Piece::Send(events[0].clone()), Piece::Send(events[1].clone()), Piece::Gate];
    pieces.extend(events[2..].iter().cloned().map(Piece::Send));
    mock.script(Script::Events(pieces, End::Clean));
    let body = json!({"message": "in flight", "conversation_id": id}).to_string();
    let headers = [("content-type", "application/json")];
    let url = server.at("/api/v1/chat/stream");
    let stream = http::open(Method::POST, &url, &headers, body.as_bytes()).await;
    assert_eq!(on(&server, Method::DELETE, id).await.status, 204);
    mock.open_gate();
    let whole = stream.into_body().collect().await.unwrap().to_bytes();
    assert!(std::str::from_utf8(&whole).unwrap().contains("\"persisted\":false"));
    assert_eq!(on(&server, Method::GET, id).await.status, 404);
}

#[tokio::test]
async fn looking_and_erasing_are_requests_as_well() {
    let mock = crate::answering(1).await;
    let mut config = openai(&mock.base_url());
    config.dynamic.limits.requests = Some(RequestLimit { requests: 1, period_seconds: 3600, burst: 3 });
    let server = TestServer::start(config).await;
    let id = http::post(&server.at("/api/v1/chat"), &json!({"message": "hi"})).await.json();
    let id = &id["conversation_id"];
    assert_eq!(on(&server, Method::GET, id).await.header("x-ratelimit-remaining-requests"), "1");
    assert_eq!(on(&server, Method::GET, &json!("1")).await.header("x-ratelimit-remaining-requests"), "0");
    let refused = on(&server, Method::DELETE, id).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["error"]), (429, &json!("rate_limit_exceeded")));
}

#[tokio::test]
async fn while_the_store_is_away_a_turn_is_answered_and_a_conversation_cannot_be_seen() {
    let Some(mut redis) = RedisServer::start().await else { return };
    let mock = crate::answering(2).await;
    let server = TestServer::start_on_redis(openai(&mock.base_url()), &redis.url()).await;
    let url = server.at("/api/v1/chat");
    let id = http::post(&url, &json!({"message": "hi"})).await.json()["conversation_id"].clone();
    redis.kill();
    let answer = http::post(&url, &json!({"message": "still there?", "conversation_id": id})).await.json();
    assert_eq!((&answer["persisted"], &answer["conversation_id"]), (&json!(false), &id));
    for method in [Method::GET, Method::DELETE] {
        let answer = on(&server, method, &id).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]), (503, &json!("store_unavailable")));
        assert_eq!(answer.header("retry-after"), "1");
    }
}
