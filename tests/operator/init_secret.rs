//! The Secret of a chart's Redis: made once, under the role that the chart gives its Job, and never written again.

use chatservice::init_secret::{InitSecretError, InitSecretOptions, Outcome, ensure};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Client;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use crate::rig::{Rig, until};

const NAME: &str = "demo-redis";

fn options() -> InitSecretOptions {
    InitSecretOptions { name: NAME.to_owned(), namespace: None, host: NAME.to_owned() }
}

/// A client that may what charts/chatservice/templates/init-secret.yaml says.
async fn job(rig: &Rig) -> Client {
    let meta = json!({ "name": "init" });
    rig.make::<ServiceAccount>(&json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta }))
        .await;
    rig.make::<Role>(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta,
        "rules": [{
            "apiGroups": [""], "resources": ["secrets"], "resourceNames": [NAME], "verbs": ["get", "create", "patch"],
        }],
    }))
    .await;
    rig.make::<RoleBinding>(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": meta,
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "init" },
        "subjects": [{ "kind": "ServiceAccount", "name": "init", "namespace": rig.namespace }],
    }))
    .await;
    let client = rig.client_as("init").await;
    // The authorizer learns of a new role a moment later.
    let secrets = kube::Api::<Secret>::namespaced(client.clone(), &rig.namespace);
    until("the role", async || secrets.get_opt(NAME).await.ok()).await;
    client
}

#[tokio::test]
async fn it_is_made_once_and_kept_under_the_jobs_own_role() {
    let Some(rig) = Rig::without_operator().await else { return };
    let client = job(&rig).await;
    let made = ensure(client.clone(), &rig.namespace, &options()).await.unwrap();
    assert_eq!(made, Outcome::Made);
    let first = rig.find::<Secret>(NAME).await.unwrap();
    let keys: Vec<&String> = first.data.as_ref().unwrap().keys().collect();
    assert_eq!(keys, ["host", "password", "port", "username", "users.acl"]);

    for _ in 0..2 {
        let again = ensure(client.clone(), &rig.namespace, &options()).await.unwrap();
        assert_eq!(again, Outcome::Kept);
    }
    let now = rig.find::<Secret>(NAME).await.unwrap();
    assert_eq!(now.metadata.resource_version, first.metadata.resource_version, "it was written again");

    let other = InitSecretOptions { name: "other".to_owned(), ..options() };
    let error = ensure(client, &rig.namespace, &other).await.unwrap_err();
    assert!(matches!(error, InitSecretError::Api { verb: "get", .. }), "{error}");
    assert!(error.to_string().contains("forbidden"), "{error}");
}

#[tokio::test]
async fn of_many_at_once_one_makes_it() {
    let Some(rig) = Rig::without_operator().await else { return };
    let client = job(&rig).await;
    for round in 0..5 {
        let mut running = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (client, namespace) = (client.clone(), rig.namespace.clone());
            running.spawn(async move { ensure(client, &namespace, &options()).await });
        }
        let outcomes: Vec<Outcome> = running.join_all().await.into_iter().map(Result::unwrap).collect();
        let made = outcomes.iter().filter(|outcome| **outcome == Outcome::Made).count();
        assert_eq!(made, 1, "round {round}: {outcomes:?}");
        rig.api::<Secret>().delete(NAME, &DeleteParams::default()).await.unwrap();
    }
}

#[tokio::test]
async fn a_secret_of_somebody_else_is_left_alone_and_what_it_lacks_is_named() {
    let Some(rig) = Rig::without_operator().await else { return };
    let client = job(&rig).await;
    let secret: Secret = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": NAME }, "stringData": { "token": "x" },
    }))
    .unwrap();
    rig.api::<Secret>().create(&PostParams::default(), &secret).await.unwrap();
    let error = ensure(client, &rig.namespace, &options()).await.unwrap_err().to_string();
    assert!(error.contains("has no key \"host\" (found: token)") && error.contains("Fix:"), "{error}");
    let keys: Vec<String> = rig.find::<Secret>(NAME).await.unwrap().data.unwrap().into_keys().collect();
    assert_eq!(keys, ["token"]);
}
