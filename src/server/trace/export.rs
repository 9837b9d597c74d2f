//! Where spans go: an OTLP receiver over HTTP, in protobuf. In: finished spans. Out: batches of them, or, where the
//! receiver is away or slow, none.
//!
//! A span is put into a bounded queue and dropped when that is full, so no request waits for the receiver. A thread of
//! the SDK takes batches from it and hands them to one task, which sends them by the connector that calls to backends
//! use: the same addresses are refused.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioTimer;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use super::Tracer;
use crate::constants::{GROUP, path};
use crate::server::backend::connect::{Connector, ConnectorOptions, DialPolicy, SystemResolver};
use crate::server::config::Identity;

/// Spans that wait at most; more are dropped.
const QUEUE: usize = 2048;
/// Spans of a batch.
const BATCH: usize = 512;
/// Longest time that a span waits for its batch.
const DELAY: Duration = Duration::from_secs(1);
/// For one batch: connection, request and answer together.
const SEND: Duration = Duration::from_secs(5);
/// For name resolution, TCP and TLS of it.
const CONNECT: Duration = Duration::from_secs(2);
/// For what waits at the end.
const FLUSH: Duration = Duration::from_secs(2);
/// Largest answer of a receiver that is read.
const ANSWER: usize = 64 << 10;

/// Why no spans can be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The exporter refuses its settings.
    #[error("spec.telemetry.otlpEndpoint cannot be used: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// One batch on its way, and where the answer goes.
type Job = (Request<Bytes>, oneshot::Sender<Result<Response<Bytes>, HttpError>>);

/// Runs the tasks of connections where they are waited for.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Tracked {
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

/// The exporter. [`Self::end`] sends what waits.
pub struct Export {
    provider: SdkTracerProvider,
    sending: JoinSet<()>,
}

impl Export {
    /// An exporter to this endpoint, and what makes spans for it. `connections` owns the tasks of its connections.
    pub fn start(
        endpoint: &str,
        identity: &Identity,
        connections: TaskTracker,
    ) -> Result<(Self, Tracer), ExportError> {
        // A collector beside the server in its pod is a usual one.
        let policy = DialPolicy { loopback: true };
        let connector = Connector::new(ConnectorOptions {
            resolver: Arc::new(SystemResolver),
            policy,
            proxy: None,
            authorities: None,
            timeout: CONNECT,
        })?;
        let client = Client::builder(Tracked(connections)).pool_timer(TokioTimer::new()).build(connector);
        let (jobs, waiting) = mpsc::channel(1);
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Handover(jobs))
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{endpoint}{}", path::OTLP_TRACES))
            .with_timeout(SEND)
            .build()?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(DELAY)
            .build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
            .with_resource(resource(identity))
            .build();
        let mut sending = JoinSet::new();
        sending.spawn(send_all(client, waiting));
        let tracer = Tracer(Some(provider.tracer(GROUP)));
        Ok((Self { provider, sending }, tracer))
    }

    /// Sends what waits, for as long as [`FLUSH`], and ends. Every span must have ended before.
    pub async fn end(mut self) {
        let provider = self.provider;
        // It blocks until the SDK's thread has sent everything or the time is over.
        let flushing = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH));
        if !matches!(flushing.await, Ok(Ok(()))) {
            tracing::warn!("not all traces were delivered before the end");
        }
        self.sending.shutdown().await;
    }
}

fn resource(identity: &Identity) -> Resource {
    Resource::builder_empty()
        .with_service_name(identity.name.clone())
        .with_attributes([
            KeyValue::new("service.namespace", identity.namespace.clone()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ])
        .build()
}

/// Gives batches from the SDK's thread, which has no runtime, to the task that sends them.
#[derive(Debug)]
struct Handover(mpsc::Sender<Job>);

#[async_trait]
impl HttpClient for Handover {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (answer, answered) = oneshot::channel();
        self.0.send((request, answer)).await?;
        answered.await?
    }
}

/// Sends batches until there are no more; says once when the receiver goes away and once when it is back.
async fn send_all(client: Client<Connector, Full<Bytes>>, mut jobs: mpsc::Receiver<Job>) {
    let mut away = false;
    while let Some((request, answer)) = jobs.recv().await {
        let sent = tokio::time::timeout(SEND, send(&client, request)).await;
        let sent = sent.unwrap_or_else(|_| Err(format!("no answer within {SEND:?}").into()));
        let failed = match &sent {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answers {}", response.status())),
            Err(error) => Some(error.to_string()),
        };
        match &failed {
            Some(error) if !away => tracing::warn!(error, "traces cannot be delivered and are dropped"),
            None if away => tracing::info!("traces are delivered again"),
            _ => {}
        }
        away = failed.is_some();
        // Nobody waits for the answer once the exporter has given up.
        let _ = answer.send(sent);
    }
}

async fn send(
    client: &Client<Connector, Full<Bytes>>,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, HttpError> {
    let (parts, body) = client.request(request.map(Full::new)).await?.into_parts();
    let body = Limited::new(body, ANSWER).collect().await?.to_bytes();
    Ok(Response::from_parts(parts, body))
}
