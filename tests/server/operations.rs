//! What those who run a server see: the admin listener, metrics, ids, the document, the end.

use ::http::Method;
use chatservice::server::config::RequestLimit;
use serde_json::{Value, json};

use crate::http;
use crate::mock_openai::{End, MockOpenAi, Script};
use crate::redis_server::RedisServer;
use crate::server::{TestServer, cache, echo, openai};

fn ask(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}]})
}

#[tokio::test]
async fn the_admin_listener_tells_what_runs() {
    let config = echo();
    let hash = config.hash();
    let server = TestServer::start(config).await;
    assert_eq!(http::get(&format!("{}/livez", server.admin)).await.status, 200);
    assert_eq!(http::get(&format!("{}/readyz", server.admin)).await.status, 200);
    let status = http::get(&format!("{}/status", server.admin)).await.json();
    assert_eq!(status["ready"], true);
    assert_eq!(status["generation"], 7);
    assert_eq!(status["configHash"], hash);
    assert_eq!(status["problems"], json!([]));
}

#[tokio::test]
async fn the_admin_listener_tells_what_calls_to_the_backend_have_met() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(openai(&mock.base_url())).await;
    let status = async || http::get(&format!("{}/status", server.admin)).await.json();
    let now = status().await;
    assert_eq!((&now["backendReachable"], &now["storeMode"]), (&Value::Null, &json!("local")), "{now}");
    mock.script(Script::Words(1));
    http::post(&server.at("/v1/chat/completions"), &ask("works")).await;
    assert_eq!(status().await["backendReachable"], true);
    // Until the breaker opens.
    let deadline = tokio::time::Instant::now() + http::DEADLINE;
    while status().await["backendReachable"] == true {
        mock.script(Script::Status(500, vec![], "{}".to_owned()));
        http::post(&server.at("/v1/chat/completions"), &ask("fails")).await;
        assert!(tokio::time::Instant::now() < deadline, "{}", status().await);
    }
    assert_eq!(status().await["backendReachable"], false);
}

