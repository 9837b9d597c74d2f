//! Request id, access log and metrics. In: any request. Out: its response with the headers about it; one log line and
//! one count when the last byte of the body has left, or when the client did.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use http_body::{Body as _, Frame, SizeHint};

use crate::constants::header as names;
use crate::server::error::{Dialect, ErrorCode, StreamFault};
use crate::server::metrics::{CANCELLED, ServerMetrics};
use crate::server::state::AppState;
use crate::server::trace::RequestTrace;

/// Longest request id that is taken over from a client.
const ID_MAX: usize = 128;
/// Status in log and metrics of a request whose client left before the response began (as nginx has it).
const CLIENT_CLOSED: u16 = 499;

/// A request that is being answered. What came of it is written down, also when it is dropped.
pub(super) struct Observation {
    id: HeaderValue,
    /// Of its path.
    pub(super) dialect: Dialect,
    record: Record,
}

impl Observation {
    /// A request has come.
    pub(super) fn begin(state: &AppState, request: &mut Request) -> Self {
        let id = request_id(request.headers());
        let text: Arc<str> = Arc::from(id.to_str().unwrap_or_default());
        request.extensions_mut().insert(RequestId(text.clone()));
        let dialect = Dialect::of(request.uri().path());
        let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
        let record = Record::new(state, request, route, text);
        if record.trace.is_on() {
            request.extensions_mut().insert(record.trace.clone());
        }
        Self { id, dialect, record }
    }

    /// Its response has come, and is observed to its end.
    pub(super) fn end(self, mut response: Response) -> Response {
        let Self { id, dialect, mut record } = self;
        record.status = response.status().as_u16();
        record.error = response.extensions().get::<ErrorCode>().map(|code| code.0);
        record.fault = response.extensions().get::<StreamFault>().cloned();
        record.ended = response.body().is_end_stream();
        about(response.headers_mut(), &id, record.started.elapsed(), dialect);
        response.map(|inner| Body::new(Observed { inner, record }))
    }
}

/// A client's own id when it is short, printable and without quotes; else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let sane = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=ID_MAX).contains(&bytes.len())
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'/'))
    };
    headers.get(names::REQUEST_ID).filter(sane).cloned().unwrap_or_else(new_request_id)
}

/// A new one. Unique is enough, and this asks the kernel for nothing.
pub(in crate::server) fn new_request_id() -> HeaderValue {
    let id = format!("req_{:032x}", rand::random::<u128>());
    HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("req"))
}

fn about(headers: &mut HeaderMap, id: &HeaderValue, elapsed: Duration, dialect: Dialect) {
    headers.insert(names::REQUEST_ID, id.clone());
    if let Ok(value) = HeaderValue::from_str(&format!("{:.6}", elapsed.as_secs_f64())) {
        headers.insert(names::PROCESS_TIME, value);
    }
    if dialect == Dialect::OpenAi {
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        headers.insert(names::OPENAI_PROCESSING_MS, HeaderValue::from(millis));
    }
}

/// The request's id, in its extensions, for what is logged of it elsewhere.
#[derive(Clone, Debug)]
pub struct RequestId(pub Arc<str>);

/// What is known of one request; written down when dropped.
struct Record {
    metrics: ServerMetrics,
    trace: RequestTrace,
    method: &'static str,
    route: String,
    id: Arc<str>,
    started: Instant,
    status: u16,
    error: Option<&'static str>,
    fault: Option<StreamFault>,
    bytes: u64,
    ended: bool,
}

impl Record {
    fn new(state: &AppState, request: &Request, route: String, id: Arc<str>) -> Self {
        let metrics = state.metrics().clone();
        metrics.in_flight.inc();
        if let Some(count) =
            request.headers().get(names::CLIENT_RETRY_COUNT).and_then(|count| count.to_str().ok())
        {
            metrics.client_retry(count);
        }
        let method = method_label(request.method());
        Self {
            metrics,
            trace: state.tracer().request(method, &route, request.headers()),
            method,
            route,
            id,
            started: Instant::now(),
            status: CLIENT_CLOSED,
            error: None,
            fault: None,
            bytes: 0,
            ended: false,
        }
    }
}

/// Methods are an open set; a label is not.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let elapsed = self.started.elapsed();
        let status = self.status.to_string();
        let fault = self.fault.as_ref().and_then(StreamFault::code);
        self.metrics.in_flight.dec();
        self.metrics.http_requests.with_label_values(&[self.method, &self.route, &status]).inc();
        self.metrics
            .http_duration
            .with_label_values(&[self.method, &self.route])
            .observe(elapsed.as_secs_f64());
        tracing::info!(
            http.request.method = self.method,
            http.route = self.route,
            http.response.status_code = self.status,
            http.response.body.size = self.bytes,
            duration_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            request.id = &*self.id,
            error.code = self.error.or(fault),
            complete = self.ended && fault.is_none(),
            "request"
        );
        let left = (!self.ended).then_some(CANCELLED);
        self.trace.ended(self.status, self.error.or(fault).or(left));
    }
}

/// A response body that knows its record.
struct Observed {
    inner: Body,
    record: Record,
}

impl http_body::Body for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        match &polled {
            Poll::Ready(None) => this.record.ended = true,
            Poll::Ready(Some(Ok(frame))) => {
                this.record.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                this.record.ended = this.inner.is_end_stream();
            }
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_own_id_is_kept_when_it_is_sane() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(names::REQUEST_ID, HeaderValue::from_str(value).unwrap());
            request_id(&headers).to_str().unwrap().to_owned()
        };
        assert_eq!(with("trace-1.a_b"), "trace-1.a_b");
        for refused in ["", "has space", "quote\"", &"x".repeat(ID_MAX + 1)] {
            assert!(with(refused).starts_with("req_"), "{refused:?}");
        }
    }
}
