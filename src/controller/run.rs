//! The operator as a process. In: its options. Out: one controller for each watched part of the cluster, sharing a
//! client, a bound on concurrency and the metrics, until shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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
/// Questions to pods at once.
const QUESTIONS: usize = 32;
/// For reconciles under way at shutdown, below the usual grace period of 30 s.
const DRAIN: Duration = Duration::from_secs(20);
/// One look whether the API server and the CRD are there.
const LOOK: Duration = Duration::from_secs(5);
/// Longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Between two waits for the caches.
const AGAIN: Duration = Duration::from_secs(1);
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
        tracing::info!(scopes = ?scopes, "the operator starts");
        let parts = Arc::new(Parts::new(self, scopes.len()));
        // One that cannot be watched must not stop the others, so each waits and runs by itself.
        let mut running = JoinSet::new();
        for scope in scopes {
            running.spawn(Arc::clone(&parts).run(scope, shutdown.clone()));
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            ended = running.join_next() => {
                let part = ended.and_then(Result::ok).flatten().unwrap_or("a part");
                if !shutdown.is_cancelled() {
                    return Err(Error::Ended(part));
                }
            }
        }
        let drained =
            tokio::time::timeout(DRAIN, async { while running.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::warn!("reconciles still under way are cut off; the next start takes them up again");
        }
        Ok(())
    }
}

/// What all scopes share.
struct Parts {
    operator: Operator,
    recorder: Recorder,
    backoff: Arc<Backoff>,
    permits: Arc<Semaphore>,
    asking: Asking,
    /// Scopes whose caches are not filled yet.
    unfilled: AtomicUsize,
}

impl Parts {
    fn new(operator: Operator, scopes: usize) -> Self {
        Self {
            recorder: Recorder::new(operator.client.clone(), Reporter::from(field_manager::CONTROLLER)),
            backoff: Arc::default(),
            permits: Arc::new(Semaphore::new(usize::from(CONCURRENCY))),
            asking: Asking {
                pace: operator.pace,
                address: Arc::clone(&operator.address),
                in_flight: Arc::new(Semaphore::new(QUESTIONS)),
                prober: Prober::default(),
            },
            unfilled: AtomicUsize::new(scopes),
            operator,
        }
    }

    /// Waits for the API and then watches one scope, until `shutdown` and the end of its reconciles under way. What
    /// ended before that, if something did.
    async fn run(self: Arc<Self>, scope: Scope, shutdown: CancellationToken) -> Option<&'static str> {
        shutdown.run_until_cancelled(wait_for_api(&self.operator.client, &scope)).await?;
        tracing::info!(scope = ?scope, "watching");
        let mut observers = JoinSet::new();
        let (context, reconciling) = self.start(&scope, &shutdown, &mut observers);
        let mut controller = JoinSet::new();
        controller.spawn(reconciling);
        let filling = async {
            if shutdown.run_until_cancelled(fill(&context)).await.is_some()
                && self.unfilled.fetch_sub(1, Ordering::AcqRel) == 1
            {
                self.operator.readiness.done(WATCHES);
            }
            std::future::pending::<()>().await;
        };
        let ended = tokio::select! {
            biased;
            _ = controller.join_next() => "the controller",
            _ = observers.join_next() => "the observer of pods",
            () = filling => "the wait for the caches",
        };
        Some(ended)
    }

    fn start(
        &self,
        scope: &Scope,
        shutdown: &CancellationToken,
        observers: &mut JoinSet<()>,
    ) -> (Arc<Context>, impl Future<Output = ()> + Send + use<>) {
        let client = &self.operator.client;
        let watch_errors = Arc::new(WatchErrors::default());
        let (observer, pod_events, changed) =
            Observer::new(client, scope, self.asking.clone(), &watch_errors);
        observers.spawn(Arc::clone(&observer).follow(pod_events));
        observers.spawn(Arc::clone(&observer).poll());
        // No debounce: it begins anew with every request, so an object that changes all the time would never be looked
        // at. The queue itself holds an object once.
        let controller = Controller::new(scope.api::<Watched>(client), watcher::Config::default())
            .with_config(Config::default().concurrency(CONCURRENCY))
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
        let reconciling = async move {
            let mut results = std::pin::pin!(results);
            while let Some(result) = results.next().await {
                report(result, &reporting);
            }
        };
        (context, reconciling)
    }
}

/// Waits until every cache is filled. A wait may end at once and in vain, hence the pause.
async fn fill(context: &Context) {
    while context.initialised().await.is_err() {
        tokio::time::sleep(AGAIN).await;
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
