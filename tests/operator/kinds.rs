//! The kinds of children, once, for everything that looks at all of them. In: a rig. Out: the objects of all kinds.

use std::collections::BTreeSet;

use chatservice::controller::rbac::RULES;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, ListParams};

use crate::rig::Rig;

fn kinds() -> [ApiResource; 7] {
    [
        ApiResource::erase::<ServiceAccount>(&()),
        ApiResource::erase::<ConfigMap>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<PodDisruptionBudget>(&()),
        ApiResource::erase::<HorizontalPodAutoscaler>(&()),
        ApiResource::erase::<NetworkPolicy>(&()),
        ApiResource::erase::<Deployment>(&()),
    ]
}

/// The objects in the namespace of `rig` that may be children and that `params` selects, each with its kind.
pub async fn objects(rig: &Rig, params: &ListParams) -> Vec<(String, DynamicObject)> {
    let mut all = Vec::new();
    for kind in kinds() {
        let api: Api<DynamicObject> = Api::namespaced_with(rig.admin.clone(), &rig.namespace, &kind);
        let found = api.list(params).await.unwrap();
        all.extend(found.into_iter().map(|object| (kind.kind.clone(), object)));
    }
    all
}

#[test]
fn no_kind_that_the_operator_may_delete_goes_unseen() {
    let deleted = RULES.iter().filter(|rule| rule.verbs.contains(&"delete"));
    let deleted: BTreeSet<(String, String)> = deleted
        .flat_map(|rule| {
            rule.resources.iter().map(|resource| (rule.group.to_owned(), (*resource).to_owned()))
        })
        .collect();
    let seen: BTreeSet<_> = kinds().into_iter().map(|kind| (kind.group, kind.plural)).collect();
    assert_eq!(seen, deleted);
}
