//! Who was refused lately. In: refusals, and what the store says of charges. Out: the same refusal again, without a trip.

use std::time::{Duration, Instant};

use super::store::{CallerKey, LimitState};

/// Longest time that a refusal is repeated without asking the store again.
const DENIAL_LIFE: Duration = Duration::from_secs(1);
/// Callers whose refusals are remembered.
const DENIALS: u64 = 10_000;

/// Callers that were refused within the last second: they are refused again without a trip to the store, and so are
/// those whose memory cache hits, which are charged afterwards, have used up their limit. Clones are the same one.
#[derive(Clone)]
pub struct Denials {
    refused: moka::sync::Cache<CallerKey, (Instant, LimitState)>,
}

impl Default for Denials {
    fn default() -> Self {
        Self { refused: moka::sync::Cache::builder().max_capacity(DENIALS).time_to_live(DENIAL_LIFE).build() }
    }
}

impl Denials {
    /// A caller's limit while it is refused, as far as this process knows.
    #[must_use]
    pub fn get(&self, caller: &CallerKey) -> Option<LimitState> {
        let (since, then) = self.refused.get(caller)?;
        let passed = since.elapsed();
        let retry_after = then.retry_after.checked_sub(passed).filter(|left| !left.is_zero())?;
        let reset_after = then.reset_after.saturating_sub(passed);
        Some(LimitState { allowed: false, remaining: 0, reset_after, retry_after })
    }

    /// A caller is refused until its `retry_after` is over.
    pub fn add(&self, caller: CallerKey, now: LimitState) {
        self.refused.insert(caller, (Instant::now(), now));
    }
}
