//! Calls over HTTP/1.1. In: a request. Out: its response, whose body ends what was begun.
//!
//! A connection has no task of its own: whoever waits for an answer drives it. So nobody is woken but by the network, on
//! the thread that needs what has come; and whoever stops waiting closes the connection, since one that is in the middle of
//! an answer is of no use to others. What is idle waits in the pool ([`super::pool`]).

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures::future::poll_fn;
use http::{Request, Response, Uri};
use http_body::Frame;
use http_body_util::Full;
use hyper::body::{Body as _, Incoming, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_rustls::MaybeHttpsStream;
use tokio::task::coop::unconstrained;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::attempts::Mark;
use super::connect::{BoxError, Connector};
use super::pool::Pool;
use super::route::Link;

/// Read buffer of a connection, which bounds the answer's headers and what a stream holds while its reader is slow.
const READ_BUFFER: usize = 16 << 10;

/// Why there is no response.
#[derive(Debug)]
pub(super) enum SendError {
    /// Nothing was connected to.
    Connect(BoxError),
    /// The connection ended before an answer, or what came was none.
    Call(Option<hyper::Error>),
}

/// Calls one host.
pub(super) struct Client {
    connector: Connector,
    /// Scheme and authority of what is called.
    origin: Uri,
    http: http1::Builder,
    pool: Arc<Pool>,
}

impl Client {
    /// Nothing is dialled before the first call. `tasks` has the one that closes what is idle for too long; it ends with the
    /// client.
    pub(super) fn new(connector: Connector, origin: Uri, tasks: TaskTracker) -> Self {
        let mut http = http1::Builder::new();
        http.max_buf_size(READ_BUFFER);
        Self { connector, origin, http, pool: Pool::new(tasks) }
    }

    /// Sends a request, whose URI is a path and which names its host. `written` is set before the backend can have anything of
    /// it. A connection that was closed while it was idle costs no call: then the request goes to another one.
    pub(super) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        written: &Mark,
    ) -> Result<Response<Body>, SendError> {
        while let Some(mut connection) = self.pool.take() {
            written.set();
            match connection.ask(request).await {
                Ok(response) => return Ok(self.response(response, connection)),
                Err(Unanswered { request: Some(unsent), .. }) => request = unsent,
                Err(Unanswered { error, request: None }) => return Err(SendError::Call(error)),
            }
        }
        // In a box: most calls need no new connection, and have no room for what one takes.
        let mut connection = Box::pin(self.dial()).await?;
        written.set();
        match connection.ask(request).await {
            Ok(response) => Ok(self.response(response, connection)),
            Err(unanswered) => Err(SendError::Call(unanswered.error)),
        }
    }

    async fn dial(&self) -> Result<Box<Connection>, SendError> {
        let dialled =
            self.connector.clone().oneshot(self.origin.clone()).await.map_err(SendError::Connect)?;
        let shaken = self.http.handshake(dialled).await;
        let (sender, driver) = shaken.map_err(|error| SendError::Call(Some(error)))?;
        Ok(Box::new(Connection { sender, driver, ended: false }))
    }

    fn response(&self, response: Response<Incoming>, connection: Box<Connection>) -> Response<Body> {
        response.map(|incoming| Body { incoming, connection: Some(connection), pool: self.pool.clone() })
    }
}

/// A request that was not answered, and the request itself where nothing of it was sent.
struct Unanswered {
    error: Option<hyper::Error>,
    request: Option<Request<Full<Bytes>>>,
}

/// A connection to the host.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Reads and writes when it is polled.
    driver: http1::Connection<MaybeHttpsStream<Link>, Full<Bytes>>,
    ended: bool,
}

impl Connection {
    /// Whether it can have a request, as far as the network has told.
    pub(super) fn is_idle(&mut self) -> bool {
        self.nudge();
        !self.ended && self.sender.is_ready()
    }

    /// Does what can be done, and wakes the task when there is more.
    fn drive(&mut self, context: &mut Context<'_>) {
        // How it ended is told with the response or its body.
        self.ended = self.ended || Pin::new(&mut self.driver).poll(context).is_ready();
    }

    /// Does what can be done at once. Nobody is woken afterwards, by the network or by what is sent through the other half.
    fn nudge(&mut self) {
        self.drive(&mut Context::from_waker(Waker::noop()));
    }

    /// Waits for the head of a response.
    async fn ask(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Unanswered> {
        // What the driver tells it is looked at right after the driver, so it need wake nobody; nor may it wait for a budget.
        let mut response = pin!(unconstrained(self.sender.try_send_request(request)));
        let answered = poll_fn(|context| {
            self.drive(context);
            match response.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(answered) => Poll::Ready(Some(answered)),
                Poll::Pending if self.ended => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        match answered {
            Some(Ok(response)) => Ok(response),
            Some(Err(mut failed)) => {
                let request = failed.take_message();
                Err(Unanswered { error: Some(failed.into_error()), request })
            }
            None => Err(Unanswered { error: None, request: None }),
        }
    }
}

/// A response's body. Read to its end it gives the connection back; dropped before, it closes it.
pub(super) struct Body {
    incoming: Incoming,
    connection: Option<Box<Connection>>,
    pool: Arc<Pool>,
}

impl Body {
    /// What has been read already. What the driver adds is looked at right after the driver, so nobody need be woken for it.
    fn read(&mut self) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.incoming).poll_frame(&mut Context::from_waker(Waker::noop()))
    }

    fn step(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // Asking is also what lets the driver read on.
        if let frame @ Poll::Ready(_) = self.read() {
            return frame;
        }
        // Most of a body has come with its head: then nobody waits, and no waker is left behind.
        for waker in [Waker::noop(), context.waker()] {
            if let Some(connection) = &mut self.connection {
                connection.drive(&mut Context::from_waker(waker));
                if connection.ended {
                    // With it ends the body.
                    self.connection = None;
                }
            }
            if let frame @ Poll::Ready(_) = self.read() {
                return frame;
            }
        }
        Poll::Pending
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let stepped = self.step(context);
        let over = match &stepped {
            Poll::Ready(Some(Ok(_))) => self.incoming.is_end_stream(),
            Poll::Ready(None) => true,
            Poll::Ready(Some(Err(_))) => {
                self.connection = None;
                false
            }
            Poll::Pending => false,
        };
        if over && let Some(connection) = self.connection.take() {
            self.pool.put(connection);
        }
        stepped
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
