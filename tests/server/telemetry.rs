//! Metrics as a whole: their names and labels are an API, and nobody outside decides how many series there are.

use std::collections::{BTreeMap, BTreeSet};

use ::http::Method;
use chatservice::crd::{BudgetPeriod, Per};
use chatservice::server::config::{BudgetConfig, RequestLimit};
use chatservice::server::secrets::SecretSource;
use futures::StreamExt;
use serde_json::json;

use crate::config_mount::ConfigMount;
use crate::mock_openai::{MockOpenAi, Script};
use crate::redis_server::RedisServer;
use crate::server::{TestServer, cache, openai};
use crate::{http, metrics};

/// Every metric of the API: its name, its type, its labels in alphabetical order.
const API: [(&str, &str, &[&str]); 25] = [
    ("http_requests_total", "counter", &["endpoint", "method", "status"]),
    ("http_request_duration_seconds", "histogram", &["endpoint", "method"]),
    ("openai_api_calls_total", "counter", &["model", "status"]),
    ("openai_tokens_used_total", "counter", &["model"]),
    ("chat_requests_in_flight", "gauge", &[]),
    ("chat_streams_active", "gauge", &[]),
    ("chat_time_to_first_token_seconds", "histogram", &[]),
    ("chat_tokens_total", "counter", &["caller", "kind", "model"]),
    ("chat_cost_usd_total", "counter", &["caller", "model"]),
    ("chat_cache_requests_total", "counter", &["result"]),
    ("chat_rate_limited_total", "counter", &["limit"]),
    ("chat_client_retries_total", "counter", &["retry"]),
    ("chat_backend_retries_total", "counter", &["reason"]),
    ("chat_backend_breaker_state", "gauge", &["model"]),
    ("chat_auth_failures_total", "counter", &["reason"]),
    ("chat_store_errors_total", "counter", &["op"]),
    ("chat_store_mode", "gauge", &["mode"]),
    ("chat_config_generation", "gauge", &[]),
    ("chat_config_reload_total", "counter", &["result"]),
    ("chat_budget_used_ratio", "gauge", &["caller"]),
    ("chat_cache_saved_usd_total", "counter", &[]),
    ("chatservice_build_info", "gauge", &["version"]),
    ("process_resident_memory_bytes", "gauge", &[]),
    ("process_open_fds", "gauge", &[]),
    ("process_cpu_seconds_total", "counter", &[]),
];

/// The metrics that have a series: their types, and the labels of all their series.
fn shown(text: &str) -> BTreeMap<&str, (&str, BTreeSet<&str>)> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types
        .map(|(name, kind)| {
            let mut labels = BTreeSet::new();
            for series in text.lines().filter_map(|line| line.strip_prefix(name)) {
                let Some((_, inside)) = series.split_once('{') else { continue };
                let inside = &inside[..inside.rfind('}').unwrap()];
                labels.extend(inside.split("\",").map(|label| label.split('=').next().unwrap()));
            }
            labels.remove("le");
            (name, (kind, labels))
        })
        .collect()
}

