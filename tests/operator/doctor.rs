//! `chatservice doctor` on a real cluster, healthy and ill.

use std::process::Output;

use chatservice::constants::reason;
use chatservice::controller::rbac::{OWN_RULES, RULES};
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::permissions::{ACCOUNT, allow, start_with};
use crate::rig::{Rig, kubeconfig};

/// The program, asked about the rig's namespace.
async fn doctor(rig: &Rig) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chatservice"));
    command.args(["doctor", "-n", &rig.namespace]).env("KUBECONFIG", kubeconfig()).output().await.unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The operator's Deployment as its chart makes it, as far as the doctor looks. Other tests have theirs at the same time, so
/// what is said of the operator is looked for by its place.
async fn install(rig: &Rig) {
    let labels =
        json!({ "app.kubernetes.io/part-of": "chatservice", "app.kubernetes.io/component": "controller" });
    let arguments = json!([
        "controller",
        format!("--watch-namespaces={}", rig.namespace),
        "--lease-name=chatservice-controller-0"
    ]);
    rig.make::<Deployment>(&json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "installed", "labels": labels },
        "spec": { "replicas": 1, "selector": { "matchLabels": labels }, "template": {
            "metadata": { "labels": labels },
            "spec": { "serviceAccountName": ACCOUNT, "containers": [{ "name": "controller", "image": "i", "args": arguments }] },
        } },
    }))
    .await;
    crate::rig::until("the operator's pod", async || {
        let status = rig.find::<Deployment>("installed").await?.status?;
        (status.ready_replicas == Some(1)).then_some(())
    })
    .await;
}

fn rules(left_out: &[(&str, &str)]) -> Vec<Value> {
    let mut all = Vec::new();
    for rule in RULES.iter().chain(OWN_RULES) {
        for resource in rule.resources {
            let verbs: Vec<&str> =
                rule.verbs.iter().copied().filter(|verb| !left_out.contains(&(resource, verb))).collect();
            all.push(json!({ "apiGroups": [rule.group], "resources": [resource], "verbs": verbs }));
        }
    }
    all
}

#[tokio::test]
async fn a_healthy_installation_has_no_problem_and_an_ill_one_is_told_what_to_do() {
    let Some(mut rig) = start_with(&rules(&[])).await else { return };
    rig.answer_for_pods().await;
    install(&rig).await;
    let spec =
        json!({ "model": "m", "backend": { "openai": { "credentialsSecretRef": { "name": "openai" } } } });
    rig.create("demo", &spec).await;
    rig.until_settled("demo").await;
    let (place, account) = (
        format!("{}/installed", rig.namespace),
        format!("system:serviceaccount:{}:{ACCOUNT}", rig.namespace),
    );
    let healthy = text(&doctor(&rig).await);
    for line in [
        "  ok    API server    Kubernetes v1.",
        "  ok    CRD           has every field of this version",
        &format!("  ok    operator      {place}: 1 of 1 pods are ready, \"test_"),
        &format!("  ok    permissions   {account} has all "),
        "  ok    ChatServices  1 of 1 are Ready",
        "  -     Redis         not needed",
        "  -     metrics API   not needed",
    ] {
        assert!(healthy.contains(line), "{line}\n{healthy}");
    }
    assert!(!healthy.contains(&format!("namespace \"{}\"", rig.namespace)), "{healthy}");

    allow(&rig, &rules(&[("poddisruptionbudgets", "delete"), ("events", "patch")])).await;
    rig.report(&[(
        reason::SECRET_NOT_FOUND,
        "Secret \"openai\" is missing. Fix: kubectl create secret generic openai",
    )]);
    rig.fail_readiness("demo").await;
    rig.until_ready_is("demo", "False", reason::SECRET_NOT_FOUND).await;
    let output = doctor(&rig).await;
    let ill = text(&output);
    for line in [
        &format!("  FAIL  permissions   {account} lacks 2 of "),
        &format!("   It may not delete poddisruptionbudgets.policy in namespace \"{}\".\n", rig.namespace),
        &format!("   It may not patch events.events.k8s.io in namespace \"{}\".\n", rig.namespace),
        "  FAIL  ChatServices  0 of 1 are Ready\n",
        &format!(
            "ChatService \"demo\" in namespace \"{}\" is not Ready: SecretNotFound.\n   Secret \"openai\" is missing.\n   Fix: kubectl create secret generic openai\n",
            rig.namespace
        ),
    ] {
        assert!(ill.contains(line), "{line}\n{ill}");
    }
    assert_eq!(output.status.code(), Some(1), "{ill}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("error: ") && said.contains("found"), "{said}");
    rig.clear().await;
}

#[tokio::test]
async fn without_an_api_server_the_doctor_says_so_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
        "clusters": [{ "name": "c", "cluster": { "server": "http://127.0.0.1:1" } }], "users": [{ "name": "u", "user": {} }],
    });
    std::fs::write(&file, config.to_string()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_chatservice"));
    let output = command.arg("doctor").env("KUBECONFIG", &file).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    assert!(
        said.contains("  FAIL  API server  no answer")
            && said.contains("1. The API server at http://127.0.0.1:1"),
        "{said}"
    );
}
