//! The operator as a process. In: its options. Out: one controller for each watched part of the cluster, sharing a
//! client, a bound on concurrency and the metrics, until shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::ListParams;
use kube::runtime::controller::Config;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::{Controller, watcher};
use kube::{Api, Client};
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::backoff::{Backoff, jittered};
use super::children::{Children, WatchErrors};
use super::metrics::ControllerMetrics;
use super::observe::{Asking, Observer, Pace, PodAddress, pod_address};
use super::probe::Prober;
use super::record::StatusWriter;
use super::{Context, Defaults, Error, Scope, Watched, error_policy, reconcile, report};
use crate::admin::{AdminState, Readiness, serve_admin};
use crate::constants::field_manager;
use crate::crd::ChatService;
use crate::shutdown::Shutdown;

/// Reconciles at once.
const CONCURRENCY: u16 = 8;
/// Changes of one object that come together are one reconcile.
const DEBOUNCE: Duration = Duration::from_millis(300);
/// Questions to pods at once.
const QUESTIONS: usize = 32;
/// For reconciles under way at shutdown, below the usual grace period of 30 s.
const DRAIN: Duration = Duration::from_secs(20);
/// One look whether the API server and the CRD are there.
const LOOK: Duration = Duration::from_secs(5);
/// Longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// What [`Readiness`] waits for.
const WATCHES: &str = "watches";

/// What `chatservice controller` is told.
#[derive(Clone, Debug)]
pub struct ControllerOptions {
    /// Namespaces to watch; empty for all.
    pub watch_namespaces: Vec<String>,
    /// What is added to a ChatService.
    pub defaults: Defaults,
    /// Where `/metrics`, `/livez` and `/readyz` are served.
    pub admin_address: SocketAddr,
}

/// Runs the operator until `shutdown`.
///
/// # Errors
/// No way to reach an API server is configured, the admin listener cannot be opened, or a part ended by itself. An API
/// server or CRD that is away is no error: it is waited for.
pub async fn run(options: ControllerOptions, shutdown: CancellationToken) -> Result<(), Error> {
    let ControllerOptions { watch_namespaces, defaults, admin_address } = options;
    let config = kube::Config::infer().await.map_err(|error| Error::Configuration(Box::new(error)))?;
    let client = Client::try_from(config).map_err(|error| Error::Configuration(Box::new(error)))?;
    let listener = TcpListener::bind(admin_address)
        .await
        .map_err(|source| Error::Listen { address: admin_address, source })?;
    let registry = Registry::new();
    registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
    let draining = Shutdown::new();
    let readiness = Readiness::new(draining.clone(), &[WATCHES]);
    let operator = Operator {
        client,
        watch_namespaces,
        defaults,
        metrics: ControllerMetrics::new(&registry)?,
        readiness: readiness.clone(),
        pace: Pace::default(),
        address: pod_address(),
    };
    let admin_ends = CancellationToken::new();
    let mut admin = JoinSet::new();
    let state = AdminState { registry, readiness, status: None };
    admin.spawn(serve_admin(listener, state, admin_ends.clone()));
    let mut operating = std::pin::pin!(operator.run(shutdown.clone()));
    let result = tokio::select! {
        result = &mut operating => result,
        () = shutdown.cancelled() => {
            draining.begin();
            operating.await
        }
    };
    admin_ends.cancel();
    // Bounded by the listener's own drain.
    admin.join_all().await;
    result
}

/// An operator with everything it needs from outside; [`run`] makes one, tests make theirs.
pub struct Operator {
    /// Talks to the API server.
    pub client: Client,
    /// Namespaces to watch; empty for all.
    pub watch_namespaces: Vec<String>,
    /// What is added to a ChatService.
    pub defaults: Defaults,
    /// Where counts go.
    pub metrics: ControllerMetrics,
    /// Told when all caches are filled.
    pub readiness: Readiness,
    /// How often pods are asked.
    pub pace: Pace,
    /// Where a pod's admin listener is.
    pub address: PodAddress,
}

