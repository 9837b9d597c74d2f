//! What the operator may do: exactly the list of rules, and a condition when something of it is missing.

use std::collections::BTreeSet;
use std::time::Duration;

use chatservice::constants::{condition, metric, readiness};
use chatservice::controller::names::ServiceName;
use chatservice::controller::rbac::{OWN_RULES, RULES};
use chatservice::controller::request::qualified;
use chatservice::crd::ChatService;
use futures::{StreamExt, stream};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::rig::{Rig, claim, until, until_some};

/// The ServiceAccount that the operator runs as.
pub const ACCOUNT: &str = "operator";

/// [`RULES`] as those of a Role, without one verb of one resource.
fn rules_without(resource: &str, verb: &str) -> Vec<Value> {
    let mut rules = Vec::new();
    for rule in RULES {
        for &name in rule.resources {
            let verbs: Vec<&str> =
                rule.verbs.iter().copied().filter(|&v| !(name == resource && v == verb)).collect();
            if verbs.is_empty() {
                continue;
            }
            rules.push(json!({ "apiGroups": [rule.group], "resources": [name], "verbs": verbs }));
        }
    }
    for rule in OWN_RULES {
        rules.push(json!({ "apiGroups": [rule.group], "resources": rule.resources, "verbs": rule.verbs }));
    }
    rules
}

/// Gives the account these rules in its own namespace, and no others.
pub async fn allow(rig: &Rig, rules: &[Value]) {
    give(rig, rules, &rig.namespace).await;
}

/// Gives the account of the namespace `home` these rules in the namespace of `rig`.
async fn give(rig: &Rig, rules: &[Value], home: &str) {
    let params = PatchParams::apply("tests").force();
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": ACCOUNT }, "rules": rules,
    });
    rig.api::<Role>().patch(ACCOUNT, &params, &Patch::Apply(&role)).await.unwrap();
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "name": ACCOUNT },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ACCOUNT },
        "subjects": [{ "kind": "ServiceAccount", "name": ACCOUNT, "namespace": home }],
    });
    rig.api::<RoleBinding>().patch(ACCOUNT, &params, &Patch::Apply(&binding)).await.unwrap();
}

/// A rig whose operator runs as a ServiceAccount with these rules.
pub async fn start_with(rules: &[Value]) -> Option<Rig> {
    start_beside(rules, &[]).await
}

/// The same, told to watch other namespaces too, in which it may nothing.
async fn start_beside(rules: &[Value], others: &[&str]) -> Option<Rig> {
    let mut rig = Rig::without_operator().await?;
    rig.also_watched = others.iter().map(|&other| other.to_owned()).collect();
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": ACCOUNT } });
    rig.make::<ServiceAccount>(&account).await;
    allow(&rig, rules).await;
    rig.run_operator(Some(ACCOUNT)).await;
    Some(rig)
}

/// Row O13's other half: what is asked over all that an operator does is exactly what the rules allow.
#[tokio::test]
async fn what_is_asked_is_exactly_what_the_rules_allow() {
    let Some(mut rig) = start_with(&rules_without("", "")).await else { return };
    rig.answer_for_pods().await;
    let owner = rig.create("demo", &everything()).await;
    rig.until_settled("demo").await;
    // Removal of all that a spec can do without, and of what an older version may have made under other names.
    leave_behind(&rig, &owner.controller_owner_ref(&()).unwrap()).await;
    rig.merge::<ChatService>("demo", &nothing()).await;
    rig.until_settled("demo").await;
    flap(&rig).await;
    flap(&rig).await;
    fall_behind(&rig).await;
    let touch = "patch pods".to_owned();
    until("the pods to be touched", async || asked(&rig).contains(&touch).then_some(())).await;
    rig.answer.lock().unwrap().config_hash.clear();
    rig.until_settled("demo").await;
    spoil(&rig).await;
    let look = "get chatservices.chatservice.dev".to_owned();
    until("the object to be looked at", async || asked(&rig).contains(&look).then_some(())).await;
    rig.until_settled("demo").await;

    // The Lease is renewed every 2 s.
    let renewal = "update leases.coordination.k8s.io".to_owned();
    until("a renewal", async || asked(&rig).contains(&renewal).then_some(())).await;

    let asked = asked(&rig);
    let mut allowed = BTreeSet::new();
    for rule in RULES.iter().chain(OWN_RULES) {
        for resource in rule.resources {
            allowed
                .extend(rule.verbs.iter().map(|verb| format!("{verb} {}", qualified(rule.group, resource))));
        }
    }
    let beyond: Vec<_> = asked.difference(&allowed).collect();
    let idle: Vec<_> = allowed.difference(&asked).collect();
    assert!(beyond.is_empty(), "asked, but not in the rules: {beyond:?}");
    assert!(idle.is_empty(), "in the rules, but never asked: {idle:?}");
    rig.stop().await;
}

