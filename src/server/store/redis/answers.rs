//! Cached answers in Redis. In and out: as [`AnswerStore`] says.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use redis::Cmd;
use tokio::sync::oneshot;

use super::{Base, RedisStore, Sent, Trip, lane};
use crate::server::store::{AnswerStore, CacheKey, LEASE, Released, Share, SharerId, StoreError};

/// Redis' code for a command that does not fit what is stored.
const WRONG_TYPE: &str = "WRONGTYPE";

/// Bytes of answers that share a trip, which has to end within its deadline; one alone may be larger.
const TOGETHER: usize = 256 << 10;

/// An answer to keep.
pub(super) struct Put {
    key: CacheKey,
    answer: Bytes,
    /// ms.
    life: u64,
    /// Whether others wait for it: its lock goes with it. Those who wait look for the answer first.
    shared: bool,
    told: oneshot::Sender<Result<(), StoreError>>,
}

impl Base {
    /// Answers are spread over 256 slots.
    pub(super) fn cache_key(&self, key: CacheKey) -> String {
        self.hashed("c1:", key)
    }

    /// In the slot of the answer.
    pub(super) fn lock_key(&self, key: CacheKey) -> String {
        self.hashed("l2:", key)
    }

    fn hashed(&self, kind: &str, key: CacheKey) -> String {
        let hash = blake3::Hash::from_bytes(key.0).to_hex();
        let mut named = self.key(Some(&hash[..2]), kind);
        named.push_str(&hash);
        named
    }

    /// The answer alone. A value of another type is a miss, as it is in the script.
    pub(super) async fn cached(&self, key: CacheKey) -> Result<Option<Bytes>, StoreError> {
        match self.query::<Option<Vec<u8>>>(Cmd::get(self.cache_key(key))).await {
            Err(StoreError::Failed(reason)) if reason == WRONG_TYPE => Ok(None),
            found => Ok(found?.map(Bytes::from)),
        }
    }

    /// Who asks for an answer that is not there.
    pub(super) async fn share(&self, key: CacheKey, id: SharerId) -> Result<Share, StoreError> {
        let mut script = self.scripts.look.key(self.cache_key(key));
        script.key(self.lock_key(key)).arg(name(id)).arg(lease());
        self.invoke(&script).await.and_then(shared)
    }

    /// One answer by itself, with its lock in the same slot.
    async fn put_alone(&self, put: &Put) -> Result<(), StoreError> {
        let key = self.cache_key(put.key);
        self.link.run(key.as_bytes(), &Sent::All(self.pipeline([put])), &mut Trip::new()).await.map(drop)
    }

    /// Several in one trip. What one of them is refused for, all are.
    async fn put(&self, all: Vec<Put>) {
        let outcome = self.link.run(&[], &Sent::All(self.pipeline(&all)), &mut Trip::new()).await.map(drop);
        for put in all {
            // Whoever does not wait any more needs no answer.
            let _ = put.told.send(outcome.clone());
        }
    }

    fn pipeline<'a>(&self, puts: impl IntoIterator<Item = &'a Put>) -> redis::Pipeline {
        let mut commands = redis::pipe();
        let mut locks = redis::cmd("UNLINK");
        for put in puts {
            let key = self.cache_key(put.key);
            commands.cmd("SET").arg(key).arg(put.answer.as_ref()).arg("PX").arg(put.life).ignore();
            if put.shared {
                locks.arg(self.lock_key(put.key));
            }
        }
        if locks.args_iter().len() > 1 {
            commands.add_command(locks).ignore();
        }
        commands
    }
}

/// For the lane of answers, all of which are in one slot.
pub(super) fn put_all(base: Arc<Base>, all: Vec<Put>) -> BoxFuture<'static, ()> {
    async move {
        let (mut together, mut bytes) = (Vec::new(), 0);
        for put in all {
            if bytes + put.answer.len() > TOGETHER && !together.is_empty() {
                base.put(std::mem::take(&mut together)).await;
                bytes = 0;
            }
            bytes += put.answer.len();
            together.push(put);
        }
        base.put(together).await;
    }
    .boxed()
}

impl RedisStore {
    async fn put(
        &self,
        key: CacheKey,
        answer: Bytes,
        life: Duration,
        shared: bool,
    ) -> Result<(), StoreError> {
        let (told, outcome) = oneshot::channel();
        let put = Put { key, answer, life: self.base.life(life), shared, told };
        if self.is_cluster() {
            // Each is in a slot of its own, and a node that hangs costs no other's.
            return self.base.put_alone(&put).await;
        }
        self.puts.send(put).await?;
        outcome.await.unwrap_or_else(|_| Err(lane::gone()))
    }
}

impl AnswerStore for RedisStore {
    fn cache_put(
        &self,
        key: CacheKey,
        answer: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        self.put(key, answer, ttl, false).boxed()
    }

    fn share(&self, key: CacheKey, id: SharerId) -> BoxFuture<'_, Result<Share, StoreError>> {
        self.base.share(key, id).boxed()
    }

    fn renew(&self, key: CacheKey, id: SharerId) -> BoxFuture<'_, Result<Option<u32>, StoreError>> {
        let mut script = self.base.scripts.renew.key(self.base.lock_key(key));
        script.arg(name(id)).arg(lease());
        async move { Ok(u32::try_from(self.base.invoke::<i64>(&script).await?).ok()) }.boxed()
    }

    fn release(
        &self,
        key: CacheKey,
        id: SharerId,
        released: Released,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        let mut script = self.base.scripts.release.key(self.base.lock_key(key));
        script.arg(name(id));
        match released {
            Released::Answer(answer, ttl) => return self.put(key, answer, ttl, true).boxed(),
            Released::Failed { error, again } => {
                script.arg("failed").arg(error.as_ref()).arg(u8::from(!again)).arg(lease())
            }
            Released::Left => script.arg("left"),
        };
        async move { self.base.invoke(&script).await }.boxed()
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
