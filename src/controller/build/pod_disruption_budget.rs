//! The PodDisruptionBudget: a node drain takes one pod at a time.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{ValidatedChatService, metadata};

/// Whether pods have a budget: where there may be two of them, since with one there is nothing to take one at a time.
pub fn wanted(most: i32) -> bool {
    most >= 2
}

/// Pods that are not ready may always be evicted, or a broken rollout would block them too.
pub(super) fn build(service: &ValidatedChatService) -> Option<PodDisruptionBudget> {
    wanted(service.scale.most()).then(|| PodDisruptionBudget {
        metadata: metadata(service, service.name.to_string()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(service.name.selector()),
                ..LabelSelector::default()
            }),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    })
}