#[tokio::test]
async fn metrics_count_what_happened_under_bounded_labels() {
    let mock = crate::answering(12).await;
    let mut config = openai(&mock.base_url());
    config.dynamic.cache = Some(cache());
    let server = TestServer::start(config).await;
    http::post(&server.at("/v1/chat/completions"), &ask("count me")).await;
    http::post(&server.at("/v1/chat/completions"), &ask("count me")).await;
    http::get(&server.at("/some/random/path")).await;
    let text = || async {
        let answer = http::get(&format!("{}/metrics", server.admin)).await;
        String::from_utf8(answer.body.to_vec()).unwrap()
    };
    let deadline = tokio::time::Instant::now() + http::DEADLINE;
    let metrics = loop {
        let metrics = text().await;
        if metrics.contains("openai_tokens_used_total{model=\"gpt-4o-mini\"}") {
            break metrics;
        }
        assert!(tokio::time::Instant::now() < deadline, "usage was not settled: {metrics}");
        tokio::task::yield_now().await;
    };
    for line in [
        "http_requests_total{endpoint=\"/v1/chat/completions\",method=\"POST\",status=\"200\"} 2",
        "http_requests_total{endpoint=\"other\",method=\"GET\",status=\"404\"} 1",
        "openai_api_calls_total{model=\"gpt-4o-mini\",status=\"ok\"} 1",
        "chat_cache_requests_total{result=\"hit\"} 1",
        "chat_cache_requests_total{result=\"miss\"} 1",
        "chat_tokens_total{caller=\"other\",kind=\"prompt\",model=\"gpt-4o-mini\"} 7",
        "chat_tokens_total{caller=\"other\",kind=\"completion\",model=\"gpt-4o-mini\"} 3",
        "chat_cache_saved_usd_total 0.00000285",
        "chat_cost_usd_total{caller=\"other\",model=\"gpt-4o-mini\"}",
        "chat_config_generation 7",
        "chat_requests_in_flight 0",
        "chatservice_build_info{version=",
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn what_goes_wrong_is_counted() {
    let mock = MockOpenAi::start().await;
    let mut config = openai(&mock.base_url());
    config.dynamic.limits.requests = Some(RequestLimit { requests: 1, period_seconds: 3600, burst: 2 });
    let server = TestServer::start(config).await;
    let mut streamed = ask("count the first token");
    streamed["stream"] = json!(true);
    mock.script(Script::cut_stream(2, End::Cut));
    http::post(&server.at("/v1/chat/completions"), &streamed).await;
    mock.script(Script::Status(500, Vec::new(), "{}".to_owned()));
    http::post(&server.at("/v1/chat/completions"), &ask("fail")).await;
    http::post(&server.at("/v1/chat/completions"), &ask("refuse")).await;
    // This refusal is remembered, and counted all the same.
    http::post(&server.at("/api/v1/chat"), &json!({"message": "refuse"})).await;
    let metrics = http::get(&format!("{}/metrics", server.admin)).await;
    let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
    for line in [
        "openai_api_calls_total{model=\"gpt-4o-mini\",status=\"backend_invalid_response\"} 1",
        "openai_api_calls_total{model=\"gpt-4o-mini\",status=\"backend_unavailable\"} 3",
        "chat_backend_retries_total{reason=\"unavailable\"} 2",
        "chat_rate_limited_total{limit=\"requests\"} 2",
        "chat_time_to_first_token_seconds_count 1",
        "chat_streams_active 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_store_that_is_away_is_counted_and_the_backends_id_is_told() {
    let Some(mut redis) = RedisServer::start().await else { return };
    let mock = MockOpenAi::start().await;
    let mut config = openai(&mock.base_url());
    config.dynamic.cache = Some(cache());
    let server = TestServer::start_on_redis(config, &redis.url()).await;
    redis.kill();
    let headers = vec![("content-type", "application/json".to_owned())];
    mock.script(Script::Status(200, headers, crate::mock_openai::plain_answer(2, true)));
    let answer = http::post(&server.at("/v1/chat/completions"), &ask("away")).await;
    assert_eq!(answer.header("x-upstream-request-id"), "req-mock");
    let metrics = http::get(&format!("{}/metrics", server.admin)).await;
    assert!(
        String::from_utf8(metrics.body.to_vec()).unwrap().contains("chat_store_errors_total{op=\"admit\"} 1")
    );
}

#[tokio::test]
async fn every_answer_has_a_request_id_and_a_sane_one_is_kept() {
    let server = TestServer::start(echo()).await;
    for path in ["/", "/health", "/nothing"] {
        assert!(http::get(&server.at(path)).await.header("x-request-id").starts_with("req_"), "{path}");
    }
    let headers = [("x-request-id", "my-trace-1")];
    let answer = http::send(Method::GET, &server.at("/health"), &headers, b"").await;
    assert_eq!(answer.header("x-request-id"), "my-trace-1");
    assert!(answer.header("x-process-time").parse::<f64>().unwrap() >= 0.0);
}

#[tokio::test]
async fn the_document_and_the_docs_page_come_from_the_binary() {
    let server = TestServer::start(echo()).await;
    let document = http::get(&server.at("/openapi.json")).await.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    for path in [
        "/",
        "/health",
        "/api/v1/chat",
        "/api/v1/chat/stream",
        "/api/v1/conversations/{id}",
        "/v1/chat/completions",
        "/v1/models",
    ] {
        assert!(document["paths"][path].is_object(), "{path} is described");
    }
    let moved = http::get(&server.at("/docs")).await;
    assert!(moved.status.is_redirection());
    let page = http::get(&server.at("/docs/")).await;
    assert_eq!(page.status, 200);
    let html = String::from_utf8(page.body.to_vec()).unwrap();
    assert!(!html.contains("http://") && !html.contains("https://"), "no asset from elsewhere: {html}");
}

#[tokio::test]
async fn the_committed_document_is_what_is_served() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    let mut config = echo();
    // The one that the examples name where they are written.
    config.dynamic.model = "gpt-4o-mini".to_owned();
    let server = TestServer::start(config).await;
    let document = http::get(&server.at("/openapi.json")).await.json();
    let text = serde_json::to_string_pretty(&document).unwrap() + "\n";
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == text,
        "docs/openapi.json is not what the server serves: run `make openapi` and commit it"
    );
}

#[tokio::test]
async fn root_and_health_answer() {
    let server = TestServer::start(echo()).await;
    assert_eq!(http::get(&server.at("/")).await.json()["name"], "chatservice");
    assert_eq!(http::get(&server.at("/health")).await.json()["status"], "healthy");
}
