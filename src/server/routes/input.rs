//! The body of a request, before any dialect looks at it. In: an HTTP request. Out: the bytes of a JSON document that
//! is sent as such and within its limits of size and time.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use crate::server::cache::CacheControl;
use crate::server::error::ApiError;
use crate::server::json::Object;

/// Largest request body: images travel inside it.
pub const MAX_BODY: usize = 16 << 20;
/// Time for a whole body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_mins(1);
/// Reserved at once for a body that announces its length; a lying length costs no more than this.
const FIRST_ALLOCATION: usize = 64 << 10;

/// Reads the body of a request that must be JSON.
pub(super) async fn read_json(headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    check_headers(headers)?;
    tokio::time::timeout(BODY_TIMEOUT, read(body)).await.map_err(|_| ApiError::RequestTimeout)?
}

fn check_headers(headers: &HeaderMap) -> Result<(), ApiError> {
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let encoded = headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    if encoded || !essence.eq_ignore_ascii_case("application/json") {
        return Err(ApiError::UnsupportedMediaType);
    }
    let announced =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > MAX_BODY as u64) {
        return Err(ApiError::PayloadTooLarge { limit: MAX_BODY });
    }
    Ok(())
}

async fn read(mut body: Body) -> Result<Bytes, ApiError> {
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| ApiError::BadJson("the body ended early".to_owned()))?.into_data()
        else {
            continue;
        };
        length += data.len();
        if length > MAX_BODY {
            return Err(ApiError::PayloadTooLarge { limit: MAX_BODY });
        }
        match first.take() {
            // Most bodies come in one piece, which is then used as it is.
            None if rest.is_empty() => first = Some(data),
            None => rest.extend_from_slice(&data),
            Some(begin) => {
                rest.reserve(FIRST_ALLOCATION.max(begin.len() + data.len()));
                rest.extend_from_slice(&begin);
                rest.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| rest.freeze()))
}

/// What the request says of the cache.
pub(super) fn cache_control(headers: &HeaderMap) -> CacheControl {
    CacheControl::parse(headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok()))
}

/// A top-level member as `T`; absent and `null` are None. `allowed` ends the sentence "`name` must be …".
pub(super) fn field<T: DeserializeOwned>(
    object: &Object<'_>,
    name: &str,
    allowed: &str,
) -> Result<Option<T>, ApiError> {
    let Some(raw) = object.non_null(name) else { return Ok(None) };
    serde_json::from_slice(raw).map(Some).map_err(|_| invalid(name, allowed))
}

/// The error of a field that is not as it must be.
pub(super) fn invalid(name: &str, allowed: &str) -> ApiError {
    ApiError::InvalidField { field: name.to_owned(), message: format!("`{name}` must be {allowed}") }
}
