//! Row O8: however a ChatService came to its spec, its children are those of one that was made with it.

use chatservice::crd::{ChatService, custom_resource_definition};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, PostParams};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use crate::rig::{Rig, until_some};
use crate::workflows::{NAME, children, difference};

/// Transitions where there is time.
const MANY: usize = 200;

/// What a field of the spec may be; null: it is left out.
fn choices() -> Vec<(&'static str, Vec<Value>)> {
    let openai = json!({ "credentialsSecretRef": { "name": "openai" } });
    let mut private = openai.clone();
    private["proxyURL"] = json!("http://proxy.example.com:3128");
    private["caBundleConfigMapRef"] = json!({ "name": "private-ca" });
    let priced = json!({ "inputPerMillionTokens": "1", "outputPerMillionTokens": "2" });
    let models = json!([
        { "name": "m", "price": priced, "maxOutputTokens": 100, "fallbacks": ["n"] },
        { "name": "n", "price": priced, "maxOutputTokens": 100 },
    ]);
    let metrics = json!([{ "type": "Resource", "resource": {
        "name": "memory", "target": { "type": "Utilization", "averageUtilization": 80 } } }]);
    vec![
        ("model", vec![json!("m")]),
        ("models", vec![json!(null), models]),
        ("backend", vec![json!({ "echo": {} }), json!({ "openai": openai }), json!({ "openai": private })]),
        ("defaults", vec![json!(null), json!({ "systemPrompt": "Be brief.", "temperature": 1 })]),
        (
            "rateLimits",
            vec![json!(null), json!({ "requestsPerMinute": 60 }), json!({ "tokensPerMinute": 1000 })],
        ),
        ("cache", vec![json!(null), json!({ "ttl": "1h" }), json!({ "ttl": "0s" })]),
        ("conversations", vec![json!(null), json!({ "ttl": "2h", "maxMessages": 4 })]),
        ("timeouts", vec![json!(null), json!({ "connect": "2s" })]),
        ("retries", vec![json!(null), json!({ "maxAttempts": 1 })]),
        ("redis", vec![json!(null), json!({ "secretRef": { "name": "redis" } })]),
        ("replicas", vec![json!(null), json!(0), json!(2), json!(3)]),
        (
            "autoscaling",
            vec![
                json!(null),
                json!({ "minReplicas": 1, "maxReplicas": 2 }),
                json!({ "minReplicas": 2, "maxReplicas": 4, "metrics": metrics }),
            ],
        ),
        ("image", vec![json!(null), json!("registry.example.com/chatservice:0.2.0")]),
        (
            "resources",
            vec![json!(null), json!({ "requests": { "cpu": "10m" }, "limits": { "memory": "64Mi" } })],
        ),
        ("service", vec![json!(null), json!({ "port": 80 }), json!({ "type": "NodePort" })]),
        ("networkPolicy", vec![json!(null), json!({ "enabled": true }), json!({ "enabled": false })]),
        (
            "pod",
            vec![
                json!(null),
                json!({ "labels": { "team": "a" }, "annotations": { "example.com/x": "y" } }),
                json!({ "terminationGracePeriodSeconds": 90 }),
            ],
        ),
        ("playground", vec![json!(null), json!({ "enabled": false })]),
        ("logging", vec![json!(null), json!({ "level": "debug", "format": "text" })]),
        ("telemetry", vec![json!(null), json!({ "otlpEndpoint": "http://otel.observability.svc:4318" })]),
        ("cors", vec![json!(null), json!({ "allowOrigins": ["https://app.example.com"] })]),
    ]
}

/// A spec by chance, of the fields that the CRD has.
fn by_chance(chance: &mut StdRng) -> Value {
    let crd = serde_json::to_value(custom_resource_definition()).unwrap();
    let fields = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties").unwrap();
    let mut spec = json!({});
    for (field, values) in choices() {
        if fields.get(field).is_some() {
            let value = values.choose(chance).unwrap();
            if !value.is_null() {
                spec[field] = value.clone();
            }
        }
    }
    spec
}

/// Puts a whole spec in the place of another.
async fn put(rig: &Rig, spec: &Value) {
    until_some("the spec to be stored", async || {
        let services = rig.api::<ChatService>();
        let mut object = services.get(NAME).await.unwrap();
        object.spec = serde_json::from_value(spec.clone()).unwrap();
        // A status written in between is a conflict.
        services.replace(NAME, &PostParams::default(), &object).await.map_err(|error| error.to_string())
    })
    .await;
}

/// The children of a ChatService when nothing is under way.
async fn settled_children(rig: &Rig, name: &str) -> Vec<Value> {
    rig.until_settled(name).await;
    let mut all = children(rig, name).await;
    if all.iter().any(|object| object["kind"] == "HorizontalPodAutoscaler") {
        // How many pods there are is then the autoscaler's to say, beginning with as many as there were.
        for deployment in all.iter_mut().filter(|object| object["kind"] == "Deployment") {
            deployment["spec"].as_object_mut().unwrap().remove("replicas");
        }
    }
    all
}

async fn transitions(count: usize) -> Option<()> {
    let mut rig = Rig::without_operator().await?;
    rig.run_operator(None).await;
    let seed = rand::random();
    let mut chance = StdRng::seed_from_u64(seed);
    rig.create(NAME, &by_chance(&mut chance)).await;
    for number in 1..=count {
        rig.until_settled(NAME).await;
        let spec = by_chance(&mut chance);
        put(&rig, &spec).await;
        let fresh = format!("fresh{number}");
        rig.create(&fresh, &spec).await;
        let expected = settled_children(&rig, &fresh).await;
        assert!(!expected.is_empty());
        until_some(&format!("the {number}th spec of seed {seed} to be as if new: {spec}"), async || {
            let found = settled_children(&rig, NAME).await;
            if found == expected { Ok(()) } else { Err(difference(&expected, &found)) }
        })
        .await;
        rig.api::<ChatService>().delete(&fresh, &DeleteParams::background()).await.unwrap();
    }
    assert!(rig.find::<ConfigMap>("demo-config").await.is_some());
    rig.clear().await;
    Some(())
}

#[tokio::test]
async fn a_few_random_transitions_end_as_if_made_from_scratch() {
    transitions(4).await;
}

#[tokio::test]
#[ignore = "minutes: make chaos"]
async fn random_transitions_end_as_if_made_from_scratch() {
    if transitions(MANY).await.is_some() {
        println!("O8: {MANY} random transitions: 0 differences from scratch");
    }
}
