//! One call to the backend and what is owed for it. In: an admitted request. Out: a whole answer, or the events of one.
//! However it ends, also when it is dropped half-way, what it used is settled by the guard that it holds.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::backend::upstreams::{self, UpstreamCall};
use super::backend::{BackendError, Deadline, UpstreamAnswer};
use super::cache::{self, CachedAnswer};
use super::completion;
use super::estimate::{BYTES_A_TOKEN, Prompt};
use super::exchange::Keep;
use super::metrics::{BackendCall, OK, ServerMetrics};
use super::models::Model;
use super::operation::Operation;
use super::pricing::NanoUsd;
use super::settlement::{SettlementGuard, Usage};
use super::state::Live;
use super::store::Kept;
use super::tally::{Readers, Tally};
use super::trace::{Answered, RequestTrace};

/// Largest answer for the shared store: a larger one would keep its one connection busy past the deadline of others.
const SHARED_MAX: usize = 1 << 20;

/// A call that is to be made.
pub(super) struct Call {
    /// Whose backend, cache and store.
    pub(super) live: Arc<Live>,
    /// What is asked for.
    pub(super) operation: Operation,
    /// What is sent, with the name that callers use for the model.
    pub(super) body: Bytes,
    /// The same as the asked model is sent it, where that is known.
    pub(super) for_asked: Option<Bytes>,
    /// Whether it asks for a stream.
    pub(super) stream: bool,
    /// The end of the request's time.
    pub(super) deadline: Deadline,
    /// Which model is asked.
    pub(super) asked: Arc<Model>,
    /// Which one answers: it, or a fallback of it.
    pub(super) model: Arc<Model>,
    /// Where a complete answer is kept.
    pub(super) keep: Option<Keep>,
    /// Whether it is made for other pods too: those who wait for its answer find it where it is kept.
    pub(super) leads: bool,
    /// Who is told, where the answer is a stream.
    pub(super) readers: Readers,
    /// The span of the request that began it.
    pub(super) trace: RequestTrace,
    /// What is owed.
    pub(super) guard: SettlementGuard,
    /// Where the call is counted.
    pub(super) metrics: ServerMetrics,
    /// The call that is answered, once there is one.
    pub(super) counted: Option<BackendCall>,
    /// The memory that the body was given.
    pub(super) _room: Option<OwnedSemaphorePermit>,
}

/// A whole answer.
pub(super) struct Whole {
    /// The `chat.completion` object, or what else the operation is answered with, byte for byte.
    pub(super) completion: Bytes,
    /// What was read of it.
    pub(super) read: completion::Answer,
    /// What it cost, when known.
    pub(super) cost: Option<NanoUsd>,
    /// The backend's own id of the call.
    pub(super) request_id: Option<String>,
    /// The fallback whose answer it is; None: the asked model's.
    pub(super) fallback: Option<Arc<str>>,
    /// Whether it was there already, here or in another pod.
    pub(super) known: bool,
}

/// What a call was answered with.
pub(super) enum Called {
    /// A whole answer, and whether the store is given it for other pods.
    Whole(Box<Whole>, bool),
    /// The events of one.
    Stream {
        /// As they come.
        events: Box<Tally>,
        /// The backend's own id of the call.
        request_id: Option<String>,
    },
}

impl Whole {
    /// A kept answer, which costs nothing now. None for what is no answer after all.
    pub(super) fn known(operation: Operation, completion: Bytes) -> Option<Self> {
        let read = operation.read(&completion).ok()?;
        Some(Self { completion, read, cost: Some(NanoUsd(0)), request_id: None, fallback: None, known: true })
    }
}

impl Call {
    /// Asks the backend. The guard knows of the call from its begin on: a client that leaves does not undo it.
    pub(super) async fn make(mut self: Box<Self>) -> Result<Called, BackendError> {
        let owed = self.guard.settlement();
        owed.stream = self.stream;
        if owed.prompt_tokens == 0 {
            // Where no limit asked for it.
            owed.prompt_tokens = Prompt::of(&self.body).estimate();
        }
        let attempts = owed.attempts.clone();
        let call = UpstreamCall {
            chain: &self.live.models.chain(&self.asked),
            operation: self.operation,
            body: &self.body,
            for_asked: self.for_asked.as_ref(),
            stream: self.stream,
            deadline: self.deadline,
            metrics: &self.metrics,
            trace: &self.trace,
        };
        let upstreams::Called { answer, model, call } = self.live.upstreams.call(call, &attempts).await?;
        (self.model, self.counted) = (model, Some(call));
        match answer {
            UpstreamAnswer::Complete { body, request_id } => self.whole(body, request_id),
            UpstreamAnswer::Stream { events, request_id } => {
                Ok(Called::Stream { events: Box::new(Tally::of_call(self, events)), request_id })
            }
        }
    }

    /// The call ended so.
    pub(super) fn ended(&mut self, status: &'static str) {
        if let Some(counted) = &mut self.counted {
            counted.ended(status);
        }
    }

    /// The whole answer has come.
    pub(super) fn answered(&mut self, usage: Option<Usage>, finish_reason: Option<&str>) {
        if let Some(counted) = &mut self.counted {
            counted.trace.answered(&Answered { model: &self.model.upstream, usage, finish_reason });
        }
        self.ended(OK);
    }

    /// The fallback that answers, if it is one.
    pub(super) fn fallback(&self) -> Option<Arc<str>> {
        (self.model.name != self.asked.name).then(|| self.model.name.clone())
    }

    fn whole(
        mut self: Box<Self>,
        completion: Bytes,
        request_id: Option<String>,
    ) -> Result<Called, BackendError> {
        let read = self.operation.read(&completion).map_err(|error| {
            let error = BackendError::from(error);
            self.ended(error.label());
            error
        })?;
        self.answered(read.usage, read.finish_reason.as_deref());
        let cost = self.used(read.usage, (read.text.len() as u64).div_ceil(BYTES_A_TOKEN));
        if read.complete {
            self.store(&completion);
        }
        let kept = self.guard.settlement().keep.is_some();
        let fallback = self.fallback();
        let whole = Whole { completion, read, cost, request_id, fallback, known: false };
        Ok(Called::Whole(Box::new(whole), kept))
    }

    /// Notes what the answer used: what the backend reported, if it did, and what was delivered. Returns what all calls
    /// of this request cost, where that is known.
    pub(super) fn used(&mut self, reported: Option<Usage>, delivered: u64) -> Option<NanoUsd> {
        let owed = self.guard.settlement();
        owed.delivered = delivered;
        if let Some(usage) = reported {
            owed.attempts.reported(usage);
        }
        owed.bill().cost()
    }

    /// Keeps another pod's answer in memory.
    pub(super) fn remember(&self, completion: &Bytes) {
        if let (Some(keep), Some(cache)) = (self.keep, &self.live.cache) {
            cache.put(keep.key, CachedAnswer { completion: completion.clone() }, cache::jittered(keep.ttl));
        }
    }

    /// Keeps a complete answer of the asked model: in memory at once, in the shared store when the call has ended.
    pub(super) fn store(&mut self, completion: &Bytes) {
        let (Some(keep), Some(cache)) = (self.keep, &self.live.cache) else { return };
        if self.fallback().is_some() {
            return;
        }
        let life = cache::jittered(keep.ttl);
        let answer = CachedAnswer { completion: completion.clone() };
        if self.live.store.shared() && completion.len() <= SHARED_MAX {
            self.guard.settlement().keep =
                Some(Kept { key: keep.key, answer: answer.encode(), life, led: self.leads });
        }
        cache.put(keep.key, answer, life);
    }
}
