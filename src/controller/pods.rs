//! What a pod's own status says. In: a Pod (metadata and status). Out: whether it is ready, and what is wrong in words
//! that do not change while the same thing is wrong. Pure.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::build::CONTAINER;
use crate::admin::{RejectedConfig, ServerStatus, StatusProblem, StoreMode};
use crate::constants::{annotation, label, reason};

/// A pod as the status of its ChatService sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodView {
    /// Its name.
    pub name: String,
    /// Its Ready condition.
    pub ready: bool,
    /// What the kubelet or the scheduler says is wrong.
    pub trouble: Option<Trouble>,
    /// Hash of the static configuration that its template was made for.
    pub made_for: Option<String>,
    /// Its server has not answered for two minutes.
    pub unreachable: bool,
    /// It has not been ready for longer than a rollout may take.
    pub overdue: bool,
    /// What its server said twice in a row; None before that, or when it is unreachable.
    pub server: Option<Report>,
}

/// The part of a server's `/status` that the status of a ChatService is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The hash of the configuration that runs; empty before one was named twice.
    pub config_hash: String,
    /// What it read and does not run.
    pub rejected: Option<RejectedConfig>,
    /// Fields of its configuration that it does not know.
    pub unknown_fields: Vec<String>,
    /// What is wrong.
    pub problems: Vec<StatusProblem>,
    /// Whether its calls to the backend are answered; None before the first.
    pub backend_reachable: Option<bool>,
    /// Whether it keeps state in Redis; None without one, or before it was asked.
    pub redis: Option<bool>,
}

impl From<ServerStatus> for Report {
    fn from(status: ServerStatus) -> Self {
        // In an outage the connection may be back before Redis was told what it missed.
        let shared = status.store_mode.is_none_or(|mode| mode == StoreMode::Shared);
        Self {
            config_hash: status.config_hash,
            rejected: status.rejected,
            unknown_fields: status.unknown_fields,
            problems: status.problems,
            backend_reachable: status.backend_reachable,
            redis: status.redis_connected.map(|connected| connected && shared),
        }
    }
}

impl Report {
    /// Takes over from `now` what `last` said too: each fact by itself, so that one that changes with every answer does not
    /// keep the others from being believed. Whether everything was said twice.
    pub(super) fn believe(&mut self, last: &Self, now: &Self) -> bool {
        fn fact<T: Clone + PartialEq>(believed: &mut T, last: &T, now: &T) -> bool {
            let confirmed = last == now;
            if confirmed {
                believed.clone_from(now);
            }
            confirmed
        }
        let Self { config_hash, rejected, unknown_fields, problems, backend_reachable, redis } = self;
        [
            fact(config_hash, &last.config_hash, &now.config_hash),
            fact(rejected, &last.rejected, &now.rejected),
            fact(unknown_fields, &last.unknown_fields, &now.unknown_fields),
            fact(problems, &last.problems, &now.problems),
            fact(backend_reachable, &last.backend_reachable, &now.backend_reachable),
            fact(redis, &last.redis, &now.redis),
        ]
        .iter()
        .all(|&confirmed| confirmed)
    }
}

/// What is wrong with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// One of `constants::reason`.
    pub reason: &'static str,
    /// What, where and how to look further.
    pub message: String,
}

/// The pods of one ChatService, sorted by name: those that [`counts`] counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The pods.
    pub pods: Vec<PodView>,
}

impl Observed {
    /// Pods that are ready.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.pods.iter().filter(|pod| pod.ready).count()
    }

    /// What the servers report, with the pod that does.
    pub fn reports(&self) -> impl Iterator<Item = (&PodView, &StatusProblem)> {
        self.pods
            .iter()
            .flat_map(|pod| pod.server.iter().flat_map(move |s| s.problems.iter().map(move |p| (pod, p))))
    }
}

/// Whether a pod can still serve: it is not being deleted, and has not ended for good (evicted, its node gone).
#[must_use]
pub fn counts(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Failed" | "Succeeded"))
}

