//! The limits while the shared store is away. In: what the store last said of each caller, how many servers share it, and
//! the requests that it could not decide. Out: the same decisions from this server's share of every limit, and whether
//! the store counts as away.
//!
//! A share is the limit divided by the servers, and it begins as the store's last word left it, not full. An outage ends
//! when the settler has told the store everything that was used meanwhile, so a store that answers only now and then does
//! not hand out a new share each time.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use jiff::Timestamp;
use moka::Entry;
use moka::sync::Cache;

use super::config::{BudgetConfig, RequestLimit};
use super::limits::Rate;
use super::metrics::ServerMetrics;
use super::pricing::NanoUsd;
use super::state::Live;
use super::store::memory::MemoryStore;
use super::store::{
    Admit, BudgetDemand, BudgetState, CallerKey, LimitState, LimitStore, Refused, ReservationId, Reserve,
    Settle, Standing, TokenDemand, TokenState,
};
use crate::admin::StoreMode;
use crate::crd::{BudgetPeriod, OnStoreFailure};

/// Callers whose last word from the store is remembered.
const CALLERS: u64 = 10_000;

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
    limits: Cache<CallerKey, LastWord>,
    budgets: Cache<CallerKey, (Timestamp, BudgetState)>,
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
            limits: Cache::new(CALLERS),
            budgets: Cache::new(CALLERS),
            leases: MemoryStore::new(),
            mode: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The store's own word on a request: where a share begins when it is the last one.
    pub fn told(&self, reserve: &Reserve, standing: &Standing, hit: bool) {
        if standing.requests.is_some() || standing.tokens.is_some() {
            self.inner
                .limits
                .entry_by_ref(&reserve.caller)
                .and_upsert_with(|before| before.map(Entry::into_value).unwrap_or_default().then(standing));
        }
        if let (Some(demand), Some(state)) = (&reserve.budget, standing.budget) {
            self.inner.budgets.insert(demand.caller.clone(), (Timestamp::now(), state));
        }
        if !hit && (standing.refused.is_none() || !reserve.enforce) {
            self.lease(reserve, false);
        }
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
        // Nothing panics while it holds the lock, and the mode would be whole if it did.
        self.inner.mode.lock().unwrap_or_else(PoisonError::into_inner)
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
    seeded_requests: Cache<CallerKey, ()>,
    seeded_tokens: Cache<CallerKey, ()>,
    seeded_budgets: Cache<CallerKey, ()>,
}

impl Outage {
    fn new(pods: u32) -> Self {
        let seeded = || Cache::new(CALLERS);
        let (seeded_requests, seeded_tokens, seeded_budgets) = (seeded(), seeded(), seeded());
        Self { pods, store: MemoryStore::new(), seeded_requests, seeded_tokens, seeded_budgets }
    }

    /// Makes the share of a caller what the store's last word leaves of it, once. Of a caller that the store never spoke of
    /// the share of a rate is whole, since a bucket that is not used is full. False where it never spoke of the budget: what
    /// others have spent is not known then, and there is nothing to share.
    fn seed(&self, known: &Inner, reserve: &Reserve) -> bool {
        let share = share(reserve, self.pods);
        let last = || known.limits.get(&reserve.caller).unwrap_or_default();
        if let Some(limit) = share.requests {
            self.seeded_requests.get_with_by_ref(&reserve.caller, || {
                if let Some((then, state)) = last().requests {
                    let requests = requests_used(limit, state, then.elapsed());
                    let reserve = Reserve { tokens: None, budget: None, ..seed(&share) };
                    settle(&self.store, Settle { reserved: false, requests, ..nothing(reserve) });
                }
            });
        }
        if let Some(demand) = share.tokens {
            self.seeded_tokens.get_with_by_ref(&reserve.caller, || {
                if let Some((then, state)) = last().tokens {
                    let tokens = tokens_used(demand, state, then.elapsed());
                    let reserve = Reserve { requests: None, budget: None, ..seed(&share) };
                    settle(&self.store, Settle { reserved: false, tokens, ..nothing(reserve) });
                }
            });
        }
        let Some(demand) = &share.budget else { return true };
        let Some((then, state)) = known.budgets.get(&demand.caller) else { return false };
        self.seeded_budgets.get_with_by_ref(&demand.caller, || {
            if same_period(then, Timestamp::now(), demand.budget.period) {
                settle(&self.store, spent(&share, state, self.pods));
            }
        });
        true
    }
}