impl Operator {
    /// Runs until `shutdown`, then until the reconciles under way have ended.
    ///
    /// # Errors
    /// A part of it ended by itself.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let scopes: Vec<Scope> = if self.watch_namespaces.is_empty() {
            vec![Scope::Cluster]
        } else {
            self.watch_namespaces.iter().cloned().map(Scope::Namespace).collect()
        };
        for scope in &scopes {
            if shutdown.run_until_cancelled(wait_for_api(&self.client, scope)).await.is_none() {
                return Ok(());
            }
        }
        let parts = Parts::new(&self);
        let mut controllers = JoinSet::new();
        let mut observers = JoinSet::new();
        let mut contexts = Vec::new();
        for scope in &scopes {
            contexts.push(parts.start(scope, &shutdown, &mut controllers, &mut observers));
        }
        tracing::info!(scopes = ?scopes, "the operator runs");
        let filled = async {
            for context in &contexts {
                while context.initialised().await.is_err() {}
            }
            self.readiness.done(WATCHES);
            std::future::pending::<()>().await;
        };
        let ended = tokio::select! {
            () = shutdown.cancelled() => None,
            _ = controllers.join_next() => Some("the controller"),
            _ = observers.join_next() => Some("the observer of pods"),
            () = filled => None,
        };
        if let Some(part) = ended.filter(|_| !shutdown.is_cancelled()) {
            return Err(Error::Ended(part));
        }
        let drained =
            tokio::time::timeout(DRAIN, async { while controllers.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::warn!("reconciles still under way are cut off; the next start takes them up again");
        }
        Ok(())
    }
}

/// What all scopes share.
struct Parts<'a> {
    operator: &'a Operator,
    recorder: Recorder,
    backoff: Arc<Backoff>,
    permits: Arc<Semaphore>,
    asking: Asking,
}

impl<'a> Parts<'a> {
    fn new(operator: &'a Operator) -> Self {
        Self {
            operator,
            recorder: Recorder::new(operator.client.clone(), Reporter::from(field_manager::CONTROLLER)),
            backoff: Arc::default(),
            permits: Arc::new(Semaphore::new(usize::from(CONCURRENCY))),
            asking: Asking {
                pace: operator.pace,
                address: Arc::clone(&operator.address),
                in_flight: Arc::new(Semaphore::new(QUESTIONS)),
                prober: Prober::default(),
            },
        }
    }

    fn start(
        &self,
        scope: &Scope,
        shutdown: &CancellationToken,
        controllers: &mut JoinSet<()>,
        observers: &mut JoinSet<()>,
    ) -> Arc<Context> {
        let client = &self.operator.client;
        let watch_errors = Arc::new(WatchErrors::default());
        let (observer, pod_events, changed) =
            Observer::new(client, scope, self.asking.clone(), &watch_errors);
        observers.spawn(Arc::clone(&observer).follow(pod_events));
        observers.spawn(Arc::clone(&observer).poll());
        let controller = Controller::new(scope.api::<Watched>(client), watcher::Config::default())
            .with_config(Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
            .graceful_shutdown_on(shutdown.clone().cancelled_owned())
            .reconcile_on(changed);
        let (children, controller) = Children::watch(controller, client, scope, &watch_errors);
        let context = Arc::new(Context {
            client: client.clone(),
            defaults: self.operator.defaults.clone(),
            children,
            watch_errors,
            observer,
            recorder: self.recorder.clone(),
            metrics: self.operator.metrics.clone(),
            backoff: Arc::clone(&self.backoff),
            writer: StatusWriter::default(),
            permits: Arc::clone(&self.permits),
        });
        let reporting = Arc::clone(&context);
        let results = controller.run(reconcile, error_policy, Arc::clone(&context));
        controllers.spawn(async move {
            let mut results = std::pin::pin!(results);
            while let Some(result) = results.next().await {
                report(result, &reporting);
            }
        });
        context
    }
}

/// Waits until ChatServices can be listed, and says every time why they cannot.
async fn wait_for_api(client: &Client, scope: &Scope) {
    let api: Api<ChatService> = scope.api(client);
    let mut pause = Duration::from_secs(1);
    loop {
        let look = tokio::time::timeout(LOOK, api.list_metadata(&ListParams::default().limit(1))).await;
        match look {
            Ok(Ok(_)) => return,
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() => tracing::warn!(
                "the CRD chatservices.chatservice.dev is not installed; waiting. Fix: kubectl apply --server-side -f crds/chatservices.yaml, or helm install the operator's chart with crds.enabled=true"
            ),
            Ok(Err(kube::Error::Api(status))) if status.is_forbidden() => tracing::warn!(
                scope = ?scope, answer = status.message, "the operator may not list ChatServices; waiting. Fix: helm upgrade the operator's chart, whose roles hold every rule it needs"
            ),
            Ok(Err(error)) => tracing::warn!(error = %error, "the API server cannot be reached; waiting"),
            Err(_) => tracing::warn!("the API server does not answer within 5 s; waiting"),
        }
        tokio::time::sleep(jittered(pause, 0.2)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
