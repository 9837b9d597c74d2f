//! One flight: a call and what has come of it so far. In: the steps of the call. Out: the same for every [`Seat`], at its
//! own pace.
//!
//! Events are held once, for all seats together, and no more of them than an answer may be long. Upstream is read as fast
//! as the fastest reader, not faster: a single slow one is backpressure, and among others it holds nobody up.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Context;

use futures::future::BoxFuture;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{Boarded, Flights};
use crate::server::backend::BackendError;
use crate::server::call::{Call, Called, Whole};
use crate::server::store::{CacheKey, SharerId};
use crate::server::tally::{Delta, Step, Tally, Total};

/// Bytes of events that are read ahead of the fastest reader: one wake-up for several events.
const AHEAD: usize = 16 << 10;

/// A flight.
pub(super) struct Flight {
    pub(super) key: CacheKey,
    /// What names it to other pods, and those that take its place after a failure.
    pub(super) id: SharerId,
    /// Whether those who wait may try once more when it fails: it is not itself that second try.
    again: bool,
    log: watch::Sender<Log>,
    /// What is left to do of it, while it has no task of its own.
    rest: Mutex<Option<BoxFuture<'static, ()>>>,
    /// Bytes that the fastest reader has read.
    read: AtomicUsize,
    /// Seats that wait for all of it.
    want_all: AtomicUsize,
    /// Told when `read` or `want_all` grows.
    hungry: Notify,
    /// Counted under the lock of [`Flights`].
    seats: AtomicUsize,
    /// The last seat was given up.
    pub(super) left: CancellationToken,
    /// What took its place.
    pub(super) successor: OnceLock<Arc<Self>>,
}

/// What has come so far.
#[derive(Default)]
struct Log {
    /// The answer is a stream.
    stream: bool,
    /// The backend's own id of its call.
    request_id: Option<String>,
    deltas: Vec<Arc<Delta>>,
    /// Of `deltas`.
    bytes: usize,
    end: Option<End>,
}

/// How a flight ended.
#[derive(Clone)]
pub(super) enum End {
    /// With a plain answer.
    Whole(Arc<Whole>),
    /// With the last event of a stream.
    Stream(Arc<Total>),
    /// Without an answer, or in the middle of one.
    Failed(BackendError),
    /// It was not begun: whoever was to lead was refused, or left.
    Abandoned,
}

impl Flight {
    pub(super) fn new(key: CacheKey, id: SharerId, again: bool) -> Self {
        Self {
            key,
            id,
            again,
            log: watch::Sender::new(Log::default()),
            rest: Mutex::default(),
            read: AtomicUsize::new(0),
            want_all: AtomicUsize::new(0),
            hungry: Notify::new(),
            seats: AtomicUsize::new(0),
            left: CancellationToken::new(),
            successor: OnceLock::new(),
        }
    }

    /// This is to be done. Who has a seat does it.
    pub(super) fn begin(&self, rest: BoxFuture<'static, ()>) {
        *self.rest() = Some(rest);
    }

    /// Whether more than one has a seat.
    pub(super) fn is_followed(&self) -> bool {
        self.seats.load(Ordering::Relaxed) > 1
    }

    /// What is left to do, to be done elsewhere.
    pub(super) fn take_rest(&self) -> Option<BoxFuture<'static, ()>> {
        self.rest().take()
    }

    /// Does what can be done now, if it is to be done here.
    fn drive(&self, context: &mut Context<'_>) {
        let mut rest = self.rest();
        if let Some(going) = &mut *rest
            && going.as_mut().poll(context).is_ready()
        {
            *rest = None;
        }
    }

    fn rest(&self) -> MutexGuard<'_, Option<BoxFuture<'static, ()>>> {
        // What panics in there has ended the flight by being dropped.
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up a seat; true when it was the last of a flight that has not ended.
    pub(super) fn give_up_seat(&self) -> bool {
        let last = self.seats.fetch_sub(1, Ordering::Relaxed) == 1;
        if last {
            self.left.cancel();
        }
        last
    }

    /// Only the first end counts.
    pub(super) fn end(&self, end: End) {
        self.log.send_if_modified(|log| {
            let first = log.end.is_none();
            if first {
                log.end = Some(end);
            }
            first
        });
    }

    /// Somebody has read this far.
    fn wants_more_than(&self, bytes: usize) {
        self.read.fetch_max(bytes, Ordering::Relaxed);
        self.hungry.notify_one();
    }

    /// Somebody waits for all of it, until that seat is given up.
    fn wants_all(&self) {
        self.want_all.fetch_add(1, Ordering::Relaxed);
        self.hungry.notify_one();
    }

    /// Whether somebody wants more than there is.
    fn is_hungry(&self) -> bool {
        self.want_all.load(Ordering::Relaxed) > 0
            || self.log.borrow().bytes <= self.read.load(Ordering::Relaxed).saturating_add(AHEAD)
    }

    /// Waits until somebody wants more than there is.
    async fn hungry(&self) {
        while !self.is_hungry() {
            self.hungry.notified().await;
        }
    }

    async fn relay(&self, mut events: Tally) -> End {
        loop {
            self.hungry().await;
            match events.next().await {
                Step::Delta(delta) => self.log.send_modify(|log| {
                    log.bytes += delta.bytes;
                    log.deltas.push(delta);
                }),
                Step::End(total) => return End::Stream(total),
                Step::Failed(error) => return End::Failed(error),
            }
        }
    }
}

