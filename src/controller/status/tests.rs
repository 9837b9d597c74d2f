use std::marker::PhantomData;

use serde_json::{Value, json};

use super::super::dereference::References;
use super::super::pods::{PodView, Report, Trouble};
use super::super::workload::{Autoscale, Scale};
use super::super::{Defaults, build, validate};
use super::*;
use crate::admin::{RejectedConfig, StatusProblem};
use crate::constants::reason;

pub(super) fn subject(previous: ChatServiceStatus) -> Subject {
    Subject {
        namespace: "chat".into(),
        name: "demo".into(),
        uid: Some("u-1".into()),
        generation: 7,
        wanted: Some(2),
        previous,
    }
}

pub(super) fn service() -> ValidatedChatService {
    let cs = serde_json::from_value(json!({
        "apiVersion": "chatservice.dev/v1alpha1", "kind": "ChatService",
        "metadata": { "name": "demo", "namespace": "chat", "uid": "u-1", "generation": 7 },
        "spec": { "model": "m", "backend": { "echo": {} }, "replicas": 2, "redis": { "secretRef": { "name": "r" } } },
    }))
    .unwrap();
    let defaults = Defaults { server_image: "i:1".into(), allowed_images: vec![], operator: None };
    validate::validate(&cs, &References::default(), &defaults).unwrap()
}

/// What was applied, with a Deployment whose status is `status` and whose generation is 3.
fn applied(status: &Value) -> Outcome {
    let service = service();
    let prepared = build::build(&service);
    let mut deployment = prepared.deployment;
    deployment.metadata.generation = Some(3);
    deployment.spec.replicas = Some(2);
    deployment.status = Some(serde_json::from_value(status.clone()).unwrap());
    let resources = Resources {
        service_account: prepared.service_account,
        config: prepared.config,
        connection: prepared.connection,
        service: prepared.service,
        admin_service: prepared.admin_service,
        network_policy: prepared.network_policy,
        pod_disruption_budget: prepared.pod_disruption_budget,
        deployment,
        replicas: Some(2),
        horizontal_pod_autoscaler: prepared.horizontal_pod_autoscaler,
        state: PhantomData,
    };
    Outcome::Applied(Box::new((service, resources)))
}

fn counts(total: i32, updated: i32, ready: i32) -> Value {
    json!({ "observedGeneration": 3, "replicas": total, "updatedReplicas": updated, "readyReplicas": ready, "availableReplicas": ready })
}

fn pod(ready: bool, problem: Option<&str>, trouble: Option<&'static str>) -> PodView {
    PodView {
        name: "demo-x".into(),
        ready,
        trouble: trouble.map(|reason| Trouble { reason, message: format!("trouble {reason}") }),
        server: problem.map(|reason| Report {
            config_hash: service().config.hash(),
            problems: vec![StatusProblem { reason: reason.into(), message: format!("report {reason}") }],
            ..Report::default()
        }),
        ..PodView::default()
    }
}

/// A ready pod whose server runs the configuration `hash`.
pub(super) fn runs(hash: &str) -> PodView {
    PodView {
        server: Some(Report { config_hash: hash.into(), ..Report::default() }),
        ..pod(true, None, None)
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn find<'a>(status: &'a ChatServiceStatus, type_: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == type_)
}

/// `Ready=<status> <reason>` and so on: the conditions that tools judge by.
fn judged(status: &ChatServiceStatus) -> Vec<String> {
    let types = [condition::READY, condition::RECONCILING, condition::STALLED];
    let judged = status.conditions.iter().filter(|c| types.contains(&c.type_.as_str()));
    judged.map(|c| format!("{}={} {}", c.type_, c.status, c.reason)).collect()
}

/// The same of a status made from nothing before.
fn summary(outcome: &Outcome, pods: Vec<PodView>) -> Vec<String> {
    judged(&from(&subject(ChatServiceStatus::default()), outcome, Some(&Observed { pods }), at(1)))
}

