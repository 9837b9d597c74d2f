//! A small OTLP receiver on a free loopback port. In: batches of spans in protobuf. Out: the spans, flattened.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A span as it was received.
#[derive(Clone, Debug)]
pub struct Span {
    pub name: String,
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub kind: SpanKind,
    /// Values as text; lists with commas.
    pub attributes: BTreeMap<String, String>,
    /// Whether its status is an error.
    pub failed: bool,
}

pub struct Otlp {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
    resource: Arc<Mutex<BTreeMap<String, String>>>,
    _task: JoinSet<()>,
}

impl Otlp {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (spans, resource): (Arc<Mutex<Vec<Span>>>, Arc<Mutex<_>>) = Default::default();
        let (into, of) = (spans.clone(), resource.clone());
        let receive = post(async move |body: Bytes| {
            let batch = ExportTraceServiceRequest::decode(body).unwrap();
            for group in batch.resource_spans {
                *of.lock().unwrap() = texts(group.resource.unwrap().attributes);
                let all = group.scope_spans.into_iter().flat_map(|scope| scope.spans);
                into.lock().unwrap().extend(all.map(|span| Span {
                    kind: span.kind(),
                    failed: span.status.is_some_and(|status| status.code == 2),
                    name: span.name,
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    attributes: texts(span.attributes),
                }));
            }
        });
        let mut task = JoinSet::new();
        let router = Router::new().route("/v1/traces", receive);
        task.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, spans, resource, _task: task }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn resource(&self) -> BTreeMap<String, String> {
        self.resource.lock().unwrap().clone()
    }

    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }

    /// All spans of the first trace that has so many of them.
    pub async fn trace_of(&self, spans: usize) -> Vec<Span> {
        let end = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let all = self.spans();
            let of = |trace: &str| all.iter().filter(|span| span.trace == trace).cloned().collect::<Vec<_>>();
            if let Some(found) = all.iter().map(|span| of(&span.trace)).find(|found| found.len() == spans) {
                return found;
            }
            assert!(tokio::time::Instant::now() < end, "no trace of {spans} spans: {all:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    attributes.into_iter().map(|pair| (pair.key, text(pair.value.unwrap()))).collect()
}

fn text(value: AnyValue) -> String {
    match value.value.unwrap() {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        Value::ArrayValue(list) => list.values.into_iter().map(text).collect::<Vec<_>>().join(","),
        other => panic!("no attribute of ours is {other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}
