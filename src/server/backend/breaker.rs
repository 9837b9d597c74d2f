//! Whether a model of a backend is worth calling. In: what its calls came to, and the time. Out: call, call as the one
//! that tries, or do not and come back later. Pure: chance comes in too. docs/adr/0004-backend-breaker.md has the why of
//! the figures.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// Failures in a row that open it.
const IN_A_ROW: u32 = 5;
/// Calls are counted for this long, then anew.
const WINDOW: Duration = Duration::from_secs(10);
/// So many calls of a window are needed before half of them failing opens it.
const ENOUGH: u32 = 20;
/// The first pause; each failed try doubles it,
const SHORTEST: Duration = Duration::from_secs(1);
/// up to here: so long, at most, a backend that is well again is taken for ill.
const LONGEST: Duration = Duration::from_secs(4);
/// Part of a pause that is waited, drawn anew each time: pods that lost a backend together do not come back together.
pub(super) const SPREAD: RangeInclusive<f64> = 0.75..=1.0;

/// What a call may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permit {
    /// Go ahead.
    Call,
    /// Go ahead, as the only one: whether the others may depends on what comes of it.
    Probe,
    /// Not before this long.
    Refused(Duration),
}

/// Where a breaker stands, as `chat_backend_breaker_state` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Closed = 0,
    HalfOpen = 1,
    Open = 2,
}

/// Closed until calls fail.
#[derive(Clone, Copy, Debug)]
pub(super) enum Breaker {
    /// Calls go through and are counted.
    Closed(Counts),
    /// None goes through before `until`; the first after it tries.
    Open { until: Instant, pause: Duration },
    /// One tries. If nothing is heard of it before `until`, the next one does.
    Probing { until: Instant, pause: Duration },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    since: Instant,
    calls: u32,
    failures: u32,
    in_a_row: u32,
}

impl Breaker {
    pub(super) fn new(now: Instant) -> Self {
        Self::Closed(Counts { since: now, calls: 0, failures: 0, in_a_row: 0 })
    }

    /// Asks for permission.
    pub(super) fn permit(&mut self, now: Instant) -> Permit {
        match *self {
            Self::Closed(_) => Permit::Call,
            Self::Open { until, .. } | Self::Probing { until, .. } if now < until => {
                Permit::Refused(until - now)
            }
            Self::Open { pause, .. } | Self::Probing { pause, .. } => {
                *self = Self::Probing { until: now + LONGEST, pause };
                Permit::Probe
            }
        }
    }

    pub(super) fn state(&self) -> State {
        match self {
            Self::Closed(_) => State::Closed,
            Self::Open { .. } => State::Open,
            Self::Probing { .. } => State::HalfOpen,
        }
    }

    /// The backend answered, whatever it said. What was called before the pause began says nothing of what is now.
    pub(super) fn answered(&mut self, now: Instant, permit: Permit) {
        match (&mut *self, permit) {
            (Self::Closed(counts), _) => {
                counts.count(now);
                counts.in_a_row = 0;
            }
            (_, Permit::Probe) => *self = Self::new(now),
            _ => {}
        }
    }

    /// It did not, or said that it could not. Of the pause `part`, one of [`SPREAD`], is waited.
    pub(super) fn failed(&mut self, now: Instant, permit: Permit, part: f64) {
        let pause = match (&mut *self, permit) {
            (Self::Closed(counts), _) => {
                counts.count(now);
                counts.failures += 1;
                counts.in_a_row += 1;
                let half = counts.calls >= ENOUGH && counts.failures * 2 >= counts.calls;
                if counts.in_a_row < IN_A_ROW && !half {
                    return;
                }
                SHORTEST
            }
            (Self::Probing { pause, .. }, Permit::Probe) => (*pause * 2).min(LONGEST),
            _ => return,
        };
        *self = Self::Open { until: now + pause.mul_f64(part), pause };
    }

    /// Nobody waited for what would have come of it. After a probe the next call tries.
    pub(super) fn given_up(&mut self, now: Instant, permit: Permit) {
        if let (Self::Probing { pause, .. }, Permit::Probe) = (&*self, permit) {
            *self = Self::Open { until: now, pause: *pause };
        }
    }
}