#[test]
fn conditions_follow_what_was_observed() {
    let late = |ready| {
        let mut status = counts(2, 2, ready);
        status["conditions"] =
            json!([{ "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded" }]);
        status
    };
    let mut quota = counts(0, 0, 0);
    quota["conditions"] =
        json!([{ "type": "ReplicaFailure", "status": "True", "message": "exceeded quota: small" }]);
    let mut policy = counts(0, 0, 0);
    policy["conditions"] =
        json!([{ "type": "ReplicaFailure", "status": "True", "message": "denied: unsigned" }]);
    let mut stale = counts(2, 2, 2);
    stale["observedGeneration"] = json!(2);
    let cases: [(&str, Value, Vec<PodView>, &[&str]); 15] = [
        ("all pods ready", counts(2, 2, 2), vec![], &["Ready=True Available"]),
        ("nothing observed", json!({}), vec![], &["Ready=False Progressing", "Reconciling=True ScalingUp"]),
        ("an older generation", stale, vec![], &["Ready=False Progressing", "Reconciling=True ScalingUp"]),
        ("one of two", counts(2, 2, 1), vec![], &["Ready=False Progressing", "Reconciling=True ScalingUp"]),
        (
            "old pods left",
            counts(3, 1, 2),
            vec![],
            &["Ready=False Progressing", "Reconciling=True RollingOut"],
        ),
        ("pods too many", counts(4, 4, 4), vec![], &["Ready=True Available", "Reconciling=True ScalingUp"]),
        (
            "a pod without its Secret",
            counts(2, 2, 1),
            vec![pod(false, Some(reason::SECRET_NOT_FOUND), None)],
            &["Ready=False SecretNotFound", "Reconciling=True ScalingUp"],
        ),
        (
            "a Secret that vanished under ready pods",
            counts(2, 2, 2),
            vec![pod(true, Some(reason::SECRET_NOT_FOUND), None)],
            &["Ready=True Available"],
        ),
        (
            "a Secret is more telling than a crash",
            counts(2, 2, 0),
            vec![
                pod(false, None, Some(reason::CRASH_LOOPING)),
                pod(false, Some(reason::SECRET_KEY_MISSING), None),
            ],
            &["Ready=False SecretKeyMissing", "Reconciling=True ScalingUp"],
        ),
        (
            "an image",
            counts(2, 2, 0),
            vec![pod(false, None, Some(reason::IMAGE_PULL_FAILED))],
            &["Ready=False ImagePullFailed", "Reconciling=True ScalingUp"],
        ),
        ("a quota", quota, vec![], &["Ready=False QuotaExceeded", "Reconciling=True ScalingUp"]),
        (
            "pods that a policy refuses",
            policy,
            vec![],
            &["Ready=False MinimumReplicasUnavailable", "Reconciling=True ScalingUp"],
        ),
        (
            "no progress and nobody knows why",
            late(0),
            vec![],
            &["Ready=False MinimumReplicasUnavailable", "Stalled=True ProgressDeadlineExceeded"],
        ),
        (
            "no progress for a reason that can heal",
            late(0),
            vec![pod(false, Some(reason::SECRET_NOT_FOUND), None)],
            &["Ready=False SecretNotFound"],
        ),
        (
            "a reason of a newer server",
            counts(2, 2, 0),
            vec![pod(false, Some("FromTheFuture"), None)],
            &["Ready=False MinimumReplicasUnavailable", "Reconciling=True ScalingUp"],
        ),
    ];
    for (case, deployment, pods, expected) in cases {
        assert_eq!(summary(&applied(&deployment), pods), expected, "{case}");
    }
}

#[test]
fn a_refused_spec_stalls_with_every_problem() {
    let problem = |reason, message: &str| Problem { reason, field: "spec.x".into(), message: message.into() };
    let outcome = Outcome::Refused(vec![
        problem(reason::INVALID_SPEC, "one"),
        problem(reason::IMAGE_NOT_ALLOWED, "two"),
    ]);
    assert_eq!(summary(&outcome, vec![]), ["Ready=False InvalidSpec", "Stalled=True InvalidSpec"]);
    let status = from(&subject(ChatServiceStatus::default()), &outcome, None, at(1));
    assert_eq!(status.conditions[0].message, "spec.x: one; spec.x: two");
    assert_eq!(status.observed_generation, Some(7));
    assert!(settled(&status, None));
}

#[test]
fn a_pause_says_how_to_end_it() {
    let status = from(&subject(ChatServiceStatus::default()), &Outcome::Paused, None, at(1));
    assert_eq!(status.conditions[0].reason, reason::PAUSED);
    assert!(
        status.conditions[0].message.ends_with("kubectl -n chat annotate chat/demo chatservice.dev/paused-")
    );
}

