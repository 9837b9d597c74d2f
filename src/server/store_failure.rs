//! The limits while the shared store is away. In: what the store last said of each caller, how many servers share it, and
//! the requests that it could not decide. Out: the same decisions from this server's share of every limit, and whether
//! the store counts as away.
//!
//! A share is the limit divided by the servers, and it begins as the store's last word left it, not full. An outage ends
//! when the settler has told the store everything that was used meanwhile, so a store that answers only now and then does
//! not hand out a new share each time.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures::FutureExt;
use jiff::Timestamp;

use super::metrics::ServerMetrics;
use super::recent::Recent;
use super::state::Live;
use super::store::memory::MemoryStore;
use super::store::{
    Admit, BudgetState, CallerKey, LimitState, LimitStore, Refused, Reserve, Settle, Standing, TokenState,
};
use crate::admin::StoreMode;
use crate::crd::OnStoreFailure;
use shares::{nothing, requests_used, same_period, seed, share, spent, tokens_used};

mod shares;

/// Callers whose last word from the store is remembered.
const CALLERS: usize = 10_000;

/// What happens to a request that the store did not decide.
pub enum Decision {
    /// It was decided here.
    Local(Arc<Outage>, Standing),
    /// Nothing is limited.
    Open,
    /// Nothing is admitted.
    Closed,
}

/// This server's share of all limits, and the mode in which they are kept. Clones are the same one.
#[derive(Clone)]
pub struct LocalLimits {
    inner: Arc<Inner>,
}

struct Inner {
    metrics: ServerMetrics,
    /// Servers that share the store, as it last said.
    pods: AtomicU32,
    limits: Mutex<Recent<CallerKey, LastWord>>,
    /// With the day on which it said so.
    budgets: Mutex<Recent<CallerKey, Option<(i64, BudgetState)>>>,
    /// What this server's own requests hold of the concurrency limit, in every mode.
    leases: MemoryStore,
    mode: Mutex<Mode>,
}

/// What the store last said of a caller's rates, and when. A request that takes of one only leaves the other's as it was.
#[derive(Clone, Copy, Default)]
struct LastWord {
    requests: Option<(Instant, LimitState)>,
    tokens: Option<(Instant, TokenState)>,
}

impl LastWord {
    fn then(self, standing: &Standing) -> Self {
        let now = Instant::now();
        Self {
            requests: standing.requests.map(|state| (now, state)).or(self.requests),
            tokens: standing.tokens.map(|state| (now, state)).or(self.tokens),
        }
    }
}

#[derive(Default)]
struct Mode {
    outage: Option<Arc<Outage>>,
    /// When the last outage ended.
    back: Option<Instant>,
}

