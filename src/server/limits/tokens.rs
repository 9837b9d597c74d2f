//! The bucket of tokens. In: how it stood, the time, and what a request reserves or really used. Out: how it stands. Pure:
//! stores hold the state and own the clock (`store/limits.lua` is the same rule inside Redis).
//!
//! Whole tokens, and what is on its way to the next one: nothing is rounded, however often the bucket is looked at.

use std::time::Duration;

use crate::server::store::TokenState;

/// The time in which an empty bucket fills, in µs.
const MINUTE: u64 = 60_000_000;
/// The largest bucket: parts of its refill in a minute stay below 2^53, up to where Lua's numbers are exact.
const LARGEST: u32 = 150_000_000;
/// How far below empty a bucket can be, in buckets, which is also minutes: what a backend reports is not trusted, and a
/// caller waits for what it had, not for ever.
const DEEPEST: i64 = 60;

/// Tokens in a bucket whose refill takes a minute.
#[must_use]
pub fn size(per_minute: u32) -> u32 {
    per_minute.clamp(1, LARGEST)
}

/// What a request takes of a bucket of this size: all of it at most, so that a full bucket admits any request.
#[must_use]
pub fn taken(demand: u64, size: u32) -> i64 {
    i64::from(u32::try_from(demand).unwrap_or(u32::MAX).min(size))
}

/// How a bucket stood at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Whole tokens; below zero where more was used than reserved.
    pub tokens: i64,
    /// Parts of the next one, each 1/60,000,000.
    pub part: u64,
    /// When, in µs.
    pub at: u64,
}

impl Level {
    /// A bucket of this size that nobody has taken from.
    #[must_use]
    pub fn full(size: u32, now: u64) -> Self {
        Self { tokens: i64::from(size), part: 0, at: now }
    }

    /// How it stands now. A clock that stepped back refills nothing.
    #[must_use]
    pub fn refilled(self, size: u32, now: u64) -> Self {
        let passed = now.saturating_sub(self.at);
        let (minutes, rest) = (passed / MINUTE, passed % MINUTE);
        let parts = self.part.min(MINUTE - 1) + rest * u64::from(size);
        let gained = minutes.saturating_mul(u64::from(size)).saturating_add(parts / MINUTE);
        let floor = -DEEPEST * i64::from(size);
        let tokens = self.tokens.max(floor).saturating_add_unsigned(gained);
        if tokens >= i64::from(size) {
            return Self::full(size, now);
        }
        Self { tokens, part: parts % MINUTE, at: now }
    }

    /// After tokens were taken, or given back where `tokens` is below zero.
    #[must_use]
    pub fn less(self, tokens: i64, size: u32) -> Self {
        let left = self.tokens.saturating_sub(tokens).max(-DEEPEST * i64::from(size));
        if left >= i64::from(size) { Self::full(size, self.at) } else { Self { tokens: left, ..self } }
    }

    /// Time until it holds this many tokens, rounded up to a µs.
    #[must_use]
    pub fn until(self, tokens: i64, size: u32) -> Duration {
        let missing = u64::try_from(tokens.saturating_sub(self.tokens)).unwrap_or(0);
        let parts = missing.saturating_mul(MINUTE).saturating_sub(self.part);
        Duration::from_micros(parts.div_ceil(u64::from(size)))
    }

    /// What a caller is told.
    #[must_use]
    pub fn state(self, size: u32) -> TokenState {
        let remaining = u32::try_from(self.tokens.max(0)).unwrap_or(u32::MAX);
        TokenState { remaining, reset_after: self.until(i64::from(size), size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000_000;

    fn level(tokens: i64, size: u32, after: u64) -> Level {
        Level { tokens, part: 0, at: NOW }.refilled(size, NOW + after)
    }

    #[test]
    fn buckets_refill_evenly_up_to_their_size() {
        for (size, tokens, micros, expected) in [
            (100, 0, 599_999, 0),
            (100, 0, 600_000, 1),
            (100, 0, MINUTE - 1, 99),
            (100, 0, MINUTE, 100),
            (100, 99, MINUTE * 1000, 100),
            (100, -50, MINUTE, 50),
            (7, 0, 8_571_428, 0),
            (7, 0, 8_571_429, 1),
            (LARGEST, -10, MINUTE, i64::from(LARGEST) - 10),
            (1, -60, MINUTE * 60, 0),
        ] {
            assert_eq!(level(tokens, size, micros).tokens, expected, "{tokens} of {size} after {micros} µs");
        }
    }

    #[test]
    fn looking_often_loses_nothing() {
        for size in [1, 7, 59, 100_003, LARGEST] {
            let mut often = Level { tokens: -3, part: 0, at: NOW };
            for step in 1..=1000 {
                often = often.refilled(size, NOW + step * 59_999);
            }
            assert_eq!(often, level(-3, size, 1000 * 59_999), "{size}");
        }
    }

    #[test]
    fn who_waits_as_told_finds_what_was_promised_and_not_earlier() {
        for size in [1, 7, 100, 99_991] {
            let debt = level(-5, size, 12_345);
            for wanted in [0, 1, i64::from(size)] {
                let wait = u64::try_from(debt.until(wanted, size).as_micros()).unwrap();
                assert!(debt.refilled(size, debt.at + wait).tokens >= wanted, "{size} {wanted}");
                assert!(
                    wait == 0 || debt.refilled(size, debt.at + wait - 1).tokens < wanted,
                    "{size} {wanted}"
                );
            }
            assert_eq!(i64::from(debt.state(size).remaining), debt.tokens.max(0));
        }
    }

    #[test]
    fn demands_are_a_bucket_at_most_and_usage_an_hour_at_most() {
        assert_eq!(taken(5, 100), 5);
        assert_eq!(taken(u64::MAX, 100), 100);
        let full = Level::full(100, NOW);
        assert_eq!(full.less(150, 100).tokens, -50);
        assert_eq!(full.less(i64::MAX, 100).until(0, 100), Duration::from_hours(1));
        assert_eq!(full.less(60, 100).less(-100, 100), full, "no more than a whole bucket comes back");
    }

    #[test]
    fn clocks_that_step_back_and_absurd_states_are_no_panic() {
        let later = Level { tokens: 5, part: 1, at: NOW };
        assert_eq!(later.refilled(100, NOW - 1), Level { at: NOW - 1, ..later });
        for tokens in [i64::MIN, i64::MAX] {
            let state = Level { tokens, part: u64::MAX, at: 0 }.refilled(LARGEST, u64::MAX).state(LARGEST);
            assert!(state.reset_after <= Duration::from_hours(2), "{state:?}");
        }
        assert_eq!(size(0), 1);
        assert_eq!(size(u32::MAX), LARGEST);
    }
}
