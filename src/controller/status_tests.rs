use std::marker::PhantomData;

use serde_json::{Value, json};

use super::super::dereference::References;
use super::super::pods::Report;
use super::super::pods::Trouble;
use super::super::{Defaults, build, validate};
use super::*;
use crate::admin::{RejectedConfig, ServerStatus, StatusProblem};

fn subject(previous: ChatServiceStatus) -> Subject {
    Subject {
        namespace: "chat".into(),
        name: "demo".into(),
        uid: Some("u-1".into()),
        generation: 7,
        wanted: Some(2),
        previous,
    }
}

/// What was applied, with a Deployment whose status is `status` and whose generation is 3.
fn applied(status: &Value) -> Outcome {
    let cs = serde_json::from_value(json!({
        "apiVersion": "chatservice.dev/v1alpha1", "kind": "ChatService",
        "metadata": { "name": "demo", "namespace": "chat", "uid": "u-1", "generation": 7 },
        "spec": { "model": "m", "backend": { "echo": {} }, "replicas": 2, "redis": { "secretRef": { "name": "r" } } },
    }))
    .unwrap();
    let defaults = Defaults { server_image: "i:1".into(), allowed_images: vec![] };
    let service = validate::validate(&cs, &References::default(), &defaults).unwrap();
    let prepared = build::build(&service);
    let mut deployment = prepared.deployment;
    deployment.metadata.generation = Some(3);
    deployment.status = Some(serde_json::from_value(status.clone()).unwrap());
    let resources = Resources {
        service_account: prepared.service_account,
        config: prepared.config,
        connection: prepared.connection,
        service: prepared.service,
        admin_service: prepared.admin_service,
        pod_disruption_budget: prepared.pod_disruption_budget,
        deployment,
        replicas: 2,
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
            problems: vec![StatusProblem { reason: reason.into(), message: format!("report {reason}") }],
            ..Report::default()
        }),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// `Ready=<status> <reason>` and so on, of a status made from nothing before.
fn summary(outcome: &Outcome, pods: Vec<PodView>) -> Vec<String> {
    let status = from(&subject(ChatServiceStatus::default()), outcome, Some(&Observed { pods }), at(1));
    status.conditions.iter().map(|c| format!("{}={} {}", c.type_, c.status, c.reason)).collect()
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
        status.conditions.iter().map(|c| c.last_transition_time.0.as_second()).collect()
    };
    let first = from(&subject(ChatServiceStatus::default()), &applied(&counts(2, 2, 0)), None, at(1));
    let second = from(&subject(first.clone()), &applied(&counts(2, 2, 1)), None, at(2));
    let third = from(&subject(second.clone()), &applied(&counts(2, 2, 2)), None, at(3));
    let fourth = from(&subject(third.clone()), &applied(&counts(2, 2, 2)), None, at(4));
    assert_eq!((times(&first), times(&second), times(&third)), (vec![1, 1], vec![1, 1], vec![3]));
    assert_eq!(fourth, third, "the same observation is the same status");
}

#[test]
fn facts_come_from_what_was_applied_and_seen() {
    let connected = |ready, redis| PodView {
        server: Some(Report { redis_connected: redis, ..Report::default() }),
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
    // What was before, what is, seconds between the two.
    for (case, before, after, seconds, expected) in [
        ("a pod falls", Some(rolled(2, 2, 2)), rolled(2, 2, 1), 1, FELL),
        ("all fall", Some(rolled(2, 2, 2)), rolled(2, 2, 0), 1, FELL),
        ("a pod is gone", Some(rolled(2, 2, 2)), rolled(1, 1, 1), 1, SCALES),
        ("its successor starts", Some(rolled(1, 1, 1)), rolled(2, 2, 1), 9, SCALES),
        ("its successor never starts", Some(rolled(1, 1, 1)), rolled(2, 2, 1), 600, FELL),
        ("it was just scaled", Some(unobserved), rolled(2, 2, 1), 1, SCALES),
        ("a new rollout", Some(rolled(2, 2, 2)), starting, 1, SCALES),
        ("nothing is known of before", None, rolled(2, 2, 1), 1, SCALES),
    ] {
        let previous = before.map_or_else(ChatServiceStatus::default, |before| {
            from(&subject(ChatServiceStatus::default()), &applied(&before), None, at(1))
        });
        let status = from(&subject(previous), &applied(&after), None, at(1 + seconds));
        let found: Vec<String> =
            status.conditions.iter().map(|c| format!("{}={} {}", c.type_, c.status, c.reason)).collect();
        assert_eq!(found, expected, "{case}");
        // And it stays so.
        let again = from(&subject(status.clone()), &applied(&after), None, at(2 + seconds));
        assert_eq!(again.conditions, status.conditions, "{case}, again");
    }
}

/// A ready pod whose server runs the configuration `hash`.
fn runs(hash: &str) -> PodView {
    let said = ServerStatus { config_hash: hash.into(), ..ServerStatus::default() };
    PodView { server: Some(Report::from(said)), ..pod(true, None, None) }
}

#[test]
fn a_server_with_an_older_configuration_is_told_and_stays_ready() {
    let outcome = applied(&counts(2, 2, 2));
    let Outcome::Applied(both) = &outcome else { panic!("it was applied") };
    let hash = both.0.config.hash();
    let rejects = |rejected: Option<&str>| {
        let mut pod = runs("old");
        let message = "its static part changed".to_owned();
        let rejected = RejectedConfig { hash: rejected.map(str::to_owned), message };
        pod.server.as_mut().unwrap().rejected = Some(rejected);
        pod
    };
    let fix = "kubectl -n chat delete pod demo-x";
    for (case, pods, told) in [
        ("the same", vec![runs(&hash), runs(&hash)], None),
        ("one older", vec![runs("old"), runs(&hash)], Some(("1 of 2 ready pods", fix))),
        ("both older", vec![runs("old"), runs("older")], Some(("2 of 2 ready pods", fix))),
        ("a server that says none", vec![runs("")], None),
        ("one that is not ready", vec![PodView { ready: false, ..runs("old") }], None),
        ("one refuses it", vec![runs("old"), rejects(Some(&hash))], Some(("2 of 2", "static part changed"))),
        ("one cannot read it", vec![rejects(None)], Some(("1 of 1", "static part changed"))),
        ("one refused another", vec![rejects(Some("other"))], Some(("1 of 1", fix))),
    ] {
        let previous = subject(ChatServiceStatus::default());
        let status = from(&previous, &outcome, Some(&Observed { pods: pods.clone() }), at(1));
        assert_eq!(status.conditions[0].status, "True", "{case}");
        let reconciling = status.conditions.get(1);
        assert_eq!(reconciling.is_some(), told.is_some(), "{case}");
        assert_eq!(settled(&status, Some(&Observed { pods })), told.is_none(), "{case}");
        if let (Some(condition), Some((count, how))) = (reconciling, told) {
            assert_eq!(condition.reason, reason::CONFIG_PROPAGATING, "{case}");
            assert!(condition.message.contains(count), "{case}: {}", condition.message);
            assert!(condition.message.contains(how), "{case}: {}", condition.message);
        }
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
    let found: Vec<&str> = after.conditions.iter().map(|c| c.reason.as_str()).collect();
    assert_eq!(found, [reason::MINIMUM_REPLICAS_UNAVAILABLE]);
}