impl Counts {
    fn count(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) >= WINDOW {
            *self = Self { since: now, calls: 0, failures: 0, in_a_row: self.in_a_row };
        }
        self.calls += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn failing(breaker: &mut Breaker, now: Instant, times: u32) {
        for _ in 0..times {
            breaker.failed(now, Permit::Call, 1.0);
        }
    }

    #[test]
    fn five_failures_in_a_row_open_it_and_an_answer_in_between_does_not_let_it() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        failing(&mut breaker, now, 4);
        breaker.answered(now, Permit::Call);
        failing(&mut breaker, now, 4);
        assert_eq!(breaker.permit(now), Permit::Call);
        failing(&mut breaker, now, 1);
        assert_eq!(breaker.permit(now), Permit::Refused(SHORTEST));
        assert_eq!(breaker.state(), State::Open);
    }

    #[test]
    fn half_of_twenty_within_the_window_open_it() {
        for (apart, open) in [(MS, true), (WINDOW / 10, false)] {
            let mut now = Instant::now();
            let mut breaker = Breaker::new(now);
            for call in 0..20 {
                match call % 2 {
                    0 => breaker.answered(now, Permit::Call),
                    _ => breaker.failed(now, Permit::Call, 1.0),
                }
                now += apart;
            }
            assert_eq!(breaker.state() == State::Open, open, "{apart:?}");
        }
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        for call in 0..100 {
            match call % 5 {
                0 | 1 => breaker.failed(now, Permit::Call, 1.0),
                _ => breaker.answered(now, Permit::Call),
            }
        }
        assert_eq!(breaker.state(), State::Closed, "two of five");
    }

    #[test]
    fn one_tries_after_a_pause_that_doubles_up_to_four_seconds() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(now);
        failing(&mut breaker, now, IN_A_ROW);
        for pause in [1000, 2000, 4000, 4000] {
            assert_eq!(breaker.permit(now + MS * (pause - 1)), Permit::Refused(MS), "{pause}");
            now += MS * pause;
            assert_eq!(breaker.permit(now), Permit::Probe, "{pause}");
            assert_eq!(breaker.permit(now), Permit::Refused(LONGEST), "one at a time");
            assert_eq!(breaker.state(), State::HalfOpen);
            breaker.failed(now, Permit::Probe, 1.0);
        }
        assert_eq!(breaker.permit(now + LONGEST), Permit::Probe);
        breaker.answered(now + LONGEST, Permit::Probe);
        assert_eq!(breaker.permit(now + LONGEST), Permit::Call);
        failing(&mut breaker, now, IN_A_ROW);
        assert_eq!(breaker.permit(now), Permit::Refused(SHORTEST), "and begins anew");
    }

    #[test]
    fn a_part_of_a_pause_is_waited() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        for _ in 0..IN_A_ROW {
            breaker.failed(now, Permit::Call, 0.75);
        }
        assert_eq!(breaker.permit(now), Permit::Refused(MS * 750));
    }

    #[test]
    fn calls_of_before_the_pause_change_nothing() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        failing(&mut breaker, now, IN_A_ROW);
        breaker.answered(now, Permit::Call);
        failing(&mut breaker, now + MS, 100);
        breaker.given_up(now, Permit::Call);
        assert_eq!(breaker.permit(now), Permit::Refused(SHORTEST));
    }

    #[test]
    fn a_probe_that_nobody_waits_for_or_hears_of_is_followed_by_another() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        failing(&mut breaker, now, IN_A_ROW);
        let later = now + SHORTEST;
        assert_eq!(breaker.permit(later), Permit::Probe);
        breaker.given_up(later, Permit::Probe);
        assert_eq!(breaker.permit(later), Permit::Probe);
        assert_eq!(breaker.permit(later + MS * 3999), Permit::Refused(MS));
        assert_eq!(breaker.permit(later + LONGEST), Permit::Probe);
    }
}
