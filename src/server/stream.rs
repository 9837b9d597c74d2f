//! One relay for both dialects: upstream events → server-sent events. In: the events of a backend or of the cache, and
//! the admitted request. Out: a response body that ends as the dialect says, or with an error event.
//!
//! The relay owns the request: its settlement guard is dropped with the body, however that ends. An answer is only
//! called complete when the backend said so: no `finish_reason` is ever invented.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::json;
use tokio::time::Instant;

use super::backend::BackendError;
use super::completion::{self, Assembler, Conformer};
use super::error::{ApiError, Dialect, StreamFault};
use super::exchange::Exchange;
use super::json::{self, Edit};
use super::metrics::OK;
use super::pricing::NanoUsd;
use super::routes::chat::{ChatEvent, ChatTotals};
use super::settlement::Usage;
use super::state::AppState;
use super::store::ConversationId;

/// Events of a chat completion: the `data` of each, `[DONE]` left out.
pub(super) type Events = BoxStream<'static, Result<Bytes, BackendError>>;

/// Silence after which a comment tells proxies and clients that the stream lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// A cached answer as a stream, with an id of its own.
pub(super) fn replayed(completion: &Bytes) -> Result<Events, BackendError> {
    let id = format!("chatcmpl-{}", uuid::Uuid::new_v4().simple());
    let created = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default();
    let replay = completion::chunks(completion, &id, created)?;
    Ok(futures::stream::iter(replay.chunks.into_iter().chain(replay.usage).map(Ok)).boxed())
}

/// A stream on its way to a caller.
pub(super) struct Relay {
    exchange: Exchange,
    state: AppState,
    events: Events,
    cached: bool,
    assembler: Assembler,
    conformer: Conformer,
    conversation: Option<ConversationId>,
    begun: bool,
    ended: bool,
    fault: StreamFault,
}

impl Relay {
    /// The response body.
    pub(super) fn body(
        exchange: Exchange,
        state: AppState,
        events: Events,
        cached: bool,
        fault: StreamFault,
    ) -> Body {
        state.metrics().streams_active.inc();
        let conversation = exchange.ask.conversation.as_ref().map(|turn| turn.id);
        let conformer = Conformer::new(exchange.ask.include_usage);
        let relay = Self {
            exchange,
            state,
            events,
            cached,
            assembler: Assembler::new(),
            conformer,
            conversation,
            begun: false,
            ended: false,
            fault,
        };
        Body::from_stream(futures::stream::unfold(relay, |mut relay| async move {
            let bytes = relay.next().await?;
            Some((Ok::<_, Infallible>(bytes), relay))
        }))
    }

    /// The next bytes for the caller; None after the last.
    async fn next(&mut self) -> Option<Bytes> {
        // What the caller gets nothing of does not keep its connection alive.
        let silent_until = Instant::now() + HEARTBEAT;
        while !self.ended {
            let streams_end = self.state.shutdown().streams_end().clone();
            tokio::select! {
                biased;
                () = streams_end.cancelled() => return Some(self.fail(&ApiError::ShuttingDown)),
                event = tokio::time::timeout_at(silent_until, self.events.next()) => match event {
                    Err(_) => return Some(Bytes::from_static(b": keep-alive\n\n")),
                    Ok(Some(Ok(data))) => if let Some(bytes) = self.pass(&data) { return Some(bytes) },
                    Ok(Some(Err(error))) => return Some(self.fail(&ApiError::Backend(error))),
                    Ok(None) => return Some(self.finish().await),
                }
            }
        }
        None
    }

    /// One upstream event; None when the caller gets nothing of it.
    fn pass(&mut self, data: &Bytes) -> Option<Bytes> {
        let Ok(object) = json::object(data) else {
            return Some(self.broken("an event of the stream is not a JSON object".to_owned()));
        };
        let chunk = match self.assembler.add(&object) {
            Ok(chunk) => chunk,
            Err(error) => return Some(self.broken(error.to_string())),
        };
        if !chunk.text.is_empty() && !self.begun {
            self.begun = true;
            self.state.metrics().first_token(self.exchange.ask.started.elapsed());
        }
        match self.exchange.ask.dialect {
            Dialect::OpenAi => {
                let told = self.conformer.chunk(data, &object, &chunk)?;
                Some(if chunk.usage_only { self.usage(&told) } else { sse(&told) })
            }
            Dialect::Simple => {
                if chunk.text.is_empty() {
                    return None;
                }
                let event = ChatEvent {
                    delta: chunk.text,
                    conversation_id: self.conversation_text(),
                    finished: false,
                    tokens_used: None,
                    totals: None,
                };
                Some(sse(&serde_json::to_vec(&event).unwrap_or_default()))
            }
        }
    }

