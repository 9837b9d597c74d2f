//! Redis' clock, as its last word on it and the time since tell. In: the µs that answers hold. Out: what that clock shows at
//! most when a time has come here.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The last word. Nodes of a Cluster have clocks of their own: who needs to be exact asks again when told the time.
#[derive(Default)]
pub(super) struct Clock(Mutex<Option<(Instant, u64)>>);

impl Clock {
    /// An answer that was just heard said that it is `now`.
    pub(super) fn told(&self, now: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), now));
    }

    /// µs that are shown no later than in `ahead` from here: it was said before it was heard. 0 before anything was heard.
    pub(super) fn in_time(&self, ahead: Duration) -> u64 {
        let told = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let passed =
            |heard: Instant| u64::try_from((heard.elapsed() + ahead).as_micros()).unwrap_or(u64::MAX);
        told.map_or(0, |(heard, now)| now.saturating_add(passed(heard)))
    }
}
