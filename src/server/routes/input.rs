//! The body of a request, before any dialect looks at it. In: an HTTP request. Out: the bytes of a JSON document that
//! is sent as such and within its limits of size and time.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use http::request::Parts;
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::server::cache::CacheControl;
use crate::server::caller::Caller;
use crate::server::error::{ApiError, Dialect};
use crate::server::exchange::busy;
use crate::server::json::Object;
use crate::server::middleware::observe::RequestId;
use crate::server::state::AppState;
use crate::server::trace::RequestTrace;

/// Largest request body: images travel inside it.
pub const MAX_BODY: usize = 16 << 20;
/// Time for a whole body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_mins(1);
/// Bodies up to this size need no room of their own: the connection cap bounds them.
const SMALL: usize = 64 << 10;
/// Largest body that is copied: a copy of more costs more than another buffer.
const COPIED: usize = 4 << 10;

/// Where a request comes from.
pub struct From {
    /// Who sent it.
    pub caller: Arc<Caller>,
    /// The request's id.
    pub id: Arc<str>,
    /// Its span.
    pub trace: RequestTrace,
}

impl<S: Sync> FromRequestParts<S> for From {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let caller = parts.extensions.get::<Arc<Caller>>();
        let id = parts.extensions.get::<RequestId>();
        // Both are put there before any route: without them the assembly is at fault.
        let (Some(caller), Some(RequestId(id))) = (caller, id) else {
            return Err(ApiError::Internal.into_response(Dialect::of(parts.uri.path())));
        };
        let trace = parts.extensions.get::<RequestTrace>().cloned().unwrap_or_default();
        Ok(Self { caller: caller.clone(), id: id.clone(), trace })
    }
}

/// Reads the body of a request that must be JSON.
///
/// All bodies together have a bound, so that many large ones cannot take the pod's memory; the room of this one is given
/// back when the permit is dropped.
pub(super) async fn read_json(
    state: &AppState,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), ApiError> {
    check_headers(headers)?;
    read_in_time(body, state.body_room()).await
}

async fn read_in_time(
    body: Body,
    room: &Arc<Semaphore>,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), ApiError> {
    let mut reading = pin!(read(body, room));
    // Most bodies come with their head, and need no timer.
    if let Some(read) = reading.as_mut().now_or_never() {
        return read;
    }
    tokio::time::timeout(BODY_TIMEOUT, reading).await.map_err(|_| ApiError::RequestTimeout)?
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

async fn read(
    mut body: Body,
    room: &Arc<Semaphore>,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), ApiError> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    let mut taken: Option<OwnedSemaphorePermit> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::BadJson("the body ended early".to_owned()))?;
        let Ok(data) = frame.into_data() else { continue };
        let length = first.len() + all.len() + data.len();
        if length > MAX_BODY {
            return Err(ApiError::PayloadTooLarge { limit: MAX_BODY });
        }
        if length > SMALL {
            let more = u32::try_from(data.len()).unwrap_or(u32::MAX);
            let permit = room.clone().try_acquire_many_owned(more).map_err(|_| busy())?;
            match &mut taken {
                Some(taken) => taken.merge(permit),
                None => taken = Some(permit),
            }
        }
        if first.is_empty() && all.is_empty() {
            // Most bodies come in one piece, which is then used as it is.
            first = data;
        } else {
            all.extend_from_slice(&std::mem::take(&mut first));
            all.extend_from_slice(&data);
        }
    }
    // What is small leaves the buffer that it was read into, which the connection can then use for what comes next.
    let body = match all.is_empty() {
        true if first.len() <= COPIED => Bytes::copy_from_slice(&first),
        true => first,
        false => all.freeze(),
    };
    Ok((body, taken))
}

/// What the request says of the cache.
pub(super) fn cache_control(headers: &HeaderMap) -> CacheControl {
    CacheControl::parse(headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok()))
}

/// A top-level member as `T`; absent and `null` are None. `allowed` ends the sentence "`name` must be …".
pub(in crate::server) fn field<T: DeserializeOwned>(
    object: &Object<'_>,
    name: &str,
    allowed: &str,
) -> Result<Option<T>, ApiError> {
    let Some(raw) = object.non_null(name) else { return Ok(None) };
    serde_json::from_slice(raw).map(Some).map_err(|_| invalid(name, allowed))
}

