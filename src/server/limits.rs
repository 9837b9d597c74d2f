//! The request limit. In: the state of a caller's bucket, and the time. Out: whether a request may go on. Pure: stores hold
//! the state and own the clock (`store/limits.lua` is the same rule inside Redis).
//! The other limits: [`tokens`], [`budget`].
//!
//! GCRA: one number per caller, the time at which its bucket will be full again, in µs (`full_at`). A request moves it
//! one interval later, and is refused where that would be more than a whole bucket ahead of now.
//! <https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm>

use std::time::Duration;

use super::config::RequestLimit;
use super::store::LimitState;

pub mod budget;
pub mod tokens;

/// Longest time that a bucket may take to fill, 35 years of µs: with any time of this century it stays below 2^53,
/// up to where Lua's numbers are exact.
pub const LONGEST: u64 = 1 << 50;

/// When it is worth asking again for a place among the requests at the same time: nobody knows when one ends.
pub const PLACE_WAIT: Duration = Duration::from_secs(1);

/// The numbers of a limit that the rule works with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// µs in which one request refills, rounded up: never more requests than the limit says.
    pub interval: u64,
    /// µs in which an empty bucket fills: the interval times the burst.
    pub bucket: u64,
}

impl From<RequestLimit> for Rate {
    fn from(limit: RequestLimit) -> Self {
        let period = u64::from(limit.period_seconds.max(1)) * 1_000_000;
        let interval = period.div_ceil(u64::from(limit.requests.max(1))).min(LONGEST);
        Self { interval, bucket: interval.saturating_mul(u64::from(limit.burst.max(1))).min(LONGEST) }
    }
}

/// Charges one request. In: the stored `full_at` (None: a new caller) and now, both in µs of the same clock.
/// Out: the `full_at` to store (unchanged by a refusal) and what the caller is told.
#[must_use]
pub fn decide(full_at: Option<u64>, now: u64, limit: RequestLimit) -> (u64, LimitState) {
    let rate = Rate::from(limit);
    let full_at = clamp(full_at, now, rate);
    let charged = full_at.saturating_add(rate.interval);
    let allowed = charged - now <= rate.bucket;
    let full_at = if allowed { charged } else { full_at };
    (full_at, state(full_at, now, rate, allowed))
}

/// Charges `requests` that were already served. They may take the bucket below empty, by one more bucket at most:
/// a caller waits for what it had, not for ever.
#[must_use]
pub fn charge(full_at: Option<u64>, now: u64, limit: RequestLimit, requests: u32) -> u64 {
    let rate = Rate::from(limit);
    let charged = clamp(full_at, now, rate).saturating_add(rate.interval.saturating_mul(u64::from(requests)));
    clamp(Some(charged), now, rate)
}

/// What a caller is told of a bucket that is full at `full_at`.
#[must_use]
pub fn state(full_at: u64, now: u64, rate: Rate, allowed: bool) -> LimitState {
    let ahead = full_at.saturating_sub(now);
    let remaining = rate.bucket.saturating_sub(ahead) / rate.interval;
    LimitState {
        allowed,
        remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
        reset_after: Duration::from_micros(ahead),
        retry_after: Duration::from_micros(ahead.saturating_add(rate.interval).saturating_sub(rate.bucket)),
    }
}

