//! The NetworkPolicy: there when it is asked for, and ours alone.

use chatservice::crd::ChatService;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;

use crate::rig::{self, until};

#[tokio::test]
async fn a_network_policy_comes_and_goes_with_the_spec_and_comes_back_when_deleted() {
    let Some(rig) = rig::start().await else { return };
    let rules = json!({
        "enabled": true, "ingressFrom": [{ "podSelector": { "matchLabels": { "app": "web" } } }],
        "egressTo": [{ "ipBlock": { "cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"] }, "ports": [443] }],
    });
    rig.create("demo", &json!({ "model": "m", "backend": { "echo": {} }, "networkPolicy": rules })).await;
    rig.until_settled("demo").await;
    let policy = rig.find::<NetworkPolicy>("demo").await.unwrap();
    assert_eq!(policy.spec.as_ref().unwrap().egress.as_ref().unwrap().len(), 2, "DNS and what is named");
    rig.api::<NetworkPolicy>().delete("demo", &DeleteParams::default()).await.unwrap();
    until("the policy to come back", async || {
        rig.find::<NetworkPolicy>("demo").await.filter(|again| again.uid() != policy.uid())
    })
    .await;
    rig.merge::<ChatService>("demo", &json!({ "spec": { "networkPolicy": { "enabled": false } } })).await;
    until("the policy to go", async || rig.find::<NetworkPolicy>("demo").await.is_none().then_some(())).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_network_policy_of_somebody_else_is_left_alone() {
    let Some(rig) = rig::start().await else { return };
    let foreign = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": "demo" },
        "spec": { "podSelector": {}, "policyTypes": ["Ingress"] },
    });
    let foreign = rig.make::<NetworkPolicy>(&foreign).await;
    // One that asks for none does not look at it.
    let mut spec = json!({ "model": "m", "backend": { "echo": {} } });
    rig.create("demo", &spec).await;
    rig.until_settled("demo").await;
    spec["networkPolicy"] = json!({ "enabled": true });
    rig.merge::<ChatService>("demo", &json!({ "spec": spec })).await;
    rig.until_ready_is("demo", "False", "NameTaken").await;
    let still = rig.find::<NetworkPolicy>("demo").await.unwrap();
    assert_eq!(still.resource_version(), foreign.resource_version());
    rig.stop().await;
}
