//! Responses in Redis: a string each. In and out: as [`ResponseStore`] says.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use redis::Cmd;

use super::{Base, RedisStore};
use crate::server::store::{OwnedId, ResponseStore, StoreError};

impl Base {
    fn response_key(&self, id: OwnedId) -> String {
        self.key(Some(&id.to_string()), "r1")
    }
}

impl ResponseStore for RedisStore {
    fn response(
        &self,
        id: OwnedId,
        renew: Option<Duration>,
    ) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>> {
        let key = self.base.response_key(id);
        let command = match renew {
            None => Cmd::get(key),
            Some(life) => {
                let mut command = redis::cmd("GETEX");
                command.arg(key).arg("PX").arg(self.base.life(life));
                command
            }
        };
        async move { Ok(self.base.query::<Option<Vec<u8>>>(command).await?.map(Bytes::from)) }.boxed()
    }

    fn put_response(
        &self,
        id: OwnedId,
        stored: Bytes,
        life: Duration,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        let base = &self.base;
        async move {
            let put = base.invoke_in_time(|| {
                let mut script = base.scripts.put_response.key(base.response_key(id));
                script.arg(stored.as_ref()).arg(base.life(life));
                script
            });
            put.await.map(drop)
        }
        .boxed()
    }

    fn delete_response(&self, id: OwnedId) -> BoxFuture<'_, Result<bool, StoreError>> {
        let unlink = Cmd::unlink(self.base.response_key(id));
        async move { self.base.query(unlink).await }.boxed()
    }
}
