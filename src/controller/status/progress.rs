//! How far a Deployment is. In: a Deployment as the API server answered it, and the wanted pods. Out: its counts, and what its
//! conditions say.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus};

use super::Claim;
use crate::constants::reason;

/// Where a Deployment stands. Counts of an older generation say nothing of this one, so they do not count.
pub(super) struct Progress {
    observed: bool,
    /// Pods that exist.
    pub(super) total: i32,
    /// Pods of the current template.
    pub(super) updated: i32,
    available: i32,
    /// Pods that are ready.
    pub(super) ready: i32,
    /// Pods that there should be.
    pub(super) wanted: i32,
    /// Pods that are enough; fewer than wanted where an autoscaler asks for more under load.
    enough: i32,
}

impl Progress {
    pub(super) fn of(deployment: &Deployment, wanted: i32, least: i32) -> Self {
        let status = deployment.status.clone().unwrap_or_default();
        let count = |value: Option<i32>| value.unwrap_or(0);
        Self {
            observed: status.observed_generation >= deployment.metadata.generation,
            total: count(status.replicas),
            updated: count(status.updated_replicas),
            available: count(status.available_replicas),
            ready: count(status.ready_replicas),
            wanted,
            enough: least.min(wanted),
        }
    }

    /// Every wanted pod is available, and none is left of an older template.
    pub(super) fn is_complete(&self) -> bool {
        self.observed
            && self.updated >= self.wanted
            && self.available >= self.wanted
            && self.total <= self.updated.max(self.wanted)
    }

    /// Pods are added to those that are enough, and none is of an older template.
    pub(super) fn is_growing(&self) -> bool {
        self.observed
            && self.enough < self.wanted
            && self.available >= self.enough
            && self.total == self.updated
    }

    /// Every wanted pod exists and is of the current template.
    pub(super) fn is_whole(&self) -> bool {
        self.observed && self.updated == self.wanted && self.total == self.wanted
    }

    /// `Reconciling` while it is not complete.
    pub(super) fn claim(&self) -> Claim {
        let wanted = self.wanted;
        if self.total > self.updated {
            let message = format!("{} of {wanted} pods have the current template", self.updated.min(wanted));
            return Claim::yes(reason::ROLLING_OUT, message);
        }
        Claim::yes(reason::SCALING, format!("{} of {wanted} pods are ready", self.ready))
    }
}

/// What a Deployment says of itself in its conditions.
#[derive(Default)]
pub(super) struct DeploymentSays {
    /// It made no progress for its deadline.
    pub(super) deadline_exceeded: bool,
    /// The last rollout came to its end.
    pub(super) complete: bool,
    /// Why no pod can be made.
    pub(super) refused: Option<String>,
}

/// What it says of its current generation.
pub(super) fn deployment_says(deployment: &Deployment) -> DeploymentSays {
    let Some(DeploymentStatus { conditions: Some(conditions), observed_generation, .. }) = &deployment.status
    else {
        return DeploymentSays::default();
    };
    if *observed_generation < deployment.metadata.generation {
        return DeploymentSays::default();
    }
    let find = |type_: &str, status: &str| {
        conditions.iter().find(|c| c.type_.as_deref() == Some(type_) && c.status.as_deref() == Some(status))
    };
    DeploymentSays {
        deadline_exceeded: find("Progressing", "False")
            .is_some_and(|c| c.reason.as_deref() == Some("ProgressDeadlineExceeded")),
        complete: find("Progressing", "True")
            .is_some_and(|c| c.reason.as_deref() == Some("NewReplicaSetAvailable")),
        refused: find("ReplicaFailure", "True").map(|c| c.message.clone().unwrap_or_default()),
    }
}
