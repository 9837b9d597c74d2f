//! Whether a call is made once more, and when. In: what came of it. Out: the reason for another try and its wait, within
//! a budget, so that an outage is not answered with more calls. Pure: chance and time come in.

use std::time::{Duration, Instant};

use super::BackendError;

/// The longest first wait; each further one may be twice as long,
const BASE: Duration = Duration::from_millis(100);
/// up to here.
const LONGEST: Duration = Duration::from_secs(2);
/// A `Retry-After` up to this is waited for; a caller is better off being told of a longer one.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of so many requests,
const REQUESTS_A_RETRY: u32 = 5;
/// one may be tried again, but so many in any case, or a quiet service could try none;
const ALWAYS: u32 = 3;
/// counted for this long, then anew.
const WINDOW: Duration = Duration::from_secs(10);

/// Why a call is worth another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Retry {
    /// Label `reason` of `chat_backend_retries_total`.
    pub reason: &'static str,
    /// What the backend asked to wait.
    pub after: Option<Duration>,
}

impl Retry {
    /// None where another try cannot help, or might do a second time what was done: then the caller decides.
    pub(super) fn of(error: &BackendError, written: bool) -> Option<Self> {
        let (reason, after) = match error {
            BackendError::RateLimited { retry_after } => ("rate_limited", *retry_after),
            BackendError::Overloaded { retry_after, .. } => ("unavailable", Some(*retry_after)),
            BackendError::Unavailable(_) | BackendError::Timeout(_) if !written => ("connect", None),
            BackendError::Unavailable(_) => ("unavailable", None),
            BackendError::Timeout(_)
            | BackendError::Rejected { .. }
            | BackendError::Auth
            | BackendError::QuotaExhausted
            | BackendError::Broken(_)
            | BackendError::NotConfigured(_) => return None,
        };
        Some(Self { reason, after })
    }

    /// How long to wait before the same model is tried once more, `tries` of it having failed; `part`, from 0 to 1, is
    /// chance. None: longer than a caller is kept waiting.
    pub(super) fn wait(self, tries: u32, part: f64) -> Option<Duration> {
        let doubled = BASE.saturating_mul(1 << tries.saturating_sub(1).min(10));
        let jitter = doubled.min(LONGEST).mul_f64(part);
        match self.after {
            None => Some(jitter),
            Some(after) => Some(after + jitter).filter(|_| after <= PATIENCE),
        }
    }
}

/// How many tries are left to a model of which `later` fallbacks follow: each of them keeps one.
pub(super) fn share(left: u32, later: usize) -> u32 {
    left.saturating_sub(u32::try_from(later).unwrap_or(u32::MAX)).max(1).min(left)
}

/// What may be tried again, of all requests to one backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    since: Instant,
    requests: u32,
    retries: u32,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, requests: 0, retries: 0 }
    }

    /// A request makes its first call.
    pub(super) fn request(&mut self, now: Instant) {
        self.roll(now);
        self.requests = self.requests.saturating_add(1);
    }

    /// Takes a retry, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.roll(now);
        let may = self.retries < ALWAYS.max(self.requests / REQUESTS_A_RETRY);
        self.retries += u32::from(may);
        may
    }

    fn roll(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) >= WINDOW {
            *self = Self::new(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn only_what_another_try_can_help_is_tried_again() {
        let rejected = |status| BackendError::Rejected {
            status,
            message: String::new(),
            kind: None,
            param: None,
            code: None,
        };
        let unavailable = || BackendError::Unavailable("x".into());
        let overloaded = || BackendError::Overloaded { why: "x".into(), retry_after: S };
        let cases = [
            (rejected(400), true, None),
            (rejected(404), true, None),
            (rejected(422), true, None),
            (BackendError::Auth, true, None),
            (BackendError::QuotaExhausted, true, None),
            (BackendError::Broken("x".into()), true, None),
            (BackendError::NotConfigured("x".into()), false, None),
            (BackendError::Timeout(S), true, None),
            (BackendError::Timeout(S), false, Some(("connect", None))),
            (unavailable(), false, Some(("connect", None))),
            (unavailable(), true, Some(("unavailable", None))),
            (overloaded(), true, Some(("unavailable", Some(S)))),
            (BackendError::RateLimited { retry_after: None }, true, Some(("rate_limited", None))),
            (BackendError::RateLimited { retry_after: Some(S) }, true, Some(("rate_limited", Some(S)))),
        ];
        for (error, written, expected) in cases {
            let found = Retry::of(&error, written).map(|retry| (retry.reason, retry.after));
            assert_eq!(found, expected, "{error:?} written={written}");
        }
    }

    #[test]
    fn waits_grow_from_nothing_to_two_seconds_and_are_never_shorter_than_what_was_asked_for() {
        let millis =
            |after, tries, part| Retry { reason: "x", after }.wait(tries, part).map(|w| w.as_millis());
        for (after, tries, part, expected) in [
            (None, 1, 0.0, Some(0)),
            (None, 1, 1.0, Some(100)),
            (None, 2, 0.5, Some(100)),
            (None, 3, 1.0, Some(400)),
            (None, 30, 1.0, Some(2000)),
            (Some(S), 1, 0.0, Some(1000)),
            (Some(S), 1, 1.0, Some(1100)),
            (Some(5 * S), 1, 0.0, Some(5000)),
            (Some(6 * S), 1, 0.0, None),
        ] {
            assert_eq!(millis(after, tries, part), expected, "{after:?} {tries} {part}");
        }
    }

    #[test]
    fn the_asked_model_has_the_tries_that_its_fallbacks_leave() {
        for (left, later, expected) in
            [(3, 0, 3), (3, 1, 2), (3, 2, 1), (3, 9, 1), (1, 0, 1), (1, 1, 1), (0, 1, 0)]
        {
            assert_eq!(share(left, later), expected, "{left} {later}");
        }
    }

    #[test]
    fn s7_a_fifth_of_the_requests_is_tried_again_and_a_few_in_any_case() {
        for (requests, expected) in [(1, 3), (10, 3), (15, 3), (20, 4), (1000, 200)] {
            let now = Instant::now();
            let mut budget = Budget::new(now);
            let mut retries = 0;
            for _ in 0..requests {
                budget.request(now);
                retries += (0..3).filter(|_| budget.take(now)).count();
            }
            assert_eq!(retries, expected, "{requests}");
            assert!(!budget.take(now + 9 * S) && budget.take(now + WINDOW), "{requests}");
        }
    }
}
