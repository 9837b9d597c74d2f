//! The HorizontalPodAutoscaler, where the number of pods is not fixed. It scales the Deployment and not the ChatService,
//! whose `replicas` means nothing then.

use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec,
};

use super::{ValidatedChatService, metadata};
use crate::controller::workload::Scale;

pub(super) fn build(service: &ValidatedChatService) -> Option<HorizontalPodAutoscaler> {
    let Scale::Auto(auto) = &service.scale else { return None };
    Some(HorizontalPodAutoscaler {
        metadata: metadata(service, service.name.to_string()),
        spec: HorizontalPodAutoscalerSpec {
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some("apps/v1".to_owned()),
                kind: "Deployment".to_owned(),
                name: service.name.to_string(),
            },
            min_replicas: Some(auto.min),
            max_replicas: auto.max,
            metrics: Some(auto.metrics.clone()),
            behavior: auto.behavior.clone(),
        },
        ..HorizontalPodAutoscaler::default()
    })
}
