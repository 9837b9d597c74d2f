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
use crate::server::pricing::NanoUsd;
use crate::server::store::{
    Conversation, ConversationStore, OwnedId, Retention, StoreError, StoredTurn, Turn,
};

/// Memory of all conversations. Beyond it the one that was used longest ago is forgotten.
const CONVERSATION_BYTES: u64 = 64 << 20;
/// What a turn or a conversation takes beside its text.
const OVERHEAD: usize = 256;

/// The conversations.
pub(super) struct Conversations {
    stored: Cache<OwnedId, Kept>,
}

#[derive(Clone)]
struct Kept {
    conversation: Arc<Conversation>,
    life: Duration,
}

impl Lives for Kept {
    fn life(&self) -> Duration {
        self.life
    }
}

impl Default for Conversations {
    fn default() -> Self {
        let turn = |turn: &Arc<StoredTurn>| turn.said.user.len() + turn.said.assistant.len() + OVERHEAD;
        let weight = move |_: &OwnedId, kept: &Kept| {
            let turns: usize = kept.conversation.turns.iter().map(turn).sum();
            u32::try_from(turns + OVERHEAD).unwrap_or(u32::MAX)
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
    fn append(&self, id: OwnedId, turn: Turn, retention: Retention) -> bool {
        let mut appended = false;
        self.stored.entry(id).and_compute_with(|stored| {
            let stored = stored.map(|entry| entry.into_value().conversation);
            if stored.is_none() && !turn.first {
                return Op::Nop;
            }
            appended = true;
            let mut conversation = stored.map(Arc::unwrap_or_clone).unwrap_or_default();
            conversation.turns.push(Arc::new(StoredTurn { said: turn.said, tokens: turn.tokens }));
            let fitting = conversations::fitting(&conversation.turns, retention).len();
            conversation.turns.drain(..conversation.turns.len() - fitting);
            conversation.total_tokens = conversation.total_tokens.saturating_add(u64::from(turn.used));
            if let Some(NanoUsd(cost)) = turn.cost {
                let before = conversation.total_cost.map_or(0, |total| total.0);
                conversation.total_cost = Some(NanoUsd(before.saturating_add(cost)));
            }
            conversation.updated_at = jiff::Timestamp::now().as_second();
            Op::Put(Kept { conversation: Arc::new(conversation), life: retention.ttl })
        });
        appended
    }

    fn read(&self, id: OwnedId, renew: Option<Duration>) -> Option<Conversation> {
        let Some(life) = renew else {
            return self.stored.get(&id).map(|kept| Arc::unwrap_or_clone(kept.conversation));
        };
        let renewed = self.stored.entry(id).and_compute_with(|stored| match stored {
            Some(entry) => Op::Put(Kept { life, ..entry.into_value() }),
            None => Op::Nop,
        });
        renewed.into_entry().map(|entry| Arc::unwrap_or_clone(entry.into_value().conversation))
    }
}

impl ConversationStore for MemoryStore {
    fn conversation(
        &self,
        id: OwnedId,
        renew: Option<Duration>,
    ) -> BoxFuture<'_, Result<Option<Conversation>, StoreError>> {
        ready(Ok(self.conversations.read(id, renew))).boxed()
    }

    fn append_turn(
        &self,
        id: OwnedId,
        turn: Turn,
        retention: Retention,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        ready(Ok(self.conversations.append(id, turn, retention))).boxed()
    }

    fn delete_conversation(&self, id: OwnedId) -> BoxFuture<'_, Result<bool, StoreError>> {
        ready(Ok(self.conversations.stored.remove(&id).is_some())).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::caller::Caller;
    use crate::server::store::Said;

    #[test]
    fn conversations_are_bounded_in_bytes_and_the_latest_stay() {
        let store = Conversations::default();
        let retention = Retention { max_messages: 20, max_tokens: None, ttl: Duration::from_hours(1) };
        let text = "x".repeat(1 << 20);
        let caller = Caller::at([127, 0, 0, 1].into());
        let ids: Vec<_> = (0..100).map(|_| caller.owned(conversations::new_id().0)).collect();
        for id in &ids {
            let said = Said { user: text.clone(), assistant: String::new() };
            let turn = Turn { said, first: true, tokens: 1, used: 1, cost: None };
            assert!(store.append(*id, turn, retention));
        }
        store.stored.run_pending_tasks();
        assert!(store.stored.weighted_size() <= CONVERSATION_BYTES);
        assert!(store.stored.get(&ids[99]).is_some());
        assert!(store.stored.get(&ids[0]).is_none());
    }
}
