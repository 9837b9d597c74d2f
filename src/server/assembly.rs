//! Puts a server together and runs it until it is told to stop. In: listeners, a configuration, where its secrets are.
//! Out: nothing but the end.
//!
//! Order at the end: the edge drains, then the last handle to the settlement queue goes, then what is still owed is
//! written, then the admin listener, which was answering all the while, closes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backend::Backend;
use super::backend::echo::Echo;
use super::backend::openai::{OpenAi, OpenAiOptions, Timeouts};
use super::config::{BackendConfig, ServerConfig};
use super::denials::Denials;
use super::edge::{self, EdgeOptions};
use super::metrics::ServerMetrics;
use super::middleware::{observe, panic};
use super::overload::{LoadOptions, Overload};
use super::routes;
use super::secrets::{self, Loaded, SecretSource, SecretsReceiver};
use super::settlement;
use super::state::{AppState, Live, LiveHandle};
use super::store::Store;
use super::store::memory::MemoryStore;
use super::store::redis::{RedisAddress, RedisStore};
use crate::admin::{self, AdminState, Readiness, ServerStatus};
use crate::constants::readiness;
use crate::shutdown::Shutdown;

/// Longest time for what is owed to the store at the end.
const SETTLE: Duration = Duration::from_secs(2);

/// Longest time for the connections to backends to end.
const CLOSE: Duration = Duration::from_secs(1);

/// What a server is started with.
pub struct ServerOptions {
    /// Its configuration.
    pub config: ServerConfig,
    /// Where its secrets are.
    pub secrets: SecretSource,
    /// Limits of the API listener, and the times of the drain.
    pub edge: EdgeOptions,
    /// How many requests are answered at once.
    pub load: LoadOptions,
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
}

/// Opens a listener; `flag` is what the message tells to change.
pub async fn bind(address: SocketAddr, flag: &'static str) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Bind { address, flag, source })
}

/// Every path of the API listener with the layers that every request passes.
pub fn build_router(state: AppState, overload: Overload) -> Router {
    let observed = axum::middleware::from_fn_with_state(state.clone(), observe::observe);
    let caught = axum::middleware::from_fn(panic::catch);
    routes::router(state, overload).0.layer(caught).layer(observed)
}

/// Serves until `shutdown` begins and the drain is over.
pub async fn run(listeners: Listeners, options: ServerOptions, shutdown: Shutdown) -> Result<(), ServeError> {
    let metrics = ServerMetrics::new()?;
    let config = Arc::new(options.config);
    metrics.config_generation.set(config.identity.generation);
    let live = LiveHandle::default();
    let denials = Denials::default();
    let (settlements, settler) = settlement::queue(live.clone(), metrics.clone(), denials.clone());
    let state = AppState::new(live.clone(), metrics.clone(), settlements, denials, shutdown.clone());
    let ready = Readiness::new(shutdown.clone(), &[readiness::CREDENTIALS]);
    let end = CancellationToken::new();
    let connections = TaskTracker::new();

    let in_cluster = matches!(options.secrets, SecretSource::Mounted { .. });
    let (receiver, watching) = secrets::watch(config.clone(), options.secrets, end.clone()).await;
    let mut assembler = Assembler {
        config: config.clone(),
        live: live.clone(),
        ready: ready.clone(),
        in_cluster,
        connections: connections.clone(),
        store: None,
    };
    assembler.take(&receiver.borrow().clone());

    log_start(&listeners, options.load);
    let mut tasks = JoinSet::new();
    if let Some(listener) = listeners.admin {
        let status = status_source(config, live.clone(), receiver.clone(), ready.clone());
        let admin =
            AdminState { registry: metrics.registry().clone(), readiness: ready, status: Some(status) };
        tasks.spawn(admin::serve_admin(listener, admin, end.clone()));
    }
    tasks.spawn(watching);
    tasks.spawn(assembler.run(receiver, end.clone()));
    let mut settling = JoinSet::new();
    settling.spawn(settler.run());

    let router = build_router(state, Overload::new(options.load));
    let report = edge::serve(listeners.api, router, options.edge, shutdown).await;
    // The router was the last to hold a handle to the queue, so the settler ends when the queue is empty.
    if tokio::time::timeout(SETTLE, settling.join_next()).await.is_err() {
        tracing::warn!("the store did not take everything that was owed to it in time");
    }
    end.cancel();
    while tasks.join_next().await.is_some() {}
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
    config: Arc<ServerConfig>,
    live: LiveHandle,
    secrets: SecretsReceiver,
    ready: Readiness,
) -> admin::StatusSource {
    let config_hash = config.hash();
    Arc::new(move || ServerStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ready: ready.is_ready(),
        config_hash: config_hash.clone(),
        generation: config.identity.generation,
        problems: secrets.borrow().problems.clone(),
        redis_connected: live.load().as_ref().and_then(|live| live.store.connected()),
    })
}

/// Makes the running state from the configuration and the secrets, again whenever a secret changes.
struct Assembler {
    config: Arc<ServerConfig>,
    live: LiveHandle,
    ready: Readiness,
    in_cluster: bool,
    /// The tasks of connections to backends.
    connections: TaskTracker,
    /// Kept here and not only in what runs: conversations in memory outlive a key that is revoked for a moment.
    store: Option<(Option<RedisAddress>, Arc<dyn Store>)>,
}

