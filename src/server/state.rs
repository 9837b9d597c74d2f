//! What handlers share. In: a configuration with its secrets, as it becomes complete. Out: [`Live`], everything one
//! request needs, taken once at its begin so that a change in between cannot mix two configurations.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::Semaphore;
use tower_http::cors::CorsLayer;

use super::auth::{Access, ApiKeys, Failures};
use super::backend::Backend;
use super::backend::upstreams::Upstreams;
use super::cache::AnswerCache;
use super::coalesce::Flights;
use super::config::{BackendConfig, ServerConfig};
use super::denials::Denials;
use super::error::ApiError;
use super::estimate::Learned;
use super::metrics::ServerMetrics;
use super::middleware::cors;
use super::models::{Model, Models};
use super::overload::LoadOptions;
use super::settlement::SettlementQueue;
use super::store::Store;
use super::store_failure::LocalLimits;
use super::terms::AllTerms;
use super::trace::Tracer;
use crate::shutdown::Shutdown;

/// One configuration with everything that was made from it.
pub struct Live {
    /// The configuration.
    pub config: Arc<ServerConfig>,
    /// What answers.
    pub upstreams: Upstreams,
    /// What remembers.
    pub store: Arc<dyn Store>,
    /// The memory cache; None when the cache is off.
    pub cache: Option<Arc<AnswerCache>>,
    /// What callers may ask for.
    pub models: Models,
    /// What pages from elsewhere may do; None: nothing.
    pub cors: Option<CorsLayer>,
    /// Part of cache keys: what the answers come from.
    pub origin: String,
    /// Who is let in.
    pub access: Access,
    /// Who may ask how much.
    pub terms: AllTerms,
}

impl Live {
    /// Derives what follows from the configuration and callers' API keys. The memory cache of `previous` is kept where it has the same size:
    /// its keys hold whatever decides an answer, so a new configuration finds there what is still right.
    pub fn new(
        config: Arc<ServerConfig>,
        backend: Arc<dyn Backend>,
        store: Arc<dyn Store>,
        keys: Option<&ApiKeys>,
        previous: Option<&Self>,
    ) -> Self {
        let origin = match &config.dynamic.backend {
            BackendConfig::Echo {} => "echo".to_owned(),
            BackendConfig::OpenAi { base_url, .. } => base_url.clone(),
        };
        let models = Models::new(&config.dynamic);
        let bytes = |config: &ServerConfig| config.dynamic.cache.map(|cache| cache.memory_bytes);
        let kept = previous.filter(|live| bytes(&live.config) == bytes(&config));
        let new = || Some(Arc::new(AnswerCache::new(bytes(&config)?)));
        let cache = kept.and_then(|live| live.cache.clone()).or_else(new);
        let health =
            previous.filter(|live| live.origin == origin).map(|live| live.upstreams.health().clone());
        // A budget reserves the worst case, which is one only if the backend is told.
        let terms = AllTerms::new(&config.dynamic);
        let (capped, charged) = (terms.spend(), terms.charge());
        let access = Access::new(&config, keys, previous.map(|live| &live.access));
        let (health, attempts) = (health.unwrap_or_default(), config.dynamic.max_attempts);
        let upstreams = Upstreams::new(backend, health, attempts, capped, charged);
        let cors = cors::layer(&config.dynamic.cors_origins);
        Self { config, upstreams, store, cache, models, cors, origin, access, terms }
    }

    /// The model that a request gets: the one it names, when it is ours, else the service's.
    pub fn model(&self, named: Option<&str>) -> Result<Arc<Model>, ApiError> {
        let Some(name) = named else { return Ok(self.models.default().clone()) };
        let unknown = || ApiError::ModelNotFound { model: name.chars().take(128).collect() };
        self.models.get(name).cloned().ok_or_else(unknown)
    }
}

/// The running configuration; None until its secrets have been read once.
pub type LiveHandle = Arc<ArcSwapOption<Live>>;

/// What this server knows of callers and models beside what the store keeps; admission and the settler share it. Clones
/// are the same one.
#[derive(Clone)]
pub struct Charging {
    /// Callers that were refused lately.
    pub denials: Denials,
    /// The limits while the store is away.
    pub local: LocalLimits,
    /// How long answers are.
    pub learned: Learned,
}

impl Charging {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(metrics: &ServerMetrics) -> Self {
        let local = LocalLimits::new(metrics.clone());
        Self { denials: Denials::default(), local, learned: Learned::default() }
    }
}

/// What every handler gets. Cloning is cheap.
#[derive(Clone)]
pub struct AppState {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    tracer: Tracer,
    body_room: Arc<Semaphore>,
    live: LiveHandle,
    metrics: ServerMetrics,
    settlements: SettlementQueue,
    shutdown: Shutdown,
    charging: Charging,
    flights: Flights,
    failures: Failures,
    started_at: i64,
}

impl AppState {
    /// Begins spans with this.
    #[must_use]
    pub fn with_tracer(mut self, tracer: Tracer) -> Self {
        Arc::make_mut(&mut self.inner).tracer = tracer;
        self
    }

    /// Gives large request bodies so many bytes together.
    #[must_use]
    pub fn with_body_bytes(mut self, bytes: usize) -> Self {
        Arc::make_mut(&mut self.inner).body_room = Arc::new(Semaphore::new(bytes));
        self
    }

    /// Begins spans.
    #[must_use]
    pub fn tracer(&self) -> &Tracer {
        &self.inner.tracer
    }

    /// A state around the handle that the assembly fills.
    #[must_use]
    pub fn new(
        live: LiveHandle,
        metrics: ServerMetrics,
        settlements: SettlementQueue,
        charging: Charging,
        shutdown: Shutdown,
    ) -> Self {
        let started_at = jiff::Timestamp::now().as_second();
        let flights = Flights::default();
        let failures = Failures::default();
        let (tracer, body_room) =
            (Tracer::default(), Arc::new(Semaphore::new(LoadOptions::default().body_bytes)));
        let inner = Inner {
            tracer,
            body_room,
            live,
            metrics,
            settlements,
            shutdown,
            charging,
            flights,
            failures,
            started_at,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The running configuration.
    pub fn live(&self) -> Result<Arc<Live>, ApiError> {
        self.inner.live.load_full().ok_or(ApiError::NotReady)
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> &ServerMetrics {
        &self.inner.metrics
    }

    /// Counts that the store could not be reached for this, and what its caller is told.
    #[must_use]
    pub fn store_away(&self, operation: &str) -> ApiError {
        self.metrics().store_error(operation);
        ApiError::StoreUnavailable
    }

    /// Places in the settlement queue.
    #[must_use]
    pub fn settlements(&self) -> &SettlementQueue {
        &self.inner.settlements
    }

    /// Tells streams when to end.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        &self.inner.shutdown
    }

    /// What this server knows of callers and models.
    #[must_use]
    pub fn charging(&self) -> &Charging {
        &self.inner.charging
    }

    /// Seconds since 1970 when this server started.
    #[must_use]
    pub fn started_at(&self) -> i64 {
        self.inner.started_at
    }

    /// A permit for each byte of request bodies.
    #[must_use]
    pub fn body_room(&self) -> &Arc<Semaphore> {
        &self.inner.body_room
    }

    /// Which addresses were not let in lately.
    #[must_use]
    pub fn failures(&self) -> &Failures {
        &self.inner.failures
    }

    /// Calls that equal requests share.
    #[must_use]
    pub fn flights(&self) -> &Flights {
        &self.inner.flights
    }
}
