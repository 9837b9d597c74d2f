//! Metrics as a whole: their names and labels are an API, and nobody outside decides how many series there are.

use ::http::Method;
use futures::StreamExt;
use serde_json::json;

use crate::server::{TestServer, openai};
use crate::{http, metrics};

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
