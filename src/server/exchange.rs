//! One question and its answer, for both dialects: the order in which everything happens to it. In: [`Ask`], made by a
//! route. Out: [`Outcome`], which the route puts into its dialect's form.
//!
//! Order: settlement guard → cache key → memory cache → one trip to the store (limit, cached answer)
//! → backend → conversation appended → answer. Not awaited, but owed by the guard: usage, cost, answers to keep.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::OwnedSemaphorePermit;

use super::backend::{BackendError, UpstreamAnswer, UpstreamRequest};
use super::cache::{self, CacheControl, CachedAnswer, KeyScope};
use super::completion;
use super::config::RequestLimit;
use super::error::{ApiError, Dialect, StreamFault};
use super::metrics::{BackendCall, OK};
use super::models::Model;
use super::outcome::{Answer, CacheResult, Outcome, Plain, TurnState};
use super::pricing::NanoUsd;
use super::settlement::{SettlementGuard, Usage};
use super::state::{AppState, Live};
use super::store::{
    Admit, CacheKey, CallerKey, ConversationId, LimitStore, ReservationId, Reserve, Retention, Settle, Turn,
};
use super::stream::{self, Relay};

/// Largest answer for the shared store: a larger one would keep its one connection busy past the deadline of others.
const SHARED_MAX: usize = 1 << 20;
/// The usual rule of thumb for English.
const BYTES_A_TOKEN: usize = 4;

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
    key: CacheKey,
    /// How long.
    ttl: Duration,
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
    let in_memory = looked_for.and_then(|keep| live.cache.as_ref()?.get(keep.key));
    let found = match in_memory {
        // The shared store is not asked for what this pod knows: the request is charged afterwards.
        Some(found) if live.store.shared() => {
            guard.settlement.charge = late(live, &ask.caller);
            Some(found)
        }
        in_memory => {
            let cache_key = looked_for.filter(|_| in_memory.is_none()).map(|keep| keep.key);
            let from_store = admit(state, live, &ask.caller, cache_key, outcome).await?;
            in_memory.or_else(|| remember(live, looked_for?, &from_store?))
        }
    };
    let found = found.and_then(|answer| Found::new(&answer, &ask));
    outcome.cache = Some(match (&found, looked_for) {
        (Some(_), _) => CacheResult::Hit,
        (None, Some(_)) => CacheResult::Miss,
        (None, None) => CacheResult::Bypass,
    });
    let call = BackendCall::new(state.metrics().clone(), ask.model.name.clone());
    let mut exchange = Exchange { live: live.clone(), ask, guard, call };
    if let Some(found) = found {
        outcome.cost = Some(NanoUsd(0));
        return exchange.replay(state, found).await;
    }
    if exchange.ask.cache.only_if_cached {
        return Err(ApiError::NotCached);
    }
    let answered = match exchange.call().await {
        Ok(upstream) => exchange.take(state, upstream, outcome).await,
        Err(error) => Err((exchange, error)),
    };
    answered.map_err(|(exchange, error)| {
        exchange.failed(&error);
        error
    })
}

