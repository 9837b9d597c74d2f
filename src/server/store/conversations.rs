//! Conversations, as a store keeps them. In: whole turns. Out: the messages so far. [`super::super::conversations`] says
//! what is made of them.

use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::StoreError;

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

/// The conversations of a store.
pub trait ConversationStore: Send + Sync {
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
}
