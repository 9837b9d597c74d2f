//! What is decided before a request may cost anything: memory, the backend, a trip to the store. In: a request on a path
//! that is limited. Out: its response, whose body holds the permit; or a refusal.
//!
//! Order: who sends it? → was its caller refused just now? → is a permit free, or soon?

use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::Response;

use super::authenticate;
use crate::server::admission;
use crate::server::error::Dialect;
use crate::server::exchange;
use crate::server::held_body::HeldBody;
use crate::server::overload::Overload;
use crate::server::state::AppState;

/// The layer.
pub async fn admit(
    State((state, overload)): State<(AppState, Overload)>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = match authenticate::identify(&state, peer, &mut request) {
        Ok(caller) => caller,
        Err(refused) => return *refused,
    };
    let dialect = Dialect::of(request.uri().path());
    let lately = state.live().ok().and_then(|live| admission::refused_lately(&state, &live, &caller));
    if let Some((error, headers)) = lately {
        let mut response = error.into_response(dialect);
        response.headers_mut().extend(headers);
        return response;
    }
    let Some(permit) = overload.enter().await else { return exchange::busy().into_response(dialect) };
    next.run(request).await.map(|body| Body::new(HeldBody::new(body, permit)))
}
