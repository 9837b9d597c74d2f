//! One question and its answer, for both dialects: the order in which everything happens to it. In: [`Ask`], made by a
//! route. Out: [`Outcome`], which the route puts into its dialect's form.
//!
//! Order: settlement guard → memory cache → a seat among equal requests in flight → one trip to the store (limits, cached
//! answer) → backend → conversation appended → answer. Not awaited, but owed by the guard: usage, cost, answers to keep.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::OwnedSemaphorePermit;

use super::admission::{Admission, Asked, Part, Wanted};
use super::backend::{BackendError, Deadline};
use super::cache::{self, CacheControl, KeyScope, Rewriting};
use super::call::{Call, Called};
use super::caller::Caller;
use super::completion;
use super::conversations;
use super::error::{ApiError, Dialect, StreamFault};
use super::models::Model;
use super::operation::Operation;
use super::outcome::{Answer, CacheResult, Outcome, Plain, TurnState};
use super::pricing::NanoUsd;
use super::responses::Turn;
use super::settlement::{SettlementGuard, Usage};
use super::state::{AppState, Live};
use super::store::{CacheKey, ConversationId, Retention, Said, Share};
use super::stream::{Events, Relay};
use super::tally::Readers;
use super::trace::RequestTrace;
use super::upstream_body::Known;
use crate::crd::CacheScope;

/// What a route made of a request.
pub struct Ask {
    /// How the answer is told, as a stream.
    pub form: Form,
    /// Who sent it.
    pub caller: Arc<Caller>,
    /// What is asked for.
    pub operation: Operation,
    /// The configured model that answers.
    pub model: Arc<Model>,
    /// The body as it goes upstream.
    pub body: Bytes,
    /// What has been read of it.
    pub known: Option<Known>,
    /// Whether the answer is a stream.
    pub stream: bool,
    /// Whether the caller wants the usage in the stream.
    pub include_usage: bool,
    /// What the caller says of the cache.
    pub cache: CacheControl,
    /// Where its answer is looked for and kept, when it is.
    pub keep: Option<Keep>,
    /// The conversation that the answer belongs to.
    pub conversation: Option<Conversing>,
    /// When the request came.
    pub started: Instant,
    /// Its id, for the log.
    pub id: Arc<str>,
    /// Its span.
    pub trace: RequestTrace,
    /// The memory that its body was given.
    pub room: Option<OwnedSemaphorePermit>,
}

/// The form that the events of a stream have.
pub enum Form {
    /// The simple dialect's.
    Simple,
    /// `chat.completion.chunk`.
    Chunks,
    /// Those of a response.
    Response(Box<Turn>),
}

impl Form {
    /// Whose errors they are.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::Simple => Dialect::Simple,
            Self::Chunks | Self::Response(_) => Dialect::OpenAi,
        }
    }
}

/// The turn that a request is.
pub struct Conversing {
    /// Its conversation.
    pub id: ConversationId,
    /// What the user said.
    pub user: String,
    /// Whether it begins the conversation.
    pub first: bool,
    /// Whether what came before could be read; if not, the turn is not stored.
    pub persistent: bool,
}

/// Where the answer of a request is kept.
#[derive(Clone, Copy)]
pub struct Keep {
    /// Under which key.
    pub(super) key: CacheKey,
    /// How long.
    pub(super) ttl: Duration,
}

impl Keep {
    /// Of a request of this caller with these members, as it means it and before anything is rewritten for the backend. None
    /// where the cache is off or the caller wants nothing of it.
    pub fn new<'a>(
        live: &Live,
        caller: &Caller,
        control: CacheControl,
        (operation, model): (Operation, &Model),
        members: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Option<Self> {
        let config = live.config.dynamic.cache.filter(|_| control.store)?;
        let scope = KeyScope {
            uid: &live.config.identity.uid,
            scope: caller.identity().filter(|_| config.scope == CacheScope::Caller),
            backend_host: &live.origin,
            operation: operation.name(),
            model: &model.name,
            upstream: &model.upstream,
            rewriting: Rewriting {
                max_output_tokens: model.max_output_tokens,
                always_capped: live.upstreams.always_capped(),
                cap_field: model.max_tokens_field.as_str(),
                omit: &model.omit,
            },
        };
        Some(Self { key: cache::key(scope, members), ttl: Duration::from_millis(config.ttl_ms) })
    }
}

