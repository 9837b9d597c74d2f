//! What a server remembers: limits, cached answers, conversations. One trait for each, two stores.
//! In: small values from `limits`, `cache` and `conversations`. Out: what is stored, or [`StoreError`] in bounded time.
//!
//! Every method answers within its store's deadline and never retries: the caller decides what a failure means.

use std::time::Duration;

mod answers;
mod breaker;
mod cluster;
mod conversations;
mod limits;
mod link;
pub mod memory;
mod node;
pub mod redis;
mod redis_address;
mod redis_tls;
mod redis_url;
mod responses;
mod sentinel;
mod slots;
mod verdict;

pub use answers::{AnswerStore, CacheKey, Kept, LEASE, Released, Share, SharerId};
pub use conversations::{
    Conversation, ConversationId, ConversationStore, OwnedId, Retention, Said, StoredTurn, Turn,
};
pub use limits::{
    Admit, Admitted, BudgetDemand, BudgetState, CallerKey, Exhausted, LimitState, LimitStore, PodId, Refused,
    ReservationId, Reserve, SETTLED_TOGETHER, Settle, Standing, TokenDemand, TokenState,
};
pub use responses::ResponseStore;

/// Why the store did not answer. Never holds a key, a value or an address with a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Not within its deadline.
    #[error("the store did not answer within {0:?}")]
    Timeout(Duration),
    /// Its connection ended before the answer came.
    #[error("the connection to the store ended before it answered")]
    Cut,
    /// Not reachable, or its breaker is open.
    #[error("the store is not reachable: {0}")]
    Unreachable(String),
    /// It is there and has no room for what is to be written: that may be told again.
    #[error("the store is full")]
    Full,
    /// It answered with an error or with something that is not ours.
    #[error("the store answered with an error: {0}")]
    Failed(String),
}

impl StoreError {
    /// Whether what was asked may have been done, or be done yet by a store that thaws, although nobody heard so.
    #[must_use]
    pub fn may_be_done(&self) -> bool {
        matches!(self, Self::Timeout(_) | Self::Cut)
    }
}

/// A store. `Redis` is shared by all pods, `Memory` is this process's own.
pub trait Store: LimitStore + AnswerStore + ConversationStore + ResponseStore {
    /// Whether other pods see the same: asking costs a trip, and what this process keeps to itself they do not know.
    fn shared(&self) -> bool;

    /// For `/status`: whether the last operation was answered. None for a store that cannot be away, and before one was
    /// asked.
    fn connected(&self) -> Option<bool>;

    /// Finds out whether it is there, in tasks beside that end with the store; [`Self::connected`] tells. One that is away
    /// is left alone for the pauses of its breaker, however often this is called. Needs a runtime.
    fn look(&self);
}
