//! A small HTTP client for tests. In: a URL and a body. Out: status, headers, body; or a body read event by event.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// Nothing in a test takes longer than this.
pub const DEADLINE: Duration = Duration::from_secs(20);

// Every test binary uses some of these, none all.
const _: () = {
    let _ = (Answer::json, Answer::header, Answer::events, attempt, get, post);
    let _ = |answer: Answer| (answer.status, answer.headers, answer.body);
};

/// A whole response.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {} {:?}", self.status, self.body))
    }

    /// A header as text, empty when absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// The `data` of each server-sent event.
    pub fn events(&self) -> Vec<String> {
        let text = std::str::from_utf8(&self.body).unwrap();
        text.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).map(str::to_owned).collect()
    }
}

/// Sends one request and does not wait for its body.
pub async fn open(
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> http::Response<Incoming> {
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
    tokio::time::timeout(DEADLINE, client.request(request))
        .await
        .expect("an answer in time")
        .expect("an answer")
}

/// Sends one request and reads the whole answer.
pub async fn send(method: Method, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let response = open(method, url, headers, body).await;
    let (parts, body) = response.into_parts();
    let body = tokio::time::timeout(DEADLINE, body.collect())
        .await
        .expect("a whole body in time")
        .unwrap()
        .to_bytes();
    Answer { status: parts.status, headers: parts.headers, body }
}

/// POST of JSON to somebody who may be gone before there is an answer.
pub async fn attempt(url: &str, body: &[u8]) {
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::post(url).header("content-type", "application/json");
    let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
    let _ = tokio::time::timeout(DEADLINE, client.request(request)).await.expect("an end in time");
}

/// GET.
pub async fn get(url: &str) -> Answer {
    send(Method::GET, url, &[], b"").await
}

/// POST of JSON.
pub async fn post(url: &str, body: &Value) -> Answer {
    send(Method::POST, url, &[("content-type", "application/json")], body.to_string().as_bytes()).await
}
