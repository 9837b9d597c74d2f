//! Many open streams. In: a chat server and the mock, which sends five chunks a second on each. Out: what an open stream
//! takes of the server's memory and CPU, and how late its chunks are, compared with the mock's own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::report::kib;
use crate::subjects::{CALLERS, PATH, Subject};
use crate::upstream::CHUNK_EVERY;

/// Streams at the same time.
const STREAMS: usize = 1000;
/// Streams that are opened at the same time.
const AT_ONCE: usize = 50;
/// How long one may take to open.
const OPEN: Duration = Duration::from_secs(30);

/// What was measured.
pub struct Streams {
    kib_per_stream: f64,
    cpu_percent: f64,
    gap_ms: [f64; 2],
    direct_gap_ms: [f64; 2],
}

/// Opens the streams, first straight to the mock and then through the server, and watches each for `time`.
pub async fn measure(server: &Subject, upstream: SocketAddr, time: Duration) -> Streams {
    let direct = watch(upstream, time, || ()).await;
    let address =
        server.url.trim_start_matches("http://").trim_end_matches(PATH).parse().expect("an address");
    let (memory, cpu) = (server.process.rss_bytes(), server.process.cpu());
    let mut open = memory;
    let gaps = watch(address, time, || open = server.process.rss_bytes()).await;
    let busy = server.process.cpu().saturating_sub(cpu).as_secs_f64();
    Streams {
        kib_per_stream: kib(open.saturating_sub(memory)) / 1000.0,
        cpu_percent: busy / time.as_secs_f64() * 100.0,
        gap_ms: gaps,
        direct_gap_ms: direct,
    }
}

/// The median and the 99th percentile of what the time between two chunks was over [`CHUNK_EVERY`], in ms.
async fn watch(address: SocketAddr, time: Duration, at_the_end: impl FnOnce()) -> [f64; 2] {
    // Some at a time: a thousand connections in one instant measure the kernel's queue of them.
    let opening = futures::stream::iter(0..STREAMS).map(|_| tokio::time::timeout(OPEN, open(address)));
    let opened = opening.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
    let opened = opened.into_iter().map(|stream| stream.expect("a stream in time").expect("a stream"));
    let mut readers = JoinSet::new();
    let until = Instant::now() + time;
    for stream in opened {
        readers.spawn(read(stream, until));
    }
    let mut late: Vec<f64> = Vec::new();
    let mut kept = Vec::new();
    while let Some(reader) = readers.join_next().await {
        let (stream, gaps) = reader.expect("a reader");
        kept.push(stream);
        late.extend(gaps);
    }
    at_the_end();
    late.sort_by(f64::total_cmp);
    assert!(late.len() >= STREAMS * 5, "too few chunks came: {}", late.len());
    [late[late.len() / 2], late[late.len() * 99 / 100]]
}

/// A stream whose first bytes have come.
async fn open(address: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let body = r#"{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"Tell me a long story."}]}"#;
    // Not cached, so that each stream has an upstream of its own.
    let (_, key) = CALLERS[0];
    let request = format!(
        "POST {PATH} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
         cache-control: no-store\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut first = [0; 4096];
    let count = stream.read(&mut first).await?;
    assert!(first[..count].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&first[..count]));
    Ok(stream)
}

async fn read(mut stream: TcpStream, until: Instant) -> (TcpStream, Vec<f64>) {
    let mut gaps = Vec::new();
    let mut buffer = [0; 4096];
    let mut last: Option<Instant> = None;
    while Instant::now() < until {
        let count = stream.read(&mut buffer).await.expect("the stream goes on");
        assert!(count > 0, "the stream ended");
        let now = Instant::now();
        if let Some(last) = last.replace(now) {
            gaps.push(((now - last).as_secs_f64() - CHUNK_EVERY.as_secs_f64()).max(0.0) * 1e3);
        }
    }
    (stream, gaps)
}

impl Streams {
    /// The row about streams.
    pub fn markdown(&self) -> String {
        format!(
            "{STREAMS} open streams of 5 chunks a second: {:.1} KiB a stream, {:.0} % of a core; chunks late by {:.1} ms (p50) and \
             {:.1} ms (p99), straight from the mock {:.1} and {:.1} ms\n",
            self.kib_per_stream,
            self.cpu_percent,
            self.gap_ms[0],
            self.gap_ms[1],
            self.direct_gap_ms[0],
            self.direct_gap_ms[1],
        )
    }
}
