//! One connection's socket. In: what hyper reads and writes. Out: the same bytes, and in [`Pulse`] what they say of the
//! connection. A write without progress fails after a time, so a reader that stopped reading cannot hold an answer.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep};

/// How often a connection with unread bytes is looked at for a peer that left; below the 100 ms within which the call
/// to the backend has to be cancelled.
const LOOK: Duration = Duration::from_millis(50);

/// Where a connection stands. Each phase but `Answering` has a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Accepted, and not a byte has come.
    Silent,
    /// A request's first byte has come, its head is not complete.
    Head,
    /// From a complete head until the response body is dropped.
    Answering,
    /// Answered, and nothing has come since.
    Idle,
}

/// The phase, and a bell for whoever watches it.
#[derive(Debug)]
pub(super) struct Pulse {
    phase: Mutex<Phase>,
    /// Rung when the phase has changed, or when its deadline begins anew.
    pub(super) changed: Notify,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self { phase: Mutex::new(Phase::Silent), changed: Notify::new() }
    }

    pub(super) fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
        self.changed.notify_one();
    }

    /// Bytes came. During an answer they are the request's body or the next request; hyper knows which.
    fn received(&self) {
        if matches!(self.phase(), Phase::Silent | Phase::Idle) {
            self.set(Phase::Head);
        }
    }

    /// Bytes went. The rest of an answer may still flow after its body was dropped: that is not idle time.
    fn sent(&self) {
        if self.phase() == Phase::Idle {
            self.changed.notify_one();
        }
    }
}

/// The socket as hyper sees it. The connection's owner keeps the other reference: it watches for a peer that left, and
/// closes.
pub(super) struct Socket {
    stream: Arc<TcpStream>,
    pulse: Arc<Pulse>,
    write_stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    pub(super) fn new(stream: Arc<TcpStream>, pulse: Arc<Pulse>, write_stall: Duration) -> Self {
        Self { stream, pulse, write_stall, stalled: None }
    }

    fn write(
        &mut self,
        cx: &mut Context<'_>,
        attempt: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        while self.stream.poll_write_ready(cx)?.is_ready() {
            match attempt(&self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    self.stalled = None;
                    self.pulse.sent();
                    return Poll::Ready(result);
                }
            }
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(self.write_stall)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answer")))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(length) => {
                    if length > 0 {
                        self.pulse.received();
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().write(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().write(cx, |stream| stream.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Nothing: the connection's owner closes, after it has read what the client was still sending.
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Returns when the peer has closed its side.
///
/// hyper sees that too, but only as long as it has read nothing beyond the request: one byte of a next request and it
/// looks no more until the answer is complete (`mid_message_detect_eof` in 1.12). The kernel tells of the end apart
/// from the bytes before it, so it is seen here without reading them.
pub(super) async fn peer_left(stream: &TcpStream) {
    while let Ok(ready) = stream.ready(Interest::READABLE).await {
        if ready.is_read_closed() {
            return;
        }
        sleep(LOOK).await;
    }
}
