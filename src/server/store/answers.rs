//! Cached answers, as a store keeps them for all pods. In: a key and an encoded answer. Out: the same again; looking for
//! one is part of [`super::LimitStore::admit`], so that both take one trip.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::StoreError;

/// A 256-bit keyed hash of everything that an answer depends on; `cache::key` makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey(pub [u8; 32]);

/// The cached answers of a store.
pub trait AnswerStore: Send + Sync {
    /// Keeps an answer for `ttl`.
    fn cache_put(&self, key: CacheKey, answer: Bytes, ttl: Duration)
    -> BoxFuture<'_, Result<(), StoreError>>;
}
