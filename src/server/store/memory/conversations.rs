//! Conversations in this process's memory. In and out: as [`ConversationStore`] says.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::{Lives, MemoryStore, OwnLife};
use crate::server::conversations;
use crate::server::store::{
    ConversationId, ConversationStore, Retention, Role, StoreError, StoredMessage, Turn,
};

/// Memory of all conversations. Beyond it the one that was used longest ago is forgotten.
const CONVERSATION_BYTES: u64 = 64 << 20;
/// What a message or a conversation takes beside its text.
const OVERHEAD: usize = 128;

/// The conversations.
pub(super) struct Conversations {
    stored: Cache<ConversationId, Conversation>,
}

#[derive(Clone)]
struct Conversation {
    messages: Arc<[StoredMessage]>,
    life: Duration,
}

impl Lives for Conversation {
    fn life(&self) -> Duration {
        self.life
    }
}

impl Default for Conversations {
    fn default() -> Self {
        let weight = |_: &ConversationId, conversation: &Conversation| {
            let text: usize =
                conversation.messages.iter().map(|message| message.content.len() + OVERHEAD).sum();
            u32::try_from(text + OVERHEAD).unwrap_or(u32::MAX)
        };
        // Least recently used, as for limits: what is new always has a place.
        let stored = Cache::builder()
            .max_capacity(CONVERSATION_BYTES)
            .weigher(weight)
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(OwnLife)
            .build();
        Self { stored }
    }
}

impl Conversations {
    fn append(&self, id: ConversationId, turn: Turn, retention: Retention) -> bool {
        let mut appended = false;
        self.stored.entry(id).and_compute_with(|stored| {
            let stored = stored.map(|entry| entry.into_value().messages);
            if stored.is_none() && !turn.first {
                return Op::Nop;
            }
            appended = true;
            let mut messages = stored.map(|messages| messages.to_vec()).unwrap_or_default();
            messages.push(StoredMessage { role: Role::User, content: turn.user });
            messages.push(StoredMessage { role: Role::Assistant, content: turn.assistant });
            let messages = conversations::trim(&messages, retention.max_messages).into();
            Op::Put(Conversation { messages, life: retention.ttl })
        });
        appended
    }
}

impl ConversationStore for MemoryStore {
    fn conversation(
        &self,
        id: ConversationId,
    ) -> BoxFuture<'_, Result<Option<Vec<StoredMessage>>, StoreError>> {
        let messages = self.conversations.stored.get(&id).map(|conversation| conversation.messages.to_vec());
        ready(Ok(messages)).boxed()
    }

    fn append_turn(
        &self,
        id: ConversationId,
        turn: Turn,
        retention: Retention,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        ready(Ok(self.conversations.append(id, turn, retention))).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_are_bounded_in_bytes_and_the_latest_stay() {
        let store = Conversations::default();
        let retention = Retention { max_messages: 20, ttl: Duration::from_hours(1) };
        let text = "x".repeat(1 << 20);
        let ids: Vec<_> = (0..100).map(|_| conversations::new_id()).collect();
        for id in &ids {
            let turn = Turn { user: text.clone(), assistant: String::new(), first: true };
            assert!(store.append(*id, turn, retention));
        }
        store.stored.run_pending_tasks();
        assert!(store.stored.weighted_size() <= CONVERSATION_BYTES);
        assert!(store.stored.get(&ids[99]).is_some());
        assert!(store.stored.get(&ids[0]).is_none());
    }
}
