//! Where connections come in and how they are let go. In: a listener, a router, [`Shutdown`]. Out: answers until the
//! process is told to stop, then a drain within the grace period and a [`DrainReport`].
//!
//! With [`EdgeOptions::tls`] connections are encrypted, and speak HTTP/2 (`http2`) where a client asks for it.
//!
//! `axum::serve` has no deadlines and its graceful shutdown waits for open streams for ever, hence our own loop over
//! hyper's HTTP/1 connection. hyper's `header_read_timeout` also runs while a connection is idle (1.12), which would
//! close the connections that proxies pool, so it is off and `connection` keeps the deadlines of each phase.
//!
//! The drain, in order: readiness turns false in the same tick ([`crate::admin::Readiness`] asks `Shutdown`) · every
//! answer carries `Connection: close`, and connections are still accepted for [`EdgeOptions::min_drain`], since
//! proxies learn late · the listener and idle connections close · answers in flight are waited for, each until its body
//! is dropped · 5 s before the grace period is over streams are told to end, which they do with an error event · 2 s
//! later whatever is left is cut.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures::FutureExt;
use hyper::server::conn::http1;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use self::connection::{End, Shared, drive};
use self::signal::Signal;
use crate::constants::drain;
use crate::shutdown::Shutdown;

mod connection;
mod http2;
mod refusal;
mod signal;
mod socket;
mod tls;

pub use tls::{CertificateError, ServerCertificate, Tls};

/// Bytes of a request's head. OpenAI's SDKs send about 1 KiB; proxies that add tokens some more.
const HEAD_BYTES: usize = 32 * 1024;
/// Bytes that hyper buffers of a connection, each way.
const BUFFER_BYTES: usize = 64 * 1024;
/// Asked of the kernel for what a client has not acknowledged; Linux takes twice that for its own bookkeeping. Some
/// 600 KB a second at 50 ms round trip, of an answer whose words come at a hundredth of that.
const SEND_BUFFER: u32 = 32 * 1024;
/// Connections that the kernel accepts ahead of us.
const BACKLOG: u32 = 1024;
/// Streams are told to end this long before the grace period is over.
const STREAMS_END_BEFORE: Duration = Duration::from_secs(5);
/// And have this long for their last event; what remains of the grace period is for what runs after the edge.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Pause after the kernel refused to accept, for instance because no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Between two log lines that say the same of the listener.
const LOG_PAUSE: Duration = Duration::from_secs(10);

/// Limits of a listener.
#[derive(Clone, Debug)]
pub struct EdgeOptions {
    /// Connections at once. Beyond it new ones wait in the kernel's backlog: a short peak costs a wait, not an error.
    pub max_connections: usize,
    /// From accept to the first byte.
    pub first_byte: Duration,
    /// From a request's first byte to the end of its head.
    pub head: Duration,
    /// Between requests. Ingresses pool for 60 s, and the side that closes first should not be ours.
    pub idle: Duration,
    /// A write without progress.
    pub write_stall: Duration,
    /// From the start of a drain, how long connections are still accepted and idle ones kept.
    pub min_drain: Duration,
    /// From the start of a drain to the moment the process is killed.
    pub grace: Duration,
    /// How connections are encrypted; None: they are not, and speak HTTP/1.1.
    pub tls: Option<Tls>,
}

impl Default for EdgeOptions {
    /// For the API listener in a pod.
    fn default() -> Self {
        Self {
            max_connections: 4096,
            first_byte: Duration::from_secs(10),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            write_stall: Duration::from_mins(1),
            min_drain: drain::MINIMUM,
            grace: Duration::from_secs(u64::from(drain::DEFAULT_GRACE_SECONDS)),
            tls: None,
        }
    }
}

impl EdgeOptions {
    /// For the API listener of a pod with so many seconds from SIGTERM to SIGKILL.
    #[must_use]
    pub fn with_grace(grace_seconds: u32) -> Self {
        Self { grace: Duration::from_secs(u64::from(grace_seconds)), ..Self::default() }
    }

    /// For the API listener on a laptop: nobody has to learn that it goes away, and nobody waits a minute for it.
    #[must_use]
    pub fn local() -> Self {
        Self { min_drain: Duration::ZERO, grace: Duration::from_secs(10), ..Self::default() }
    }

    /// For the admin listener: few clients, short answers.
    #[must_use]
    pub fn admin() -> Self {
        Self {
            max_connections: 256,
            min_drain: Duration::ZERO,
            grace: STREAMS_END_BEFORE + Duration::from_secs(1),
            ..Self::default()
        }
    }
}

/// A listener whose connections hold little in the kernel: what a client does not read waits there too, up to 4 MiB each
/// unless it is told otherwise, and counts as memory of the container.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As `TcpListener::bind` does: a server that starts again need not wait for the connections of the last one.
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// How a drain went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainReport {
    /// Answers that were not complete when their connections were closed.
    pub cut: usize,
    /// From the first signal to the last connection.
    pub took: Duration,
}

