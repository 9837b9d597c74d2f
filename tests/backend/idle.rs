//! Connections between two calls: kept, closed in time, and not used when the backend has closed them.

use std::fs;
use std::time::{Duration, Instant};

use chatservice::server::backend::openai::{OpenAi, OpenAiOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::mock_openai::{MockOpenAi, plain_answer};
use crate::timeouts::pass;
use crate::{options, plain};

/// How long is waited for what has to happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// A backend that answers once on each connection, and what calls it.
struct Once {
    listener: TcpListener,
    backend: OpenAi,
    tasks: TaskTracker,
}

impl Once {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tasks = TaskTracker::new();
        let options = OpenAiOptions {
            base_url: format!("http://{}/v1", listener.local_addr().unwrap()),
            connections: tasks.clone(),
            ..options(&MockOpenAi::start().await)
        };
        Self { listener, backend: OpenAi::new(options).unwrap(), tasks }
    }

    /// One call on a new connection, which is left open.
    async fn call(&self) -> TcpStream {
        let answer = async {
            let (mut stream, _) = self.listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"}]}") {
                assert!(stream.read_buf(&mut request).await.unwrap() > 0);
            }
            let body = plain_answer(1, true);
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream
        };
        let both = futures::future::join(plain(&self.backend), answer);
        let (answered, stream) = timeout(PATIENCE, both).await.expect("a call on a new connection");
        answered.unwrap();
        stream
    }
}

/// Waits until the other side has closed this connection too.
async fn closed(mut stream: TcpStream) {
    let read = timeout(PATIENCE, stream.read(&mut [0])).await.expect("the connection is closed");
    assert_eq!(read.unwrap(), 0);
}

/// Says that nothing more comes, and waits until the other side's kernel knows.
async fn close(mut stream: TcpStream) -> TcpStream {
    stream.shutdown().await.unwrap();
    let [here, there] = [stream.local_addr(), stream.peer_addr()].map(|address| address.unwrap().port());
    let deadline = Instant::now() + PATIENCE;
    // FIN_WAIT2: the FIN was acknowledged.
    let told = format!("0100007F:{here:04X} 0100007F:{there:04X} 05");
    while !fs::read_to_string("/proc/net/tcp").unwrap().contains(&told) {
        assert!(Instant::now() < deadline, "the end of a connection is not acknowledged");
        yield_now().await;
    }
    // What the kernel knows the runtime is told in its next turn.
    yield_now().await;
    stream
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_costs_no_call() {
    let once = Once::start().await;
    let first = close(once.call().await).await;
    let second = once.call().await;
    closed(first).await;
    drop(second);
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_a_while() {
    let once = Once::start().await;
    let stream = once.call().await;
    pass(Duration::from_secs(20)).await;
    assert_eq!(once.tasks.len(), 1, "the task that closes it");
    pass(Duration::from_secs(16)).await;
    closed(stream).await;
    once.tasks.close();
    timeout(PATIENCE, once.tasks.wait()).await.expect("there is nothing left to close");
}

#[tokio::test]
async fn idle_connections_end_with_what_called() {
    let once = Once::start().await;
    let (stream, tasks) = (once.call().await, once.tasks.clone());
    drop(once);
    closed(stream).await;
    tasks.close();
    timeout(PATIENCE, tasks.wait()).await.expect("the task that closes them has ended");
}