/// Answers a request.
pub async fn answer(state: &AppState, live: &Arc<Live>, ask: Ask) -> Outcome {
    let mut outcome = Outcome::from(ApiError::Internal);
    outcome.result = run(state, live, ask, &mut outcome).await;
    if let Some(result) = outcome.cache {
        state.metrics().cache_requests.with_label_values(&[result.as_str()]).inc();
    }
    outcome
}

async fn run(
    state: &AppState,
    live: &Arc<Live>,
    ask: Ask,
    outcome: &mut Outcome,
) -> Result<Answer, ApiError> {
    let mut guard = state.settlements().guard().ok_or_else(busy)?;
    guard.settlement().caller = Some(ask.caller.clone());
    ask.trace.asks(ask.operation, live.config.dynamic.backend.name(), &ask.model.name);
    let looked_for = ask.keep.filter(|_| ask.cache.read);
    let id = ask.id.clone();
    let exchange = Exchange { live: live.clone(), ask: Box::new(ask), guard: Some(guard) };
    let answered = match looked_for {
        Some(keep) => exchange.look_for(state, keep, outcome).await,
        None => exchange.ask_alone(state, outcome).await,
    };
    if let Err(error @ ApiError::Backend(_)) = &answered {
        failed(&id, error);
    }
    answered
}

/// Charges what asks for no answer of a model: one request, and nothing else. Out: whether it may go on, and the headers
/// about its limit.
pub(super) async fn admit_request(
    state: &AppState,
    live: &Live,
    caller: &Caller,
) -> (Result<(), ApiError>, HeaderMap) {
    let mut outcome = Outcome::from(ApiError::Internal);
    let Some(mut guard) = state.settlements().guard() else { return (Err(busy()), HeaderMap::new()) };
    let admission = Admission { state, live, caller, asked: None };
    let wanted = Wanted::reserve(Part::Request);
    let admitted = admission.admit(wanted, guard.settlement(), &mut outcome).await;
    (admitted.map(drop), outcome.headers())
}

/// More at once than is taken; the wait is spread so that those refused together do not come back together.
pub(super) fn busy() -> ApiError {
    ApiError::Overloaded { retry_after: Duration::from_secs(1 + u64::from(rand::random::<u8>() % 4)) }
}

/// The cause of a failure, for who runs the server. What a backend says of a request it refused may quote the request,
/// so of that only the code is logged.
pub(super) fn failed(id: &str, error: &ApiError) {
    let cause = match error {
        ApiError::Backend(BackendError::Rejected { status, .. }) => format!("refused with {status}"),
        other => other.to_string(),
    };
    tracing::warn!(request.id = id, error.code = error.code(), error = cause, "no answer");
}

/// A request on its way to its answer.
pub(super) struct Exchange {
    pub(super) live: Arc<Live>,
    /// Large, and handed on.
    pub(super) ask: Box<Ask>,
    /// None once the call to the backend has it.
    pub(super) guard: Option<SettlementGuard>,
}

/// An answer that is there or begins to come, in the form that was asked for.
pub(super) enum Found {
    /// Whole. With the fallback whose answer it is, if it is one's.
    Plain(Bytes, completion::Answer, Option<Arc<str>>),
    /// As it comes.
    Stream(Events),
}

impl Exchange {
    /// A request that wants nothing of the cache but, perhaps, that its answer is kept.
    async fn ask_alone(mut self, state: &AppState, outcome: &mut Outcome) -> Result<Answer, ApiError> {
        self.admit(state, Wanted::reserve(Part::Whole), outcome).await?;
        outcome.cache = Some(CacheResult::Bypass);
        if self.ask.cache.only_if_cached {
            return Err(ApiError::NotCached);
        }
        let readers = Readers::One { include_usage: self.ask.include_usage };
        let found = match self.call(state, readers)?.make().await? {
            Called::Whole(whole, _) => {
                outcome.cost = whole.cost;
                outcome.upstream_id = whole.request_id;
                Found::Plain(whole.completion, whole.read, whole.fallback)
            }
            Called::Stream { events, request_id } => {
                outcome.upstream_id = request_id;
                Found::Stream(Events::Own(events))
            }
        };
        Ok(self.tell(state, found, CacheResult::Bypass, outcome.cost).await)
    }