impl LocalLimits {
    /// Of a server that shares its store with nobody, as far as it knows.
    #[must_use]
    pub fn new(metrics: ServerMetrics) -> Self {
        let inner = Inner {
            metrics,
            pods: AtomicU32::new(1),
            limits: Mutex::new(Recent::new(CALLERS)),
            budgets: Mutex::new(Recent::new(CALLERS)),
            leases: MemoryStore::new(),
            mode: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The store's own word on a request: where a share begins when it is the last one.
    pub fn told(&self, reserve: &Reserve, standing: &Standing, hit: bool) {
        if standing.requests.is_some() || standing.tokens.is_some() {
            let mut limits = lock(&self.inner.limits);
            let word = limits.entry(&reserve.caller);
            *word = word.then(standing);
        }
        if let (Some(demand), Some(state)) = (&reserve.budget, standing.budget) {
            self.told_budget(&demand.caller, state);
        }
        if !hit && (standing.refused.is_none() || !reserve.enforce) {
            self.lease(reserve, false);
        }
    }

    /// The store's word on a budget.
    pub fn told_budget(&self, whose: &CallerKey, state: BudgetState) {
        *lock(&self.inner.budgets).entry(whose) = Some((today(), state));
    }

    /// How many servers share the store.
    pub fn count(&self, pods: u32) {
        self.inner.pods.store(pods.max(1), Ordering::Relaxed);
    }

    /// Decides in place of the store, which did not.
    #[must_use]
    pub fn decide(&self, mode: OnStoreFailure, reserve: &Reserve) -> Decision {
        let outage = self.away(mode, reserve.since);
        match mode {
            OnStoreFailure::Open => Decision::Open,
            OnStoreFailure::Closed => Decision::Closed,
            OnStoreFailure::Local => {
                let standing = self.share(&outage, reserve);
                Decision::Local(outage, standing)
            }
        }
    }

    fn share(&self, outage: &Outage, reserve: &Reserve) -> Standing {
        if !outage.seed(&self.inner, reserve) {
            return Standing { refused: Some(Refused::BudgetReserved), ..Standing::default() };
        }
        let share = share(reserve, outage.pods);
        let refused = self.lease(&share, share.enforce);
        if refused.is_some() && share.enforce {
            return Standing { refused, ..Standing::default() };
        }
        let mut standing = admit(&outage.store, Reserve { concurrent: None, ..share.clone() });
        if standing.refused == Some(Refused::Budget) {
            // The share is spent. What others may spend of the budget stands in the way.
            standing.refused = Some(Refused::BudgetReserved);
        }
        if standing.refused.is_some() && share.enforce {
            self.release(&share);
        }
        standing.refused = standing.refused.or(refused);
        standing
    }

    /// Notes that a request is under way; the refusal where it is one too many.
    fn lease(&self, reserve: &Reserve, enforce: bool) -> Option<Refused> {
        reserve.concurrent?;
        let lease = Reserve { requests: None, tokens: None, budget: None, enforce, ..reserve.clone() };
        admit(&self.inner.leases, lease).refused
    }

    fn release(&self, reserve: &Reserve) {
        if reserve.concurrent.is_some() {
            let lease = Reserve { requests: None, tokens: None, budget: None, ..reserve.clone() };
            settle(&self.inner.leases, Settle { requests: 0, ..nothing(lease) });
        }
    }

    /// A request has ended: its share is settled, whoever admitted it.
    pub fn settle(&self, settled: &Settle, outage: Option<&Outage>) {
        self.release(&settled.reserve);
        if let Some(outage) = outage {
            let reserve = Reserve { concurrent: None, ..share(&settled.reserve, outage.pods) };
            settle(&outage.store, Settle { reserve, reserved: true, ..settled.clone() });
        }
    }

    /// The store failed what began at `since`: from now on it is away, unless it has come back since.
    pub fn away(&self, mode: OnStoreFailure, since: Instant) -> Arc<Outage> {
        let mut now = self.mode();
        if let Some(outage) = &now.outage {
            return outage.clone();
        }
        let pods = self.inner.pods.load(Ordering::Relaxed);
        let outage = Arc::new(Outage::new(pods));
        if now.back.is_some_and(|back| since < back) {
            return outage;
        }
        now.outage = Some(outage.clone());
        let mode = store_mode(mode);
        self.inner.metrics.store_mode(mode);
        tracing::warn!(
            limits.mode = mode.name(),
            limits.servers = pods,
            "the store does not keep the limits"
        );
        outage
    }

    /// The store has been told all that it missed.
    pub fn back(&self) {
        let mut now = self.mode();
        self.inner.metrics.store_mode(StoreMode::Shared);
        if now.outage.take().is_some() {
            now.back = Some(Instant::now());
            tracing::warn!(limits.mode = StoreMode::Shared.name(), "the store keeps the limits again");
        }
    }

    /// Whether the store is away.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.mode().outage.is_some()
    }

    /// How limits are kept now.
    #[must_use]
    pub fn mode_of(&self, live: &Live) -> StoreMode {
        if self.is_away() {
            return store_mode(live.config.dynamic.limits.on_store_failure);
        }
        if live.store.shared() { StoreMode::Shared } else { StoreMode::Local }
    }

    fn mode(&self) -> MutexGuard<'_, Mode> {
        lock(&self.inner.mode)
    }
}

/// How limits are kept while the store is away.
fn store_mode(mode: OnStoreFailure) -> StoreMode {
    match mode {
        OnStoreFailure::Local => StoreMode::Local,
        OnStoreFailure::Open => StoreMode::Open,
        OnStoreFailure::Closed => StoreMode::Closed,
    }
}

/// One time that the store is away.
pub struct Outage {
    pods: u32,
    store: MemoryStore,
    seeded: Mutex<Recent<CallerKey, Seeded>>,
}

/// Which shares of a caller have begun.
#[derive(Clone, Copy, Default)]
struct Seeded {
    requests: bool,
    tokens: bool,
    budget: bool,
}

impl Outage {
    fn new(pods: u32) -> Self {
        Self { pods, store: MemoryStore::new(), seeded: Mutex::new(Recent::new(CALLERS)) }
    }

    /// Makes the share of a caller what the store's last word leaves of it, once. Of a caller that the store never spoke of
    /// the share of a rate is whole, since a bucket that is not used is full. False where it never spoke of the budget: what
    /// others have spent is not known then, and there is nothing to share.
    fn seed(&self, known: &Inner, reserve: &Reserve) -> bool {
        let share = share(reserve, self.pods);
        let last = lock(&known.limits).get(&reserve.caller).copied().unwrap_or_default();
        // Held until the share is what it is to be: nobody takes of it before.
        let mut seeded = lock(&self.seeded);
        let begun = seeded.entry(&reserve.caller);
        if let Some(limit) = share.requests
            && !std::mem::replace(&mut begun.requests, true)
            && let Some((then, state)) = last.requests
        {
            let requests = requests_used(limit, state, then.elapsed());
            let reserve = Reserve { tokens: None, budget: None, ..seed(&share) };
            settle(&self.store, Settle { reserved: false, requests, ..nothing(reserve) });
        }
        if let Some(demand) = share.tokens
            && !std::mem::replace(&mut begun.tokens, true)
            && let Some((then, state)) = last.tokens
        {
            let tokens = tokens_used(demand, state, then.elapsed());
            let reserve = Reserve { requests: None, budget: None, ..seed(&share) };
            settle(&self.store, Settle { reserved: false, tokens, ..nothing(reserve) });
        }
        let Some(demand) = &share.budget else { return true };
        let Some((then, state)) = lock(&known.budgets).get(&demand.caller).copied().flatten() else {
            return false;
        };
        let begun = seeded.entry(&demand.caller);
        if !std::mem::replace(&mut begun.budget, true) && same_period(then, today(), demand.budget.period) {
            settle(&self.store, spent(&share, state, self.pods));
        }
        true
    }
}

