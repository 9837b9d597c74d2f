//! Responses, as a store keeps them. In: a response with everything that was said, already encoded. Out: the same bytes, for
//! as long as they live. [`super::super::responses`] says what is in them.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{OwnedId, StoreError};

/// The responses of a store.
pub trait ResponseStore: Send + Sync {
    /// A response; None when there is no such one. With a life, that is what it lives from now on.
    fn response(
        &self,
        id: OwnedId,
        renew: Option<Duration>,
    ) -> BoxFuture<'_, Result<Option<Bytes>, StoreError>>;

    /// Keeps a response for this long.
    fn put_response(
        &self,
        id: OwnedId,
        stored: Bytes,
        life: Duration,
    ) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Erases a response at once; false when there was none.
    fn delete_response(&self, id: OwnedId) -> BoxFuture<'_, Result<bool, StoreError>>;
}
