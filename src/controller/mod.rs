//! CONTROL PLANE: the operator. In: ChatServices. Out: their children, their status.
//!
//! The files in the order in which they run: [`dereference`] reads what must be known, [`validate`] decides, [`build`]
//! makes the objects, [`apply`] writes them, [`observe`] knows the pods, [`mod@touch`] brings them what was written, [`status`] says
//! what is, [`record`] writes it.

pub mod apply;
pub mod autoscaling;
pub mod backoff;
pub mod build;
mod callers;
mod check;
pub mod children;
pub mod client;
mod configure;
pub mod crd_guard;
pub mod dereference;
pub mod error;
mod events;
pub mod image;
pub mod kept;
pub mod last_applied;
pub mod metrics;
mod models;
pub mod names;
pub mod observe;
mod permissions;
pub mod pods;
mod probe;
pub mod rbac;
pub mod record;
pub mod request;
pub mod rollouts;
mod run;
pub mod seen_pod;
mod services;
pub mod signing_keys;
pub mod status;
pub mod touch;
pub mod validate;
pub mod workload;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::jiff::Timestamp;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{self, Action};
use kube::runtime::events::Recorder;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use serde_json::Value;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::Instant;

use crate::constants::{annotation, readiness, reason};
use crate::crd::{ChatService, ChatServiceStatus};
use apply::ApplyError;
use backoff::{Backoff, jittered};
use check::invalid;
use children::{Children, WatchErrors};
use client::WatchAnswers;
use dereference::References;
pub use error::Error;
pub use image::Defaults;
use metrics::ControllerMetrics;
use observe::Observer;
use permissions::Permissions;
use pods::Observed;
pub use rbac::RULES;
use record::StatusWriter;
use rollouts::{Rollouts, Wake};
pub use run::{ControllerOptions, Operator, WAITS_FOR, run};
use signing_keys::SigningKeys;
use status::{Outcome, Subject};
use touch::Toucher;
pub use validate::Problem;

/// What the main watch yields: one object that cannot be read must not stop the others.
pub type Watched = DeserializeGuard<ChatService>;

/// For a whole reconcile: a request that hangs would otherwise park its object for ever.
const DEADLINE: Duration = Duration::from_secs(30);
/// Part of it, for the first lists.
const INITIALISE: Duration = Duration::from_secs(10);
/// After somebody else wrote at the same time.
const AFTER_CONFLICT: Duration = Duration::from_secs(1);
/// How soon a name that was taken is looked at again: nothing watches foreign objects.
const FOREIGN: Duration = Duration::from_secs(20);
/// How soon everything is looked at again, ± a third: five to ten minutes.
const SLOW: Duration = Duration::from_secs(450);

/// A ChatService by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectKey {
    fn of(object: &impl Resource) -> Self {
        let meta = object.meta();
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }

    /// As the controller's queue names it.
    fn reference(&self) -> ObjectRef<Watched> {
        ObjectRef::new(&self.name).within(&self.namespace)
    }
}

/// Which part of the cluster one set of watches covers.
#[derive(Clone, Debug)]
pub enum Scope {
    /// All namespaces.
    Cluster,
    /// One.
    Namespace(String),
}

impl Scope {
    /// The namespace, where it is one.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::Cluster => None,
            Self::Namespace(namespace) => Some(namespace),
        }
    }

    fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match self {
            Self::Cluster => Api::all(client.clone()),
            Self::Namespace(namespace) => Api::namespaced(client.clone(), namespace),
        }
    }
}

/// What a reconcile works with; one for each [`Scope`].
pub struct Context {
    scope: Scope,
    client: Client,
    watches: WatchAnswers,
    defaults: Defaults,
    children: Children,
    watch_errors: Arc<WatchErrors>,
    observer: Arc<Observer>,
    recorder: Recorder,
    metrics: ControllerMetrics,
    signing_keys: Arc<SigningKeys>,
    /// How soon they are looked at again for a ChatService that needs them.
    rotation: Duration,
    backoff: Arc<Backoff>,
    toucher: Toucher,
    writer: Arc<StatusWriter>,
    /// All ChatServices of the scope.
    services: Store<Watched>,
    /// Has the rollouts that an earlier process began been counted?
    resumed: OnceCell<()>,
    wake: Wake,
    /// Shared by all scopes, like what follows.
    rollouts: Arc<Rollouts>,
    permits: Arc<Semaphore>,
    permissions: Arc<Permissions>,
}

