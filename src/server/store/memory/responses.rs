//! Responses in this process's memory. In and out: as [`ResponseStore`] says.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::{Lives, MemoryStore, OwnLife};
use crate::server::store::{OwnedId, ResponseStore, StoreError};

/// Memory of all responses. Beyond it the one that was used longest ago is forgotten.
const RESPONSE_BYTES: u64 = 64 << 20;
/// What a response takes beside its text.
const OVERHEAD: usize = 256;

/// The responses.
pub(super) struct Responses {
    stored: Cache<OwnedId, Kept>,
}

#[derive(Clone)]
struct Kept {
    stored: Bytes,
    life: Duration,
}

impl Lives for Kept {
    fn life(&self) -> Duration {
        self.life
    }
}

impl Default for Responses {
    fn default() -> Self {
        let weight =
            |_: &OwnedId, kept: &Kept| u32::try_from(kept.stored.len() + OVERHEAD).unwrap_or(u32::MAX);
        let stored = Cache::builder()
            .max_capacity(RESPONSE_BYTES)
            .weigher(weight)
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(OwnLife)
            .build();
        Self { stored }
    }
}

impl Responses {
    fn read(&self, id: OwnedId, renew: Option<Duration>) -> Option<Bytes> {
        let Some(life) = renew else { return self.stored.get(&id).map(|kept| kept.stored) };
        let renewed = self.stored.entry(id).and_compute_with(|stored| match stored {
            Some(entry) => Op::Put(Kept { life, ..entry.into_value() }),
            None => Op::Nop,
        });
        renewed.into_entry().map(|entry| entry.into_value().stored)
    }
}

impl ResponseStore for MemoryStore {
    fn response(
        &self,
        id: OwnedId,
        renew: Option<Duration>,
    ) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>> {
        ready(Ok(self.responses.read(id, renew))).boxed()
    }

    fn put_response(
        &self,
        id: OwnedId,
        stored: Bytes,
        life: Duration,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        self.responses.stored.insert(id, Kept { stored, life });
        ready(Ok(())).boxed()
    }

    fn delete_response(&self, id: OwnedId) -> BoxFuture<'_, Result<bool, StoreError>> {
        ready(Ok(self.responses.stored.remove(&id).is_some())).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn responses_are_bounded_in_bytes_and_the_latest_stay() {
        let responses = Responses::default();
        let stored = Bytes::from(vec![b' '; 1 << 20]);
        let ids: Vec<_> = (0..100).map(|_| OwnedId::new(Uuid::new_v4())).collect();
        for id in &ids {
            responses.stored.insert(*id, Kept { stored: stored.clone(), life: Duration::from_hours(1) });
        }
        responses.stored.run_pending_tasks();
        assert!(responses.stored.weighted_size() <= RESPONSE_BYTES);
        assert!(responses.read(ids[99], None).is_some());
        assert!(responses.read(ids[0], None).is_none());
    }
}