/// One trip: charge the limit, look for an answer. While the store is away, this process keeps the limit by itself.
async fn admit(
    state: &AppState,
    live: &Live,
    caller: &CallerKey,
    cache_key: Option<CacheKey>,
    outcome: &mut Outcome,
) -> Result<Option<Bytes>, ApiError> {
    let limit = live.limit();
    if limit.is_none() && cache_key.is_none() {
        return Ok(None);
    }
    let ask = Admit { reserve: reserve(live, caller), cache_key };
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

/// What a request takes of its limits.
fn reserve(live: &Live, caller: &CallerKey) -> Option<Reserve> {
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
        reserve: reserve(live, caller)?,
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

/// Takes an answer of the shared store into memory too.
fn remember(live: &Live, keep: Keep, stored: &Bytes) -> Option<CachedAnswer> {
    let answer = CachedAnswer::decode(stored)?;
    live.cache.as_ref()?.put(keep.key, answer.clone(), cache::jittered(keep.ttl));
    Some(answer)
}

/// A request that was admitted.
pub(super) struct Exchange {
    pub(super) live: Arc<Live>,
    pub(super) ask: Ask,
    pub(super) guard: SettlementGuard,
    pub(super) call: BackendCall,
}

/// An answer of the cache, in the form that was asked for.
enum Found {
    Plain(Bytes, completion::Answer),
    Stream(stream::Events),
}

impl Found {
    /// None for what is no answer after all: the store is not trusted, and the backend is asked instead.
    fn new(answer: &CachedAnswer, ask: &Ask) -> Option<Self> {
        if ask.stream {
            return stream::replayed(&answer.completion).ok().map(Self::Stream);
        }
        let read = completion::read(&answer.completion).ok()?;
        Some(Self::Plain(answer.completion.clone(), read))
    }
}

impl Exchange {
    /// Answers from the cache, in whichever form was asked for.
    async fn replay(mut self, state: &AppState, found: Found) -> Result<Answer, ApiError> {
        match found {
            Found::Stream(events) => Ok(self.relay(state, events, true)),
            Found::Plain(completion, read) => {
                let conversation = self.append(state, &read.text).await;
                let cost = Some(NanoUsd(0));
                let model = self.ask.model.name.clone();
                Ok(Answer::Plain(Plain { completion, model, read, cached: true, cost, conversation }))
            }
        }
    }

    /// Asks the backend. While it is asked, what the guard owes is the prompt: a client that leaves does not undo it.
    async fn call(&mut self) -> Result<UpstreamAnswer, ApiError> {
        let request = UpstreamRequest { body: self.ask.body.clone(), stream: self.ask.stream };
        self.call.begin();
        self.settle(Some(self.estimate(0)));
        let called = self.live.backend.call(request).await;
        if let Err(error) = &called {
            self.call.ended(error.label());
            if !matches!(error, BackendError::Timeout(_) | BackendError::Broken(_)) {
                self.settle(None);
            }
        }
        Ok(called?)
    }

    /// Makes an answer of the backend's.
    async fn take(
        mut self,
        state: &AppState,
        upstream: UpstreamAnswer,
        outcome: &mut Outcome,
    ) -> Result<Answer, (Self, ApiError)> {
        match upstream {
            UpstreamAnswer::Stream { events, request_id } => {
                outcome.upstream_id = request_id;
                Ok(self.relay(state, events, false))
            }
            UpstreamAnswer::Complete { body, request_id } => {
                outcome.upstream_id = request_id;
                let read = match completion::read(&body) {
                    Ok(read) => read,
                    Err(error) => {
                        let error = BackendError::from(error);
                        self.call.ended(error.label());
                        return Err((self, error.into()));
                    }
                };
                self.call.ended(OK);
                let delivered = read.text.len().div_ceil(BYTES_A_TOKEN) as u64;
                outcome.cost = self.settle(Some(read.usage.unwrap_or_else(|| self.estimate(delivered))));
                if read.complete {
                    self.store(&body);
                }
                let conversation = self.append(state, &read.text).await;
                let cost = outcome.cost;
                let model = self.ask.model.name.clone();
                Ok(Answer::Plain(Plain { completion: body, model, read, cached: false, cost, conversation }))
            }
        }
    }

    /// What is charged when the backend does not say: the prompt, and what was delivered.
    pub(super) fn estimate(&self, completion_tokens: u64) -> Usage {
        Usage { prompt_tokens: self.ask.body.len().div_ceil(BYTES_A_TOKEN) as u64, completion_tokens }
    }

    /// The cause of a failure, for who runs the server. What a backend says of a request it refused may quote the
    /// request, so of that only the code is logged.
    pub(super) fn failed(&self, error: &ApiError) {
        let cause = match error {
            ApiError::Backend(BackendError::Rejected { status, .. }) => format!("refused with {status}"),
            other => other.to_string(),
        };
        tracing::warn!(request.id = &*self.ask.id, error.code = error.code(), error = cause, "no answer");
    }

    fn relay(self, state: &AppState, events: stream::Events, cached: bool) -> Answer {
        let conversation = self.ask.conversation.as_ref().map(|turn| turn.id);
        let fault = StreamFault::default();
        let body = Relay::body(self, state.clone(), events, cached, fault.clone());
        Answer::Stream { body, conversation, fault }
    }

    /// What these tokens cost, when the model's price is known.
    pub(super) fn cost(&self, usage: Usage) -> Option<NanoUsd> {
        Some(self.ask.model.price.as_ref()?.cost(usage))
    }

    /// Writes down what was used; returns its price.
    pub(super) fn settle(&mut self, usage: Option<Usage>) -> Option<NanoUsd> {
        let cost = usage.and_then(|usage| self.cost(usage));
        self.guard.settlement.usage = usage;
        self.guard.settlement.cost = cost;
        cost
    }

    /// Keeps a complete answer: in memory at once, in the shared store when the request has ended.
    pub(super) fn store(&mut self, completion: &Bytes) {
        let (Some(keep), Some(cache)) = (self.ask.keep, &self.live.cache) else { return };
        let life = cache::jittered(keep.ttl);
        let answer = CachedAnswer { completion: completion.clone() };
        if self.live.store.shared() && completion.len() <= SHARED_MAX {
            self.guard.settlement.keep = Some((keep.key, answer.encode(), life));
        }
        cache.put(keep.key, answer, life);
    }

    /// Appends the turn, before the answer's end is sent.
    pub(super) async fn append(&mut self, state: &AppState, assistant: &str) -> Option<TurnState> {
        let turn = self.ask.conversation.take()?;
        if !turn.persistent {
            return Some(TurnState { id: turn.id, persisted: false });
        }
        let stored = Turn { user: turn.user, assistant: assistant.to_owned(), first: turn.first };
        let retention = Retention::from(&self.live.config.dynamic.conversations);
        let persisted = self.live.store.append_turn(turn.id, stored, retention).await.unwrap_or_else(|_| {
            state.metrics().store_error("append_turn");
            false
        });
        Some(TurnState { id: turn.id, persisted })
    }
}
