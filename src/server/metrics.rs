//! The server's metrics. In: what happened. Out: the Prometheus registry that the admin listener shows.
//! Labels come from allow-lists: the matched route, configured model names, constants.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{
    Counter, CounterVec, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, core::Collector,
};

use super::auth::Refusal;
use super::pricing::NanoUsd;
use super::settlement::Usage;
use super::trace::CallTrace;
use crate::admin::StoreMode;
use crate::constants::metric;

/// Handles to every metric of a server. Clones are the same ones.
#[derive(Clone)]
pub struct ServerMetrics(Arc<Metrics>);

impl Deref for ServerMetrics {
    type Target = Metrics;

    fn deref(&self) -> &Metrics {
        &self.0
    }
}

/// What [`ServerMetrics`] holds.
pub struct Metrics {
    registry: Registry,
    /// `method`, `endpoint`, `status`.
    pub http_requests: IntCounterVec,
    /// `method`, `endpoint`.
    pub http_duration: HistogramVec,
    /// `model`, `status`.
    pub backend_calls: IntCounterVec,
    /// `model`.
    pub tokens_used: IntCounterVec,
    /// Requests being answered.
    pub in_flight: IntGauge,
    /// Streams open.
    pub streams_active: IntGauge,
    /// From the request to the first delta.
    pub time_to_first_token: Histogram,
    /// `model`, `caller`, `kind`.
    pub tokens: IntCounterVec,
    /// `model`, `caller`.
    pub cost_usd: CounterVec,
    /// `caller`.
    pub budget_used: GaugeVec,
    /// USD.
    pub cache_saved: Counter,
    /// `mode`.
    pub store_mode: IntGaugeVec,
    /// `result`.
    pub cache_requests: IntCounterVec,
    /// `limit`.
    pub rate_limited: IntCounterVec,
    /// `reason`.
    pub auth_failures: IntCounterVec,
    /// `op`.
    pub store_errors: IntCounterVec,
    /// `retry`.
    pub client_retries: IntCounterVec,
    /// `reason`.
    pub backend_retries: IntCounterVec,
    /// `model`.
    pub breaker_state: IntGaugeVec,
    /// Generation of the running configuration.
    pub config_generation: IntGauge,
    /// `result`.
    pub config_reloads: IntCounterVec,
}

const SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

impl Metrics {
    fn unregistered() -> prometheus::Result<Self> {
        let counter =
            |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let seconds = |name: &str, help: &str| HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        Ok(Self {
            registry: Registry::new(),
            http_requests: counter(
                metric::HTTP_REQUESTS,
                "Requests answered.",
                &["method", "endpoint", "status"],
            )?,
            http_duration: HistogramVec::new(
                seconds(metric::HTTP_DURATION, "Seconds from the request to the end of its answer."),
                &["method", "endpoint"],
            )?,
            backend_calls: counter(metric::BACKEND_CALLS, "Calls to the backend.", &["model", "status"])?,
            tokens_used: counter(metric::TOKENS_USED, "Tokens used, prompt and completion.", &["model"])?,
            in_flight: IntGauge::new(metric::IN_FLIGHT, "Requests being answered.")?,
            streams_active: IntGauge::new(metric::STREAMS_ACTIVE, "Streams open.")?,
            time_to_first_token: Histogram::with_opts(seconds(
                metric::TIME_TO_FIRST_TOKEN,
                "Seconds from a streamed request to its first delta.",
            ))?,
            tokens: counter(metric::TOKENS, "Tokens of all calls.", &["model", "caller", "kind"])?,
            cost_usd: CounterVec::new(
                Opts::new(metric::COST, "USD of answers with a known price."),
                &["model", "caller"],
            )?,
            budget_used: GaugeVec::new(
                Opts::new(metric::BUDGET_USED_RATIO, "Part of a budget that is spent."),
                &["caller"],
            )?,
            cache_saved: Counter::new(metric::CACHE_SAVED_USD, "USD that cached answers would have cost.")?,
            store_mode: IntGaugeVec::new(
                Opts::new(metric::STORE_MODE, "1 for how limits are kept."),
                &["mode"],
            )?,
            cache_requests: counter(metric::CACHE_REQUESTS, "Requests by what the cache did.", &["result"])?,
            rate_limited: counter(metric::RATE_LIMITED, "Requests refused.", &["limit"])?,
            auth_failures: counter(
                metric::AUTH_FAILURES,
                "Requests whose sender did not prove to be a caller.",
                &["reason"],
            )?,
            store_errors: counter(metric::STORE_ERRORS, "Operations the store failed.", &["op"])?,
            client_retries: counter(
                metric::CLIENT_RETRIES,
                "Requests that an SDK sent again, by how often.",
                &["retry"],
            )?,
            backend_retries: counter(
                metric::BACKEND_RETRIES,
                "Calls to the backend after the first one of a request, by what the one before came to.",
                &["reason"],
            )?,
            breaker_state: IntGaugeVec::new(
                Opts::new(metric::BACKEND_BREAKER_STATE, "0 closed, 1 half open, 2 open."),
                &["model"],
            )?,
            config_generation: IntGauge::new(
                metric::CONFIG_GENERATION,
                "Generation of the ChatService whose configuration runs.",
            )?,
            config_reloads: counter(
                metric::CONFIG_RELOADS,
                "Changes of the configuration, by what came of them.",
                &["result"],
            )?,
        })
    }