impl Context {
    async fn initialised(&self) -> Result<(), Error> {
        let filled = async { self.children.initialised().await && self.observer.initialised().await };
        match tokio::time::timeout(INITIALISE, filled).await {
            Ok(true) => self.watch_errors.refused(&self.watches, &self.scope).map_or(Ok(()), Err),
            Ok(false) | Err(_) => Err(self.watch_errors.why_not_initialised()),
        }
    }

    /// Whether it is the turn of a ChatService whose pods have an older default image.
    async fn may_roll_out(&self, key: &ObjectKey) -> bool {
        let resume = async || {
            for service in self.services.state() {
                if service.0.as_ref().is_ok_and(|cs| status::was_rolling_out(cs, &self.defaults)) {
                    self.rollouts.resume(ObjectKey::of(service.as_ref()));
                }
            }
        };
        self.resumed.get_or_init(resume).await;
        self.rollouts.enter(key, &self.wake)
    }

    /// Gives the place back when the rollout is over. What only fails for a moment keeps it.
    fn end_rollout(&self, key: &ObjectKey, outcome: &Outcome) {
        let goes_on = match outcome {
            Outcome::Applied(applied) => {
                let (service, resources) = applied.as_ref();
                let image = dereference::template_image(&resources.deployment);
                image != Some(service.image.as_str()) || status::rolls_out(service, resources)
            }
            Outcome::Failed(error) => error.condition().is_none(),
            Outcome::Paused | Outcome::Refused(_) => false,
        };
        if !goes_on {
            self.rollouts.leave(key);
        }
    }

    fn forget(&self, key: &ObjectKey) {
        self.observer.forget(key);
        self.backoff.reset(key);
        self.metrics.in_backoff(self.backoff.waiting());
        self.metrics.forget(key);
        self.writer.forget(key);
        self.children.applied.forget(key);
        self.toucher.forget(key);
        self.rollouts.leave(key);
        self.permissions.forget(key);
    }
}

/// One ChatService, once, when it is its turn and within the deadline. Few run at a time and the others wait here, in the order
/// in which they came: kube's own bound takes the next out of a hash set, where some would wait for ever on a busy operator.
#[tracing::instrument(skip_all, fields(namespace, name, generation))]
async fn reconcile(queued: Arc<Watched>, ctx: Arc<Context>) -> Result<Action, Error> {
    let key = ObjectKey::of(queued.as_ref());
    drop(queued);
    let span = tracing::Span::current();
    span.record("namespace", &key.namespace).record("name", &key.name);
    // Closed: the operator ends, and its next start takes everything up again.
    let Ok(_permit) = ctx.permits.acquire().await else { return Ok(Action::await_change()) };
    // As it is now, not as it was when it began to wait.
    let Some(watched) = ctx.services.get(&key.reference()) else {
        ctx.forget(&key);
        return Ok(Action::await_change());
    };
    span.record("generation", watched.meta().generation);
    ctx.metrics.begun(&key);
    let start = Instant::now();
    // Boxed, so that those that wait are small.
    let result = tokio::time::timeout(DEADLINE, Box::pin(pipeline(&watched, &key, &ctx))).await;
    let result = result.unwrap_or(Err(Error::Deadline(DEADLINE.as_secs())));
    if result.is_ok() {
        ctx.backoff.reset(&key);
        ctx.metrics.in_backoff(ctx.backoff.waiting());
    }
    ctx.metrics.reconciled(start.elapsed(), result.as_ref().err());
    result
}

