//! Cached answers in Redis. In and out: as [`AnswerStore`] says.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use redis::Cmd;

use super::RedisStore;
use crate::server::store::{AnswerStore, CacheKey, StoreError};

/// Redis' code for a command that does not fit what is stored.
const WRONG_TYPE: &str = "WRONGTYPE";

impl RedisStore {
    /// Answers are spread over 256 slots.
    pub(super) fn cache_key(&self, key: CacheKey) -> String {
        let hash = blake3::Hash::from_bytes(key.0).to_hex();
        self.key(Some(&hash[..2]), &format!("c1:{hash}"))
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
}
