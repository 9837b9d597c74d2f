//! What comes together travels together. In: what requests ask of Redis, each by itself. Out: one trip for all that came
//! while the last ones were under way; each is told its own part. Who comes alone does not wait for others.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::Base;
use crate::server::store::StoreError;

/// What may wait for a trip: more than may be unsettled at once, so that nobody waits for a place here.
const WAITING: usize = 8192;

/// How a lane is travelled.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    /// What shares a trip. Redis does nothing else meanwhile.
    pub(super) together: usize,
    /// Trips under way. With one Redis would be idle while its answers are read, with many each would carry little.
    pub(super) at_once: usize,
    /// From one trip to the next, for what nobody waits for.
    pub(super) gather: Duration,
}

/// Makes one trip for all of these.
type Travel<T> = fn(Arc<Base>, Vec<T>) -> BoxFuture<'static, ()>;

/// A lane, and its task, which ends with it.
pub(super) struct Lane<T> {
    base: Arc<Base>,
    travel: Travel<T>,
    pace: Pace,
    sender: OnceLock<mpsc::Sender<T>>,
    task: Mutex<JoinSet<()>>,
}

impl<T: Send + 'static> Lane<T> {
    pub(super) fn new(base: Arc<Base>, travel: Travel<T>, pace: Pace) -> Self {
        Self { base, travel, pace, sender: OnceLock::new(), task: Mutex::default() }
    }

    /// Lets it travel. An error: it will not.
    pub(super) async fn send(&self, asked: T) -> Result<(), StoreError> {
        let sender = self.sender.get_or_init(|| self.start());
        sender.send(asked).await.map_err(|_| gone())
    }

    /// Begun when it is first used, where there is a runtime.
    fn start(&self) -> mpsc::Sender<T> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        task.spawn(run(self.base.clone(), self.travel, self.pace, receiver));
        sender
    }
}

/// The task of a lane ends only with the store.
pub(super) fn gone() -> StoreError {
    StoreError::Unreachable("the store is being closed".to_owned())
}

async fn run<T: Send + 'static>(
    base: Arc<Base>,
    travel: Travel<T>,
    pace: Pace,
    mut waiting: mpsc::Receiver<T>,
) {
    let mut trips = FuturesUnordered::new();
    let (mut next, mut not_before) = (Vec::new(), Instant::now());
    loop {
        let gathered = async {
            if Instant::now() < not_before {
                sleep_until(not_before).await;
            }
            waiting.recv_many(&mut next, pace.together).await
        };
        tokio::select! {
            biased;
            Some(()) = trips.next() => {}
            count = gathered, if trips.len() < pace.at_once => {
                if count == 0 {
                    break;
                }
                not_before = Instant::now() + pace.gather;
                trips.push(travel(base.clone(), std::mem::take(&mut next)));
            }
        }
    }
    while trips.next().await.is_some() {}
}
