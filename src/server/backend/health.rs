//! What is known of a backend from the calls made to it: a breaker and a pause for each of its models, and the budget of
//! retries. In: what calls came to. Out: whether the next one is made. Outlives the configuration that began it, as long
//! as the backend is the same one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::BackendError;
use super::breaker::{Breaker, Permit, SPREAD, State};
use super::retry::Budget;

/// How long a model that limits requests is passed over when it does not say,
const PAUSE: Duration = Duration::from_secs(1);
/// and at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// One backend's. Cheap to share; nothing waits while it is locked.
pub struct Health {
    inner: Mutex<Inner>,
}

struct Inner {
    budget: Budget,
    /// By configured name, so bounded by the configurations that this process has had.
    models: HashMap<Arc<str>, ModelHealth>,
}

struct ModelHealth {
    breaker: Breaker,
    /// Its backend said to send it nothing before this.
    limited_until: Option<Instant>,
    /// A call was answered once.
    answered: bool,
}

impl ModelHealth {
    fn new(now: Instant) -> Self {
        Self { breaker: Breaker::new(now), limited_until: None, answered: false }
    }

    fn answered(&mut self, now: Instant, permit: Permit) {
        self.answered = true;
        self.breaker.answered(now, permit);
    }
}

/// Why a model is not called.
pub(super) enum Refusal {
    /// Its calls have failed.
    Open(Duration),
    /// It limits requests, and there is another one to ask.
    Limited(Duration),
}

impl Default for Health {
    fn default() -> Self {
        let budget = Budget::new(Instant::now());
        Self { inner: Mutex::new(Inner { budget, models: HashMap::new() }) }
    }
}

impl Health {
    /// Permission to call a model. One that limits requests is called only when no fallback `follows`.
    pub(super) fn permit(&self, model: &Arc<str>, follows: bool) -> Result<Ticket<'_>, Refusal> {
        let now = Instant::now();
        let mut inner = self.lock();
        let health = inner.models.entry(model.clone()).or_insert_with(|| ModelHealth::new(now));
        match health.limited_until {
            Some(until) if now < until && follows => return Err(Refusal::Limited(until - now)),
            Some(until) if now >= until => health.limited_until = None,
            _ => {}
        }
        match health.breaker.permit(now) {
            Permit::Refused(wait) => Err(Refusal::Open(wait)),
            permit => Ok(Ticket { health: self, model: model.clone(), permit: Some(permit) }),
        }
    }

    /// A request makes its first call.
    pub(super) fn request(&self) {
        self.lock().budget.request(Instant::now());
    }

    /// Whether one more call may be made for a request.
    pub(super) fn retry(&self) -> bool {
        self.lock().budget.take(Instant::now())
    }

    /// Where the breaker of a model stands.
    pub(super) fn state(&self, model: &str) -> State {
        self.lock().models.get(model).map_or(State::Closed, |health| health.breaker.state())
    }

    /// Whether any model gets answers; None before the first call came to something. One failure is nothing yet: it takes
    /// what opens a breaker.
    #[must_use]
    pub fn reachable(&self) -> Option<bool> {
        let inner = self.lock();
        let closed = |health: &ModelHealth| health.breaker.state() == State::Closed;
        let met = inner.models.values().filter(|health| health.answered || !closed(health));
        met.map(closed).reduce(|one, other| one || other)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it holds the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that may be made. Dropped without a word of what came of it, the call was given up.
pub(super) struct Ticket<'a> {
    health: &'a Health,
    model: Arc<str>,
    permit: Option<Permit>,
}

impl Ticket<'_> {
    /// The backend answered.
    pub(super) fn answered(self) {
        self.settle(ModelHealth::answered);
    }

    /// There was an error; not every one is a failure of the backend.
    pub(super) fn failed(self, error: &BackendError) {
        let pause = match error {
            BackendError::RateLimited { retry_after } => Some(retry_after.unwrap_or(PAUSE)),
            BackendError::Overloaded { retry_after, .. } => Some(*retry_after),
            _ => None,
        };
        self.settle(|health, now, permit| {
            health.limited_until = pause.map(|pause| now + pause.min(LONGEST_PAUSE));
            match error {
                BackendError::Unavailable(_) | BackendError::Overloaded { .. } | BackendError::Timeout(_) => {
                    health.breaker.failed(now, permit, rand::random_range(SPREAD));
                }
                _ => health.answered(now, permit),
            }
        });
    }

    fn settle(mut self, what: impl FnOnce(&mut ModelHealth, Instant, Permit)) {
        let Some(permit) = self.permit.take() else { return };
        if let Some(health) = self.health.lock().models.get_mut(&self.model) {
            what(health, Instant::now(), permit);
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        if let Some(health) = self.health.lock().models.get_mut(&self.model) {
            health.breaker.given_up(Instant::now(), permit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_reachable_while_one_of_its_models_is() {
        let health = Health::default();
        let down = BackendError::Unavailable("refused".to_owned());
        let call = |name: &str| health.permit(&Arc::from(name), false).ok().expect("the breaker is closed");
        assert_eq!(health.reachable(), None);
        drop(call("a"));
        assert_eq!(health.reachable(), None, "a call that was given up says nothing");
        for expected in [None, None, None, None, Some(false)] {
            call("a").failed(&down);
            assert_eq!(health.reachable(), expected);
        }
        call("b").failed(&BackendError::Auth);
        assert_eq!(health.reachable(), Some(true), "a refusal is an answer");
        for _ in 0..5 {
            call("b").failed(&down);
        }
        assert_eq!(health.reachable(), Some(false));
    }
}
