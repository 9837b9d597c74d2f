//! One question and its answer, for both dialects: the order in which everything happens to it. In: [`Ask`], made by a
//! route. Out: [`Outcome`], which the route puts into its dialect's form.
//!
//! Order: settlement guard → memory cache → a seat among equal requests in flight → one trip to the store (limit, cached
//! answer) → backend → conversation appended → answer. Not awaited, but owed by the guard: usage, cost, answers to keep.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::OwnedSemaphorePermit;

use super::backend::{BackendError, Deadline};
use super::cache::{self, CacheControl, KeyScope};
use super::call::{Call, Called};
use super::completion;
use super::config::RequestLimit;
use super::conversations;
use super::error::{ApiError, Dialect, StreamFault};
use super::models::Model;
use super::outcome::{Answer, CacheResult, Outcome, Plain, TurnState};
use super::pricing::NanoUsd;
use super::settlement::{SettlementGuard, Usage};
use super::state::{AppState, Live};
use super::store::{
    Admit, CacheKey, CallerKey, ConversationId, LimitStore, ReservationId, Reserve, Retention, Said, Settle,
};
use super::stream::{Events, Relay};
use super::tally::Readers;

/// What a route made of a request.
pub struct Ask {
    /// How the answer is told.
    pub dialect: Dialect,
    /// Whose limit.
    pub caller: CallerKey,
    /// The configured model that answers.
    pub model: Arc<Model>,
    /// The body as it goes upstream.
    pub body: Bytes,
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
    /// The memory that its body was given.
    pub room: Option<OwnedSemaphorePermit>,
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
    /// Of a request with these members, as the caller means it and before anything is rewritten for the backend. None
    /// where the cache is off or the caller wants nothing of it.
    pub fn new<'a>(
        live: &Live,
        control: CacheControl,
        model: &Model,
        members: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Option<Self> {
        let config = live.config.dynamic.cache.filter(|_| control.store)?;
        let scope = KeyScope {
            uid: &live.config.identity.uid,
            scope: "service",
            backend_host: &live.origin,
            model: &model.name,
            upstream: &model.upstream,
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
    guard.settlement.model = ask.model.name.clone();
    let looked_for = ask.keep.filter(|_| ask.cache.read);
    let id = ask.id.clone();
    let exchange = Exchange { live: live.clone(), ask, guard: Some(guard) };
    let answered = match looked_for {
        Some(keep) => exchange.look_for(state, keep, outcome).await,
        None => exchange.ask_alone(state, outcome).await,
    };
    if let Err(error @ ApiError::Backend(_)) = &answered {
        failed(&id, error);
    }
    answered
}

/// What a request asks of the store.
struct Admission {
    part: Part,
    cache_key: Option<CacheKey>,
}

/// Which of its limits a request is charged to now.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All of them.
    Whole,
    /// The request alone: it is to be answered by another's call.
    Request,
    /// What [`Part::Request`] left out, since it has to make a call after all.
    Rest,
}

/// One trip: charge the limit, look for an answer. While the store is away, this process keeps the limit by itself.
async fn admit(
    state: &AppState,
    live: &Live,
    caller: &CallerKey,
    wanted: Admission,
    outcome: &mut Outcome,
) -> Result<Option<Bytes>, ApiError> {
    let ask = Admit { reserve: reserve(live, caller, wanted.part), cache_key: wanted.cache_key };
    if ask.reserve.is_none() && ask.cache_key.is_none() {
        return Ok(None);
    }
    let limit = live.limit();
    let admitted = if let Ok(admitted) = live.store.admit(ask.clone()).await {
        admitted
    } else {
        state.metrics().store_error("admit");
        state.local().admit(ask).await.map_err(|_| ApiError::Internal)?
    };
    let now = admitted.standing.and_then(|standing| standing.requests);
    if let (Some(limit), Some(now)) = (limit, now) {
        outcome.limit = Some((limit, now));
        if !now.allowed {
            state.denials().add(caller.clone(), now);
            return Err(limited(state, limit, now.retry_after));
        }
    }
    Ok(admitted.cached)
}

/// Charges what asks for no answer of a model: one request, and nothing else. Out: whether it may go on, and the headers
/// about its limit.
pub(super) async fn admit_request(
    state: &AppState,
    live: &Live,
    caller: &CallerKey,
) -> (Result<(), ApiError>, HeaderMap) {
    let mut outcome = Outcome::from(ApiError::Internal);
    let wanted = Admission { part: Part::Request, cache_key: None };
    let admitted = admit(state, live, caller, wanted, &mut outcome).await;
    (admitted.map(drop), outcome.headers())
}

/// What a request takes of its limits.
fn reserve(live: &Live, caller: &CallerKey, part: Part) -> Option<Reserve> {
    if part == Part::Rest {
        return None;
    }
    Some(Reserve {
        id: ReservationId(rand::random()),
        since: Instant::now(),
        caller: caller.clone(),
        requests: Some(live.limit()?),
        tokens: None,
        concurrent: None,
        budget: None,
        life: Duration::from_millis(live.config.dynamic.timeouts.request_ms) + Duration::from_mins(1),
        enforce: true,
    })
}

/// The charge of a request that is served without asking the store.
fn late(live: &Live, caller: &CallerKey) -> Option<Settle> {
    Some(Settle {
        reserve: reserve(live, caller, Part::Request)?,
        reserved: false,
        requests: 1,
        tokens: 0,
        cost: NanoUsd(0),
    })
}

/// More at once than is taken; the wait is spread so that those refused together do not come back together.
pub(super) fn busy() -> ApiError {
    ApiError::Overloaded { retry_after: Duration::from_secs(1 + u64::from(rand::random::<u8>() % 4)) }
}

/// What a caller gets that was refused within the last second: nothing need be read for it.
pub(super) fn refused_lately(
    state: &AppState,
    live: &Live,
    caller: &CallerKey,
) -> Option<(ApiError, HeaderMap)> {
    let (limit, now) = live.limit().zip(state.denials().get(caller))?;
    let error = limited(state, limit, now.retry_after);
    let outcome = Outcome { limit: Some((limit, now)), ..Outcome::from(error.clone()) };
    Some((error, outcome.headers()))
}

/// The refusal, counted: each is made once.
fn limited(state: &AppState, limit: RequestLimit, retry_after: Duration) -> ApiError {
    state.metrics().rate_limited.with_label_values(&["requests"]).inc();
    let limit = format!("{} requests per {} s", limit.requests, limit.period_seconds);
    ApiError::RateLimited { limit, retry_after }
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
    pub(super) ask: Ask,
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
        self.admit(state, Part::Whole, None, outcome).await?;
        outcome.cache = Some(CacheResult::Bypass);
        if self.ask.cache.only_if_cached {
            return Err(ApiError::NotCached);
        }
        let readers = Readers::One { include_usage: self.ask.include_usage };
        let found = match self.call(state, readers)?.make().await? {
            Called::Whole(whole) => {
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

    /// One trip to the store; the stored answer, when it was asked for and is there.
    pub(super) async fn admit(
        &self,
        state: &AppState,
        part: Part,
        cache_key: Option<CacheKey>,
        outcome: &mut Outcome,
    ) -> Result<Option<Bytes>, ApiError> {
        admit(state, &self.live, &self.ask.caller, Admission { part, cache_key }, outcome).await
    }

    /// Charges a request that an answer was found for in this pod's memory: afterwards where that saves a trip.
    pub(super) async fn admit_hit(
        &mut self,
        state: &AppState,
        outcome: &mut Outcome,
    ) -> Result<(), ApiError> {
        match &mut self.guard {
            Some(guard) if self.live.store.shared() => {
                guard.settlement.charge = late(&self.live, &self.ask.caller);
            }
            _ => {
                self.admit(state, Part::Request, None, outcome).await?;
            }
        }
        Ok(())
    }

    /// The call that this request needs. It takes what is owed along: who asks once cannot ask again.
    pub(super) fn call(&mut self, state: &AppState, readers: Readers) -> Result<Call, ApiError> {
        let guard = self.guard.take().ok_or(ApiError::Internal)?;
        let limit = Duration::from_millis(self.live.config.dynamic.timeouts.request_ms);
        let ask = &mut self.ask;
        Ok(Call {
            live: self.live.clone(),
            body: ask.body.clone(),
            stream: ask.stream,
            deadline: Deadline::new(ask.started, limit),
            asked: ask.model.clone(),
            model: ask.model.clone(),
            keep: ask.keep,
            readers,
            guard,
            metrics: state.metrics().clone(),
            counted: None,
            _room: ask.room.take(),
        })
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
                let conversation = self.append(state, &read.text, read.usage, cost).await;
                let model = fallback.unwrap_or_else(|| self.ask.model.name.clone());
                let cached = result == CacheResult::Hit;
                Answer::Plain(Plain { completion, cached, model, read, cost, conversation })
            }
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
        let persisted = self.live.store.append_turn(turn.id, stored, retention).await.unwrap_or_else(|_| {
            state.metrics().store_error("append_turn");
            false
        });
        Some(TurnState { id: turn.id, persisted })
    }
}
