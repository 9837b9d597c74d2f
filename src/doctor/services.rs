//! What ChatServices say of themselves, their pods and their Redis. In: their statuses, and what the kubelet says of pods. Out: what is
//! wrong with which, with the fix that its message names.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;
use serde_json::Value;

use super::{Diagnosis, DoctorOptions, PAGE, State, ask};
use crate::constants::{condition, label, reason};
use crate::controller::names::ServiceName;
use crate::controller::pods;
use crate::crd::ChatService;

/// The part of a ChatService that is looked at. Read leniently: one that is damaged must not hide the others.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Seen {
    pub(super) spec: Value,
    status: SeenStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SeenStatus {
    conditions: Vec<SeenCondition>,
    redis: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SeenCondition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
    reason: String,
    message: String,
}

/// A ChatService.
pub(super) struct Service {
    namespace: String,
    name: String,
    pub(super) seen: Seen,
}

impl Service {
    fn place(&self) -> String {
        format!("ChatService \"{}\" in namespace \"{}\"", self.name, self.namespace)
    }

    fn condition(&self, type_: &str) -> Option<&SeenCondition> {
        self.seen.status.conditions.iter().find(|condition| condition.type_ == type_)
    }
}

/// Looks at all of them.
pub(super) async fn look(client: &Client, options: &DoctorOptions, found: &mut Diagnosis) -> Vec<Service> {
    let kind = ApiResource::erase::<ChatService>(&());
    let api: Api<DynamicObject> = match &options.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &kind),
        None => Api::all_with(client.clone(), &kind),
    };
    let mut all = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = match ask(api.list(&params)).await {
            Ok(page) => page,
            Err(error) => {
                found.check("ChatServices", State::Unknown, format!("cannot be listed: {error}"));
                return all;
            }
        };
        params.continue_token = page.metadata.continue_.clone().filter(|token| !token.is_empty());
        all.extend(page.items.into_iter().map(|object| Service {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            seen: serde_json::from_value(object.data).unwrap_or_default(),
        }));
        if params.continue_token.is_none() {
            break;
        }
    }
    let before = found.problems.len();
    for service in &all {
        judge(service, found);
    }
    let ready = |service: &&Service| service.condition(condition::READY).is_some_and(|c| c.status == "True");
    let well = found.problems.len() == before;
    let says = format!("{} of {} are Ready", all.iter().filter(ready).count(), all.len());
    found.check("ChatServices", if well { State::Well } else { State::Ill }, says);
    pods_of(client, &all, found).await;
    all
}

/// What a ChatService says of itself.
fn judge(service: &Service, found: &mut Diagnosis) {
    let place = service.place();
    let Some(ready) = service.condition(condition::READY) else {
        return found.problem(
            format!("{place} has no status."),
            "No operator has looked at it.",
            format!(
                "see that an operator runs that watches namespace \"{}\" (chart: watchNamespaces)",
                service.namespace
            ),
        );
    };
    if ready.reason == reason::PAUSED {
        return;
    }
    for condition in &service.seen.status.conditions {
        // Reconciling and Stalled are bad when true, and said by Ready then; the others are good when true.
        if condition.status != "False"
            || [condition::RECONCILING, condition::STALLED].contains(&condition.type_.as_str())
            || [reason::PROGRESSING, reason::DISABLED].contains(&condition.reason.as_str())
        {
            continue;
        }
        let what = format!("{place} is not {}: {}.", condition.type_, condition.reason);
        let (details, fix) = condition.message.split_once(" Fix: ").unwrap_or((&condition.message, ""));
        let look = format!("kubectl -n {} describe chat/{}", service.namespace, service.name);
        found.problem(what, details, if fix.is_empty() { look } else { fix.to_owned() });
    }
}

/// What the kubelet says of pods whose ChatService does not say it already.
async fn pods_of(client: &Client, services: &[Service], found: &mut Diagnosis) {
    let mut ill = 0;
    let mut known = true;
    let mut seen = 0;
    for service in services {
        if service.condition(condition::READY).is_some_and(|ready| ready.status == "True") {
            continue;
        }
        let Some(name) = ServiceName::new(&service.name) else { continue };
        let api: Api<Pod> = Api::namespaced(client.clone(), &service.namespace);
        let params = ListParams::default().labels(&name.selector_text()).limit(PAGE);
        let Ok(list) = ask(api.list(&params)).await else {
            known = false;
            continue;
        };
        let troubles: BTreeSet<String> =
            list.iter().filter_map(|pod| pods::view(pod).trouble).map(|trouble| trouble.message).collect();
        seen += list.items.len();
        for message in troubles {
            ill += 1;
            let said = service.seen.status.conditions.iter().any(|condition| condition.message == message);
            if said {
                continue;
            }
            let (details, fix) = message.split_once(" Fix: ").unwrap_or((&message, ""));
            let look = format!("kubectl -n {} describe pods -l {}", service.namespace, name.selector_text());
            let fix = if fix.is_empty() { look } else { fix.to_owned() };
            found.problem(format!("A pod of {} is in trouble.", service.place()), details, fix);
        }
    }
    match (ill, known) {
        (0, true) if seen == 0 => {}
        (0, true) => found.check("pods", State::Well, "none of those that are not ready is in trouble"),
        (0, false) => found.check("pods", State::Unknown, "cannot be listed"),
        (ill, _) => found.check("pods", State::Ill, format!("{ill} are in trouble")),
    }
}

