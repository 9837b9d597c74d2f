//! Step 1: the only step that reads other objects before deciding. In: a ChatService and the caches of its children and of
//! autoscalers.
//! Out: for each child's name, whether it is free, ours, or somebody else's; who else sets the number of pods; the
//! Deployment, where its image may be an older default; and the keys of ServiceAccount tokens, where they are accepted.
//!
//! A child that the cache does not hold is read live: an object without our labels is not in the cache, and a forced
//! apply would adopt it, after which garbage collection could delete it.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::reflector::Store;
use kube::{Api, Client, Resource};

use super::autoscaling::Autoscalers;
use super::build::pod_disruption_budget;
use super::children::{Child, Children, find};
use super::error::Error;
use super::image::Defaults;
use super::kept::{Cached, Facts};
use super::names::ServiceName;
use super::signing_keys::SigningKeys;
use crate::constants::{condition, mount, reason};
use crate::crd::{ChatService, ChatServiceStatus};
use crate::server::config::{ServerConfig, TokenIssuer};

/// A child by kind and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChildKey {
    /// Its kind.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
}

impl ChildKey {
    /// The key of a child of kind `K`.
    pub(super) fn of<K: Child>(name: &str) -> Self {
        Self { kind: K::KIND, name: name.to_owned() }
    }
}

/// Who has the name of a child now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody: the first apply is made without force.
    Nobody,
    /// We: later applies take back what others changed.
    Us(Ours),
    /// An object that is not ours, and whose it is.
    Foreign(String),
}

/// An object of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ours {
    /// Its uid, so that an apply cannot hit another one.
    pub uid: String,
    /// Its resourceVersion.
    pub version: String,
}

/// What was read before deciding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct References {
    holders: BTreeMap<ChildKey, Holder>,
    /// The HorizontalPodAutoscalers that set its number of pods.
    pub autoscalers: Autoscalers,
    /// The pods that the status counted last.
    pub(super) pods_before: i32,
    /// The Deployment as it is, where its pods may have an image that was the default before.
    pub(super) outdated: Option<Box<Deployment>>,
    token_issuer: Option<TokenIssuer>,
}

/// A foreign object in the place of a child.
#[derive(Debug)]
pub struct Foreign<'a> {
    /// The child's kind and name.
    pub key: &'a ChildKey,
    /// Whose it is.
    pub owner: &'a str,
}

impl fmt::Display for Foreign<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key: ChildKey { kind, name }, owner } = self;
        write!(
            f,
            "{kind} \"{name}\" already exists and belongs to {owner}: it is left alone. Fix: delete or rename it, or give the ChatService another name"
        )
    }
}

impl References {
    /// Records who has a name.
    pub fn insert(&mut self, key: ChildKey, holder: Holder) {
        self.holders.insert(key, holder);
    }

    /// Who makes the tokens of ServiceAccounts in this cluster.
    pub(super) fn token_issuer(&self) -> Option<&TokenIssuer> {
        self.token_issuer.as_ref()
    }

    /// A child that is known to be ours.
    pub(super) fn ours(&self, key: &ChildKey) -> Option<&Ours> {
        match self.holders.get(key)? {
            Holder::Us(ours) => Some(ours),
            Holder::Nobody | Holder::Foreign(_) => None,
        }
    }

    /// The foreign objects, sorted by kind and name.
    pub fn foreign(&self) -> impl Iterator<Item = Foreign<'_>> {
        self.holders.iter().filter_map(|(key, holder)| match holder {
            Holder::Foreign(owner) => Some(Foreign { key, owner }),
            Holder::Nobody | Holder::Us(_) => None,
        })
    }
}

