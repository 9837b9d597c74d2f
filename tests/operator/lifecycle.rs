//! From creation to deletion.

use chatservice::constants::{annotation, condition, mount};
use chatservice::crd::ChatService;
use chatservice::server::config::ServerConfig;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, ResourceQuota, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use crate::kinds;
use crate::rig::{self, Rig, claim, until, until_some};

fn echo(replicas: i32) -> Value {
    json!({ "model": "echo-1", "backend": { "echo": {} }, "replicas": replicas })
}

/// `kind/name resourceVersion` of every child, and whose they are.
async fn children(rig: &Rig, owner: &str) -> Vec<String> {
    let all = kinds::objects(rig, &ListParams::default()).await;
    let of_owner = all.into_iter().filter(|(_, object)| {
        object.owner_references().iter().any(|of| of.uid == owner && of.controller == Some(true))
    });
    let line = |(kind, object): (String, DynamicObject)| {
        format!("{kind}/{} {}", object.name_any(), object.resource_version().unwrap())
    };
    of_owner.map(line).collect()
}

fn names(children: &[String]) -> Vec<&str> {
    children.iter().map(|child| child.split(' ').next().unwrap()).collect()
}

#[tokio::test]
async fn a_new_service_gets_its_children_and_is_ready_only_when_its_pods_are() {
    let Some(rig) = rig::start().await else { return };
    // No pod can be made at first.
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "none" }, "spec": { "hard": { "pods": "0" } },
    });
    rig.make::<ResourceQuota>(&quota).await;
    until("the quota to count", async || {
        rig.find::<ResourceQuota>("none").await?.status?.hard.filter(|hard| !hard.is_empty())
    })
    .await;
    let owner = rig.create("demo", &echo(2)).await.uid().unwrap();
    let cs = rig.until_ready_is("demo", "False", "QuotaExceeded").await;
    let (_, _, message) = claim(&cs, condition::READY).unwrap();
    assert!(message.contains("exceeded quota: none") && message.contains("Fix:"), "{message}");
    until("metrics to tell of it", async || (rig.seconds("unready") > 0.0).then_some(())).await;
    assert_eq!(
        names(&children(&rig, &owner).await),
        [
            "ServiceAccount/demo",
            "ConfigMap/demo-config",
            "ConfigMap/demo-connection",
            "Service/demo",
            "Service/demo-admin",
            "PodDisruptionBudget/demo",
            "Deployment/demo",
        ]
    );
    assert_eq!(cs.status.unwrap().pods.as_deref(), Some("0/2"));

    rig.api::<ResourceQuota>().delete("none", &DeleteParams::default()).await.unwrap();
    let status = rig.until_settled("demo").await.status.unwrap();
    let deployment = rig.find::<Deployment>("demo").await.unwrap().status.unwrap();
    assert_eq!((deployment.ready_replicas, deployment.updated_replicas), (Some(2), Some(2)));
    assert_eq!(status.pods.as_deref(), Some("2/2"));
    assert_eq!(
        (status.replicas, status.ready_replicas, status.updated_replicas),
        (Some(2), Some(2), Some(2))
    );
    assert_eq!(status.endpoint.unwrap(), format!("http://demo.{}.svc:8080/v1", rig.namespace));
    assert_eq!((status.image.as_deref(), status.backend.as_deref()), (Some(rig::IMAGE), Some("echo")));
    until("metrics to count it", async || {
        let ready: u64 = rig.ready_objects().iter().sum();
        (ready == 1 && rig.seconds("unready") == 0.0).then_some(())
    })
    .await;
    rig.stop().await;
}

