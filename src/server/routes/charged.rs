//! What is answered without a model. In: a caller, and what is to be done for it. Out: the answer, or the error in the
//! dialect of the path; both with the headers about the caller's limits.

use axum::response::Response;
use http::HeaderMap;

use crate::server::caller::Caller;
use crate::server::error::{ApiError, Dialect};
use crate::server::exchange;
use crate::server::state::{AppState, Live};

/// Charges one request, then does it.
pub(super) async fn charged(
    state: &AppState,
    caller: &Caller,
    dialect: Dialect,
    act: impl AsyncFnOnce(&Live) -> Result<Response, ApiError>,
) -> Response {
    let mut limits = HeaderMap::new();
    let done = async {
        let live = state.live()?;
        let (admitted, headers) = exchange::admit_request(state, &live, caller).await;
        limits = headers;
        admitted?;
        act(&live).await
    };
    let mut response = done.await.unwrap_or_else(|error| error.into_response(dialect));
    response.headers_mut().extend(limits);
    response
}