/// Days since 1970 in UTC.
fn today() -> i64 {
    Timestamp::now().as_second().div_euclid(24 * 60 * 60)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks, and what is in them would be whole if it did.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks a store that answers at once.
fn admit(store: &MemoryStore, reserve: Reserve) -> Standing {
    let asked = store.admit(Admit { reserve: Some(reserve), cache_key: None, sharer: None });
    asked.now_or_never().and_then(Result::ok).and_then(|admitted| admitted.standing).unwrap_or_default()
}

fn settle(store: &MemoryStore, settled: Settle) {
    // A store in memory answers at once and never fails.
    let _ = store.settle(vec![settled]).now_or_never();
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::shares::tests::{SECOND, reserve, standing};
    use super::*;
    use crate::server::pricing::NanoUsd;

    /// How many of 20 requests are admitted.
    fn admitted(local: &LocalLimits, reserve: impl Fn() -> Reserve) -> usize {
        let decided = |_: &u32| {
            let decision = local.decide(OnStoreFailure::Local, &reserve());
            matches!(decision, Decision::Local(_, Standing { refused: None, .. }))
        };
        (0..20).filter(decided).count()
    }

    fn requests_only(caller: &str) -> Reserve {
        Reserve { tokens: None, concurrent: None, budget: None, ..reserve(caller) }
    }

    #[test]
    fn s1_while_the_store_is_away_this_server_admits_its_share_of_what_was_left() {
        let local = LocalLimits::new(ServerMetrics::new().unwrap());
        local.count(3);
        let left_half = Standing { tokens: None, ..standing(SECOND * 300, Duration::ZERO) };
        local.told(&requests_only("known"), &left_half, false);
        assert_eq!(admitted(&local, || requests_only("unknown")), 3, "a third of ten");
        assert_eq!(admitted(&local, || requests_only("known")), 1, "a third of five");
        assert!(local.is_away());
        local.back();
        assert!(!local.is_away());
    }

    /// One that is answered by another's call takes a request first, and the rest only where it has to call after all.
    #[test]
    fn s1_a_request_that_takes_of_one_rate_does_not_make_the_others_share_full() {
        let all = standing(SECOND * 300, SECOND * 60);
        let (requests, tokens) = (Standing { tokens: None, ..all }, Standing { requests: None, ..all });
        let tokens_only = || Reserve { requests: None, concurrent: None, budget: None, ..reserve("a") };
        for told in [[requests, tokens], [tokens, requests]] {
            let local = LocalLimits::new(ServerMetrics::new().unwrap());
            for standing in told {
                local.told(&requests_only("a"), &standing, true);
            }
            assert_eq!(admitted(&local, || requests_only("a")), 5, "{told:?}");
            assert_eq!(admitted(&local, tokens_only), 0, "{told:?}");
        }
    }

    #[test]
    fn of_a_budget_that_the_store_never_spoke_of_nothing_is_spent() {
        let local = LocalLimits::new(ServerMetrics::new().unwrap());
        let money = || Reserve { requests: None, tokens: None, concurrent: None, ..reserve("a") };
        let decide = || match local.decide(OnStoreFailure::Local, &money()) {
            Decision::Local(_, standing) => standing.refused,
            Decision::Open | Decision::Closed => None,
        };
        assert_eq!(decide(), Some(Refused::BudgetReserved));
        local.back();
        let budget = Some(BudgetState { spent: NanoUsd(70), reserved: NanoUsd(5) });
        local.told(&money(), &Standing { budget, ..Standing::default() }, false);
        let admitted = (0..9).filter(|_| decide().is_none()).count();
        assert_eq!(admitted, 2, "ten each of the 25 that are left");
    }

    #[test]
    fn a_failure_of_before_the_store_came_back_is_no_new_outage() {
        let local = LocalLimits::new(ServerMetrics::new().unwrap());
        let before = Instant::now();
        local.away(OnStoreFailure::Local, before);
        local.back();
        local.away(OnStoreFailure::Local, before);
        assert!(!local.is_away());
        local.away(OnStoreFailure::Local, Instant::now());
        assert!(local.is_away());
    }

    #[test]
    fn the_other_modes_admit_all_or_nothing() {
        let local = LocalLimits::new(ServerMetrics::new().unwrap());
        let decide = |mode| local.decide(mode, &reserve("a"));
        assert!(matches!(decide(OnStoreFailure::Open), Decision::Open));
        assert!(matches!(decide(OnStoreFailure::Closed), Decision::Closed));
    }
}