#[tokio::test]
async fn a_service_with_every_field_turns_ready() {
    let Some(rig) = rig::start().await else { return };
    let spec = json!({
        "model": "gpt-4o-mini",
        "models": [
            { "name": "gpt-4o-mini", "maxOutputTokens": 16384, "fallbacks": ["backup"] },
            { "name": "backup", "upstreamModel": "own", "maxOutputTokens": 4096, "maxTokensField": "max_tokens",
              "omit": ["temperature"], "price": { "inputPerMillionTokens": "0.15", "outputPerMillionTokens": "0.60" } },
        ],
        "backend": { "openai": {
            "baseURL": "https://api.openai.com/v1", "credentialsSecretRef": { "name": "openai" },
            "proxyURL": "http://proxy.example.com:3128", "caBundleConfigMapRef": { "name": "private-ca" },
        } },
        "defaults": { "systemPrompt": "Be brief.", "temperature": 0, "maxTokens": 500 },
        "rateLimits": {
            "requestsPerMinute": 60, "burst": 5, "tokensPerMinute": 100_000, "concurrentRequests": 20,
            "per": "Caller", "onStoreFailure": "Local", "mode": "Enforce",
        },
        "budget": { "amount": "25.00", "period": "Month" },
        "cache": { "ttl": "1h", "memory": "32Mi" },
        "conversations": { "ttl": "24h", "maxMessages": 20, "maxTokens": 32000 },
        "timeouts": { "connect": "1s", "firstToken": "120s", "idle": "60s", "request": "10m" },
        "retries": { "maxAttempts": 3 },
        "redis": { "secretRef": { "name": "redis" } },
        "replicas": 3,
        "image": "registry.example.com/chatservice:0.2.0",
        "resources": { "requests": { "cpu": 1, "memory": "64Mi" }, "limits": { "cpu": "1500m", "memory": "1Gi" } },
        "service": { "type": "NodePort", "port": 80 },
        "logging": { "level": "warn", "format": "text" },
        "telemetry": { "otlpEndpoint": "http://otel-collector.observability.svc:4318" },
    });
    rig.create("prod", &spec).await;
    let status = rig.until_settled("prod").await.status.unwrap();
    assert_eq!(status.image.as_deref(), Some("registry.example.com/chatservice:0.2.0"));
    assert_eq!((status.backend.as_deref(), status.redis.as_deref()), (Some("openai"), Some("Unknown")));
    rig.stop().await;
}

/// The annotation of the pod template by which a change of it replaces the pods.
async fn template_hash(rig: &Rig) -> String {
    let deployment = rig.find::<Deployment>("demo").await.unwrap();
    deployment.spec.template.metadata.unwrap().annotations.unwrap()[annotation::CONFIG_HASH].clone()
}

#[tokio::test]
async fn an_edited_model_reaches_the_pods_without_a_rollout() {
    let Some(mut rig) = rig::start().await else { return };
    rig.answer_for_pods().await;
    rig.create("demo", &echo(2)).await;
    rig.until_settled("demo").await;
    let wanted = async || {
        let data = rig.find::<ConfigMap>("demo-config").await.unwrap().data.unwrap();
        serde_json::from_str::<ServerConfig>(&data[mount::CONFIG_FILE]).unwrap()
    };
    let runs = |config: &ServerConfig| rig.answer.lock().unwrap().config_hash = config.hash();
    let (before, template) = (wanted().await, template_hash(&rig).await);
    let names = async || rig.pods("demo").await.iter().map(ResourceExt::name_any).collect::<Vec<_>>();
    let pods = names().await;
    runs(&before);
    rig.merge::<ChatService>("demo", &json!({ "spec": { "model": "echo-2" } })).await;
    // Until the servers say that they run it, it is under way, and they serve all the while.
    let cs = until("the configuration to propagate", async || {
        let cs = rig.find::<ChatService>("demo").await?;
        claim(&cs, condition::RECONCILING).filter(|(_, reason, _)| reason == "ConfigPropagating").map(|_| cs)
    })
    .await;
    assert_eq!(cs.status.as_ref().unwrap().observed_generation, Some(2));
    assert_eq!(claim(&cs, condition::READY).unwrap().0, "True");
    let after = wanted().await;
    assert_eq!((after.dynamic.model.as_str(), after.identity.generation), ("echo-2", 2));
    runs(&after);
    rig.until_settled("demo").await;
    assert_eq!((template_hash(&rig).await, names().await), (template, pods), "no pod was replaced");
    rig.stop().await;
}