impl Assembler {
    async fn run(mut self, mut secrets: SecretsReceiver, end: CancellationToken) {
        while let Some(Ok(())) = end.run_until_cancelled(secrets.changed()).await {
            let loaded = secrets.borrow_and_update().clone();
            self.take(&loaded);
        }
    }

    /// Takes what can be used, and is ready from then on. As long as something is missing, nothing runs.
    fn take(&mut self, loaded: &Loaded) {
        let wants = &self.config.fixed;
        // Without a problem, what is absent is not needed: outside a cluster the memory store serves for Redis.
        let incomplete = !loaded.problems.is_empty()
            && ((wants.credentials_secret.is_some() && loaded.credentials.is_none())
                || (wants.redis_secret.is_some() && loaded.redis.is_none()));
        if incomplete {
            // A key that may no longer be sent to this host must not go on being used.
            self.live.store(None);
            return;
        }
        let store = self.store(loaded);
        let Some(backend) = self.backend(loaded) else { return };
        let previous = self.live.load_full();
        let live = Live::new(self.config.clone(), backend, store, previous.as_deref());
        self.live.store(Some(Arc::new(live)));
        self.ready.done(readiness::CREDENTIALS);
    }

    /// The store that there is, unless another Redis is to be used.
    fn store(&mut self, loaded: &Loaded) -> Arc<dyn Store> {
        if let Some((address, store)) = &self.store
            && *address == loaded.redis
        {
            return store.clone();
        }
        let store: Arc<dyn Store> = match &loaded.redis {
            Some(address) => Arc::new(RedisStore::new(address.clone(), &self.config.identity.uid)),
            None => Arc::new(MemoryStore::new()),
        };
        self.store = Some((loaded.redis.clone(), store.clone()));
        store
    }

    fn backend(&self, loaded: &Loaded) -> Option<Arc<dyn Backend>> {
        let BackendConfig::OpenAi { base_url, .. } = &self.config.dynamic.backend else {
            return Some(Arc::new(Echo::new()));
        };
        let credentials = loaded.credentials.as_ref();
        let options = OpenAiOptions {
            base_url: base_url.clone(),
            api_key: credentials.map(|credentials| credentials.api_key.clone()),
            allowed_hosts: credentials
                .map(|credentials| credentials.allowed_hosts.clone())
                .unwrap_or_default(),
            timeouts: Timeouts::default(),
            in_cluster: self.in_cluster,
            connections: self.connections.clone(),
        };
        match OpenAi::new(options) {
            Ok(backend) => Some(Arc::new(backend)),
            Err(error) => {
                tracing::error!(%error, "the backend cannot be used");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::StatusProblem;
    use crate::constants::reason;
    use crate::server::secrets::Credentials;

    /// For a ChatService with a key; where its Redis is, if it names one, comes with the secrets.
    fn assembler(redis: bool) -> Assembler {
        let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut variables =
            [text("OPENAI_API_KEY", "k")].into_iter().collect::<crate::environment::Variables>();
        variables.extend(redis.then(|| text("REDIS_URL", "redis://r")));
        Assembler {
            config: Arc::new(crate::environment::server_config(&variables).unwrap()),
            live: LiveHandle::default(),
            ready: Readiness::new(Shutdown::new(), &[readiness::CREDENTIALS]),
            in_cluster: true,
            connections: TaskTracker::new(),
            store: None,
        }
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
            problems: problem.into_iter().collect(),
        }
    }

    fn store(assembler: &Assembler) -> Option<Arc<dyn Store>> {
        assembler.live.load().as_ref().map(|live| live.store.clone())
    }

    #[tokio::test]
    async fn ready_is_said_once_something_runs_and_not_before() {
        let mut assembler = assembler(false);
        assembler.take(&loaded(false, None, true));
        assert!(assembler.live.load().is_none());
        assert!(!assembler.ready.is_ready());
        assembler.take(&loaded(true, None, false));
        assert!(assembler.live.load().is_some());
        assert!(assembler.ready.is_ready());
    }

    #[tokio::test]
    async fn the_memory_store_outlives_a_key_that_is_revoked_for_a_moment() {
        let mut assembler = assembler(false);
        assembler.take(&loaded(true, None, false));
        let before = store(&assembler).unwrap();
        assembler.take(&loaded(false, None, true));
        assert!(store(&assembler).is_none(), "a revoked key is not used");
        assembler.take(&loaded(true, None, false));
        assert!(Arc::ptr_eq(&before, &store(&assembler).unwrap()));
    }

    #[tokio::test]
    async fn only_another_redis_is_another_store() {
        let mut assembler = assembler(true);
        assembler.take(&loaded(true, None, true));
        assert!(store(&assembler).is_none(), "a Redis that is named and cannot be used");
        assembler.take(&loaded(true, Some("redis://a"), false));
        let first = store(&assembler).unwrap();
        assembler.take(&loaded(true, Some("redis://a:6379"), false));
        assert!(Arc::ptr_eq(&first, &store(&assembler).unwrap()));
        assembler.take(&loaded(true, Some("redis://b"), false));
        assert!(!Arc::ptr_eq(&first, &store(&assembler).unwrap()));
    }
}
