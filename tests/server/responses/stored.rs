//! What is stored of responses: read, gone on from, and erased.

use ::http::Method;
use chatservice::server::config::RequestLimit;
use serde_json::{Value, json};

use super::{answered, respond, streamed};
use crate::http;
use crate::redis_server::RedisServer;
use crate::server::{TestServer, echo};

/// Everything that is stored behaves the same in memory and in Redis.
async fn state(server: &TestServer, other: &TestServer) {
    let first = answered(server, &json!({"input": "My name is Ada", "metadata": {"k": "v"}})).await;
    let second = answered(server, &json!({"input": "And mine?", "previous_response_id": first["id"]})).await;
    let path = |response: &Value| format!("/v1/responses/{}", response["id"].as_str().unwrap());
    for response in [&first, &second] {
        let read = http::get(&other.at(&path(response))).await;
        assert_eq!((read.status.as_u16(), &read.json()), (200, response));
        assert_eq!(
            (read.header("cache-control"), read.header("content-type")),
            ("no-store", "application/json")
        );
    }
    let items = |query: &str| {
        let url = other.at(&format!("{}/input_items{query}", path(&second)));
        async move { http::get(&url).await.json() }
    };
    let all = items("").await;
    let texts: Vec<_> = all["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["content"][0]["text"].as_str().unwrap())
        .collect();
    assert_eq!(
        (texts, &all["object"], &all["has_more"]),
        (vec!["And mine?", "My name is Ada", "My name is Ada"], &json!("list"), &json!(false))
    );
    let page = items("?limit=1&order=asc").await;
    assert_eq!(
        (page["data"].as_array().unwrap().len(), &page["has_more"], &page["first_id"]),
        (1, &json!(true), &all["data"][2]["id"])
    );
    let next = items(&format!("?order=asc&after={}", page["last_id"].as_str().unwrap())).await;
    assert_eq!((next["data"].as_array().unwrap().len(), &next["data"][0]["role"]), (2, &json!("assistant")));
    for (query, param) in
        [("?limit=0", "limit"), ("?order=up", "order"), ("?after=msg_1", "after"), ("?include=x", "include")]
    {
        assert_eq!(items(query).await["error"]["param"], param, "{query}");
    }

    let gone = http::send(Method::DELETE, &other.at(&path(&first)), &[], b"").await;
    assert_eq!(
        (gone.status.as_u16(), gone.json()),
        (200, json!({"id": first["id"], "object": "response", "deleted": true}))
    );
    for (method, path) in [
        (Method::GET, path(&first)),
        (Method::DELETE, path(&first)),
        (Method::GET, format!("{}/input_items", path(&first))),
        (Method::GET, "/v1/responses/resp_9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a69".to_owned()),
        (Method::GET, "/v1/responses/9b2c7f0e-5d3a-4c1b-8a6e-1f2d3c4b5a69".to_owned()),
        (Method::GET, "/v1/responses/%FF".to_owned()),
    ] {
        let answer = http::send(method.clone(), &server.at(&path), &[], b"").await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["error"]["code"]),
            (404, &json!("response_not_found")),
            "{method} {path}"
        );
    }
    // A later one has all that it needs.
    answered(server, &json!({"input": "go on", "previous_response_id": second["id"]})).await;
    for previous in [first["id"].clone(), json!("resp_1"), json!("")] {
        let refused = respond(server, &json!({"input": "go on", "previous_response_id": previous})).await;
        let error = refused.json()["error"].clone();
        assert_eq!(
            (refused.status.as_u16(), &error["code"], &error["param"]),
            (404, &json!("previous_response_not_found"), &json!("previous_response_id"))
        );
        for cause in ["`store: false`", "1 MiB", "expired", "`input`"] {
            assert!(error["message"].as_str().unwrap().contains(cause), "{error}");
        }
    }
    let unstored = answered(server, &json!({"input": "forget me", "store": false})).await;
    assert_eq!(
        (&unstored["store"], http::get(&server.at(&path(&unstored))).await.status.as_u16()),
        (&json!(false), 404)
    );
    let events = streamed(server, json!({"input": "streamed", "previous_response_id": second["id"]})).await;
    let told = events.last().unwrap()["response"].clone();
    assert_eq!(http::get(&other.at(&path(&told))).await.json(), told);
}

#[tokio::test]
async fn responses_are_kept_in_memory() {
    let server = TestServer::start(echo()).await;
    state(&server, &server).await;
}