    /// The event of a chunk with the usage: a stream's headers leave before its cost is known, so it rides along.
    fn usage(&self, data: &[u8]) -> Bytes {
        let reported = || self.assembler.usage().and_then(|usage| self.exchange.cost(usage));
        let cost = if self.cached { Some(NanoUsd(0)) } else { reported() };
        with_cost(data, cost).map_or_else(|| sse(data), |data| sse(&data))
    }

    /// The end of a stream of the OpenAI dialect, with the chunk of the usage in front if the caller is owed one.
    fn done(&mut self) -> Bytes {
        const DONE: &[u8] = b"data: [DONE]\n\n";
        let owed = self.conformer.owes_usage().then(|| self.assembler.usage_chunk()).flatten();
        let usage = owed.and_then(|data| self.pass(&Bytes::from(data)));
        [usage.unwrap_or_default(), Bytes::from_static(DONE)].concat().into()
    }

    /// The upstream has said all: settle, keep, append, and only then tell the caller.
    async fn finish(&mut self) -> Bytes {
        if !self.assembler.is_complete() {
            return self.broken("the stream ended before a finish_reason".to_owned());
        }
        self.ended = true;
        self.exchange.call.ended(OK);
        let usage = self.assembler.usage();
        let cost = if self.cached { Some(NanoUsd(0)) } else { self.settle() };
        if self.assembler.is_faithful() && !self.cached {
            let completion = Bytes::from(self.assembler.completion());
            self.exchange.store(&completion);
        }
        let assembler = &self.assembler;
        let turn = self.exchange.append(&self.state, assembler.text()).await;
        if self.exchange.ask.dialect == Dialect::OpenAi {
            return self.done();
        }
        let event = ChatEvent {
            delta: String::new(),
            conversation_id: self.conversation_text(),
            finished: true,
            tokens_used: usage.map(Usage::total),
            totals: Some(ChatTotals {
                model: self.exchange.ask.model.name.to_string(),
                cost_estimate: cost.map(NanoUsd::usd),
                cached: self.cached,
                persisted: turn.is_some_and(|turn| turn.persisted),
                finish_reason: self.assembler.finish_reason().map(str::to_owned),
            }),
        };
        sse(&serde_json::to_vec(&event).unwrap_or_default())
    }

    /// The last event of a stream that is no answer.
    fn broken(&mut self, why: String) -> Bytes {
        self.fail(&ApiError::Backend(BackendError::Broken(why)))
    }

    /// The last event of a stream that cannot be completed.
    fn fail(&mut self, error: &ApiError) -> Bytes {
        self.ended = true;
        if !self.cached {
            self.settle();
        }
        self.exchange.call.ended(error.code());
        self.exchange.failed(error);
        self.fault.tell(error);
        let dialect = self.exchange.ask.dialect;
        let mut body = error.body(dialect);
        if dialect == Dialect::Simple {
            body["conversation_id"] = json!(self.conversation_text());
            body["finished"] = json!(false);
        }
        sse(body.to_string().as_bytes())
    }

    /// Charges what was reported, or, when nothing was, the prompt and what was delivered.
    fn settle(&mut self) -> Option<NanoUsd> {
        let delivered = self.assembler.pieces();
        let usage = self.assembler.usage().unwrap_or_else(|| self.exchange.estimate(delivered));
        self.exchange.settle(Some(usage))
    }

    fn conversation_text(&self) -> String {
        self.conversation.map(|id| id.0.to_string()).unwrap_or_default()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.metrics().streams_active.dec();
        if !self.cached && !self.ended {
            self.settle();
        }
    }
}

/// One event. A raw line break would end its `data`; in JSON it can only be white space, so it is left out.
fn sse(data: &[u8]) -> Bytes {
    let mut event = Vec::with_capacity(data.len() + 8);
    event.extend_from_slice(b"data: ");
    for line in data.split(|byte| matches!(byte, b'\n' | b'\r')) {
        event.extend_from_slice(line);
    }
    event.extend_from_slice(b"\n\n");
    Bytes::from(event)
}

/// The usage chunk with `usage.cost_usd`.
fn with_cost(data: &[u8], cost: Option<NanoUsd>) -> Option<Vec<u8>> {
    let chunk = json::object(data).ok()?;
    let usage = json::object(chunk.get("usage")?).ok()?;
    let cost = json!(cost?.usd()).to_string();
    let usage = usage.rewrite(&[Edit::Set { key: "cost_usd", value: cost.as_bytes() }]);
    Some(chunk.rewrite(&[Edit::Set { key: "usage", value: &usage }]))
}