/// Answers on `listener` until `shutdown` begins, then drains. Each request has the client's address as
/// `axum::extract::ConnectInfo<SocketAddr>`, an IPv4 address always as one.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    options: EdgeOptions,
    shutdown: Shutdown,
) -> DrainReport {
    let mut http = http1::Builder::new();
    http.header_read_timeout(None).max_buf_size(BUFFER_BYTES).max_header_size(HEAD_BYTES);
    let shared = Arc::new(Shared {
        app,
        http,
        shutdown: shutdown.clone(),
        close_idle: Signal::default(),
        close_all: Signal::default(),
        options,
    });
    let mut door = Door::new(listener, shared.options.max_connections);
    let mut connections = Connections { tasks: JoinSet::new(), cut: 0 };

    connections.accept(&mut door, &shared, shutdown.draining().cancelled()).await;

    let began = Instant::now();
    let options = &shared.options;
    let min_drain = or_now(&shutdown, sleep(options.min_drain));
    connections.accept(&mut door, &shared, min_drain).await;
    connections.accept_waiting(&mut door, &shared);
    drop(door);
    shared.close_idle.give();

    let streams_end = began + options.grace.saturating_sub(STREAMS_END_BEFORE);
    connections.wait(or_now(&shutdown, sleep_until(streams_end))).await;
    if !connections.tasks.is_empty() {
        shutdown.end_streams();
        connections.wait(or_now(&shutdown, sleep_until(streams_end + LAST_WORDS))).await;
        shared.close_all.give();
        connections.wait(std::future::pending()).await;
    }
    DrainReport { cut: connections.cut, took: began.elapsed() }
}

/// `until`, or the second signal.
async fn or_now(shutdown: &Shutdown, until: impl Future<Output = ()>) {
    tokio::select! {
        () = until => {}
        () = shutdown.now().cancelled() => {}
    }
}

/// The connections' tasks.
struct Connections {
    tasks: JoinSet<End>,
    cut: usize,
}

impl Connections {
    /// Accepts until `until`.
    async fn accept(&mut self, door: &mut Door, shared: &Arc<Shared>, until: impl Future<Output = ()>) {
        tokio::pin!(until);
        loop {
            tokio::select! {
                biased;
                () = &mut until => return,
                Some(ended) = self.tasks.join_next() => self.count(&ended),
                accepted = door.next() => self.start(accepted, shared),
            }
        }
    }

    /// Accepts what the kernel has already accepted, so that closing the listener does not reset it.
    fn accept_waiting(&mut self, door: &mut Door, shared: &Arc<Shared>) {
        while let Some(accepted) = door.next().now_or_never() {
            self.start(accepted, shared);
        }
    }

    fn start(&mut self, accepted: Accepted, shared: &Arc<Shared>) {
        let Accepted { stream, peer, permit } = accepted;
        let shared = shared.clone();
        self.tasks.spawn(async move {
            let end = drive(stream, peer, shared).await;
            drop(permit);
            end
        });
    }

    /// Waits for the last connection, or until `until`.
    async fn wait(&mut self, until: impl Future<Output = ()>) {
        tokio::pin!(until);
        loop {
            tokio::select! {
                biased;
                ended = self.tasks.join_next() => match ended {
                    Some(ended) => self.count(&ended),
                    None => return,
                },
                () = &mut until => return,
            }
        }
    }

    fn count(&mut self, ended: &Result<End, JoinError>) {
        // A task that panicked has been logged by the panic hook.
        self.cut += usize::from(matches!(ended, Ok(End::Cut)));
    }
}

/// A connection and its place under the cap.
struct Accepted {
    stream: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
}

/// The listener and its cap.
struct Door {
    listener: TcpListener,
    places: Arc<Semaphore>,
    full: Occasionally,
    failing: Occasionally,
}

impl Door {
    fn new(listener: TcpListener, max_connections: usize) -> Self {
        let places = Arc::new(Semaphore::new(max_connections));
        Self { listener, places, full: Occasionally::default(), failing: Occasionally::default() }
    }

    /// The next connection. May be dropped and called again at any time.
    async fn next(&mut self) -> Accepted {
        loop {
            if self.places.available_permits() == 0 && self.full.is_due() {
                tracing::warn!("as many connections as allowed: new ones wait until one ends");
            }
            // Never closed, so the error cannot come; another turn would be right if it did.
            let Ok(permit) = self.places.clone().acquire_owned().await else { continue };
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    // Without it small writes, such as the events of a stream, wait for an acknowledgement.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(error = %error, "a connection ended before it began");
                        continue;
                    }
                    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                    return Accepted { stream, peer, permit };
                }
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    if self.failing.is_due() {
                        tracing::warn!(error = %error, "cannot accept connections; trying again every 100 ms");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Keeps what happens with every connection from being logged with every connection.
#[derive(Default)]
struct Occasionally(Option<Instant>);

impl Occasionally {
    /// Whether it was [`LOG_PAUSE`] ago, or never, that this said yes.
    fn is_due(&mut self) -> bool {
        let due = self.0.is_none_or(|last| last.elapsed() >= LOG_PAUSE);
        if due {
            self.0 = Some(Instant::now());
        }
        due
    }
}

/// Whether accept failed because this one connection was gone already. Anything else is of the process or the host,
/// such as having no file descriptor left, and repeats at once.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
