//! The caches of the children: one watch a kind, metadata alone, ours alone, and of that what [`super::kept`] keeps. In: watch
//! events. Out: what exists, for `dereference` and `apply`, and a reconcile whenever a child changes.
//!
//! Metadata is enough to be woken by: every change of an object changes its `resourceVersion`, and `apply` gets the
//! whole object back. HorizontalPodAutoscalers are the exception: those of others count too, and they write their own status
//! every few seconds, so of each what matters here is kept, and only a change of that wakes anybody.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, Lookup, ObjectRef, Store};
use kube::runtime::{Controller, WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::apply::Deleted;
use super::autoscaling;
use super::client::WatchAnswers;
use super::error::Error;
use super::kept::{Cached, Kept};
use super::last_applied::LastApplied;
use super::metrics::ControllerMetrics;
use super::names::watch_selector;
use super::{ObjectKey, Scope, Watched};
use crate::constants::label;

/// The plural of our kind, where a watch of it is named.
pub(super) const CHATSERVICES: &str = "chatservices";

/// A kind of child.
pub trait Child:
    k8s_openapi::Resource
    + Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl Child for ServiceAccount {}
impl Child for ConfigMap {}
impl Child for Service {}
impl Child for Deployment {}
impl Child for PodDisruptionBudget {}
impl Child for HorizontalPodAutoscaler {}
impl Child for NetworkPolicy {}

/// The cache of one kind.
pub type Cache<K> = Store<Kept<K>>;

/// The caches of all kinds.
#[derive(Clone)]
pub struct Children {
    /// ServiceAccounts.
    pub service_accounts: Cache<ServiceAccount>,
    /// ConfigMaps.
    pub config_maps: Cache<ConfigMap>,
    /// Services.
    pub services: Cache<Service>,
    /// Deployments.
    pub deployments: Cache<Deployment>,
    /// PodDisruptionBudgets.
    pub pod_disruption_budgets: Cache<PodDisruptionBudget>,
    /// HorizontalPodAutoscalers, those of others too, each as [`autoscaling::prune`] leaves it.
    pub horizontal_pod_autoscalers: Store<HorizontalPodAutoscaler>,
    /// NetworkPolicies.
    pub network_policies: Cache<NetworkPolicy>,
    /// What the caches may still hold although it is gone.
    pub deleted: Arc<Deleted>,
    /// What they need not be told again.
    pub applied: Arc<LastApplied>,
}

impl Children {
    /// Lets `controller` watch every kind of child in `scope`.
    pub fn watch(
        controller: Controller<Watched>,
        client: &Client,
        scope: &Scope,
        errors: &Arc<WatchErrors>,
        metrics: &ControllerMetrics,
    ) -> (Self, Controller<Watched>) {
        let (service_accounts, controller) = owned(controller, client, scope, errors, metrics);
        let (config_maps, controller) = owned(controller, client, scope, errors, metrics);
        let (services, controller) = owned(controller, client, scope, errors, metrics);
        let (deployments, controller) = owned(controller, client, scope, errors, metrics);
        let (pod_disruption_budgets, controller) = owned(controller, client, scope, errors, metrics);
        let (horizontal_pod_autoscalers, controller) =
            autoscalers(controller, client, scope, errors, metrics);
        let (network_policies, controller) = owned(controller, client, scope, errors, metrics);
        let children = Self {
            service_accounts,
            config_maps,
            services,
            deployments,
            pod_disruption_budgets,
            horizontal_pod_autoscalers,
            network_policies,
            deleted: Arc::default(),
            applied: Arc::default(),
        };
        (children, controller)
    }

    /// Resolves when every cache holds its first complete list. Before that nothing may be called absent.
    pub async fn initialised(&self) -> bool {
        let Self {
            service_accounts,
            config_maps,
            services,
            deployments,
            pod_disruption_budgets,
            horizontal_pod_autoscalers,
            network_policies,
            deleted: _,
            applied: _,
        } = self;
        // One after the other is no slower: the watches fill them, not the waiting.
        service_accounts.wait_until_ready().await.is_ok()
            && config_maps.wait_until_ready().await.is_ok()
            && services.wait_until_ready().await.is_ok()
            && deployments.wait_until_ready().await.is_ok()
            && pod_disruption_budgets.wait_until_ready().await.is_ok()
            && horizontal_pod_autoscalers.wait_until_ready().await.is_ok()
            && network_policies.wait_until_ready().await.is_ok()
    }
}

fn owned<K: Child>(
    controller: Controller<Watched>,
    client: &Client,
    scope: &Scope,
    errors: &Arc<WatchErrors>,
    metrics: &ControllerMetrics,
) -> (Cache<K>, Controller<Watched>) {
    let all = scope.api::<PartialObjectMeta<K>>(client);
    let (store, changes) =
        watch(all, K::URL_PATH_SEGMENT, ours(), |object| Kept::<K>::of(&object.metadata), errors);
    // By label: an object that lost its owner reference would wake nobody by that.
    let whom = |change: &Change<Kept<K>>| change.object.facts().service().into_iter().collect();
    (store, wake(controller, changes, whom, metrics))
}

fn autoscalers(
    controller: Controller<Watched>,
    client: &Client,
    scope: &Scope,
    errors: &Arc<WatchErrors>,
    metrics: &ControllerMetrics,
) -> (Store<HorizontalPodAutoscaler>, Controller<Watched>) {
    let resource = <HorizontalPodAutoscaler as k8s_openapi::Resource>::URL_PATH_SEGMENT;
    let all = scope.api::<HorizontalPodAutoscaler>(client);
    let (store, changes) = watch(all, resource, watcher::Config::default(), autoscaling::prune, errors);
    (store, wake(controller, changes, concerned, metrics))
}

/// Has each change lead to a reconcile of those `whom` it concerns.
fn wake<S: 'static>(
    controller: Controller<Watched>,
    changes: impl Stream<Item = Change<S>> + Send + 'static,
    whom: fn(&Change<S>) -> BTreeSet<ObjectKey>,
    metrics: &ControllerMetrics,
) -> Controller<Watched> {
    let metrics = metrics.clone();
    controller.reconcile_on(changes.flat_map(move |change| {
        let keys = whom(&change);
        for key in &keys {
            metrics.due(key);
        }
        stream::iter(keys.into_iter().map(|key| key.reference()))
    }))
}

