//! Puts a server together and runs it until it is told to stop. In: listeners, a configuration, where its secrets are.
//! Out: nothing but the end.
//!
//! Order at the end: the edge drains, then the last handle to the settlement queue goes, then what is still owed is
//! written, then the admin listener, which was answering all the while, closes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backend::Backend;
use super::backend::echo::Echo;
use super::backend::openai::{OpenAi, OpenAiOptions};
use super::backend::tls::Authorities;
use super::config::{BackendConfig, ServerConfig, TimeoutConfig};
use super::edge::{self, EdgeOptions, Tls};
use super::metrics::ServerMetrics;
use super::middleware::{cors, observe, panic};
use super::overload::{LoadOptions, Overload};
use super::reload::{Reloader, Report, Sources};
use super::routes;
use super::secrets::{Credentials, Loaded, SecretSource};
use super::settlement;
use super::settler::Settler;
use super::state::{AppState, Charging, Live, LiveHandle};
use super::store::Store;
use super::store::memory::MemoryStore;
use super::store::redis::{RedisAddress, RedisStore};
use super::store_failure::LocalLimits;
use super::trace::Tracer;
use super::trace::export::Export;
use crate::admin::{self, AdminState, Readiness, ServerStatus};
use crate::constants::readiness;
use crate::shutdown::Shutdown;
use crate::telemetry::LevelHandle;

/// Longest time for what is owed to the store at the end.
const SETTLE: Duration = Duration::from_secs(2);

/// Longest time for the connections to backends to end.
const CLOSE: Duration = Duration::from_secs(1);

/// What a server is started with.
pub struct ServerOptions {
    /// Its configuration.
    pub config: ServerConfig,
    /// The file that it came from, which is read again when it changes; None: it does not change.
    pub config_file: Option<PathBuf>,
    /// Where its secrets are.
    pub secrets: SecretSource,
    /// Limits of the API listener, and the times of the drain.
    pub edge: EdgeOptions,
    /// How many requests are answered at once.
    pub load: LoadOptions,
    /// Sets the level of the log.
    pub log_level: LevelHandle,
}

/// Where a server listens.
pub struct Listeners {
    /// For callers.
    pub api: TcpListener,
    /// For the kubelet, Prometheus and the operator; None: none of these is there.
    pub admin: Option<TcpListener>,
}

/// Why a server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is in use, or not one of this machine.
    #[error("cannot listen on {address}: {source}; choose another with {flag}")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The metrics contradict each other: a fault of ours.
    #[error("cannot register the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// No version of TLS can be spoken: a fault of ours.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Opens a listener; `flag` is what the message tells to change.
pub async fn bind(address: SocketAddr, flag: &'static str) -> Result<TcpListener, ServeError> {
    edge::listen(address).map_err(|source| ServeError::Bind { address, flag, source })
}

/// Every path of the API listener with the layers that every request passes.
pub fn build_router(state: AppState, overload: Overload) -> Router {
    let observed = axum::middleware::from_fn_with_state(state.clone(), observe::observe);
    let shared = axum::middleware::from_fn_with_state(state.clone(), cors::cors);
    let caught = axum::middleware::from_fn(panic::catch);
    routes::router(state, overload).0.layer(caught).layer(shared).layer(observed)
}

