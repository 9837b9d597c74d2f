//! The mock backend in its fast mode, a process of its own. In: chat completions. Out: always the same answer, written
//! from memory: what it costs is the same for every subject. A request for a stream gets five chunks a second.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Value of the variable that chooses this role.
pub const ROLE: &str = "upstream";
/// The variable with its address.
pub const ADDRESS: &str = "BENCH_ADDRESS";
/// Time between two chunks of a stream.
pub const CHUNK_EVERY: Duration = Duration::from_millis(200);

static STREAMS: AtomicU32 = AtomicU32::new(0);

/// Serves until it is killed.
pub async fn serve() {
    let address: SocketAddr = std::env::var(ADDRESS).expect("an address").parse().expect("an address");
    let listener = TcpListener::bind(address).await.expect("a free port");
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            // A client that leaves is no fault of the mock's.
            let _ = answer(stream).await;
        });
    }
}

fn plain() -> Vec<u8> {
    let body = concat!(
        r#"{"id":"chatcmpl-bench","object":"chat.completion","created":1700000000,"model":"gpt-4o-mini","choices":[{"index":0,"#,
        r#""message":{"role":"assistant","content":"A leap year has 366 days, because the Earth needs about 365.2422 "#,
        r#"days for its way around the Sun, and the quarter days add up."},"finish_reason":"stop"}],"#,
        r#""usage":{"prompt_tokens":34,"completion_tokens":32,"total_tokens":66}}"#
    );
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

fn chunk(delta: &str, finish: &str) -> String {
    let event = format!(
        "data: {{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"gpt-4o-mini\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n"
    );
    format!("{:x}\r\n{event}\r\n", event.len())
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let plain = plain();
    let mut buffer = BytesMut::with_capacity(8 << 10);
    loop {
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
        while buffer.len() < end + length {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        let body = &buffer[end..end + length];
        let streamed = body.windows(13).any(|window| window == b"\"stream\":true");
        buffer.advance(end + length);
        if streamed {
            drip(&mut stream).await?;
        } else {
            stream.write_all(&plain).await?;
        }
    }
}

/// A stream that lasts until its reader leaves.
async fn drip(stream: &mut TcpStream) -> std::io::Result<()> {
    // Spread, so that not all streams of a bench are served in the same instant.
    let number = STREAMS.fetch_add(1, Ordering::Relaxed) % 1000;
    stream
        .write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        )
        .await?;
    stream.write_all(chunk(r#"{"role":"assistant","content":""}"#, "null").as_bytes()).await?;
    tokio::time::sleep(CHUNK_EVERY * number / 1000).await;
    let word = chunk(r#"{"content":" word"}"#, "null");
    let mut every = tokio::time::interval(CHUNK_EVERY);
    loop {
        every.tick().await;
        stream.write_all(word.as_bytes()).await?;
    }
}
