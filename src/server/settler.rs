//! The one task that tells the store what requests used. In: the settlements of requests that have ended. Out: counters,
//! charges and answers in the store, batch by batch; how many servers share it, and whether it is away.
//!
//! It also sees how budgets stand, soon after something was settled and every few seconds, since others spend of them too.
//!
//! What cannot be told is kept and told when the store is back. It is asked whether it is by heartbeats, four a second
//! while it is away, so that requests need not find out.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::backlog::{Backlog, Owed};
use super::caller::Caller;
use super::keeper::Keeper;
use super::metrics::{OTHER, ServerMetrics};
use super::pricing::NanoUsd;
use super::settlement::{Bill, Settlement};
use super::state::{Charging, Live, LiveHandle};
use super::store::{CallerKey, Exhausted, PodId, SETTLED_TOGETHER, Settle, StoreError};

/// Charges that are taken of those that are owed: what the store is told in one trip.
const BATCH: usize = SETTLED_TOGETHER;
/// Settlements that are taken from the queue together, at most as often as every [`GATHER`]: more than it can hold by then.
const TAKEN: usize = 4096;
/// From one batch to the next: what comes meanwhile is told with it. Nobody waits for a settlement.
const GATHER: Duration = Duration::from_millis(5);
/// From one heartbeat to the next; a server is counted for three times as long.
const BEAT: Duration = Duration::from_secs(5);
/// The same while the store is away.
const KNOCK: Duration = Duration::from_millis(250);

/// Empties the queue.
pub struct Settler {
    receiver: mpsc::Receiver<Box<Settlement>>,
    live: LiveHandle,
    metrics: ServerMetrics,
    charging: Charging,
    pod: PodId,
    backlog: Backlog,
    started: Instant,
    next_beat: Instant,
    /// Charges that the next trip holds: fewer after the store refused one, to find out which.
    batch: usize,
    /// Whose budgets were settled since they were last looked at.
    moved: HashSet<CallerKey>,
    /// The budgets that metrics show, by their labels.
    shown: HashSet<String>,
}

impl Settler {
    /// The task for this end of the queue.
    #[must_use]
    pub fn new(
        receiver: mpsc::Receiver<Box<Settlement>>,
        live: LiveHandle,
        metrics: ServerMetrics,
        charging: Charging,
    ) -> Self {
        Self {
            receiver,
            live,
            metrics,
            charging,
            pod: PodId(rand::random()),
            backlog: Backlog::default(),
            started: Instant::now(),
            next_beat: Instant::now(),
            batch: BATCH,
            moved: HashSet::new(),
            shown: HashSet::new(),
        }
    }

