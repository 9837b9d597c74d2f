//! Who sends a request. In: a request on a path that is somebody's. Out: the same with its [`Caller`] in the extensions,
//! where [`From`](crate::server::routes::input::From) finds it; or a refusal, before anything of it is read or spent.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::Response;

use crate::server::caller::Caller;
use crate::server::error::{ApiError, Dialect};
use crate::server::state::AppState;

/// The layer.
pub async fn authenticate(
    State(state): State<AppState>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    match identify(&state, peer, &mut request) {
        Ok(_) => next.run(request).await,
        Err(refused) => *refused,
    }
}

/// Who sends a request, which then knows it; or its response.
pub(super) fn identify(
    state: &AppState,
    peer: SocketAddr,
    request: &mut Request,
) -> Result<Arc<Caller>, Box<Response>> {
    let identified = state.live().and_then(|live| {
        let identified = live.access.identify(peer.ip(), request.headers(), state.failures());
        identified.map_err(|refusal| {
            state.metrics().auth_failures.with_label_values(&[refusal.label()]).inc();
            ApiError::from(refusal)
        })
    });
    match identified {
        Ok(caller) => {
            request.extensions_mut().insert(caller.clone());
            Ok(caller)
        }
        Err(error) => Err(Box::new(error.into_response(Dialect::of(request.uri().path())))),
    }
}
