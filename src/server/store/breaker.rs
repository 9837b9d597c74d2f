//! Whether Redis is worth asking. In: what its operations came to, and the time. Out: yes, no, or "you are the one that
//! tries", so that an outage costs about one waiting request a second and the others nothing. Pure: chance comes in too.
//! Why the first failure opens it: docs/adr/0003-store-breaker.md.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// Nothing is asked for this long after the first failure: a single slow answer costs no more.
const SHORTEST: Duration = Duration::from_millis(250);
/// And for this long in an outage, each failed attempt doubling it up to here.
const LONGEST: Duration = Duration::from_secs(1);

/// Part of a pause that is waited, drawn anew each time: pods that lost Redis together do not come back together.
pub const SPREAD: RangeInclusive<f64> = 0.75..=1.0;

/// What a request may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// Ask.
    Closed,
    /// Ask, as the only one: whether the others may depends on the answer.
    Probe,
    /// Fail at once.
    Refused,
}

/// Closed while operations are answered; open after one was not.
#[derive(Debug, Default)]
pub struct Breaker {
    open: Option<Open>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    until: Instant,
    pause: Duration,
}

impl Breaker {
    /// Asks for permission. A probe moves the time of the next one, so nothing is stuck if it is never heard of again.
    pub fn permit(&mut self, now: Instant) -> Permit {
        match &mut self.open {
            None => Permit::Closed,
            Some(open) if now < open.until => Permit::Refused,
            Some(open) => {
                open.until = now + LONGEST;
                Permit::Probe
            }
        }
    }

    /// Whether a failure was the last thing heard.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// An operation was answered.
    pub fn answered(&mut self) {
        self.open = None;
    }

    /// An operation was not answered. Those that were waiting when the first one failed do not prolong the pause, of
    /// which `part`, one of [`SPREAD`], is waited.
    pub fn failed(&mut self, now: Instant, permit: Permit, part: f64) {
        let pause = match self.open {
            None => SHORTEST,
            Some(open) if permit == Permit::Probe => (open.pause * 2).min(LONGEST),
            Some(_) => return,
        };
        self.open = Some(Open { until: now + pause.mul_f64(part), pause });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn after_a_failure_requests_fail_at_once_and_then_one_tries() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        assert_eq!(breaker.permit(start), Permit::Closed);
        breaker.failed(start, Permit::Closed, 1.0);
        assert_eq!(breaker.permit(start), Permit::Refused);
        assert_eq!(breaker.permit(start + SHORTEST.mul_f64(0.99)), Permit::Refused);
        assert_eq!(breaker.permit(start + SHORTEST), Permit::Probe);
        assert_eq!(breaker.permit(start + SHORTEST), Permit::Refused, "one at a time");
        breaker.answered();
        assert_eq!(breaker.permit(start + SHORTEST), Permit::Closed);
    }

    #[test]
    fn pauses_double_up_to_a_second_and_start_anew_after_an_answer() {
        let mut now = Instant::now();
        let mut breaker = Breaker::default();
        breaker.failed(now, Permit::Closed, 1.0);
        for pause in [250, 500, 1000, 1000] {
            assert_eq!(breaker.permit(now + MS * (pause - 1)), Permit::Refused, "{pause}");
            now += MS * pause;
            assert_eq!(breaker.permit(now), Permit::Probe, "{pause}");
            breaker.failed(now, Permit::Probe, 1.0);
        }
        breaker.answered();
        breaker.failed(now, Permit::Closed, 1.0);
        assert_eq!(breaker.permit(now + SHORTEST), Permit::Probe);
    }

    #[test]
    fn a_part_of_the_pause_is_waited_and_the_next_one_doubles_the_whole() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        breaker.failed(now, Permit::Closed, 0.75);
        assert_eq!(breaker.permit(now + SHORTEST.mul_f64(0.74)), Permit::Refused);
        let later = now + SHORTEST.mul_f64(0.75);
        assert_eq!(breaker.permit(later), Permit::Probe);
        breaker.failed(later, Permit::Probe, 1.0);
        assert_eq!(breaker.permit(later + MS * 499), Permit::Refused);
        assert_eq!(breaker.permit(later + MS * 500), Permit::Probe);
    }

    #[test]
    fn failures_of_those_who_waited_together_count_once() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for late in 0..100 {
            breaker.failed(now + MS * late, Permit::Closed, 1.0);
        }
        assert_eq!(breaker.permit(now + SHORTEST), Permit::Probe);
    }

    #[test]
    fn a_probe_that_is_never_heard_of_again_is_followed_by_another() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        breaker.failed(now, Permit::Closed, 1.0);
        assert_eq!(breaker.permit(now + SHORTEST), Permit::Probe);
        assert_eq!(breaker.permit(now + SHORTEST + LONGEST), Permit::Probe);
        assert!(breaker.is_open());
    }
}