#[tokio::test]
async fn responses_are_kept_in_redis_for_all_servers_and_every_key_has_a_life() {
    let Some(redis) = RedisServer::start().await else { return };
    let config = echo();
    let first = TestServer::start_on_redis(config.clone(), &redis.url()).await;
    let second = TestServer::start_on_redis(config, &redis.url()).await;
    state(&first, &second).await;
    let keys: Vec<String> = redis.query("KEYS *").await.unwrap();
    assert!(keys.iter().any(|key| key.ends_with(":r1")), "{keys:?}");
    for key in keys {
        let life: i64 = redis.query(&format!("PTTL {key}")).await.unwrap();
        assert!(life > 0, "{key} lives for ever");
    }
}

#[tokio::test]
async fn s1_while_redis_is_away_a_response_is_answered_and_says_that_it_is_not_stored() {
    let Some(mut redis) = RedisServer::start().await else { return };
    let server = TestServer::start_on_redis(echo(), &redis.url()).await;
    let stored = answered(&server, &json!({"input": "stored"})).await;
    redis.kill();
    let response = answered(&server, &json!({"input": "not stored"})).await;
    assert_eq!((&response["store"], &response["status"]), (&json!(false), &json!("completed")));
    let events = streamed(&server, json!({"input": "not stored"})).await;
    assert_eq!(events.last().unwrap()["response"]["store"], false);
    let id = stored["id"].as_str().unwrap();
    for answer in [
        respond(&server, &json!({"input": "go on", "previous_response_id": id})).await,
        http::get(&server.at(&format!("/v1/responses/{id}"))).await,
        http::send(Method::DELETE, &server.at(&format!("/v1/responses/{id}")), &[], b"").await,
    ] {
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["error"]["code"]),
            (503, &json!("store_unavailable"))
        );
        assert_eq!(answer.header("retry-after"), "1");
    }
}

#[tokio::test]
async fn what_is_too_long_to_be_stored_says_so() {
    let server = TestServer::start(echo()).await;
    let response = answered(&server, &json!({"input": "x".repeat(1 << 20)})).await;
    assert_eq!(response["store"], false);
    assert_eq!(
        http::get(&server.at(&format!("/v1/responses/{}", response["id"].as_str().unwrap()))).await.status,
        404
    );
}

#[tokio::test]
async fn reading_a_response_is_a_request_of_its_caller() {
    let mut config = echo();
    config.dynamic.limits.requests = Some(RequestLimit { requests: 2, period_seconds: 3600, burst: 2 });
    let server = TestServer::start(config).await;
    let response = answered(&server, &json!({"input": "a"})).await;
    let url = server.at(&format!("/v1/responses/{}", response["id"].as_str().unwrap()));
    let read = http::get(&url).await;
    assert_eq!((read.status.as_u16(), read.header("x-ratelimit-remaining-requests")), (200, "0"));
    assert_eq!(http::get(&url).await.status, 429);
}

#[tokio::test]
async fn pages_go_by_ids_whatever_stands_in_them_and_no_two_items_have_the_same() {
    let server = TestServer::start(echo()).await;
    let message = |id: &str| json!({"role": "user", "content": "hi", "id": id});
    let ids = ["msg 1+1", "msg/2&limit=1", "msg_ä", "msg_4"];
    let input: Vec<Value> = ids.iter().map(|id| message(id)).collect();
    let response = answered(&server, &json!({"input": input})).await;
    let place = server.at(&format!("/v1/responses/{}/input_items", response["id"].as_str().unwrap()));
    // As an SDK writes it, and as an HTML form does.
    for (first, second) in [("msg%201%2B1", "msg%2F2%26limit%3D1"), ("msg+1%2b1", "msg%2f2%26limit%3D1")] {
        let mut seen = Vec::new();
        for after in ["", first, second, "msg_%C3%A4", "msg_4"] {
            let after = if after.is_empty() { String::new() } else { format!("&after={after}") };
            let page = http::get(&format!("{place}?limit=1&order=asc{after}")).await;
            assert_eq!(page.status, 200, "{after}: {:?}", page.body);
            let page = page.json();
            assert_eq!(page["has_more"], page["last_id"].is_string() && page["last_id"] != "msg_4", "{page}");
            seen.extend(
                page["data"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()),
            );
        }
        assert_eq!(seen, ids);
    }
    for body in [
        json!({"input": [message("msg_1"), message("msg_2"), message("msg_1")]}),
        json!({"input": [message("msg_4")], "previous_response_id": response["id"]}),
        json!({"input": response["output"], "previous_response_id": response["id"]}),
    ] {
        let refused = respond(&server, &body).await;
        let error = refused.json()["error"].clone();
        assert_eq!((refused.status.as_u16(), &error["param"]), (400, &json!("input")), "{error}");
        assert!(
            error["message"].as_str().unwrap().starts_with("Duplicate item found with id msg_"),
            "{error}"
        );
    }
}
