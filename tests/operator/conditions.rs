//! The conditions beside Ready: what pods say of the configuration, the backend and the store.

use std::sync::atomic::Ordering;

use chatservice::admin::{RejectedConfig, StoreMode};
use chatservice::constants::{annotation, condition, mount, reason};
use chatservice::crd::ChatService;
use chatservice::server::config::ServerConfig;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::rig::{self, Rig, claim, until_some};

fn echo(replicas: i32) -> Value {
    json!({ "model": "echo-1", "backend": { "echo": {} }, "replicas": replicas })
}

/// Waits until a condition of `demo` has this status and reason; its message.
async fn until_claim(rig: &Rig, type_: &str, status: &str, reason: &str) -> String {
    until_some(&format!("{type_}={status} {reason}"), async || {
        let cs = rig.find::<ChatService>("demo").await.ok_or("it is gone")?;
        match claim(&cs, type_) {
            Some((s, r, message)) if s == status && r == reason => Ok(message),
            _ => Err(format!("{:?}", cs.status)),
        }
    })
    .await
}

async fn wanted(rig: &Rig) -> ServerConfig {
    let data = rig.find::<ConfigMap>("demo-config").await.unwrap().data.unwrap();
    serde_json::from_str(&data[mount::CONFIG_FILE]).unwrap()
}

#[tokio::test]
async fn a_configuration_is_applied_when_the_servers_say_so_and_a_refusal_is_told() {
    let Some(mut rig) = rig::start().await else { return };
    rig.answer_for_pods().await;
    rig.create("demo", &echo(2)).await;
    until_claim(&rig, condition::CONFIG_APPLIED, "True", "Applied").await;
    let first = wanted(&rig).await;
    let config = rig.until_settled("demo").await.status.unwrap().config.unwrap();
    assert_eq!((config.generation, config.hash, config.applied.as_str()), (1, first.hash(), "2/2"));
    until_counted(&rig, [1, 0, 0], false).await;

    // The servers go on with the first one.
    rig.answer.lock().unwrap().config_hash = first.hash();
    rig.merge::<ChatService>("demo", &json!({ "spec": { "model": "echo-2" } })).await;
    let message = until_claim(&rig, condition::CONFIG_APPLIED, "False", "Propagating").await;
    assert!(message.contains("0 of 2 ready pods") && message.contains("kubectl -n"), "{message}");
    let cs = rig.until_ready_is("demo", "True", "Available").await;
    assert_eq!(claim(&cs, condition::RECONCILING).unwrap().1, "ConfigPropagating");
    let config = cs.status.unwrap().config.unwrap();
    assert_eq!((config.generation, config.applied.as_str()), (2, "0/2"));
    until_counted(&rig, [0, 1, 0], true).await;

    // The nodes are told to look, and told again where that did not help.
    let second = wanted(&rig).await;
    for attempt in [1, 2] {
        let value = format!("{}.{attempt}", second.hash());
        until_some(&value, async || {
            let touched = touched(&rig).await;
            if touched.iter().all(|found| *found == Some(value.clone())) {
                Ok(())
            } else {
                Err(format!("{touched:?}"))
            }
        })
        .await;
    }
    let why = "the key may not go to this host. Fix: kubectl ...";
    rig.answer.lock().unwrap().rejected =
        Some(RejectedConfig { hash: Some(second.hash()), message: why.to_owned() });
    let message = until_claim(&rig, condition::CONFIG_APPLIED, "False", "Rejected").await;
    assert!(message.contains("keeps its last good configuration") && message.contains(why), "{message}");
    let cs = rig.until_ready_is("demo", "True", "Available").await;
    assert!(claim(&cs, condition::READY).unwrap().2.contains(why), "kubectl get -o wide shows it");

    {
        let mut answer = rig.answer.lock().unwrap();
        answer.config_hash = second.hash();
        answer.rejected = None;
    }
    until_claim(&rig, condition::CONFIG_APPLIED, "True", "Applied").await;
    rig.until_settled("demo").await;
    until_counted(&rig, [1, 0, 0], false).await;
    rig.stop().await;
}

/// Waits until metrics count so many ready `ChatServices` whose `ConfigApplied` is True, False, Unknown, and tell of a wait or of none.
async fn until_counted(rig: &Rig, counts: [u64; 3], waits: bool) {
    until_some("the counts in metrics", async || {
        let (counted, seconds) = (rig.ready_objects(), rig.seconds("config_waiting"));
        if counted == counts && (seconds > 0.0) == waits {
            Ok(())
        } else {
            Err(format!("{counted:?} {seconds}"))
        }
    })
    .await;
}

/// The annotation of each pod of `demo` by which its node is told to look at its mounts.
async fn touched(rig: &Rig) -> Vec<Option<String>> {
    let pods = rig.pods("demo").await;
    pods.iter().map(|pod| pod.annotations().get(annotation::TOUCHED).cloned()).collect()
}

