//! Limits in this process's memory, on a clock that never steps back; only the days of budgets are the calendar's. In and
//! out: as [`LimitStore`] says. One lock around all of it: a request takes all its limits at once.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures::FutureExt;
use futures::future::{BoxFuture, ready};

use super::MemoryStore;
use super::books::{Books, Now, micros};
use crate::crd::BudgetPeriod;
use crate::server::store::{
    Admit, Admitted, BudgetState, CallerKey, Exhausted, LimitStore, PodId, Reserve, Settle, StoreError,
};

/// The limits.
pub(super) struct Limits {
    started: Instant,
    books: Mutex<Books>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { started: Instant::now(), books: Mutex::default() }
    }
}

impl Limits {
    fn now(&self) -> Now {
        let day = jiff::Timestamp::now().as_second().div_euclid(24 * 60 * 60);
        Now { micros: micros(self.started.elapsed()), day }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // Nothing panics while it holds the lock, and the books would be whole if it did.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LimitStore for MemoryStore {
    fn admit(&self, admit: Admit) -> BoxFuture<'_, Result<Admitted, StoreError>> {
        let standing = admit.reserve.filter(Reserve::limited).map(|reserve| {
            let now = self.limits.now();
            self.limits.books().admit(&reserve, now)
        });
        ready(Ok(Admitted { standing, cached: None, share: None, cache_failed: false })).boxed()
    }

    fn settle(&self, settles: Vec<Settle>) -> BoxFuture<'_, Result<Exhausted, StoreError>> {
        let now = self.limits.now();
        let mut books = self.limits.books();
        let states = settles.into_iter().filter_map(|settle| {
            let state = books.settle(&settle, now).filter(|state| !state.retry_after.is_zero())?;
            Some((settle.reserve.caller, state))
        });
        let exhausted = states.collect();
        ready(Ok(exhausted)).boxed()
    }

    fn budgets(
        &self,
        of: Vec<(CallerKey, BudgetPeriod)>,
    ) -> BoxFuture<'_, Result<Vec<BudgetState>, StoreError>> {
        let now = self.limits.now();
        let mut books = self.limits.books();
        let states = of.into_iter().map(|budget| books.budget(&budget, now)).collect();
        ready(Ok(states)).boxed()
    }

    fn heartbeat(&self, _: PodId) -> BoxFuture<'_, Result<u32, StoreError>> {
        ready(Ok(1)).boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::books::CALLERS;
    use super::*;
    use crate::server::config::RequestLimit;
    use crate::server::store::{ReservationId, TokenDemand};

    const LIMIT: RequestLimit = RequestLimit { requests: 1, period_seconds: 3600, burst: 1 };

    fn reserve(caller: usize) -> Reserve {
        Reserve {
            id: ReservationId(rand::random()),
            since: Instant::now(),
            caller: CallerKey(caller.to_string().into()),
            requests: Some(LIMIT),
            tokens: Some(TokenDemand { per_minute: 100, tokens: 10 }),
            concurrent: None,
            budget: None,
            life: Duration::from_mins(1),
            enforce: true,
        }
    }

    #[test]
    fn callers_are_bounded_in_number_and_the_latest_are_remembered() {
        let limits = Limits::default();
        let admit = |caller| limits.books().admit(&reserve(caller), limits.now()).refused;
        for caller in 0..CALLERS + 1000 {
            assert_eq!(admit(caller), None);
        }
        assert!(admit(CALLERS + 999).is_some());
        assert_eq!(admit(0), None, "forgotten");
    }
}