/// A JSON type, or a choice of them, that a member must have. `null` is always allowed: SDKs send it for what is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Kind {
    /// A string.
    Text,
    /// `true` or `false`.
    Bool,
    /// A number.
    Number,
    /// A number without a fraction.
    Whole,
    /// An array.
    Array,
    /// An object.
    Object,
    /// A string or an object.
    TextOrObject,
    /// A string or an array of strings.
    TextOrTexts,
}

impl Kind {
    /// Ends the sentence "`name` must be …".
    pub(in crate::server) fn allowed(self) -> &'static str {
        match self {
            Self::Text => "a string",
            Self::Bool => "true or false",
            Self::Number => "a number",
            Self::Whole => "a whole number",
            Self::Array => "an array",
            Self::Object => "an object",
            Self::TextOrObject => "a string or an object",
            Self::TextOrTexts => "a string or an array of strings",
        }
    }

    /// Whether a valid JSON value has it.
    pub(in crate::server) fn fits(self, value: &[u8]) -> bool {
        let begin = value.first().copied().unwrap_or_default();
        let number = matches!(begin, b'-' | b'0'..=b'9');
        match self {
            Self::Text => begin == b'"',
            Self::Bool => matches!(begin, b't' | b'f'),
            Self::Number => number,
            Self::Whole => number && !value.iter().any(|byte| matches!(byte, b'.' | b'e' | b'E')),
            Self::Array => begin == b'[',
            Self::Object => begin == b'{',
            Self::TextOrObject => matches!(begin, b'"' | b'{'),
            Self::TextOrTexts => {
                begin == b'"' || (begin == b'[' && serde_json::from_slice::<Vec<String>>(value).is_ok())
            }
        }
    }
}

/// Checks the types of members, where they are there. What their values may be is the backend's to say.
pub(in crate::server) fn check_kinds(object: &Object<'_>, kinds: &[(&str, Kind)]) -> Result<(), ApiError> {
    for (name, kind) in kinds {
        if object.non_null(name).is_some_and(|value| !kind.fits(value)) {
            return Err(invalid(name, kind.allowed()));
        }
    }
    Ok(())
}

/// The error of a field that an API has and this service has not; `instead` says what to do.
pub(in crate::server) fn unsupported(name: &str, instead: &str) -> ApiError {
    let message = format!("`{name}` is not supported: {instead}");
    ApiError::UnsupportedParameter { field: name.to_owned(), message }
}

/// The error of a field that is not as it must be.
pub(in crate::server) fn invalid(name: &str, allowed: &str) -> ApiError {
    ApiError::InvalidField { field: name.to_owned(), message: format!("`{name}` must be {allowed}") }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::StreamExt;
    use futures::stream::{pending, repeat};

    use super::*;

    fn body(pieces: impl futures::Stream<Item = Bytes> + Send + 'static) -> Body {
        Body::from_stream(pieces.map(Ok::<_, Infallible>))
    }

    #[tokio::test(start_paused = true)]
    async fn x5_a_body_that_drips_is_given_up_as_one_that_never_comes() {
        let room = Arc::new(Semaphore::new(MAX_BODY));
        let drips = repeat(()).then(async |()| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Bytes::from_static(b" ")
        });
        for slow in [body(pending()), body(drips)] {
            let began = tokio::time::Instant::now();
            let read = read_in_time(slow, &room).await;
            assert_eq!(read.err(), Some(ApiError::RequestTimeout));
            assert_eq!(began.elapsed(), BODY_TIMEOUT);
        }
    }

    #[tokio::test]
    async fn x6_large_bodies_share_a_room_and_give_it_back() {
        let room = Arc::new(Semaphore::new(2 * SMALL));
        let large =
            || body(futures::stream::iter([Bytes::from(vec![b' '; SMALL]), Bytes::from(vec![b' '; SMALL])]));
        let (first, taken) = read_in_time(large(), &room).await.unwrap();
        assert_eq!((first.len(), room.available_permits()), (2 * SMALL, SMALL));
        let (_, also) = read_in_time(large(), &room).await.unwrap();
        let full = read_in_time(large(), &room).await.err();
        assert!(matches!(full, Some(ApiError::Overloaded { .. })), "{full:?}");
        let (small, none) =
            read_in_time(body(futures::stream::iter([Bytes::from_static(b"{}")])), &room).await.unwrap();
        assert!(small == "{}" && none.is_none(), "a small one needs no room");
        drop((taken, also));
        assert_eq!(room.available_permits(), 2 * SMALL);
    }
}