/// The ChatServices for which something changed by this: what an autoscaler scaled before has one less, what it scales now one
/// more. Nobody, if nothing that matters did.
fn concerned(change: &Change<HorizontalPodAutoscaler>) -> BTreeSet<ObjectKey> {
    if !change.gone && change.before.as_ref() == Some(&change.object) {
        return BTreeSet::new();
    }
    let versions = change.before.iter().chain([&change.object]);
    versions
        .flat_map(|autoscaler| [autoscaling::scaled(autoscaler), labelled(autoscaler.meta())])
        .flatten()
        .collect()
}

/// The ChatService that an object belongs to by its labels.
pub(super) fn labelled(meta: &ObjectMeta) -> Option<ObjectKey> {
    let name = meta.labels.as_ref()?.get(label::INSTANCE)?.clone();
    Some(ObjectKey { namespace: meta.namespace.clone()?, name })
}

/// What a watch of our own objects selects.
pub(super) fn ours() -> watcher::Config {
    watcher::Config::default().labels(&watch_selector())
}

/// An object of a cache that came, changed, went, or was listed anew.
pub struct Change<K> {
    /// As the cache had it before.
    pub before: Option<Arc<K>>,
    /// As it is, or as it was last.
    pub object: Arc<K>,
    /// It is not there any more.
    pub gone: bool,
}