/// Never before now (a full bucket gathers nothing), never further ahead than an empty bucket and its debt. The second
/// matters when the clock steps back or a limit was raised: nobody waits for the old time to come.
fn clamp(full_at: Option<u64>, now: u64, rate: Rate) -> u64 {
    full_at.unwrap_or(now).clamp(now, now.saturating_add(rate.bucket * 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;
    const NOW: u64 = 1_800_000_000 * SECOND;

    fn limit(requests: u32, period_seconds: u32, burst: u32) -> RequestLimit {
        RequestLimit { requests, period_seconds, burst }
    }

    fn micros(duration: Duration) -> u64 {
        u64::try_from(duration.as_micros()).unwrap()
    }

    #[test]
    fn a_new_caller_gets_its_burst_and_no_more() {
        let limit = limit(60, 60, 3);
        let mut stored = None;
        for remaining in [2, 1, 0] {
            let (full_at, state) = decide(stored, NOW, limit);
            assert!(state.allowed);
            assert_eq!(state.remaining, remaining);
            stored = Some(full_at);
        }
        let (full_at, state) = decide(stored, NOW, limit);
        assert!(!state.allowed);
        assert_eq!(Some(full_at), stored, "a refusal changes nothing");
        assert_eq!(state.retry_after, Duration::from_secs(1));
        assert_eq!(state.reset_after, Duration::from_secs(3));
    }

    #[test]
    fn the_bucket_refills_evenly_and_holds_no_more_than_the_burst() {
        let limit = limit(60, 60, 5);
        let empty = charge(None, NOW, limit, 5);
        for (seconds, remaining) in [(1, 0), (2, 1), (3, 2), (5, 4), (3600, 4)] {
            let (_, state) = decide(Some(empty), NOW + seconds * SECOND, limit);
            assert!(state.allowed);
            assert_eq!(state.remaining, remaining, "after {seconds} s");
        }
    }

    #[test]
    fn a_refused_caller_is_admitted_at_the_told_time_and_never_before() {
        for limit in [limit(60, 60, 1), limit(7, 60, 3), limit(1, 86_400, 1), limit(1_000_000, 60, 100_000)] {
            let empty = charge(None, NOW, limit, limit.burst);
            let (_, refused) = decide(Some(empty), NOW, limit);
            assert!(!refused.allowed);
            let told = NOW + micros(refused.retry_after);
            assert!(!decide(Some(empty), told - 1, limit).1.allowed, "{limit:?}");
            assert!(decide(Some(empty), told, limit).1.allowed, "{limit:?}");
        }
    }

    #[test]
    fn retry_after_is_zero_while_a_request_would_be_admitted() {
        let limit = limit(60, 60, 2);
        let (full_at, first) = decide(None, NOW, limit);
        assert_eq!((first.remaining, first.retry_after), (1, Duration::ZERO));
        let (_, second) = decide(Some(full_at), NOW, limit);
        assert_eq!((second.remaining, second.retry_after), (0, Duration::from_secs(1)));
    }

    #[test]
    fn any_minute_admits_at_most_the_limit_and_the_burst() {
        let limit = limit(7, 60, 3);
        let mut stored = None;
        let mut admitted = Vec::new();
        for now in (NOW..NOW + 300 * SECOND).step_by(10_007) {
            let (full_at, state) = decide(stored, now, limit);
            if state.allowed {
                admitted.push(now);
            }
            stored = Some(full_at);
        }
        for start in &admitted {
            let within = admitted.iter().filter(|at| (*start..start + 60 * SECOND).contains(*at)).count();
            assert!(within <= 10, "{within}");
        }
        assert_eq!(admitted.len(), 3 + 34, "3 at once, then 7 a minute for 5 minutes");
    }

    #[test]
    fn charges_after_the_fact_go_below_empty_by_one_bucket_at_most() {
        let limit = limit(60, 60, 2);
        let debt = charge(None, NOW, limit, 3);
        let (_, state) = decide(Some(debt), NOW, limit);
        assert!(!state.allowed);
        assert_eq!(state.remaining, 0);
        assert_eq!(state.retry_after, Duration::from_secs(2));
        let deepest = charge(Some(debt), NOW, limit, u32::MAX);
        assert_eq!(decide(Some(deepest), NOW, limit).1.retry_after, Duration::from_secs(3));
    }

    #[test]
    fn a_clock_that_steps_back_locks_nobody_out() {
        let limit = limit(60, 60, 2);
        let stored = charge(None, NOW, limit, 2);
        let (_, state) = decide(Some(stored), NOW - 3600 * SECOND, limit);
        assert!(state.retry_after <= Duration::from_secs(3), "{:?}", state.retry_after);
    }

    #[test]
    fn absurd_limits_do_not_overflow() {
        let limit = limit(1, u32::MAX, u32::MAX);
        let (full_at, state) = decide(Some(u64::MAX), NOW, limit);
        assert!(!state.allowed);
        assert!(full_at < 1 << 53);
        assert!(decide(None, NOW, RequestLimit { requests: 0, period_seconds: 0, burst: 0 }).1.allowed);
    }
}
