//! Equal requests that are in flight in this pod share one call to the backend. In: cache keys, and the call of whoever
//! leads. Out: a [`Seat`] for everyone, through which the answer is read, from its start and however late one came.
//!
//! Whoever began a call drives it, for as long as nobody else waits for it: then it moves to a task of its own, since who
//! began it may leave or read slowly, and it goes on for those who still wait. When the last seat is given up it is cancelled. The call settles by itself, once, as the request that began it was admitted; all
//! others are charged a request each. A failure is told to whoever led; of the others one tries once more, and the rest
//! gets that result. Nothing of a failed flight is kept.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use tokio_util::task::TaskTracker;

use super::cache::CachedAnswer;
use super::call::{Call, Whole};
use super::store::{CacheKey, Released, SharerId};

mod flight;
mod pods;

use flight::{End, Flight, lost};
pub(super) use flight::{News, Seat};
pub(super) use pods::Pods;
use pods::Waited;

/// Everything that is in flight. Clones are the same.
#[derive(Clone, Default)]
pub struct Flights {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The flight that requests with this key join. Seats are counted under this lock, so that nobody joins what is being
    /// cancelled.
    flying: Mutex<HashMap<CacheKey, Arc<Flight>>>,
    tasks: TaskTracker,
}

/// What a pod is among those that want the same.
pub(super) enum Rank {
    /// It asks, and tells nobody.
    Alone,
    /// It asks, and the others wait for it.
    Leads(Pods),
    /// Another one asks.
    Waits(Pods),
}

/// What a request finds.
pub(super) enum Boarded {
    /// The answer was kept in the meantime.
    Known(CachedAnswer),
    /// Nobody is asking: this request is to be admitted, and then to begin the flight.
    Lead(Pilot),
    /// Somebody is.
    Follow(Seat),
}

/// The request that is to begin a flight. Dropped before, one of those who wait takes its place.
pub(super) struct Pilot {
    landing: Landing,
    seat: Seat,
}

impl Flights {
    /// A seat on the flight for this key. `known` is asked once more when there is none: a flight ends after its answer was
    /// kept. It is called under a lock that all requests take.
    pub(super) fn board(&self, key: CacheKey, known: impl FnOnce() -> Option<CachedAnswer>) -> Boarded {
        let mut flying = self.inner.flying();
        let boarded = match flying.entry(key) {
            Entry::Occupied(found) => Boarded::Follow(self.seat(found.get())),
            Entry::Vacant(free) => match known() {
                Some(answer) => Boarded::Known(answer),
                None => Boarded::Lead(self.lead(free.insert(Arc::new(Flight::new(
                    key,
                    SharerId(rand::random()),
                    true,
                ))))),
            },
        };
        drop(flying);
        self.inner.go_on_alone_if_followed(boarded)
    }

    /// Waits for the end of all flights; at the end of a server, when nobody has a seat any more.
    pub async fn landed(&self) {
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// The flight that takes the place of one that failed or was not begun: the same for all who had a seat on that one.
    fn after(&self, old: &Flight, again: bool) -> Boarded {
        let mut flying = self.inner.flying();
        let boarded = if let Some(next) = old.successor.get() {
            Boarded::Follow(self.seat(next))
        } else {
            let new = || Arc::new(Flight::new(old.key, old.id, again));
            let (next, new) = match flying.entry(old.key) {
                Entry::Occupied(found) => (found.get().clone(), false),
                Entry::Vacant(free) => (free.insert(new()).clone(), true),
            };
            let next = old.successor.get_or_init(|| next);
            if new { Boarded::Lead(self.lead(next)) } else { Boarded::Follow(self.seat(next)) }
        };
        drop(flying);
        self.inner.go_on_alone_if_followed(boarded)
    }

    fn lead(&self, flight: &Arc<Flight>) -> Pilot {
        let landing = Landing { inner: self.inner.clone(), flight: flight.clone(), begun: false };
        Pilot { landing, seat: self.seat(flight) }
    }

    /// Under the lock.
    fn seat(&self, flight: &Arc<Flight>) -> Seat {
        Seat::new(self.clone(), flight.clone())
    }

    /// A seat was given up.
    fn left(&self, flight: &Arc<Flight>) {
        let mut flying = self.inner.flying();
        if flight.give_up_seat() {
            forget(&mut flying, flight);
        }
        drop(flying);
        // Where the one who drove it leaves, it goes on for the others, or finds out that there is nobody.
        self.inner.go_on_alone(flight);
    }
}

impl Inner {
    fn flying(&self) -> MutexGuard<'_, HashMap<CacheKey, Arc<Flight>>> {
        // Nothing panics while it holds the lock, and the map would be whole if it did.
        self.flying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves a call to a task of its own, unless it is there already. Not under the lock of `flying`, which its end takes.
    fn go_on_alone(&self, flight: &Flight) {
        if let Some(rest) = flight.take_rest() {
            self.tasks.spawn(rest);
        }
    }