/// A watch that fills a cache with what `keep` makes of each object, retries with backoff and never ends. Its errors are noted
/// instead of handed on: in a controller's queue the error of one watch would hold up all others.
///
/// What went while the watch was away is told of too, when everything is listed anew.
pub(super) fn watch<K, S>(
    api: Api<K>,
    resource: &'static str,
    config: watcher::Config,
    keep: fn(K) -> S,
    errors: &Arc<WatchErrors>,
) -> (Store<S>, impl Stream<Item = Change<S>> + Send + 'static + use<K, S>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    S: Lookup<DynamicType = ()> + Clone + Send + Sync + 'static,
{
    let (store, mut writer) = reflector::store();
    let errors = Arc::clone(errors);
    let cache = store.clone();
    let changes = watcher(api, config).default_backoff().flat_map(move |event| {
        errors.note(resource, event.as_ref().err());
        let changes = event.map(|event| follow(&cache, &mut writer, &kept(event, keep)));
        stream::iter(changes.unwrap_or_default())
    });
    (store, changes)
}

fn kept<K, S>(event: watcher::Event<K>, keep: fn(K) -> S) -> watcher::Event<S> {
    match event {
        watcher::Event::Apply(object) => watcher::Event::Apply(keep(object)),
        watcher::Event::Delete(object) => watcher::Event::Delete(keep(object)),
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitApply(object) => watcher::Event::InitApply(keep(object)),
        watcher::Event::InitDone => watcher::Event::InitDone,
    }
}

/// Takes an event into the cache. What changed by it.
fn follow<K>(cache: &Store<K>, writer: &mut Writer<K>, event: &watcher::Event<K>) -> Vec<Change<K>>
where
    K: Lookup<DynamicType = ()> + Clone + 'static,
{
    match event {
        watcher::Event::Init | watcher::Event::InitApply(_) => {
            writer.apply_watcher_event(event);
            Vec::new()
        }
        watcher::Event::Apply(object) => {
            let reference = object.to_object_ref(());
            let before = cache.get(&reference);
            writer.apply_watcher_event(event);
            let now = cache.get(&reference);
            now.map(|object| Change { before, object, gone: false }).into_iter().collect()
        }
        watcher::Event::Delete(object) => {
            let before = cache.get(&object.to_object_ref(()));
            writer.apply_watcher_event(event);
            vec![Change { before, object: Arc::new(object.clone()), gone: true }]
        }
        watcher::Event::InitDone => {
            let before = cache.state().into_iter().map(|object| (object.to_object_ref(()), object));
            let mut before: HashMap<_, _> = before.collect();
            writer.apply_watcher_event(event);
            let listed = cache.state().into_iter().map(|object| {
                let before = before.remove(&object.to_object_ref(()));
                Change { before, object, gone: false }
            });
            let mut changes: Vec<_> = listed.collect();
            changes.extend(before.into_values().map(|object| Change { before: None, object, gone: true }));
            changes
        }
    }
}

/// Why watches fail, by resource; empty while all of them run.
#[derive(Debug, Default)]
pub struct WatchErrors(Mutex<BTreeMap<&'static str, Trouble>>);

#[derive(Clone, Debug)]
struct Trouble {
    forbidden: bool,
    message: String,
}

impl Trouble {
    fn of(&self, resource: &'static str) -> Error {
        Error::Watch { resource, forbidden: self.forbidden, message: self.message.clone() }
    }
}

impl WatchErrors {
    fn note(&self, resource: &'static str, error: Option<&watcher::Error>) {
        let mut troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(error) = error else {
            if troubles.remove(resource).is_some() {
                tracing::info!(resource, "the watch runs again");
            }
            return;
        };
        let trouble = Trouble { forbidden: is_forbidden(error), message: error.to_string() };
        if troubles.insert(resource, trouble).is_none() {
            tracing::warn!(resource, error = %error, "the watch fails and is tried again");
        }
    }

    /// A watch of something of ours that is not allowed any more, so that its cache falls behind. A watch that runs again
    /// says so only with its next event; `answers` know it at once.
    pub fn refused(&self, answers: &WatchAnswers, scope: &Scope) -> Option<Error> {
        let troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut forbidden = troubles
            .iter()
            .filter(|&(&resource, trouble)| trouble.forbidden && resource != CHATSERVICES)
            .filter(|(resource, _)| answers.refused(resource, scope));
        forbidden.next().map(|(resource, trouble)| trouble.of(resource))
    }

    /// What to say while the caches are not filled: a missing permission first.
    pub fn why_not_initialised(&self) -> Error {
        let troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match troubles.iter().max_by_key(|(_, trouble)| trouble.forbidden) {
            Some((resource, trouble)) => trouble.of(resource),
            None => {
                Error::Watch { resource: "children", forbidden: false, message: "no answer yet".to_owned() }
            }
        }
    }
}

fn is_forbidden(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status.is_forbidden(),
        _ => false,
    }
}

/// The object of a cache by namespace and name.
pub(super) fn find<S>(cache: &Store<S>, namespace: &str, name: &str) -> Option<Arc<S>>
where
    S: Lookup<DynamicType = ()> + Clone + 'static,
{
    cache.get(&ObjectRef::new(name).within(namespace))
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde_json::{Value, json};

    use super::*;

    fn autoscaler(name: &str, target: &str, status: &Value) -> HorizontalPodAutoscaler {
        let object: HorizontalPodAutoscaler = serde_json::from_value(json!({
            "metadata": { "namespace": "chat", "name": name, "resourceVersion": "7" },
            "spec": { "maxReplicas": 3, "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": target } },
            "status": status,
        }))
        .unwrap();
        autoscaling::prune(object)
    }

    /// The names of those whom events wake, each time.
    fn woken(events: &[Event<HorizontalPodAutoscaler>]) -> Vec<Vec<String>> {
        let (cache, mut writer) = reflector::store();
        let wakes = events.iter().map(|event| {
            let changes = follow(&cache, &mut writer, event);
            let mut names: Vec<_> = changes.iter().flat_map(concerned).map(|key| key.name).collect();
            names.sort();
            names
        });
        wakes.collect()
    }

    #[test]
    fn an_autoscaler_wakes_whom_it_scales_when_something_that_matters_changes() {
        let seen = |cpu: i32, reason: &str| {
            json!({
                "currentReplicas": cpu, "desiredReplicas": 2, "lastScaleTime": format!("2026-01-01T00:00:{cpu:02}Z"),
                "conditions": [{ "type": "ScalingActive", "status": "False", "reason": reason, "message": "m",
                    "lastTransitionTime": format!("2026-01-01T00:00:{cpu:02}Z") }],
            })
        };
        let apply = |target: &str, status: &Value| Event::Apply(autoscaler("rival", target, status));
        let wakes = woken(&[
            Event::Init,
            Event::InitApply(autoscaler("rival", "a", &seen(1, "FailedGetScale"))),
            Event::InitDone,
            apply("a", &seen(2, "FailedGetScale")),
            apply("a", &seen(2, "Other")),
            apply("b", &seen(2, "Other")),
            Event::Delete(autoscaler("rival", "b", &seen(3, "Other"))),
        ]);
        let expected: [&[&str]; 7] = [&[], &[], &["a"], &[], &["a"], &["a", "b"], &["b"]];
        assert_eq!(wakes, expected);
    }

    #[test]
    fn what_went_while_the_watch_was_away_is_told_of_when_all_is_listed_anew() {
        let object = |name: &str| autoscaler(name, name, &Value::Null);
        let wakes = woken(&[
            Event::Init,
            Event::InitApply(object("stays")),
            Event::InitApply(object("goes")),
            Event::InitDone,
            Event::Init,
            Event::InitApply(object("stays")),
            Event::InitApply(object("comes")),
            Event::InitDone,
        ]);
        assert_eq!(wakes[3], ["goes", "stays"]);
        assert_eq!(wakes[7], ["comes", "goes"]);
    }
}
