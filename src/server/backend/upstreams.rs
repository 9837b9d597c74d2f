//! All calls of one request: the first one, the next tries, the fallbacks. In: a request's body with the model that it
//! asks for, and the end of its time. Out: the first answer, with the model that gave it, or the error of the asked
//! model. Tries again only before anything of an answer has been passed on.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::attempts::{AttemptLog, Marks};
use super::health::{Health, Refusal, Ticket};
use super::retry::{Retry, share};
use super::{Backend, BackendError, Deadline, UpstreamAnswer, UpstreamRequest};
use crate::server::metrics::{BackendCall, ServerMetrics};
use crate::server::models::Model;
use crate::server::operation::Operation;
use crate::server::trace::RequestTrace;
use crate::server::upstream_body;

/// A backend with what is known of it.
pub struct Upstreams {
    backend: Arc<dyn Backend>,
    health: Arc<Health>,
    max_attempts: u32,
    always_capped: bool,
    once_charged: bool,
}

/// What is asked.
pub struct UpstreamCall<'a> {
    /// The models to ask, the request's own first: [`crate::server::models::Models::chain`].
    pub chain: &'a [Arc<Model>],
    /// What is asked for.
    pub operation: Operation,
    /// The body, with the name that callers use for the model.
    pub body: &'a Bytes,
    /// The same as the first model is sent it, where that is known.
    pub for_asked: Option<&'a Bytes>,
    /// Whether the body asks for a stream.
    pub stream: bool,
    /// The end of the request's time, all attempts and the stream included.
    pub deadline: Deadline,
    /// Where calls, tries and breakers are counted.
    pub metrics: &'a ServerMetrics,
    /// The span of the request.
    pub trace: &'a RequestTrace,
}

/// An answer.
pub struct Called {
    /// What came.
    pub answer: UpstreamAnswer,
    /// Whose it is. When it is not the asked model, the answer must not be cached.
    pub model: Arc<Model>,
    /// The call, to be told how it ends.
    pub call: BackendCall,
}

/// What a request has come to so far.
#[derive(Default)]
struct Progress {
    /// Calls made.
    made: u32,
    /// Why the last call failed.
    reason: &'static str,
}

/// How it goes on after a model had no answer.
enum Next {
    /// With its fallback.
    Model,
    /// Not at all.
    End,
}

impl Upstreams {
    /// `max_attempts` calls for one request at most; `always_capped` as in [`upstream_body::effective_cap`].
    /// `once_charged`: a request has reserved for one call, so no other follows a plain one that may have to be paid.
    #[must_use]
    pub fn new(
        backend: Arc<dyn Backend>,
        health: Arc<Health>,
        max_attempts: u32,
        always_capped: bool,
        once_charged: bool,
    ) -> Self {
        Self { backend, health, max_attempts: max_attempts.max(1), always_capped, once_charged }
    }

    /// As in [`upstream_body::effective_cap`].
    #[must_use]
    pub fn always_capped(&self) -> bool {
        self.always_capped
    }

    /// What is known of the backend, for the next configuration of the same one.
    #[must_use]
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Asks. Every attempt is noted in `log` before it is made, so that dropping this future loses none.
    pub async fn call(&self, ask: UpstreamCall<'_>, log: &AttemptLog) -> Result<Called, BackendError> {
        let mut progress = Progress::default();
        // What the asked model says last; what a fallback says is not what was asked.
        let mut told = None;
        for (position, model) in ask.chain.iter().enumerate() {
            let later = ask.chain.len() - position - 1;
            let body = match ask.for_asked {
                Some(body) if position == 0 => body.clone(),
                _ => upstream_body::for_model(ask.operation, ask.body, model, self.always_capped),
            };
            let (error, next) = match self.ask_model(&ask, (model, body), later, &mut progress, log).await {
                Ok(called) => return Ok(called),
                Err(failed) => failed,
            };
            if position == 0 {
                told = error;
            }
            if matches!(next, Next::End) {
                break;
            }
        }
        Err(told.unwrap_or_else(|| BackendError::NotConfigured("there is no model to ask".to_owned())))
    }

    /// All tries of one model.
    async fn ask_model(
        &self,
        ask: &UpstreamCall<'_>,
        (model, body): (&Arc<Model>, Bytes),
        later: usize,
        progress: &mut Progress,
        log: &AttemptLog,
    ) -> Result<Called, (Option<BackendError>, Next)> {
        let tries = share(self.max_attempts.saturating_sub(progress.made), later);
        let mut last = None;
        for tried in 1..=tries {
            let ticket = match self.health.permit(&model.name, later > 0) {
                Ok(ticket) => ticket,
                Err(refusal) => return Err((last.or_else(|| Some(refused(&refusal))), Next::Model)),
            };
            if !self.may_call(ask, progress) {
                return Err((last, Next::End));
            }
            let (error, marks) = match self.attempt(ask, model, body.clone(), ticket, log).await {
                Ok(called) => return Ok(called),
                Err(failed) => failed,
            };
            // Nobody knows what it used, so it is charged all that was reserved.
            let spent = self.once_charged && !ask.stream && marks.may_cost();
            let retry = Retry::of(&error, marks.written.is_set()).filter(|_| !spent);
            let Some(retry) = retry else { return Err((Some(error), Next::End)) };
            progress.reason = retry.reason;
            let wait =
                retry.wait(tried, rand::random()).filter(|wait| Instant::now() + *wait < ask.deadline.at);
            last = Some(error);
            match wait {
                Some(wait) if tried < tries => tokio::time::sleep(wait).await,
                _ => break,
            }
        }
        Err((last, Next::Model))
    }

    /// Whether one more call may be made: the first one always.
    fn may_call(&self, ask: &UpstreamCall<'_>, progress: &mut Progress) -> bool {
        if progress.made == 0 {
            self.health.request();
        } else if self.health.retry() {
            ask.metrics.backend_retries.with_label_values(&[progress.reason]).inc();
        } else {
            return false;
        }
        progress.made += 1;
        true
    }

    /// One call. With an error comes what the backend noted of it.
    async fn attempt(
        &self,
        ask: &UpstreamCall<'_>,
        model: &Arc<Model>,
        body: Bytes,
        ticket: Ticket<'_>,
        log: &AttemptLog,
    ) -> Result<Called, (BackendError, Marks)> {
        let mut call = BackendCall::begin(
            ask.metrics.clone(),
            model.name.clone(),
            ask.trace.call(ask.operation, &model.upstream),
        );
        let marks = log.begin(model.clone());
        let request = UpstreamRequest {
            operation: ask.operation,
            body,
            stream: ask.stream,
            deadline: ask.deadline,
            marks: marks.clone(),
            trace_parent: call.trace.parent(),
        };
        let result = self.backend.call(request).await;
        let result = match result {
            Ok(answer) => {
                ticket.answered();
                Ok(Called { answer, model: model.clone(), call })
            }
            Err(error) => {
                ticket.failed(&error);
                call.ended(error.label());
                Err((error, marks))
            }
        };
        let state = self.health.state(&model.name);
        ask.metrics.breaker_state.with_label_values(&[model.name.as_ref()]).set(state as i64);
        result
    }
}

/// What is told of a model that is not called.
fn refused(refusal: &Refusal) -> BackendError {
    match *refusal {
        Refusal::Open(retry_after) => BackendError::Overloaded {
            why: "its last calls failed, so it is left alone for a moment".to_owned(),
            retry_after,
        },
        Refusal::Limited(wait) => BackendError::RateLimited { retry_after: Some(wait) },
    }
}
