//! Ten thousand clients that leave a real process, in the middle of what they asked for.

use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::figures::{Figures, percentile};
use crate::http;
use crate::load::CHAT;
use crate::mock_openai::{End, MockOpenAi, Script};
use crate::process_support::Process;

const CLIENTS: usize = 10_000;
/// Clients that wait at the same time.
const BATCH: usize = 10;

/// A client whose request is under way: plain, or a stream of which something has come.
async fn begin(server: &Process, stream: bool) -> TcpStream {
    let mut client = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).await.unwrap();
    let body = format!(r#"{{"messages":[{{"role":"user","content":"leave"}}],"stream":{stream}}}"#);
    let request = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: chaos\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    client.write_all(request.as_bytes()).await.unwrap();
    if stream {
        let mut first = [0; 512];
        assert!(client.read(&mut first).await.unwrap() > 0);
    }
    client
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make chaos"]
async fn s10_ten_thousand_clients_that_leave_close_their_calls_at_once_and_leave_nothing() {
    let mock = MockOpenAi::start().await;
    let server = Process::start(&mock.base_url()).await;
    let (mut asked, mut gone, mut times) = (0, 0, Vec::new());
    let mut memory = 0;
    while gone < CLIENTS {
        let stream = (gone / BATCH).is_multiple_of(2);
        for _ in 0..BATCH {
            mock.script(if stream { Script::cut_stream(1, End::Hang) } else { Script::silence() });
        }
        let clients = join_all((0..BATCH).map(|_| begin(&server, stream))).await;
        asked += BATCH;
        mock.wait_requests(asked).await;
        // One after the other: each has a time of its own.
        for client in clients {
            let left = Instant::now();
            drop(client);
            gone += 1;
            mock.wait_disconnects(gone).await;
            times.push(left.elapsed());
        }
        if gone == CLIENTS / 10 {
            memory = server.memory();
        }
    }
    let mut figures = Figures::of("S10");
    figures.at_most(
        "p99 until the call to the backend is closed",
        percentile(&mut times, 0.99),
        Duration::from_millis(100),
    );
    let metrics = http::get(&format!("{}/metrics", server.admin)).await.body;
    let metrics = String::from_utf8(metrics.to_vec()).unwrap();
    for series in ["chat_requests_in_flight 0", "chat_streams_active 0"] {
        figures.tell("left behind", series, "0", metrics.lines().any(|line| line == series));
    }
    let grown = server.memory().saturating_sub(memory);
    figures.tell("memory grown over the last 9,000, bytes", grown, "at most 4 MiB", grown <= 4 << 20);
}