/// `verb resource` of every request that the operator's metrics counted. An apply that made its object needs `create`.
fn asked(rig: &Rig) -> BTreeSet<String> {
    let mut asked = BTreeSet::new();
    for line in rig.metrics().lines().filter(|line| line.starts_with(metric::API_REQUESTS)) {
        let label = |name: &str| {
            let (_, rest) = line.split_once(&format!("{name}=\"")).unwrap();
            rest.split_once('"').unwrap().0
        };
        asked.insert(format!("{} {}", label("verb"), label("resource")));
        if (label("verb"), label("code")) == ("patch", "201") {
            asked.insert(format!("create {}", label("resource")));
        }
    }
    asked
}

/// A spec that needs a child of each kind.
fn everything() -> Value {
    let autoscaling = json!({ "minReplicas": 2, "maxReplicas": 3 });
    json!({ "model": "m", "backend": { "echo": {} }, "autoscaling": autoscaling, "networkPolicy": { "enabled": true } })
}

/// What makes of it one that needs as few as possible.
fn nothing() -> Value {
    json!({ "spec": { "replicas": 1, "autoscaling": null, "networkPolicy": null } })
}

/// A transition there and back. One that comes again is written into the event of the first.
async fn flap(rig: &Rig) {
    rig.fail_readiness("demo").await;
    rig.until_ready_is("demo", "False", "MinimumReplicasUnavailable").await;
    rig.restore_readiness("demo").await;
    rig.until_settled("demo").await;
}

/// Pods say that they run an older configuration: the operator touches them, so that the kubelet looks for the new one.
async fn fall_behind(rig: &Rig) {
    rig.answer.lock().unwrap().config_hash = String::from("older");
    rig.merge::<ChatService>("demo", &json!({ "spec": { "model": "newer" } })).await;
}

/// Stores what cannot be read: such an object is looked at once more, for what can be read of it. The API server takes any
/// offset from UTC.
async fn spoil(rig: &Rig) {
    let condition = json!({
        "type": "Ready", "status": "True", "reason": "Theirs", "message": "", "lastTransitionTime": "2026-01-01T00:00:00+99:99",
    });
    let unreadable = json!({ "status": { "conditions": [condition] } });
    let services = rig.api::<ChatService>();
    let stored = services.patch_status("demo", &PatchParams::default(), &Patch::Merge(&unreadable)).await;
    let stored = stored.unwrap_err();
    assert!(matches!(stored, kube::Error::SerdeError(_)), "it is stored, and cannot be read: {stored}");
}

