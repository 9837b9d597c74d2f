//! Responses as events.

use std::time::Duration;

use ::http::Method;
use bytes::Bytes;
use chatservice::server::config::{ModelConfig, PriceConfig};
use http_body_util::BodyExt;
use serde_json::json;

use super::{events, kinds, streamed};
use crate::http::{self, Answer};
use crate::metrics;
use crate::mock_openai::{End, MockOpenAi, Piece, Script, event, whole_stream, word_event};
use crate::redis_server::RedisServer;
use crate::server::{TestServer, echo, openai};

#[tokio::test]
async fn a_stream_tells_every_item_part_and_piece_and_the_whole_last() {
    let server = TestServer::start(echo()).await;
    let events = streamed(&server, json!({"input": "one two"})).await;
    assert_eq!(
        kinds(&events),
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    assert_eq!(events[0]["response"]["status"], "in_progress");
    assert_eq!(events[0]["response"]["output"], json!([]));
    let item = &events[2]["item"];
    assert_eq!(
        (&item["status"], &item["content"], &events[2]["output_index"]),
        (&json!("in_progress"), &json!([]), &json!(0))
    );
    for event in &events[3..=7] {
        assert_eq!(
            (&event["item_id"], &event["output_index"], &event["content_index"]),
            (&item["id"], &json!(0), &json!(0))
        );
    }
    assert_eq!(
        (&events[4]["delta"], &events[5]["delta"], &events[6]["text"]),
        (&json!("one"), &json!(" two"), &json!("one two"))
    );
    assert_eq!(events[7]["part"]["text"], "one two");
    let response = &events[9]["response"];
    assert_eq!((&response["output"][0], &response["status"]), (&events[8]["item"], &json!("completed")));
    assert_eq!(response["id"], events[0]["response"]["id"]);
    assert_eq!(
        (&response["usage"]["output_tokens"], &response["usage"]["cost_usd"]),
        (&json!(2), &json!(0.0))
    );
}

#[tokio::test]
async fn s9_a_stream_that_breaks_ends_as_failed_and_is_not_stored() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(openai(&mock.base_url())).await;
    for script in [
        Script::cut_stream(2, End::Cut),
        Script::cut_stream(2, End::Reset),
        Script::stream_with(2, Bytes::from_static(b"data: {\"error\":{\"message\":\"x\"}}\n\n")),
        Script::stream_with(2, Bytes::from_static(b"data: not json\n\n")),
        Script::stream_with(2, event("[DONE]")),
    ] {
        let shown = format!("{script:?}");
        mock.script(script);
        let events = streamed(&server, json!({"input": "a"})).await;
        let [.., error, failed] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!(
            (&error["type"], &failed["type"]),
            (&json!("error"), &json!("response.failed")),
            "{shown}"
        );
        assert_eq!(error["code"], "backend_invalid_response", "{shown}");
        let told_to_sdks = &error["error"];
        for name in ["code", "message", "param"] {
            assert_eq!(told_to_sdks[name], error[name], "{shown}");
        }
        assert_eq!(told_to_sdks["type"], "server_error", "{shown}");
        let response = &failed["response"];
        assert_eq!((&response["status"], &response["store"]), (&json!("failed"), &json!(false)));
        assert_eq!(response["error"]["code"], "backend_invalid_response");
        assert_eq!(response["error"]["message"], error["message"]);
        assert!(!kinds(&events).contains(&"response.completed"), "{shown}");
        let read =
            http::get(&server.at(&format!("/v1/responses/{}", response["id"].as_str().unwrap()))).await;
        assert_eq!(read.status, 404);
    }
}

