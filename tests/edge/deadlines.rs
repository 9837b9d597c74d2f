//! What is too slow is closed in time, and nothing else is.

use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use chatservice::server::edge::EdgeOptions;
use futures::stream;
use tokio::io::AsyncWriteExt;

use crate::support::{Edge, PATIENCE, SHORT, patient, within};

fn app() -> Router {
    Router::new().route("/", get(async || "hello"))
}

#[tokio::test]
async fn x5_a_silent_connection_is_closed() {
    let edge = Edge::start(app(), EdgeOptions { first_byte: SHORT, ..patient() }).await;
    let began = Instant::now();
    let mut client = edge.connect().await;
    assert_eq!(client.rest().await, "");
    assert!(began.elapsed() >= SHORT);
}

#[tokio::test]
async fn x5_a_head_that_comes_drop_by_drop_is_closed_although_bytes_keep_coming() {
    let edge = Edge::start(app(), EdgeOptions { head: SHORT, ..patient() }).await;
    for answered_before in [false, true] {
        let mut client = edge.connect().await;
        if answered_before {
            client.get("/").await;
            client.answer().await;
        }
        client.send("GET / HTTP/1.1\r\nhost: demo\r\nx-slow: ").await;
        let began = Instant::now();
        let mut drip = tokio::time::interval(SHORT / 10);
        within(async {
            while client.0.write_all(b"x").await.is_ok() {
                drip.tick().await;
            }
        })
        .await;
        assert!(began.elapsed() >= SHORT / 2, "closed by the deadline of the head, not by one before it");
    }
}

#[tokio::test]
async fn an_idle_connection_outlives_the_deadlines_of_a_request_and_not_its_own() {
    let idle = SHORT * 4;
    let options = EdgeOptions { first_byte: SHORT, head: SHORT, idle, ..patient() };
    let edge = Edge::start(app(), options).await;
    let mut client = edge.connect().await;
    client.get("/").await;
    client.answer().await;
    let began = Instant::now();
    assert_eq!(client.rest().await, "");
    assert!(began.elapsed() >= SHORT * 3, "closed after {:?}", began.elapsed());
}

#[tokio::test]
async fn an_answer_may_take_longer_than_every_deadline_of_the_client() {
    let slow = get(async || {
        tokio::time::sleep(SHORT * 3).await;
        "slow"
    });
    let options = EdgeOptions { first_byte: SHORT, head: SHORT, idle: SHORT, ..patient() };
    let edge = Edge::start(Router::new().route("/", slow), options).await;
    let mut client = edge.connect().await;
    client.get("/").await;
    assert!(client.answer().await.ends_with("slow"));
}

#[tokio::test]
async fn x5_an_answer_that_is_not_read_is_given_up() {
    let endless = get(async || {
        let chunk = || Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 16 * 1024]));
        Body::from_stream(stream::repeat_with(chunk))
    });
    let options = EdgeOptions { write_stall: SHORT, ..patient() };
    let mut edge = Edge::start(Router::new().route("/", endless), options).await;
    let mut client = edge.connect().await;
    client.get("/").await;
    client.read_until("\r\n\r\n").await;
    // Nothing is read from here on.
    edge.shutdown.begin();
    assert_eq!(edge.report().await.cut, 0, "given up by the deadline, not cut by the drain");
}

#[tokio::test]
async fn an_answer_that_is_read_slowly_goes_on_past_the_stall_and_idle_deadlines() {
    const LENGTH: usize = 8 << 20;
    let app = Router::new().route("/", get(async || "x".repeat(LENGTH)));
    let options = EdgeOptions { write_stall: SHORT * 3, idle: SHORT * 3, ..patient() };
    let edge = Edge::start(app, options).await;
    let mut client = edge.connect().await;
    client.get("/").await;
    client.read_until("\r\n\r\n").await;
    let began = Instant::now();
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    let (mut buffer, mut left) = (vec![0; 64 * 1024], LENGTH);
    while left > 0 {
        pause.tick().await;
        let length = within(tokio::io::AsyncReadExt::read(&mut client.0, &mut buffer)).await.unwrap();
        assert_ne!(length, 0, "closed with {left} bytes left");
        left -= length;
    }
    assert!(began.elapsed() > SHORT * 4 && began.elapsed() < PATIENCE);
}
