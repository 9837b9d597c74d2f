//! Conversations, as a store keeps them. In: whole turns. Out: the turns so far with their totals.
//! [`super::super::conversations`] says what is made of them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::server::pricing::NanoUsd;

/// A conversation's id, as a caller knows it: a UUID v4 that we gave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConversationId(pub uuid::Uuid);

/// Where a store keeps what a caller owns. Only [`Caller::owned`](crate::server::caller::Caller::owned) makes one, so that
/// nothing is looked up without its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnedId(uuid::Uuid);

impl OwnedId {
    pub(in crate::server) fn new(place: uuid::Uuid) -> Self {
        Self(place)
    }
}

impl fmt::Display for OwnedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What was said in a turn. The system prompt is not stored.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// What the caller wrote.
    pub user: String,
    /// What the model answered, complete.
    pub assistant: String,
}

/// A stored turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTurn {
    /// What was said.
    pub said: Said,
    /// Tokens of both messages, as [`Turn::tokens`] had them.
    pub tokens: u32,
}

/// A conversation as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// Its latest turns, oldest first. May be empty: a turn that is larger than [`Retention::max_tokens`] is not kept.
    pub turns: Vec<Arc<StoredTurn>>,
    /// Tokens used by all of its turns, also those that are no longer kept.
    pub total_tokens: u64,
    /// What they cost; None where no price is known.
    pub total_cost: Option<NanoUsd>,
    /// Seconds since 1970 of the last turn.
    pub updated_at: i64,
}

/// A whole turn, appended atomically.
#[derive(Clone, Debug)]
pub struct Turn {
    /// What was said.
    pub said: Said,
    /// The first turn creates the conversation; a later one does not bring back what expired or was deleted.
    pub first: bool,
    /// Tokens of both messages, for [`Retention::max_tokens`].
    pub tokens: u32,
    /// Tokens that the turn used, with everything that was sent along; for the total.
    pub used: u32,
    /// What it cost, where the price is known; for the total.
    pub cost: Option<NanoUsd>,
}

// What people say is never printed, not even by a test that fails: only its length.
impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and {} bytes", self.user.len(), self.assistant.len())
    }
}

/// How much of a conversation is kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Messages; trimmed by whole turns.
    pub max_messages: u32,
    /// Tokens of the kept turns together; trimmed by whole turns. None: not bounded.
    pub max_tokens: Option<u32>,
    /// Life after the last use.
    pub ttl: Duration,
}

impl Retention {
    /// Turns that [`Self::max_messages`] allows.
    #[must_use]
    pub fn max_turns(self) -> u32 {
        self.max_messages / 2
    }
}

/// The conversations of a store.
pub trait ConversationStore: Send + Sync {
    /// A conversation; None when there is no such one. With a life, that is what it lives from now on.
    fn conversation(
        &self,
        id: OwnedId,
        renew: Option<Duration>,
    ) -> BoxFuture<'_, Result<Option<Conversation>, StoreError>>;

    /// Appends a turn, adds up the totals, drops the oldest turns until the rest fits, and renews the life; false when
    /// the conversation is gone.
    fn append_turn(
        &self,
        id: OwnedId,
        turn: Turn,
        retention: Retention,
    ) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Erases a conversation at once; false when there was none.
    fn delete_conversation(&self, id: OwnedId) -> BoxFuture<'_, Result<bool, StoreError>>;
}
