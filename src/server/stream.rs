//! One relay for both dialects: events of an answer → server-sent events. In: the events of a call, of a shared one or
//! of the cache, and the admitted request. Out: a response body that ends as the dialect says, or with an error event.
//!
//! The relay owns the request: what it holds is dropped with the body, however that ends, and so settled. An answer is
//! only called complete when the backend said so: no `finish_reason` is ever invented.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use serde_json::json;
use tokio::time::Instant;

use super::coalesce::Seat;
use super::error::{ApiError, Dialect, StreamFault};
use super::exchange::{self, Exchange, Form};
use super::json::{self, Edit};
use super::outcome::{CacheResult, TurnState};
use super::pricing::NanoUsd;
use super::responses;
use super::routes::chat::{ChatEvent, ChatTotals};
use super::settlement::Usage;
use super::state::AppState;
use super::store::ConversationId;
use super::tally::{Delta, Step, Tally, Total};

/// Silence after which a comment tells proxies and clients that the stream lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Where events come from.
pub(super) enum Events {
    /// This request's own call, or the cache.
    Own(Box<Tally>),
    /// A call that may be shared.
    Shared(Box<Seat>),
}

impl Events {
    async fn next(&mut self) -> Step {
        match self {
            Self::Own(tally) => tally.next().await,
            Self::Shared(seat) => seat.next().await,
        }
    }
}

