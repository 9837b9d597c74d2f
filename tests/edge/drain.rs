//! How connections are let go.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::routing::get;
use chatservice::server::edge::EdgeOptions;
use chatservice::shutdown::Shutdown;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::{Edge, PATIENCE, SHORT, patient, within};

/// Streams are told to end this long before the grace period is over.
const STREAMS_END_BEFORE: Duration = Duration::from_secs(5);

/// Answers at once, an answer that waits for `release`, a stream that ends when it is told to and one that does not.
#[derive(Clone)]
struct App {
    began: CancellationToken,
    release: CancellationToken,
    /// Set once `serve` has its `Shutdown`.
    shutdown: Arc<OnceLock<Shutdown>>,
}

impl App {
    async fn start(options: EdgeOptions) -> (Edge, Self) {
        let app = Self {
            began: CancellationToken::new(),
            release: CancellationToken::new(),
            shutdown: Arc::default(),
        };
        let router = Router::new()
            .route("/quick", get(async || "quick"))
            .route("/slow", get(slow))
            .route("/stream", get(stream))
            .route("/stubborn", get(async || events(CancellationToken::new())))
            .with_state(app.clone());
        let edge = Edge::start(router, options).await;
        app.shutdown.set(edge.shutdown.clone()).unwrap();
        (edge, app)
    }
}

async fn slow(State(app): State<App>) -> &'static str {
    app.began.cancel();
    app.release.cancelled().await;
    "slow"
}

async fn stream(State(app): State<App>) -> Body {
    events(app.shutdown.wait().streams_end().clone())
}

/// One event, and after `end` an error event.
fn events(end: CancellationToken) -> Body {
    let first = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"data: one\n\n"))]);
    let last = futures::stream::once(async move {
        end.cancelled().await;
        Ok(Bytes::from_static(b"data: error\n\n"))
    });
    Body::from_stream(futures::StreamExt::chain(first, last))
}

#[tokio::test]
async fn while_draining_connections_are_accepted_and_every_answer_closes_its_own() {
    let (mut edge, _) = App::start(EdgeOptions { min_drain: PATIENCE, ..patient() }).await;
    let mut before = edge.connect().await;
    before.get("/quick").await;
    assert!(!before.answer().await.contains("connection: close"));

    edge.shutdown.begin();
    let mut after = edge.connect().await;
    for client in [&mut before, &mut after] {
        client.get("/quick").await;
        let answer = client.rest().await;
        assert!(answer.contains("connection: close\r\n") && answer.ends_with("quick"), "{answer}");
    }
    edge.shutdown.force();
    assert_eq!(edge.report().await.cut, 0);
}

#[tokio::test]
async fn idle_connections_and_the_listener_close_when_the_minimum_has_passed() {
    let (mut edge, _) = App::start(EdgeOptions { min_drain: SHORT * 2, ..patient() }).await;
    let (mut silent, mut idle) = (edge.connect().await, edge.connect().await);
    idle.get("/quick").await;
    idle.answer().await;
    edge.shutdown.begin();
    let began = Instant::now();
    assert_eq!(idle.rest().await, "");
    assert_eq!(silent.rest().await, "");
    assert!(began.elapsed() >= SHORT, "closed after {:?}", began.elapsed());
    let report = edge.report().await;
    assert_eq!(report.cut, 0);
    assert!(report.took >= SHORT * 2);
    assert!(TcpStream::connect(edge.address).await.is_err());
}

#[tokio::test]
async fn a_request_in_flight_is_answered_before_the_end() {
    let (mut edge, app) = App::start(patient()).await;
    let (mut client, mut other) = (edge.connect().await, edge.connect().await);
    client.get("/slow").await;
    within(app.began.cancelled()).await;
    edge.shutdown.begin();
    assert_eq!(other.rest().await, "", "idle connections are closed by now");
    app.release.cancel();
    let answer = client.rest().await;
    assert!(answer.contains("connection: close\r\n") && answer.ends_with("slow"), "{answer}");
    assert_eq!(edge.report().await.cut, 0);
}

#[tokio::test]
async fn a_connection_that_waits_for_a_place_is_answered_while_draining() {
    let options = EdgeOptions { max_connections: 1, min_drain: PATIENCE, ..patient() };
    let (mut edge, app) = App::start(options).await;
    let mut client = edge.connect().await;
    client.get("/slow").await;
    within(app.began.cancelled()).await;
    let mut waiting = edge.connect().await;
    waiting.get("/quick").await;
    edge.shutdown.begin();
    app.release.cancel();
    assert!(client.rest().await.ends_with("slow"));
    drop(client);
    assert!(waiting.rest().await.ends_with("quick"));
    edge.shutdown.force();
    assert_eq!(edge.report().await.cut, 0);
}

#[tokio::test]
async fn a_stream_is_told_to_end_before_the_grace_period_is_over() {
    let (mut edge, _) = App::start(EdgeOptions { grace: STREAMS_END_BEFORE + SHORT, ..patient() }).await;
    let mut client = edge.connect().await;
    client.get("/stream").await;
    client.read_until("data: one\n\n").await;
    edge.shutdown.begin();
    let rest = client.rest().await;
    assert!(rest.contains("data: error\n\n") && rest.ends_with("0\r\n\r\n"), "{rest}");
    let report = edge.report().await;
    assert_eq!(report.cut, 0);
    assert!(report.took >= SHORT && report.took < STREAMS_END_BEFORE, "{report:?}");
}

#[tokio::test]
async fn a_stream_that_does_not_end_is_cut_within_the_grace_period() {
    let (mut edge, _) = App::start(EdgeOptions { grace: STREAMS_END_BEFORE + SHORT, ..patient() }).await;
    let mut client = edge.connect().await;
    client.get("/stubborn").await;
    client.read_until("data: one\n\n").await;
    edge.shutdown.begin();
    let report = edge.report().await;
    assert_eq!(report.cut, 1);
    assert!(report.took < STREAMS_END_BEFORE + SHORT, "{report:?}");
    let rest = client.rest().await;
    assert!(!rest.contains("0\r\n\r\n"), "a cut stream must not look complete: {rest:?}");
}

#[tokio::test]
async fn the_second_signal_ends_everything_at_once() {
    let (mut edge, _) = App::start(EdgeOptions { min_drain: PATIENCE * 2, ..patient() }).await;
    let mut client = edge.connect().await;
    client.get("/stubborn").await;
    client.read_until("data: one\n\n").await;
    edge.shutdown.begin();
    edge.shutdown.force();
    assert_eq!(edge.report().await.cut, 1);
}

#[tokio::test]
async fn a_process_that_is_not_told_to_end_goes_on() {
    let (mut edge, _) = App::start(EdgeOptions { grace: SHORT, ..patient() }).await;
    assert!(timeout(SHORT * 2, edge.report()).await.is_err());
    let mut client = edge.connect().await;
    client.get("/quick").await;
    assert!(client.answer().await.ends_with("quick"));
}