async fn pipeline(watched: &Watched, key: &ObjectKey, ctx: &Context) -> Result<Action, Error> {
    // Its children go with it; writing them again would only fail, or make them anew under foreground deletion.
    if watched.meta().deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let subject = subject(watched, key, ctx).await?;
    let outcome = match &watched.0 {
        Ok(cs) => converge(cs, &subject.previous, ctx).await,
        Err(unreadable) => {
            Outcome::Refused(vec![invalid("", format!("the object cannot be read: {}", unreadable.error))])
        }
    };
    if let Outcome::Failed(error) = &outcome
        && error.is_namespace_terminating()
    {
        tracing::debug!("the namespace is being deleted");
        return Ok(Action::await_change());
    }
    ctx.end_rollout(key, &outcome);
    let observed = ctx.observer.of(key);
    let (outcome, again) = touch(outcome, key, observed.as_ref(), ctx).await;
    let status = status::from(&subject, &outcome, observed.as_ref(), Timestamp::now());
    ctx.observer.settle(key, status::settled(&status, observed.as_ref()));
    let written = ctx.writer.write(&ctx.client, key, &subject, &status).await;
    let refused = written.as_ref().is_err_and(Error::is_forbidden);
    ctx.permissions.note(readiness::STATUS_PERMISSION, key, refused);
    written?;
    if let Some(now) = ctx.services.get(&key.reference()) {
        ctx.writer.caught_up(key, now.meta());
    }
    announce(watched, key, &subject.previous, &status, ctx).await;
    next(outcome, again, ctx.rotation)
}

/// The steps from reading to writing. What stops them is an outcome too, because the status must say it.
async fn converge(cs: &ChatService, previous: &ChatServiceStatus, ctx: &Context) -> Outcome {
    let paused = cs.meta().annotations.as_ref().and_then(|all| all.get(annotation::PAUSED));
    if paused.is_some_and(|value| value == "true") {
        return Outcome::Paused;
    }
    if let Err(error) = ctx.initialised().await {
        return Outcome::Failed(error);
    }
    let Context { client, children, signing_keys, defaults, .. } = ctx;
    let references = dereference::dereference(client, children, signing_keys, cs, previous, defaults).await;
    let mut references = match references {
        Ok(references) => references,
        Err(error) => return Outcome::Failed(error),
    };
    let service = match validate::validate(cs, &references, defaults) {
        Ok(service) => service,
        Err(problems) => return Outcome::Refused(problems),
    };
    if references.outdated.is_some() && ctx.may_roll_out(&ObjectKey::of(cs)).await {
        references.outdated = None;
    }
    let prepared = build::build(&service);
    let applying = apply::apply(client, children, &service, prepared, &references);
    // Boxed, because it holds every child twice: as built and as answered.
    match Box::pin(applying).await {
        Ok(applied) => Outcome::Applied(Box::new((service, applied))),
        Err(ApplyError::Refused(problem)) => Outcome::Refused(vec![problem]),
        Err(ApplyError::Failed(error)) => Outcome::Failed(error),
    }
}

/// Lets nodes bring what was written to pods that lack it. When that has to be looked at again.
async fn touch(
    outcome: Outcome,
    key: &ObjectKey,
    observed: Option<&Observed>,
    ctx: &Context,
) -> (Outcome, Option<Duration>) {
    let (Outcome::Applied(applied), Some(observed)) = (&outcome, observed) else { return (outcome, None) };
    let config = &applied.0.config;
    let touched = |pod: &str| ctx.observer.touched(&key.namespace, pod);
    match ctx.toucher.touch(&ctx.client, key, config, observed, touched).await {
        Ok(again) => (outcome, again),
        Err(error) => (Outcome::Failed(error), None),
    }
}

async fn subject(watched: &Watched, key: &ObjectKey, ctx: &Context) -> Result<Subject, Error> {
    let meta = watched.meta();
    let (wanted, cached) = match &watched.0 {
        // With an autoscaler the Deployment alone says how many.
        Ok(cs) => {
            (cs.spec.autoscaling.is_none().then_some(cs.spec.replicas), cs.status.clone().unwrap_or_default())
        }
        Err(_) => (None, record::previous_of_unreadable(&ctx.client, key).await?),
    };
    Ok(Subject {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        uid: meta.uid.clone(),
        generation: meta.generation.unwrap_or(0),
        wanted,
        previous: ctx.writer.current(key, meta, cached),
    })
}

