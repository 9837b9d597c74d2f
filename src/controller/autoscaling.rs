//! Who else sets the number of pods. In: the HorizontalPodAutoscalers of a namespace, as they are watched. Out: which are ours,
//! which get in the way, and what helps. Pure.

use k8s_openapi::Resource as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus,
};
use kube::ResourceExt;

use super::ObjectKey;
use super::validate::ValidatedChatService;
use super::workload::Scale;
use crate::constants::{GROUP, KIND, VERSION};

/// The condition of an autoscaler that says whether it can read and write the number of pods.
pub(super) const ABLE_TO_SCALE: &str = "AbleToScale";
/// The one that says whether it has metrics to go by.
pub(super) const SCALING_ACTIVE: &str = "ScalingActive";

/// The HorizontalPodAutoscalers that have to do with a ChatService, sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Autoscalers {
    /// Ours, by name and uid.
    pub ours: Vec<(String, String)>,
    /// Others that scale our Deployment.
    pub of_deployment: Vec<Rival>,
    /// Those that scale the ChatService itself, which is how it is meant where its number of pods is fixed.
    pub of_service: Vec<Rival>,
}

/// An autoscaler that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// Its name.
    pub name: String,
    /// What made it, such as `ScaledObject "queue"`, and the command that deletes that.
    pub maker: Option<(String, String)>,
}

/// What an autoscaler scales, as far as it can matter to a ChatService.
enum Scaled {
    Deployment,
    Service,
}

impl Scaled {
    fn of(target: &CrossVersionObjectReference) -> Option<Self> {
        let group = target.api_version.as_deref().unwrap_or_default().split('/').next();
        match (group, target.kind.as_str()) {
            (Some(Deployment::GROUP), Deployment::KIND) => Some(Self::Deployment),
            (Some(GROUP), KIND) => Some(Self::Service),
            _ => None,
        }
    }
}

/// The ChatService that an autoscaler has to do with by what it scales.
pub(super) fn scaled(autoscaler: &HorizontalPodAutoscaler) -> Option<ObjectKey> {
    let target = &autoscaler.spec.scale_target_ref;
    Scaled::of(target)?;
    Some(ObjectKey { namespace: autoscaler.namespace()?, name: target.name.clone() })
}

/// Takes off what changes all the time and matters to nobody here: two that are equal then are the same to every ChatService.
pub(super) fn prune(mut autoscaler: HorizontalPodAutoscaler) -> HorizontalPodAutoscaler {
    autoscaler.metadata.resource_version = None;
    autoscaler.metadata.managed_fields = None;
    let mut conditions = autoscaler.status.take().and_then(|status| status.conditions).unwrap_or_default();
    conditions.retain(|condition| [ABLE_TO_SCALE, SCALING_ACTIVE].contains(&condition.type_.as_str()));
    for condition in &mut conditions {
        condition.last_transition_time = None;
        if condition.status == "True" {
            (condition.reason, condition.message) = (None, None);
        }
    }
    let pruned = HorizontalPodAutoscalerStatus { conditions: Some(conditions), ..Default::default() };
    autoscaler.status = Some(pruned);
    autoscaler
}

impl Autoscalers {
    /// Those of `all`, the autoscalers of its namespace, that have to do with the ChatService of this name and uid.
    pub fn among<'a>(
        all: impl IntoIterator<Item = &'a HorizontalPodAutoscaler>,
        name: &str,
        uid: &str,
    ) -> Self {
        let mut found = Self::default();
        for autoscaler in all {
            let target = &autoscaler.spec.scale_target_ref;
            let controller =
                autoscaler.owner_references().iter().find(|owner| owner.controller == Some(true));
            if controller.is_some_and(|owner| owner.uid == uid) {
                found.ours.push((autoscaler.name_any(), autoscaler.uid().unwrap_or_default()));
                continue;
            }
            let list = match Scaled::of(target) {
                Some(Scaled::Deployment) => &mut found.of_deployment,
                Some(Scaled::Service) => &mut found.of_service,
                None => continue,
            };
            if target.name == name && autoscaler.metadata.deletion_timestamp.is_none() {
                let maker = controller.map(|owner| {
                    let kind = owner.kind.to_lowercase();
                    (format!("{} \"{}\"", owner.kind, owner.name), format!("{kind} {}", owner.name))
                });
                list.push(Rival { name: autoscaler.name_any(), maker });
            }
        }
        found.ours.sort();
        found.of_deployment.sort_by(|a, b| a.name.cmp(&b.name));
        found.of_service.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }
}