/// A stream on its way to a caller.
pub(super) struct Relay {
    exchange: Exchange,
    state: AppState,
    events: Events,
    result: CacheResult,
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
        result: CacheResult,
        fault: StreamFault,
    ) -> Body {
        state.metrics().streams_active.inc();
        let conversation = exchange.ask.conversation.as_ref().map(|turn| turn.id);
        let relay = Self { exchange, state, events, result, conversation, begun: false, ended: false, fault };
        Body::from_stream(futures::stream::unfold(relay, |mut relay| async move {
            let bytes = relay.next().await?;
            Some((Ok::<_, Infallible>(bytes), relay))
        }))
    }

    /// The next bytes for the caller; None after the last.
    async fn next(&mut self) -> Option<Bytes> {
        if let Form::Response(turn) = &mut self.exchange.ask.form
            && let Some(begin) = turn.begin()
        {
            return Some(begin);
        }
        // What the caller gets nothing of does not keep its connection alive.
        let silent_until = Instant::now() + HEARTBEAT;
        while !self.ended {
            let streams_end = self.state.shutdown().streams_end().clone();
            tokio::select! {
                biased;
                () = streams_end.cancelled() => return Some(self.fail(&ApiError::ShuttingDown)),
                event = tokio::time::timeout_at(silent_until, self.events.next()) => match event {
                    Err(_) => return Some(Bytes::from_static(b": keep-alive\n\n")),
                    Ok(Step::Delta(delta)) => if let Some(bytes) = self.pass(&delta) { return Some(bytes) },
                    Ok(Step::Failed(error)) => return Some(self.fail(&ApiError::Backend(error))),
                    Ok(Step::End(total)) => return Some(self.finish(&total).await),
                }
            }
        }
        None
    }

    /// One event; None when the caller gets nothing of it.
    fn pass(&mut self, delta: &Arc<Delta>) -> Option<Bytes> {
        let text = &delta.chunk.text;
        if !text.is_empty() && !self.begun {
            self.begun = true;
            self.state.metrics().first_token(self.exchange.ask.started.elapsed());
        }
        match &mut self.exchange.ask.form {
            Form::Chunks => self.chunk(delta),
            Form::Response(turn) => match turn.chunk(delta.told(true)?) {
                Ok(told) => told,
                Err(error) => Some(self.fail(&ApiError::Backend(error.into()))),
            },
            Form::Simple => {
                if text.is_empty() {
                    return None;
                }
                let event = ChatEvent {
                    delta: text.clone(),
                    conversation_id: self.conversation_text(),
                    finished: false,
                    tokens_used: None,
                    totals: None,
                };
                Some(sse(&serde_json::to_vec(&event).unwrap_or_default()))
            }
        }
    }

    /// What an OpenAI caller gets of an event; the cost rides along with the usage, since the headers leave before it is
    /// known.
    fn chunk(&self, delta: &Delta) -> Option<Bytes> {
        let data = delta.told(self.exchange.ask.include_usage)?;
        Some(if delta.chunk.usage_only { self.usage(data, delta.cost) } else { sse(data) })
    }

    fn usage(&self, data: &[u8], cost: Option<NanoUsd>) -> Bytes {
        with_cost(data, self.cost(cost)).map_or_else(|| sse(data), |data| sse(&data))
    }

    /// The end of a stream of the OpenAI dialect, with the chunk of the usage in front if the caller is owed one.
    fn done(&self, total: &Total) -> Bytes {
        const DONE: &[u8] = b"data: [DONE]\n\n";
        let owed = total.owed.as_ref().filter(|_| self.exchange.ask.include_usage);
        let usage = owed.map(|data| self.usage(data, total.cost));
        [usage.unwrap_or_default(), Bytes::from_static(DONE)].concat().into()
    }

    /// What this request pays of it.
    fn cost(&self, cost: Option<NanoUsd>) -> Option<NanoUsd> {
        if self.result.is_free() { Some(NanoUsd(0)) } else { cost }
    }

    /// All has come: append, and only then tell the caller.
    async fn finish(&mut self, total: &Total) -> Bytes {
        self.ended = true;
        self.exchange.saved(&self.state, self.result, total.usage);
        let cost = self.cost(total.cost);
        let turn = self.exchange.append(&self.state, &total.text, total.usage, cost).await;
        match &self.exchange.ask.form {
            Form::Chunks => self.done(total),
            Form::Response(_) => self.response(total, cost).await,
            Form::Simple => self.totals(total, cost, turn),
        }
    }

    /// The end of a response: stored, and only then told.
    async fn response(&mut self, total: &Total, cost: Option<NanoUsd>) -> Bytes {
        let Form::Response(turn) = &mut self.exchange.ask.form else { return Bytes::new() };
        turn.answered_by(total.fallback.as_ref().unwrap_or(&self.exchange.ask.model.name));
        let closed = turn.close(cost);
        responses::keep(&self.state, &self.exchange.live, &self.exchange.ask.caller, turn).await;
        [closed, turn.finish()].concat().into()
    }

    /// The last event of the simple dialect.
    fn totals(&self, total: &Total, cost: Option<NanoUsd>, turn: Option<TurnState>) -> Bytes {
        let event = ChatEvent {
            delta: String::new(),
            conversation_id: self.conversation_text(),
            finished: true,
            tokens_used: total.usage.map(Usage::total),
            totals: Some(ChatTotals {
                model: total.fallback.as_ref().unwrap_or(&self.exchange.ask.model.name).to_string(),
                cost_estimate: cost.map(NanoUsd::usd),
                cached: self.result == CacheResult::Hit,
                persisted: turn.is_some_and(|turn| turn.persisted),
                finish_reason: total.finish_reason.clone(),
            }),
        };
        sse(&serde_json::to_vec(&event).unwrap_or_default())
    }

    /// The last event of a stream that cannot be completed.
    fn fail(&mut self, error: &ApiError) -> Bytes {
        self.ended = true;
        exchange::failed(&self.exchange.ask.id, error);
        self.fault.tell(error);
        if let Form::Response(turn) = &mut self.exchange.ask.form {
            return turn.fail(error);
        }
        let dialect = self.exchange.ask.form.dialect();
        let mut body = error.body(dialect);
        if dialect == Dialect::Simple {
            body["conversation_id"] = json!(self.conversation_text());
            body["finished"] = json!(false);
        }
        sse(body.to_string().as_bytes())
    }

    fn conversation_text(&self) -> String {
        self.conversation.map(|id| id.0.to_string()).unwrap_or_default()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.metrics().streams_active.dec();
    }
}

/// One event. A raw line break would end its `data`; in JSON it can only be white space, so it is left out.
pub(super) fn sse(data: &[u8]) -> Bytes {
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
