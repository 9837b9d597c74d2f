//! Clients that keep their connections. In: a server and what is asked. Out: when each answer came, its status and body.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Where chat completions are asked for.
pub const CHAT: &str = "/v1/chat/completions";

/// A connection.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Told {
    pub status: u16,
    pub body: String,
    /// When it was asked for.
    pub asked: Instant,
    /// How long it took.
    pub took: Duration,
}

impl Client {
    /// To this URL of a server, from this address of the loopback network: each is a caller of its own.
    pub async fn connect(url: &str, from: [u8; 4]) -> io::Result<Self> {
        let to: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let stream = socket.connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Asks, and waits for the whole answer, which has a length.
    pub async fn ask(&mut self, body: &str) -> io::Result<Told> {
        let asked = Instant::now();
        let head = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: chaos\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await?;
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            self.read().await?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.expect("a length").trim().parse().unwrap();
        while self.buffer.len() < end + length {
            self.read().await?;
        }
        let body = String::from_utf8_lossy(&self.buffer[end..end + length]).into_owned();
        self.buffer.drain(..end + length);
        Ok(Told { status, body, asked, took: asked.elapsed() })
    }

    async fn read(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// A body that nobody else sends.
pub fn question(number: usize) -> String {
    format!(r#"{{"messages":[{{"role":"user","content":"Question {number} of many"}}],"max_tokens":50}}"#)
}
