//! What came of a request, before it has a dialect. In: from `exchange`. Out: an answer or an error, and the headers about
//! it, the same in both dialects.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::completion;
use super::config::RequestLimit;
use super::error::{ApiError, StreamFault};
use super::pricing::NanoUsd;
use super::store::{ConversationId, LimitState, Reserve, Standing, TokenState};
use crate::constants::header as names;

/// What came of a turn.
#[derive(Clone, Copy, Debug)]
pub struct TurnState {
    /// Its conversation.
    pub id: ConversationId,
    /// Whether it is stored.
    pub persisted: bool,
}

/// A whole answer.
pub struct Plain {
    /// The backend's `chat.completion` object, byte for byte.
    pub completion: Bytes,
    /// Whether it came from the cache.
    pub cached: bool,
    /// The configured model that it is of.
    pub model: Arc<str>,
    /// What was read of it.
    pub read: completion::Answer,
    /// What this answer cost; nothing when cached.
    pub cost: Option<NanoUsd>,
    /// The turn.
    pub conversation: Option<TurnState>,
}

/// An answer.
pub enum Answer {
    /// Whole.
    Plain(Plain),
    /// As it comes.
    Stream {
        /// The events.
        body: Body,
        /// The conversation.
        conversation: Option<ConversationId>,
        /// For the access log.
        fault: StreamFault,
    },
}

/// What the cache did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheResult {
    /// The answer was there.
    Hit,
    /// It was not.
    Miss,
    /// An equal request was in flight, and its answer served this one too.
    Coalesced,
    /// It was not looked for.
    Bypass,
}

impl CacheResult {
    /// Whether the answer took no call of this request's own, and so costs it nothing.
    #[must_use]
    pub fn is_free(self) -> bool {
        matches!(self, Self::Hit | Self::Coalesced)
    }

    /// As header and metric have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Coalesced => "coalesced",
            Self::Bypass => "bypass",
        }
    }
}

/// How the limits that have headers stand.
#[derive(Clone, Copy, Debug, Default)]
pub struct LimitsNow {
    /// The request limit, where there is one.
    pub requests: Option<(RequestLimit, LimitState)>,
    /// Tokens a minute, and the bucket.
    pub tokens: Option<(u32, TokenState)>,
}

impl LimitsNow {
    /// How those stand that something was reserved of.
    pub fn take(&mut self, reserve: &Reserve, standing: &Standing) {
        self.requests = reserve.requests.zip(standing.requests).or(self.requests);
        self.tokens = reserve.tokens.map(|demand| demand.per_minute).zip(standing.tokens).or(self.tokens);
    }
}

/// Headers of most answers.
const HEADERS: usize = 16;

/// What came of a request, whatever it was.
pub struct Outcome {
    /// The answer.
    pub result: Result<Answer, ApiError>,
    /// How the limits stand.
    pub limits: LimitsNow,
    /// What the cache did; None when it was not come to.
    pub cache: Option<CacheResult>,
    /// What the answer cost, when known before its headers leave.
    pub cost: Option<NanoUsd>,
    /// The backend's own id of the call.
    pub upstream_id: Option<String>,
}

impl From<ApiError> for Outcome {
    fn from(error: ApiError) -> Self {
        Self { result: Err(error), limits: LimitsNow::default(), cache: None, cost: None, upstream_id: None }
    }
}

impl Outcome {
    /// The headers about this answer, the same in both dialects.
    #[must_use]
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(HEADERS);
        if let Some(result) = self.cache {
            headers.insert(names::CACHE, HeaderValue::from_static(result.as_str()));
        }
        if let Some((limit, now)) = &self.limits.requests {
            headers.insert(names::LIMIT_REQUESTS, HeaderValue::from(limit.requests));
            headers.insert(names::REMAINING_REQUESTS, HeaderValue::from(now.remaining));
            insert(&mut headers, names::RESET_REQUESTS, &openai_duration(now.reset_after));
        }
        if let Some((per_minute, now)) = &self.limits.tokens {
            headers.insert(names::LIMIT_TOKENS, HeaderValue::from(*per_minute));
            headers.insert(names::REMAINING_TOKENS, HeaderValue::from(now.remaining));
            insert(&mut headers, names::RESET_TOKENS, &openai_duration(now.reset_after));
        }
        if let Some(cost) = self.cost {
            insert(&mut headers, names::COST, &format!("{:.9}", cost.usd()));
        }
        if let Some(id) = &self.upstream_id {
            insert(&mut headers, names::UPSTREAM_REQUEST_ID, id);
        }
        headers
    }
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// As OpenAI writes the time until a limit resets: `6m0s`, `1.5s`, `20ms`.
fn openai_duration(duration: Duration) -> String {
    let (minutes, rest) = (duration.as_secs() / 60, duration.as_secs() % 60);
    let millis = duration.subsec_millis();
    match (minutes, rest, millis) {
        (0, 0, _) => format!("{millis}ms"),
        (0, _, 0) => format!("{rest}s"),
        (0, _, _) => format!("{rest}.{millis:03}s"),
        _ => format!("{minutes}m{rest}s"),
    }
}

/// A response that is a stream of server-sent events, and that no proxy stores or holds back.
#[must_use]
pub fn event_stream(body: Body, fault: StreamFault) -> Response {
    let mut response = Response::new(body);
    response.extensions_mut().insert(fault);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_written_as_openai_writes_them() {
        for (millis, text) in
            [(0, "0ms"), (20, "20ms"), (1500, "1.500s"), (9000, "9s"), (360_000, "6m0s"), (61_500, "1m1s")]
        {
            assert_eq!(openai_duration(Duration::from_millis(millis)), text);
        }
    }
}
