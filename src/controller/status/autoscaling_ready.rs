//! `AutoscalingReady`. In: our HorizontalPodAutoscaler as the API server answered it, and those of others. Out: what it says of
//! itself, or who gets in its way.

use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition};

use super::Claim;
use crate::constants::reason;
use crate::controller::autoscaling;
use crate::controller::build::{Applied, Resources};
use crate::controller::validate::ValidatedChatService;
use crate::controller::workload::{Autoscale, Scale};

/// What is said once every child is written.
pub(super) fn judge(service: &ValidatedChatService, resources: &Resources<Applied>) -> Claim {
    if let Some(message) = autoscaling::conflict(service) {
        return Claim::no(reason::CONFLICTING_AUTOSCALER, message);
    }
    match (&service.scale, &resources.horizontal_pod_autoscaler) {
        (Scale::Auto(auto), Some(ours)) => mirrored(service, auto, ours),
        _ => Claim::no(reason::DISABLED, disabled(service)),
    }
}

fn disabled(service: &ValidatedChatService) -> String {
    match service.autoscalers.of_service.first() {
        Some(rival) => {
            format!("spec.autoscaling is not set; {} sets spec.replicas of this ChatService", rival.is())
        }
        None => "spec.autoscaling is not set: as many pods run as spec.replicas says".to_owned(),
    }
}

/// What the autoscaler says of itself. Its message is another program's, and is repeated as it is.
fn mirrored(service: &ValidatedChatService, auto: &Autoscale, ours: &HorizontalPodAutoscaler) -> Claim {
    let conditions = ours.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let find = |type_: &str| conditions.iter().find(|condition| condition.type_ == type_);
    let unavailable = |condition: &HorizontalPodAutoscalerCondition| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (reason, message) = (text(&condition.reason), text(&condition.message));
        let look = format!("kubectl -n {} describe hpa {}", service.namespace, service.name);
        Claim::no(reason::METRICS_UNAVAILABLE, format!("{reason}: {message}. See: {look}"))
    };
    if let Some(unable) = find(autoscaling::ABLE_TO_SCALE).filter(|able| able.status == "False") {
        return unavailable(unable);
    }
    match find(autoscaling::SCALING_ACTIVE) {
        Some(active) if active.status == "True" => Claim::yes(
            reason::SCALING_ACTIVE,
            format!("from {} to {} pods run, as load asks for", auto.min, auto.max),
        ),
        Some(inactive) => unavailable(inactive),
        None => Claim::unknown(
            reason::METRICS_UNAVAILABLE,
            format!("HorizontalPodAutoscaler \"{}\" has not looked at its metrics yet", service.name),
        ),
    }
}
