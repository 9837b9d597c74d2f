//! Answers that need no call of a request's own. In: a request whose answer may be kept. Out: that answer, from this pod's
//! memory, from an equal request in flight or from the shared store; else from the backend, for all that wait for it.

use std::time::Duration;

use bytes::Bytes;

use super::admission::{Part, Wanted};
use super::backend::BackendError;
use super::cache::{self, CachedAnswer};
use super::call::Whole;
use super::coalesce::{Boarded, News, Pilot, Pods, Rank, Seat};
use super::error::ApiError;
use super::exchange::{Ask, Exchange, Found, Keep};
use super::outcome::{Answer, CacheResult, Outcome};
use super::pricing::NanoUsd;
use super::state::AppState;
use super::store::Share;
use super::stream::Events;
use super::tally::{Readers, Tally};

impl Found {
    /// None for what is no answer after all: the store is not trusted, and the backend is asked instead.
    fn kept(completion: &Bytes, ask: &Ask) -> Option<Self> {
        if ask.stream {
            let events = Tally::replayed(completion, ask.include_usage).ok()?;
            return Some(Self::Stream(Events::Own(Box::new(events))));
        }
        let read = ask.operation.read(completion).ok()?;
        Some(Self::Plain(completion.clone(), read, None))
    }

    /// The same of an answer that was read already.
    fn of(whole: &Whole, ask: &Ask) -> Option<Self> {
        if ask.stream {
            return Self::kept(&whole.completion, ask);
        }
        Some(Self::Plain(whole.completion.clone(), whole.read.clone(), whole.fallback.clone()))
    }
}

/// Where a request that shares a call has got to.
enum Place {
    /// It has its answer.
    Told(Found),
    /// It waits, and led the flight or not.
    Waits(Seat),
}

impl Exchange {
    /// Answers a request that may be given a kept answer.
    pub(super) async fn look_for(
        mut self,
        state: &AppState,
        keep: Keep,
        outcome: &mut Outcome,
    ) -> Result<Answer, ApiError> {
        if let Some(found) = self.in_memory(keep) {
            self.admit_hit(state, outcome).await?;
            return Ok(self.hit(state, found, outcome).await);
        }
        if self.ask.cache.only_if_cached {
            let wanted = Wanted { cache_key: Some(keep.key), ..Wanted::reserve(Part::Whole) };
            let told = self.admit(state, wanted, outcome).await?;
            outcome.cache = Some(CacheResult::Miss);
            let known = told.as_ref().and_then(|told| self.remember(keep, told));
            let found = known.and_then(|known| Found::kept(&known.completion, &self.ask));
            return Ok(self.hit(state, found.ok_or(ApiError::NotCached)?, outcome).await);
        }
        self.share(state, keep, outcome).await
    }

    /// Asks the backend together with all equal requests in flight: one of them leads, the others get its answer.
    async fn share(
        mut self,
        state: &AppState,
        keep: Keep,
        outcome: &mut Outcome,
    ) -> Result<Answer, ApiError> {
        let mut charged = false;
        let mut boarded = state.flights().board(keep.key, || self.kept_after_all(keep));
        loop {
            let mut seat = match boarded {
                Boarded::Known(answer) => {
                    let Some(found) = Found::kept(&answer.completion, &self.ask) else {
                        boarded = state.flights().board(keep.key, || None);
                        continue;
                    };
                    self.admit_hit(state, outcome).await?;
                    return Ok(self.hit(state, found, outcome).await);
                }
                Boarded::Follow(seat) => {
                    if !charged {
                        self.admit(state, Wanted::reserve(Part::Request), outcome).await?;
                    }
                    outcome.cache = Some(CacheResult::Coalesced);
                    seat
                }
                Boarded::Lead(pilot) => {
                    let part = if charged { Part::Rest } else { Part::Whole };
                    match self.lead(state, pilot, (keep, part), outcome).await? {
                        Place::Told(found) => return Ok(self.hit(state, found, outcome).await),
                        Place::Waits(seat) => seat,
                    }
                }
            };
            charged = true;
            let leads = self.guard.is_none();
            boarded = match self.wait(&mut seat).await? {
                News::Failed(error, again) if leads || !again => return Err(error.into()),
                News::Failed(..) => seat.change(true),
                News::Abandoned => seat.change(false),
                News::Stream(request_id) => {
                    outcome.upstream_id = request_id;
                    return Ok(self
                        .shared(state, Found::Stream(Events::Shared(Box::new(seat))), outcome)
                        .await);
                }
                News::Whole(whole) => match Found::of(&whole, &self.ask) {
                    Some(found) => {
                        if whole.known {
                            outcome.cache = Some(CacheResult::Coalesced);
                        }
                        outcome.upstream_id.clone_from(&whole.request_id);
                        outcome.cost = whole.cost;
                        return Ok(self.shared(state, found, outcome).await);
                    }
                    // What another request was answered with cannot be told as a stream. Asked by itself, it can.
                    None if !leads => seat.change(false),
                    None => return Err(ApiError::Internal),
                },
            };
        }
    }

