//! What callers have taken, in memory. In: reservations, settlements and the time. Out: how limits stand. The rules are
//! those of [`limits`]; this keeps what they work on, bounded in number, and which reservations are known.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::crd::BudgetPeriod;
use crate::server::config::RequestLimit;
use crate::server::limits::budget::Account;
use crate::server::limits::tokens::{self, Level};
use crate::server::limits::{self, PLACE_WAIT};
use crate::server::recent::Recent;
use crate::server::store::{
    BudgetState, CallerKey, LimitState, Refused, ReservationId, Reserve, Settle, Standing, TokenDemand,
};

/// Callers, and budgets, that are remembered. Beyond it those that were seen longest ago start anew.
pub(super) const CALLERS: usize = 100_000;
/// Reservations that are open. Beyond it the oldest count as expired.
const OPEN: usize = 65_536;
/// Reservations that are remembered after they were settled, so that none is settled twice.
const SETTLED: usize = 16_384;

/// Everything that is limited, of all callers.
pub(super) struct Books {
    callers: Recent<CallerKey, Caller>,
    budgets: Recent<(CallerKey, BudgetPeriod), Budget>,
    open: Recent<ReservationId, Open>,
    settled: Recent<ReservationId, ()>,
}

/// What one caller has taken.
#[derive(Default)]
struct Caller {
    full_at: Option<u64>,
    level: Option<Level>,
    /// When reservations expire, and which: one for each request under way.
    leases: BTreeSet<(u64, ReservationId)>,
}

/// An account, and by when the reservations in it expire.
#[derive(Default)]
struct Budget {
    account: Option<Account>,
    open: BTreeMap<(u64, ReservationId), u64>,
}

/// A reservation: when it expires, and the budget's period that it is in.
#[derive(Clone, Copy, Default)]
struct Open {
    expires: u64,
    period: i64,
}

/// Both clocks.
#[derive(Clone, Copy)]
pub(super) struct Now {
    /// µs since this store began.
    pub(super) micros: u64,
    /// Days since 1970 in UTC.
    pub(super) day: i64,
}

impl Default for Books {
    fn default() -> Self {
        Self {
            callers: Recent::new(CALLERS),
            budgets: Recent::new(CALLERS),
            open: Recent::new(OPEN),
            settled: Recent::new(SETTLED),
        }
    }
}

impl Caller {
    /// Forgets reservations that have expired.
    fn expire(&mut self, now: Now) {
        while self.leases.first().is_some_and(|first| first.0 <= now.micros) || self.leases.len() >= OPEN {
            self.leases.pop_first();
        }
    }

    fn level(&self, demand: &TokenDemand, now: Now) -> (Level, u32) {
        let size = tokens::size(demand.per_minute);
        let full = Level::full(size, now.micros);
        (self.level.map_or(full, |level| level.refilled(size, now.micros)), size)
    }

    fn charge(&mut self, limit: RequestLimit, requests: u32, now: Now) -> u64 {
        let full_at = limits::charge(self.full_at, now.micros, limit, requests);
        self.full_at = Some(full_at);
        full_at
    }

    fn refuses(&self, reserve: &Reserve, now: Now) -> Option<Refused> {
        if let Some(limit) = reserve.requests {
            let (_, state) = limits::decide(self.full_at, now.micros, limit);
            if !state.allowed {
                return Some(Refused::Requests(state.retry_after));
            }
        }
        if reserve.concurrent.is_some_and(|most| self.leases.len() >= most.max(1) as usize) {
            return Some(Refused::Concurrency(PLACE_WAIT));
        }
        let demand = reserve.tokens?;
        let (level, size) = self.level(&demand, now);
        let taken = tokens::taken(demand.tokens, size);
        (level.tokens < taken).then(|| Refused::Tokens(level.until(taken, size)))
    }
}

impl Budget {
    /// The account of today's period. What has expired counts as spent.
    fn account(&mut self, period: BudgetPeriod, now: Now) -> Account {
        let mut account = Account::of(self.account, period, now.day);
        if self.account.is_some_and(|stored| stored.start < account.start) {
            self.open.clear();
        }
        while self.open.first_key_value().is_some_and(|(first, _)| first.0 <= now.micros)
            || self.open.len() >= OPEN
        {
            let worst = self.open.pop_first().map_or(0, |(_, worst)| worst);
            account = account.spent(worst, worst);
        }
        self.account = Some(account);
        account
    }

