//! One connection's socket. In: what hyper reads and writes. Out: the same bytes, and in [`Pulse`] what they say of the
//! connection. A write without progress fails after a time, so a reader that stopped reading cannot hold an answer.

use std::io::{self, IoSlice, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::refusal::{self, Begin};

/// How often a connection with unread bytes is looked at for a peer that left; below the 100 ms within which the call
/// to the backend has to be cancelled.
const LOOK: Duration = Duration::from_millis(50);

/// Most bytes of one read.
const READ_AT_ONCE: usize = 16 << 10;

/// Where a connection stands. Each phase but `Answering` has a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Accepted, and not a byte has come.
    Silent = 0,
    /// A request's first byte has come, its head is not complete.
    Head = 1,
    /// From a complete head until the response body is dropped.
    Answering = 2,
    /// Answered, and nothing has come since.
    Idle = 3,
}

/// The phase of a connection. All of it happens in the connection's own task, while it is polled, so whoever polls it sees
/// afterwards what has changed, and nobody need be woken.
#[derive(Debug)]
pub(super) struct Pulse {
    phase: AtomicU8,
    beats: AtomicU32,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self { phase: AtomicU8::new(Phase::Silent as u8), beats: AtomicU32::new(0) }
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Silent,
            1 => Phase::Head,
            2 => Phase::Answering,
            _ => Phase::Idle,
        }
    }

    /// Another number when the phase has changed, or when its deadline begins anew.
    pub(super) fn beats(&self) -> u32 {
        self.beats.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.beat();
    }

    fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes came. During an answer they are the request's body or the next request; hyper knows which. Whether a request
    /// begins with them.
    fn received(&self) -> bool {
        let begins = matches!(self.phase(), Phase::Silent | Phase::Idle);
        if begins {
            self.set(Phase::Head);
        }
        begins
    }

    /// Bytes went. The rest of an answer may still flow after its body was dropped: that is not idle time.
    fn sent(&self) {
        if self.phase() == Phase::Idle {
            self.beat();
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
    /// How the request in hand began.
    begin: Begin,
    /// What is still to be written in place of an answer of hyper's own.
    instead: Option<Bytes>,
}

impl Socket {
    pub(super) fn new(stream: Arc<TcpStream>, pulse: Arc<Pulse>, write_stall: Duration) -> Self {
        Self { stream, pulse, write_stall, stalled: None, begin: Begin::default(), instead: None }
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

impl Socket {
    /// Writes an answer of hyper's own with a body; None for every other. hyper is told that its bytes were written.
    fn refuse(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Option<Poll<io::Result<usize>>> {
        if self.instead.is_none() && self.pulse.phase() == Phase::Head {
            self.instead = refusal::with_body(bytes, &self.begin);
        }
        let mut rest = self.instead.take()?;
        while !rest.is_empty() {
            match self.write(cx, |stream| stream.try_write(&rest)) {
                Poll::Ready(Ok(written)) => rest.advance(written),
                Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
                Poll::Pending => {
                    self.instead = Some(rest);
                    return Some(Poll::Pending);
                }
            }
        }
        Some(Poll::Ready(Ok(bytes.len())))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            let before = buffer.filled().len();
            match read_all(&self.stream, buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(length) => {
                    if length > 0 {
                        if self.pulse.received() {
                            self.begin.clear();
                        }
                        self.begin.push(buffer.filled().get(before..).unwrap_or_default());
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

/// Reads what has come. Less than there is room for is all of it: the kernel tells when more comes, and need not be asked
/// again, which is what tokio does for a stream that is not shared.
fn read_all(stream: &TcpStream, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
    let room = buffer.remaining().min(READ_AT_ONCE);
    let mut read = None;
    let attempt = stream.try_io(Interest::READABLE, || {
        let length = (&*SockRef::from(stream)).read(buffer.initialize_unfilled_to(room))?;
        read = Some(length);
        if length == 0 || length == room { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    });
    match (read, attempt) {
        (Some(length), _) => {
            buffer.advance(length);
            Ok(length)
        }
        (None, Ok(())) => Err(io::ErrorKind::WouldBlock.into()),
        (None, Err(error)) => Err(error),
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let socket = self.get_mut();
        if let Some(written) = socket.refuse(cx, bytes) {
            return written;
        }
        socket.write(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let socket = self.get_mut();
        if let [bytes] = slices
            && let Some(written) = socket.refuse(cx, bytes)
        {
            return written;
        }
        socket.write(cx, |stream| stream.try_write_vectored(slices))
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
