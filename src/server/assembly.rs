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

use super::assembler::Assembler;
use super::config::ServerConfig;
use super::edge::{self, EdgeOptions, Tls};
use super::metrics::ServerMetrics;
use super::middleware;
use super::overload::{LoadOptions, Overload};
use super::reload::{Reloader, Report, Sources};
use super::routes;
use super::secrets::SecretSource;
use super::settlement;
use super::settler::Settler;
use super::state::{AppState, Charging, LiveHandle};
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

/// Every path of the API listener with the layer that every request passes.
pub fn build_router(state: AppState, overload: Overload) -> Router {
    routes::router(state.clone(), overload).0.layer(middleware::every(state))
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
