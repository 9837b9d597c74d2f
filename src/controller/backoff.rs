//! When an object that failed is tried again. In: failures and successes. Out: a delay that grows from a second to five
//! minutes and starts over after a success. kube only knows constant delays: it tells nobody of successes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::ObjectKey;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(5);

/// Consecutive failures by object.
#[derive(Debug, Default)]
pub struct Backoff(Mutex<HashMap<ObjectKey, u32>>);

impl Backoff {
    /// Counts a failure and says when to try again.
    pub fn failed(&self, key: &ObjectKey) -> Duration {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key.clone()).or_insert(0);
        let delay = jittered(delay(*count), 0.1);
        *count = count.saturating_add(1);
        delay
    }

    /// Forgets an object: it succeeded, or it is gone.
    pub fn reset(&self, key: &ObjectKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// Objects that wait after a failure.
    pub fn waiting(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

fn delay(failures: u32) -> Duration {
    FIRST.saturating_mul(2_u32.saturating_pow(failures)).min(LONGEST)
}

/// `duration` ± `part` of it, so that many objects do not come back at once.
pub(super) fn jittered(duration: Duration, part: f64) -> Duration {
    duration.mul_f64(1.0 + part * (rand::random::<f64>() * 2.0 - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey { namespace: "chat".into(), name: name.into() }
    }

    #[test]
    fn delays_double_to_five_minutes() {
        let seconds: Vec<u64> = [0, 1, 2, 7, 8, 9, 40].map(|n| delay(n).as_secs()).into();
        assert_eq!(seconds, [1, 2, 4, 128, 256, 300, 300]);
    }

    #[test]
    fn a_success_starts_over_and_objects_do_not_share_their_failures() {
        let backoff = Backoff::default();
        for _ in 0..5 {
            backoff.failed(&key("a"));
        }
        assert!(backoff.failed(&key("b")) < Duration::from_millis(1200));
        assert!(backoff.failed(&key("a")) > Duration::from_secs(25));
        assert_eq!(backoff.waiting(), 2);
        backoff.reset(&key("a"));
        assert!(backoff.failed(&key("a")) < Duration::from_millis(1200));
    }
}
