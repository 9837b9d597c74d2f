//! Spans of requests and of the calls made for them, by OpenTelemetry's conventions for HTTP and for generative AI.
//! In: what is known of a request as it becomes known. Out: finished spans for [`export`]. Without an endpoint there are
//! none, and nothing here does anything.
//!
//! A span holds what an access log may hold: names of the configuration, counts, codes. Never a prompt, an answer or a
//! key.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use http::{HeaderMap, HeaderValue};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Span, SpanKind, Status, TraceContextExt, Tracer as _};
use opentelemetry::{Array, Context, KeyValue, StringValue, Value};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, Span as SdkSpan};

use super::metrics::OK;
use super::operation::Operation;
use super::settlement::Usage;
use crate::constants::trace as key;

pub mod export;

/// Begins spans; the default one begins none.
#[derive(Clone, Default)]
pub struct Tracer(Option<SdkTracer>);

/// The span of one request; clones are the same one, and the default one is none.
#[derive(Clone, Default)]
pub struct RequestTrace(Option<Arc<Request>>);

struct Request {
    tracer: SdkTracer,
    /// Holds the span.
    context: Context,
    /// What answers; known when a model is asked.
    provider: OnceLock<&'static str>,
}

/// The span of one call to the backend, which ends when this is dropped; the default one is none.
#[derive(Default)]
pub struct CallTrace(Option<Box<Call>>);

struct Call {
    span: SdkSpan,
    request: RequestTrace,
}

/// What is known of an answer once it is whole.
pub struct Answered<'a> {
    /// What the backend calls the model that gave it.
    pub model: &'a str,
    /// What the backend reported.
    pub usage: Option<Usage>,
    /// `finish_reason` of choice 0.
    pub finish_reason: Option<&'a str>,
}

impl Tracer {
    /// A request has come. It belongs to the trace that its `traceparent` names, if that one is sound.
    #[must_use]
    pub fn request(&self, method: &'static str, route: &str, headers: &HeaderMap) -> RequestTrace {
        let Some(tracer) = &self.0 else { return RequestTrace::default() };
        let parent =
            TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(headers));
        let span = tracer
            .span_builder(format!("{method} {route}"))
            .with_kind(SpanKind::Server)
            .with_attributes([
                KeyValue::new(key::METHOD, method),
                KeyValue::new(key::ROUTE, route.to_owned()),
            ])
            .start_with_context(tracer, &parent);
        let context = Context::new().with_span(span);
        let provider = OnceLock::new();
        RequestTrace(Some(Arc::new(Request { tracer: tracer.clone(), context, provider })))
    }
}

impl RequestTrace {
    /// Whether there is a span.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// It asks this model of this kind of backend.
    pub fn asks(&self, operation: Operation, provider: &'static str, model: &str) {
        let Some(request) = &self.0 else { return };
        let provider = request.provider.get_or_init(|| provider);
        request.context.span().set_attributes(asked(operation, provider, model));
    }

    /// A call to the backend begins, for what it calls this model.
    #[must_use]
    pub fn call(&self, operation: Operation, model: &str) -> CallTrace {
        let Some(request) = &self.0 else { return CallTrace::default() };
        let provider = request.provider.get().copied().unwrap_or_default();
        let span = request
            .tracer
            .span_builder(format!("{} {model}", operation.name()))
            .with_kind(SpanKind::Client)
            .with_attributes(asked(operation, provider, model))
            .start_with_context(&request.tracer, &request.context);
        CallTrace(Some(Box::new(Call { span, request: self.clone() })))
    }

    /// It has ended: with this status, and this error if there was one.
    pub fn ended(&self, status: u16, error: Option<&str>) {
        let Some(request) = &self.0 else { return };
        let span = request.context.span();
        span.set_attribute(KeyValue::new(key::STATUS, i64::from(status)));
        if let Some(error) = error {
            span.set_attribute(KeyValue::new(key::ERROR, error.to_owned()));
            // By convention a caller's own mistake is no error of a server's span.
            if !(400..500).contains(&status) {
                span.set_status(Status::error(""));
            }
        }
        span.end_with_timestamp(SystemTime::now());
    }
}

impl CallTrace {
    /// What tells the backend which trace the call belongs to.
    #[must_use]
    pub fn parent(&self) -> Option<HeaderValue> {
        let context = self.0.as_ref()?.span.span_context().clone();
        let sampled = u8::from(context.is_sampled());
        let text = format!("00-{}-{}-{sampled:02x}", context.trace_id(), context.span_id());
        HeaderValue::try_from(text).ok()
    }

    /// A whole answer has come.
    pub fn answered(&mut self, answered: &Answered<'_>) {
        let Some(call) = &mut self.0 else { return };
        let attributes = answered.attributes();
        if let Some(request) = &call.request.0 {
            request.context.span().set_attributes(attributes.clone());
        }
        call.span.set_attributes(attributes);
    }

    /// What came of it, as `status` of the metrics has it.
    pub fn ended(&mut self, status: &'static str) {
        let Some(call) = &mut self.0 else { return };
        if status != OK {
            call.span.set_attribute(KeyValue::new(key::ERROR, status));
            call.span.set_status(Status::error(""));
        }
        call.span.end();
    }
}

impl Answered<'_> {
    fn attributes(&self) -> Vec<KeyValue> {
        let count = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
        let mut attributes = vec![KeyValue::new(key::RESPONSE_MODEL, self.model.to_owned())];
        if let Some(usage) = self.usage {
            attributes.push(KeyValue::new(key::INPUT_TOKENS, count(usage.prompt_tokens)));
            attributes.push(KeyValue::new(key::OUTPUT_TOKENS, count(usage.completion_tokens)));
        }
        if let Some(reason) = self.finish_reason.and_then(finish_reason) {
            let reasons = Value::Array(Array::String(vec![StringValue::from(reason)]));
            attributes.push(KeyValue::new(key::FINISH_REASONS, reasons));
        }
        attributes
    }
}

fn asked(operation: Operation, provider: &'static str, model: &str) -> [KeyValue; 4] {
    [
        KeyValue::new(key::OPERATION, operation.name()),
        KeyValue::new(key::PROVIDER, provider),
        KeyValue::new(key::SYSTEM, provider),
        KeyValue::new(key::REQUEST_MODEL, model.to_owned()),
    ]
}

/// The reasons that OpenAI's API knows: what else a backend says there could be anything.
fn finish_reason(said: &str) -> Option<&'static str> {
    let known = ["stop", "length", "tool_calls", "content_filter", "function_call"];
    known.into_iter().find(|known| *known == said)
}
