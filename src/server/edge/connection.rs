//! One connection, from accept to close. In: a socket and the router. Out: answers, and how the connection ended.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use futures::FutureExt;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tower::ServiceExt;

use super::EdgeOptions;
use super::http2;
use super::signal::Signal;
use super::socket::{Phase, Pulse, Socket, peer_left};
use super::tls::{Tls, is_http_2};
use crate::constants::header::REQUEST_ID;
use crate::server::error::{ApiError, Dialect};
use crate::server::held_body::HeldBody;
use crate::server::middleware::observe::new_request_id;
use crate::shutdown::Shutdown;

/// How long, and how much, of what a client still sends is read after the answer. A close with unread bytes resets the
/// connection, and a client that is busy sending its body would lose the 413 that was meant for it.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 32 << 20;

/// What all connections of a listener have in common.
pub(super) struct Shared {
    pub(super) app: Router,
    pub(super) http: http1::Builder,
    pub(super) options: EdgeOptions,
    pub(super) shutdown: Shutdown,
    /// Connections without a request close.
    pub(super) close_idle: Signal,
    /// All connections close.
    pub(super) close_all: Signal,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By HTTP's rules, or by the peer.
    Closed,
    /// The peer was too slow in this phase.
    TimedOut(Phase),
    /// By us, in the middle of an answer.
    Cut,
}

/// Answers a connection's requests until it ends.
pub(super) async fn drive(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) -> End {
    let stream = Arc::new(stream);
    let pulse = Arc::new(Pulse::new());
    let socket = Socket::new(stream.clone(), pulse.clone(), shared.options.write_stall);
    let end = match &shared.options.tls {
        None => http_1(socket, peer, &stream, &pulse, &shared).await,
        Some(tls) => Box::pin(encrypted(tls, socket, peer, &stream, &pulse, &shared)).await,
    };
    match end {
        End::TimedOut(phase) => {
            tracing::debug!(connection.phase = ?phase, "closed a connection that was too slow");
        }
        End::Closed if !shared.close_all.is_given() => {
            if let Some(stream) = Arc::into_inner(stream) {
                tokio::select! {
                    // In a box: its buffer is not needed before the end.
                    () = Box::pin(linger(stream)) => {}
                    () = shared.close_all.given() => {}
                }
            }
        }
        End::Closed | End::Cut => {}
    }
    end
}

/// Shakes hands, within the time for a request's head, and answers in the protocol that the client chose.
async fn encrypted(
    tls: &Tls,
    socket: Socket,
    peer: SocketAddr,
    stream: &TcpStream,
    pulse: &Arc<Pulse>,
    shared: &Arc<Shared>,
) -> End {
    let socket = tokio::select! {
        biased;
        () = shared.close_idle.given() => return End::Closed,
        () = shared.close_all.given() => return End::Closed,
        shaken = timeout(shared.options.head, tls.accept(socket)) => match shaken {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => {
                tracing::debug!(error = %error, "a client and we did not agree on TLS");
                return End::Closed;
            }
            Err(_) => return End::TimedOut(pulse.phase()),
        },
    };
    if is_http_2(&socket) {
        return http2::drive(socket, peer, shared).await;
    }
    // What came so far was no request.
    pulse.set(Phase::Silent);
    http_1(socket, peer, stream, pulse, shared).await
}

/// Answers one request after the other.
async fn http_1<I>(
    socket: I,
    peer: SocketAddr,
    stream: &TcpStream,
    pulse: &Arc<Pulse>,
    shared: &Arc<Shared>,
) -> End
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = Service { shared: shared.clone(), peer, pulse: pulse.clone() };
    let mut http = Box::pin(shared.http.serve_connection(TokioIo::new(socket), service));
    // With the connection the request in hand is dropped: what it was waiting for is cancelled.
    watch(http.as_mut(), stream, pulse, shared).await
}

/// Runs the connection and its deadlines.
async fn watch<I>(
    mut http: Pin<&mut http1::Connection<TokioIo<I>, Service>>,
    stream: &TcpStream,
    pulse: &Pulse,
    shared: &Shared,
) -> End
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let options = &shared.options;
    let (mut close_idle, mut close_all) = (shared.close_idle.given(), shared.close_all.given());
    let mut deadline = Deadline::new(options.first_byte);
    let mut peer = pin!(None);
    let (mut leaving, mut left) = (false, false);
    // Of no phase that there is: the first look sees a change.
    let mut beats = pulse.beats().wrapping_sub(1);
    poll_fn(move |context| {
        loop {
            // A request that has come is seen before the reasons to close.
            if let Poll::Ready(result) = http.as_mut().poll(context) {
                if let Err(error) = result {
                    tracing::debug!(error = %error, "a connection ended early");
                }
                return Poll::Ready(End::Closed);
            }
            let phase = pulse.phase();
            if beats != pulse.beats() {
                beats = pulse.beats();
                deadline.begin(match phase {
                    Phase::Silent => Some(options.first_byte),
                    Phase::Head => Some(options.head),
                    Phase::Idle => Some(options.idle),
                    Phase::Answering => None,
                });
                peer.set((phase == Phase::Answering).then(|| peer_left(stream)));
            }
            if close_all.poll_unpin(context).is_ready() {
                return Poll::Ready(if phase == Phase::Answering { End::Cut } else { End::Closed });
            }
            leaving = leaving || close_idle.poll_unpin(context).is_ready();
            if leaving && !left && matches!(phase, Phase::Silent | Phase::Idle) {
                // Closes as soon as the rest of the last answer is written.
                http.as_mut().graceful_shutdown();
                left = true;
                continue;
            }
            if deadline.poll(context).is_ready() {
                return Poll::Ready(End::TimedOut(phase));
            }
            return match peer.as_mut().as_pin_mut() {
                Some(peer) => peer.poll(context).map(|()| End::Closed),
                None => Poll::Pending,
            };
        }
    })
    .await
}

