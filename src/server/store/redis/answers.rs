//! Cached answers in Redis. In and out: as [`AnswerStore`] says.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use redis::Cmd;

use super::RedisStore;
use crate::server::store::{AnswerStore, CacheKey, LEASE, Released, Share, SharerId, StoreError};

/// Redis' code for a command that does not fit what is stored.
const WRONG_TYPE: &str = "WRONGTYPE";

impl RedisStore {
    /// Answers are spread over 256 slots.
    pub(super) fn cache_key(&self, key: CacheKey) -> String {
        let hash = blake3::Hash::from_bytes(key.0).to_hex();
        self.key(Some(&hash[..2]), &format!("c1:{hash}"))
    }

    /// In the slot of the answer.
    pub(super) fn lock_key(&self, key: CacheKey) -> String {
        let hash = blake3::Hash::from_bytes(key.0).to_hex();
        self.key(Some(&hash[..2]), &format!("l1:{hash}"))
    }

    /// The answer alone. A value of another type is a miss, as it is in the script.
    pub(super) async fn cached(&self, key: CacheKey) -> Result<Option<Bytes>, StoreError> {
        match self.query::<Option<Vec<u8>>>(&Cmd::get(self.cache_key(key))).await {
            Err(StoreError::Failed(reason)) if reason == WRONG_TYPE => Ok(None),
            found => Ok(found?.map(Bytes::from)),
        }
    }
}

impl AnswerStore for RedisStore {
    fn cache_put(
        &self,
        key: CacheKey,
        answer: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            let mut set = redis::cmd("SET");
            set.arg(self.cache_key(key)).arg(answer.as_ref()).arg("PX").arg(self.life(ttl));
            self.query(&set).await
        }
        .boxed()
    }

    fn share(&self, key: CacheKey, id: SharerId) -> BoxFuture<'_, Result<Share, StoreError>> {
        let mut script = self.scripts.look.key(self.cache_key(key));
        script.key(self.lock_key(key)).arg(name(id)).arg(lease());
        async move { self.invoke(&script).await.and_then(shared) }.boxed()
    }

    fn renew(&self, key: CacheKey, id: SharerId) -> BoxFuture<'_, Result<Option<u32>, StoreError>> {
        let mut script = self.scripts.renew.key(self.lock_key(key));
        script.arg(name(id)).arg(lease());
        async move { Ok(u32::try_from(self.invoke::<i64>(&script).await?).ok()) }.boxed()
    }

    fn release(
        &self,
        key: CacheKey,
        id: SharerId,
        released: Released,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        let mut script = self.scripts.release.key(self.lock_key(key));
        script.arg(name(id));
        match released {
            Released::Answer(answer, ttl) => {
                script.key(self.cache_key(key)).arg("answer").arg(answer.as_ref()).arg(self.life(ttl))
            }
            Released::Failed { error, again } => {
                script.arg("failed").arg(error.as_ref()).arg(u8::from(!again)).arg(lease())
            }
            Released::Left => script.arg("left"),
        };
        async move { self.invoke(&script).await }.boxed()
    }
}

/// As it stands in a lock.
pub(super) fn name(id: SharerId) -> String {
    format!("{:032x}", id.0)
}

/// µs of the lease.
pub(super) fn lease() -> u64 {
    u64::try_from(LEASE.as_micros()).unwrap_or(u64::MAX)
}

/// What the scripts answer.
pub(super) fn shared((told, what): (u8, Option<Vec<u8>>)) -> Result<Share, StoreError> {
    match (told, what) {
        (0, _) => Ok(Share::Wait),
        (1, _) => Ok(Share::Lead),
        (2, error) => Ok(Share::Failed(error.unwrap_or_default().into())),
        (3, Some(answer)) => Ok(Share::Answer(answer.into())),
        _ => Err(StoreError::Failed("a lock was answered with something else".to_owned())),
    }
}
