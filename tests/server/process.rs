//! What only a process of its own shows: signals with streams open, and memory.

use std::time::{Duration, Instant};

use ::http::Method;
use ::http::header::CONNECTION;
use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http::{self, DEADLINE};
use crate::mock_openai::{End, MockOpenAi, Piece, Script, whole_stream, word_event};
use crate::process_support::Process;

const CHAT: &str = "/v1/chat/completions";
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
/// Streams begun at once: each needs a connection to the backend within a second, also on a busy machine.
const AT_ONCE: usize = 20;
/// 5 s before the end of the grace period of the pods, when streams are told to end.
const GRACE: Duration = Duration::from_secs(55);

fn ask() -> Value {
    json!({"messages": [{"role": "user", "content": "process"}], "stream": true})
}

/// The drain of a rolling update: streams that are open when SIGTERM comes are whole, and who still comes is answered.
#[tokio::test]
async fn s11_no_stream_is_cut_and_nobody_refused_by_an_update() {
    const STREAMS: usize = 200;
    let mock = MockOpenAi::start().await;
    let events = whole_stream(3, true);
    for _ in 0..STREAMS {
        let mut pieces: Vec<Piece> = events.iter().cloned().map(Piece::Send).collect();
        pieces.insert(2, Piece::Gate);
        mock.script(Script::Events(pieces, End::Clean));
    }
    let mut server = Process::start(&mock.base_url()).await;
    let (url, body) = (format!("{}{CHAT}", server.url), ask().to_string());
    let begin = async || {
        let mut response = http::open(Method::POST, &url, JSON, body.as_bytes()).await;
        assert_eq!(response.status(), 200);
        response.body_mut().frame().await.unwrap().unwrap();
        response
    };
    let mut open: Vec<_> =
        stream::iter(0..STREAMS).map(|_| begin()).buffer_unordered(AT_ONCE).collect().await;
    let signalled = Instant::now();
    server.signal("-TERM").await;
    server.wait_readyz(503).await;
    // Who has not heard of it yet is answered, and told to go elsewhere next.
    for _ in 0..20 {
        mock.script(Script::Words(2));
        let late = http::post(&url, &json!({"messages": [{"role": "user", "content": "late"}]})).await;
        assert_eq!((late.status.as_u16(), late.header(CONNECTION.as_str())), (200, "close"));
    }
    // A stream that is silent is kept alive, while draining too.
    let sign_of_life = async {
        while open[0].body_mut().frame().await.unwrap().unwrap().into_data().unwrap() != ": keep-alive\n\n" {}
    };
    tokio::time::timeout(DEADLINE, sign_of_life).await.expect("a comment after 15 s");
    for _ in 0..STREAMS {
        mock.open_gate();
    }
    let ends = join_all(open.into_iter().map(|response| response.into_body().collect())).await;
    for end in ends {
        let end = end.expect("no stream is cut").to_bytes();
        assert!(end.ends_with(b"data: [DONE]\n\n"), "{end:?}");
    }
    let status = server.end(GRACE).await;
    assert_eq!(status.code(), Some(0));
    assert!(signalled.elapsed() < GRACE, "{:?}", signalled.elapsed());
}

/// Clients that read nothing, and a backend that has no end: what one such stream takes of the server's memory, and of
/// the kernel's for the server's sockets, in bytes.
async fn slow_readers(count: usize) -> (usize, usize) {
    let mock = MockOpenAi::start().await;
    let words = Bytes::from((0..100).map(word_event).collect::<Vec<_>>().concat());
    for _ in 0..=count {
        mock.script(Script::Events(vec![Piece::Send(words.clone()); 400], End::Hang));
    }
    let server = Process::start(&mock.base_url()).await;
    let begin = async || {
        let mut client = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).await.unwrap();
        let body = ask().to_string();
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: demo\r\ncontent-type: application/json";
        let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        client.write_all(request.as_bytes()).await.unwrap();
        let mut first = [0; 64];
        tokio::time::timeout(DEADLINE, client.read_exact(&mut first)).await.unwrap().unwrap();
        assert!(first.starts_with(b"HTTP/1.1 200 OK"), "{first:?}");
        client
    };
    let _warm = begin().await;
    let before = server.memory();
    let _clients: Vec<TcpStream> =
        stream::iter(0..count).map(|_| begin()).buffer_unordered(AT_ONCE).collect().await;
    // Nobody is told when the last buffer is full; the memory says so by no longer growing.
    let (mut most, mut since) = (server.memory(), Instant::now());
    let mut look = tokio::time::interval(Duration::from_millis(100));
    while since.elapsed() < Duration::from_secs(2) {
        look.tick().await;
        if server.memory() > most + (256 << 10) {
            (most, since) = (server.memory(), Instant::now());
        }
    }
    let port = server.url.rsplit(':').next().unwrap().parse().unwrap();
    (
        most.max(server.memory()).saturating_sub(before) / count,
        kernel_bytes(port, mock.address().port()) / count,
    )
}

/// What waits in the kernel to be sent from one port, and what came from the other and was not read.
fn kernel_bytes(from: u16, to: u16) -> usize {
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next().unwrap(), 16).unwrap();
    let bytes = |queue: &str| usize::from_str_radix(queue, 16).unwrap();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let sockets = table.lines().skip(1).map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (unsent, unread) = fields[4].split_once(':').unwrap();
        match (port(fields[1]), port(fields[2])) {
            (local, _) if local == from => bytes(unsent),
            (_, remote) if remote == to => bytes(unread),
            _ => 0,
        }
    });
    sockets.sum()
}

fn is_little(own: usize, kernel: usize) {
    assert!(own <= 96 << 10, "{own} bytes a stream");
    assert!(kernel <= 192 << 10, "{kernel} bytes a stream in the kernel");
}

#[tokio::test]
async fn s13_a_stream_that_is_not_read_holds_little() {
    let (own, kernel) = slow_readers(200).await;
    println!("{} KiB a stream, and {} KiB in the kernel", own >> 10, kernel >> 10);
    is_little(own, kernel);
}

/// `make chaos`.
#[tokio::test]
#[ignore = "takes half a minute"]
async fn s13_a_thousand_streams_that_are_not_read_hold_little() {
    let (own, kernel) = slow_readers(1000).await;
    println!("{} KiB a stream, and {} KiB in the kernel", own >> 10, kernel >> 10);
    is_little(own, kernel);
}
