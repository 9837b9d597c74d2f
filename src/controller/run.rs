//! The operator as a process. In: its options. Out: one controller for each watched part of the cluster, sharing a
//! client, a bound on concurrency and the metrics, until shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use kube::api::ListParams;
use kube::runtime::Controller;
use kube::runtime::controller::Config;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Api, Client};
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::backoff::{Backoff, jittered};
use super::children::{CHATSERVICES, Children, WatchErrors};
use super::client::Clients;
use super::crd_guard::{self, Verdict};
use super::metrics::ControllerMetrics;
use super::observe::{Asking, Observer, Pace, PodAddress, pod_address};
use super::permissions::Permissions;
use super::probe::Prober;
use super::record::StatusWriter;
use super::rollouts::Rollouts;
use super::services::services;
use super::signing_keys::SigningKeys;
use super::touch::Toucher;
use super::{Context, Defaults, Error, ObjectKey, Scope, error_policy, reconcile, report};
use crate::admin::{AdminState, Readiness, serve_admin};
use crate::constants::{env, field_manager, readiness as waits};
use crate::crd::ChatService;
use crate::leader_election::{Candidate, LeaseOptions};
use crate::shutdown::Shutdown;

/// Reconciles at once.
const CONCURRENCY: usize = 8;
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
/// What `chatservice controller` is told.
#[derive(Clone, Debug)]
pub struct ControllerOptions {
    /// Namespaces to watch; empty for all.
    pub watch_namespaces: Vec<String>,
    /// What is added to a ChatService.
    pub defaults: Defaults,
    /// ChatServices that are rolled at a time after the default image has changed.
    pub max_concurrent_rollouts: usize,
    /// Where `/metrics`, `/livez` and `/readyz` are served.
    pub admin_address: SocketAddr,
    /// Which Lease its processes share.
    pub lease: LeaseOptions,
}

