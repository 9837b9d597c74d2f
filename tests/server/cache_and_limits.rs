//! The cache and the request limit, on both stores.

use ::http::Method;
use chatservice::server::config::{RequestLimit, ServerConfig};
use serde_json::{Value, json};

use crate::http;
use crate::mock_openai::{MockOpenAi, Script};
use crate::redis_server::RedisServer;
use crate::server::{TestServer, cache, echo, openai};

fn ask(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}]})
}

fn with_cache(mut config: ServerConfig) -> ServerConfig {
    config.dynamic.cache = Some(cache());
    config
}

fn limited(mut config: ServerConfig) -> ServerConfig {
    config.dynamic.limits.requests = Some(RequestLimit { requests: 6, period_seconds: 3600, burst: 3 });
    config
}

#[tokio::test]
async fn an_equal_request_is_answered_from_the_cache_whether_plain_or_streamed() {
    let mock = crate::answering(12).await;
    let server = TestServer::start(with_cache(openai(&mock.base_url()))).await;
    let url = server.at("/v1/chat/completions");
    let first = http::post(&url, &ask("cache me")).await;
    assert_eq!(first.header("x-chat-cache"), "miss");
    let again = http::post(&url, &ask("cache me")).await;
    assert_eq!(again.header("x-chat-cache"), "hit");
    assert_eq!(again.header("x-chat-cost-usd"), "0.000000000");
    assert_eq!(again.body, first.body);
    let mut streamed = ask("cache me");
    streamed["stream"] = json!(true);
    let stream = http::post(&url, &streamed).await;
    assert_eq!(stream.header("x-chat-cache"), "hit");
    let text: String = stream
        .events()
        .iter()
        .filter_map(|data| serde_json::from_str::<Value>(data).ok())
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(text, first.json()["choices"][0]["message"]["content"].as_str().unwrap());
    assert_eq!(stream.events().last().unwrap(), "[DONE]");
    assert_eq!(mock.requests().len(), 1, "the backend was asked once");
}

#[tokio::test]
async fn a_streamed_answer_serves_a_plain_request() {
    let mock = crate::answering(12).await;
    let server = TestServer::start(with_cache(openai(&mock.base_url()))).await;
    let url = server.at("/v1/chat/completions");
    let mut streamed = ask("stream first");
    streamed["stream"] = json!(true);
    assert_eq!(http::post(&url, &streamed).await.events().last().unwrap(), "[DONE]");
    let plain = http::post(&url, &ask("stream first")).await;
    assert_eq!(plain.header("x-chat-cache"), "hit");
    assert_eq!(plain.json()["object"], "chat.completion");
    assert_eq!(mock.requests().len(), 1);
}

#[tokio::test]
async fn any_other_field_is_another_answer() {
    let mock = crate::answering(12).await;
    let server = TestServer::start(with_cache(openai(&mock.base_url()))).await;
    let url = server.at("/v1/chat/completions");
    http::post(&url, &ask("same")).await;
    for (field, value) in
        [("temperature", json!(0.1)), ("seed", json!(1)), ("user", json!("u")), ("unknown", json!([]))]
    {
        let mut other = ask("same");
        other[field] = value;
        assert_eq!(http::post(&url, &other).await.header("x-chat-cache"), "miss", "{field}");
    }
}

#[tokio::test]
async fn cache_control_of_a_request_is_honoured() {
    let server = TestServer::start(with_cache(echo())).await;
    let url = server.at("/v1/chat/completions");
    let send = |control: &'static str| {
        let url = url.clone();
        async move {
            let headers = [("content-type", "application/json"), ("cache-control", control)];
            http::send(Method::POST, &url, &headers, ask("control").to_string().as_bytes()).await
        }
    };
    assert_eq!(send("only-if-cached").await.status, 504);
    assert_eq!(send("no-store").await.header("x-chat-cache"), "bypass");
    assert_eq!(send("max-age=0").await.header("x-chat-cache"), "miss", "no-store stored nothing");
    assert_eq!(send("no-cache").await.header("x-chat-cache"), "bypass");
    assert_eq!(send("only-if-cached").await.header("x-chat-cache"), "hit");
}

#[tokio::test]
async fn servers_that_share_redis_share_the_cache() {
    let Some(redis) = RedisServer::start().await else { return };
    let mock = crate::answering(12).await;
    let config = with_cache(openai(&mock.base_url()));
    let one = TestServer::start_on_redis(config.clone(), &redis.url()).await;
    let other = TestServer::start_on_redis(config, &redis.url()).await;
    assert_eq!(
        http::post(&one.at("/v1/chat/completions"), &ask("shared")).await.header("x-chat-cache"),
        "miss"
    );
    one.stop().await; // what is not awaited is written before the end
    let hit = http::post(&other.at("/v1/chat/completions"), &ask("shared")).await;
    assert_eq!(hit.header("x-chat-cache"), "hit");
    assert_eq!(mock.requests().len(), 1);
}