/// Serves until `shutdown` begins and the drain is over.
pub async fn run(listeners: Listeners, options: ServerOptions, shutdown: Shutdown) -> Result<(), ServeError> {
    let metrics = ServerMetrics::new()?;
    let live = LiveHandle::default();
    let charging = Charging::new(&metrics);
    let (settlements, owed) = settlement::queue();
    let settler = Settler::new(owed, live.clone(), metrics.clone(), charging.clone());
    let limits = charging.local.clone();
    let state = AppState::new(live.clone(), metrics.clone(), settlements, charging, shutdown.clone());
    let connections = TaskTracker::new();
    let (export, tracer) = traces(&options.config, &connections).unzip();
    let state = state.with_tracer(tracer.unwrap_or_default()).with_body_bytes(options.load.body_bytes);
    let flights = state.flights().clone();
    let ready = Readiness::new(shutdown.clone(), &[readiness::CREDENTIALS]);
    let end = CancellationToken::new();

    let in_cluster = matches!(options.secrets, SecretSource::Mounted { .. });
    // Outside a cluster there is no Secret to take a certificate from.
    let tls = if in_cluster && options.config.fixed.tls_secret.is_some() { Some(Tls::new()?) } else { None };
    let assembler = Assembler::new(live.clone(), ready.clone(), in_cluster, connections.clone())
        .with_log_level(options.log_level)
        .with_tls(tls.clone());
    let sources = Sources { file: options.config_file, secrets: options.secrets };
    let (reloader, report) = Reloader::start(options.config, sources, assembler, metrics.clone()).await;

    log_start(&listeners, options.load);
    let mut tasks = JoinSet::new();
    if let Some(listener) = listeners.admin {
        let status = status_source(live.clone(), limits, report, ready.clone());
        let admin =
            AdminState { registry: metrics.registry().clone(), readiness: ready, status: Some(status) };
        tasks.spawn(admin::serve_admin(listener, admin, end.clone()));
    }
    tasks.spawn(reloader.run(end.clone()));
    let mut settling = JoinSet::new();
    settling.spawn(settler.run());

    let router = build_router(state, Overload::new(options.load));
    let edge = EdgeOptions { tls, ..options.edge };
    let report = edge::serve(listeners.api, router, edge, shutdown).await;
    // The router and the shared calls were the last to hold a handle to the queue: the settler ends when it is empty.
    let settled = tokio::time::timeout(SETTLE, settling.join_next());
    // Those that still tell other pods owe nothing: these find out by themselves.
    let landed = tokio::time::timeout(SETTLE, flights.landed());
    if tokio::join!(settled, landed).0.is_err() {
        tracing::warn!("the store did not take everything that was owed to it in time");
    }
    end.cancel();
    while tasks.join_next().await.is_some() {}
    if let Some(export) = export {
        export.end().await;
    }
    // With the last handle to a backend its client goes, and with that each of its connections ends.
    live.store(None);
    connections.close();
    if tokio::time::timeout(CLOSE, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections to the backend did not end in time");
    }
    let drain_ms = u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX);
    tracing::info!(answers.cut = report.cut, drain_ms, "server ended");
    Ok(())
}

/// The exporter of spans, where there is an endpoint that can be used.
fn traces(config: &ServerConfig, connections: &TaskTracker) -> Option<(Export, Tracer)> {
    let endpoint = config.fixed.otlp_endpoint.as_deref()?;
    Export::start(endpoint, &config.identity, connections.clone())
        .inspect_err(|error| tracing::error!(%error, "there are no traces"))
        .ok()
}

/// Port 0 asks for any port, and memory decides how many requests there are at once: this says which, and how many.
fn log_start(listeners: &Listeners, load: LoadOptions) {
    let shown = |listener: &TcpListener| listener.local_addr().ok().map(tracing::field::display);
    let admin = listeners.admin.as_ref().and_then(shown);
    tracing::info!(
        api.address = shown(&listeners.api),
        admin.address = admin,
        requests.at_once = load.permits,
        "listening"
    );
}

fn status_source(
    live: LiveHandle,
    limits: LocalLimits,
    report: watch::Receiver<Report>,
    ready: Readiness,
) -> admin::StatusSource {
    Arc::new(move || {
        let live = live.load();
        let live = live.as_deref();
        let Report { config_hash, generation, unknown_fields, rejected, problems } = report.borrow().clone();
        ServerStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: ready.is_ready(),
            config_hash,
            generation,
            rejected,
            unknown_fields,
            problems,
            backend_reachable: live.and_then(|live| live.upstreams.health().reachable()),
            redis_connected: live.and_then(|live| live.store.connected()),
            store_mode: live.map(|live| limits.mode_of(live)),
        }
    })
}