/// Finds out who has the names of the children of `cs`, whether its pods have the default image of another operator, and who
/// makes the tokens that it accepts. `previous` is the status that was written last, which the one in `cs` may be older than.
///
/// # Errors
/// A live read that the API server refused or did not answer.
pub async fn dereference(
    client: &Client,
    children: &Children,
    signing_keys: &SigningKeys,
    cs: &ChatService,
    previous: &ChatServiceStatus,
    defaults: &Defaults,
) -> Result<References, Error> {
    let meta = cs.meta();
    let name = meta.name.as_deref().and_then(ServiceName::new);
    let (Some(name), Some(namespace), Some(uid)) = (name, &meta.namespace, &meta.uid) else {
        // `validate` says what is wrong with the name.
        return Ok(References::default());
    };
    let references = References { pods_before: previous.replicas.unwrap_or(0), ..References::default() };
    let mut reader = Reader { client, namespace, uid, previous, references };
    reader.read::<ServiceAccount, _>(&children.service_accounts, name.as_str()).await?;
    reader.read::<ConfigMap, _>(&children.config_maps, &name.config()).await?;
    reader.read::<ConfigMap, _>(&children.config_maps, &name.connection()).await?;
    reader.read::<Service, _>(&children.services, name.as_str()).await?;
    reader.read::<Service, _>(&children.services, &name.admin()).await?;
    reader.read::<Deployment, _>(&children.deployments, name.as_str()).await?;
    let autoscaling = cs.spec.autoscaling.as_ref();
    if pod_disruption_budget::wanted(autoscaling.map_or(cs.spec.replicas, |given| given.max_replicas)) {
        reader.read::<PodDisruptionBudget, _>(&children.pod_disruption_budgets, name.as_str()).await?;
    }
    if autoscaling.is_some() {
        let cache = &children.horizontal_pod_autoscalers;
        reader.read::<HorizontalPodAutoscaler, _>(cache, name.as_str()).await?;
    }
    if cs.spec.network_policy.as_ref().is_some_and(|rules| rules.enabled) {
        reader.read::<NetworkPolicy, _>(&children.network_policies, name.as_str()).await?;
    }
    reader.read_autoscalers(cs, &children.horizontal_pod_autoscalers, name.as_str()).await?;
    reader.read_outdated(cs, name.as_str(), defaults).await?;
    if cs.spec.auth.as_ref().is_some_and(|auth| auth.service_accounts.is_some()) {
        let issuer = match signing_keys.current().await {
            Ok(issuer) => Some(TokenIssuer::clone(&issuer)),
            // An operator that has just started must not take away what its predecessor had read.
            Err(error) => Some(reader.applied_issuer(&name.config()).await?.ok_or(error)?),
        };
        reader.references.token_issuer = issuer;
    }
    Ok(reader.references)
}

/// The image of the pods that a Deployment makes.
pub(super) fn template_image(deployment: &Deployment) -> Option<&str> {
    deployment.spec.template.spec.as_ref()?.containers.first()?.image.as_deref()
}

struct Reader<'a> {
    client: &'a Client,
    namespace: &'a str,
    uid: &'a str,
    previous: &'a ChatServiceStatus,
    references: References,
}

