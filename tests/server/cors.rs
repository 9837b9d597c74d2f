//! Pages that come from elsewhere, as browsers ask for them.

use ::http::Method;
use chatservice::server::config::RequestLimit;
use serde_json::json;

use crate::http::{self, Answer};
use crate::server::{TestServer, echo};

const APP: &str = "https://app.example.com";
const PATHS: [&str; 4] = ["/api/v1/chat", "/v1/chat/completions", "/v1/responses", "/v1/embeddings"];

async fn preflight(server: &TestServer, path: &str, origin: &str) -> Answer {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type,x-stainless-retry-count"),
    ];
    http::send(Method::OPTIONS, &server.at(path), &headers, b"").await
}

async fn ask(server: &TestServer, path: &str, origin: &str) -> Answer {
    let headers = [("origin", origin), ("content-type", "application/json")];
    let body = json!({"message": "a", "messages": [{"role": "user", "content": "a"}], "input": "a"});
    http::send(Method::POST, &server.at(path), &headers, body.to_string().as_bytes()).await
}

fn allowed(answer: &Answer) -> &str {
    answer.header("access-control-allow-origin")
}

#[tokio::test]
async fn a_page_of_a_named_origin_may_ask_in_either_dialect_and_no_other() {
    let mut config = echo();
    config.dynamic.cors_origins = vec![APP.to_owned(), "http://localhost:3000".to_owned()];
    let server = TestServer::start(config).await;
    for path in PATHS {
        let answer = preflight(&server, path, APP).await;
        assert_eq!((answer.status.as_u16(), allowed(&answer)), (200, APP), "{path}");
        assert_eq!(answer.header("access-control-allow-methods"), "GET,POST,DELETE");
        let headers = answer.header("access-control-allow-headers");
        assert_eq!(headers, "authorization,content-type,x-stainless-retry-count");
        assert_eq!(answer.header("access-control-max-age"), "600");
        assert!(answer.headers.get("access-control-allow-credentials").is_none());
        assert!(answer.header("vary").contains("origin"));
        let answer = ask(&server, path, APP).await;
        assert_eq!(allowed(&answer), APP, "{path}: {:?}", answer.body);
        let exposed = answer.header("access-control-expose-headers");
        for header in [
            "x-request-id",
            "x-chat-cache",
            "x-chat-cost-usd",
            "x-ratelimit-remaining-tokens",
            "retry-after-ms",
        ] {
            assert!(exposed.split(',').any(|name| name == header), "{header} in {exposed}");
        }
        for other in [
            "https://evil.example.com",
            "https://app.example.com.evil.example",
            "http://app.example.com",
            "null",
        ] {
            assert_eq!(allowed(&preflight(&server, path, other).await), "", "{path}: {other}");
            assert_eq!(allowed(&ask(&server, path, other).await), "", "{path}: {other}");
        }
    }
    // Errors too, or a page would be told of a network that fails.
    for path in ["/v1/nothing", "/v1/models/none", "/api/v1/nothing"] {
        let answer = http::send(Method::GET, &server.at(path), &[("origin", APP)], b"").await;
        assert_eq!((answer.status.as_u16(), allowed(&answer)), (404, APP), "{path}");
    }
    let options = http::send(Method::OPTIONS, &server.at("/v1/models"), &[], b"").await;
    assert_eq!(options.status, 405, "what no browser asks beforehand is a method like any other");
}

#[tokio::test]
async fn nothing_is_allowed_unless_it_is_configured() {
    let server = TestServer::start(echo()).await;
    for path in PATHS {
        assert_eq!(preflight(&server, path, APP).await.status, 405);
        let answer = ask(&server, path, APP).await;
        assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control")), "{path}");
    }
}

#[tokio::test]
async fn a_star_is_every_origin() {
    let mut config = echo();
    config.dynamic.cors_origins = vec!["*".to_owned()];
    let server = TestServer::start(config).await;
    assert_eq!(allowed(&preflight(&server, "/v1/responses", "https://any.example").await), "*");
    assert_eq!(allowed(&ask(&server, "/v1/responses", "null").await), "*");
}

#[tokio::test]
async fn asking_beforehand_costs_nothing_and_refusals_can_be_read() {
    let mut config = echo();
    config.dynamic.cors_origins = vec![APP.to_owned()];
    config.dynamic.limits.requests = Some(RequestLimit { requests: 1, period_seconds: 3600, burst: 1 });
    let server = TestServer::start(config).await;
    for _ in 0..5 {
        assert_eq!(preflight(&server, "/v1/chat/completions", APP).await.status, 200);
    }
    assert_eq!(ask(&server, "/v1/chat/completions", APP).await.status, 200);
    let refused = ask(&server, "/v1/chat/completions", APP).await;
    assert_eq!((refused.status.as_u16(), allowed(&refused)), (429, APP));
}