/// Makes the running state from a configuration and its secrets. What both share with what ran before is kept: the
/// store, the backend with its connections, the memory cache.
pub struct Assembler {
    live: LiveHandle,
    ready: Readiness,
    in_cluster: bool,
    /// The tasks of connections to backends.
    connections: TaskTracker,
    log_level: LevelHandle,
    /// The API listener's, where it is encrypted.
    tls: Option<Tls>,
    /// Kept here and not only in what runs: conversations in memory outlive a key that is revoked for a moment.
    store: Option<(Option<RedisAddress>, Arc<dyn Store>)>,
    /// What the last backend was made of, and it.
    backend: Option<(BackendParts, Arc<dyn Backend>)>,
}

/// Everything that a backend is made of.
#[derive(PartialEq)]
struct BackendParts {
    config: BackendConfig,
    timeouts: TimeoutConfig,
    credentials: Option<Credentials>,
    authorities: Option<Authorities>,
}

/// Why a configuration cannot run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A Secret that it names is missing or cannot be used for it.
    #[error("{0}")]
    Secrets(String),
    /// Its backend.
    #[error("spec.backend cannot be used: {0}")]
    Backend(String),
}

impl Assembler {
    /// Nothing runs yet. `live` is filled, `ready` is told. In a cluster loopback is the pod itself. `connections` are
    /// the tasks of connections to backends.
    #[must_use]
    pub fn new(live: LiveHandle, ready: Readiness, in_cluster: bool, connections: TaskTracker) -> Self {
        Self {
            live,
            ready,
            in_cluster,
            connections,
            log_level: LevelHandle::default(),
            tls: None,
            store: None,
            backend: None,
        }
    }

    /// Sets the level of the log to that of what runs.
    #[must_use]
    pub fn with_log_level(self, log_level: LevelHandle) -> Self {
        Self { log_level, ..self }
    }

    /// Gives the API listener the certificate of what runs.
    #[must_use]
    pub fn with_tls(self, tls: Option<Tls>) -> Self {
        Self { tls, ..self }
    }

    /// Lets a configuration run, if everything that it needs is there. If not, nothing changes.
    pub fn take(&mut self, config: &Arc<ServerConfig>, loaded: &Loaded) -> Result<(), Unfit> {
        let wants = &config.fixed;
        // Without a problem, what is absent is not needed: outside a cluster the memory store serves for Redis.
        if let Some(problem) = loaded.problems.first()
            && ((wants.credentials_secret.is_some() && loaded.credentials.is_none())
                || (wants.redis_secret.is_some() && loaded.redis.is_none())
                || (wants.ca_config_map.is_some() && loaded.authorities.is_none())
                || (wants.api_keys_secret.is_some() && loaded.api_keys.is_none())
                || (wants.tls_secret.is_some() && loaded.certificate.is_none()))
        {
            return Err(Unfit::Secrets(problem.message.clone()));
        }
        let backend = self.backend(config, loaded)?;
        let store = self.store(config, loaded);
        let previous = self.live.load_full();
        let live = Live::new(config.clone(), backend, store, loaded.api_keys.as_ref(), previous.as_deref());
        if let (Some(tls), Some(certificate)) = (&self.tls, &loaded.certificate) {
            tls.present(certificate);
        }
        self.live.store(Some(Arc::new(live)));
        self.log_level.set(config.dynamic.log_level);
        self.ready.done(readiness::CREDENTIALS);
        Ok(())
    }

    /// Lets nothing run: requests are told to come back.
    pub fn stop(&mut self) {
        self.live.store(None);
        self.backend = None;
    }

