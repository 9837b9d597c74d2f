//! Limits in this process's memory, on a clock that never steps back. In and out: as [`LimitStore`] says.

use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::{Lives, MemoryStore, OwnLife};
use crate::server::config::RequestLimit;
use crate::server::limits;
use crate::server::store::{
    Admit, Admitted, CallerKey, Exhausted, LimitState, LimitStore, PodId, Refused, Settle, Standing,
    StoreError,
};

/// Callers whose bucket is remembered. Beyond it the one that was seen longest ago is forgotten, and so is full again.
const CALLERS: u64 = 100_000;
/// The buckets.
pub(super) struct Limits {
    started: Instant,
    buckets: Cache<CallerKey, Bucket>,
}

/// A caller's bucket: forgotten once it is full, since a new one would be the same.
#[derive(Clone, Copy)]
struct Bucket {
    full_at: u64,
    life: Duration,
}

impl Lives for Bucket {
    fn life(&self) -> Duration {
        self.life
    }
}

impl Default for Limits {
    fn default() -> Self {
        // Least recently used: what is new always has a place, unlike in moka's default policy, which may refuse a
        // newcomer.
        let buckets = Cache::builder()
            .max_capacity(CALLERS)
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(OwnLife)
            .build();
        Self { started: Instant::now(), buckets }
    }
}

impl Limits {
    /// µs on this store's clock, which never steps back.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Charges one request; requests of one caller are decided one after the other.
    fn decide(&self, caller: CallerKey, limit: RequestLimit) -> Option<LimitState> {
        let mut decided = None;
        self.buckets.entry(caller).and_compute_with(|bucket| {
            let now = self.now();
            let (full_at, state) = limits::decide(bucket.map(|entry| entry.value().full_at), now, limit);
            decided = Some(state);
            if state.allowed { Op::Put(Bucket { full_at, life: state.reset_after }) } else { Op::Nop }
        });
        decided
    }

    fn charge(&self, caller: CallerKey, limit: RequestLimit, requests: u32) -> LimitState {
        let now = self.now();
        let mut charged = now;
        self.buckets.entry(caller).and_compute_with(|bucket| {
            let full_at = limits::charge(bucket.map(|entry| entry.value().full_at), now, limit, requests);
            charged = full_at;
            Op::Put(Bucket { full_at, life: Duration::from_micros(full_at - now) })
        });
        limits::state(charged, now, limit.into(), false)
    }
}

impl LimitStore for MemoryStore {
    fn admit(&self, admit: Admit) -> BoxFuture<'_, Result<Admitted, StoreError>> {
        let standing = admit.reserve.and_then(|reserve| {
            let state = self.limits.decide(reserve.caller, reserve.requests?)?;
            let refused = (!state.allowed).then_some(Refused::Requests(state.retry_after));
            Some(Standing { refused, requests: Some(state), ..Standing::default() })
        });
        ready(Ok(Admitted { standing, cached: None })).boxed()
    }

    fn settle(&self, settles: Vec<Settle>) -> BoxFuture<'_, Result<Exhausted, StoreError>> {
        let late = settles.into_iter().filter(|settle| !settle.reserved);
        let states = late.filter_map(|settle| {
            let (caller, limit) = (settle.reserve.caller, settle.reserve.requests?);
            Some((caller.clone(), self.limits.charge(caller, limit, settle.requests)))
        });
        ready(Ok(states.filter(|(_, state)| !state.retry_after.is_zero()).collect())).boxed()
    }

    fn heartbeat(&self, _: PodId) -> BoxFuture<'_, Result<u32, StoreError>> {
        ready(Ok(1)).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_bounded_in_number_and_forgotten_once_their_bucket_is_full() {
        let store = Limits::default();
        let limit = RequestLimit { requests: 1, period_seconds: 3600, burst: 1 };
        for caller in 0..CALLERS + 1000 {
            store.decide(CallerKey(caller.to_string()), limit);
        }
        store.buckets.run_pending_tasks();
        assert!(store.buckets.entry_count() <= CALLERS);
        let latest = CallerKey((CALLERS + 999).to_string());
        assert!(!store.decide(latest, limit).unwrap().allowed, "the latest caller is remembered");

        let store = Limits::default();
        let fast = RequestLimit { requests: 1_000_000, period_seconds: 1, burst: 1 };
        store.decide(CallerKey("a".into()), fast);
        while store.buckets.get(&CallerKey("a".into())).is_some() {
            std::thread::yield_now();
        }
    }
}