#[tokio::test]
async fn s10_a_client_that_leaves_cancels_the_call_and_nothing_is_stored() {
    let Some(redis) = RedisServer::start().await else { return };
    let mock = MockOpenAi::start().await;
    mock.script(Script::Events(vec![Piece::Send(word_event(0)), Piece::Gate], End::Hang));
    let server = TestServer::start_on_redis(openai(&mock.base_url()), &redis.url()).await;
    let body = json!({"input": "a", "stream": true}).to_string();
    let headers = [("content-type", "application/json")];
    let mut response = http::open(Method::POST, &server.at("/v1/responses"), &headers, body.as_bytes()).await;
    let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"event: response.created\n"), "{first:?}");
    drop(response);
    mock.wait_disconnects(1).await;
    metrics::wait(&server, "chat_streams_active 0").await;
    let keys: Vec<String> = redis.query("KEYS *:r1").await.unwrap();
    assert!(keys.is_empty(), "{keys:?}");
}

#[tokio::test]
async fn s11_a_stream_that_outlives_the_grace_period_ends_as_failed() {
    let mock = MockOpenAi::start().await;
    mock.script(Script::Events(vec![Piece::Send(word_event(0)), Piece::Gate], End::Hang));
    let server = TestServer::start_as(openai(&mock.base_url()), |options| {
        options.edge.grace = Duration::from_secs(6);
    })
    .await;
    let body = json!({"input": "a", "stream": true}).to_string();
    let headers = [("content-type", "application/json")];
    let response = http::open(Method::POST, &server.at("/v1/responses"), &headers, body.as_bytes()).await;
    server.shutdown.begin();
    let body = tokio::time::timeout(http::DEADLINE, response.into_body().collect())
        .await
        .unwrap()
        .unwrap()
        .to_bytes();
    let events = events(&Answer { status: ::http::StatusCode::OK, headers: ::http::HeaderMap::new(), body });
    let failed = events.last().unwrap();
    assert_eq!(
        (&failed["type"], &failed["response"]["error"]["code"]),
        (&json!("response.failed"), &json!("shutting_down"))
    );
}

#[tokio::test]
async fn a_streams_usage_and_cost_are_told_although_nobody_asked_the_backend_by_name() {
    let mock = MockOpenAi::start().await;
    mock.script(Script::Words(3));
    let mut config = openai(&mock.base_url());
    config.dynamic.models = vec![ModelConfig {
        price: Some(PriceConfig {
            input_per_million_tokens: "1".to_owned(),
            output_per_million_tokens: "2".to_owned(),
        }),
        ..ModelConfig::named("gpt-4o-mini")
    }];
    let server = TestServer::start(config).await;
    let events = streamed(&server, json!({"input": "a"})).await;
    let usage = events.last().unwrap()["response"]["usage"].clone();
    assert_eq!((&usage["total_tokens"], &usage["cost_usd"]), (&json!(10), &json!(0.000_013)));
    metrics::wait(&server, r#"chat_tokens_total{caller="other",kind="completion",model="gpt-4o-mini"} 3"#)
        .await;
}

#[tokio::test]
async fn silence_of_the_model_is_an_event_stream_that_is_kept_alive_by_its_first_events() {
    let mock = MockOpenAi::start().await;
    let mut pieces: Vec<Piece> = whole_stream(1, true).into_iter().map(Piece::Send).collect();
    pieces.insert(1, Piece::Gate);
    mock.script(Script::Events(pieces, End::Clean));
    let server = TestServer::start(openai(&mock.base_url())).await;
    let body = json!({"input": "a", "stream": true}).to_string();
    let headers = [("content-type", "application/json")];
    let mut response = http::open(Method::POST, &server.at("/v1/responses"), &headers, body.as_bytes()).await;
    let first =
        tokio::time::timeout(http::DEADLINE, response.body_mut().frame()).await.unwrap().unwrap().unwrap();
    let first = String::from_utf8(first.into_data().unwrap().to_vec()).unwrap();
    assert!(first.contains("event: response.in_progress\n"), "before the model says anything: {first}");
    mock.open_gate();
    let rest = tokio::time::timeout(http::DEADLINE, response.into_body().collect())
        .await
        .unwrap()
        .unwrap()
        .to_bytes();
    assert!(String::from_utf8(rest.to_vec()).unwrap().contains("event: response.completed\n"));
}