/// The view of a pod, without what its server says and without what only time shows.
#[must_use]
pub fn view(pod: &Pod) -> PodView {
    let ready = condition(pod, "Ready").is_some_and(|(status, _, _)| status == "True");
    PodView {
        name: pod.metadata.name.clone().unwrap_or_default(),
        ready,
        trouble: if ready { None } else { trouble(pod) },
        made_for: pod.metadata.annotations.as_ref().and_then(|all| all.get(annotation::CONFIG_HASH).cloned()),
        unreachable: false,
        overdue: false,
        server: None,
    }
}

fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    let found = conditions.iter().find(|condition| condition.type_ == type_)?;
    let text = |text: &'a Option<String>| text.as_deref().unwrap_or_default();
    Some((found.status.as_str(), text(&found.reason), text(&found.message)))
}

fn trouble(pod: &Pod) -> Option<Trouble> {
    if let Some(("False", "Unschedulable", message)) = condition(pod, "PodScheduled") {
        return Some(Trouble {
            reason: reason::UNSCHEDULABLE,
            message: format!(
                "no node takes pod \"{}\": {message}. Fix: make room or change spec.resources: {}",
                name(pod),
                command(pod, "describe pod")
            ),
        });
    }
    let containers = pod.status.as_ref()?.container_statuses.as_deref()?;
    let server = containers.iter().find(|container| container.name == CONTAINER)?;
    waiting(pod, server).or_else(|| crashing(pod, server))
}

/// The kubelet alternates between two reasons and rewrites its message with every delay, so neither is repeated.
fn waiting(pod: &Pod, server: &ContainerStatus) -> Option<Trouble> {
    let waiting = server.state.as_ref()?.waiting.as_ref()?;
    match waiting.reason.as_deref()? {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => Some(Trouble {
            reason: reason::IMAGE_PULL_FAILED,
            message: format!(
                "pod \"{}\" cannot pull image \"{}\". Fix: push it, or correct spec.image; the kubelet says why: {}",
                name(pod),
                server.image,
                command(pod, "describe pod")
            ),
        }),
        "CrashLoopBackOff" => crashing(pod, server),
        reason @ ("CreateContainerConfigError" | "CreateContainerError" | "RunContainerError") => {
            Some(Trouble {
                reason: reason::MINIMUM_REPLICAS_UNAVAILABLE,
                message: format!(
                    "the container of pod \"{}\" is not started ({reason}). See why: {}",
                    name(pod),
                    command(pod, "describe pod")
                ),
            })
        }
        _ => None,
    }
}

/// Between two restarts a crashing container runs for a moment, so the count of restarts is looked at too. It never falls,
/// so then the last exit must have been a failure: not code 0, and not the loss of a node (reason Unknown).
fn crashing(pod: &Pod, server: &ContainerStatus) -> Option<Trouble> {
    let state = server.state.as_ref();
    let backing_off = state
        .and_then(|state| state.waiting.as_ref())
        .is_some_and(|waiting| waiting.reason.as_deref() == Some("CrashLoopBackOff"));
    let last = server.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let failed = last.is_some_and(|last| last.exit_code != 0 && last.reason.as_deref() != Some("Unknown"));
    if !backing_off && (server.restart_count < 2 || !failed) {
        return None;
    }
    if last.is_some_and(|last| last.reason.as_deref() == Some("OOMKilled")) {
        return Some(Trouble {
            reason: reason::CRASH_LOOPING,
            message: format!(
                "the server of pod \"{}\" needs more memory than its limit and is killed for it (OOMKilled) again and again. Fix: raise spec.resources.limits.memory (256Mi is the default): kubectl -n {} patch chat/{} --type=merge -p '{{\"spec\": {{\"resources\": {{\"limits\": {{\"memory\": \"512Mi\"}}}}}}}}'",
                name(pod),
                pod.metadata.namespace.as_deref().unwrap_or_default(),
                pod.metadata
                    .labels
                    .iter()
                    .flatten()
                    .find(|(key, _)| *key == label::INSTANCE)
                    .map_or("NAME", |(_, name)| name),
            ),
        });
    }
    let how = last.map_or_else(
        || "ends".to_owned(),
        |last| match last.reason.as_deref() {
            Some(reason) if reason != "Error" => format!("ends with exit code {} ({reason})", last.exit_code),
            _ => format!("ends with exit code {}", last.exit_code),
        },
    );
    Some(Trouble {
        reason: reason::CRASH_LOOPING,
        message: format!(
            "the server of pod \"{}\" {how} and is restarted again and again. See why: {} --previous",
            name(pod),
            command(pod, "logs")
        ),
    })
}

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

