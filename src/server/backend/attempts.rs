//! What became of each call that a request made to the backend. In: a note from whoever makes a call. Out: what has to be
//! charged for, at any moment, also when the request is dropped in the middle.
//!
//! Every attempt counts, not only the last one. By itself: one that was never [`written`](Attempt::written) costs
//! nothing. A written one costs what the backend reported ([`Attempt::usage`]). Without a report a stream costs its
//! prompt and what was delivered, and a plain call, cut, timed out or given up, its whole reservation; unless the
//! backend [refused](Attempt::refused) it, which says that there is nothing to pay.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::server::models::Model;
use crate::server::settlement::Usage;

/// One call to the backend.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The model that was asked: the request's, or a fallback of it. Has the price.
    pub model: Arc<Model>,
    /// Whether the request was handed to a connection, so that the backend may have got it.
    pub written: bool,
    /// Whether the backend answered that it did not do it: with another status than 200 or an error in place of an answer.
    pub refused: bool,
    /// What the backend reported.
    pub usage: Option<Usage>,
}

/// All attempts of one request. Cheap to clone; every clone is the same log, so that what settles the request sees the
/// attempts of a call that was dropped before it answered.
#[derive(Clone, Debug, Default)]
pub struct AttemptLog {
    entries: Arc<Mutex<Vec<Entry>>>,
}

#[derive(Clone, Debug)]
struct Entry {
    model: Arc<Model>,
    marks: Marks,
    usage: Option<Usage>,
}

impl AttemptLog {
    /// A call to this model begins; whoever makes it sets the marks.
    #[must_use]
    pub fn begin(&self, model: Arc<Model>) -> Marks {
        let marks = Marks::default();
        self.entries().push(Entry { model, marks: marks.clone(), usage: None });
        marks
    }

    /// The backend reported this of the call that began last.
    pub fn reported(&self, usage: Usage) {
        if let Some(last) = self.entries().last_mut() {
            last.usage = Some(usage);
        }
    }

    /// The attempts so far, in order; empty for an answer of the cache.
    #[must_use]
    pub fn attempts(&self) -> Vec<Attempt> {
        let attempt = |entry: &Entry| Attempt {
            model: entry.model.clone(),
            written: entry.marks.written.is_set(),
            refused: entry.marks.refused.is_set(),
            usage: entry.usage,
        };
        self.entries().iter().map(attempt).collect()
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        // Nothing panics while it holds the lock, and an entry is whole at any time.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a backend notes of a call while it makes it.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    /// The request was handed to a connection: from now on the backend may have it.
    pub written: Mark,
    /// The backend answered that it did not do it, as [`Attempt::refused`].
    pub refused: Mark,
}

impl Marks {
    /// Whether the backend may have done something for the request.
    #[must_use]
    pub fn may_cost(&self) -> bool {
        self.written.is_set() && !self.refused.is_set()
    }
}

/// Set once, never cleared. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Mark(Arc<AtomicBool>);

impl Mark {
    /// From now on it is so.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it is.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::config::{BackendConfig, DynamicConfig};
    use crate::server::models::Models;

    #[test]
    fn every_attempt_is_seen_through_every_clone() {
        let models = Models::new(&DynamicConfig::new("m", BackendConfig::Echo {}));
        let log = AttemptLog::default();
        let settles = log.clone();
        assert!(settles.attempts().is_empty());

        let first = log.begin(models.default().clone());
        assert!(!settles.attempts()[0].written);
        first.written.set();
        assert!(first.may_cost());
        first.refused.set();
        assert!(!first.may_cost());
        log.begin(models.default().clone()).written.set();
        let usage = Usage { prompt_tokens: 1, completion_tokens: 2 };
        log.reported(usage);

        let seen = settles.attempts();
        assert_eq!(
            seen.iter().map(|seen| (seen.written, seen.refused, seen.usage)).collect::<Vec<_>>(),
            [(true, true, None), (true, false, Some(usage))]
        );
        assert_eq!(&*seen[0].model.name, "m");
    }
}