    fn go_on_alone_if_followed(&self, boarded: Boarded) -> Boarded {
        if let Boarded::Follow(seat) = &boarded {
            self.go_on_alone(seat.flight());
        }
        boarded
    }
}

/// Requests that come now do not join it any more.
fn forget(flying: &mut HashMap<CacheKey, Arc<Flight>>, flight: &Arc<Flight>) {
    if let Entry::Occupied(found) = flying.entry(flight.key)
        && Arc::ptr_eq(found.get(), flight)
    {
        found.remove();
    }
}

impl Pilot {
    /// Names it to other pods.
    pub(super) fn id(&self) -> SharerId {
        self.landing.flight.id
    }

    /// Begins the flight. It is driven by the seat that this returns.
    pub(super) fn fly(mut self, call: Box<Call>, rank: Rank) -> Seat {
        self.landing.begun = true;
        let inner = self.landing.inner.clone();
        self.seat.flight().begin(self.landing.fly(call, rank).boxed());
        if self.seat.flight().is_followed() {
            inner.go_on_alone(self.seat.flight());
        }
        self.seat
    }

    /// There is an answer already: the shared store had it.
    pub(super) fn found(self, answer: Whole) {
        self.landing.land(End::Whole(Arc::new(answer)));
    }
}

/// Ends a flight, also one whose task is dropped.
struct Landing {
    inner: Arc<Inner>,
    flight: Arc<Flight>,
    begun: bool,
}

impl Landing {
    async fn fly(self, mut call: Box<Call>, mut rank: Rank) {
        let left = self.flight.left.clone();
        if let Rank::Waits(pods) = rank {
            rank = match left.run_until_cancelled(pods.wait()).await {
                None => {
                    // What it holds and has reserved is given back at once, however long the store is away.
                    drop(call);
                    return pods.insist(&Released::Left).await;
                }
                Some(Waited::End(end)) => {
                    if let End::Whole(whole) = &end {
                        call.remember(&whole.completion);
                    }
                    return self.land(end);
                }
                Some(Waited::Lead) => Rank::Leads(pods),
                Some(Waited::Alone) => Rank::Alone,
            };
        }
        call.leads = matches!(rank, Rank::Leads(_));
        let (pods, flown) = {
            // Pinned here: whoever is handed a future that is not has room for it twice.
            let flying = pin!(flight::fly(call, &self.flight));
            match rank {
                Rank::Leads(pods) => {
                    let flown = pods.lead(&left, flying).await;
                    (Some(pods), flown)
                }
                Rank::Alone | Rank::Waits(_) => (None, left.run_until_cancelled(flying).await),
            }
        };
        let Some(pods) = pods else {
            if let Some((end, _)) = flown {
                self.land(end);
            }
            return;
        };
        let Some((end, kept)) = flown else {
            return pods.insist(&Released::Left).await;
        };
        if kept {
            return self.land(end);
        }
        let released = if let End::Failed(error) = &end { pods::failed(error) } else { Released::Left };
        // Whoever tries again here is to meet those who do elsewhere; an answer waits for nobody.
        let told = matches!(end, End::Failed(_)) && pods.release(&released).await;
        self.land(end);
        if !told {
            pods.insist(&released).await;
        }
    }

    fn land(&self, end: End) {
        let mut flying = self.inner.flying();
        self.flight.end(end);
        forget(&mut flying, &self.flight);
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let given_up = !self.begun || self.flight.left.is_cancelled();
        self.land(if given_up { End::Abandoned } else { End::Failed(lost()) });
    }
}
