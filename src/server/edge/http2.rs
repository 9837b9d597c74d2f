//! One HTTP/2 connection. In: an encrypted socket and the router. Out: answers to many requests at once, and how it ended.
//!
//! Floods are bounded: requests at once and the size of a head by what we announce, resets and CONTINUATION frames by the
//! limits of hyper and h2, which end a connection that goes beyond them. All streams run in the connection's own task, so that with
//! it everything that it was doing ends. A PING must not keep a connection, so only requests count as life.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use http::{Request, Response, header};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;
use tower::ServiceExt;

use super::connection::{Deadline, End, Shared, bad_host, is_host_and_port};
use super::socket::{Phase, Socket};
use super::{BUFFER_BYTES, EdgeOptions, HEAD_BYTES};

/// Requests of a connection at once. SDKs use few; a browser or a proxy in front some dozens.
const STREAMS: u32 = 128;
/// Bytes of a body that a client may send ahead, for one request and for all of a connection.
const WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// A peer that is gone without a word is found by a question and the time that it has to answer.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);
/// From the word that no more requests are taken to the end of a connection without any.
const GOODBYE: Duration = Duration::from_secs(2);

type Connection = http2::Connection<TokioIo<TlsStream<Socket>>, Service, Streams>;

/// Answers a connection's requests until it ends.
pub(super) async fn drive(socket: TlsStream<Socket>, peer: SocketAddr, shared: &Arc<Shared>) -> End {
    let streams = Streams::default();
    let life = Arc::new(Life::default());
    let service = Service { shared: shared.clone(), peer, life: life.clone() };
    let mut builder = http2::Builder::new(streams.clone());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX))
        .max_send_buf_size(BUFFER_BYTES)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG);
    let http = Box::pin(builder.serve_connection(TokioIo::new(socket), service));
    watch(http, streams, &life, shared).await
}

/// Runs the connection, its streams and its deadlines.
async fn watch(mut http: Pin<Box<Connection>>, streams: Streams, life: &Life, shared: &Shared) -> End {
    let options = &shared.options;
    let draining = shared.shutdown.draining().cancelled();
    let (mut close_idle, mut close_all) = (shared.close_idle.given(), shared.close_all.given());
    tokio::pin!(draining);
    let mut deadline = Deadline::new(options.head);
    let mut running = FuturesUnordered::new();
    let mut leaving: Option<Instant> = None;
    poll_fn(move |context| {
        loop {
            // A request that has come is seen before the reasons to close.
            if let Poll::Ready(result) = http.as_mut().poll(context) {
                if let Err(error) = result {
                    tracing::debug!(error = %error, "a connection ended early");
                }
                return Poll::Ready(End::Closed);
            }
            running.extend(streams.take());
            let mut moved = false;
            while let Poll::Ready(Some(())) = running.poll_next_unpin(context) {
                moved = true;
            }
            // What ended may have left frames to be written.
            if moved {
                continue;
            }
            if close_all.poll_unpin(context).is_ready() {
                return Poll::Ready(if life.is_idle() { End::Closed } else { End::Cut });
            }
            if leaving.is_none() && draining.as_mut().poll(context).is_ready() {
                http.as_mut().graceful_shutdown();
                leaving = Some(Instant::now());
                continue;
            }
            if life.is_idle() && close_idle.poll_unpin(context).is_ready() {
                return Poll::Ready(End::Closed);
            }
            let (phase, end) = life.deadline(options, leaving);
            deadline.move_to(end);
            if deadline.poll(context).is_pending() {
                return Poll::Pending;
            }
            if phase != Phase::Idle || leaving.is_some() {
                return Poll::Ready(End::TimedOut(phase));
            }
            http.as_mut().graceful_shutdown();
            leaving = Some(Instant::now());
        }
    })
    .await
}

/// Where hyper puts what it wants to run beside the connection: its streams.
#[derive(Clone, Default)]
struct Streams(Arc<Mutex<Vec<BoxFuture<'static, ()>>>>);

impl Streams {
    fn take(&self) -> Vec<BoxFuture<'static, ()>> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(stream));
    }
}

/// What the requests of a connection are doing.
#[derive(Debug, Default)]
struct Life(Mutex<Requests>);