async fn the_fourth_request_is_refused(server: &TestServer) {
    let url = server.at("/v1/chat/completions");
    for left in [2, 1, 0] {
        let answer = http::post(&url, &ask("limited")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-ratelimit-limit-requests"), "6");
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), left.to_string());
        assert!(answer.header("x-ratelimit-reset-requests").ends_with('s'));
    }
    let refused = http::post(&url, &ask("limited")).await;
    assert_eq!(refused.status, 429);
    let wait: u64 = refused.header("retry-after-ms").parse().unwrap();
    assert!((500_000..=600_000).contains(&wait), "one request in ten minutes: {wait}");
    assert_eq!(refused.header("retry-after"), wait.div_ceil(1000).to_string());
    assert_eq!(refused.header("x-ratelimit-remaining-requests"), "0");
    assert_eq!(refused.json()["error"]["code"], "rate_limit_exceeded");
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("6 requests per 3600 s"));
    let simple = http::post(&server.at("/api/v1/chat"), &json!({"message": "limited"})).await;
    assert_eq!(simple.status, 429);
    assert_eq!(simple.json()["error"], "rate_limit_exceeded");
    assert!(simple.json()["retry_after"].as_u64().unwrap() > 500);
    assert_eq!(simple.header("x-ratelimit-remaining-requests"), "0", "also when the refusal is remembered");
    for free in ["/", "/health", "/openapi.json"] {
        assert_eq!(http::get(&server.at(free)).await.status, 200, "{free} is not limited");
    }
}

#[tokio::test]
async fn a_caller_over_the_limit_is_told_when_to_come_back_on_the_memory_store() {
    the_fourth_request_is_refused(&TestServer::start(limited(echo())).await).await;
}

#[tokio::test]
async fn a_caller_over_the_limit_is_told_when_to_come_back_on_redis() {
    let Some(redis) = RedisServer::start().await else { return };
    the_fourth_request_is_refused(&TestServer::start_on_redis(limited(echo()), &redis.url()).await).await;
}

#[tokio::test]
async fn a_refusal_that_is_remembered_tells_the_same_time() {
    let mut config = echo();
    config.dynamic.limits.requests = Some(RequestLimit { requests: 6, period_seconds: 60, burst: 1 });
    let server = TestServer::start(config).await;
    let url = server.at("/v1/chat/completions");
    assert_eq!(http::post(&url, &ask("first")).await.status, 200);
    for _ in 0..2 {
        let refused = http::post(&url, &ask("again")).await;
        assert_eq!(refused.status, 429);
        let wait: u64 = refused.header("retry-after-ms").parse().unwrap();
        assert!((5_000..=10_000).contains(&wait), "one request in ten seconds: {wait}");
    }
}

#[tokio::test]
async fn servers_that_share_redis_share_the_limit() {
    let Some(redis) = RedisServer::start().await else { return };
    let config = limited(echo());
    let one = TestServer::start_on_redis(config.clone(), &redis.url()).await;
    let other = TestServer::start_on_redis(config, &redis.url()).await;
    let mut admitted = 0;
    for _ in 0..3 {
        for server in [&one, &other] {
            let answer = http::post(&server.at("/v1/chat/completions"), &ask("shared")).await;
            admitted += usize::from(answer.status == 200);
        }
    }
    assert_eq!(admitted, 3, "a burst of 3");
}

#[tokio::test]
async fn a_memory_hit_is_charged_to_the_shared_limit_afterwards() {
    let Some(redis) = RedisServer::start().await else { return };
    let config = limited(with_cache(echo()));
    let one = TestServer::start_on_redis(config.clone(), &redis.url()).await;
    let other = TestServer::start_on_redis(config, &redis.url()).await;
    let url = one.at("/v1/chat/completions");
    assert_eq!(http::post(&url, &ask("hit")).await.header("x-chat-cache"), "miss");
    assert_eq!(http::post(&url, &ask("hit")).await.header("x-chat-cache"), "hit");
    one.stop().await;
    let next = http::post(&other.at("/v1/chat/completions"), &ask("another")).await;
    assert_eq!(next.header("x-ratelimit-remaining-requests"), "0", "three of three");
}

#[tokio::test]
async fn memory_hits_on_redis_are_limited_too() {
    let Some(redis) = RedisServer::start().await else { return };
    let server = TestServer::start_on_redis(limited(with_cache(echo())), &redis.url()).await;
    let url = server.at("/v1/chat/completions");
    let deadline = tokio::time::Instant::now() + http::DEADLINE;
    // A hit is charged afterwards, so a few more than three may come through, but not for long.
    while http::post(&url, &ask("again and again")).await.status == 200 {
        assert!(tokio::time::Instant::now() < deadline, "hits are never refused");
    }
}

#[tokio::test]
async fn a_cached_answer_with_line_breaks_is_replayed_as_whole_events() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(with_cache(openai(&mock.base_url()))).await;
    let url = server.at("/v1/chat/completions");
    let plain: Value = serde_json::from_str(&crate::mock_openai::plain_answer(3, true)).unwrap();
    let indented = serde_json::to_string_pretty(&plain).unwrap();
    mock.script(Script::Status(200, vec![("content-type", "application/json".to_owned())], indented));
    assert_eq!(http::post(&url, &ask("indented")).await.status, 200);
    let mut streamed = ask("indented");
    streamed["stream"] = json!(true);
    streamed["stream_options"] = json!({"include_usage": true});
    let stream = http::post(&url, &streamed).await;
    assert_eq!(stream.header("x-chat-cache"), "hit");
    let events = stream.events();
    for data in &events[..events.len() - 1] {
        serde_json::from_str::<Value>(data).unwrap_or_else(|error| panic!("{error}: {data}"));
    }
    assert!(events[events.len() - 2].contains("cost_usd"));
}

#[tokio::test]
async fn requests_are_answered_while_redis_is_away() {
    let Some(mut redis) = RedisServer::start().await else { return };
    let server = TestServer::start_on_redis(limited(with_cache(echo())), &redis.url()).await;
    redis.kill();
    let answer = http::post(&server.at("/api/v1/chat"), &json!({"message": "alone"})).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["persisted"], false);
    let second = http::post(&server.at("/v1/chat/completions"), &ask("second")).await;
    assert_eq!(
        second.header("x-ratelimit-remaining-requests"),
        "1",
        "this process keeps the limit meanwhile"
    );
}