/// Runs the operator until `shutdown`.
///
/// # Errors
/// No way to reach an API server is configured, the admin listener cannot be opened, the Lease was lost, or a part ended by
/// itself. An API server, CRD or Lease that cannot be had is no error: it is waited for.
pub async fn run(options: ControllerOptions, shutdown: CancellationToken) -> Result<(), Error> {
    let ControllerOptions { watch_namespaces, defaults, max_concurrent_rollouts, admin_address, lease } =
        options;
    let registry = Registry::new();
    registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
    let metrics = ControllerMetrics::new(&registry)?;
    let config = kube::Config::infer().await.map_err(|error| Error::Configuration(Box::new(error)))?;
    let clients =
        Clients::connect(config, &metrics).map_err(|error| Error::Configuration(Box::new(error)))?;
    let listener = TcpListener::bind(admin_address)
        .await
        .map_err(|source| Error::Listen { address: admin_address, source })?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!(admin.address = %address, "listening");
    }
    let draining = Shutdown::new();
    let readiness = Readiness::new(draining.clone(), &WAITS_FOR);
    let operator = Operator {
        clients,
        lease,
        watch_namespaces,
        defaults,
        max_concurrent_rollouts,
        metrics,
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

/// What [`Readiness`] waits for from the beginning; a process that leads then waits for its watches.
pub const WAITS_FOR: [&str; 2] = [waits::CRD, waits::LEASE];

/// An operator with everything it needs from outside; [`run`] makes one, tests make theirs.
pub struct Operator {
    /// Talk to the API server.
    pub clients: Clients,
    /// The Lease that its processes share.
    pub lease: LeaseOptions,
    /// Namespaces to watch; empty for all.
    pub watch_namespaces: Vec<String>,
    /// What is added to a ChatService.
    pub defaults: Defaults,
    /// ChatServices that are rolled at a time after the default image has changed.
    pub max_concurrent_rollouts: usize,
    /// Where counts go.
    pub metrics: ControllerMetrics,
    /// Told what is there; it begins with [`WAITS_FOR`].
    pub readiness: Readiness,
    /// How often pods are asked.
    pub pace: Pace,
    /// Where a pod's admin listener is.
    pub address: PodAddress,
}

impl Operator {
    /// Waits for the CRD and its turn, then runs until `shutdown` and until the reconciles under way have ended.
    ///
    /// # Errors
    /// The Lease was lost: reconciles under way are cut off then. Or a part of it ended by itself.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let (readiness, metrics) = (self.readiness.clone(), self.metrics.clone());
        // Before the Lease: a process that cannot serve must not take it from one that can.
        if shutdown.run_until_cancelled(wait_for_crd(&self.clients.work, &readiness)).await.is_none() {
            return Ok(());
        }
        let mut candidate =
            Candidate::new(self.clients.lease.clone(), self.lease.clone(), self.clients.leadership.clone());
        let leads = shutdown.run_until_cancelled(candidate.acquire(|seen| stand_by(&readiness, seen))).await;
        if leads.is_none() {
            // The last try may have come through.
            candidate.release().await;
            return Ok(());
        }
        readiness.say(None);
        readiness.wait_for(waits::WATCHES);
        readiness.done(waits::LEASE);
        metrics.leads(true);
        let operating = self.operate(candidate.identity().to_owned(), shutdown);
        let result = tokio::select! {
            biased;
            lost = candidate.keep() => Err(Error::Lost(lost)),
            result = operating => result,
        };
        metrics.leads(false);
        if !matches!(result, Err(Error::Lost(_))) {
            candidate.release().await;
        }
        result
    }

    async fn operate(self, identity: String, shutdown: CancellationToken) -> Result<(), Error> {
        let scopes: Vec<Scope> = if self.watch_namespaces.is_empty() {
            vec![Scope::Cluster]
        } else {
            self.watch_namespaces.iter().cloned().map(Scope::Namespace).collect()
        };
        tracing::info!(scopes = ?scopes, "the operator starts");
        let parts = Arc::new(Parts::new(self, identity, scopes.len()));
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
        parts.permits.close();
        let drained =
            tokio::time::timeout(DRAIN, async { while running.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::warn!("reconciles still under way are cut off; the next start takes them up again");
        }
        Ok(())
    }
}

/// A process that waits for its turn is ready, since it does what it should; one that cannot know whose turn it is, is not.
fn stand_by(readiness: &Readiness, seen: Result<&str, &str>) {
    match seen {
        Ok(holder) => {
            readiness.say(Some(format!("waiting, \"{holder}\" leads")));
            readiness.done(waits::LEASE);
        }
        Err(_) => readiness.wait_for(waits::LEASE),
    }
}

/// What all scopes share.
struct Parts {
    operator: Operator,
    recorder: Recorder,
    signing_keys: Arc<SigningKeys>,
    backoff: Arc<Backoff>,
    permits: Arc<Semaphore>,
    asking: Asking,
    permissions: Arc<Permissions>,
    rollouts: Arc<Rollouts>,
    /// Scopes whose caches are not filled yet.
    unfilled: AtomicUsize,
}

impl Parts {
    fn new(operator: Operator, identity: String, scopes: usize) -> Self {
        let reporter =
            Reporter { controller: field_manager::CONTROLLER.to_owned(), instance: Some(identity) };
        Self {
            recorder: Recorder::new(operator.clients.work.clone(), reporter),
            permissions: Arc::new(Permissions::new(operator.readiness.clone())),
            rollouts: Arc::new(Rollouts::new(operator.max_concurrent_rollouts)),
            signing_keys: Arc::new(SigningKeys::new(
                operator.clients.work.clone(),
                operator.pace.signing_keys / 2,
                operator.metrics.clone(),
            )),
            backoff: Arc::default(),
            permits: Arc::new(Semaphore::new(CONCURRENCY)),
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
        shutdown.run_until_cancelled(wait_for_api(&self.operator.clients.work, &scope)).await?;
        tracing::info!(scope = ?scope, "watching");
        let mut observers = JoinSet::new();
        let (context, reconciling) = self.start(&scope, &shutdown, &mut observers);
        let mut controller = JoinSet::new();
        controller.spawn(reconciling);
        let filling = async {
            if shutdown.run_until_cancelled(fill(&context)).await.is_some()
                && self.unfilled.fetch_sub(1, Ordering::AcqRel) == 1
            {
                self.operator.readiness.done(waits::WATCHES);
            }
            self.look_after_permissions(&scope).await;
        };
        let ended = tokio::select! {
            biased;
            _ = controller.join_next() => "the controller",
            _ = observers.join_next() => "the observer of pods",
            () = filling => "the wait for the caches",
        };
        Some(ended)
    }

    /// Tells `/readyz` whether the ChatServices themselves may be watched. Never ends.
    async fn look_after_permissions(&self, scope: &Scope) {
        let namespace = scope.namespace().unwrap_or_default().to_owned();
        let all = ObjectKey { namespace, name: String::new() };
        loop {
            let refused = self.operator.clients.watches.refused(CHATSERVICES, scope);
            self.permissions.note(waits::WATCH_PERMISSION, &all, refused);
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn start(
        &self,
        scope: &Scope,
        shutdown: &CancellationToken,
        observers: &mut JoinSet<()>,
    ) -> (Arc<Context>, impl Future<Output = ()> + Send + use<>) {
        let (client, metrics) = (&self.operator.clients.work, &self.operator.metrics);
        let watch_errors = Arc::new(WatchErrors::default());
        let (observer, pod_changes, woken) =
            Observer::new(client, scope, self.asking.clone(), &watch_errors, metrics);
        observers.spawn(Arc::clone(&observer).follow(pod_changes));
        observers.spawn(Arc::clone(&observer).poll());
        let writer = Arc::new(StatusWriter::default());
        let (services, triggers) = services(client, scope, &writer, &watch_errors, metrics);
        // No debounce: it begins anew with every request, so an object that changes all the time would never be looked
        // at. The queue itself holds an object once. No bound here: `reconcile` has one that is fair.
        let controller = Controller::for_stream(triggers, services.clone())
            .with_config(Config::default().concurrency(0))
            .graceful_shutdown_on(shutdown.clone().cancelled_owned())
            .reconcile_on(woken);
        let (children, controller) = Children::watch(controller, client, scope, &watch_errors, metrics);
        let queue = Arc::clone(&observer);
        let context = Arc::new(Context {
            scope: scope.clone(),
            watches: self.operator.clients.watches.clone(),
            client: client.clone(),
            defaults: self.operator.defaults.clone(),
            children,
            watch_errors,
            observer,
            recorder: self.recorder.clone(),
            metrics: self.operator.metrics.clone(),
            signing_keys: Arc::clone(&self.signing_keys),
            rotation: self.operator.pace.signing_keys,
            backoff: Arc::clone(&self.backoff),
            toucher: Toucher::default(),
            services,
            resumed: OnceCell::new(),
            wake: Arc::new(move |key| queue.wake(key)),
            rollouts: Arc::clone(&self.rollouts),
            writer,
            permits: Arc::clone(&self.permits),
            permissions: Arc::clone(&self.permissions),
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

/// Waits until the CRD has every field of this version, and says every time what is missing and what adds it.
async fn wait_for_crd(client: &Client, readiness: &Readiness) {
    let mut pause = Duration::from_secs(1);
    loop {
        match crd_guard::look(client).await {
            Verdict::Current => break,
            Verdict::Hidden => {
                tracing::warn!(
                    "the operator may not read /openapi/v3, so it cannot know whether the CRD is of its version; going on. Fix: bind the ClusterRole system:discovery to it, as clusters do by default"
                );
                break;
            }
            Verdict::Missing => tracing::warn!(
                "the CRD chatservices.chatservice.dev is not installed; waiting. Fix: {}",
                crd_guard::fix(&this_program())
            ),
            Verdict::Outdated(fields) => tracing::warn!(
                "the CRD chatservices.chatservice.dev is older than this operator and lacks {}; waiting, because such fields would have no effect. Fix: {}",
                crd_guard::named(&fields),
                crd_guard::fix(&this_program())
            ),
            Verdict::Unknown(error) => tracing::warn!(error, "the API server cannot be reached; waiting"),
        }
        tokio::time::sleep(jittered(pause, 0.2)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    readiness.done(waits::CRD);
}

/// What runs this very program from where kubectl is.
fn this_program() -> String {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let program =
        std::env::current_exe().map_or_else(|_| "chatservice".into(), |path| path.display().to_string());
    match (variable(env::POD_NAMESPACE), variable(env::POD_NAME)) {
        (Some(namespace), Some(pod)) => format!("kubectl -n {namespace} exec {pod} -- {program}"),
        _ => program,
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
            Ok(Err(kube::Error::Api(status))) if status.is_forbidden() => tracing::warn!(
                scope = ?scope, answer = status.message, "the operator may not list ChatServices; waiting. Fix: helm upgrade the operator's chart, whose roles hold every rule it needs"
            ),
            Ok(Err(error)) => tracing::warn!(error = %error, "ChatServices cannot be listed; waiting"),
            Err(_) => tracing::warn!("the API server does not answer within 5 s; waiting"),
        }
        tokio::time::sleep(jittered(pause, 0.2)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
