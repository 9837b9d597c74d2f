//! Cached answers, as a store keeps them for all pods, and which pod asks for one that is not there. In: a key, an encoded
//! answer, who wants it. Out: the answer again; looking for one first is part of [`super::LimitStore::admit`], so that both
//! take one trip.
//!
//! A pod leads for as long as its lease lasts and it renews it. The others wait, and ask in between: there is an answer, or
//! one of them leads, since the leader failed, left or died.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::StoreError;

/// How long a pod leads without a sign of life.
pub const LEASE: Duration = Duration::from_secs(5);

/// A 256-bit keyed hash of everything that an answer depends on; `cache::key` makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheKey(pub [u8; 32]);

/// A part of a hash is as good a hash.
impl Hash for CacheKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [first, ..] = self.0.as_chunks().0 else { return };
        state.write_u64(u64::from_ne_bytes(*first));
    }
}

/// Names what a pod wants an answer for: all its equal requests that are in flight together. Random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SharerId(pub u128);

/// What a pod is told that wants an answer.
#[derive(Clone, PartialEq, Eq)]
pub enum Share {
    /// It is to ask for it.
    Lead,
    /// Another one does.
    Wait,
    /// Here it is.
    Answer(Bytes),
    /// Of those who waited, two have failed in a row: with this, as the last of them told it.
    Failed(Bytes),
}

/// Lengths in place of the text: an answer is not for logs.
impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lead => f.write_str("Lead"),
            Self::Wait => f.write_str("Wait"),
            Self::Answer(bytes) => f.debug_tuple("Answer").field(&bytes.len()).finish(),
            Self::Failed(bytes) => f.debug_tuple("Failed").field(&bytes.len()).finish(),
        }
    }
}

/// An answer to keep.
#[derive(Clone, PartialEq, Eq)]
pub struct Kept {
    /// Where it is found.
    pub key: CacheKey,
    /// As `cache::CachedAnswer` is encoded.
    pub answer: Bytes,
    /// How long it is kept.
    pub life: Duration,
    /// Whether this pod led: then others may wait for it.
    pub led: bool,
}

/// What came of it for a pod that has no answer.
#[derive(Clone, PartialEq, Eq)]
pub enum Released {
    /// It led, and failed.
    Failed {
        /// For those who wait.
        error: Bytes,
        /// Whether one of them may try again: not what would only fail the same way.
        again: bool,
    },
    /// It led or waited, and nobody in it wants the answer any more.
    Left,
}

/// The cached answers of a store.
pub trait AnswerStore: Send + Sync {
    /// Keeps answers, in as few trips as may be. Who has led leads no more, and who waits finds the answer. Out: those that
    /// the store did not take, each with its reason.
    fn keep(&self, answers: Vec<Kept>) -> BoxFuture<'_, Vec<(Kept, StoreError)>>;

    /// Looks for an answer, or for who asks for it.
    fn share(&self, key: CacheKey, id: SharerId) -> BoxFuture<'_, Result<Share, StoreError>>;

    /// Goes on leading; how many other pods wait. None: this pod does not lead any more.
    fn renew(&self, key: CacheKey, id: SharerId) -> BoxFuture<'_, Result<Option<u32>, StoreError>>;

    /// Leads or waits no more, without an answer.
    fn release(
        &self,
        key: CacheKey,
        id: SharerId,
        released: Released,
    ) -> BoxFuture<'_, Result<(), StoreError>>;
}
