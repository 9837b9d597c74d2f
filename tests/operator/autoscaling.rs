//! Who sets the number of pods: the spec, an autoscaler of ours, one of somebody else.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chatservice::constants::condition;
use chatservice::crd::ChatService;
use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::metrics;
use crate::rig::{self, End, Rig, claim, until_some};

fn fixed(replicas: i32) -> Value {
    json!({ "model": "m", "backend": { "echo": {} }, "replicas": replicas })
}

fn autoscaled(min: i32, max: i32) -> Value {
    let mut spec = fixed(1);
    spec["autoscaling"] = json!({ "minReplicas": min, "maxReplicas": max });
    spec
}

/// Waits until the Deployment wants so many pods.
async fn until_wanted(rig: &Rig, replicas: i32) {
    until_some(&format!("{replicas} pods"), async || {
        let found = rig.find::<Deployment>("demo").await.and_then(|deployment| deployment.spec.replicas);
        if found == Some(replicas) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

/// Waits until `AutoscalingReady` has this status and reason; its message.
async fn until_autoscaling(rig: &Rig, status: &str, reason: &str) -> String {
    until_some(&format!("AutoscalingReady={status} {reason}"), async || {
        let cs = rig.find::<ChatService>("demo").await.unwrap();
        match claim(&cs, condition::AUTOSCALING_READY) {
            Some((s, r, message)) if s == status && r == reason => Ok(message),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

/// Makes the operator look.
async fn touch(rig: &Rig, round: usize) {
    let touched = json!({ "metadata": { "annotations": { "example.com/touched": round.to_string() } } });
    rig.merge::<ChatService>("demo", &touched).await;
}

/// How often the number of pods was written by us.
fn numbers_written(rig: &Rig) -> usize {
    rig.recorded.count("PATCH", "fieldManager=chatservice-controller-replicas")
}

#[tokio::test]
async fn an_autoscaler_comes_and_goes_with_the_spec_and_the_budget_with_it() {
    let Some(rig) = rig::start().await else { return };
    rig.create("demo", &autoscaled(2, 5)).await;
    rig.until_settled("demo").await;
    let autoscaler = rig.find::<HorizontalPodAutoscaler>("demo").await.unwrap();
    assert_eq!((autoscaler.spec.min_replicas, autoscaler.spec.max_replicas), (Some(2), 5));
    assert!(rig.find::<PodDisruptionBudget>("demo").await.is_some());
    until_wanted(&rig, 2).await;
    // Nobody serves metrics for these pods, so nothing is scaled by load, and that is said.
    let message = until_autoscaling(&rig, "False", "MetricsUnavailable").await;
    assert!(message.contains("describe hpa demo"), "{message}");
    let cs = rig.until_settled("demo").await;
    assert_eq!(claim(&cs, condition::READY).unwrap().0, "True", "the pods serve all the same");

    rig.api::<HorizontalPodAutoscaler>().delete("demo", &DeleteParams::default()).await.unwrap();
    until_some("the autoscaler to come back", async || {
        let found = rig.find::<HorizontalPodAutoscaler>("demo").await.and_then(|again| again.uid());
        if found.is_some() && found != autoscaler.uid() { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    rig.merge::<ChatService>("demo", &json!({ "spec": { "autoscaling": null } })).await;
    until_wanted(&rig, 1).await;
    until_autoscaling(&rig, "False", "Disabled").await;
    until_some("autoscaler and budget to go", async || {
        let left = (
            rig.find::<HorizontalPodAutoscaler>("demo").await.is_some(),
            rig.find::<PodDisruptionBudget>("demo").await.is_some(),
        );
        if left == (false, false) { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    rig.stop().await;
}

#[tokio::test]
async fn a_deployment_made_anew_under_an_autoscaler_begins_with_as_many_pods_as_there_were() {
    let Some(rig) = rig::start().await else { return };
    rig.create("demo", &autoscaled(2, 9)).await;
    rig.until_settled("demo").await;
    // As an autoscaler does it.
    let patch = Patch::Merge(json!({ "spec": { "replicas": 6 } }));
    rig.api::<Deployment>().patch_scale("demo", &PatchParams::default(), &patch).await.unwrap();
    until_some("the status to count them", async || {
        let cs = rig.until_settled("demo").await;
        let pods = cs.status.and_then(|status| status.pods);
        if pods.as_deref() == Some("6/6") { Ok(()) } else { Err(format!("{pods:?}")) }
    })
    .await;
    let before = rig.find::<Deployment>("demo").await.unwrap().uid();
    rig.api::<Deployment>().delete("demo", &DeleteParams::background()).await.unwrap();
    until_some("it to come back", async || {
        let found = rig.find::<Deployment>("demo").await;
        let (uid, replicas) = found.map(|d| (d.uid(), d.spec.replicas)).unwrap_or_default();
        if uid.is_some() && uid != before && replicas == Some(6) {
            Ok(())
        } else {
            Err(format!("{replicas:?}"))
        }
    })
    .await;
    rig.stop().await;
}

/// Every number of pods that the Deployment of `demo` was seen to want.
struct Samples {
    seen: Arc<Mutex<Vec<i32>>>,
    _task: JoinSet<()>,
}

impl Samples {
    fn watch(rig: &Rig) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let deployments: Api<Deployment> = rig.api();
        let (into, mut task) = (Arc::clone(&seen), JoinSet::new());
        task.spawn(async move {
            let config = watcher::Config::default().fields("metadata.name=demo");
            let mut events = std::pin::pin!(watcher(deployments, config).applied_objects());
            while let Some(event) = events.next().await {
                into.lock().unwrap().push(event.unwrap().spec.replicas.unwrap());
            }
        });
        Self { seen, _task: task }
    }

    /// What was seen since the last call, the last of before too.
    fn take(&self) -> Vec<i32> {
        let mut seen = self.seen.lock().unwrap();
        let last = seen.last().copied();
        let taken = std::mem::take(&mut *seen);
        seen.extend(last);
        taken
    }
}

/// O10: the number of pods in both directions, out of 0 too, while other parts of the spec change all the time.
#[tokio::test]
async fn handing_over_the_number_of_pods_never_dips() {
    let Some(rig) = rig::start().await else { return };
    rig.create("demo", &fixed(5)).await;
    rig.until_settled("demo").await;
    let samples = Samples::watch(&rig);
    until_some("the first sample", async || {
        if samples.seen.lock().unwrap().is_empty() { Err(String::new()) } else { Ok(()) }
    })
    .await;
    // Without metrics an autoscaler only keeps to its bounds; out of 0 it begins with what it likes within them.
    let auto = |min: i32, max: i32| {
        (json!({ "autoscaling": { "minReplicas": min, "maxReplicas": max } }), min..=max)
    };
    let count = |replicas: i32| (json!({ "autoscaling": null, "replicas": replicas }), replicas..=replicas);
    let rounds = [
        auto(2, 8),
        count(5),
        auto(6, 8),
        count(3),
        auto(1, 2),
        count(7),
        auto(7, 9),
        count(0),
        auto(4, 9),
        count(2),
        auto(1, 9),
        count(0),
        auto(1, 3),
        count(6),
    ];
    let (mut before, mut dips, mut looks) = (5, Vec::new(), 0);
    for (round, (spec, bounds)) in rounds.into_iter().cycle().take(42).enumerate() {
        rig.merge::<ChatService>("demo", &json!({ "spec": spec })).await;
        // A change of the pods and one of the configuration, in the middle of the hand-over.
        let annotations = json!({ "round": round.to_string() });
        let other =
            json!({ "spec": { "model": format!("m{round}"), "pod": { "annotations": annotations } } });
        let generation = rig.merge::<ChatService>("demo", &other).await.metadata.generation;
        let auto = spec["autoscaling"].is_object();
        let after = until_some(&format!("round {round}: {spec}"), async || {
            let cs = rig.find::<ChatService>("demo").await.unwrap();
            let observed = cs.status.and_then(|status| status.observed_generation);
            let there = rig.find::<HorizontalPodAutoscaler>("demo").await.is_some();
            let replicas = rig.find::<Deployment>("demo").await.unwrap().spec.replicas.unwrap();
            if observed == generation && there == auto && bounds.contains(&replicas) {
                Ok(replicas)
            } else {
                Err(format!("generation {observed:?} of {generation:?}, autoscaler {there}, {replicas} pods"))
            }
        })
        .await;
        let seen = samples.take();
        looks += seen.len();
        let low = seen.iter().filter(|seen| **seen < before.min(after));
        dips.extend(low.map(|seen| (round, *seen, before, after)));
        before = after;
    }
    eprintln!("O10: 42 hand-overs, {looks} samples, {} dips", dips.len());
    assert_eq!(dips, [], "round, seen, before, after");
    rig.stop().await;
}

fn foreign_autoscaler(name: &str, api_version: &str, kind: &str, min: i32) -> Value {
    json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": { "name": name },
        "spec": {
            "minReplicas": min, "maxReplicas": 9,
            "scaleTargetRef": { "apiVersion": api_version, "kind": kind, "name": "demo" },
            "metrics": [{ "type": "Resource", "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 80 } } }],
        },
    })
}

#[tokio::test]
async fn another_autoscaler_of_the_same_deployment_is_found_and_named() {
    let Some(rig) = rig::start().await else { return };
    rig.create("demo", &autoscaled(2, 5)).await;
    rig.until_settled("demo").await;
    let rival =
        rig.make::<HorizontalPodAutoscaler>(&foreign_autoscaler("rival", "apps/v1", "Deployment", 1)).await;
    let message = until_autoscaling(&rig, "False", "ConflictingAutoscaler").await;
    let fix = format!("Fix: kubectl -n {} delete hpa rival", rig.namespace);
    assert!(
        message.contains("HorizontalPodAutoscaler \"rival\" scales Deployment \"demo\" too"),
        "{message}"
    );
    assert!(message.contains(&fix), "{message}");
    // With a fixed number it is one too many just as well.
    rig.merge::<ChatService>("demo", &json!({ "spec": { "autoscaling": null } })).await;
    until_some("the sentence of a fixed number", async || {
        let message = until_autoscaling(&rig, "False", "ConflictingAutoscaler").await;
        if message.contains("kind: ChatService, name: demo") { Ok(()) } else { Err(message) }
    })
    .await;
    let still = rig.find::<HorizontalPodAutoscaler>("rival").await.unwrap();
    assert_eq!(still.uid(), rival.uid(), "it is left alone");
    rig.api::<HorizontalPodAutoscaler>().delete("rival", &DeleteParams::default()).await.unwrap();
    until_autoscaling(&rig, "False", "Disabled").await;
    rig.stop().await;
}

#[tokio::test]
async fn an_autoscaler_of_somebody_else_may_scale_the_chatservice_itself() {
    let Some(rig) = rig::start().await else { return };
    rig.create("demo", &fixed(1)).await;
    rig.until_settled("demo").await;
    rig.make::<HorizontalPodAutoscaler>(&foreign_autoscaler(
        "outside",
        "chatservice.dev/v1alpha1",
        "ChatService",
        3,
    ))
    .await;
    until_wanted(&rig, 3).await;
    rig.until_settled("demo").await;
    let message = until_some("the condition to name it", async || {
        let message = until_autoscaling(&rig, "False", "Disabled").await;
        if message.contains("\"outside\"") { Ok(message) } else { Err(message) }
    })
    .await;
    assert!(message.contains("sets spec.replicas"), "{message}");
    // An autoscaler of our own makes that number meaningless, which is said.
    rig.merge::<ChatService>("demo", &json!({ "spec": { "autoscaling": { "maxReplicas": 5 } } })).await;
    let message = until_autoscaling(&rig, "False", "ConflictingAutoscaler").await;
    assert!(message.contains("replicas are ignored while spec.autoscaling is set"), "{message}");
    rig.stop().await;
}

#[tokio::test]
async fn what_kubernetes_refuses_of_a_metric_stalls_with_its_path() {
    let Some(rig) = rig::start().await else { return };
    let mut spec = autoscaled(1, 3);
    spec["autoscaling"]["metrics"] = json!([{ "type": "Pods", "pods": {
        "metric": { "name": "" }, "target": { "type": "AverageValue", "averageValue": "1" },
    } }]);
    rig.create("demo", &spec).await;
    let cs = rig.until_ready_is("demo", "False", "InvalidSpec").await;
    let (_, _, message) = claim(&cs, condition::STALLED).unwrap();
    assert!(message.contains("spec.metrics[0].pods.metric.name"), "{message}");
    rig.stop().await;
}

/// An autoscaler writes its own status all the time; what we own of it and of the rest stays as it is.
#[tokio::test]
async fn a_second_reconcile_of_everything_writes_nothing() {
    let Some(rig) = rig::start().await else { return };
    let mut spec = autoscaled(2, 4);
    spec["autoscaling"]["targetMemoryUtilizationPercentage"] = json!(80);
    spec["autoscaling"]["behavior"] =
        json!({ "scaleUp": { "policies": [{ "type": "Pods", "value": 1, "periodSeconds": 30 }] } });
    spec["autoscaling"]["metrics"] = json!([{ "type": "Pods", "pods": {
        "metric": { "name": "chat_requests_in_flight" }, "target": { "type": "AverageValue", "averageValue": "20000m" },
    } }]);
    spec["networkPolicy"] = json!({ "enabled": true, "scrapeFrom": [{ "namespaceSelector": {} }],
        "egressTo": [{ "ipBlock": { "cidr": "10.0.0.0/8" } }] });
    spec["pod"] = json!({
        "annotations": { "example.com/owner": "search" }, "labels": { "team": "search" },
        "tolerations": [{ "key": "dedicated", "effect": "NoSchedule" }],
        "affinity": { "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [{ "weight": 1,
            "podAffinityTerm": { "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": { "team": "x" } } } }] } },
        "topologySpreadConstraints": [{ "topologyKey": "kubernetes.io/hostname", "maxSkew": 3, "whenUnsatisfiable": "ScheduleAnyway" }],
        "imagePullSecrets": [{ "name": "registry" }], "terminationGracePeriodSeconds": 90,
    });
    spec["service"] = json!({ "annotations": { "example.com/lb": "internal" } });
    rig.create("demo", &spec).await;
    rig.until_settled("demo").await;
    until_autoscaling(&rig, "False", "MetricsUnavailable").await;
    // When each manager of ours last changed each child: an apply that changes nothing leaves that as it is.
    let applied = async || {
        let mut times = Vec::new();
        let mut note = |kind: &str, meta: &kube::core::ObjectMeta| {
            for entry in meta.managed_fields.iter().flatten() {
                let manager = entry.manager.clone().unwrap_or_default();
                if manager.starts_with("chatservice-controller") {
                    times.push(format!("{kind} {manager} {:?}", entry.time));
                }
            }
        };
        note("hpa", &rig.find::<HorizontalPodAutoscaler>("demo").await.unwrap().metadata);
        note("deployment", &rig.find::<Deployment>("demo").await.unwrap().metadata);
        note("budget", &rig.find::<PodDisruptionBudget>("demo").await.unwrap().metadata);
        note(
            "policy",
            &rig.find::<k8s_openapi::api::networking::v1::NetworkPolicy>("demo").await.unwrap().metadata,
        );
        note("service", &rig.find::<k8s_openapi::api::core::v1::Service>("demo").await.unwrap().metadata);
        times
    };
    let (before, written) = (applied().await, numbers_written(&rig));
    assert!(before.len() >= 5, "{before:?}");
    // The times have whole seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for round in 0..3 {
        let reconciles = rig.reconciles();
        touch(&rig, round).await;
        rig::until("a reconcile", async || (rig.reconciles() > reconciles).then_some(())).await;
    }
    assert_eq!(applied().await, before);
    assert_eq!(numbers_written(&rig), written, "the number is the autoscaler's");
    rig.stop().await;
}

#[tokio::test]
async fn a_name_at_its_limit_has_every_child() {
    let Some(rig) = rig::start().await else { return };
    let name = format!("n{}", "9-".repeat(25)) + "z";
    assert_eq!(name.len(), 52);
    let mut spec = autoscaled(2, 3);
    spec["networkPolicy"] = json!({ "enabled": true });
    rig.create(&name, &spec).await;
    rig.until_settled(&name).await;
    assert!(rig.find::<HorizontalPodAutoscaler>(&name).await.is_some());
    for bad in [format!("{name}a"), "with.dots".to_owned(), "9lives".to_owned()] {
        let object = json!({ "apiVersion": "chatservice.dev/v1alpha1", "kind": "ChatService", "metadata": { "name": bad }, "spec": spec });
        let refused = rig
            .api::<ChatService>()
            .create(&kube::api::PostParams::default(), &serde_json::from_value(object).unwrap())
            .await;
        let said = refused.unwrap_err().to_string();
        assert!(said.contains("metadata.name must be at most 52 characters of a-z, 0-9 and '-'"), "{said}");
    }
    rig.stop().await;
}

/// O10, by load: a metrics API says how much CPU the pods use, and the number follows it up and down without our hand in it.
#[tokio::test]
async fn load_sets_the_number_of_pods_and_the_operator_leaves_it_alone() {
    let Some(mut rig) = rig::start().await else { return };
    let load = metrics::serve(&mut rig).await;
    let mut spec = autoscaled(2, 6);
    spec["autoscaling"]["targetCPUUtilizationPercentage"] = json!(50);
    spec["autoscaling"]["behavior"] = json!({ "scaleDown": { "stabilizationWindowSeconds": 0 } });
    rig.create("demo", &spec).await;
    let message = until_autoscaling(&rig, "True", "ScalingActive").await;
    assert!(message.contains("from 2 to 6 pods"), "{message}");
    rig.until_settled("demo").await;
    let (written, samples) = (numbers_written(&rig), Samples::watch(&rig));
    for (used, replicas) in [(400, 6), (300, 6), (30, 2), (200, 4)] {
        load.store(used, Ordering::SeqCst);
        until_wanted(&rig, replicas).await;
        until_some(&format!("{replicas} ready pods"), async || {
            let pods = rig.until_settled("demo").await.status.unwrap().pods;
            if pods == Some(format!("{replicas}/{replicas}")) { Ok(()) } else { Err(format!("{pods:?}")) }
        })
        .await;
    }
    assert_eq!(numbers_written(&rig), written, "all of it was the autoscaler's");
    assert!(samples.take().iter().all(|replicas| (2..=6).contains(replicas)));
    metrics::withdraw(&rig).await;
    rig.stop().await;
}

/// Every watch is silent, so the operator has nothing but what it did itself to know its own autoscaler by.
#[tokio::test]
async fn autoscaling_that_is_taken_back_at_once_leaves_no_autoscaler_beside_the_number() {
    let Some(rig) = rig::start().await else { return };
    rig.create("demo", &fixed(5)).await;
    rig.until_settled("demo").await;
    // It looks whether the name is free, and is kept from going on.
    rig.faults.hold(Some("/horizontalpodautoscalers/demo"));
    rig.merge::<ChatService>("demo", &json!({ "spec": autoscaled(2, 3) })).await;
    until_some("the look", async || {
        let looks = rig.recorded.count("GET", "/horizontalpodautoscalers/demo");
        if looks == 1 { Ok(()) } else { Err(looks.to_string()) }
    })
    .await;
    let before = rig.recorded.all().len();
    rig.merge::<ChatService>("demo", &json!({ "spec": { "autoscaling": null, "replicas": 4 } })).await;
    // A watch tells in order: where this one is known, that change is.
    rig.create("after", &fixed(0)).await;
    until_some("the one after it", async || {
        let looks = rig.recorded.count("GET", "/serviceaccounts/after");
        if looks > 0 { Ok(()) } else { Err(String::new()) }
    })
    .await;
    rig.faults.freeze_watches();
    rig.faults.hold(None);
    until_wanted(&rig, 4).await;
    let requests = rig.recorded.all();
    let first = |method: &str, part: &str| {
        let line = |line: &String| line.starts_with(method) && line.contains("/demo") && line.contains(part);
        requests[before..].iter().position(line)
    };
    let made = first("PATCH", "/horizontalpodautoscalers/");
    let gone = first("DELETE", "/horizontalpodautoscalers/");
    let counted = first("PATCH", "fieldManager=chatservice-controller-replicas");
    assert!(made.is_some() && made < gone && gone < counted, "{made:?} {gone:?} {counted:?}: {requests:?}");
    rig.faults.thaw_watches();
    rig.until_settled("demo").await;
    rig.stop().await;
}

#[tokio::test]
async fn a_rival_is_found_that_was_there_before_the_operator_or_came_while_its_watch_was_away() {
    let Some(mut rig) = rig::Rig::without_operator().await else { return };
    let rival = |name| foreign_autoscaler(name, "apps/v1", "Deployment", 1);
    rig.make::<HorizontalPodAutoscaler>(&rival("early")).await;
    rig.create("demo", &fixed(2)).await;
    rig.run_operator(None).await;
    let names = async |rig: &Rig, name: &str| {
        until_some(&format!("\"{name}\" to be named"), async || {
            let message = until_autoscaling(rig, "False", "ConflictingAutoscaler").await;
            if message.contains(&format!("\"{name}\"")) { Ok(()) } else { Err(message) }
        })
        .await;
    };
    names(&rig, "early").await;
    // One goes and one comes of which no watch tells: the next list has to.
    rig.faults.freeze_watches();
    rig.api::<HorizontalPodAutoscaler>().delete("early", &DeleteParams::default()).await.unwrap();
    rig.make::<HorizontalPodAutoscaler>(&rival("late")).await;
    rig.faults.end_watches(End::Gone);
    rig.faults.thaw_watches();
    names(&rig, "late").await;
    rig.api::<HorizontalPodAutoscaler>().delete("late", &DeleteParams::default()).await.unwrap();
    until_autoscaling(&rig, "False", "Disabled").await;
    rig.stop().await;
}
