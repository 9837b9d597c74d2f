//! This process's own store: limits, conversations and responses hold within one pod and end with it. In and out: as
//! [`super::Store`] says; it never fails.
//!
//! Answers are not in here: the first level of the cache (`server::cache`) is memory already, so a second copy would only
//! halve it. [`super::LimitStore::admit`] finds none and [`super::AnswerStore::keep`] keeps none.

use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use moka::Expiry;

use super::{AnswerStore, CacheKey, Kept, Released, Share, SharerId, Store, StoreError};

mod books;
mod conversations;
mod limits;
mod responses;

use conversations::Conversations;
use limits::Limits;
use responses::Responses;

/// The in-memory store.
#[derive(Default)]
pub struct MemoryStore {
    limits: Limits,
    conversations: Conversations,
    responses: Responses,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

/// What says itself how long it lives, from each write on.
trait Lives {
    fn life(&self) -> Duration;
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

impl AnswerStore for MemoryStore {
    fn keep(&self, _: Vec<Kept>) -> BoxFuture<'_, Vec<(Kept, StoreError)>> {
        ready(Vec::new()).boxed()
    }

    /// There is no other pod.
    fn share(&self, _: CacheKey, _: SharerId) -> BoxFuture<'_, Result<Share, StoreError>> {
        ready(Ok(Share::Lead)).boxed()
    }

    fn renew(&self, _: CacheKey, _: SharerId) -> BoxFuture<'_, Result<Option<u32>, StoreError>> {
        ready(Ok(Some(0))).boxed()
    }

    fn release(&self, _: CacheKey, _: SharerId, _: Released) -> BoxFuture<'_, Result<(), StoreError>> {
        ready(Ok(())).boxed()
    }
}

impl Store for MemoryStore {
    fn shared(&self) -> bool {
        false
    }

    fn connected(&self) -> Option<bool> {
        None
    }

    fn look(&self) {}
}
