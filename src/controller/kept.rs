//! What a cache keeps of a child. In: its metadata. Out: the few facts that are asked for, in a quarter of the space: there are six to
//! nine children for each ChatService.

use std::borrow::Cow;
use std::marker::PhantomData;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::runtime::reflector::Lookup;

use super::ObjectKey;
use super::children::Child;
use crate::constants::label;

/// The facts of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its name.
    pub name: Box<str>,
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its uid.
    pub uid: Box<str>,
    /// Its resourceVersion.
    pub version: Box<str>,
    /// The ChatService that its labels name.
    pub instance: Option<Box<str>>,
    /// Its controller.
    pub controller: Option<Controller>,
    /// It is being deleted.
    pub is_going: bool,
}

/// Whose an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// The owner's kind.
    pub kind: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// Its uid.
    pub uid: Box<str>,
}

impl Facts {
    /// The facts in `meta`.
    #[must_use]
    pub fn of(meta: &ObjectMeta) -> Self {
        let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
        let owners = meta.owner_references.as_deref().unwrap_or_default();
        let controller = owners.iter().find(|owner| owner.controller == Some(true));
        let instance = meta.labels.as_ref().and_then(|labels| labels.get(label::INSTANCE));
        Self {
            name: text(&meta.name),
            namespace: text(&meta.namespace),
            uid: text(&meta.uid),
            version: text(&meta.resource_version),
            instance: instance.map(|name| name.as_str().into()),
            controller: controller.map(|owner| Controller {
                kind: owner.kind.as_str().into(),
                name: owner.name.as_str().into(),
                uid: owner.uid.as_str().into(),
            }),
            is_going: meta.deletion_timestamp.is_some(),
        }
    }

    /// The ChatService that it belongs to by its labels.
    #[must_use]
    pub fn service(&self) -> Option<ObjectKey> {
        let name = self.instance.as_deref()?.to_owned();
        Some(ObjectKey { namespace: self.namespace.to_string(), name })
    }

    /// Whether its controller is the object with this uid.
    #[must_use]
    pub fn is_of(&self, uid: &str) -> bool {
        self.controller.as_ref().is_some_and(|controller| *controller.uid == *uid)
    }
}

/// A child of kind `K` in a cache.
#[derive(Clone, Debug)]
pub struct Kept<K> {
    facts: Facts,
    kind: PhantomData<K>,
}

impl<K> Kept<K> {
    /// What is kept of an object with this metadata.
    #[must_use]
    pub fn of(meta: &ObjectMeta) -> Self {
        Self { facts: Facts::of(meta), kind: PhantomData }
    }
}

/// What is in the cache of a kind of child.
pub trait Cached: Lookup<DynamicType = ()> + Clone + 'static {
    /// Its facts.
    fn facts(&self) -> Cow<'_, Facts>;
}

impl<K: Child> Cached for Kept<K> {
    fn facts(&self) -> Cow<'_, Facts> {
        Cow::Borrowed(&self.facts)
    }
}

impl Cached for HorizontalPodAutoscaler {
    fn facts(&self) -> Cow<'_, Facts> {
        Cow::Owned(Facts::of(&self.metadata))
    }
}

impl<K: Child> Lookup for Kept<K> {
    type DynamicType = ();

    fn kind((): &()) -> Cow<'_, str> {
        <K as Resource>::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        <K as Resource>::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        <K as Resource>::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        <K as Resource>::plural(&())
    }

    fn name(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(&*self.facts.name))
    }

    fn namespace(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(&*self.facts.namespace))
    }

    /// None: it would only be kept twice.
    fn resource_version(&self) -> Option<Cow<'_, str>> {
        None
    }

    /// None: as above.
    fn uid(&self) -> Option<Cow<'_, str>> {
        None
    }
}
