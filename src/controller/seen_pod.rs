//! What the cache keeps of a pod. In: a pod as the watch tells of it. Out: what is asked of it, in a sixth of the space.

use std::borrow::Cow;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use kube::runtime::reflector::Lookup;

use super::ObjectKey;
use super::build::CONTAINER;
use super::children::labelled;
use super::pods::{PodView, counts, view};
use crate::constants::annotation;

/// A pod of ours.
#[derive(Clone, Debug, Default)]
pub struct SeenPod {
    /// Its ChatService, by its labels.
    pub service: Option<ObjectKey>,
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its uid.
    pub uid: Box<str>,
    /// Its uid and the restarts of its server: what a server said before it was started again is no word of the new one.
    pub process: Box<str>,
    /// Whether it [`counts`].
    pub counts: bool,
    /// Its containers were started, and it is not being deleted.
    pub runs: bool,
    /// Its address, once it has one.
    pub address: Option<IpAddr>,
    /// What was written last to let its node look at its mounts.
    pub touched: Option<Box<str>>,
    /// What it shows, without what its server says.
    pub view: PodView,
}

impl SeenPod {
    /// What is kept of `pod`.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let (meta, status) = (&pod.metadata, pod.status.as_ref());
        let uid = meta.uid.as_deref().unwrap_or_default();
        let containers = status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let restarts: i32 = containers
            .filter(|container| container.name == CONTAINER)
            .map(|server| server.restart_count)
            .sum();
        let runs = status.is_some_and(|status| status.phase.as_deref() == Some("Running"));
        let touched = meta.annotations.as_ref().and_then(|all| all.get(annotation::TOUCHED));
        Self {
            service: labelled(meta),
            namespace: meta.namespace.as_deref().unwrap_or_default().into(),
            uid: uid.into(),
            process: format!("{uid}/{restarts}").into(),
            counts: counts(pod),
            runs: runs && meta.deletion_timestamp.is_none(),
            address: status.and_then(|status| status.pod_ip.as_ref()?.parse().ok()),
            touched: touched.map(|value| value.as_str().into()),
            view: view(pod),
        }
    }
}

impl Lookup for SeenPod {
    type DynamicType = ();

    fn kind((): &()) -> Cow<'_, str> {
        <Pod as Resource>::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        <Pod as Resource>::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        <Pod as Resource>::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        <Pod as Resource>::plural(&())
    }

    fn name(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(&self.view.name))
    }

    fn namespace(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(&*self.namespace))
    }

    /// None: nobody asks for it.
    fn resource_version(&self) -> Option<Cow<'_, str>> {
        None
    }

    /// None: it would only be kept twice.
    fn uid(&self) -> Option<Cow<'_, str>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_kept_with_all_that_is_asked_of_it() {
        let pod = |patch: &str, value: serde_json::Value| -> SeenPod {
            let mut pod = json!({
                "metadata": { "name": "demo-x", "namespace": "chat", "uid": "u",
                    "labels": { "app.kubernetes.io/instance": "demo" },
                    "annotations": { annotation::TOUCHED: "h.1", annotation::CONFIG_HASH: "s" } },
                "status": { "phase": "Running", "podIP": "10.0.0.7",
                    "conditions": [{ "type": "Ready", "status": "True" }],
                    "containerStatuses": [
                        { "name": "server", "image": "i", "imageID": "", "ready": true, "restartCount": 2 },
                        { "name": "beside", "image": "i", "imageID": "", "ready": true, "restartCount": 5 },
                    ] },
            });
            let (parent, field) = patch.rsplit_once('/').unwrap();
            pod.pointer_mut(parent).unwrap()[field] = value;
            SeenPod::of(&serde_json::from_value(pod).unwrap())
        };
        let whole = pod("/metadata/uid", json!("u"));
        let service = whole.service.unwrap();
        assert_eq!((service.namespace.as_str(), service.name.as_str()), ("chat", "demo"));
        assert_eq!((&*whole.uid, &*whole.process, whole.touched.as_deref()), ("u", "u/2", Some("h.1")));
        assert_eq!(whole.address, Some("10.0.0.7".parse().unwrap()));
        assert!(whole.counts && whole.runs && whole.view.ready);
        assert_eq!((whole.view.name.as_str(), whole.view.made_for.as_deref()), ("demo-x", Some("s")));
        for (case, pod, expected) in [
            ("pending", pod("/status/phase", json!("Pending")), (true, false)),
            ("over", pod("/status/phase", json!("Failed")), (false, false)),
            ("going", pod("/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z")), (false, false)),
        ] {
            assert_eq!((pod.counts, pod.runs), expected, "{case}");
        }
    }
}
