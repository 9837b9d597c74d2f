//! Requests that come together share a trip. In: requests that ask to go on, each by itself. Out: one trip for all that came
//! while the last ones were under way; each is told its own part. Who comes alone does not wait for others.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Base;
use super::limits::Asked;
use crate::server::store::StoreError;

/// What may wait for a trip: more than may be unsettled at once, so that nobody waits for a place here.
const WAITING: usize = 8192;
/// What shares a trip. Redis does nothing else meanwhile.
const TOGETHER: usize = 64;
/// Trips under way. With one Redis would be idle while its answers are read, with many each would carry little.
const AT_ONCE: usize = 2;

/// The lane, and its task, which ends with it.
pub(super) struct Lane {
    base: Arc<Base>,
    sender: OnceLock<mpsc::Sender<Asked>>,
    task: Mutex<JoinSet<()>>,
}

impl Lane {
    pub(super) fn new(base: Arc<Base>) -> Self {
        Self { base, sender: OnceLock::new(), task: Mutex::default() }
    }

    /// Lets it travel. An error: it will not.
    pub(super) async fn send(&self, asked: Asked) -> Result<(), StoreError> {
        let sender = self.sender.get_or_init(|| self.start());
        sender.send(asked).await.map_err(|_| gone())
    }

    /// Begun when it is first used, where there is a runtime.
    fn start(&self) -> mpsc::Sender<Asked> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        task.spawn(run(self.base.clone(), receiver));
        sender
    }
}

/// The task of the lane ends only with the store.
pub(super) fn gone() -> StoreError {
    StoreError::Unreachable("the store is being closed".to_owned())
}

async fn run(base: Arc<Base>, mut waiting: mpsc::Receiver<Asked>) {
    let mut trips = FuturesUnordered::new();
    let mut next = Vec::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = trips.next() => {}
            count = waiting.recv_many(&mut next, TOGETHER), if trips.len() < AT_ONCE => {
                if count == 0 {
                    break;
                }
                trips.push(base.decide(std::mem::take(&mut next)));
            }
        }
    }
    while trips.next().await.is_some() {}
}