    /// Settles until every handle to the queue and every guard is gone and the queue is empty.
    pub async fn run(mut self) {
        let mut tick = tokio::time::interval(KNOCK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        let mut keeper = Keeper::new(self.metrics.clone());
        loop {
            tokio::select! {
                count = self.receiver.recv_many(&mut batch, TAKEN) => {
                    if count == 0 { break }
                    let next = tokio::time::Instant::now() + GATHER;
                    self.settle(&mut batch, &mut keeper).await;
                    tokio::time::sleep_until(next).await;
                }
                _ = tick.tick() => {
                    self.beat().await;
                    if let Some(live) = self.live.load_full() {
                        keeper.again(&*live.store).await;
                    }
                }
            }
        }
        if let Some(live) = self.live.load_full() {
            self.greet(&live).await;
            keeper.again(&*live.store).await;
        }
        if !self.backlog.is_empty() {
            tracing::warn!(settlements = self.backlog.len(), "the store was not told what was used");
        }
    }

    /// One batch, all of it on the wire at once; each operation has the store's own deadline.
    #[expect(clippy::vec_box, reason = "so they come from the queue")]
    async fn settle(&mut self, batch: &mut Vec<Box<Settlement>>, keeper: &mut Keeper) {
        let mut charges = Vec::with_capacity(batch.len());
        let mut answers = Vec::new();
        for settlement in batch.drain(..) {
            let bill = settlement.bill();
            self.count(settlement.caller.as_deref(), &bill);
            for (owed, outage) in settlement.settles(&bill) {
                self.charging.local.settle(&owed.settle, outage);
                charges.push(owed);
            }
            answers.extend(settlement.keep);
        }
        let Some(live) = self.live.load_full() else { return self.owe(charges) };
        let kept = keeper.keep(&*live.store, answers);
        let told = async {
            // What is owed already goes first.
            if self.backlog.is_empty() && !self.charging.local.is_away() {
                self.tell(&live, as_few(charges)).await;
            } else {
                self.owe(charges);
            }
        };
        futures::future::join(kept, told).await;
    }

    fn count(&self, caller: Option<&Caller>, bill: &Bill) {
        let caller = caller.map_or(OTHER, Caller::label);
        for line in &bill.lines {
            self.metrics.settle(&line.model.name, caller, line.usage, line.cost);
            // What writes no answer says nothing of how long answers are.
            if line.reported && line.usage.completion_tokens > 0 {
                self.charging.learned.learn(&line.model.name, line.usage.completion_tokens);
            }
        }
    }

    /// Tells the store, trip by trip, or keeps for later what it was not told with success.
    async fn tell(&mut self, live: &Live, charges: Vec<Settle>) {
        let mut trips = Trips::new(charges);
        while let Some(trip) = trips.next() {
            let since = Instant::now();
            match live.store.settle(trip.to_vec()).await {
                Ok(exhausted) => {
                    self.told(live, trip, exhausted);
                    trips.told();
                }
                Err(error) => {
                    self.metrics.store_error("settle");
                    self.charging.local.away(live.config.dynamic.limits.on_store_failure, since);
                    let failed = trip.len();
                    return self.keep_for_later(trips.untold(), failed, &error);
                }
            }
        }
    }

    fn told(&mut self, live: &Live, charges: &[Settle], exhausted: Exhausted) {
        self.batch = BATCH;
        for demand in charges.iter().filter_map(|settle| settle.reserve.budget.as_ref()) {
            if !self.moved.contains(&demand.caller) {
                self.moved.insert(demand.caller.clone());
            }
        }
        for (caller, now) in exhausted.into_iter().filter(|_| live.enforces()) {
            self.charging.denials.add(caller, now);
        }
    }

    /// What a store refuses that is there is tried in ever smaller parts, and what it refuses by itself is left out.
    /// The first `failed` of these are those of the trip that failed.
    fn keep_for_later(&mut self, mut charges: Vec<Settle>, failed: usize, error: &StoreError) {
        let refused = matches!(error, StoreError::Failed(_));
        self.batch = if refused { smaller(self.batch, failed) } else { BATCH };
        if refused && failed == 1 {
            charges.remove(0);
            self.lost(1);
        }
        let lost = self.backlog.put_back(charges);
        self.lost(lost);
    }

    fn owe(&mut self, charges: Vec<Owed>) {
        let lost = self.backlog.push(charges);
        self.lost(lost);
    }

    fn lost(&self, settles: u64) {
        self.metrics.store_errors.with_label_values(&["settle_lost"]).inc_by(settles);
    }

    /// Now and then, and more often while something is wrong or new, sees how the store and its budgets are.
    async fn beat(&mut self) {
        let Some(live) = self.live.load_full() else { return };
        let due = Instant::now() >= self.next_beat;
        // A server that is asked nothing finds out by itself whether its store is there.
        if due || live.store.connected() != Some(true) {
            live.store.look();
        }
        if due || self.charging.local.is_away() || !self.backlog.is_empty() {
            // Servers start together: a young one looks around more often.
            self.next_beat = Instant::now() + BEAT.min(self.started.elapsed());
            self.greet(&live).await;
        }
        self.show_budgets(&live, due).await;
    }

    /// Shows those that were settled, or all; what is not there any more is not shown either.
    async fn show_budgets(&mut self, live: &Live, all: bool) {
        let moved = std::mem::take(&mut self.moved);
        if self.charging.local.is_away() || (!all && moved.is_empty()) {
            return;
        }
        let budgets: Vec<_> = live.terms.shown_budgets().collect();
        let labels: HashSet<_> = budgets.iter().map(|(_, label, _)| (*label).to_owned()).collect();
        self.shown.difference(&labels).for_each(|gone| self.metrics.no_budget(gone));
        self.shown = labels;
        let asked: Vec<_> = budgets.into_iter().filter(|(whose, ..)| all || moved.contains(whose)).collect();
        if asked.is_empty() {
            return;
        }
        let of = asked.iter().map(|(whose, _, budget)| (whose.clone(), budget.period)).collect();
        let Ok(states) = live.store.budgets(of).await else { return self.metrics.store_error("budgets") };
        for ((whose, label, budget), state) in asked.iter().zip(states) {
            if live.store.shared() {
                self.charging.local.told_budget(whose, state);
            }
            self.metrics.budget_used(label, state.spent, NanoUsd(budget.amount_nano_usd));
        }
    }

    /// Says that this server is there, hears how many others are, and tells a store that is back what it missed.
    async fn greet(&mut self, live: &Live) {
        // Limits that were taken away while the store was, too, are owed to it.
        let limited = live.terms.limit_anything() || self.charging.local.is_away();
        if !live.store.shared() || !limited {
            return self.metrics.store_mode(self.charging.local.mode_of(live));
        }
        let since = Instant::now();
        let Ok(pods) = live.store.heartbeat(self.pod).await else {
            self.metrics.store_error("heartbeat");
            self.charging.local.away(live.config.dynamic.limits.on_store_failure, since);
            return;
        };
        self.charging.local.count(pods);
        while !self.backlog.is_empty() {
            let (before, batch) = (self.backlog.len(), self.backlog.take(self.batch));
            self.tell(live, batch).await;
            if self.backlog.len() >= before {
                return;
            }
        }
        self.charging.local.back();
        // Not before: what is owed may have been done by a trip that nobody heard of, and is then known by its id alone.
        live.store.forget().await;
    }
}

/// Charges on their way to the store, [`SETTLED_TOGETHER`] in a trip.
struct Trips {
    charges: Vec<Settle>,
    /// So many at the front were told with success.
    told: usize,
}

impl Trips {
    fn new(mut charges: Vec<Settle>) -> Self {
        // Those of one caller share a trip: their limits are told once.
        charges.sort_by(|one, other| one.reserve.caller.0.cmp(&other.reserve.caller.0));
        Self { charges, told: 0 }
    }

