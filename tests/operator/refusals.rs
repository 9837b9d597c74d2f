//! What is refused, by whom, and how it heals.

use chatservice::constants::{condition, label};
use chatservice::crd::ChatService;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::rig::{self, Rig, claim};

#[path = "../support/invalid_specs.rs"]
#[expect(dead_code, reason = "what `validate` says is tested with the command line")]
mod invalid_specs;
use invalid_specs::{INVALID, VALID, document};

fn echo() -> Value {
    json!({ "model": "echo-1", "backend": { "echo": {} } })
}

/// kubectl writes a whole number as one, however the YAML spells it.
fn as_kubectl_sends(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            let text = number.to_string();
            text.strip_suffix(".0")
                .and_then(|whole| whole.parse::<i64>().ok())
                .map_or(json!(number), |n| json!(n))
        }
        Value::Array(all) => all.into_iter().map(as_kubectl_sends).collect(),
        Value::Object(all) => all.into_iter().map(|(key, value)| (key, as_kubectl_sends(value))).collect(),
        other => other,
    }
}

/// Offers an object to the API server without storing it; its refusal. Unknown fields are errors, as in kubectl.
async fn offer(rig: &Rig, document: &str) -> Result<(), String> {
    let object = as_kubectl_sends(serde_saphyr::from_str(document).unwrap());
    let text = serde_json::to_vec(&object).unwrap();
    let path = format!(
        "/apis/chatservice.dev/v1alpha1/namespaces/{}/chatservices?dryRun=All&fieldValidation=Strict",
        rig.namespace
    );
    let request = http::Request::post(path).header("content-type", "application/json").body(text).unwrap();
    rig.admin.request::<Value>(request).await.map(|_| ()).map_err(|error| error.to_string())
}

#[tokio::test]
async fn the_api_server_refuses_a_bad_spec_with_a_sentence() {
    let Some(rig) = Rig::without_operator().await else { return };
    let mut wrong = Vec::new();
    for row in INVALID {
        match offer(&rig, &row.document()).await {
            Ok(()) => wrong.push(format!("{}: accepted", row.name)),
            Err(said) if !said.contains(row.api_server) => wrong.push(format!("{}: {said}", row.name)),
            Err(_) => {}
        }
    }
    for (name, spec) in VALID {
        if let Err(said) = offer(&rig, &document(name, spec)).await {
            wrong.push(format!("{spec}: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The rules over lists have a budget in the API server: the largest spec must stay within it.
#[tokio::test]
async fn as_many_models_and_fallbacks_as_allowed_are_judged() {
    let Some(rig) = Rig::without_operator().await else { return };
    // Eight rows of eight: each model falls back to all of the next row, so a way has eight models.
    let name = |row: usize, column: usize| format!("m{:a>125}{row}{column}", "");
    let models = |last: &[String]| -> Vec<Value> {
        let all = (0..8).flat_map(|row| (0..8).map(move |column| (row, column)));
        all.map(|(row, column)| {
            let next: Vec<String> = (0..8).map(|column| name(row + 1, column)).collect();
            let fallbacks = if row < 7 { &next[..] } else { last };
            json!({ "name": name(row, column), "fallbacks": fallbacks, "omit": ["temperature"],
                "price": { "inputPerMillionTokens": "0.15", "outputPerMillionTokens": "0.6" }, "maxOutputTokens": 9 })
        })
        .collect()
    };
    let text = |models: Vec<Value>| {
        let spec = json!({ "model": name(7, 7), "backend": { "echo": {} }, "models": models });
        document("demo", &spec.to_string())
    };
    assert_eq!(offer(&rig, &text(models(&[]))).await, Ok(()));
    let said = offer(&rig, &text(models(&[name(0, 0)]))).await.unwrap_err();
    assert!(said.contains("following fallbacks must end"), "{said}");
}

#[tokio::test]
async fn an_image_that_is_not_allowed_stalls_until_it_is_changed() {
    let Some(rig) = rig::start().await else { return };
    let mut spec = echo();
    spec["image"] = json!("evil.example.com/chatservice:1");
    rig.create("demo", &spec).await;
    let cs = rig.until_ready_is("demo", "False", "ImageNotAllowed").await;
    let (status, reason, message) = claim(&cs, condition::STALLED).unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("True", "ImageNotAllowed"));
    assert!(message.contains("registry.example.com/chatservice:*") && message.contains("Fix:"), "{message}");
    assert!(rig.find::<ConfigMap>("demo-config").await.is_none(), "nothing is made of it");
    rig.merge::<ChatService>("demo", &json!({ "spec": { "image": null } })).await;
    let cs = rig.until_settled("demo").await;
    assert_eq!(claim(&cs, condition::STALLED), None);
    rig.stop().await;
}

#[tokio::test]
async fn a_foreign_object_with_a_childs_name_is_named_and_left_alone() {
    let Some(rig) = rig::start().await else { return };
    // With all our labels, but without our controller: labels prove nothing.
    let labels = json!({ label::NAME: label::NAME_VALUE, label::MANAGED_BY: label::MANAGED_BY_VALUE, label::INSTANCE: "demo" });
    let foreign = rig
        .make::<Service>(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "demo", "labels": labels },
            "spec": { "ports": [{ "port": 1 }] },
        }))
        .await;
    rig.create("demo", &echo()).await;
    let cs = rig.until_ready_is("demo", "False", "NameTaken").await;
    let (_, reason, message) = claim(&cs, condition::STALLED).unwrap();
    assert_eq!(reason, "NameTaken");
    assert!(message.contains("Service \"demo\" already exists and belongs to nobody"), "{message}");
    let still = rig.find::<Service>("demo").await.unwrap();
    assert_eq!(still.resource_version(), foreign.resource_version());
    rig.api::<Service>().delete("demo", &DeleteParams::default()).await.unwrap();
    rig.until_settled("demo").await;
    rig.stop().await;
}

#[tokio::test]
async fn a_child_that_somebody_orphans_is_not_taken_back_by_force() {
    let Some(rig) = rig::start().await else { return };
    rig.create("demo", &echo()).await;
    rig.until_settled("demo").await;
    rig::until("NameTaken", async || {
        // A reconcile that is under way still knows the object as its own and puts the reference back: then once more.
        let connection = rig.find::<ConfigMap>("demo-connection").await?;
        if !connection.owner_references().is_empty() {
            rig.merge::<ConfigMap>("demo-connection", &json!({ "metadata": { "ownerReferences": null } }))
                .await;
        }
        let cs = rig.find::<ChatService>("demo").await?;
        claim(&cs, condition::READY).filter(|(_, reason, _)| reason == "NameTaken")
    })
    .await;
    assert!(rig.find::<ConfigMap>("demo-connection").await.unwrap().owner_references().is_empty());
    rig.stop().await;
}