    /// Whether a configuration runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.live.load().is_some()
    }

    /// The store that there is, unless another Redis is to be used.
    fn store(&mut self, config: &ServerConfig, loaded: &Loaded) -> Arc<dyn Store> {
        if let Some((address, store)) = &self.store
            && *address == loaded.redis
        {
            return store.clone();
        }
        let store: Arc<dyn Store> = match &loaded.redis {
            Some(address) => Arc::new(RedisStore::new(address.clone(), &config.identity.uid)),
            None => Arc::new(MemoryStore::new()),
        };
        self.store = Some((loaded.redis.clone(), store.clone()));
        store
    }

    /// The backend that there is, with its open connections, unless something that it is made of has changed.
    fn backend(&mut self, config: &ServerConfig, loaded: &Loaded) -> Result<Arc<dyn Backend>, Unfit> {
        let dynamic = &config.dynamic;
        let parts = BackendParts {
            config: dynamic.backend.clone(),
            timeouts: dynamic.timeouts,
            credentials: loaded.credentials.clone(),
            authorities: loaded.authorities.clone(),
        };
        if let Some((made_of, backend)) = &self.backend
            && *made_of == parts
        {
            return Ok(backend.clone());
        }
        let backend: Arc<dyn Backend> = match &dynamic.backend {
            BackendConfig::Echo {} => Arc::new(Echo::new()),
            BackendConfig::OpenAi { base_url, proxy_url } => {
                Arc::new(self.openai(base_url, proxy_url.as_ref(), &parts)?)
            }
        };
        self.backend = Some((parts, backend.clone()));
        Ok(backend)
    }

    fn openai(
        &self,
        base_url: &str,
        proxy_url: Option<&String>,
        parts: &BackendParts,
    ) -> Result<OpenAi, Unfit> {
        let credentials = parts.credentials.as_ref();
        let options = OpenAiOptions {
            base_url: base_url.to_owned(),
            api_key: credentials.map(|credentials| credentials.api_key.clone()),
            allowed_hosts: credentials
                .map(|credentials| credentials.allowed_hosts.clone())
                .unwrap_or_default(),
            proxy_url: proxy_url.cloned(),
            authorities: parts.authorities.clone(),
            timeouts: parts.timeouts.into(),
            in_cluster: self.in_cluster,
            connections: self.connections.clone(),
        };
        OpenAi::new(options).map_err(|error| Unfit::Backend(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::StatusProblem;
    use crate::constants::reason;
    use crate::crd::CacheScope;
    use crate::server::config::CacheConfig;

    fn assembler() -> Assembler {
        let ready = Readiness::new(Shutdown::new(), &[readiness::CREDENTIALS]);
        Assembler::new(LiveHandle::default(), ready, true, TaskTracker::new())
    }

    /// For a ChatService with a key; where its Redis is, if it names one, comes with the secrets.
    fn config(redis: bool) -> Arc<ServerConfig> {
        let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut variables =
            [text("OPENAI_API_KEY", "k")].into_iter().collect::<crate::environment::Variables>();
        variables.extend(redis.then(|| text("REDIS_URL", "redis://r")));
        Arc::new(crate::environment::server_config(&variables).unwrap())
    }

    fn loaded(key: bool, redis: Option<&str>, problem: bool) -> Loaded {
        let credentials =
            Credentials { api_key: "k".into(), allowed_hosts: vec!["api.openai.com".to_owned()] };
        let problem = problem.then(|| StatusProblem {
            reason: reason::CREDENTIAL_HOST_MISMATCH.to_owned(),
            message: "m".to_owned(),
        });
        Loaded {
            credentials: key.then_some(credentials),
            redis: redis.map(|url| RedisAddress::from_url(url).unwrap()),
            authorities: None,
            api_keys: None,
            certificate: None,
            problems: problem.into_iter().collect(),
        }
    }

    fn store(assembler: &Assembler) -> Option<Arc<dyn Store>> {
        assembler.live.load().as_ref().map(|live| live.store.clone())
    }

    #[tokio::test]
    async fn ready_is_said_once_something_runs_and_not_before() {
        let (mut assembler, config) = (assembler(), config(false));
        let refused = assembler.take(&config, &loaded(false, None, true));
        assert_eq!(refused, Err(Unfit::Secrets("m".to_owned())));
        assert!(!assembler.runs() && !assembler.ready.is_ready());
        assembler.take(&config, &loaded(true, None, false)).unwrap();
        assert!(assembler.runs() && assembler.ready.is_ready());
        assembler.stop();
        assert!(!assembler.runs() && assembler.ready.is_ready());
    }

    #[tokio::test]
    async fn the_memory_store_outlives_a_key_that_is_revoked_for_a_moment() {
        let (mut assembler, config) = (assembler(), config(false));
        assembler.take(&config, &loaded(true, None, false)).unwrap();
        let before = store(&assembler).unwrap();
        assembler.stop();
        assembler.take(&config, &loaded(true, None, false)).unwrap();
        assert!(Arc::ptr_eq(&before, &store(&assembler).unwrap()));
    }

    #[tokio::test]
    async fn only_another_redis_is_another_store() {
        let (mut assembler, config) = (assembler(), config(true));
        assembler.take(&config, &loaded(true, None, true)).unwrap_err();
        assembler.take(&config, &loaded(true, Some("redis://a"), false)).unwrap();
        let first = store(&assembler).unwrap();
        assembler.take(&config, &loaded(true, Some("redis://a:6379"), false)).unwrap();
        assert!(Arc::ptr_eq(&first, &store(&assembler).unwrap()));
        assembler.take(&config, &loaded(true, Some("redis://b"), false)).unwrap();
        assert!(!Arc::ptr_eq(&first, &store(&assembler).unwrap()));
    }

    #[tokio::test]
    async fn what_a_change_does_not_touch_is_kept() {
        let (mut assembler, mut config) = (assembler(), config(false));
        let loaded = loaded(true, None, false);
        let mut run = |edit: &dyn Fn(&mut ServerConfig)| {
            edit(Arc::make_mut(&mut config));
            assembler.take(&config, &loaded).unwrap();
            let live = assembler.live.load_full().unwrap();
            (assembler.backend.as_ref().unwrap().1.clone(), live.store.clone(), live.cache.clone())
        };
        let cache = |bytes| {
            move |config: &mut ServerConfig| {
                config.dynamic.cache =
                    Some(CacheConfig { ttl_ms: 1000, memory_bytes: bytes, scope: CacheScope::default() });
            }
        };
        let first = run(&cache(1 << 20));
        let second = run(&|config| config.dynamic.defaults.max_tokens = 7);
        assert!(Arc::ptr_eq(&first.0, &second.0) && Arc::ptr_eq(&first.1, &second.1));
        assert!(Arc::ptr_eq(first.2.as_ref().unwrap(), second.2.as_ref().unwrap()));
        let third = run(&cache(2 << 20));
        assert!(!Arc::ptr_eq(first.2.as_ref().unwrap(), third.2.as_ref().unwrap()));
        let fourth = run(&|config| config.dynamic.timeouts.connect_ms = 2000);
        assert!(Arc::ptr_eq(&first.1, &fourth.1) && !Arc::ptr_eq(&first.0, &fourth.0));
    }

    #[tokio::test]
    async fn a_backend_that_cannot_be_called_leaves_the_last_one_running() {
        let (mut assembler, mut config) = (assembler(), config(false));
        let loaded = loaded(true, None, false);
        assembler.take(&config, &loaded).unwrap();
        let before = assembler.live.load_full().unwrap();
        Arc::make_mut(&mut config).dynamic.backend =
            BackendConfig::OpenAi { base_url: "ftp://x".to_owned(), proxy_url: None };
        assert!(matches!(assembler.take(&config, &loaded), Err(Unfit::Backend(_))));
        assert!(Arc::ptr_eq(&before, &assembler.live.load_full().unwrap()));
    }
}
