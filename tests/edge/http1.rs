//! HTTP/1 as clients, proxies and attackers speak it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path};
use axum::http::StatusCode;
use axum::routing::{get, post};
use chatservice::server::edge::EdgeOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::{Edge, SHORT, patient, within};

fn app() -> Router {
    Router::new()
        .route("/say/{word}", get(async |Path(word): Path<String>| word))
        .route("/peer", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string()))
        .route("/echo", post(async |body: String| body))
        .route("/refuse", post(async || (StatusCode::PAYLOAD_TOO_LARGE, "too large")))
}

#[tokio::test]
async fn a_connection_is_used_again_and_its_requests_know_the_client() {
    let edge = Edge::start(app(), patient()).await;
    let mut client = edge.connect().await;
    for _ in 0..3 {
        client.get("/peer").await;
        let answer = client.answer().await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(!answer.contains("connection: close"), "{answer}");
        assert!(answer.ends_with(&client.0.local_addr().unwrap().to_string()), "{answer}");
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let edge = Edge::start(app(), patient()).await;
    let mut client = edge.connect().await;
    let requests: Vec<_> = (0..20).map(|n| format!("GET /say/{n} HTTP/1.1\r\nhost: demo\r\n\r\n")).collect();
    client.send(&requests.concat()).await;
    for n in 0..20 {
        assert!(client.answer().await.ends_with(&format!("\r\n\r\n{n}")));
    }
}

#[tokio::test]
async fn x4_a_request_without_a_host_is_refused_and_one_of_http_1_0_is_answered_once() {
    let edge = Edge::start(app(), patient()).await;
    for (request, status) in [
        ("GET /say/hi HTTP/1.1\r\n\r\n", "400 Bad Request"),
        ("GET /say/hi HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", "400 Bad Request"),
        ("GET /say/hi HTTP/1.0\r\n\r\n", "200 OK"),
    ] {
        let mut client = edge.connect().await;
        client.send(request).await;
        // And the connection is closed.
        let answer = client.rest().await;
        assert_eq!(answer.split("\r\n").next().unwrap().split_once(' ').unwrap().1, status, "{request:?}");
        assert_eq!(answer.matches("HTTP/1").count(), 1, "{answer}");
    }
}

#[tokio::test]
async fn x4_a_wrong_host_is_told_in_the_dialect_of_the_path() {
    let edge = Edge::start(app(), patient()).await;
    for (path, pointer) in [("/v1/models", "/error/code"), ("/api/v1/chat", "/error")] {
        let mut client = edge.connect().await;
        client.send(&format!("GET {path} HTTP/1.1\r\nhost: a/b\r\n\r\n")).await;
        let answer = client.rest().await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 ") && head.contains("connection: close"), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body.pointer(pointer).unwrap(), "invalid_host", "{body}");
    }
}

#[tokio::test]
async fn x4_requests_that_two_readers_could_read_differently_get_at_most_one_answer() {
    let edge = Edge::start(app(), patient()).await;
    let hidden = "GET /say/smuggled HTTP/1.1\r\nhost: demo\r\n\r\n";
    let cases = [
        // By its length the body is what follows the chunks, by its chunks it is empty.
        format!(
            "content-length: {}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{hidden}",
            hidden.len() + 5
        ),
        format!("transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n{hidden}"),
        format!("content-length: 1\r\ncontent-length: 2\r\n\r\nx{hidden}"),
        format!("transfer-encoding: identity\r\n\r\n{hidden}"),
        format!("transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n{hidden}"),
        format!("content-length: +1\r\n\r\nx{hidden}"),
        format!("content-length : 1\r\n\r\nx{hidden}"),
        format!("transfer-encoding: chunked\r\n\r\nzz\r\n{hidden}"),
        format!("x-folded: a\r\n b\r\ncontent-length: 1\r\n\r\nx{hidden}"),
        format!("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n{hidden}"),
        format!("transfer-encoding:\u{b}chunked\r\ncontent-length: 1\r\n\r\nx{hidden}"),
        format!("transfer-encoding: chunked\r\n\r\n1;a\nx\r\n0\r\n\r\n{hidden}"),
        format!("transfer-encoding: chunked\r\n\r\n1\r\nx-more\r\n0\r\n\r\n{hidden}"),
        format!("transfer-encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n{hidden}"),
        format!("transfer-encoding: chunked\r\n\r\n1000000000000000001\r\nx\r\n0\r\n\r\n{hidden}"),
        format!("content-length: 0x1\r\n\r\nx{hidden}"),
        format!("content-length: 1 1\r\n\r\nx{hidden}"),
        format!("content-length: -1\r\n\r\nx{hidden}"),
        format!("content-length: 18446744073709551617\r\n\r\nx{hidden}"),
        format!("x-nul: a\0b\r\ncontent-length: 1\r\n\r\nx{hidden}"),
        format!("x-cr: a\rcontent-length: 5\r\ncontent-length: 1\r\n\r\nx{hidden}"),
        format!(": no name\r\ncontent-length: 1\r\n\r\nx{hidden}"),
        format!(" content-length: 1\r\n\r\nx{hidden}"),
    ];
    for case in cases {
        let mut client = edge.connect().await;
        client.send(&format!("POST /echo HTTP/1.1\r\nhost: demo\r\n{case}")).await;
        let answer = client.rest().await;
        assert!(answer.matches("HTTP/1.1").count() <= 1, "{case:?}: {answer}");
        assert!(!answer.contains("smuggled"), "{case:?}: {answer}");
    }
}

/// What is no request of HTTP/1 is told so once, and nothing behind it is read as one.
#[tokio::test]
async fn x4_what_is_not_http_1_gets_one_refusal_or_none() {
    let edge = Edge::start(app(), patient()).await;
    let hidden = "GET /say/smuggled HTTP/1.1\r\nhost: demo\r\n\r\n";
    for start in [
        "GET /say/hi\r\n",
        "GET /say/hi HTTP/0.9\r\nhost: demo\r\n\r\n",
        "GET /say/hi HTTP/1.1 \r\nhost: demo\r\n\r\n",
        "GET /say/hi HTTP/3.0\r\nhost: demo\r\n\r\n",
        "GET  /say/hi HTTP/1.1\r\nhost: demo\r\n\r\n",
        "G\0T /say/hi HTTP/1.1\r\nhost: demo\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}",
    ] {
        let mut client = edge.connect().await;
        client.send(&format!("{start}{hidden}")).await;
        let answer = client.rest().await;
        assert!(answer.matches("HTTP/1.1").count() <= 1, "{start:?}: {answer}");
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{start:?}: {answer}");
    }
}

#[tokio::test]
async fn x4_chunks_and_length_together_are_answered_once_and_the_connection_closes() {
    let edge = Edge::start(app(), patient()).await;
    let mut client = edge.connect().await;
    let both = "content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    client.send(&format!("POST /echo HTTP/1.1\r\nhost: demo\r\n{both}")).await;
    let answer = client.rest().await;
    let refused = answer.starts_with("HTTP/1.1 400 ");
    assert!(refused || answer.ends_with("\r\n\r\nhi"), "read by its chunks, if at all: {answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
}

#[tokio::test]
async fn a_head_with_too_many_bytes_or_lines_is_refused() {
    let edge = Edge::start(app(), patient()).await;
    let cases = [format!("x-long: {}\r\n", "x".repeat(40 * 1024)), "x-more: 1\r\n".repeat(101)];
    for case in cases {
        let mut client = edge.connect().await;
        client.send(&format!("GET /say/hi HTTP/1.1\r\nhost: demo\r\n{case}\r\n")).await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
}

/// What hyper refuses by itself has a body that SDKs and people can read, also behind an answer on the same connection.
#[tokio::test]
async fn what_is_refused_before_any_handler_is_told_in_the_dialect_of_the_path() {
    let edge = Edge::start(app(), patient()).await;
    let long = format!("x-long: {}\r\n", "x".repeat(64 * 1024));
    let many = (0..200).map(|number| format!("x-{number}: 1\r\n")).collect::<Vec<_>>().concat();
    for (head, status, code) in [
        (long.as_str(), "431", "headers_too_large"),
        (many.as_str(), "431", "headers_too_large"),
        ("content-length: 1\r\ncontent-length: 2\r\n", "400", "bad_request"),
        (": no name\r\n", "400", "bad_request"),
    ] {
        for (path, pointer) in [("/v1/models", "/error/code"), ("/api/v1/chat", "/error")] {
            for before in [false, true] {
                let mut client = edge.connect().await;
                if before {
                    client.get("/say/hi").await;
                    assert!(client.answer().await.ends_with("\r\n\r\nhi"));
                }
                client.send(&format!("GET {path} HTTP/1.1\r\nhost: demo\r\n{head}\r\n")).await;
                let answer = client.rest().await;
                let (head, body) = answer.split_once("\r\n\r\n").unwrap();
                assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
                assert!(
                    head.contains("content-type: application/json") && head.contains("x-request-id: req_"),
                    "{head}"
                );
                assert!(head.contains(&format!("content-length: {}", body.len())), "{answer}");
                let body: serde_json::Value = serde_json::from_str(body).unwrap();
                assert_eq!(body.pointer(pointer).unwrap(), code, "{path}: {body}");
            }
        }
    }
}

/// A request that never ends, and what happened to it: a message when it began, the end of the channel when it was
/// dropped with the router's own sender.
fn hanging() -> (Router, mpsc::Receiver<&'static str>) {
    struct Told(mpsc::Sender<&'static str>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.try_send("dropped").unwrap();
        }
    }
    let (sender, receiver) = mpsc::channel(8);
    let handler = async move || {
        let told = Told(sender.clone());
        told.0.try_send("began").unwrap();
        std::future::pending::<()>().await;
        drop(told);
    };
    (Router::new().route("/", get(handler)), receiver)
}

#[tokio::test]
async fn s10_a_request_whose_client_left_is_dropped_even_behind_a_pipelined_byte() {
    let (app, mut events) = hanging();
    let edge = Edge::start(app, patient()).await;
    for behind in ["", "G", "GET / HTTP/1.1\r\nhost: demo\r\n\r\n"] {
        let mut client = edge.connect().await;
        client.get("/").await;
        assert_eq!(within(events.recv()).await, Some("began"));
        client.send(behind).await;
        let left = Instant::now();
        drop(client);
        assert_eq!(within(events.recv()).await, Some("dropped"), "{behind:?}");
        // The figure is 100 ms; a loaded machine gets some more.
        assert!(left.elapsed() < Duration::from_secs(1), "{behind:?} took {:?}", left.elapsed());
    }
}

#[tokio::test]
async fn x6_an_answer_before_the_end_of_a_large_body_reaches_the_client() {
    let edge = Edge::start(app(), patient()).await;
    let mut client = edge.connect().await;
    let body = vec![b'x'; 8 << 20];
    client
        .send(&format!("POST /refuse HTTP/1.1\r\nhost: demo\r\ncontent-length: {}\r\n\r\n", body.len()))
        .await;
    // As clients do that read only after they have written everything.
    within(client.0.write_all(&body)).await.unwrap();
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.ends_with("too large"), "{answer}");
}

#[tokio::test]
async fn connections_over_the_cap_wait_for_a_place() {
    let edge = Edge::start(app(), EdgeOptions { max_connections: 2, ..patient() }).await;
    let (mut first, mut second) = (edge.connect().await, edge.connect().await);
    for client in [&mut first, &mut second] {
        client.get("/say/in").await;
        assert!(client.answer().await.ends_with("in"));
    }
    let mut third = edge.connect().await;
    third.get("/say/late").await;
    let early = timeout(SHORT, third.0.read_u8()).await;
    assert!(early.is_err(), "answered beyond the cap: {early:?}");
    drop(first);
    assert!(third.answer().await.ends_with("late"));
}

#[tokio::test]
async fn an_answer_of_unknown_length_ends_with_the_connection_of_an_http_1_0_client() {
    let app = Router::new().route(
        "/",
        get(async || Body::from_stream(futures::stream::iter(["a", "b"].map(Ok::<_, std::io::Error>)))),
    );
    let edge = Edge::start(app, patient()).await;
    let mut client = edge.connect().await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    assert!(client.rest().await.ends_with("\r\n\r\nab"));
}