/// Children under names that this version does not know.
async fn leave_behind(rig: &Rig, owner: &OwnerReference) {
    let name = ServiceName::new("demo").unwrap();
    let metadata = json!({ "name": "left", "labels": name.labels(), "ownerReferences": [owner] });
    let object = |kind: &str, api: &str, rest: Value| {
        let mut object = json!({ "apiVersion": api, "kind": kind, "metadata": metadata });
        object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        object
    };
    let pods = json!({ "matchLabels": { "left": "behind" } });
    rig.make::<ServiceAccount>(&object("ServiceAccount", "v1", json!({}))).await;
    rig.make::<ConfigMap>(&object("ConfigMap", "v1", json!({}))).await;
    rig.make::<Service>(&object("Service", "v1", json!({ "spec": { "ports": [{ "port": 1 }] } }))).await;
    let template = json!({
        "metadata": { "labels": pods["matchLabels"] }, "spec": { "containers": [{ "name": "c", "image": "i" }] },
    });
    let spec = json!({ "spec": { "replicas": 0, "selector": pods, "template": template } });
    rig.make::<Deployment>(&object("Deployment", "apps/v1", spec)).await;
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

/// What shows that a permission is missing.
enum Sign {
    /// A condition of the ChatService with these words.
    Condition(String),
    /// `/readyz` names it.
    Readiness(&'static str),
    /// It is only counted: what fails is a look at an object that cannot be read.
    Counted,
}

fn sign(group: &str, resource: &str, verb: &str) -> Sign {
    let name = qualified(group, resource);
    match (resource, verb) {
        ("chatservices", "get") => Sign::Counted,
        ("chatservices", "list") => Sign::Readiness(readiness::WATCHES),
        ("chatservices", _) => Sign::Readiness(readiness::WATCH_PERMISSION),
        ("chatservices/status", _) => Sign::Readiness(readiness::STATUS_PERMISSION),
        ("events", _) => Sign::Readiness(readiness::EVENTS_PERMISSION),
        (resource, "list" | "watch") => Sign::Condition(format!("may not list and watch {resource} ")),
        (_, verb) => Sign::Condition(format!("may not {verb} {name} ")),
    }
}

/// Row O13: without this one permission it is named, a service of another namespace is well, and what is given again heals.
async fn without(group: &str, resource: &str, verb: &str) -> Option<()> {
    let other = Rig::without_operator().await?;
    let mut rig = start_beside(&rules_without(resource, verb), &[&other.namespace]).await?;
    if (resource, verb) == ("pods", "patch") {
        rig.answer_for_pods().await;
    }
    give(&other, &rules_without("", ""), &rig.namespace).await;
    other.create("other", &json!({ "model": "m", "backend": { "echo": {} } })).await;
    let owner = rig.create("demo", &everything()).await;
    if verb == "delete" {
        rig.until_settled("demo").await;
        leave_behind(&rig, &owner.controller_owner_ref(&()).unwrap()).await;
        rig.merge::<ChatService>("demo", &nothing()).await;
    }
    if (resource, verb) == ("events", "patch") {
        rig.until_settled("demo").await;
        flap(&rig).await;
    }
    if (resource, verb) == ("chatservices", "get") {
        rig.until_settled("demo").await;
        spoil(&rig).await;
    }
    if (resource, verb) == ("pods", "patch") {
        rig.until_settled("demo").await;
        fall_behind(&rig).await;
    }
    let place = format!("{verb} {group}/{resource}");
    match sign(group, resource, verb) {
        Sign::Condition(words) => {
            until_some(&format!("{place}: {words}"), async || {
                let cs = rig.find::<ChatService>("demo").await.unwrap();
                let (_, reason, message) = claim(&cs, condition::READY).unwrap_or_default();
                let named = reason == "Forbidden" && message.contains(&words) && message.contains("Fix:");
                if named { Ok(()) } else { Err(format!("{reason}: {message}")) }
            })
            .await;
        }
        Sign::Readiness(what) => {
            until_some(&format!("{place}: /readyz"), async || {
                let reasons = rig.readiness.reasons();
                if reasons.contains(&what) { Ok(()) } else { Err(format!("{reasons:?}")) }
            })
            .await;
        }
        Sign::Counted => {}
    }
    let counted = format!("code=\"403\",resource=\"{}\",verb=", qualified(group, resource));
    until(&format!("{place}: the refusal to be counted"), async || {
        rig.metrics().contains(&counted).then_some(())
    })
    .await;
    other.until_ready_is("other", "True", "Available").await;
    allow(&rig, &rules_without("", "")).await;
    rig.answer.lock().unwrap().config_hash.clear();
    // What could not be read is written anew.
    let services = rig.api::<ChatService>();
    until("an object that can be read", async || services.get("demo").await.ok()).await;
    // What fails is tried again after up to half a minute.
    for _ in 0..2 {
        let healed = async {
            rig.until_settled("demo").await;
            until("readiness", async || rig.readiness.is_ready().then_some(())).await;
        };
        if tokio::time::timeout(Duration::from_secs(55), healed).await.is_ok() {
            break;
        }
        // Events are published only when something happens.
        flap(&rig).await;
    }
    rig.until_settled("demo").await;
    assert!(rig.readiness.is_ready(), "{place}: {:?}", rig.readiness.reasons());
    other.clear().await;
    rig.clear().await;
    Some(())
}

#[tokio::test]
async fn what_is_refused_of_the_services_themselves_is_told_by_readyz() {
    without("chatservice.dev", "chatservices/status", "patch").await;
}

#[tokio::test]
#[ignore = "minutes: make chaos"]
async fn each_permission_that_is_missing_is_named_and_the_others_go_on() {
    let singles = RULES.iter().flat_map(|rule| {
        let resources = rule.resources.iter();
        resources.flat_map(move |&resource| rule.verbs.iter().map(move |&verb| (rule.group, resource, verb)))
    });
    let runs: Vec<_> = singles.map(|(group, resource, verb)| without(group, resource, verb)).collect();
    let ended: Vec<_> = stream::iter(runs).buffer_unordered(6).collect().await;
    if ended.iter().all(Option::is_some) {
        println!("O13: {} verbs removed in turn: each named, each healed, the others went on", ended.len());
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
