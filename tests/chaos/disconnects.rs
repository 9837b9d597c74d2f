//! Ten thousand clients that leave a real process, in every state that a request can be in.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::figures::{Figures, percentile};
use crate::http::{self, DEADLINE};
use crate::load::CHAT;
use crate::mock_openai::{End, MockOpenAi, Script};
use crate::process_support::Process;

/// Clients that leave in each state.
const CLIENTS: usize = 2_500;
/// Those after which nothing is new any more, so that memory must not grow.
const FIRST: usize = CLIENTS / 10;
/// Clients that wait at the same time.
const BATCH: usize = 10;
/// Memory that may be gained by chance: pages of an allocator.
const CHANCE: usize = 4 << 20;

/// Where a request is when its client leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// A plain request, the backend says nothing.
    Plain,
    /// A stream, the backend says nothing.
    Waiting,
    /// A stream of which something has come.
    Streaming,
}

/// A client that has asked.
async fn ask(server: &Process, stream: bool) -> TcpStream {
    let mut client = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).await.unwrap();
    let body = format!(r#"{{"messages":[{{"role":"user","content":"leave"}}],"stream":{stream}}}"#);
    let request = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: chaos\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    client.write_all(request.as_bytes()).await.unwrap();
    client
}

async fn metrics(server: &Process) -> String {
    let metrics = http::get(&format!("{}/metrics", server.admin)).await.body;
    String::from_utf8(metrics.to_vec()).unwrap()
}

/// Waits until so many requests are in the server.
async fn in_flight(server: &Process, count: usize) {
    let (line, deadline) = (format!("chat_requests_in_flight {count}"), Instant::now() + DEADLINE);
    loop {
        let metrics = metrics(server).await;
        if metrics.lines().any(|shown| shown == line) {
            return;
        }
        assert!(Instant::now() < deadline, "not {line}: {metrics}");
    }
}

fn nothing_is_left(figures: &mut Figures, metrics: &str) {
    for series in ["chat_requests_in_flight 0", "chat_streams_active 0"] {
        figures.tell("left behind", series, "0", metrics.lines().any(|line| line == series));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make chaos"]
async fn s10_clients_that_leave_close_their_calls_at_once_and_leave_nothing() {
    let mock = MockOpenAi::start().await;
    let server = Process::start(&mock.base_url()).await;
    let states = [
        ("a plain request", State::Plain),
        ("a waiting stream", State::Waiting),
        ("a stream that has begun", State::Streaming),
    ];
    let (mut asked, mut gone, mut memory) = (0, 0, 0);
    let mut times = [const { Vec::new() }; 3];
    while gone < CLIENTS * states.len() {
        for ((_, state), times) in states.iter().zip(&mut times) {
            let begun = *state == State::Streaming;
            for _ in 0..BATCH {
                mock.script(if begun { Script::cut_stream(1, End::Hang) } else { Script::silence() });
            }
            let mut clients = join_all((0..BATCH).map(|_| ask(&server, *state != State::Plain))).await;
            asked += BATCH;
            mock.wait_requests(asked).await;
            for client in clients.iter_mut().filter(|_| begun) {
                assert!(client.read(&mut [0; 512]).await.unwrap() > 0);
            }
            // One after the other: each has a time of its own.
            for client in clients {
                let left = Instant::now();
                drop(client);
                gone += 1;
                mock.wait_disconnects(gone).await;
                times.push(left.elapsed());
            }
        }
        if gone == FIRST * states.len() {
            memory = server.memory();
        }
    }
    let mut figures = Figures::of("S10");
    for ((name, _), times) in states.iter().zip(&mut times) {
        let what = format!("p99 until the call is closed, {name}");
        figures.at_most(&what, percentile(times, 0.99), Duration::from_millis(100));
    }
    nothing_is_left(&mut figures, &metrics(&server).await);
    let grown = server.memory().saturating_sub(memory);
    figures.tell("memory grown after the first tenth, bytes", grown, "at most 4 MiB", grown <= CHANCE);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make chaos"]
async fn s10_clients_that_leave_the_queue_give_their_place_back_at_once() {
    let mock = MockOpenAi::start().await;
    let server = Process::start(&mock.base_url()).await;
    let holders = server.at_once();
    for _ in 0..holders {
        mock.script(Script::silence());
    }
    let holding = futures::stream::iter(0..holders).map(|_| ask(&server, true));
    let holding: Vec<_> = holding.buffer_unordered(BATCH).collect().await;
    mock.wait_requests(holders).await;
    in_flight(&server, holders).await;
    let (mut memory, mut times) = (0, Vec::new());
    for gone in 1..=CLIENTS {
        let client = ask(&server, false).await;
        in_flight(&server, holders + 1).await;
        let left = Instant::now();
        drop(client);
        in_flight(&server, holders).await;
        times.push(left.elapsed());
        if gone == FIRST {
            memory = server.memory();
        }
    }
    let grown = server.memory().saturating_sub(memory);
    let mut figures = Figures::of("S10");
    figures.at_most(
        "p99 until the place of one who was queued is free",
        percentile(&mut times, 0.99),
        Duration::from_millis(100),
    );
    figures.exactly("calls for those who were queued", mock.count() - holders, 0);
    figures.tell("memory grown after the first tenth, bytes", grown, "at most 4 MiB", grown <= CHANCE);
    drop(holding);
    mock.wait_disconnects(holders).await;
    in_flight(&server, 0).await;
    nothing_is_left(&mut figures, &metrics(&server).await);
}