impl Reader<'_> {
    /// Who makes tokens, as the servers were last told.
    async fn applied_issuer(&self, config: &str) -> Result<Option<TokenIssuer>, Error> {
        if self.references.ours(&ChildKey::of::<ConfigMap>(config)).is_none() {
            return Ok(None);
        }
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), self.namespace);
        let map = api.get_opt(config).await;
        let map = map.map_err(|source| Error::request::<ConfigMap>("get", self.namespace, config, source))?;
        let file = map.and_then(|map| map.data?.remove(mount::CONFIG_FILE));
        let config = file.and_then(|text| serde_json::from_str::<ServerConfig>(&text).ok());
        Ok(config.and_then(|config| config.dynamic.auth?.service_accounts?.issuer))
    }

    /// Finds out who has the name of a child of kind `K`, of which the cache holds `S`.
    async fn read<K, S>(&mut self, cache: &Store<S>, name: &str) -> Result<(), Error>
    where
        K: Child,
        S: Cached,
    {
        let cached = find(cache, self.namespace, name).map(|object| holder(self.uid, &object.facts()));
        let holder = match cached {
            Some(ours @ Holder::Us(_)) => ours,
            Some(_) | None => self.read_live::<K>(name).await?,
        };
        self.references.insert(ChildKey::of::<K>(name), holder);
        Ok(())
    }

    async fn read_live<K: Child>(&self, name: &str) -> Result<Holder, Error> {
        let api: Api<K> = Api::namespaced(self.client.clone(), self.namespace);
        let live = api.get_metadata_opt(name).await;
        let live = live.map_err(|source| Error::request::<K>("get", self.namespace, name, source))?;
        Ok(live.map_or(Holder::Nobody, |object| holder(self.uid, &Facts::of(object.meta()))))
    }

    /// Who sets the number of pods. Ours must be gone before a fixed number is written, and one that was made a moment ago may
    /// not be in the cache yet: where the status speaks of it, it is looked for.
    async fn read_autoscalers(
        &mut self,
        cs: &ChatService,
        cache: &Store<HorizontalPodAutoscaler>,
        name: &str,
    ) -> Result<(), Error> {
        let namespace = self.namespace;
        let all =
            cache.state_filter(|autoscaler| autoscaler.metadata.namespace.as_deref() == Some(namespace));
        let mut found = Autoscalers::among(all.iter().map(AsRef::as_ref), name, self.uid);
        let mut conditions = self.previous.conditions.iter();
        let is_scaled =
            |c: &Condition| c.type_ == condition::AUTOSCALING_READY && c.reason != reason::DISABLED;
        if cs.spec.autoscaling.is_none()
            && found.ours.is_empty()
            && conditions.any(is_scaled)
            && let Holder::Us(Ours { uid, .. }) = self.read_live::<HorizontalPodAutoscaler>(name).await?
        {
            found.ours.push((name.to_owned(), uid));
        }
        self.references.autoscalers = found;
        Ok(())
    }

    /// The cache holds metadata alone, so this is a read; the status has the image that was seen last and spares it.
    async fn read_outdated(
        &mut self,
        cs: &ChatService,
        name: &str,
        defaults: &Defaults,
    ) -> Result<(), Error> {
        let named = cs.spec.image.as_ref().is_some_and(|image| !image.is_empty());
        let seen = self.previous.image.as_deref();
        let ours = self.references.ours(&ChildKey::of::<Deployment>(name)).is_some();
        if named || !ours || seen == Some(defaults.server_image.as_str()) {
            return Ok(());
        }
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), self.namespace);
        let live = api.get_opt(name).await;
        let live =
            live.map_err(|source| Error::request::<Deployment>("get", self.namespace, name, source))?;
        self.references.outdated = live
            .filter(|deployment| template_image(deployment) != Some(defaults.server_image.as_str()))
            .map(Box::new);
        Ok(())
    }
}

/// Whether an object is ours: its controller is the ChatService with `uid`.
fn holder(uid: &str, facts: &Facts) -> Holder {
    match &facts.controller {
        _ if facts.is_of(uid) => {
            Holder::Us(Ours { uid: facts.uid.to_string(), version: facts.version.to_string() })
        }
        Some(owner) => Holder::Foreign(format!("{} \"{}\" (uid {})", owner.kind, owner.name, owner.uid)),
        None => Holder::Foreign("nobody (it has no controller)".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

    use super::*;

    fn owned_by(uid: &str, controller: Option<bool>) -> ObjectMeta {
        let owner = OwnerReference {
            api_version: "chatservice.dev/v1alpha1".into(),
            kind: "ChatService".into(),
            name: "demo".into(),
            uid: uid.into(),
            controller,
            ..OwnerReference::default()
        };
        ObjectMeta {
            uid: Some("child-1".into()),
            resource_version: Some("7".into()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn only_the_controller_with_our_uid_makes_an_object_ours() {
        let holder = |meta: &ObjectMeta| super::holder("u-1", &Facts::of(meta));
        let ours = Ours { uid: "child-1".into(), version: "7".into() };
        assert_eq!(holder(&owned_by("u-1", Some(true))), Holder::Us(ours));
        for meta in [owned_by("u-2", Some(true)), owned_by("u-1", None), ObjectMeta::default()] {
            assert!(matches!(holder(&meta), Holder::Foreign(_)), "{meta:?}");
        }
    }
}
