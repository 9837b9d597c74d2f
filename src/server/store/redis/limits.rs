//! Limits in Redis, decided by scripts on Redis' own clock. In and out: as [`LimitStore`] says.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{RedisStore, millis};
use crate::server::config::RequestLimit;
use crate::server::limits::{self, Rate};
use crate::server::store::{
    Admit, Admitted, CacheKey, CallerKey, Exhausted, LimitStore, PodId, Refused, Settle, Standing, StoreError,
};

/// Shortest life of a bucket's key. A Redis that evicts by `volatile-ttl` takes what expires first, so buckets outlive
/// everything else: at least this, and twice the longest life that was given to anything.
const BUCKET_LIFE: Duration = Duration::from_hours(24);

/// How long a server is counted after its last heartbeat: three of those that come every 5 s.
const POD_LIFE: Duration = Duration::from_secs(15);

impl RedisStore {
    fn bucket_key(&self, caller: &CallerKey) -> String {
        // A caller may be an address or a name of any form: neither belongs into a key that operators list.
        let hash = blake3::hash(caller.0.as_bytes()).to_hex();
        self.key(None, &format!("rl1:{:.32}", hash.as_str()))
    }

    /// Life of a bucket's key in ms.
    fn bucket_life(&self, longest_bucket: u64) -> u64 {
        millis(BUCKET_LIFE)
            .max(self.longest_life.load(Ordering::Relaxed).saturating_mul(2))
            .max(longest_bucket / 1000 * 2)
    }

    async fn admit_limited(
        &self,
        caller: CallerKey,
        limit: RequestLimit,
        cache_key: Option<CacheKey>,
    ) -> Result<Admitted, StoreError> {
        let rate = Rate::from(limit);
        let mut script = self.scripts.admit.key(self.bucket_key(&caller));
        if let Some(key) = cache_key {
            script.key(self.cache_key(key));
        }
        script.arg(rate.interval).arg(rate.bucket).arg(self.bucket_life(rate.bucket));
        let (allowed, full_at, now, cached): (bool, u64, u64, Option<Vec<u8>>) = self.invoke(&script).await?;
        let state = limits::state(full_at, now, rate, allowed);
        let refused = (!allowed).then_some(Refused::Requests(state.retry_after));
        let standing = Standing { refused, requests: Some(state), ..Standing::default() };
        Ok(Admitted { standing: Some(standing), cached: cached.map(Bytes::from) })
    }

    async fn charge_all(&self, settles: Vec<Settle>) -> Result<Exhausted, StoreError> {
        let mut counts: HashMap<_, u64> = HashMap::new();
        for settle in settles.into_iter().filter(|settle| !settle.reserved) {
            let Some(limit) = settle.reserve.requests else { continue };
            *counts.entry((settle.reserve.caller, limit)).or_default() += u64::from(settle.requests);
        }
        if counts.is_empty() {
            return Ok(Vec::new());
        }
        let longest = counts.keys().map(|(_, limit)| Rate::from(*limit).bucket).max().unwrap_or_default();
        let mut script = self.scripts.charge.arg(self.bucket_life(longest));
        for ((caller, limit), count) in &counts {
            let rate = Rate::from(*limit);
            script.key(self.bucket_key(caller)).arg(rate.interval).arg(rate.bucket).arg(*count);
        }
        let answer: Vec<u64> = self.invoke(&script).await?;
        let Some((now, full_at)) = answer.split_first().filter(|(_, full_at)| full_at.len() == counts.len())
        else {
            return Err(StoreError::Failed("the charge was answered with something else".to_owned()));
        };
        let states = counts.into_keys().zip(full_at).map(|((caller, limit), &full_at)| {
            // Buckets never are below empty by more than one; what is not is not ours.
            (caller, limits::state(full_at, (*now).min(full_at), limit.into(), false))
        });
        Ok(states.filter(|(_, state)| !state.retry_after.is_zero()).collect())
    }
}

impl LimitStore for RedisStore {
    fn admit(&self, admit: Admit) -> BoxFuture<'_, Result<Admitted, StoreError>> {
        async move {
            let limit = admit.reserve.and_then(|reserve| Some((reserve.requests?, reserve.caller)));
            match (limit, admit.cache_key) {
                (Some((limit, caller)), cache_key) => self.admit_limited(caller, limit, cache_key).await,
                (None, Some(key)) => Ok(Admitted { standing: None, cached: self.cached(key).await? }),
                (None, None) => Ok(Admitted { standing: None, cached: None }),
            }
        }
        .boxed()
    }

    fn settle(&self, settles: Vec<Settle>) -> BoxFuture<'_, Result<Exhausted, StoreError>> {
        self.charge_all(settles).boxed()
    }

    fn heartbeat(&self, pod: PodId) -> BoxFuture<'_, Result<u32, StoreError>> {
        let mut script = self.scripts.heartbeat.key(self.key(None, "pods1"));
        script.arg(&pod.0.to_le_bytes()).arg(millis(POD_LIFE) * 1000).arg(self.bucket_life(0));
        async move { self.invoke(&script).await }.boxed()
    }
}