#[test]
fn a_failure_that_the_next_try_may_heal_changes_nothing() {
    let before = from(&subject(ChatServiceStatus::default()), &applied(&counts(2, 2, 2)), None, at(1));
    let after = from(&subject(before.clone()), &Outcome::Failed(Error::Deadline(30)), None, at(2));
    assert_eq!(after, before);
}

#[test]
fn transition_times_change_only_with_the_status_of_their_condition() {
    let times = |status: &ChatServiceStatus| -> Vec<i64> {
        let types = [condition::READY, condition::RECONCILING, condition::CONFIG_APPLIED];
        let dated = types.iter().filter_map(|type_| find(status, type_));
        dated.map(|c| c.last_transition_time.0.as_second()).collect()
    };
    let first = from(&subject(ChatServiceStatus::default()), &applied(&counts(2, 2, 0)), None, at(1));
    let second = from(&subject(first.clone()), &applied(&counts(2, 2, 1)), None, at(2));
    let third = from(&subject(second.clone()), &applied(&counts(2, 2, 2)), None, at(3));
    let fourth = from(&subject(third.clone()), &applied(&counts(2, 2, 2)), None, at(4));
    assert_eq!((times(&first), times(&second), times(&third)), (vec![1, 1, 1], vec![1, 1, 1], vec![3, 1]));
    assert_eq!(fourth, third, "the same observation is the same status");
}

#[test]
fn facts_come_from_what_was_applied_and_seen() {
    let connected = |ready, redis| PodView {
        server: Some(Report { redis, ..Report::default() }),
        ..pod(ready, None, None)
    };
    for (pods, redis) in [
        (vec![], "Unknown"),
        (vec![connected(true, Some(true))], "Connected"),
        (vec![connected(true, Some(true)), connected(true, Some(false))], "Unreachable"),
    ] {
        let status = from(
            &subject(ChatServiceStatus::default()),
            &applied(&counts(2, 2, 1)),
            Some(&Observed { pods }),
            at(1),
        );
        assert_eq!(status.redis.as_deref(), Some(redis));
        assert_eq!(status.pods.as_deref(), Some("1/2"));
        assert_eq!(status.endpoint.as_deref(), Some("http://demo.chat.svc:8080/v1"));
        assert_eq!((status.image.as_deref(), status.backend.as_deref()), (Some("i:1"), Some("echo")));
        assert_eq!(
            (status.replicas, status.ready_replicas, status.updated_replicas),
            (Some(2), Some(1), Some(2))
        );
        assert!(status.selector.unwrap().contains("app.kubernetes.io/instance=demo"));
    }
}

#[test]
fn what_a_pod_says_is_bounded() {
    let mut long = pod(false, Some(reason::SECRET_NOT_FOUND), None);
    long.server.as_mut().unwrap().problems[0].message = "é".repeat(5000);
    let status = from(
        &subject(ChatServiceStatus::default()),
        &applied(&counts(2, 2, 1)),
        Some(&Observed { pods: vec![long] }),
        at(1),
    );
    assert!(status.conditions[0].message.len() <= MESSAGE_MAX);
}

/// Two wanted pods of a rollout that came to its end.
fn rolled(total: i32, updated: i32, ready: i32) -> Value {
    let mut status = counts(total, updated, ready);
    status["conditions"] =
        json!([{ "type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable" }]);
    status
}

