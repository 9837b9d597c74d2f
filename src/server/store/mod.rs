//! What a server remembers: limits, cached answers, conversations. One trait, two stores.
//! In: small values from `limits`, `cache` and `conversations`. Out: what is stored, or [`StoreError`] in bounded time.
//!
//! Every method answers within its store's deadline and never retries: the caller decides what a failure means.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::config::RequestLimit;

mod breaker;
mod link;
pub mod memory;
pub mod redis;
mod redis_address;

/// Whose limit: unique within a ChatService, no longer than 200 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CallerKey(pub String);

/// A 256-bit keyed hash of everything that an answer depends on; `cache::key` makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey(pub [u8; 32]);

/// What a request asks of the store before it may go on; all of it in one trip.
#[derive(Clone, Debug)]
pub struct Admit {
    /// Charge one request of this caller to this limit.
    pub limit: Option<(CallerKey, RequestLimit)>,
    /// And look for an answer. A refused request is not given one.
    pub cache_key: Option<CacheKey>,
}

/// What the store says to [`Admit`].
#[derive(Clone, PartialEq, Eq)]
pub struct Admitted {
    /// State of the limit after this request; None when none was asked for.
    pub limit: Option<LimitState>,
    /// The stored answer.
    pub cached: Option<Bytes>,
}

/// State of a request limit, after the request was charged or refused. Refusing writes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitState {
    /// Whether the request may go on.
    pub allowed: bool,
    /// Requests that would be admitted now.
    pub remaining: u32,
    /// Until the bucket is full again.
    pub reset_after: Duration,
    /// Until the next request would be admitted; zero while one would be.
    pub retry_after: Duration,
}

/// Callers that have nothing left, and for how long.
pub type Exhausted = Vec<(CallerKey, LimitState)>;

/// One message of a conversation.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredMessage {
    /// `user` or `assistant`. The system prompt is not stored.
    pub role: Role,
    /// The text.
    pub content: String,
}

/// Who wrote a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The caller.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// As in a request to a model.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// A conversation's id: a UUID v4 that we gave out. Whoever holds it may go on with the conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConversationId(pub uuid::Uuid);

/// A whole turn, appended atomically: what was asked and what was answered.
#[derive(Clone)]
pub struct Turn {
    /// What the caller wrote.
    pub user: String,
    /// What the model answered, complete.
    pub assistant: String,
    /// The first turn creates the conversation; a later one does not bring back what expired or was deleted.
    pub first: bool,
}

// What people say is never printed, not even by a test that fails: only its length.
impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cached = self.cached.as_ref().map(Bytes::len);
        f.debug_struct("Admitted").field("limit", &self.limit).field("cached", &cached).finish()
    }
}

impl fmt::Debug for StoredMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} message of {} bytes", self.role, self.content.len())
    }
}

/// How much of a conversation is kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Messages; trimmed by whole turns.
    pub max_messages: u32,
    /// Life after the last turn.
    pub ttl: Duration,
}

/// Why the store did not answer. Never holds a key, a value or an address with a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Not within its deadline.
    #[error("the store did not answer within {0:?}")]
    Timeout(Duration),
    /// Not reachable, or its breaker is open.
    #[error("the store is not reachable: {0}")]
    Unreachable(String),
    /// It answered with an error or with something that is not ours.
    #[error("the store answered with an error: {0}")]
    Failed(String),
}

/// A store. `Redis` is shared by all pods, `Memory` is this process's own.
pub trait Store: Send + Sync {
    /// Charges the limit and looks for a cached answer, in one trip.
    fn admit(&self, admit: Admit) -> BoxFuture<'_, Result<Admitted, StoreError>>;

    /// Charges requests after the fact (memory cache hits), all in one trip. They may take a bucket below empty. Yields
    /// the callers whose next request would be refused now.
    fn charge(&self, charges: Vec<(CallerKey, RequestLimit)>)
    -> BoxFuture<'_, Result<Exhausted, StoreError>>;

    /// Keeps an answer for `ttl`.
    fn cache_put(&self, key: CacheKey, answer: Bytes, ttl: Duration)
    -> BoxFuture<'_, Result<(), StoreError>>;

    /// The last messages of a conversation, oldest first; None when there is no such conversation.
    fn conversation(
        &self,
        id: ConversationId,
    ) -> BoxFuture<'_, Result<Option<Vec<StoredMessage>>, StoreError>>;

    /// Appends a turn, trims and refreshes the life; false when the conversation is gone.
    fn append_turn(
        &self,
        id: ConversationId,
        turn: Turn,
        retention: Retention,
    ) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Whether other pods see the same: asking costs a trip, and what this process keeps to itself they do not know.
    fn shared(&self) -> bool;

    /// For `/status`: whether the last operation was answered. None for a store that cannot be away.
    fn connected(&self) -> Option<bool>;
}
