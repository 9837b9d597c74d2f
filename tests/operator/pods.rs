//! What pods tell: through their status, and through their server's `/status`.

use chatservice::constants::{condition, reason};
use chatservice::crd::ChatService;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::rig::{self, claim, until};

fn openai() -> Value {
    json!({ "model": "m", "backend": { "openai": { "credentialsSecretRef": { "name": "openai" } } } })
}

const MISSING: &str =
    "Secret \"openai\" not found. Fix: kubectl create secret generic openai --from-literal=api-key=...";

#[tokio::test]
async fn a_missing_secret_is_reported_with_its_fix_and_heals_by_itself() {
    let Some(mut rig) = rig::start().await else { return };
    rig.answer_for_pods().await;
    rig.create("demo", &openai()).await;
    rig.until_settled("demo").await;
    rig.report(&[(reason::SECRET_NOT_FOUND, MISSING)]);
    rig.fail_readiness("demo").await;
    let cs = rig.until_ready_is("demo", "False", "SecretNotFound").await;
    assert_eq!(claim(&cs, condition::READY).unwrap().2, MISSING);
    assert_eq!(claim(&cs, condition::STALLED), None, "a Secret can be made without a new spec");

    rig.report(&[(reason::SECRET_KEY_MISSING, "no key")]);
    rig.until_ready_is("demo", "False", "SecretKeyMissing").await;
    rig.report(&[(reason::CREDENTIAL_HOST_MISMATCH, "not there")]);
    rig.until_ready_is("demo", "False", "CredentialHostMismatch").await;

    rig.report(&[]);
    rig.restore_readiness("demo").await;
    rig.until_settled("demo").await;
    rig.stop().await;
}

#[tokio::test]
async fn a_secret_that_vanishes_under_ready_pods_is_told_and_makes_nothing_unready() {
    let Some(mut rig) = rig::start().await else { return };
    rig.answer_for_pods().await;
    rig.create("demo", &openai()).await;
    rig.until_settled("demo").await;
    rig.report(&[(reason::SECRET_NOT_FOUND, MISSING)]);
    let ready = until("the report in the message", async || {
        let (status, _, message) = claim(&rig.find::<ChatService>("demo").await?, condition::READY)?;
        message.contains(MISSING).then_some(status)
    })
    .await;
    assert_eq!(ready, "True");
    rig.stop().await;
}

#[tokio::test]
async fn redis_is_what_the_pods_say_of_it() {
    let Some(mut rig) = rig::start().await else { return };
    rig.answer_for_pods().await;
    let mut spec = openai();
    spec["redis"] = json!({ "secretRef": { "name": "redis" } });
    rig.create("demo", &spec).await;
    for (connected, text) in
        [(Some(true), "Connected"), (Some(false), "Unreachable"), (Some(true), "Connected")]
    {
        rig.answer.lock().unwrap().redis_connected = connected;
        until(text, async || {
            rig.find::<ChatService>("demo").await?.status?.redis.filter(|redis| redis == text).map(|_| ())
        })
        .await;
    }
    rig.until_settled("demo").await;
    rig.stop().await;
}

#[tokio::test]
async fn troubles_of_containers_become_reasons() {
    let Some(rig) = rig::start().await else { return };
    rig.create("demo", &openai()).await;
    rig.until_settled("demo").await;
    rig.fail_readiness("demo").await;
    let pod = rig.pods("demo").await[0].name_any();
    for (state, last, reason, part) in [
        (
            json!({ "waiting": { "reason": "ImagePullBackOff" } }),
            json!({}),
            "ImagePullFailed",
            "cannot pull image",
        ),
        (
            json!({ "waiting": { "reason": "CrashLoopBackOff" } }),
            json!({ "terminated": { "exitCode": 1, "reason": "Error" } }),
            "CrashLooping",
            "exit code 1",
        ),
    ] {
        let status = json!({ "containerStatuses": [{
            "name": "server", "image": rig::IMAGE, "imageID": "", "ready": false, "restartCount": 3,
            "state": state, "lastState": last,
        }] });
        rig.patch_pod_status(&pod, &status).await;
        let cs = rig.until_ready_is("demo", "False", reason).await;
        let (_, _, message) = claim(&cs, condition::READY).unwrap();
        assert!(
            message.contains(part) && message.contains(&pod) && message.contains("kubectl -n"),
            "{message}"
        );
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_transition_is_one_event() {
    let Some(mut rig) = rig::start().await else { return };
    rig.answer_for_pods().await;
    rig.create("demo", &openai()).await;
    rig.until_settled("demo").await;
    let reasons = async || {
        let events = rig.api::<Event>().list(&ListParams::default()).await.unwrap();
        let ours = events
            .into_iter()
            .filter(|e| e.regarding.as_ref().is_some_and(|r| r.kind.as_deref() == Some("ChatService")));
        let mut reasons: Vec<String> = ours.filter_map(|event| event.reason).collect();
        reasons.sort();
        reasons
    };
    until("both events", async || (reasons().await == ["Available", "Progressing"]).then_some(())).await;
    // Another reconcile of the same state says nothing more.
    let before = rig.reconciles();
    let touched = json!({ "metadata": { "annotations": { "example.com/touched": "yes" } } });
    rig.merge::<ChatService>("demo", &touched).await;
    until("another reconcile", async || (rig.reconciles() > before).then_some(())).await;
    assert_eq!(reasons().await, ["Available", "Progressing"]);
    rig.stop().await;
}