    /// Is admitted for all that wait, and asks the backend if the store has no answer.
    async fn lead(
        &mut self,
        state: &AppState,
        pilot: Pilot,
        (keep, part): (Keep, Part),
        outcome: &mut Outcome,
    ) -> Result<Place, ApiError> {
        // A stream cannot be followed from another pod.
        let sharer = (!self.ask.stream && self.live.store.shared()).then(|| pilot.id());
        let told = self.admit(state, Wanted { part, cache_key: Some(keep.key), sharer }, outcome).await?;
        let known = told.as_ref().and_then(|told| self.remember(keep, told));
        if let Some(whole) = known.and_then(|known| Whole::known(self.ask.operation, known.completion))
            && let Some(found) = Found::of(&whole, &self.ask)
        {
            pilot.found(whole);
            return Ok(Place::Told(found));
        }
        let (store, metrics) = (self.live.store.clone(), state.metrics().clone());
        let operation = self.ask.operation;
        let pods = Pods { store, metrics, operation, key: keep.key, id: pilot.id() };
        let rank = match told {
            Some(Share::Lead) => Rank::Leads(pods),
            Some(Share::Wait | Share::Failed(_)) => Rank::Waits(pods),
            Some(Share::Answer(_)) => {
                // What the store holds there is no answer, and a hit has reserved nothing.
                self.admit(state, Wanted::reserve(Part::Rest), outcome).await?;
                Rank::Alone
            }
            None => Rank::Alone,
        };
        outcome.cache = Some(CacheResult::Miss);
        Ok(Place::Waits(pilot.fly(self.call(state, Readers::Any)?, rank)))
    }

    /// What a flight has to tell, within the time that a request may take.
    async fn wait(&self, seat: &mut Seat) -> Result<News, ApiError> {
        let limit = Duration::from_millis(self.live.config.dynamic.timeouts.request_ms);
        let until = tokio::time::Instant::from_std(self.ask.started + limit);
        let news = tokio::time::timeout_at(until, seat.news(self.ask.stream)).await;
        Ok(news.map_err(|_| BackendError::Timeout(limit))?)
    }

    /// The answer of a flight, free for all but who led it.
    async fn shared(self, state: &AppState, found: Found, outcome: &mut Outcome) -> Answer {
        let result = outcome.cache.unwrap_or(CacheResult::Miss);
        if result.is_free() {
            outcome.cost = Some(NanoUsd(0));
        }
        self.tell(state, found, result, outcome.cost).await
    }

    async fn hit(self, state: &AppState, found: Found, outcome: &mut Outcome) -> Answer {
        outcome.cache = Some(CacheResult::Hit);
        outcome.cost = Some(NanoUsd(0));
        self.tell(state, found, CacheResult::Hit, outcome.cost).await
    }

    fn in_memory(&self, keep: Keep) -> Option<Found> {
        let kept = self.live.cache.as_ref()?.get(keep.key)?;
        Found::kept(&kept.completion, &self.ask)
    }

    fn kept_after_all(&self, keep: Keep) -> Option<CachedAnswer> {
        self.live.cache.as_ref()?.get_after_all(keep.key)
    }

    /// Takes an answer of the shared store into memory too.
    fn remember(&self, keep: Keep, told: &Share) -> Option<CachedAnswer> {
        let Share::Answer(stored) = told else { return None };
        let answer = CachedAnswer::decode(stored)?;
        self.live.cache.as_ref()?.put(keep.key, answer.clone(), cache::jittered(keep.ttl));
        Some(answer)
    }
}