#[test]
fn pods_that_fall_after_a_rollout_are_no_progress() {
    const FELL: &[&str] = &["Ready=False MinimumReplicasUnavailable"];
    const SCALES: &[&str] = &["Ready=False Progressing", "Reconciling=True ScalingUp"];
    let unobserved = {
        let mut status = rolled(2, 2, 2);
        status["observedGeneration"] = json!(2);
        status
    };
    let starting = counts(2, 2, 1);
    let late = |ready: bool| PodView { overdue: !ready, ..pod(ready, None, None) };
    let starts = || vec![pod(true, None, None), pod(false, None, None)];
    // What was before, what is, and the pods.
    for (case, before, after, pods, expected) in [
        ("a pod falls", Some(rolled(2, 2, 2)), rolled(2, 2, 1), starts(), FELL),
        ("all fall", Some(rolled(2, 2, 2)), rolled(2, 2, 0), vec![], FELL),
        ("a pod is gone", Some(rolled(2, 2, 2)), rolled(1, 1, 1), vec![], SCALES),
        ("its successor starts", Some(rolled(1, 1, 1)), rolled(2, 2, 1), starts(), SCALES),
        (
            "its successor never starts",
            Some(rolled(1, 1, 1)),
            rolled(2, 2, 1),
            vec![late(true), late(false)],
            FELL,
        ),
        (
            "one of two never starts",
            Some(rolled(1, 1, 1)),
            rolled(2, 2, 0),
            vec![late(false), pod(false, None, None)],
            SCALES,
        ),
        ("it was just scaled", Some(unobserved), rolled(2, 2, 1), starts(), SCALES),
        ("a new rollout", Some(rolled(2, 2, 2)), starting, starts(), SCALES),
        ("nothing is known of before", None, rolled(2, 2, 1), starts(), SCALES),
    ] {
        let previous = before.map_or_else(ChatServiceStatus::default, |before| {
            from(&subject(ChatServiceStatus::default()), &applied(&before), None, at(1))
        });
        let observed = Observed { pods };
        let status = from(&subject(previous), &applied(&after), Some(&observed), at(2));
        assert_eq!(judged(&status), expected, "{case}");
        // And it stays so, whatever the time is.
        let again = from(&subject(status.clone()), &applied(&after), Some(&observed), at(100_000));
        assert_eq!(again.conditions, status.conditions, "{case}, again");
    }
}

#[test]
fn a_server_with_an_older_configuration_is_told_and_stays_ready() {
    let outcome = applied(&counts(2, 2, 2));
    let hash = service().config.hash();
    let silent = PodView { server: None, ..runs("") };
    let lost = PodView { unreachable: true, ..silent.clone() };
    let mut refuses = runs("old");
    let rejected =
        RejectedConfig { hash: Some(hash.clone()), message: "no key for this host. Fix: x".into() };
    refuses.server.as_mut().unwrap().rejected = Some(rejected);
    for (case, pods, under_way, ready) in [
        ("the same", vec![runs(&hash), runs(&hash)], false, "2 of 2 pods are ready"),
        ("one older", vec![runs("old"), runs(&hash)], true, "2 of 2 pods are ready"),
        ("not asked yet", vec![silent.clone(), runs(&hash)], true, "2 of 2 pods are ready"),
        ("not to be reached", vec![lost, runs(&hash)], false, "2 of 2 pods are ready"),
        ("one refuses it", vec![runs(&hash), refuses], true, "no key for this host. Fix: x"),
        ("one that is not ready", vec![PodView { ready: false, ..runs("old") }], false, "2 of 2"),
    ] {
        let pods = Observed { pods };
        let status = from(&subject(ChatServiceStatus::default()), &outcome, Some(&pods), at(1));
        assert_eq!(status.conditions[0].status, "True", "{case}");
        assert!(status.conditions[0].message.contains(ready), "{case}: {}", status.conditions[0].message);
        let found = find(&status, condition::RECONCILING).map(|c| c.reason.as_str());
        assert_eq!(found, under_way.then_some(reason::CONFIG_PROPAGATING), "{case}");
        assert_eq!(settled(&status, Some(&pods)), !under_way, "{case}");
        let applied = find(&status, condition::CONFIG_APPLIED).unwrap();
        assert_eq!(status.config.as_ref().unwrap().hash, hash, "{case}");
        assert_eq!(applied.observed_generation, Some(7), "{case}");
    }
}

#[test]
fn a_pod_that_falls_while_a_configuration_propagates_is_no_scaling() {
    let pods = vec![runs("old")];
    let before = from(
        &subject(ChatServiceStatus::default()),
        &applied(&rolled(2, 2, 2)),
        Some(&Observed { pods }),
        at(1),
    );
    assert_eq!(before.conditions[1].reason, reason::CONFIG_PROPAGATING);
    let after = from(&subject(before), &applied(&rolled(2, 2, 1)), Some(&Observed::default()), at(2));
    assert_eq!(judged(&after), ["Ready=False MinimumReplicasUnavailable"]);
}