    /// One trip to the store; the stored answer or who asks for it, where that was wanted.
    pub(super) async fn admit(
        &mut self,
        state: &AppState,
        wanted: Wanted,
        outcome: &mut Outcome,
    ) -> Result<Option<Share>, ApiError> {
        let owed = self.guard.as_mut().ok_or(ApiError::Internal)?.settlement();
        let ask = &self.ask;
        let asked = Some(Asked {
            operation: ask.operation,
            body: &ask.body,
            known: ask.known.as_ref(),
            model: &ask.model,
        });
        let admission = Admission { state, live: &self.live, caller: &ask.caller, asked };
        admission.admit(wanted, owed, outcome).await
    }

    /// Charges a request that an answer was found for in this pod's memory: afterwards where that saves a trip.
    pub(super) async fn admit_hit(
        &mut self,
        state: &AppState,
        outcome: &mut Outcome,
    ) -> Result<(), ApiError> {
        if self.live.store.shared() {
            let owed = self.guard.as_mut().ok_or(ApiError::Internal)?.settlement();
            Admission { state, live: &self.live, caller: &self.ask.caller, asked: None }.charge_later(owed);
        } else {
            self.admit(state, Wanted::reserve(Part::Request), outcome).await?;
        }
        Ok(())
    }

    /// The call that this request needs. It takes what is owed along: who asks once cannot ask again.
    pub(super) fn call(&mut self, state: &AppState, readers: Readers) -> Result<Box<Call>, ApiError> {
        let guard = self.guard.take().ok_or(ApiError::Internal)?;
        let limit = Duration::from_millis(self.live.config.dynamic.timeouts.request_ms);
        let ask = &mut self.ask;
        Ok(Box::new(Call {
            live: self.live.clone(),
            operation: ask.operation,
            body: ask.body.clone(),
            for_asked: ask.known.as_ref().map(|known| known.for_asked.clone()),
            stream: ask.stream,
            deadline: Deadline::new(ask.started, limit),
            asked: ask.model.clone(),
            model: ask.model.clone(),
            keep: ask.keep,
            trace: ask.trace.clone(),
            readers,
            leads: false,
            guard,
            metrics: state.metrics().clone(),
            counted: None,
            _room: ask.room.take(),
        }))
    }

    /// Makes an answer of what was found. `cost` is known for a whole one.
    pub(super) async fn tell(
        mut self,
        state: &AppState,
        found: Found,
        result: CacheResult,
        cost: Option<NanoUsd>,
    ) -> Answer {
        match found {
            Found::Stream(events) => {
                let conversation = self.ask.conversation.as_ref().map(|turn| turn.id);
                let fault = StreamFault::default();
                let body = Relay::body(self, state.clone(), events, result, fault.clone());
                Answer::Stream { body, conversation, fault }
            }
            Found::Plain(completion, read, fallback) => {
                self.saved(state, result, read.usage);
                let conversation = self.append(state, &read.text, read.usage, cost).await;
                let model = fallback.unwrap_or_else(|| self.ask.model.name.clone());
                let cached = result == CacheResult::Hit;
                Answer::Plain(Plain { completion, cached, model, read, cost, conversation })
            }
        }
    }

    /// Counts what an answer of the cache would have cost.
    pub(super) fn saved(&self, state: &AppState, result: CacheResult, usage: Option<Usage>) {
        let price = self.ask.model.price.filter(|_| result == CacheResult::Hit);
        if let Some((price, usage)) = price.zip(usage) {
            state.metrics().cache_saved.inc_by(price.cost(usage).usd());
        }
    }

    /// Appends the turn, before the answer's end is sent. `usage` and `cost` are what the caller is told of it.
    pub(super) async fn append(
        &mut self,
        state: &AppState,
        assistant: &str,
        usage: Option<Usage>,
        cost: Option<NanoUsd>,
    ) -> Option<TurnState> {
        let turn = self.ask.conversation.take()?;
        if !turn.persistent {
            return Some(TurnState { id: turn.id, persisted: false });
        }
        let said = Said { user: turn.user, assistant: assistant.to_owned() };
        let stored = conversations::turn(said, turn.first, usage, cost);
        let retention = Retention::from(&self.live.config.dynamic.conversations);
        let place = self.ask.caller.owned(turn.id.0);
        let persisted = self.live.store.append_turn(place, stored, retention).await.unwrap_or_else(|_| {
            state.metrics().store_error("append_turn");
            false
        });
        Some(TurnState { id: turn.id, persisted })
    }
}