#[tokio::test]
async fn another_secret_reaches_the_pods_by_a_rollout() {
    let Some(rig) = rig::start().await else { return };
    rig.create("demo", &echo(1)).await;
    rig.until_settled("demo").await;
    let (before, pod) = (template_hash(&rig).await, rig.pods("demo").await[0].name_any());
    rig.merge::<ChatService>("demo", &json!({ "spec": { "redis": { "secretRef": { "name": "redis" } } } }))
        .await;
    rig.until_settled("demo").await;
    assert_ne!(template_hash(&rig).await, before);
    until("the old pod to go", async || {
        rig.pods("demo").await.iter().all(|new| new.name_any() != pod).then_some(())
    })
    .await;
    rig.stop().await;
}

#[tokio::test]
async fn a_budget_without_a_known_price_stalls_and_names_the_model() {
    let Some(rig) = rig::start().await else { return };
    let spec = json!({
        "model": "own", "backend": { "openai": {} }, "budget": { "amount": "25.00", "period": "Month" },
        "models": [{ "name": "own", "maxOutputTokens": 4096 }],
    });
    rig.create("demo", &spec).await;
    let cs = rig.until_ready_is("demo", "False", "InvalidSpec").await;
    let (_, reason, message) = claim(&cs, condition::STALLED).unwrap();
    assert_eq!(reason, "InvalidSpec");
    assert!(message.contains("\"own\"") && message.contains("models[].price"), "{message}");
    rig.stop().await;
}

#[tokio::test]
async fn a_deleted_child_comes_back() {
    async fn check<K>(rig: &Rig, name: &str)
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone,
        K: std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let before = rig.find::<K>(name).await.unwrap().uid().unwrap();
        rig.api::<K>().delete(name, &DeleteParams::background()).await.unwrap();
        until(&format!("{} {name} to come back", K::kind(&())), async || {
            rig.find::<K>(name).await.filter(|again| again.uid().unwrap() != before)
        })
        .await;
    }
    let Some(rig) = rig::start().await else { return };
    rig.create("demo", &echo(2)).await;
    rig.until_settled("demo").await;
    check::<ServiceAccount>(&rig, "demo").await;
    check::<ConfigMap>(&rig, "demo-config").await;
    check::<ConfigMap>(&rig, "demo-connection").await;
    check::<Service>(&rig, "demo").await;
    check::<Service>(&rig, "demo-admin").await;
    check::<PodDisruptionBudget>(&rig, "demo").await;
    check::<Deployment>(&rig, "demo").await;
    rig.until_settled("demo").await;
    rig.stop().await;
}

