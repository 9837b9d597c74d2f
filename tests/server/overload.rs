//! More requests than this server answers at once.

use std::time::Duration;

use ::http::Method;
use chatservice::server::overload::LoadOptions;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::http::{self, DEADLINE};
use crate::metrics;
use crate::mock_openai::{End, MockOpenAi, Piece, Script, word_event};
use crate::server::{TestServer, openai};

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
const CHAT: &str = "/v1/chat/completions";

fn ask(stream: bool) -> Value {
    json!({"messages": [{"role": "user", "content": "busy"}], "stream": stream})
}

/// One at once, one in the queue.
fn narrow(wait: Duration) -> LoadOptions {
    LoadOptions { permits: 1, wait, ..LoadOptions::default() }
}

/// A stream that goes on until the gate is opened.
fn held() -> Script {
    let mut pieces = vec![Piece::Send(word_event(0)), Piece::Gate];
    pieces.extend(crate::mock_openai::whole_stream(1, true).into_iter().skip(2).map(Piece::Send));
    Script::Events(pieces, End::Clean)
}

async fn begin_stream(server: &TestServer) -> ::http::Response<hyper::body::Incoming> {
    let body = ask(true).to_string();
    let mut response = http::open(Method::POST, &server.at(CHAT), JSON, body.as_bytes()).await;
    assert_eq!(response.status(), 200);
    response.body_mut().frame().await.unwrap().unwrap();
    response
}

#[tokio::test]
async fn s12_beyond_the_permits_some_wait_and_the_rest_is_refused_at_once() {
    let mock = MockOpenAi::start().await;
    mock.script(held()).script(Script::Words(2));
    let server =
        TestServer::start_as(openai(&mock.base_url()), |options| options.load = narrow(DEADLINE)).await;
    // A stream holds its permit until its body has ended.
    let stream = begin_stream(&server).await;
    let (url, plain) = (server.at(CHAT), ask(false));
    let waiting = http::post(&url, &plain);
    let meanwhile = async {
        metrics::wait(&server, "chat_requests_in_flight 2").await;
        for path in [CHAT, "/api/v1/chat", "/api/v1/chat/stream"] {
            let refused = http::send(Method::POST, &server.at(path), JSON, b"not even read").await;
            assert_eq!(refused.status, 503, "{path}");
            let seconds: u64 = refused.header("retry-after").parse().unwrap();
            assert!((1..=4).contains(&seconds), "{seconds}");
            let body = refused.json();
            let code = if path == CHAT { &body["error"]["code"] } else { &body["error"] };
            assert_eq!(code, "overloaded", "{path}: {body}");
        }
        for path in ["/", "/health", "/docs/", "/openapi.json", "/v1/models"] {
            assert_eq!(http::get(&server.at(path)).await.status, 200, "{path} needs no permit");
        }
        assert_eq!(http::get(&format!("{}/readyz", server.admin)).await.status, 200);
        assert_eq!(mock.requests().len(), 1, "no other was sent on");
        mock.open_gate();
        assert!(stream.into_body().collect().await.unwrap().to_bytes().ends_with(b"data: [DONE]\n\n"));
    };
    let (answered, ()) = futures::future::join(waiting, meanwhile).await;
    assert_eq!(answered.status, 200, "whoever waited is answered when the stream has ended");
}

#[tokio::test]
async fn s12_a_wait_in_vain_ends_in_a_refusal() {
    let mock = MockOpenAi::start().await;
    mock.script(held());
    let load = narrow(Duration::from_millis(200));
    let server = TestServer::start_as(openai(&mock.base_url()), |options| options.load = load).await;
    let _stream = begin_stream(&server).await;
    let refused = http::post(&server.at(CHAT), &ask(false)).await;
    assert_eq!(
        (refused.status.as_u16(), refused.json()["error"]["code"].as_str()),
        (503, Some("overloaded"))
    );
    assert_eq!(mock.requests().len(), 1);
}

#[tokio::test]
async fn s10_a_client_that_leaves_the_queue_leaves_its_place() {
    let mock = MockOpenAi::start().await;
    mock.script(held()).script(Script::Words(2));
    let server =
        TestServer::start_as(openai(&mock.base_url()), |options| options.load = narrow(DEADLINE)).await;
    let stream = begin_stream(&server).await;
    let (url, body) = (server.at(CHAT), ask(false).to_string());
    for _ in 0..5 {
        tokio::select! {
            _ = http::open(Method::POST, &url, JSON, body.as_bytes()) => panic!("nobody answers"),
            () = metrics::wait(&server, "chat_requests_in_flight 2") => {}
        }
        metrics::wait(&server, "chat_requests_in_flight 1").await;
    }
    mock.open_gate();
    stream.into_body().collect().await.unwrap();
    assert_eq!(http::post(&server.at(CHAT), &ask(false)).await.status, 200);
}