#[tokio::test]
async fn a_pod_without_its_secret_is_touched_until_it_has_it() {
    let Some(mut rig) = rig::start().await else { return };
    rig.answer_for_pods().await;
    rig.create("demo", &echo(1)).await;
    rig.until_settled("demo").await;
    assert_eq!(touched(&rig).await, [None], "a pod that lacks nothing is left alone");
    rig.report(&[(reason::SECRET_NOT_FOUND, "Secret \"x\" not found. Fix: kubectl ...")]);
    let hash = wanted(&rig).await.hash();
    until_some("the touch", async || {
        let touched = touched(&rig).await;
        if touched == [Some(format!("{hash}.1"))] { Ok(()) } else { Err(format!("{touched:?}")) }
    })
    .await;
    rig.report(&[]);
    rig.until_settled("demo").await;
    rig.stop().await;
}

#[tokio::test]
async fn pods_that_do_not_answer_make_it_unknown_and_hold_nothing_up() {
    let Some(rig) = rig::start().await else { return };
    rig.create("demo", &echo(1)).await;
    let message = until_claim(&rig, condition::CONFIG_APPLIED, "Unknown", "PodsUnreachable").await;
    assert!(message.contains("port 9090"), "{message}");
    let status = rig.until_settled("demo").await.status.unwrap();
    assert_eq!(status.config.unwrap().applied, "0/1");
    until_counted(&rig, [0, 0, 1], true).await;
    rig.stop().await;
}

#[tokio::test]
async fn pods_that_say_the_same_again_and_again_wake_nobody() {
    let Some(mut rig) = rig::start().await else { return };
    rig.answer_for_pods().await;
    rig.create("demo", &echo(3)).await;
    until_claim(&rig, condition::CONFIG_APPLIED, "True", "Applied").await;
    rig.until_settled("demo").await;
    let asked = || rig.asked.load(Ordering::Relaxed);
    let ask_more = async |times: usize| {
        let begun = asked();
        until_some("more questions", async || {
            if asked() >= begun + times { Ok(()) } else { Err(asked().to_string()) }
        })
        .await;
    };
    let written = || rig.recorded.count("PATCH", "/status?") + rig.recorded.count("PATCH", "/pods/");
    // What the first answers changed is looked at meanwhile.
    ask_more(6).await;
    let (reconciles, patches) = (rig.reconciles(), written());
    ask_more(12).await;
    let more = rig.reconciles() - reconciles;
    assert!(more <= 1, "{more} reconciles for four rounds of the same answers");
    assert_eq!(written(), patches);
    // A fact is one reconcile, and one more where its status is seen to be written.
    rig.answer.lock().unwrap().backend_reachable = Some(true);
    until_claim(&rig, condition::BACKEND_REACHABLE, "True", "Reachable").await;
    ask_more(3).await;
    let more = rig.reconciles() - reconciles;
    assert!((1..=5).contains(&more), "{more} reconciles for what three pods said");
    rig.stop().await;
}

#[tokio::test]
async fn a_backend_is_what_the_pods_calls_have_met() {
    let Some(mut rig) = rig::start().await else { return };
    rig.answer_for_pods().await;
    rig.create("demo", &echo(2)).await;
    until_claim(&rig, condition::BACKEND_REACHABLE, "Unknown", "NotObserved").await;
    for (met, status, reason) in
        [(true, "True", "Reachable"), (false, "False", "BackendUnreachable"), (true, "True", "Reachable")]
    {
        rig.answer.lock().unwrap().backend_reachable = Some(met);
        until_claim(&rig, condition::BACKEND_REACHABLE, status, reason).await;
        rig.until_ready_is("demo", "True", "Available").await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn state_is_shared_in_redis_alone() {
    let Some(mut rig) = rig::start().await else { return };
    rig.answer_for_pods().await;
    rig.create("demo", &echo(1)).await;
    until_claim(&rig, condition::STATE_SHARED, "True", "SinglePod").await;
    rig.merge::<ChatService>("demo", &json!({ "spec": { "replicas": 2 } })).await;
    let message = until_claim(&rig, condition::STATE_SHARED, "False", "PerPod").await;
    assert!(message.contains("kubectl -n"), "{message}");
    let redis = json!({ "spec": { "redis": { "secretRef": { "name": "redis" } } } });
    rig.merge::<ChatService>("demo", &redis).await;
    until_claim(&rig, condition::STATE_SHARED, "Unknown", "NotObserved").await;
    for (connected, mode, status, reason) in [
        (true, StoreMode::Shared, "True", "Redis"),
        (false, StoreMode::Local, "False", "RedisUnreachable"),
        // It answers again, and was not told yet what it missed.
        (true, StoreMode::Local, "False", "RedisUnreachable"),
        (true, StoreMode::Shared, "True", "Redis"),
    ] {
        {
            let mut answer = rig.answer.lock().unwrap();
            (answer.redis_connected, answer.store_mode) = (Some(connected), Some(mode));
        }
        until_claim(&rig, condition::STATE_SHARED, status, reason).await;
        rig.until_ready_is("demo", "True", "Available").await;
    }
    rig.stop().await;
}
