//! What is settled when a request ends, however it ends. In: a value from each request's [`SettlementGuard`].
//! Out: counters of tokens and cost, and what the store is told without anybody waiting: charges, answers to keep.
//!
//! A guard is taken at admission with its place in a bounded queue, and sits in the response body. Its `Drop` sends the
//! value through that place, synchronously, so a client that leaves cannot lose it. One task empties the queue and is
//! drained before exit.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::backend::attempts::AttemptLog;
use super::denials::Denials;
use super::metrics::ServerMetrics;
use super::pricing::NanoUsd;
use super::state::LiveHandle;
use super::store::{CacheKey, Settle, Store};

/// Requests that may be unsettled at once; admission refuses beyond it.
pub const QUEUE: usize = 4096;
/// Charges sent to the store in one trip.
const BATCH: usize = 256;

/// Tokens of one request, as the backend reported them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
}

impl Usage {
    /// Both.
    #[must_use]
    pub fn total(self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

/// What one request used.
#[derive(Clone, Debug, Default)]
pub struct Settlement {
    /// The configured model's name, as a metric label.
    pub model: Arc<str>,
    /// What the backend reported; None for a cache hit or when nothing was reported.
    pub usage: Option<Usage>,
    /// Its price, when known.
    pub cost: Option<NanoUsd>,
    /// A request that was served without asking the store (memory cache hit) and is still to be charged.
    pub charge: Option<Settle>,
    /// An answer for the store's cache, and its life.
    pub keep: Option<(CacheKey, Bytes, Duration)>,
}

/// Holds a request's place in the queue; settles when dropped.
pub struct SettlementGuard {
    permit: Option<mpsc::OwnedPermit<Settlement>>,
    /// What will be settled; filled in as it becomes known.
    pub settlement: Settlement,
    /// The calls that were made for the request, up to the moment it is settled.
    pub attempts: AttemptLog,
}

impl Drop for SettlementGuard {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            permit.send(std::mem::take(&mut self.settlement));
        }
    }
}

/// Hands out places in the queue.
#[derive(Clone)]
pub struct SettlementQueue {
    sender: mpsc::Sender<Settlement>,
}

impl SettlementQueue {
    /// A guard, or None when [`QUEUE`] requests are unsettled.
    #[must_use]
    pub fn guard(&self) -> Option<SettlementGuard> {
        let permit = self.sender.clone().try_reserve_owned().ok()?;
        Some(SettlementGuard {
            permit: Some(permit),
            settlement: Settlement::default(),
            attempts: AttemptLog::default(),
        })
    }
}

/// The task's end of the queue.
pub struct Settler {
    receiver: mpsc::Receiver<Settlement>,
    live: LiveHandle,
    metrics: ServerMetrics,
    denials: Denials,
}

/// The queue and what empties it.
#[must_use]
pub fn queue(live: LiveHandle, metrics: ServerMetrics, denials: Denials) -> (SettlementQueue, Settler) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (SettlementQueue { sender }, Settler { receiver, live, metrics, denials })
}

impl Settler {
    /// Settles until every [`SettlementQueue`] and guard is gone and the queue is empty.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.receiver.recv_many(&mut batch, BATCH).await > 0 {
            let mut charges = Vec::new();
            let mut answers = Vec::new();
            for settlement in batch.drain(..) {
                if let Some(usage) = settlement.usage {
                    self.metrics.settle(&settlement.model, usage, settlement.cost);
                }
                charges.extend(settlement.charge);
                answers.extend(settlement.keep);
            }
            let Some(live) = self.live.load_full() else { continue };
            self.tell(live.store.as_ref(), charges, answers).await;
        }
    }

    /// One batch, all of it on the wire at once; each operation has the store's own deadline.
    async fn tell(&self, store: &dyn Store, charges: Vec<Settle>, answers: Vec<(CacheKey, Bytes, Duration)>) {
        let puts = futures::future::join_all(
            answers.into_iter().map(|(key, answer, ttl)| store.cache_put(key, answer, ttl)),
        );
        let charge = async { if charges.is_empty() { Ok(Vec::new()) } else { store.settle(charges).await } };
        let (puts, states) = futures::future::join(puts, charge).await;
        match states {
            Ok(exhausted) => exhausted.into_iter().for_each(|(caller, now)| self.denials.add(caller, now)),
            Err(_) => self.metrics.store_error("charge"),
        }
        for _ in puts.iter().filter(|result| result.is_err()) {
            self.metrics.store_error("cache_put");
        }
    }
}