    fn end(&self) -> usize {
        self.charges.len().min(self.told + SETTLED_TOGETHER)
    }

    /// The next to tell: the same until it was told.
    fn next(&self) -> Option<&[Settle]> {
        self.charges.get(self.told..self.end()).filter(|trip| !trip.is_empty())
    }

    fn told(&mut self) {
        self.told = self.end();
    }

    /// Those that were not told with success, of the trip that failed and behind it.
    fn untold(mut self) -> Vec<Settle> {
        self.charges.split_off(self.told)
    }
}

/// How many charges the next trip holds after the store refused this many: all again once the one is found.
fn smaller(batch: usize, refused: usize) -> usize {
    if refused > 1 { batch.min(refused).div_ceil(2) } else { BATCH }
}

/// What takes nothing but requests and was never asked of the store, as hits of the memory cache are, is told as one for
/// each caller: thousands of them a second must not be as many settlements.
fn as_few(owed: Vec<Owed>) -> Vec<Settle> {
    let mut told: Vec<Settle> = Vec::with_capacity(owed.len());
    let mut first_of: HashMap<_, usize> = HashMap::new();
    for Owed { settle, by_id } in owed {
        let reserve = &settle.reserve;
        let more = reserve.tokens.is_some() || reserve.concurrent.is_some() || reserve.budget.is_some();
        let limit = reserve.requests.filter(|_| !more && !by_id && !settle.reserved);
        if let Some(limit) = limit {
            let first = *first_of.entry((reserve.caller.clone(), limit)).or_insert(told.len());
            if let Some(first) = told.get_mut(first) {
                first.requests = first.requests.saturating_add(settle.requests);
                continue;
            }
        }
        told.push(settle);
    }
    told
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::server::config::RequestLimit;
    use crate::server::store::{ReservationId, Reserve, TokenDemand};

    fn owed(caller: &str, tokens: Option<TokenDemand>, by_id: bool) -> Owed {
        let reserve = Reserve {
            id: ReservationId(rand::random()),
            since: Instant::now(),
            caller: CallerKey(caller.into()),
            requests: Some(RequestLimit { requests: 60, period_seconds: 60, burst: 10 }),
            tokens,
            concurrent: None,
            budget: None,
            life: Duration::from_mins(1),
            enforce: true,
        };
        let settle = Settle { reserve, reserved: false, requests: 1, tokens: 0, cost: NanoUsd(0) };
        Owed { settle, by_id }
    }

    #[test]
    fn hits_of_a_caller_are_told_as_one_and_nothing_else_is() {
        let tokens = Some(TokenDemand { per_minute: 100, tokens: 10 });
        let mut all: Vec<Owed> = (0..100).map(|_| owed("a", None, false)).collect();
        all.extend([owed("b", None, false), owed("a", None, true), owed("a", tokens, false)]);
        all.extend([owed("a", tokens, false), owed("b", None, false)]);
        let told: Vec<_> =
            as_few(all).into_iter().map(|settle| (settle.reserve.caller.0, settle.requests)).collect();
        let expected = [("a", 100), ("b", 2), ("a", 1), ("a", 1), ("a", 1)];
        assert_eq!(told, expected.map(|(caller, requests)| (Arc::from(caller), requests)));
    }

    #[test]
    fn only_what_was_not_told_is_put_back_when_a_later_trip_fails() {
        let all: Vec<_> = (0..=SETTLED_TOGETHER * 3).map(|_| owed("a", None, true).settle).collect();
        let mut trips = Trips::new(all.clone());
        let mut told = trips.next().unwrap().to_vec();
        trips.told();
        assert_eq!(trips.next().unwrap().len(), SETTLED_TOGETHER, "the one that fails");
        let mut backlog = Backlog::default();
        assert_eq!(backlog.put_back(trips.untold()), 0);
        assert_eq!(backlog.len(), all.len() - SETTLED_TOGETHER);
        while !backlog.is_empty() {
            let mut trips = Trips::new(backlog.take(BATCH));
            told.extend_from_slice(trips.next().unwrap());
            trips.told();
            assert_eq!(trips.next(), None, "what is taken of those that are owed is one trip");
        }
        assert_eq!(told, all, "each is told once");
    }

    #[test]
    fn refused_charges_are_halved_to_the_one_that_is_refused_and_then_told_together_again() {
        for (batch, refused, next) in [
            (BATCH, BATCH, BATCH / 2),
            (BATCH, 5, 3),
            (3, 3, 2),
            (2, 2, 1),
            // New ones that come straight from the queue are not as few.
            (1, 7, 1),
            (1, 1, BATCH),
            (BATCH, 1, BATCH),
        ] {
            assert_eq!(smaller(batch, refused), next, "{refused} refused, {batch} at most");
        }
    }

    #[test]
    fn of_many_charges_only_the_refused_ones_are_left_out() {
        let bad = [3, 4, 700];
        let mut owed: std::collections::VecDeque<_> = (0..1000).collect();
        let (mut batch, mut told, mut lost) = (BATCH, Vec::new(), Vec::new());
        for trip in 0.. {
            assert!(trip < 100, "{} are still owed", owed.len());
            let most = batch.min(owed.len());
            let tried: Vec<_> = owed.iter().take(most).copied().collect();
            if tried.is_empty() {
                break;
            }
            let refused = tried.iter().any(|charge| bad.contains(charge));
            batch = if refused { smaller(batch, tried.len()) } else { BATCH };
            if refused && tried.len() > 1 {
                continue;
            }
            owed.drain(..most);
            if refused { lost.extend(tried) } else { told.extend(tried) }
        }
        assert_eq!((lost, told.len()), (bad.to_vec(), 997));
    }
}
