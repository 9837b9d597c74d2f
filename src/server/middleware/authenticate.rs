//! Who sends a request. In: a request on a path that is somebody's. Out: the same with its [`Caller`] in the extensions,
//! where [`From`](crate::server::routes::input::From) finds it.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request};
use axum::middleware::Next;
use axum::response::Response;

use crate::server::caller::Caller;

/// The layer.
pub async fn authenticate(
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    request.extensions_mut().insert(Arc::new(Caller::at(peer.ip())));
    next.run(request).await
}
