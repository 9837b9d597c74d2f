//! Requests of pages that come from elsewhere. In: any request. Out: its response, with what lets a browser give it to a page
//! of an origin that the configuration names; or the answer to a browser that asks beforehand. Without such an origin nothing
//! is added: a page from elsewhere cannot read what it gets.

use std::convert::Infallible;

use axum::extract::Request;
use axum::response::Response;
use futures::FutureExt;
use http::{HeaderName, HeaderValue, Method, header};
use tower::{Layer, Service, ServiceExt};
use tower_http::cors::{AllowHeaders, AllowOrigin, Any, CorsLayer, ExposeHeaders};

use crate::constants::header as names;
use crate::server::state::AppState;

/// How long a browser need not ask again.
const MAX_AGE: std::time::Duration = std::time::Duration::from_mins(10);
/// Any origin.
const ANY: &str = "*";
/// What a page may read beside the body.
const EXPOSED: [HeaderName; 17] = [
    header::RETRY_AFTER,
    names::RETRY_AFTER_MS,
    names::SHOULD_RETRY,
    names::REQUEST_ID,
    names::UPSTREAM_REQUEST_ID,
    names::CONVERSATION_ID,
    names::CACHE,
    names::COST,
    names::PROCESS_TIME,
    names::OPENAI_PROCESSING_MS,
    names::LIMIT_REQUESTS,
    names::REMAINING_REQUESTS,
    names::RESET_REQUESTS,
    names::LIMIT_TOKENS,
    names::REMAINING_TOKENS,
    names::RESET_TOKENS,
    header::ALLOW,
];

/// For pages of these origins; None where there is none. Keys travel in a header that the page sets itself, so browsers are
/// not asked to send credentials of their own.
#[must_use]
pub fn layer(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let allowed = if origins.iter().any(|origin| origin == ANY) {
        AllowOrigin::from(Any)
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    let layer = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(ExposeHeaders::list(EXPOSED))
        .max_age(MAX_AGE);
    Some(layer)
}

/// The layer that this request has to pass; None where its answer needs nothing for a browser.
pub(super) fn layer_of(state: &AppState, request: &Request) -> Option<CorsLayer> {
    let live = state.live().ok()?;
    let layer = live.cors.as_ref()?;
    (request.method() != Method::OPTIONS || is_preflight(request)).then(|| layer.clone())
}

/// Passes a request on through it.
pub(super) fn through<S>(
    layer: &CorsLayer,
    inner: S,
    request: Request,
) -> impl Future<Output = Response> + use<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    layer.layer(inner).oneshot(request).map(|answered| answered.unwrap_or_else(|never| match never {}))
}

/// Any other OPTIONS is a method that no path has.
fn is_preflight(request: &Request) -> bool {
    let headers = request.headers();
    headers.contains_key(header::ORIGIN) && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}
