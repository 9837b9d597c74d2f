//! What the operator may do: exactly the list of rules, and a condition when something of it is missing.

use std::collections::BTreeSet;

use chatservice::constants::condition;
use chatservice::controller::rbac::{OWN_RULES, RULES, allows};
use chatservice::crd::ChatService;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::rig::{Rig, claim, until};

const ACCOUNT: &str = "operator";

/// [`RULES`] as those of a Role, without one verb of one resource.
fn rules_without(resource: &str, verb: &str) -> Vec<Value> {
    let mut rules = Vec::new();
    for rule in RULES {
        for &name in rule.resources {
            let verbs: Vec<&str> =
                rule.verbs.iter().copied().filter(|&v| !(name == resource && v == verb)).collect();
            rules.push(json!({ "apiGroups": [rule.group], "resources": [name], "verbs": verbs }));
        }
    }
    for rule in OWN_RULES {
        rules.push(json!({ "apiGroups": [rule.group], "resources": rule.resources, "verbs": rule.verbs }));
    }
    rules
}

fn own(group: &str, resource: &str, verb: &str) -> bool {
    OWN_RULES
        .iter()
        .any(|rule| rule.group == group && rule.resources.contains(&resource) && rule.verbs.contains(&verb))
}

async fn allow(rig: &Rig, rules: &[Value]) {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": ACCOUNT }, "rules": rules,
    });
    let params = PatchParams::apply("tests").force();
    rig.api::<Role>().patch(ACCOUNT, &params, &Patch::Apply(&role)).await.unwrap();
}

/// A rig whose operator runs as a ServiceAccount with these rules.
async fn start_with(rules: &[Value]) -> Option<Rig> {
    start_beside(rules, &[]).await
}

/// The same, told to watch other namespaces too, in which it may nothing.
async fn start_beside(rules: &[Value], others: &[&str]) -> Option<Rig> {
    let mut rig = Rig::without_operator().await?;
    rig.also_watched = others.iter().map(|&other| other.to_owned()).collect();
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": ACCOUNT } });
    rig.make::<ServiceAccount>(&account).await;
    allow(&rig, rules).await;
    rig.make::<RoleBinding>(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "name": ACCOUNT },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ACCOUNT },
        "subjects": [{ "kind": "ServiceAccount", "name": ACCOUNT, "namespace": rig.namespace }],
    }))
    .await;
    rig.run_operator(Some(ACCOUNT)).await;
    Some(rig)
}

#[tokio::test]
async fn the_rules_are_enough_and_nothing_outside_them_is_asked() {
    let Some(rig) = start_with(&rules_without("", "")).await else { return };
    rig.create("demo", &json!({ "model": "m", "backend": { "echo": {} }, "replicas": 2 })).await;
    rig.until_settled("demo").await;
    // Removal of the budget needs `delete`.
    rig.merge::<ChatService>("demo", &json!({ "spec": { "replicas": 1 } })).await;
    rig.until_settled("demo").await;
    let asked: BTreeSet<_> = rig.recorded.permissions();
    for (group, resource, verb) in &asked {
        assert!(
            allows(group, resource, verb) || own(group, resource, verb),
            "{verb} {resource} in group \"{group}\" is asked and not in the rules"
        );
    }
    for (group, resource, verb) in [
        ("apps", "deployments", "patch"),
        ("chatservice.dev", "chatservices/status", "patch"),
        ("policy", "poddisruptionbudgets", "delete"),
        ("events.k8s.io", "events", "create"),
        ("", "pods", "watch"),
    ] {
        assert!(
            asked.contains(&(group.into(), resource.into(), verb.into())),
            "{verb} {resource} was never asked"
        );
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_missing_permission_is_a_condition_and_heals_when_it_is_given() {
    for (resource, verb, named) in [
        ("deployments", "patch", "may not patch deployments.apps"),
        ("pods", "list", "may not list and watch pods"),
    ] {
        let Some(rig) = start_with(&rules_without(resource, verb)).await else { return };
        rig.create("demo", &json!({ "model": "m", "backend": { "echo": {} } })).await;
        let cs = rig.until_ready_is("demo", "False", "Forbidden").await;
        let (_, _, message) = claim(&cs, condition::READY).unwrap();
        assert!(message.contains(named) && message.contains("Fix:"), "{message}");
        assert_eq!(claim(&cs, condition::STALLED), None, "a permission can be given without a new spec");
        allow(&rig, &rules_without("", "")).await;
        rig.until_settled("demo").await;
        rig.stop().await;
    }
}

#[tokio::test]
async fn a_namespace_without_permissions_does_not_stop_the_others() {
    let Some(rig) = start_beside(&rules_without("", ""), &["kube-public"]).await else { return };
    rig.create("demo", &json!({ "model": "m", "backend": { "echo": {} } })).await;
    rig.until_settled("demo").await;
    let looks = || rig.recorded.count("GET", "/namespaces/kube-public/chatservices");
    until("a second look", async || (looks() >= 2).then_some(())).await;
    assert!(!rig.readiness.is_ready(), "it is ready only when all are watched");
    rig.stop().await;
}