    fn register(&self) -> prometheus::Result<()> {
        let build = IntGauge::with_opts(
            Opts::new(metric::BUILD_INFO, "Always 1.").const_label("version", env!("CARGO_PKG_VERSION")),
        )?;
        build.set(1);
        let collectors: Vec<Box<dyn Collector>> = vec![
            Box::new(self.http_requests.clone()),
            Box::new(self.http_duration.clone()),
            Box::new(self.backend_calls.clone()),
            Box::new(self.tokens_used.clone()),
            Box::new(self.in_flight.clone()),
            Box::new(self.streams_active.clone()),
            Box::new(self.time_to_first_token.clone()),
            Box::new(self.tokens.clone()),
            Box::new(self.cost_usd.clone()),
            Box::new(self.budget_used.clone()),
            Box::new(self.cache_saved.clone()),
            Box::new(self.store_mode.clone()),
            Box::new(self.cache_requests.clone()),
            Box::new(self.rate_limited.clone()),
            Box::new(self.auth_failures.clone()),
            Box::new(self.store_errors.clone()),
            Box::new(self.client_retries.clone()),
            Box::new(self.backend_retries.clone()),
            Box::new(self.breaker_state.clone()),
            Box::new(self.config_generation.clone()),
            Box::new(self.config_reloads.clone()),
            Box::new(build),
            Box::new(prometheus::process_collector::ProcessCollector::for_self()),
        ];
        // Before the first failure too, so that an alert on a rate sees it.
        for reason in Refusal::LABELS {
            self.auth_failures.with_label_values(&[reason]);
        }
        for collector in collectors {
            self.registry.register(collector)?;
        }
        Ok(())
    }
}

impl ServerMetrics {
    /// All metrics, registered in a registry of their own.
    pub fn new() -> prometheus::Result<Self> {
        let metrics = Metrics::unregistered()?;
        metrics.register()?;
        Ok(Self(Arc::new(metrics)))
    }

    /// For the admin listener.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Counts what a request used.
    pub fn settle(&self, model: &str, caller: &str, usage: Usage, cost: Option<NanoUsd>) {
        self.tokens_used.with_label_values(&[model]).inc_by(usage.total());
        self.tokens.with_label_values(&[model, caller, "prompt"]).inc_by(usage.prompt_tokens);
        self.tokens.with_label_values(&[model, caller, "completion"]).inc_by(usage.completion_tokens);
        if let Some(cost) = cost {
            self.cost_usd.with_label_values(&[model, caller]).inc_by(cost.usd());
        }
    }

    /// How much of a budget is spent.
    pub fn budget_used(&self, caller: &str, spent: NanoUsd, amount: NanoUsd) {
        self.budget_used.with_label_values(&[caller]).set(spent.usd() / amount.usd());
    }

    /// There is no budget of this caller any more.
    pub fn no_budget(&self, caller: &str) {
        // An error: it was not shown.
        let _ = self.budget_used.remove_label_values(&[caller]);
    }

    /// How limits are kept from now on.
    pub fn store_mode(&self, mode: StoreMode) {
        for other in StoreMode::ALL {
            self.store_mode.with_label_values(&[other.name()]).set(i64::from(other == mode));
        }
    }

    /// Counts a request that its sender says it has sent before.
    pub fn client_retry(&self, count: &str) {
        let retry = match count.parse::<u32>() {
            Ok(0) | Err(_) => return,
            Ok(1) => "1",
            Ok(2) => "2",
            Ok(_) => "3",
        };
        self.client_retries.with_label_values(&[retry]).inc();
    }

    /// Counts an operation that the store failed.
    pub fn store_error(&self, op: &str) {
        self.store_errors.with_label_values(&[op]).inc();
    }

    /// Records the time to the first delta.
    pub fn first_token(&self, elapsed: Duration) {
        self.time_to_first_token.observe(elapsed.as_secs_f64());
    }
}

/// Label `caller` of everybody whom the configuration does not name.
pub const OTHER: &str = "other";

/// Label `status` of a call that was answered whole.
pub const OK: &str = "ok";
/// And of one that nobody waited for to the end.
pub const CANCELLED: &str = "cancelled";

/// One call to the backend, counted when it is over, however that comes.
pub struct BackendCall {
    metrics: ServerMetrics,
    model: Arc<str>,
    status: &'static str,
    /// Its span.
    pub trace: CallTrace,
}

impl BackendCall {
    /// The call is made.
    #[must_use]
    pub fn begin(metrics: ServerMetrics, model: Arc<str>, trace: CallTrace) -> Self {
        Self { metrics, model, status: CANCELLED, trace }
    }

    /// What came of it: [`OK`] or an error's label.
    pub fn ended(&mut self, status: &'static str) {
        self.status = status;
    }
}

impl Drop for BackendCall {
    fn drop(&mut self) {
        self.metrics.backend_calls.with_label_values(&[self.model.as_ref(), self.status]).inc();
        self.trace.ended(self.status);
    }
}