#[test]
fn what_was_learnt_of_a_configuration_stands_while_nothing_is_written() {
    let pods = Observed { pods: vec![runs(&service().config.hash())] };
    let before = from(&subject(ChatServiceStatus::default()), &applied(&rolled(2, 2, 2)), Some(&pods), at(1));
    let mut later = subject(before.clone());
    later.generation = 8;
    let problem = Problem { reason: reason::INVALID_SPEC, field: String::new(), message: "m".into() };
    for outcome in [Outcome::Paused, Outcome::Refused(vec![problem])] {
        let after = from(&later, &outcome, Some(&Observed::default()), at(2));
        for type_ in [condition::CONFIG_APPLIED, condition::STATE_SHARED] {
            let kept = find(&after, type_).unwrap();
            assert_eq!(Some(kept), find(&before, type_));
            assert_eq!(kept.observed_generation, Some(7), "it speaks of the generation that was written");
        }
        assert_eq!(after.config, before.config);
        let met = find(&after, condition::BACKEND_REACHABLE).unwrap();
        assert_eq!(met.observed_generation, Some(8), "what pods meet is still observed");
        assert_eq!(after.pods.as_deref(), Some("0/2"));
    }
}

/// The same service with an autoscaler, whose Deployment stands at 5 pods of which so many are ready.
fn autoscaled(ready: i32, conditions: &Value) -> Outcome {
    let Outcome::Applied(mut applied) = applied(&rolled(5, 5, ready)) else {
        panic!("every child is written");
    };
    let (service, resources) = applied.as_mut();
    service.scale = Scale::Auto(Autoscale { min: 2, max: 9, metrics: Vec::new(), behavior: None });
    resources.deployment.spec.replicas = Some(5);
    resources.horizontal_pod_autoscaler = serde_json::from_value(json!({
        "metadata": { "name": "demo" },
        "spec": { "maxReplicas": 9, "scaleTargetRef": { "kind": "Deployment", "name": "demo" } },
        "status": { "desiredReplicas": 5, "conditions": conditions },
    }))
    .unwrap();
    Outcome::Applied(applied)
}

#[test]
fn autoscaling_is_what_the_autoscaler_says() {
    let condition = |type_: &str, status: &str, reason: &str| json!({ "type": type_, "status": status, "reason": reason });
    for (conditions, expected, part) in [
        (json!([]), "Unknown MetricsUnavailable", "has not looked"),
        (
            json!([condition("ScalingActive", "True", "ValidMetricFound")]),
            "True ScalingActive",
            "from 2 to 9 pods",
        ),
        (
            json!([condition("ScalingActive", "False", "FailedGetResourceMetric")]),
            "False MetricsUnavailable",
            "FailedGetResourceMetric",
        ),
        (
            json!([
                condition("AbleToScale", "False", "FailedGetScale"),
                condition("ScalingActive", "True", "x")
            ]),
            "False MetricsUnavailable",
            "kubectl -n chat describe hpa demo",
        ),
    ] {
        let status = from(&subject(ChatServiceStatus::default()), &autoscaled(5, &conditions), None, at(1));
        let found = find(&status, condition::AUTOSCALING_READY).unwrap();
        assert_eq!(format!("{} {}", found.status, found.reason), expected);
        assert!(found.message.contains(part), "{}", found.message);
    }
    let status = from(&subject(ChatServiceStatus::default()), &applied(&counts(2, 2, 2)), None, at(1));
    assert_eq!(find(&status, condition::AUTOSCALING_READY).unwrap().reason, reason::DISABLED);
}

#[test]
fn pods_that_an_autoscaler_adds_leave_it_ready_as_long_as_the_fewest_serve() {
    let judged_with = |ready| {
        let status =
            from(&subject(ChatServiceStatus::default()), &autoscaled(ready, &json!([])), None, at(1));
        (judged(&status), status.pods)
    };
    let growing = vec!["Ready=True Available".to_owned(), "Reconciling=True ScalingUp".to_owned()];
    assert_eq!(judged_with(5), (vec!["Ready=True Available".to_owned()], Some("5/5".to_owned())));
    assert_eq!(judged_with(3), (growing.clone(), Some("3/5".to_owned())));
    assert_eq!(judged_with(2), (growing, Some("2/5".to_owned())));
    assert_eq!(judged_with(1).0[0], "Ready=False Progressing");
}
