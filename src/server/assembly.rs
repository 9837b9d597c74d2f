//! Puts a server together and runs it until it is told to stop. In: listeners, a configuration, where its secrets are.
//! Out: nothing but the end.
//!
//! Order at the end: the edge drains, then the last handle to the settlement queue goes, then what is still owed is
//! written, then the admin listener, which was answering all the while, closes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use secrecy::ExposeSecret;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::backend::Backend;
use super::backend::echo::Echo;
use super::backend::openai::{OpenAi, OpenAiOptions, Timeouts};
use super::config::{BackendConfig, ServerConfig};
use super::edge::{self, EdgeOptions};
use super::metrics::ServerMetrics;
use super::middleware::observe;
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

/// What a server is started with.
pub struct ServerOptions {
    /// Its configuration.
    pub config: ServerConfig,
    /// Where its secrets are.
    pub secrets: SecretSource,
    /// Limits of the API listener, and the times of the drain.
    pub edge: EdgeOptions,
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
pub fn build_router(state: AppState) -> Router {
    let observed = axum::middleware::from_fn_with_state(state.clone(), observe::observe);
    routes::router(state).0.layer(observed)
}

/// Serves until `shutdown` begins and the drain is over.
pub async fn run(listeners: Listeners, options: ServerOptions, shutdown: Shutdown) -> Result<(), ServeError> {
    let metrics = ServerMetrics::new()?;
    let config = Arc::new(options.config);
    metrics.config_generation.set(config.identity.generation);
    let live = LiveHandle::default();
    let (settlements, settler) = settlement::queue(live.clone(), metrics.clone());
    let state = AppState::new(live.clone(), metrics.clone(), settlements, shutdown.clone());
    let ready = Readiness::new(shutdown.clone(), &[readiness::CREDENTIALS]);
    let end = CancellationToken::new();

    let in_cluster = matches!(options.secrets, SecretSource::Mounted { .. });
    let (receiver, watching) =
        secrets::watch(config.clone(), options.secrets, ready.clone(), end.clone()).await;
    let mut assembler = Assembler { config: config.clone(), live: live.clone(), in_cluster, used: None };
    assembler.take(&receiver.borrow().clone());

    let mut tasks = JoinSet::new();
    if let Some(listener) = listeners.admin {
        let status = status_source(config, live, receiver.clone(), ready.clone());
        let admin =
            AdminState { registry: metrics.registry().clone(), readiness: ready, status: Some(status) };
        tasks.spawn(admin::serve_admin(listener, admin, end.clone()));
    }
    tasks.spawn(watching);
    tasks.spawn(assembler.run(receiver, end.clone()));
    let mut settling = JoinSet::new();
    settling.spawn(settler.run());

    let report = edge::serve(listeners.api, build_router(state), options.edge, shutdown).await;
    // The router was the last to hold a handle to the queue, so the settler ends when the queue is empty.
    if tokio::time::timeout(SETTLE, settling.join_next()).await.is_err() {
        tracing::warn!("the store did not take everything that was owed to it in time");
    }
    end.cancel();
    while tasks.join_next().await.is_some() {}
    tracing::info!(answers.cut = report.cut, "server ended");
    Ok(())
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
    in_cluster: bool,
    /// What the running state was made from.
    used: Option<Arc<Loaded>>,
}

impl Assembler {
    async fn run(mut self, mut secrets: SecretsReceiver, end: CancellationToken) {
        while let Some(Ok(())) = end.run_until_cancelled(secrets.changed()).await {
            let loaded = secrets.borrow_and_update().clone();
            self.take(&loaded);
        }
    }

    /// Takes what can be used. As long as something is missing that never was there, nothing runs.
    fn take(&mut self, loaded: &Arc<Loaded>) {
        let wants = &self.config.fixed;
        let incomplete = (wants.credentials_secret.is_some() && loaded.credentials.is_none())
            || (wants.redis_secret.is_some() && loaded.redis.is_none() && !self.optional_redis());
        if incomplete {
            // A key that may no longer be sent to this host must not go on being used.
            self.live.store(None);
            return;
        }
        let previous = self.live.load_full();
        let same_redis = self.used.as_ref().is_some_and(|used| used.redis == loaded.redis);
        let store = previous.as_ref().filter(|_| same_redis).map(|live| live.store.clone());
        let Some(store) = store.or_else(|| self.store(loaded)) else { return };
        let Some(backend) = self.backend(loaded) else { return };
        let live = Live::new(self.config.clone(), backend, store, previous.as_deref());
        self.live.store(Some(Arc::new(live)));
        self.used = Some(loaded.clone());
    }

    /// Outside a cluster a Redis that nobody named is no fault: the memory store serves.
    fn optional_redis(&self) -> bool {
        !self.in_cluster
    }

    fn store(&self, loaded: &Loaded) -> Option<Arc<dyn Store>> {
        let Some(redis) = &loaded.redis else { return Some(Arc::new(MemoryStore::new())) };
        let address = RedisAddress::from_url(redis.url.expose_secret());
        match address {
            Ok(address) => Some(Arc::new(RedisStore::new(address, &self.config.identity.uid))),
            Err(error) => {
                tracing::error!(%error, "Redis cannot be used");
                None
            }
        }
    }

    fn backend(&self, loaded: &Loaded) -> Option<Arc<dyn Backend>> {
        let BackendConfig::OpenAi { base_url } = &self.config.dynamic.backend else {
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