/// A server's part of what a request takes: of a limit a share, of the request all. Rates are divided by prolonging the
/// period, which is exact; what is counted is at least one.
fn share(reserve: &Reserve, pods: u32) -> Reserve {
    let part = |whole: u32| (whole / pods).max(1);
    let requests = reserve.requests.map(|limit| RequestLimit {
        period_seconds: limit.period_seconds.saturating_mul(pods),
        burst: part(limit.burst),
        ..limit
    });
    let budget = reserve.budget.as_ref().map(|demand| {
        let amount_nano_usd = demand.budget.amount_nano_usd / u64::from(pods);
        BudgetDemand { budget: BudgetConfig { amount_nano_usd, ..demand.budget }, ..demand.clone() }
    });
    Reserve {
        requests,
        tokens: reserve.tokens.map(|demand| TokenDemand { per_minute: part(demand.per_minute), ..demand }),
        concurrent: reserve.concurrent.map(part),
        budget,
        ..reserve.clone()
    }
}

/// Requests that are gone of a share when the whole stood like this some time ago. A bucket and its share take the same
/// time to fill, so that time says how much is missing of either.
fn requests_used(share: RequestLimit, state: LimitState, ago: Duration) -> u32 {
    let missing = state.reset_after.saturating_sub(ago).as_micros();
    u32::try_from(missing.div_ceil(u128::from(Rate::from(share).interval))).unwrap_or(u32::MAX)
}

/// The same of tokens.
fn tokens_used(share: TokenDemand, state: TokenState, ago: Duration) -> u64 {
    let missing = state.reset_after.saturating_sub(ago).as_micros();
    let tokens = (missing * u128::from(share.per_minute)).div_ceil(Duration::from_mins(1).as_micros());
    u64::try_from(tokens).unwrap_or(u64::MAX)
}

/// What is gone of a share of a budget that stood like this.
fn spent(share: &Reserve, state: BudgetState, pods: u32) -> Settle {
    let gone = state.spent.0.saturating_add(state.reserved.0).div_ceil(u64::from(pods));
    let reserve = Reserve { requests: None, tokens: None, ..seed(share) };
    Settle { reserved: false, cost: NanoUsd(gone), ..nothing(reserve) }
}

/// A reservation that stands for no request.
fn seed(share: &Reserve) -> Reserve {
    let id = ReservationId(rand::random());
    Reserve { id, since: Instant::now(), concurrent: None, enforce: false, ..share.clone() }
}

/// The end of a reservation of which nothing was used.
#[must_use]
pub fn nothing(reserve: Reserve) -> Settle {
    Settle { reserve, reserved: true, requests: 0, tokens: 0, cost: NanoUsd(0) }
}

