//! The caches of the children: one watch a kind, metadata alone, ours alone. In: watch events. Out: what exists, for
//! `dereference` and `apply`, and a reconcile whenever a child changes.
//!
//! Metadata is enough to be woken by: every change of an object changes its `resourceVersion`, and `apply` gets the
//! whole object back.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt, future};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{self, Lookup, ObjectRef, Store};
use kube::runtime::{Controller, WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::client::WatchAnswers;
use super::error::Error;
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
pub type Cache<K> = Store<PartialObjectMeta<K>>;

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
    /// HorizontalPodAutoscalers.
    pub horizontal_pod_autoscalers: Cache<HorizontalPodAutoscaler>,
    /// NetworkPolicies.
    pub network_policies: Cache<NetworkPolicy>,
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
        let (horizontal_pod_autoscalers, controller) = owned(controller, client, scope, errors, metrics);
        let (network_policies, controller) = owned(controller, client, scope, errors, metrics);
        let children = Self {
            service_accounts,
            config_maps,
            services,
            deployments,
            pod_disruption_budgets,
            horizontal_pod_autoscalers,
            network_policies,
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
    let (store, events) =
        watch(scope.api::<PartialObjectMeta<K>>(client), K::URL_PATH_SEGMENT, ours(), strip, errors);
    let metrics = metrics.clone();
    // By label: an object that lost its owner reference would wake nobody by that.
    let controller = controller.watches_stream(events.map(Ok).touched_objects(), move |object| {
        let meta = object.metadata;
        let name = meta.labels.and_then(|mut labels| labels.remove(label::INSTANCE))?;
        let key = ObjectKey { namespace: meta.namespace?, name };
        metrics.due(&key);
        Some(ObjectRef::new(&key.name).within(&key.namespace))
    });
    (store, controller)
}

/// Nobody asks for the annotations of a child.
fn strip<K>(object: &mut PartialObjectMeta<K>) {
    object.metadata.annotations = None;
}

/// What a watch of our own objects selects.
pub(super) fn ours() -> watcher::Config {
    watcher::Config::default().labels(&watch_selector())
}

/// A watch that fills a cache, without what `strip` takes off, retries with backoff and never ends. Its errors are noted instead of handed on: in a
/// controller's queue the error of one watch would hold up all others.
pub(super) fn watch<K>(
    api: Api<K>,
    resource: &'static str,
    config: watcher::Config,
    strip: fn(&mut K),
    errors: &Arc<WatchErrors>,
) -> (Store<K>, impl Stream<Item = watcher::Event<K>> + Send + 'static + use<K>)
where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()>,
    K: Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let errors = Arc::clone(errors);
    let events = watcher(api, config)
        .default_backoff()
        .modify(move |object| {
            object.meta_mut().managed_fields = None;
            strip(object);
        })
        .reflect(writer)
        .filter_map(move |event| {
            errors.note(resource, event.as_ref().err());
            future::ready(event.ok())
        });
    (store, events)
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
pub(super) fn find<K: Child>(
    cache: &Cache<K>,
    namespace: &str,
    name: &str,
) -> Option<Arc<PartialObjectMeta<K>>> {
    cache.get(&ObjectRef::new(name).within(namespace))
}