/// The deadline of a phase. It is moved at every request, mostly to later, and the timer behind it only when it rings too
/// early.
pub(super) struct Deadline {
    at: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl Deadline {
    pub(super) fn new(first: Duration) -> Self {
        let timer = Box::pin(sleep(first));
        Self { at: Some(timer.deadline()), timer }
    }

    /// From now on it is this long until then; None: there is none.
    fn begin(&mut self, limit: Option<Duration>) {
        self.move_to(limit.map(|limit| Instant::now() + limit));
    }

    /// Then; None: there is none.
    pub(super) fn move_to(&mut self, at: Option<Instant>) {
        self.at = at;
        if let Some(at) = self.at
            && at < self.timer.deadline()
        {
            self.timer.as_mut().reset(at);
        }
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else { return Poll::Pending };
        while self.timer.as_mut().poll(context).is_ready() {
            if at <= Instant::now() {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(at);
        }
        Poll::Pending
    }
}

/// Says that nothing more comes, and reads what the client was still sending.
async fn linger(mut stream: TcpStream) {
    let drain = async {
        stream.shutdown().await?;
        let mut scrap = [0; 4096];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match stream.read(&mut scrap).await? {
                0 => break,
                length => left = left.saturating_sub(length),
            }
        }
        Ok::<(), std::io::Error>(())
    };
    // Whatever comes of it, the connection is over.
    let _ = timeout(LINGER, drain).await;
}

/// The router as hyper calls it.
struct Service {
    shared: Arc<Shared>,
    peer: SocketAddr,
    pulse: Arc<Pulse>,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<HeldBody<Answering>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let answering = Answering::begin(&self.pulse);
        let shutdown = self.shared.shutdown.clone();
        request.extensions_mut().insert(ConnectInfo(self.peer));
        let refused = host_error(request.version(), request.headers())
            .map(|message| bad_host(message, request.uri().path()));
        let app = self.shared.app.clone();
        Box::pin(async move {
            let mut response = match refused {
                Some(response) => response,
                None => app.oneshot(request).await?,
            };
            if shutdown.is_draining() {
                close_after(&mut response);
            }
            Ok(response.map(|body| HeldBody::new(body, answering)))
        })
    }
}

/// What is wrong with `Host`: RFC 9112, 3.2 asks for exactly one valid one. HTTP/1.0 may leave it out.
fn host_error(version: Version, headers: &HeaderMap) -> Option<&'static str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if version >= Version::HTTP_11 => Some("the request has no Host header"),
        (Some(_), Some(_)) => Some("the request has more than one Host header"),
        (Some(host), None) if !is_host_and_port(host) => {
            Some("the request's Host header is not a host and port")
        }
        _ => None,
    }
}

pub(super) fn is_host_and_port(value: &HeaderValue) -> bool {
    let Ok(authority) = Authority::try_from(value.as_bytes()) else { return false };
    let host = authority.host();
    // What is not host is a port, or a user in front, which has no place here.
    let port = authority.as_str().strip_prefix(host).map(|rest| rest.strip_prefix(':').unwrap_or(rest));
    !host.is_empty() && port.is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// In the dialect of the path: SDKs read an error's body.
pub(super) fn bad_host(message: &'static str, path: &str) -> Response<Body> {
    let mut response = ApiError::BadHost(message).into_response(Dialect::of(path));
    response.headers_mut().insert(REQUEST_ID, new_request_id());
    close_after(&mut response);
    response
}

fn close_after(response: &mut Response<Body>) {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}

/// Holds its connection in [`Phase::Answering`] for as long as it lives.
struct Answering(Arc<Pulse>);

impl Answering {
    fn begin(pulse: &Arc<Pulse>) -> Self {
        pulse.set(Phase::Answering);
        Self(pulse.clone())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.set(Phase::Idle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_valid_host_is_asked_for_and_none_of_http_1_0() {
        let check = |version, hosts: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, HeaderValue::from_static(host));
            }
            host_error(version, &headers).is_none()
        };
        for host in ["demo", "demo.chat.svc:8080", "127.0.0.1", "[::1]:8080", "my_host"] {
            assert!(check(Version::HTTP_11, &[host]), "{host}");
            assert!(check(Version::HTTP_10, &[host]), "{host}");
        }
        assert!(check(Version::HTTP_10, &[]));
        assert!(!check(Version::HTTP_11, &[]));
        for host in ["", ":80", "a b", "user@demo", "demo@demo", "demo/path", "demo:port", "[::1"] {
            assert!(!check(Version::HTTP_11, &[host]), "{host:?}");
        }
        assert!(!check(Version::HTTP_11, &["demo", "demo"]));
        assert!(!check(Version::HTTP_10, &["demo", "other"]));
    }
}