#[derive(Debug, Default)]
struct Requests {
    /// Requests so far.
    begun: u64,
    /// Those that are being answered. Since when the client has not taken what there is of an answer; None: it is ours to speak.
    answering: HashMap<u64, Option<Instant>>,
    /// When the connection began, or the last request ended.
    quiet_since: Option<Instant>,
}

impl Life {
    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_idle(&self) -> bool {
        self.requests().answering.is_empty()
    }

    /// Until when the connection may go on as it is, and what it is too slow in then.
    fn deadline(&self, options: &EdgeOptions, leaving: Option<Instant>) -> (Phase, Option<Instant>) {
        let mut requests = self.requests();
        if requests.answering.is_empty() {
            let quiet_since = *requests.quiet_since.get_or_insert_with(Instant::now);
            return match (leaving, requests.begun) {
                (Some(said), _) => (Phase::Idle, Some(said.max(quiet_since) + GOODBYE)),
                (None, 0) => (Phase::Head, Some(quiet_since + options.head)),
                (None, _) => (Phase::Idle, Some(quiet_since + options.idle)),
            };
        }
        let oldest = requests.answering.values().flatten().min();
        (Phase::Answering, oldest.map(|since| *since + options.write_stall))
    }

    fn begin(self: &Arc<Self>) -> Answering {
        let mut requests = self.requests();
        requests.begun += 1;
        let id = requests.begun;
        requests.answering.insert(id, None);
        Answering { life: self.clone(), id }
    }
}

/// One request, until its response body is dropped.
struct Answering {
    life: Arc<Life>,
    id: u64,
}

impl Answering {
    /// The client has `since` then not taken what there is, or it is ours to speak.
    fn waits(&self, since: Option<Instant>) {
        self.life.requests().answering.insert(self.id, since);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut requests = self.life.requests();
        requests.answering.remove(&self.id);
        if requests.answering.is_empty() {
            requests.quiet_since = Some(Instant::now());
        }
    }
}

/// A response body that tells when its client stops taking it: hyper asks for the next piece when there is room for it.
struct Told {
    body: Body,
    answering: Answering,
}

impl http_body::Body for Told {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        self.answering.waits(polled.is_ready().then(Instant::now));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The router as hyper calls it.
struct Service {
    shared: Arc<Shared>,
    peer: SocketAddr,
    life: Arc<Life>,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<Told>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let answering = self.life.begin();
        request.extensions_mut().insert(ConnectInfo(self.peer));
        let refused = authority_error(&request).map(|message| bad_host(message, request.uri().path()));
        let app = self.shared.app.clone();
        Box::pin(async move {
            let mut response = match refused {
                Some(response) => response,
                None => app.oneshot(request).await?,
            };
            // HTTP/2 says it for the whole connection, in a frame of its own.
            response.headers_mut().remove(header::CONNECTION);
            Ok(response.map(|body| Told { body, answering }))
        })
    }
}

/// What is wrong with `:authority` and `Host`: RFC 9113, 8.3.1 asks for one of them, and for the same where there are both.
fn authority_error<B>(request: &Request<B>) -> Option<&'static str> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (request.uri().authority(), hosts.next(), hosts.next()) {
        (_, _, Some(_)) => Some("the request has more than one Host header"),
        (None, None, None) => Some("the request has no :authority"),
        (None, Some(host), None) => {
            (!is_host_and_port(host)).then_some("the request's Host header is not a host and port")
        }
        (Some(authority), Some(host), None) => {
            (!host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()))
                .then_some("the request's Host header is not its :authority")
        }
        (Some(_), None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_authority_is_asked_for() {
        let error = |uri: &str, hosts: &[&str]| {
            let mut request = Request::builder().uri(uri);
            for host in hosts {
                request = request.header(header::HOST, *host);
            }
            authority_error(&request.body(()).unwrap()).is_some()
        };
        for (uri, hosts, bad) in [
            ("https://demo/x", &[][..], false),
            ("https://demo:8080/x", &["DEMO:8080"], false),
            ("/x", &["demo"], false),
            ("/x", &[], true),
            ("/x", &["a b"], true),
            ("https://demo/x", &["other"], true),
            ("https://demo/x", &["demo", "demo"], true),
        ] {
            assert_eq!(error(uri, hosts), bad, "{uri} {hosts:?}");
        }
    }
}