#[tokio::test]
async fn an_edit_of_our_field_goes_back_and_one_of_another_field_stays() {
    let Some(rig) = rig::start().await else { return };
    rig.create("demo", &echo(1)).await;
    rig.until_settled("demo").await;
    let theirs = json!({ "metadata": { "annotations": { "example.com/theirs": "kept" } } });
    rig.merge::<Service>("demo", &theirs).await;
    rig.merge::<Deployment>("demo", &theirs).await;
    let image = json!({ "spec": { "template": { "spec": { "containers": [{ "name": "server", "image": "evil:1" }] } } } });
    let strategic = Patch::Strategic(&image);
    rig.api::<Deployment>().patch("demo", &PatchParams::default(), &strategic).await.unwrap();
    rig.merge::<Deployment>("demo", &json!({ "spec": { "replicas": 4 } })).await;
    rig.merge::<ConfigMap>("demo-connection", &json!({ "data": { "OPENAI_BASE_URL": "http://evil" } })).await;
    until_some("the fields to go back", async || {
        let deployment = rig.find::<Deployment>("demo").await.unwrap();
        let config = rig.find::<ConfigMap>("demo-connection").await.unwrap();
        let image = deployment.spec.template.spec.as_ref().unwrap().containers[0].image.clone();
        let url = config.data.as_ref().unwrap()["OPENAI_BASE_URL"].clone();
        let back = image.as_deref() == Some(rig::IMAGE)
            && deployment.spec.replicas == Some(1)
            && !url.contains("evil");
        if back { Ok(()) } else { Err(format!("{image:?} {:?} {url}", deployment.spec.replicas)) }
    })
    .await;
    for annotations in [
        rig.find::<Service>("demo").await.unwrap().metadata.annotations,
        rig.find::<Deployment>("demo").await.unwrap().metadata.annotations,
    ] {
        assert_eq!(annotations.unwrap()["example.com/theirs"], "kept");
    }
    rig.until_settled("demo").await;
    rig.stop().await;
}

