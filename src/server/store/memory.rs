//! This process's own store: limits and conversations hold within one pod and end with it. In and out: as
//! [`super::Store`] says; it never fails.
//!
//! Answers are not in here: the first level of the cache (`server::cache`) is memory already, so a second copy would only
//! halve it. [`Store::admit`] finds none and [`Store::cache_put`] keeps none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use moka::Expiry;
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::{
    Admit, Admitted, CacheKey, CallerKey, ConversationId, Exhausted, LimitState, Retention, Role, Store,
    StoreError, StoredMessage, Turn,
};
use crate::server::config::RequestLimit;
use crate::server::{conversations, limits};

/// Callers whose bucket is remembered. Beyond it the one that was seen longest ago is forgotten, and so is full again.
const CALLERS: u64 = 100_000;
/// Memory of all conversations. Beyond it the one that was used longest ago is forgotten.
const CONVERSATION_BYTES: u64 = 64 << 20;
/// What a message or a conversation takes beside its text.
const OVERHEAD: usize = 128;

/// The in-memory store.
pub struct MemoryStore {
    started: Instant,
    limits: Cache<CallerKey, Bucket>,
    conversations: Cache<ConversationId, Conversation>,
}

/// A caller's bucket: forgotten once it is full, since a new one would be the same.
#[derive(Clone, Copy)]
struct Bucket {
    full_at: u64,
    life: Duration,
}

#[derive(Clone)]
struct Conversation {
    messages: Arc<[StoredMessage]>,
    life: Duration,
}

/// What says itself how long it lives, from each write on.
trait Lives {
    fn life(&self) -> Duration;
}

impl Lives for Bucket {
    fn life(&self) -> Duration {
        self.life
    }
}

impl Lives for Conversation {
    fn life(&self) -> Duration {
        self.life
    }
}

struct OwnLife;

impl<K, V: Lives> Expiry<K, V> for OwnLife {
    fn expire_after_create(&self, _: &K, value: &V, _: Instant) -> Option<Duration> {
        Some(value.life())
    }

    fn expire_after_update(&self, _: &K, value: &V, _: Instant, _: Option<Duration>) -> Option<Duration> {
        Some(value.life())
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        let weight = |_: &ConversationId, conversation: &Conversation| {
            let text: usize =
                conversation.messages.iter().map(|message| message.content.len() + OVERHEAD).sum();
            u32::try_from(text + OVERHEAD).unwrap_or(u32::MAX)
        };
        // Least recently used in both: what is new always has a place, unlike in moka's default policy, which may
        // refuse a newcomer.
        Self {
            started: Instant::now(),
            limits: Cache::builder()
                .max_capacity(CALLERS)
                .eviction_policy(EvictionPolicy::lru())
                .expire_after(OwnLife)
                .build(),
            conversations: Cache::builder()
                .max_capacity(CONVERSATION_BYTES)
                .weigher(weight)
                .eviction_policy(EvictionPolicy::lru())
                .expire_after(OwnLife)
                .build(),
        }
    }

    /// µs on this store's clock, which never steps back.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Charges one request; requests of one caller are decided one after the other.
    fn decide(&self, caller: CallerKey, limit: RequestLimit) -> Option<LimitState> {
        let mut decided = None;
        self.limits.entry(caller).and_compute_with(|bucket| {
            let now = self.now();
            let (full_at, state) = limits::decide(bucket.map(|entry| entry.value().full_at), now, limit);
            decided = Some(state);
            if state.allowed { Op::Put(Bucket { full_at, life: state.reset_after }) } else { Op::Nop }
        });
        decided
    }

    fn charge_one(&self, caller: CallerKey, limit: RequestLimit) -> LimitState {
        let now = self.now();
        let mut charged = now;
        self.limits.entry(caller).and_compute_with(|bucket| {
            let full_at = limits::charge(bucket.map(|entry| entry.value().full_at), now, limit, 1);
            charged = full_at;
            Op::Put(Bucket { full_at, life: Duration::from_micros(full_at - now) })
        });
        limits::state(charged, now, limit.into(), false)
    }

    fn append(&self, id: ConversationId, turn: Turn, retention: Retention) -> bool {
        let mut appended = false;
        self.conversations.entry(id).and_compute_with(|stored| {
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

impl Store for MemoryStore {
    fn admit(&self, admit: Admit) -> BoxFuture<'_, Result<Admitted, StoreError>> {
        let limit = admit.limit.and_then(|(caller, limit)| self.decide(caller, limit));
        ready(Ok(Admitted { limit, cached: None })).boxed()
    }

    fn charge(
        &self,
        charges: Vec<(CallerKey, RequestLimit)>,
    ) -> BoxFuture<'_, Result<Exhausted, StoreError>> {
        let states =
            charges.into_iter().map(|(caller, limit)| (caller.clone(), self.charge_one(caller, limit)));
        ready(Ok(states.filter(|(_, state)| !state.retry_after.is_zero()).collect())).boxed()
    }

    fn cache_put(&self, _: CacheKey, _: Bytes, _: Duration) -> BoxFuture<'_, Result<(), StoreError>> {
        ready(Ok(())).boxed()
    }

    fn conversation(
        &self,
        id: ConversationId,
    ) -> BoxFuture<'_, Result<Option<Vec<StoredMessage>>, StoreError>> {
        let messages = self.conversations.get(&id).map(|conversation| conversation.messages.to_vec());
        ready(Ok(messages)).boxed()
    }

    fn append_turn(
        &self,
        id: ConversationId,
        turn: Turn,
        retention: Retention,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        ready(Ok(self.append(id, turn, retention))).boxed()
    }

    fn shared(&self) -> bool {
        false
    }

    fn connected(&self) -> Option<bool> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_bounded_in_number_and_forgotten_once_their_bucket_is_full() {
        let store = MemoryStore::new();
        let limit = RequestLimit { requests: 1, period_seconds: 3600, burst: 1 };
        for caller in 0..CALLERS + 1000 {
            store.decide(CallerKey(caller.to_string()), limit);
        }
        store.limits.run_pending_tasks();
        assert!(store.limits.entry_count() <= CALLERS);
        let latest = CallerKey((CALLERS + 999).to_string());
        assert!(!store.decide(latest, limit).unwrap().allowed, "the latest caller is remembered");

        let store = MemoryStore::new();
        let fast = RequestLimit { requests: 1_000_000, period_seconds: 1, burst: 1 };
        store.decide(CallerKey("a".into()), fast);
        while store.limits.get(&CallerKey("a".into())).is_some() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn conversations_are_bounded_in_bytes_and_the_latest_stay() {
        let store = MemoryStore::new();
        let retention = Retention { max_messages: 20, ttl: Duration::from_hours(1) };
        let text = "x".repeat(1 << 20);
        let ids: Vec<_> = (0..100).map(|_| conversations::new_id()).collect();
        for id in &ids {
            let turn = Turn { user: text.clone(), assistant: String::new(), first: true };
            assert!(store.append(*id, turn, retention));
        }
        store.conversations.run_pending_tasks();
        assert!(store.conversations.weighted_size() <= CONVERSATION_BYTES);
        assert!(store.conversations.get(&ids[99]).is_some());
        assert!(store.conversations.get(&ids[0]).is_none());
    }
}
