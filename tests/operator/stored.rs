//! What an API server would not take today and has nevertheless: objects from before a rule existed, and what is in the way of a
//! spec that is well. They are written into etcd.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chatservice::constants::{annotation, condition, label};
use chatservice::crd::ChatService;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::rig::{self, Rig, claim, until, until_gone};
use crate::web;

const ETCD: &str = "CHATSERVICE_TEST_ETCD";

fn echo() -> Value {
    json!({ "model": "echo-1", "backend": { "echo": {} } })
}

/// Changes an object as it is stored, which no schema and no rule sees.
async fn store(rig: &Rig, name: &str, change: impl FnOnce(&mut Value)) {
    let etcd = std::env::var(ETCD).unwrap();
    let key = BASE64.encode(format!("/registry/chatservice.dev/chatservices/{}/{name}", rig.namespace));
    let found = web::post(&format!("{etcd}/v3/kv/range"), &json!({ "key": key })).await.json();
    let value = BASE64.decode(found["kvs"][0]["value"].as_str().unwrap()).unwrap();
    let mut object: Value = serde_json::from_slice(&value).unwrap();
    change(&mut object);
    let value = BASE64.encode(object.to_string());
    let put = web::post(&format!("{etcd}/v3/kv/put"), &json!({ "key": key, "value": value })).await;
    assert_eq!(put.status, 200, "{put:?}");
}

#[tokio::test]
async fn an_object_from_before_a_rule_gets_its_status() {
    let Some(rig) = rig::start().await else { return };
    rig.create("demo", &echo()).await;
    rig.until_settled("demo").await;
    store(&rig, "demo", |object| {
        object["spec"]["cache"] = json!({ "ttl": "a while" });
        object["metadata"]["generation"] = json!(2);
    })
    .await;
    let cs = rig.until_ready_is("demo", "False", "InvalidSpec").await;
    let (_, _, message) = claim(&cs, condition::STALLED).unwrap();
    assert!(message.contains("spec.cache.ttl"), "{message}");
    rig.merge::<ChatService>("demo", &json!({ "spec": { "cache": { "ttl": "1h" } } })).await;
    rig.until_settled("demo").await;
    rig.stop().await;
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_told_so_and_does_not_stop_the_others() {
    let Some(rig) = rig::start().await else { return };
    rig.create("demo", &echo()).await;
    rig.create("other", &echo()).await;
    rig.until_settled("demo").await;
    rig.until_settled("other").await;
    store(&rig, "demo", |object| {
        object["spec"]["service"] = json!({ "port": "eighty" });
        object["metadata"]["generation"] = json!(2);
    })
    .await;
    let told = until("the unreadable object to be told", async || {
        let object = rig.unreadable("demo").await;
        let conditions = object["status"]["conditions"].as_array()?.clone();
        conditions.into_iter().find(|c| c["type"] == "Stalled")
    })
    .await;
    assert_eq!(told["reason"], "InvalidSpec");
    assert!(told["message"].as_str().unwrap().contains("cannot be read"), "{told}");
    rig.merge::<ChatService>("other", &json!({ "spec": { "replicas": 2 } })).await;
    rig.until_settled("other").await;
    store(&rig, "demo", |object| {
        object["spec"]["service"] = json!({ "port": 80 });
        object["metadata"]["generation"] = json!(3);
    })
    .await;
    rig.until_settled("demo").await;
    until("the stall to end", async || {
        claim(&rig.find::<ChatService>("demo").await?, condition::STALLED).is_none().then_some(())
    })
    .await;
    rig.stop().await;
}

#[tokio::test]
async fn a_child_that_cannot_become_what_it_should_is_named_and_made_anew_when_it_is_gone() {
    let Some(rig) = rig::start().await else { return };
    let paused = json!({
        "apiVersion": "chatservice.dev/v1alpha1", "kind": "ChatService",
        "metadata": { "name": "demo", "annotations": { annotation::PAUSED: "true" } }, "spec": echo(),
    });
    let owner = rig.make::<ChatService>(&paused).await.uid().unwrap();
    // As if an older operator had selected its pods by something else: a selector never changes.
    let selector = json!({ "app": "demo" });
    rig.make::<Deployment>(&json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": "demo",
            "labels": { label::NAME: label::NAME_VALUE, label::MANAGED_BY: label::MANAGED_BY_VALUE, label::INSTANCE: "demo" },
            "ownerReferences": [{
                "apiVersion": "chatservice.dev/v1alpha1", "kind": "ChatService", "name": "demo", "uid": owner, "controller": true,
            }],
        },
        "spec": {
            "replicas": 0, "selector": { "matchLabels": selector },
            "template": { "metadata": { "labels": selector }, "spec": { "containers": [{ "name": "server", "image": rig::IMAGE }] } },
        },
    }))
    .await;
    rig.merge::<ChatService>("demo", &json!({ "metadata": { "annotations": { annotation::PAUSED: null } } }))
        .await;
    let cs = rig.until_ready_is("demo", "False", "FieldImmutable").await;
    let (_, reason, message) = claim(&cs, condition::STALLED).unwrap();
    assert_eq!(reason, "FieldImmutable");
    assert!(message.contains("Deployment \"demo\"") && message.contains("made anew"), "{message}");
    rig.api::<Deployment>().delete("demo", &DeleteParams::background()).await.unwrap();
    rig.until_settled("demo").await;
    rig.stop().await;
}

#[tokio::test]
async fn a_namespace_that_goes_takes_everything_along_and_no_other() {
    let Some(mut rig) = Rig::without_operator().await else { return };
    let going = format!("{}-going", rig.namespace);
    let namespaces: Api<Namespace> = Api::all(rig.admin.clone());
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": going } });
    namespaces.create(&PostParams::default(), &serde_json::from_value(namespace).unwrap()).await.unwrap();
    rig.also_watched = vec![going.clone()];
    rig.run_operator(None).await;
    let services: Api<ChatService> = Api::namespaced(rig.admin.clone(), &going);
    let demo = json!({
        "apiVersion": "chatservice.dev/v1alpha1", "kind": "ChatService", "metadata": { "name": "demo" }, "spec": echo(),
    });
    services.create(&PostParams::default(), &serde_json::from_value(demo).unwrap()).await.unwrap();
    until("it to be ready", async || {
        let cs = services.get("demo").await.ok()?;
        claim(&cs, condition::READY).filter(|(status, _, _)| status == "True").map(|_| ())
    })
    .await;
    namespaces.delete(&going, &DeleteParams::default()).await.unwrap();
    until_gone(&namespaces, &going).await;
    rig.create("demo", &echo()).await;
    rig.until_settled("demo").await;
    let errors: Vec<String> = rig
        .metrics()
        .lines()
        .filter(|line| line.starts_with("chatservice_controller_reconcile_errors_total"))
        .map(str::to_owned)
        .collect();
    let counted: f64 = errors.iter().filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
    assert!(counted <= 3.0, "no loop of errors: {errors:?}");
    rig.stop().await;
}