/// Whether two moments are in one period of the calendar, in UTC.
fn same_period(one: Timestamp, other: Timestamp, period: BudgetPeriod) -> bool {
    let date = |time: Timestamp| time.to_zoned(jiff::tz::TimeZone::UTC).date();
    let (one, other) = (date(one), date(other));
    match period {
        BudgetPeriod::Day => one == other,
        BudgetPeriod::Week => {
            let week = |date: jiff::civil::Date| (date.iso_week_date().year(), date.iso_week_date().week());
            week(one) == week(other)
        }
        BudgetPeriod::Month => (one.year(), one.month()) == (other.year(), other.month()),
    }
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
    use super::*;
    use crate::crd::Per;

    const SECOND: Duration = Duration::from_secs(1);

    fn reserve(caller: &str) -> Reserve {
        let budget = BudgetConfig { amount_nano_usd: 100, period: BudgetPeriod::Month, per: Per::Service };
        Reserve {
            id: ReservationId(rand::random()),
            since: Instant::now(),
            caller: CallerKey(caller.to_owned()),
            requests: Some(RequestLimit { requests: 60, period_seconds: 3600, burst: 10 }),
            tokens: Some(TokenDemand { per_minute: 1000, tokens: 50 }),
            concurrent: Some(7),
            budget: Some(BudgetDemand { caller: CallerKey("*".to_owned()), budget, worst: NanoUsd(10) }),
            life: Duration::from_mins(1),
            enforce: true,
        }
    }

    fn standing(requests: Duration, tokens: Duration) -> Standing {
        let requests =
            LimitState { allowed: true, remaining: 0, reset_after: requests, retry_after: Duration::ZERO };
        Standing {
            refused: None,
            requests: Some(requests),
            tokens: Some(TokenState { remaining: 0, reset_after: tokens }),
            budget: None,
        }
    }

    #[test]
    fn a_share_is_the_limit_divided_by_the_servers_and_at_least_one() {
        let whole = reserve("a");
        assert_eq!(share(&whole, 1), whole);
        let third = share(&whole, 3);
        assert_eq!(third.requests, Some(RequestLimit { requests: 60, period_seconds: 10_800, burst: 3 }));
        assert_eq!(third.tokens, Some(TokenDemand { per_minute: 333, tokens: 50 }));
        assert_eq!(third.concurrent, Some(2));
        let budget = third.budget.clone().unwrap();
        assert_eq!((budget.budget.amount_nano_usd, budget.worst), (33, NanoUsd(10)));
        let least = share(&whole, 100);
        assert_eq!((least.requests.unwrap().burst, least.concurrent), (1, Some(1)));
    }

    #[test]
    fn a_share_begins_as_the_last_word_of_the_store_left_it() {
        let third = share(&reserve("a"), 3);
        // Of ten requests at one a minute, and of 1000 tokens a minute.
        for (requests, tokens, ago, expected) in [
            (Duration::ZERO, Duration::ZERO, Duration::ZERO, (0, 0)),
            (SECOND * 60, SECOND * 30, Duration::ZERO, (1, 167)),
            (SECOND * 600, SECOND * 60, Duration::ZERO, (4, 333)),
            (SECOND * 600, SECOND * 60, SECOND * 30, (4, 167)),
            (SECOND * 600, SECOND * 60, SECOND * 420, (1, 0)),
            (SECOND * 600, SECOND * 90, SECOND * 3600, (0, 0)),
        ] {
            let whole = standing(requests, tokens);
            let used = (
                requests_used(third.requests.unwrap(), whole.requests.unwrap(), ago),
                tokens_used(third.tokens.unwrap(), whole.tokens.unwrap(), ago),
            );
            assert_eq!(used, expected, "{requests:?} {tokens:?} {ago:?} ago");
        }
        let spent = spent(&third, BudgetState { spent: NanoUsd(50), reserved: NanoUsd(20) }, 3);
        assert_eq!((spent.cost, spent.reserved, spent.reserve.requests), (NanoUsd(24), false, None));
    }

    #[test]
    fn a_period_is_one_of_the_calendar_in_utc() {
        use BudgetPeriod::{Day, Month, Week};
        for (one, other, period, same) in [
            ("2026-11-23T00:00:00Z", "2026-11-23T23:59:59Z", Day, true),
            ("2026-11-23T23:59:59Z", "2026-11-24T00:00:00Z", Day, false),
            ("2026-11-23T00:00:00Z", "2026-11-29T23:59:59Z", Week, true),
            ("2026-11-22T23:59:59Z", "2026-11-23T00:00:00Z", Week, false),
            ("2026-12-31T00:00:00Z", "2027-01-01T00:00:00Z", Week, true),
            ("2026-11-01T00:00:00Z", "2026-11-30T00:00:00Z", Month, true),
            ("2026-11-30T23:59:59Z", "2026-12-01T00:00:00Z", Month, false),
            ("2025-11-30T00:00:00Z", "2026-11-30T00:00:00Z", Month, false),
        ] {
            let [one_at, other_at] = [one, other].map(|time| time.parse().unwrap());
            assert_eq!(same_period(one_at, other_at, period), same, "{one} {other} {period:?}");
        }
    }

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