/// Tells metrics, log and events of a status.
async fn announce(
    watched: &Watched,
    key: &ObjectKey,
    previous: &ChatServiceStatus,
    status: &ChatServiceStatus,
    ctx: &Context,
) {
    ctx.metrics.object(key, status);
    let refused =
        events::publish(&ctx.recorder, &watched.object_ref(&()), &previous.conditions, &status.conditions)
            .await;
    if let Some(refused) = refused {
        ctx.permissions.note(readiness::EVENTS_PERMISSION, key, refused);
    }
}

/// When to look again if nothing changes; `again` at the latest. `rotation` is for those that check tokens.
fn next(outcome: Outcome, again: Option<Duration>, rotation: Duration) -> Result<Action, Error> {
    let slow = jittered(if checks_tokens(&outcome) { rotation.min(SLOW) } else { SLOW }, 1.0 / 3.0);
    match outcome {
        Outcome::Failed(error) => Err(error),
        Outcome::Refused(problems) if problems.iter().any(|problem| problem.reason == reason::NAME_TAKEN) => {
            Ok(Action::requeue(jittered(FOREIGN, 1.0 / 3.0)))
        }
        Outcome::Paused | Outcome::Refused(_) | Outcome::Applied(_) => {
            Ok(Action::requeue(again.map_or(slow, |again| again.min(slow))))
        }
    }
}

/// Whether servers check tokens of ServiceAccounts, and so have to be told of new keys.
fn checks_tokens(outcome: &Outcome) -> bool {
    let Outcome::Applied(applied) = outcome else { return false };
    applied.0.config.dynamic.auth.as_ref().is_some_and(|auth| auth.service_accounts.is_some())
}

/// When to try again after a failure.
#[expect(clippy::needless_pass_by_value, reason = "kube's signature")]
fn error_policy(watched: Arc<Watched>, error: &Error, ctx: Arc<Context>) -> Action {
    let delay = ctx.backoff.failed(&ObjectKey::of(watched.as_ref()));
    ctx.metrics.in_backoff(ctx.backoff.waiting());
    Action::requeue(if error.is_conflict() { AFTER_CONFLICT } else { delay })
}

/// The one place that logs what came of a reconcile.
fn report(
    result: Result<(ObjectRef<Watched>, Action), controller::Error<Error, watcher::Error>>,
    ctx: &Context,
) {
    match result {
        Ok((object, _)) => tracing::debug!(object = %object, "reconciled"),
        // A child's last event comes after its owner is gone.
        Err(controller::Error::ObjectNotFound(object)) => {
            ctx.forget(&ObjectKey {
                namespace: object.namespace.clone().unwrap_or_default(),
                name: object.name.clone(),
            });
        }
        Err(controller::Error::ReconcilerFailed(error, object)) if error.is_conflict() => {
            tracing::debug!(object = %object, error = %error, "somebody else wrote at the same time");
        }
        Err(controller::Error::ReconcilerFailed(error, object)) => {
            tracing::warn!(object = %object, reason = error.reason(), error = %error, "the reconcile failed and is tried again");
        }
        Err(controller::Error::QueueError(error)) => {
            tracing::warn!(error = %error, "the watch of ChatServices fails and is tried again");
        }
        Err(controller::Error::RunnerError(error)) => {
            tracing::error!(error = %error, "the controller's queue failed");
        }
    }
}

/// The objects that the operator would apply for a ChatService, in its order, with the number of pods in the
/// Deployment. Without a uid (a file that no API server has seen) they have no owner reference.
///
/// # Errors
/// Every problem of the spec.
pub fn render(cs: &ChatService, defaults: &Defaults) -> Result<Vec<Value>, Vec<Problem>> {
    let service = validate::validate(cs, &References::default(), defaults)?;
    Ok(build::build(&service).to_values())
}
