//! One call among pods. In: what a pod wants an answer for, and whether it was told to ask or to wait. Out: the answer that
//! another pod asked for, or the call made here under a lease, whose end the other pods are told.
//!
//! Only plain requests: a stream cannot be followed from another pod. Where the store is away each pod is by itself.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::flight::{End, lost, worth_another};
use crate::server::backend::BackendError;
use crate::server::cache::CachedAnswer;
use crate::server::call::Whole;
use crate::server::metrics::ServerMetrics;
use crate::server::operation::Operation;
use crate::server::store::{CacheKey, LEASE, Released, Share, SharerId, Store, StoreError};

/// First and longest pause between two looks for the answer; spread, so that pods do not look together.
const LOOK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));
/// How long the store may be away before those who wait already ask by themselves. A stampede is when everything is slow,
/// and a slow store must not undo what it is there to prevent; but nobody waits a second for a store. Who finds it away when
/// it comes does not wait at all.
const AWAY: Duration = Duration::from_millis(750);
/// Pause between two signs of life, a fifth of the lease.
const RENEW: Duration = Duration::from_secs(1);
/// The same once only other pods wait: when they have left too, the call ends.
const RENEW_FOR_OTHERS: Duration = Duration::from_millis(30);

/// What a pod shares with others.
#[derive(Clone)]
pub(in crate::server) struct Pods {
    /// Where they meet.
    pub(in crate::server) store: Arc<dyn Store>,
    /// Counts what the store fails.
    pub(in crate::server) metrics: ServerMetrics,
    /// What is wanted.
    pub(in crate::server) key: CacheKey,
    /// By whom.
    pub(in crate::server) id: SharerId,
    /// What is asked for.
    pub(in crate::server) operation: Operation,
}

/// What waiting for another pod ends with.
pub(super) enum Waited {
    /// An end.
    End(End),
    /// This pod has to ask, under the lease.
    Lead,
    /// This pod has to ask, by itself: the store is away.
    Alone,
}

impl Pods {
    /// Waits for what another pod asks for.
    pub(super) async fn wait(&self) -> Waited {
        let mut pause = LOOK.0;
        let mut answered = Instant::now();
        loop {
            sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(LOOK.1);
            match self.told(self.store.share(self.key, self.id).await) {
                Some(Share::Wait) => {}
                Some(Share::Lead) => return Waited::Lead,
                Some(Share::Failed(error)) => return Waited::End(End::Failed(read_error(&error))),
                Some(Share::Answer(stored)) => {
                    let known = CachedAnswer::decode(&stored)
                        .and_then(|answer| Whole::known(self.operation, answer.completion));
                    // What the store holds there is no answer, and nobody will put one there while it stays.
                    return known.map_or(Waited::Alone, |whole| Waited::End(End::Whole(Arc::new(whole))));
                }
                None if answered.elapsed() < AWAY => continue,
                None => return Waited::Alone,
            }
            answered = Instant::now();
        }
    }

    /// Makes the call under the lease. None: it was given up, since nobody waits any more, here or elsewhere.
    pub(super) async fn lead<T>(
        &self,
        left: &CancellationToken,
        mut call: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        tokio::select! {
            biased;
            ended = &mut call => Some(ended),
            () = self.hold(left) => None,
        }
    }

    /// Renews the lease until nobody waits any more.
    async fn hold(&self, left: &CancellationToken) {
        loop {
            if left.is_cancelled() {
                sleep(RENEW_FOR_OTHERS).await;
            } else {
                let _ = tokio::time::timeout(RENEW, left.cancelled()).await;
            }
            let others = self.told(self.store.renew(self.key, self.id).await).flatten();
            if left.is_cancelled() && others.is_none_or(|others| others == 0) {
                return;
            }
        }
    }

    /// Tells the others what came of it, if the store takes it at once.
    pub(super) async fn release(&self, released: &Released) -> bool {
        self.told(self.store.release(self.key, self.id, released.clone()).await).is_some()
    }

    /// Tells them for as long as they would wait for it. Nobody here waits for this.
    pub(super) async fn insist(&self, released: &Released) {
        let until = Instant::now() + LEASE;
        while !self.release(released).await && Instant::now() < until {
            sleep(LOOK.1).await;
        }
    }

    fn told<T>(&self, told: Result<T, StoreError>) -> Option<T> {
        told.inspect_err(|_| self.metrics.store_error("share")).ok()
    }
}

/// What other pods are told of a failure.
pub(super) fn failed(error: &BackendError) -> Released {
    let written = serde_json::to_vec(error).unwrap_or_default();
    Released::Failed { error: written.into(), again: worth_another(error) }
}

/// What another pod's call failed with. What the store holds is not trusted: a refusal is one of the request.
fn read_error(written: &[u8]) -> BackendError {
    match serde_json::from_slice(written) {
        Ok(BackendError::Rejected { status, .. }) if !(400..500).contains(&status) => lost(),
        Ok(error) => error,
        Err(_) => lost(),
    }
}
