//! What requests pass on their way to a route. In: any request. Out: its response. One concern a file, and one layer around
//! every path: for each request axum clones, at each layer, everything below it.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use super::state::AppState;

pub mod authenticate;
pub mod cors;
pub mod load;
pub mod observe;
pub mod panic;

/// The layer around every path: log and metrics, pages from elsewhere, panics.
pub async fn every(State(state): State<AppState>, request: Request, next: Next) -> Response {
    observe::observe(&state, request, |request| cors::cors(&state, request, next)).await
}