#[tokio::test]
async fn the_metrics_are_those_of_the_api_with_their_types_and_labels() {
    let Some(mut redis) = RedisServer::start().await else { return };
    let mock = MockOpenAi::fast(3).await;
    let mut config = openai(&mock.base_url());
    config.fixed.redis_secret = Some("redis".to_owned());
    config.dynamic.cache = Some(cache());
    config.dynamic.models[0].max_output_tokens = Some(1000);
    config.dynamic.limits.requests = Some(RequestLimit { requests: 1, period_seconds: 3600, burst: 20 });
    config.dynamic.budget =
        Some(BudgetConfig { amount_nano_usd: 1 << 40, period: BudgetPeriod::Month, per: Per::Service });
    let mut mount = ConfigMount::new(&config.to_text());
    let environment = [("REDIS_URL".to_owned(), redis.url())].into();
    let server = TestServer::start_as(config, |options| {
        options.config_file = Some(mount.file());
        options.secrets = SecretSource::Environment(environment);
    })
    .await;

    let url = server.at("/v1/chat/completions");
    let ask = |text: &str| json!({"messages": [{"role": "user", "content": text}]});
    mock.script(Script::Status(500, Vec::new(), "{}".to_owned()));
    for text in ["twice", "twice", "once"] {
        assert_eq!(http::post(&url, &ask(text)).await.status, 200, "{text}");
    }
    let again = [("content-type", "application/json"), ("x-stainless-retry-count", "2")];
    let body = ask("again").to_string();
    assert_eq!(http::send(Method::POST, &url, &again, body.as_bytes()).await.status, 200);
    let mut streamed = ask("streamed");
    streamed["stream"] = json!(true);
    assert_eq!(http::post(&url, &streamed).await.status, 200);
    mount.write("{");
    let deadline = tokio::time::Instant::now() + http::DEADLINE;
    while http::post(&url, &ask("over the limit")).await.status != 429 {
        assert!(tokio::time::Instant::now() < deadline, "nothing is refused");
    }
    redis.kill();
    loop {
        // Once the refusal is no longer remembered, the store is asked again.
        http::get(&server.at("/api/v1/conversations/9b2c7f0e-5d3a-4c1b-8a6e-1f2d3c4b5a69")).await;
        let text = metrics::text(&server).await;
        let shown = shown(&text);
        let missing: Vec<&str> =
            API.iter().map(|(name, ..)| *name).filter(|name| !shown.contains_key(name)).collect();
        if missing.is_empty() {
            for (name, kind, labels) in API {
                assert_eq!(shown[name], (kind, labels.iter().copied().collect()), "{name}");
            }
            let more = shown.keys().filter(|name| !API.iter().any(|(known, ..)| known == *name));
            let ours: Vec<_> = more.filter(|name| !name.starts_with("process_")).collect();
            assert!(ours.is_empty(), "{ours:?} are in no list of metrics");
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{missing:?} are not in\n{text}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// How many series there are, once this many requests are counted: that happens when an answer has been sent.
async fn series(server: &TestServer, requests: usize) -> usize {
    let deadline = tokio::time::Instant::now() + http::DEADLINE;
    loop {
        let text = metrics::text(server).await;
        let counted = text.lines().filter(|line| line.starts_with("http_requests_total{"));
        let counts = counted.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap());
        if counts.sum::<usize>() == requests {
            return text.lines().filter(|line| !line.starts_with('#')).count();
        }
        assert!(tokio::time::Instant::now() < deadline, "not {requests} requests: {text}");
        tokio::task::yield_now().await;
    }
}

/// One request of each kind that a stranger can make up: names of models, paths, methods, conversations, callers.
async fn made_up(server: &TestServer, number: usize) {
    let url = server.at("/v1/chat/completions");
    let body = json!({"model": format!("m-{number}"), "messages": [{"role": "user", "content": "hi"}]});
    let from = format!("10.0.{}.{}", number / 256, number % 256);
    let id = format!("r-{number}");
    let headers = [
        ("content-type", "application/json"),
        ("x-forwarded-for", from.as_str()),
        ("x-request-id", id.as_str()),
    ];
    let answer = http::send(Method::POST, &url, &headers, body.to_string().as_bytes()).await;
    assert_eq!(answer.status, 404);
    let method = Method::from_bytes(format!("M{number}").as_bytes()).unwrap();
    for (method, path) in [
        (Method::GET, format!("/made/up/{number}")),
        (Method::GET, format!("/v1/models/m-{number}")),
        (Method::GET, format!("/api/v1/conversations/{}", uuid::Uuid::new_v4())),
        (method, format!("/v1/{number}")),
    ] {
        let answer = http::send(method, &server.at(&path), &headers, b"").await;
        assert_eq!(answer.status, 404, "{path}");
    }
}

/// X9: 2,000 requests here; nothing in them depends on the number.
#[tokio::test]
async fn x9_what_strangers_make_up_adds_no_series() {
    let server = TestServer::start(openai("http://127.0.0.1:9")).await;
    made_up(&server, 0).await;
    let before = series(&server, 5).await;
    let all = futures::stream::iter(1..400).for_each_concurrent(8, |number| made_up(&server, number));
    all.await;
    let after = series(&server, 2000).await;
    let text = metrics::text(&server).await;
    assert_eq!(after, before, "{text}");
    assert!(!text.contains("m-399") && !text.contains("/made/up"), "{text}");
}
