//! The OpenAI backend against a mock that sends what real servers and broken networks send.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests fail as tests do"
)]

#[path = "../support/mock_openai.rs"]
mod mock_openai;

mod cancel;
mod dial;
mod forward;
mod front;
mod idle;
mod proxy;
mod retries;
mod status;
mod stream_faults;
mod timeouts;
mod tls;

use std::time::Duration;

use bytes::Bytes;
use chatservice::server::backend::attempts::Marks;
use chatservice::server::backend::openai::{OpenAi, OpenAiOptions, Timeouts};
use chatservice::server::backend::{Backend, BackendError, Deadline, UpstreamAnswer, UpstreamRequest};
use chatservice::server::operation::Operation;
use futures::StreamExt;
use futures::stream::BoxStream;
use mock_openai::MockOpenAi;
use tokio_util::task::TaskTracker;

/// Looks like a key and must appear nowhere but in the Authorization header.
const KEY: &str = "sk-canary-0123456789";

const PLAIN: &str = r#"{"model":"mock","messages":[{"role":"user","content":"hi"}]}"#;
const STREAM: &str = r#"{"model":"mock","messages":[{"role":"user","content":"hi"}],"stream":true}"#;

/// Options for a mock, with deadlines that no good answer comes near.
fn options(mock: &MockOpenAi) -> OpenAiOptions {
    OpenAiOptions {
        base_url: mock.base_url(),
        api_key: Some(KEY.into()),
        allowed_hosts: vec!["127.0.0.1".into()],
        proxy_url: None,
        authorities: None,
        in_cluster: false,
        connections: TaskTracker::new(),
        timeouts: Timeouts {
            connect: Duration::from_secs(5),
            first_token: Duration::from_secs(20),
            idle: Duration::from_secs(20),
        },
    }
}

fn backend(mock: &MockOpenAi) -> OpenAi {
    OpenAi::new(options(mock)).unwrap()
}

/// A request with time enough.
fn request(body: &'static str, stream: bool) -> UpstreamRequest {
    within(Duration::from_secs(30), body, stream)
}

fn within(limit: Duration, body: &'static str, stream: bool) -> UpstreamRequest {
    let deadline = Deadline { at: tokio::time::Instant::now() + limit, limit };
    UpstreamRequest {
        operation: Operation::Chat,
        body: body.into(),
        stream,
        deadline,
        marks: Marks::default(),
        trace_parent: None,
    }
}

async fn plain(backend: &OpenAi) -> Result<(Bytes, Option<String>), BackendError> {
    answered(backend, request(PLAIN, false)).await
}

async fn answered(
    backend: &OpenAi,
    request: UpstreamRequest,
) -> Result<(Bytes, Option<String>), BackendError> {
    match backend.call(request).await? {
        UpstreamAnswer::Complete { body, request_id } => Ok((body, request_id)),
        UpstreamAnswer::Stream { .. } => panic!("a stream for a plain request"),
    }
}

type Events = BoxStream<'static, Result<Bytes, BackendError>>;

async fn stream(backend: &OpenAi) -> Result<Events, BackendError> {
    streamed(backend, request(STREAM, true)).await
}

async fn streamed(backend: &OpenAi, request: UpstreamRequest) -> Result<Events, BackendError> {
    match backend.call(request).await? {
        UpstreamAnswer::Stream { events, .. } => Ok(events),
        UpstreamAnswer::Complete { .. } => panic!("a plain answer for a stream"),
    }
}

/// All events, and the error that ended them.
async fn drain(mut events: Events) -> (Vec<Bytes>, Option<BackendError>) {
    let mut data = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => data.push(event),
            Err(error) => {
                assert!(events.next().await.is_none(), "nothing follows an error");
                return (data, Some(error));
            }
        }
    }
    (data, None)
}

/// The text of streamed chunks, one after the other.
fn text_of(chunks: &[Bytes]) -> String {
    let value = |chunk| serde_json::from_slice::<serde_json::Value>(chunk).unwrap();
    chunks
        .iter()
        .map(|chunk| value(chunk)["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned())
        .collect()
}