#[tokio::test]
async fn scaling_goes_through_the_scale_subresource_and_brings_and_takes_the_budget() {
    let Some(rig) = rig::start().await else { return };
    rig.create("demo", &echo(1)).await;
    rig.until_settled("demo").await;
    assert!(rig.find::<PodDisruptionBudget>("demo").await.is_none());
    for (replicas, budget) in [(3, true), (1, false), (0, false)] {
        let patch = json!({ "spec": { "replicas": replicas } });
        let services = rig.api::<ChatService>();
        services.patch_scale("demo", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        rig.until_settled("demo").await;
        until_some(&format!("{replicas} pods"), async || {
            let deployment = rig.find::<Deployment>("demo").await.unwrap().spec.replicas;
            let found = rig.find::<PodDisruptionBudget>("demo").await.is_some();
            let scale = services.get_scale("demo").await.unwrap().status.unwrap();
            let selector = scale.selector.unwrap_or_default();
            if deployment == Some(replicas)
                && found == budget
                && scale.replicas == replicas
                && !selector.is_empty()
            {
                return Ok(());
            }
            Err(format!("{deployment:?}, budget {found}, scale {}", scale.replicas))
        })
        .await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_paused_service_is_left_alone_until_the_pause_ends() {
    let Some(rig) = rig::start().await else { return };
    rig.create("demo", &echo(1)).await;
    let cs = rig.until_settled("demo").await;
    let owner = cs.uid().unwrap();
    let pause = |value: Value| json!({ "metadata": { "annotations": { annotation::PAUSED: value } } });
    rig.merge::<ChatService>("demo", &pause(json!("true"))).await;
    rig.until_ready_is("demo", "False", "Paused").await;
    let before = children(&rig, &owner).await;
    let patches = rig.recorded.count("PATCH", "/deployments/");
    rig.merge::<ChatService>("demo", &json!({ "spec": { "model": "echo-2", "replicas": 2 } })).await;
    rig.until_ready_is("demo", "False", "Paused").await;
    assert_eq!(children(&rig, &owner).await, before);
    assert_eq!(rig.recorded.count("PATCH", "/deployments/"), patches);
    rig.merge::<ChatService>("demo", &pause(Value::Null)).await;
    rig.until_settled("demo").await;
    assert_eq!(rig.find::<Deployment>("demo").await.unwrap().spec.replicas, Some(2));
    rig.stop().await;
}

#[tokio::test]
async fn deletion_leaves_nothing_behind() {
    let Some(rig) = rig::start().await else { return };
    let owner = rig.create("demo", &echo(2)).await.uid().unwrap();
    rig.until_settled("demo").await;
    // Foreground: the object stays, marked, until its children are gone. The operator must not make them again.
    rig.api::<ChatService>().delete("demo", &DeleteParams::foreground()).await.unwrap();
    until_some("everything to go", async || {
        let (children, pods) = (children(&rig, &owner).await, rig.pods("demo").await.len());
        let left = rig.find::<ChatService>("demo").await.is_some();
        if children.is_empty() && pods == 0 && !left {
            Ok(())
        } else {
            Err(format!("{left} {pods} {children:?}"))
        }
    })
    .await;
    until("the operator to forget it", async || (rig.ready_objects() == [0, 0, 0]).then_some(())).await;
    rig.stop().await;
}

#[tokio::test]
async fn while_a_finalizer_holds_it_a_deleted_child_is_not_made_again() {
    let Some(rig) = rig::start().await else { return };
    rig.create("demo", &echo(1)).await;
    rig.until_settled("demo").await;
    let hold = json!({ "metadata": { "finalizers": ["example.com/hold"] } });
    rig.merge::<ChatService>("demo", &hold).await;
    rig.api::<ChatService>().delete("demo", &DeleteParams::background()).await.unwrap();
    let reconcile = async |round: u32| {
        let before = rig.reconciles();
        let touched = json!({ "metadata": { "annotations": { "example.com/touched": round.to_string() } } });
        rig.merge::<ChatService>("demo", &touched).await;
        until("a reconcile", async || (rig.reconciles() > before).then_some(())).await;
    };
    // Two, so that one which began before the deletion has ended.
    reconcile(0).await;
    reconcile(1).await;
    let patches = rig.recorded.count("PATCH", "");
    rig.api::<Service>().delete("demo", &DeleteParams::background()).await.unwrap();
    reconcile(2).await;
    reconcile(3).await;
    assert_eq!(rig.recorded.count("PATCH", ""), patches, "nothing is written");
    assert!(rig.find::<Service>("demo").await.is_none());
    rig.merge::<ChatService>("demo", &json!({ "metadata": { "finalizers": null } })).await;
    until("it to go", async || rig.find::<ChatService>("demo").await.is_none().then_some(())).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_second_reconcile_writes_nothing() {
    let Some(mut rig) = rig::start().await else { return };
    rig.answer_for_pods().await;
    rig.create("demo", &echo(2)).await;
    let owner = rig.until_settled("demo").await.uid().unwrap();
    // The first rounds of questions change what is known of the pods, so the state is taken after a reconcile that
    // followed them.
    let touch = async |round: u32| {
        let before = rig.reconciles();
        let patch = json!({ "metadata": { "annotations": { "example.com/touched": round.to_string() } } });
        rig.merge::<ChatService>("demo", &patch).await;
        until("a reconcile", async || (rig.reconciles() > before).then_some(())).await;
    };
    for round in 0..3 {
        touch(round).await;
    }
    let (before, start) = (children(&rig, &owner).await, rig.reconciles());
    let (status, applies) =
        (rig.recorded.count("PATCH", "/status?"), rig.recorded.count("PATCH", "/deployments/demo"));
    let (events, deletes) = (rig.recorded.count("POST", ""), rig.recorded.count("DELETE", ""));
    for round in 3..8 {
        touch(round).await;
    }
    assert!(
        rig.recorded.count("PATCH", "/deployments/demo") >= applies + 8,
        "each reconcile applies, but for one that was under way"
    );
    assert_eq!(children(&rig, &owner).await, before, "no child has a new version");
    assert_eq!(rig.recorded.count("PATCH", "/status?"), status, "no status was written");
    assert_eq!(rig.recorded.count("POST", ""), events, "no event was published");
    assert_eq!(rig.recorded.count("DELETE", ""), deletes);
    assert!(rig.reconciles() - start <= 7, "{} reconciles for five touches", rig.reconciles() - start);
    let cs: PartialObjectMeta<ChatService> = rig.api::<ChatService>().get_metadata("demo").await.unwrap();
    assert_eq!(cs.metadata.generation, Some(1));
    rig.stop().await;
}
