//! What is decided before a request may cost anything: memory, the backend, a trip to the store. In: a request on a path
//! that is limited. Out: its response, whose body holds the permit; or a refusal.
//!
//! Order: was its caller refused just now? → is a permit free, or soon?

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

use crate::server::admission;
use crate::server::error::Dialect;
use crate::server::exchange;
use crate::server::overload::Overload;
use crate::server::routes::input::From;
use crate::server::state::AppState;

/// The layer.
pub async fn admit(
    State((state, overload)): State<(AppState, Overload)>,
    from: From,
    request: Request,
    next: Next,
) -> Response {
    let dialect = Dialect::of(request.uri().path());
    let lately = state.live().ok().and_then(|live| admission::refused_lately(&state, &live, &from.caller));
    if let Some((error, headers)) = lately {
        let mut response = error.into_response(dialect);
        response.headers_mut().extend(headers);
        return response;
    }
    let Some(permit) = overload.enter().await else { return exchange::busy().into_response(dialect) };
    next.run(request).await.map(|inner| Body::new(Held { inner, _permit: permit }))
}

/// A response body and its permit.
struct Held {
    inner: Body,
    _permit: OwnedSemaphorePermit,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