/// Redis as the pods saw it last.
pub(super) fn redis(services: &[Service], found: &mut Diagnosis) {
    let using: Vec<&Service> =
        services.iter().filter(|service| service.seen.spec.get("redis").is_some()).collect();
    if using.is_empty() {
        return found.check("Redis", State::Unknown, "not needed: no ChatService uses it");
    }
    let away: Vec<&&Service> =
        using.iter().filter(|service| service.seen.status.redis.as_deref() == Some("Unreachable")).collect();
    let state = if away.is_empty() { State::Well } else { State::Ill };
    found.check("Redis", state, format!("{} of {} reach theirs", using.len() - away.len(), using.len()));
    for service in away {
        // Where a condition says more, it was said above.
        if service.condition(condition::STATE_SHARED).is_some_and(|shared| shared.status == "False") {
            continue;
        }
        let secret = service.seen.spec.pointer("/redis/secretRef/name").and_then(Value::as_str).unwrap_or("");
        found.problem(
            format!("The pods of {} do not reach Redis.", service.place()),
            "They serve with limits and cache of their own, and keep no conversations.",
            format!(
                "see that Redis runs, that the Secret \"{secret}\" has its address and password, and that no NetworkPolicy is between: kubectl -n {} logs -l {}={}",
                service.namespace, label::INSTANCE, service.name
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Problem;
    use super::*;

    fn service(object: &Value) -> Service {
        Service {
            namespace: "chat".into(),
            name: "demo".into(),
            seen: serde_json::from_value(object.clone()).unwrap(),
        }
    }

    fn judged(conditions: &Value) -> Vec<Problem> {
        let mut found = Diagnosis::default();
        judge(&service(&json!({ "status": { "conditions": conditions } })), &mut found);
        found.problems
    }

    #[test]
    fn a_condition_that_is_false_is_a_problem_with_the_fix_of_its_message() {
        let message =
            "Secret \"openai\" in namespace \"chat\" does not exist. Fix: kubectl -n chat create secret";
        let problems = judged(&json!([
            { "type": "Ready", "status": "False", "reason": "SecretNotFound", "message": message },
            { "type": "Stalled", "status": "True", "reason": "SecretNotFound", "message": message },
            { "type": "ConfigApplied", "status": "False", "reason": "Rejected", "message": "a pod kept its last one" },
        ]));
        assert_eq!(problems.len(), 2);
        assert_eq!(
            problems[0].what,
            "ChatService \"demo\" in namespace \"chat\" is not Ready: SecretNotFound."
        );
        assert_eq!(problems[0].details, "Secret \"openai\" in namespace \"chat\" does not exist.");
        assert_eq!(problems[0].fix, "kubectl -n chat create secret");
        assert_eq!(problems[1].fix, "kubectl -n chat describe chat/demo");
    }

    #[test]
    fn what_is_on_its_way_or_paused_or_good_is_no_problem() {
        for conditions in [
            json!([{ "type": "Ready", "status": "True", "reason": "Available", "message": "" }]),
            json!([{ "type": "Ready", "status": "False", "reason": "Progressing", "message": "0 of 1" }]),
            json!([{ "type": "Ready", "status": "False", "reason": "Paused", "message": "" }]),
            json!([
                { "type": "Ready", "status": "True", "reason": "Available" },
                { "type": "Reconciling", "status": "False", "reason": "Done" },
                { "type": "AutoscalingReady", "status": "False", "reason": "Disabled" },
                { "type": "BackendReachable", "status": "Unknown", "reason": "NotObserved" },
            ]),
        ] {
            assert_eq!(judged(&conditions), [], "{conditions}");
        }
        assert_eq!(judged(&json!([])).len(), 1, "nobody has looked at it");
    }

    #[test]
    fn redis_is_judged_by_what_the_pods_said() {
        let found = |redis: Value, status: Value| {
            let mut found = Diagnosis::default();
            let object = json!({ "spec": { "redis": redis }, "status": { "redis": status } });
            let object = if redis.is_null() { json!({ "spec": {} }) } else { object };
            super::redis(&[service(&object)], &mut found);
            (found.checks[0].state, found.problems.len())
        };
        let reference = json!({ "secretRef": { "name": "r" } });
        assert_eq!(found(json!(null), json!(null)), (State::Unknown, 0));
        assert_eq!(found(reference.clone(), json!("Connected")), (State::Well, 0));
        assert_eq!(found(reference, json!("Unreachable")), (State::Ill, 1));
    }
}
