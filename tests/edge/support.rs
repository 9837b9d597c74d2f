//! A listener with short deadlines, and a client that writes bytes and not requests.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use chatservice::server::edge::{DrainReport, EdgeOptions, serve};
use chatservice::shutdown::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Long enough for a loaded machine; a test that needs it has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// A deadline that is waited for.
pub const SHORT: Duration = Duration::from_millis(300);

/// Deadlines that no test reaches, so that each test shortens the one it is about.
pub fn patient() -> EdgeOptions {
    EdgeOptions {
        first_byte: PATIENCE * 2,
        head: PATIENCE * 2,
        idle: PATIENCE * 2,
        write_stall: PATIENCE * 2,
        min_drain: Duration::ZERO,
        grace: PATIENCE * 2,
        ..EdgeOptions::default()
    }
}

/// A running edge.
pub struct Edge {
    pub address: SocketAddr,
    pub shutdown: Shutdown,
    task: JoinSet<DrainReport>,
}

impl Edge {
    pub async fn start(app: Router, options: EdgeOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let mut task = JoinSet::new();
        task.spawn(serve(listener, app, options, shutdown.clone()));
        Self { address, shutdown, task }
    }

    pub async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap())
    }

    /// Waits for the end of the drain.
    pub async fn report(&mut self) -> DrainReport {
        within(self.task.join_next()).await.unwrap().unwrap()
    }
}

/// Fails a test that would hang.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it should have happened by now")
}

/// One connection.
pub struct Client(pub TcpStream);

impl Client {
    pub async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    pub async fn get(&mut self, path: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: demo\r\n\r\n")).await;
    }

    /// One answer that has a content-length.
    pub async fn answer(&mut self) -> String {
        let head = self.read_until("\r\n\r\n").await;
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .unwrap_or_else(|| panic!("no content-length: {head}"));
        let mut body = vec![0; length.parse().unwrap()];
        within(self.0.read_exact(&mut body)).await.unwrap();
        head + &String::from_utf8(body).unwrap()
    }

    /// Up to and with `end`.
    pub async fn read_until(&mut self, end: &str) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(end.as_bytes()) {
            match within(self.0.read_u8()).await {
                Ok(byte) => bytes.push(byte),
                Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&bytes)),
            }
        }
        String::from_utf8(bytes).unwrap()
    }

    /// Everything until the connection is closed.
    pub async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        within(self.0.read_to_end(&mut bytes)).await.unwrap();
        String::from_utf8(bytes).unwrap()
    }
}
