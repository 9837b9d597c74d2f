//! Cached answers in Redis. In and out: as [`AnswerStore`] says.

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use redis::{Cmd, Pipeline};

use super::{Base, RedisStore, Sent, Trip};
use crate::server::store::{AnswerStore, CacheKey, Kept, LEASE, Released, Share, SharerId, StoreError};

/// Redis' code for a command that does not fit what is stored.
const WRONG_TYPE: &str = "WRONGTYPE";

/// Bytes of answers that share a trip, which has to end within its deadline; one alone may be larger.
const TOGETHER: usize = 256 << 10;

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

    /// Keeps these, which are in one slot or on one Redis, in one trip. Out: those that it did not take: all or none.
    async fn keep(&self, answers: Vec<Kept>) -> Vec<(Kept, StoreError)> {
        let Some(first) = answers.first() else { return Vec::new() };
        let slot = self.cache_key(first.key);
        let sent = Sent::All(self.pipeline(&answers));
        match self.link.run(slot.as_bytes(), &sent, &mut Trip::new()).await {
            Ok(_) => Vec::new(),
            Err(error) => answers.into_iter().map(|answer| (answer, error.clone())).collect(),
        }
    }

    fn pipeline(&self, answers: &[Kept]) -> Pipeline {
        let mut commands = Pipeline::with_capacity(answers.len() + 1);
        let mut locks = redis::cmd("UNLINK");
        for Kept { key, answer, life, led } in answers {
            let name = self.cache_key(*key);
            let mut set = Cmd::with_capacity(5, name.len() + answer.len() + 32);
            set.arg("SET").arg(name).arg(answer.as_ref()).arg("PX").arg(self.life(*life));
            commands.add_command(set).ignore();
            if *led {
                locks.arg(self.lock_key(*key));
            }
        }
        if locks.args_iter().len() > 1 {
            // Those who wait look for the answer first.
            commands.add_command(locks).ignore();
        }
        commands
    }
}

/// In parts that share a trip.
fn in_parts(answers: Vec<Kept>) -> Vec<Vec<Kept>> {
    let (mut parts, mut bytes) = (vec![Vec::new()], 0);
    for answer in answers {
        bytes += answer.answer.len();
        if let Some(part) = parts.last_mut().filter(|part| part.is_empty() || bytes <= TOGETHER) {
            part.push(answer);
        } else {
            bytes = answer.answer.len();
            parts.push(vec![answer]);
        }
    }
    parts
}

impl AnswerStore for RedisStore {
    fn keep(&self, answers: Vec<Kept>) -> BoxFuture<'_, Vec<(Kept, StoreError)>> {
        let base = &self.base;
        if self.is_cluster() {
            // Each is in a slot of its own, and a node that hangs costs no other's.
            let each = answers.into_iter().map(|answer| base.keep(vec![answer]));
            return join_all(each).map(|refused| refused.into_iter().flatten().collect()).boxed();
        }
        async move {
            let mut refused = Vec::new();
            for part in in_parts(answers) {
                refused.extend(base.keep(part).await);
            }
            refused
        }
        .boxed()
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
