//! S10: clients that leave, in every state a request can be in. Nothing of them is left behind.

use std::time::{Duration, Instant};

use chatservice::server::overload::LoadOptions;
use futures::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http::DEADLINE;
use crate::metrics;
use crate::mock_openai::{End, MockOpenAi, Piece, Script, word_event};
use crate::server::{TestServer, openai};

/// Clients that leave together, and permits.
const BATCH: usize = 25;

/// Where a request is when its client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A plain request, the backend says nothing.
    Plain,
    /// A stream, the backend says nothing.
    Waiting,
    /// A stream that has begun.
    Streaming,
    /// The same, with the first byte of a next request behind it.
    Pipelined,
    /// Behind others that hold every permit.
    Queued,
}

struct Rig {
    mock: MockOpenAi,
    server: TestServer,
    reached: usize,
}

impl Rig {
    async fn connect(&self, stream: bool) -> TcpStream {
        let address = self.server.url.strip_prefix("http://").unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        let body = json!({"messages": [{"role": "user", "content": "leave"}], "stream": stream}).to_string();
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: demo\r\ncontent-type: application/json";
        let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        client.write_all(request.as_bytes()).await.unwrap();
        client
    }

    /// Clients whose requests have reached the backend, and their first event if there is to be one.
    async fn begin(&mut self, state: State) -> Vec<TcpStream> {
        let begun = matches!(state, State::Streaming | State::Pipelined | State::Queued);
        for _ in 0..BATCH {
            self.mock.script(if begun { Script::cut_stream(1, End::Hang) } else { Script::silence() });
        }
        let mut clients = join_all((0..BATCH).map(|_| self.connect(state != State::Plain))).await;
        self.reached += BATCH;
        self.mock.wait_requests(self.reached).await;
        for client in clients.iter_mut().filter(|_| begun) {
            let mut seen = Vec::new();
            while !seen.ends_with(b"\n\n\r\n") {
                let length =
                    tokio::time::timeout(DEADLINE, client.read_buf(&mut seen)).await.unwrap().unwrap();
                assert_ne!(length, 0, "closed");
            }
            if state == State::Pipelined {
                client.write_all(b"P").await.unwrap();
            }
        }
        clients
    }

    /// A batch comes to this state and leaves; how long until the backend had noticed all of it.
    async fn round(&mut self, state: State) -> Duration {
        let clients = self.begin(state).await;
        if state == State::Queued {
            let queued = join_all((0..BATCH).map(|_| self.connect(false))).await;
            metrics::wait(&self.server, &format!("chat_requests_in_flight {}", 2 * BATCH)).await;
            drop(queued);
            metrics::wait(&self.server, &format!("chat_requests_in_flight {BATCH}")).await;
            assert_eq!(self.mock.requests().len(), self.reached, "none of the queue was sent on");
        }
        let left = Instant::now();
        drop(clients);
        self.mock.wait_disconnects(self.reached).await;
        left.elapsed()
    }
}

/// This many batches leave, from one state after the other; what was measured, for who looks.
async fn leave(rounds: usize) -> String {
    let mock = MockOpenAi::start().await;
    let load = LoadOptions { permits: BATCH, wait: DEADLINE, ..LoadOptions::default() };
    let server = TestServer::start_as(openai(&mock.base_url()), |options| options.load = load).await;
    let mut rig = Rig { mock, server, reached: 0 };
    let states = [State::Plain, State::Waiting, State::Streaming, State::Pipelined, State::Queued];
    rig.round(State::Plain).await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let (before, mut times) = (tasks(), Vec::new());
    for round in 0..rounds {
        times.push(rig.round(states[round % states.len()]).await);
    }
    for line in ["chat_requests_in_flight 0", "chat_streams_active 0"] {
        metrics::wait(&rig.server, line).await;
    }
    // Every permit is back: as many streams as there are permits run at once, and with them all taken none is queued.
    let clients = rig.begin(State::Streaming).await;
    drop(clients);
    rig.mock.wait_disconnects(rig.reached).await;
    let deadline = Instant::now() + DEADLINE;
    while tasks() > before {
        assert!(Instant::now() < deadline, "{} tasks, {before} before", tasks());
        tokio::task::yield_now().await;
    }
    times.sort();
    let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
    // The figure is 100 ms; a loaded machine gets some more.
    assert!(median < Duration::from_secs(1), "{times:?}");
    format!(
        "{} left; a batch of {BATCH} was noticed within {median:?} (median), {longest:?} (longest)",
        rig.reached
    )
}

/// Its body is not asked for more while the socket is full: the deadline is the socket's.
#[tokio::test]
async fn s10_a_client_that_stops_reading_is_given_up_and_what_it_got_is_paid_for() {
    let mock = MockOpenAi::start().await;
    let words = bytes::Bytes::from((0..400).map(word_event).collect::<Vec<_>>().concat());
    mock.script(Script::Events(vec![Piece::Send(words); 1000], End::Hang));
    let stall = Duration::from_millis(500);
    let server =
        TestServer::start_as(openai(&mock.base_url()), |options| options.edge.write_stall = stall).await;
    let mut rig = Rig { mock, server, reached: 0 };
    let _unread = rig.connect(true).await;
    rig.reached += 1;
    rig.mock.wait_requests(1).await;
    rig.mock.wait_disconnects(1).await;
    let call = "openai_api_calls_total{model=\"gpt-4o-mini\",status=\"cancelled\"} 1";
    for line in ["chat_requests_in_flight 0", "chat_streams_active 0", call] {
        metrics::wait(&rig.server, line).await;
    }
    let paid = metrics::value(&rig.server, "openai_tokens_used_total{model=\"gpt-4o-mini\"}").await;
    assert!(paid > 400, "only {paid} tokens: the socket alone holds more");
}

#[tokio::test]
async fn s10_clients_that_leave_leave_nothing_behind() {
    println!("{}", leave(80).await);
}

/// `make chaos`.
#[tokio::test]
#[ignore = "takes a minute"]
async fn s10_ten_thousand_clients_that_leave_leave_nothing_behind() {
    println!("{}", leave(400).await);
}
