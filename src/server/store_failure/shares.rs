//! A server's share of limits that several keep together. In: a whole limit, how many servers there are, and how the whole
//! stood some time ago. Out: the share, and what is gone of it. Pure.

use std::time::{Duration, Instant};

use crate::crd::BudgetPeriod;
use crate::server::config::{BudgetConfig, RequestLimit};
use crate::server::limits::Rate;
use crate::server::limits::budget::period_start;
use crate::server::pricing::NanoUsd;
use crate::server::store::{
    BudgetDemand, BudgetState, LimitState, ReservationId, Reserve, Settle, TokenDemand, TokenState,
};

/// A server's part of what a request takes: of a limit a share, of the request all. Rates are divided by prolonging the
/// period, which is exact; what is counted is at least one.
pub(super) fn share(reserve: &Reserve, pods: u32) -> Reserve {
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
pub(super) fn requests_used(share: RequestLimit, state: LimitState, ago: Duration) -> u32 {
    let missing = state.reset_after.saturating_sub(ago).as_micros();
    u32::try_from(missing.div_ceil(u128::from(Rate::from(share).interval))).unwrap_or(u32::MAX)
}

/// The same of tokens.
pub(super) fn tokens_used(share: TokenDemand, state: TokenState, ago: Duration) -> u64 {
    let missing = state.reset_after.saturating_sub(ago).as_micros();
    let tokens = (missing * u128::from(share.per_minute)).div_ceil(Duration::from_mins(1).as_micros());
    u64::try_from(tokens).unwrap_or(u64::MAX)
}

/// What is gone of a share of a budget that stood like this.
pub(super) fn spent(share: &Reserve, state: BudgetState, pods: u32) -> Settle {
    let gone = state.spent.0.saturating_add(state.reserved.0).div_ceil(u64::from(pods));
    let reserve = Reserve { requests: None, tokens: None, ..seed(share) };
    Settle { reserved: false, cost: NanoUsd(gone), ..nothing(reserve) }
}

/// A reservation that stands for no request.
pub(super) fn seed(share: &Reserve) -> Reserve {
    let id = ReservationId(rand::random());
    Reserve { id, since: Instant::now(), concurrent: None, enforce: false, ..share.clone() }
}

/// The end of a reservation of which nothing was used.
#[must_use]
pub(super) fn nothing(reserve: Reserve) -> Settle {
    Settle { reserve, reserved: true, requests: 0, tokens: 0, cost: NanoUsd(0) }
}

/// Whether two days, since 1970 in UTC, are in one period.
pub(super) fn same_period(one: i64, other: i64, period: BudgetPeriod) -> bool {
    period_start(period, one) == period_start(period, other)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::crd::Per;
    use crate::server::store::{CallerKey, Standing};

    pub const SECOND: Duration = Duration::from_secs(1);

    pub fn reserve(caller: &str) -> Reserve {
        let budget = BudgetConfig { amount_nano_usd: 100, period: BudgetPeriod::Month, per: Per::Service };
        Reserve {
            id: ReservationId(rand::random()),
            since: Instant::now(),
            caller: CallerKey(caller.into()),
            requests: Some(RequestLimit { requests: 60, period_seconds: 3600, burst: 10 }),
            tokens: Some(TokenDemand { per_minute: 1000, tokens: 50 }),
            concurrent: Some(7),
            budget: Some(BudgetDemand { caller: CallerKey("*".into()), budget, worst: NanoUsd(10) }),
            life: Duration::from_mins(1),
            enforce: true,
        }
    }

    pub fn standing(requests: Duration, tokens: Duration) -> Standing {
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
        let day = |date: &str| {
            let time: jiff::Timestamp = format!("{date}T12:00:00Z").parse().unwrap();
            time.as_second().div_euclid(24 * 60 * 60)
        };
        for (one, other, period, same) in [
            ("2026-11-23", "2026-11-23", Day, true),
            ("2026-11-23", "2026-11-24", Day, false),
            ("2026-11-23", "2026-11-29", Week, true),
            ("2026-11-22", "2026-11-23", Week, false),
            ("2026-12-31", "2027-01-01", Week, true),
            ("2026-11-01", "2026-11-30", Month, true),
            ("2026-11-30", "2026-12-01", Month, false),
            ("2025-11-30", "2026-11-30", Month, false),
        ] {
            assert_eq!(same_period(day(one), day(other), period), same, "{one} {other} {period:?}");
        }
    }
}
