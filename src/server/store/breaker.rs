//! Whether a Redis is worth asking. In: what its operations came to, and the time. Out: yes, no, or "somebody has to try",
//! so that an outage costs the requests of one moment, and the others nothing. Pure: chance comes in too.
//! Why it opens as early as it does: docs/adr/0003-store-breaker.md.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// Nothing is asked for this long after it has opened: a single slow answer costs no more.
const SHORTEST: Duration = Duration::from_millis(250);
/// And for this long in an outage, each failed attempt doubling it up to here.
const LONGEST: Duration = Duration::from_secs(1);
/// Operations are counted for this long.
const WINDOW: Duration = Duration::from_secs(1);
/// Fewer operations than this in a window prove nothing.
const ENOUGH: u32 = 20;

/// Part of a pause that is waited, drawn anew each time: pods that lost Redis together do not come back together.
pub const SPREAD: RangeInclusive<f64> = 0.75..=1.0;

/// What a request may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// Ask.
    Closed,
    /// Go on without; and somebody has to try, for this is the only one who is told so.
    Probe,
    /// Go on without.
    Refused,
}

/// Closed while operations are answered.
#[derive(Debug, Default)]
pub struct Breaker {
    open: Option<Open>,
    /// The last answer.
    answered: Option<Instant>,
    window: Option<Window>,
    /// The pause that the last outage ended with, and when: one that comes at once is the same outage.
    last: Option<(Duration, Instant)>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    until: Instant,
    pause: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    began: Instant,
    answered: u32,
    failed: u32,
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

    /// Whether requests go on without.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// An operation was answered. One that was asked before it opened does not close it.
    pub fn answered(&mut self, now: Instant) {
        self.answered = Some(now);
        self.window(now).answered += 1;
    }

    /// An operation that began at this time failed. Opens when nothing else was answered since then, or when at least
    /// half of enough operations failed. Of the pause, `part`, one of [`SPREAD`], is waited. Says whether it opened.
    pub fn failed(&mut self, began: Instant, now: Instant, part: f64) -> bool {
        if self.is_open() {
            return false;
        }
        let window = self.window(now);
        window.failed += 1;
        let mostly = window.failed + window.answered >= ENOUGH && window.failed >= window.answered;
        let silent = self.answered.is_none_or(|answered| answered < began);
        if silent || mostly {
            let again = self.last.take().filter(|(_, closed)| now < *closed + LONGEST);
            self.pause(now, again.map_or(SHORTEST, |(pause, _)| (pause * 2).min(LONGEST)), part);
        }
        silent || mostly
    }

    /// What a probe came to. Says whether it closed.
    pub fn probed(&mut self, answered: bool, now: Instant, part: f64) -> bool {
        let Some(open) = self.open else { return false };
        if answered {
            *self = Self { last: Some((open.pause, now)), answered: Some(now), ..Self::default() };
        } else {
            self.pause(now, (open.pause * 2).min(LONGEST), part);
        }
        answered
    }

    fn pause(&mut self, now: Instant, pause: Duration, part: f64) {
        self.open = Some(Open { until: now + pause.mul_f64(part), pause });
    }

    fn window(&mut self, now: Instant) -> &mut Window {
        let fresh = Window { began: now, answered: 0, failed: 0 };
        let window = self.window.get_or_insert(fresh);
        if now >= window.began + WINDOW {
            *window = fresh;
        }
        window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A breaker that opened at this time.
    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        assert!(breaker.failed(now, now, 1.0));
        breaker
    }

    #[test]
    fn when_nothing_is_answered_the_first_failure_opens_it_and_then_one_tries() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        assert_eq!(breaker.permit(start), Permit::Closed);
        breaker.answered(start);
        assert!(breaker.failed(start + MS, start + MS * 51, 1.0));
        let opened = start + MS * 51;
        assert_eq!(breaker.permit(opened), Permit::Refused);
        assert_eq!(breaker.permit(opened + SHORTEST.mul_f64(0.99)), Permit::Refused);
        assert_eq!(breaker.permit(opened + SHORTEST), Permit::Probe);
        assert_eq!(breaker.permit(opened + SHORTEST), Permit::Refused, "one at a time");
        assert!(breaker.probed(true, opened + SHORTEST, 1.0));
        assert_eq!(breaker.permit(opened + SHORTEST), Permit::Closed);
    }

    #[test]
    fn a_slow_answer_among_others_does_not_open_it() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for late in 0..100 {
            let began = start + MS * 10 * late;
            breaker.answered(began + MS * 5);
            assert!(!breaker.failed(began, began + MS * 50, 1.0) || late >= 9, "{late}");
            if breaker.is_open() {
                assert!(late >= 9, "half of twenty");
                return;
            }
        }
        panic!("half of the operations failed");
    }

    #[test]
    fn one_failure_in_ten_never_opens_it() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for number in 0..10_000 {
            let began = start + MS * number;
            let now = began + MS / 2;
            breaker.answered(now);
            if number % 10 == 0 {
                assert!(!breaker.failed(began, now, 1.0), "{number}");
            }
        }
    }

    #[test]
    fn answers_that_come_late_do_not_close_it() {
        let now = Instant::now();
        let mut breaker = opened(now);
        breaker.answered(now + MS);
        assert_eq!(breaker.permit(now + MS), Permit::Refused);
    }

    #[test]
    fn pauses_double_up_to_a_second_and_start_anew_after_an_outage() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        for pause in [250, 500, 1000, 1000] {
            assert_eq!(breaker.permit(now + MS * (pause - 1)), Permit::Refused, "{pause}");
            now += MS * pause;
            assert_eq!(breaker.permit(now), Permit::Probe, "{pause}");
            assert!(!breaker.probed(false, now, 1.0));
        }
        assert!(breaker.probed(true, now, 1.0));
        now += LONGEST;
        assert!(breaker.failed(now, now, 1.0));
        assert_eq!(breaker.permit(now + SHORTEST), Permit::Probe);
    }

    #[test]
    fn one_that_answers_probes_and_fails_all_else_is_tried_ever_less() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        for pause in [250, 500, 1000, 1000] {
            now += MS * pause;
            assert_eq!(breaker.permit(now), Permit::Probe, "{pause}");
            assert!(breaker.probed(true, now, 1.0));
            now += MS;
            assert!(breaker.failed(now, now, 1.0));
        }
    }

    #[test]
    fn a_part_of_the_pause_is_waited_and_the_next_one_doubles_the_whole() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        breaker.failed(now, now, 0.75);
        assert_eq!(breaker.permit(now + SHORTEST.mul_f64(0.74)), Permit::Refused);
        let later = now + SHORTEST.mul_f64(0.75);
        assert_eq!(breaker.permit(later), Permit::Probe);
        breaker.probed(false, later, 1.0);
        assert_eq!(breaker.permit(later + MS * 499), Permit::Refused);
        assert_eq!(breaker.permit(later + MS * 500), Permit::Probe);
    }

    #[test]
    fn failures_of_those_who_waited_together_count_once() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        let opened = (0..100).filter(|late| breaker.failed(now, now + MS * *late, 1.0)).count();
        assert_eq!(opened, 1);
        assert_eq!(breaker.permit(now + SHORTEST), Permit::Probe);
    }

    #[test]
    fn a_probe_that_is_never_heard_of_again_is_followed_by_another() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert_eq!(breaker.permit(now + SHORTEST), Permit::Probe);
        assert_eq!(breaker.permit(now + SHORTEST + LONGEST), Permit::Probe);
        assert!(breaker.is_open());
    }
}
