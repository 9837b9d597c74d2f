//! Answers on their way into the store's cache. In: those of requests that have ended. Out: they are kept for all pods, in
//! as few trips as may be. One that other pods may wait for is tried again for as long as they would wait.

use std::time::Instant;

use super::metrics::ServerMetrics;
use super::store::{AnswerStore, Kept, LEASE};

/// Bytes of answers that wait for another try; of more than that those who wait ask for themselves once the lease is over.
const WAITING: usize = 8 << 20;

/// Keeps answers.
pub(super) struct Keeper {
    metrics: ServerMetrics,
    /// Those that the store did not take, each with when nobody waits for it any more.
    again: Vec<(Kept, Instant)>,
}

impl Keeper {
    pub(super) fn new(metrics: ServerMetrics) -> Self {
        Self { metrics, again: Vec::new() }
    }

    /// Keeps these.
    pub(super) async fn keep(&mut self, store: &dyn AnswerStore, answers: Vec<Kept>) {
        if !answers.is_empty() {
            self.try_all(store, answers, Instant::now() + LEASE).await;
        }
    }

    /// Tries those once more that the store did not take.
    pub(super) async fn again(&mut self, store: &dyn AnswerStore) {
        let now = Instant::now();
        let waiting = std::mem::take(&mut self.again);
        // Those that were refused together are tried together.
        for together in waiting.chunk_by(|(_, one), (_, other)| one == other) {
            if let Some((_, until)) = together.first().filter(|(_, until)| now < *until) {
                let answers = together.iter().map(|(answer, _)| answer.clone()).collect();
                self.try_all(store, answers, *until).await;
            }
        }
    }

    async fn try_all(&mut self, store: &dyn AnswerStore, answers: Vec<Kept>, until: Instant) {
        let mut waiting: usize = self.again.iter().map(|(answer, _)| answer.answer.len()).sum();
        for (refused, _) in store.keep(answers).await {
            self.metrics.store_error("cache_put");
            waiting += refused.answer.len();
            if refused.led && waiting <= WAITING {
                self.again.push((refused, until));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;
    use futures::FutureExt;
    use futures::future::{BoxFuture, ready};

    use super::*;
    use crate::server::store::{CacheKey, Released, Share, SharerId, StoreError};

    /// Takes answers or refuses them all.
    #[derive(Default)]
    struct Fake {
        full: bool,
        taken: Mutex<Vec<u8>>,
    }

    impl AnswerStore for Fake {
        fn keep(&self, answers: Vec<Kept>) -> BoxFuture<'_, Vec<(Kept, StoreError)>> {
            if self.full {
                return ready(answers.into_iter().map(|answer| (answer, StoreError::Full)).collect()).boxed();
            }
            self.taken.lock().unwrap().extend(answers.iter().map(|answer| answer.key.0[0]));
            ready(Vec::new()).boxed()
        }

        fn share(&self, _: CacheKey, _: SharerId) -> BoxFuture<'_, Result<Share, StoreError>> {
            unreachable!("nobody shares here")
        }

        fn renew(&self, _: CacheKey, _: SharerId) -> BoxFuture<'_, Result<Option<u32>, StoreError>> {
            unreachable!("nobody leads here")
        }

        fn release(&self, _: CacheKey, _: SharerId, _: Released) -> BoxFuture<'_, Result<(), StoreError>> {
            unreachable!("nobody leaves here")
        }
    }

    fn answer(number: u8, length: usize, led: bool) -> Kept {
        let (key, answer) = (CacheKey([number; 32]), Bytes::from(vec![b'x'; length]));
        Kept { key, answer, life: LEASE, led }
    }

    fn keeper() -> Keeper {
        Keeper::new(ServerMetrics::new().unwrap())
    }

    #[tokio::test]
    async fn s14_what_others_wait_for_is_tried_again_until_the_store_takes_it() {
        let (mut keeper, mut store) = (keeper(), Fake { full: true, ..Fake::default() });
        keeper.keep(&store, vec![answer(1, 10, true), answer(2, 10, false), answer(3, 10, true)]).await;
        keeper.keep(&store, vec![answer(4, 10, true)]).await;
        keeper.again(&store).await;
        store.full = false;
        for _ in 0..2 {
            keeper.again(&store).await;
        }
        assert_eq!(*store.taken.lock().unwrap(), [1, 3, 4], "each once, and none that nobody waits for");
    }

    #[tokio::test]
    async fn s14_nobody_is_told_who_would_not_wait_any_more() {
        let (mut keeper, store) = (keeper(), Fake::default());
        keeper.again.push((answer(1, 10, true), Instant::now()));
        keeper.again(&store).await;
        assert!(store.taken.lock().unwrap().is_empty() && keeper.again.is_empty());
    }

    #[tokio::test]
    async fn answers_that_wait_are_bounded_in_bytes() {
        let (mut keeper, store) = (keeper(), Fake { full: true, ..Fake::default() });
        for _ in 0..3 {
            keeper.keep(&store, (0..10).map(|number| answer(number, WAITING / 10, true)).collect()).await;
        }
        assert_eq!(keeper.again.len(), 10);
        keeper.again(&store).await;
        assert_eq!(keeper.again.len(), 10, "tried in vain, they wait on");
    }
}