    fn settle(&mut self, id: ReservationId, settle: &Settle, open: Option<Open>, now: Now) {
        let Some(demand) = &settle.reserve.budget else { return };
        let account = self.account(demand.budget.period, now);
        let worst = demand.worst.0;
        self.account = Some(match open {
            // Its period is over, and so is that account.
            Some(open) if open.period < account.start => account,
            Some(open) if self.open.remove(&(open.expires, id)).is_some() => {
                account.spent(worst, settle.cost.0)
            }
            Some(_) => account.corrected(worst, settle.cost.0),
            None => account.spent(0, settle.cost.0),
        });
    }
}

impl Books {
    /// Reserves everything or nothing.
    pub(super) fn admit(&mut self, reserve: &Reserve, now: Now) -> Standing {
        let id = reserve.id;
        let done = self.settled.contains(&id) || self.open.contains(&id);
        let caller = self.callers.entry(&reserve.caller);
        caller.expire(now);
        let mut budget = reserve.budget.as_ref().map(|demand| {
            let budget = self.budgets.entry(&(demand.caller.clone(), demand.budget.period));
            let account = budget.account(demand.budget.period, now);
            (demand, budget, account)
        });
        let mut refused = None;
        if !done {
            refused = caller.refuses(reserve, now).or_else(|| {
                let (demand, _, account) = budget.as_ref()?;
                account.refuses(demand.worst, demand.budget.amount_nano_usd)
            });
        }
        if !done && (refused.is_none() || !reserve.enforce) {
            let expires = now.micros.saturating_add(micros(reserve.life));
            caller.take(reserve, expires, now);
            let mut open = Open { expires, period: 0 };
            if let Some((demand, budget, account)) = &mut budget {
                *account = account.reserved(demand.worst.0);
                budget.account = Some(*account);
                budget.open.insert((expires, id), demand.worst.0);
                open.period = account.start;
            }
            if reserve.to_settle() {
                *self.open.entry(&id) = open;
            } else {
                self.settled.entry(&id);
            }
        }
        let mut standing = caller.standing(reserve, refused, now);
        standing.budget = budget.map(|(_, _, account)| account.state());
        standing
    }

    /// How a budget stands.
    pub(super) fn budget(&mut self, of: &(CallerKey, BudgetPeriod), now: Now) -> BudgetState {
        self.budgets.entry(of).account(of.1, now).state()
    }

    /// Ends a reservation. Out: how the request limit stands where requests were charged.
    pub(super) fn settle(&mut self, settle: &Settle, now: Now) -> Option<LimitState> {
        let Settle { reserve, reserved, requests, tokens: used, .. } = settle;
        let id = reserve.id;
        if self.settled.contains(&id) {
            return None;
        }
        let open = self.open.remove(&id);
        if open.is_none() && *reserved && reserve.forgotten() {
            return None;
        }
        self.settled.entry(&id);
        let caller = self.callers.entry(&reserve.caller);
        if let Some(demand) = reserve.tokens {
            let (level, size) = caller.level(&demand, now);
            let taken = if open.is_some() { tokens::taken(demand.tokens, size) } else { 0 };
            let used = i64::try_from(*used).unwrap_or(i64::MAX);
            caller.level = Some(level.less(used.saturating_sub(taken), size));
        }
        if let Some(open) = open {
            caller.leases.remove(&(open.expires, id));
        }
        if let Some(demand) = &reserve.budget {
            let budget = self.budgets.entry(&(demand.caller.clone(), demand.budget.period));
            budget.settle(id, settle, open, now);
        }
        let limit = reserve.requests.filter(|_| open.is_none())?;
        let full_at = caller.charge(limit, *requests, now);
        Some(limits::state(full_at, now.micros, limit.into(), false))
    }
}

impl Caller {
    fn take(&mut self, reserve: &Reserve, expires: u64, now: Now) {
        if let Some(limit) = reserve.requests {
            self.charge(limit, 1, now);
        }
        if let Some(demand) = reserve.tokens {
            let (level, size) = self.level(&demand, now);
            self.level = Some(level.less(tokens::taken(demand.tokens, size), size));
        }
        if reserve.concurrent.is_some() {
            self.leases.insert((expires, reserve.id));
        }
    }

    fn standing(&self, reserve: &Reserve, refused: Option<Refused>, now: Now) -> Standing {
        let allowed = !matches!(refused, Some(Refused::Requests(_)));
        let full_at = self.full_at.unwrap_or(now.micros);
        Standing {
            refused,
            requests: reserve.requests.map(|limit| limits::state(full_at, now.micros, limit.into(), allowed)),
            tokens: reserve.tokens.map(|demand| {
                let (level, size) = self.level(&demand, now);
                level.state(size)
            }),
            budget: None,
        }
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