impl Rival {
    /// In a sentence.
    pub(super) fn is(&self) -> String {
        match &self.maker {
            Some((maker, _)) => format!("HorizontalPodAutoscaler \"{}\" of {maker}", self.name),
            None => format!("HorizontalPodAutoscaler \"{}\"", self.name),
        }
    }

    fn delete(&self, namespace: &str) -> String {
        let what = match &self.maker {
            Some((_, what)) => what.clone(),
            None => format!("hpa {}", self.name),
        };
        format!("kubectl -n {namespace} delete {what}")
    }
}

/// What gets in the way of the number that the spec asks for: two that set one number undo each other's work for ever.
pub(super) fn conflict(service: &ValidatedChatService) -> Option<String> {
    let (name, namespace) = (&service.name, &service.namespace);
    let autoscalers = &service.autoscalers;
    match &service.scale {
        Scale::Fixed(_) => autoscalers.of_deployment.first().map(|rival| {
            format!(
                "{} scales Deployment \"{name}\", whose number of pods is set back to spec.replicas each time. Fix: let it scale the ChatService (scaleTargetRef: {{apiVersion: {GROUP}/{VERSION}, kind: {KIND}, name: {name}}}), or: {}",
                rival.is(),
                rival.delete(namespace)
            )
        }),
        Scale::Auto(_) => autoscalers
            .of_deployment
            .first()
            .map(|rival| {
                format!(
                    "{} scales Deployment \"{name}\" too, and each undoes what the other does. Fix: {}",
                    rival.is(),
                    rival.delete(namespace)
                )
            })
            .or_else(|| {
                autoscalers.of_service.first().map(|rival| {
                    format!(
                        "{} scales the ChatService, whose replicas are ignored while spec.autoscaling is set. Fix: take spec.autoscaling out, or: {}",
                        rival.is(),
                        rival.delete(namespace)
                    )
                })
            }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn autoscaler(name: &str, target: &Value, owner: &Value) -> HorizontalPodAutoscaler {
        serde_json::from_value(json!({
            "metadata": { "name": name, "uid": format!("uid-{name}"), "ownerReferences": owner },
            "spec": { "maxReplicas": 3, "scaleTargetRef": target },
        }))
        .unwrap()
    }

    #[test]
    fn autoscalers_are_told_apart_by_owner_and_target() {
        let deployment = |name: &str| json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": name });
        let service =
            json!({ "apiVersion": "chatservice.dev/v1alpha1", "kind": "ChatService", "name": "demo" });
        let owner = |kind: &str, uid: &str| json!([{ "apiVersion": "x/v1", "kind": kind, "name": "o", "uid": uid, "controller": true }]);
        let all = [
            autoscaler("z", &deployment("demo"), &json!([])),
            autoscaler("keda", &deployment("demo"), &owner("ScaledObject", "u-9")),
            autoscaler("demo", &deployment("demo"), &owner("ChatService", "u-1")),
            autoscaler("other", &deployment("other"), &json!([])),
            autoscaler("whole", &service, &json!([])),
            autoscaler(
                "stateful",
                &json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "demo" }),
                &json!([]),
            ),
        ];
        let found = Autoscalers::among(&all, "demo", "u-1");
        assert_eq!(found.ours, [("demo".to_owned(), "uid-demo".to_owned())]);
        let names = |rivals: &[Rival]| rivals.iter().map(|rival| rival.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&found.of_deployment), ["keda", "z"]);
        assert_eq!(names(&found.of_service), ["whole"]);
        assert_eq!(found.of_deployment[0].is(), "HorizontalPodAutoscaler \"keda\" of ScaledObject \"o\"");
        assert_eq!(found.of_deployment[0].delete("chat"), "kubectl -n chat delete scaledobject o");
    }
}