/// Makes the call; the end is for whoever lands the flight. And whether the store is given the answer, for other pods.
pub(super) async fn fly(call: Box<Call>, flight: &Flight) -> (End, bool) {
    let end = match call.make().await {
        Ok(Called::Whole(whole, kept)) => return (End::Whole(Arc::from(whole)), kept),
        Ok(Called::Stream { events, request_id }) => {
            flight.log.send_modify(|log| {
                log.stream = true;
                log.request_id = request_id;
            });
            flight.relay(*events).await
        }
        Err(error) => End::Failed(error),
    };
    (end, false)
}

/// What somebody with a seat is told, once there is something to tell.
pub(in crate::server) enum News {
    /// A plain answer.
    Whole(Arc<Whole>),
    /// The answer is a stream, with this id of the backend's; [`Seat::next`] reads it.
    Stream(Option<String>),
    /// No answer. Whether it may be asked for once more.
    Failed(BackendError, bool),
    /// Nobody is asking: somebody else has to.
    Abandoned,
}

/// A place among those who wait for a flight's answer.
pub(in crate::server) struct Seat {
    flights: Flights,
    flight: Arc<Flight>,
    log: watch::Receiver<Log>,
    /// Events, and their bytes, that were read.
    position: usize,
    bytes: usize,
    /// It waits for all of the answer.
    wants_all: bool,
}

impl Seat {
    /// Under the lock of [`Flights`].
    pub(super) fn new(flights: Flights, flight: Arc<Flight>) -> Self {
        flight.seats.fetch_add(1, Ordering::Relaxed);
        let log = flight.log.subscribe();
        Self { flights, flight, log, position: 0, bytes: 0, wants_all: false }
    }

    /// Waits for an answer: for all of it, or for the begin of a stream.
    pub(in crate::server) async fn news(&mut self, stream: bool) -> News {
        if !stream && !self.wants_all {
            self.wants_all = true;
            self.flight.wants_all();
        }
        let again = self.flight.again;
        let flight = self.flight.clone();
        let told = self.log.wait_for(|log| log.end.is_some() || (stream && log.stream));
        let told = driving(&flight, told).await;
        let Ok(log) = told else { return News::Abandoned };
        match (&log.end, log.stream) {
            (Some(End::Abandoned), _) => News::Abandoned,
            (Some(End::Whole(whole)), _) => News::Whole(whole.clone()),
            // It has begun: its events come first, and then what has become of it.
            (_, true) if stream => News::Stream(log.request_id.clone()),
            (Some(End::Failed(error)), _) => News::Failed(error.clone(), again && worth_another(error)),
            // Some streams say what no plain answer can.
            (Some(End::Stream(total)), _) => total.whole().map_or(News::Abandoned, News::Whole),
            (None, _) => News::Abandoned,
        }
    }

    /// The next step of a stream, from its first on. May be given up and asked again.
    pub(in crate::server) async fn next(&mut self) -> Step {
        loop {
            {
                let log = self.log.borrow_and_update();
                if let Some(delta) = log.deltas.get(self.position) {
                    self.position += 1;
                    self.bytes += delta.bytes;
                    self.flight.wants_more_than(self.bytes);
                    return Step::Delta(delta.clone());
                }
                match &log.end {
                    Some(End::Stream(total)) => return Step::End(total.clone()),
                    Some(End::Failed(error)) => return Step::Failed(error.clone()),
                    Some(End::Whole(_) | End::Abandoned) => return Step::Failed(lost()),
                    None => {}
                }
            }
            let flight = self.flight.clone();
            if driving(&flight, self.log.changed()).await.is_err() {
                return Step::Failed(lost());
            }
        }
    }

    /// What it is a seat on.
    pub(super) fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    /// A place on what takes the place of a flight without an answer: `failed` or not begun at all.
    pub(in crate::server) fn change(self, failed: bool) -> Boarded {
        self.flights.after(&self.flight, !failed && self.flight.again)
    }
}

/// Waits for what a flight comes to, and does what is left to do of it meanwhile.
async fn driving<T>(flight: &Flight, waits: impl Future<Output = T>) -> T {
    let mut waits = pin!(waits);
    poll_fn(|context| {
        flight.drive(context);
        waits.as_mut().poll(context)
    })
    .await
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.wants_all {
            self.flight.want_all.fetch_sub(1, Ordering::Relaxed);
        }
        self.flights.left(&self.flight);
    }
}

/// What explains a call without an end is a fault of ours.
pub(super) fn lost() -> BackendError {
    BackendError::Unavailable("the call was lost".to_owned())
}

/// Whether another call may succeed where one failed: not where the backend refused the request or us.
pub(super) fn worth_another(error: &BackendError) -> bool {
    matches!(error, BackendError::Unavailable(_) | BackendError::Timeout(_) | BackendError::Broken(_))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn upstream_is_read_ahead_of_slow_readers_only_while_somebody_waits_for_all_of_it() {
        let flights = Flights::default();
        let flight = Arc::new(Flight::new(CacheKey([0; 32]), SharerId(rand::random()), true));
        let slow = Seat::new(flights.clone(), flight.clone());
        flight.log.send_modify(|log| {
            log.stream = true;
            log.bytes = AHEAD;
        });
        assert!(flight.is_hungry());
        flight.log.send_modify(|log| log.bytes += 1);
        assert!(!flight.is_hungry(), "nobody has read anything");

        let mut plain = [(); 2].map(|()| Seat::new(flights.clone(), flight.clone()));
        for seat in &mut plain {
            for _ in 0..2 {
                assert!(seat.news(false).now_or_never().is_none(), "the end has not come");
            }
        }
        let [one, other] = plain;
        drop(one);
        assert!(flight.is_hungry(), "one still waits for all of it");
        drop(other);
        assert!(!flight.is_hungry(), "those who did have left");
        drop(slow);
    }
}