fn command(pod: &Pod, what: &str) -> String {
    format!("kubectl -n {} {what} {}", pod.metadata.namespace.as_deref().unwrap_or_default(), name(pod))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "demo-x", "namespace": "chat", "labels": { label::INSTANCE: "demo" } },
            "status": status,
        }))
        .unwrap()
    }

    fn container(state: &Value, restarts: i32, last: &Value) -> Pod {
        pod(&json!({ "containerStatuses": [{
            "name": "server", "image": "i:1", "imageID": "", "ready": false,
            "restartCount": restarts, "state": state, "lastState": last,
        }] }))
    }

    #[test]
    fn troubles_have_a_reason_and_a_command() {
        let ended = json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
        for (pod, reason, part) in [
            (
                container(&json!({ "waiting": { "reason": "ErrImagePull" } }), 0, &json!({})),
                reason::IMAGE_PULL_FAILED,
                "\"i:1\"",
            ),
            (
                container(&json!({ "waiting": { "reason": "ImagePullBackOff" } }), 0, &json!({})),
                reason::IMAGE_PULL_FAILED,
                "describe pod demo-x",
            ),
            (
                container(&json!({ "waiting": { "reason": "CrashLoopBackOff" } }), 3, &ended),
                reason::CRASH_LOOPING,
                "kubectl -n chat patch chat/demo --type=merge -p '{\"spec\": {\"resources\": {\"limits\": {\"memory\"",
            ),
            (
                container(
                    &json!({ "running": {} }),
                    3,
                    &json!({ "terminated": { "exitCode": 2, "reason": "Error" } }),
                ),
                reason::CRASH_LOOPING,
                "logs demo-x --previous",
            ),
            (
                container(&json!({ "waiting": { "reason": "CreateContainerConfigError" } }), 0, &json!({})),
                reason::MINIMUM_REPLICAS_UNAVAILABLE,
                "CreateContainerConfigError",
            ),
            (
                pod(
                    &json!({ "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes" }] }),
                ),
                reason::UNSCHEDULABLE,
                "0/3 nodes",
            ),
        ] {
            let trouble = view(&pod).trouble.unwrap();
            assert_eq!(trouble.reason, reason);
            assert!(trouble.message.contains(part), "{}", trouble.message);
        }
    }

    #[test]
    fn a_pod_that_ended_or_goes_does_not_count() {
        for (phase, expected) in
            [("Pending", true), ("Running", true), ("Unknown", true), ("Failed", false), ("Succeeded", false)]
        {
            assert_eq!(counts(&pod(&json!({ "phase": phase }))), expected, "{phase}");
        }
        let mut going = pod(&json!({ "phase": "Running" }));
        going.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        assert!(!counts(&going));
    }

    #[test]
    fn restarts_of_long_ago_or_of_a_lost_node_are_no_trouble() {
        for last in [
            json!({ "terminated": { "exitCode": 0, "reason": "Completed" } }),
            json!({ "terminated": { "exitCode": 255, "reason": "Unknown" } }),
            json!({}),
        ] {
            assert_eq!(view(&container(&json!({ "running": {} }), 5, &last)).trouble, None, "{last}");
        }
    }

    #[test]
    fn a_pod_on_its_way_or_ready_is_in_no_trouble() {
        for pod in [
            pod(&json!({})),
            container(&json!({ "waiting": { "reason": "ContainerCreating" } }), 0, &json!({})),
            container(&json!({ "running": {} }), 1, &json!({ "terminated": { "exitCode": 1 } })),
            pod(&json!({ "conditions": [{ "type": "Ready", "status": "True" }] })),
        ] {
            assert_eq!(view(&pod).trouble, None);
        }
    }
}
