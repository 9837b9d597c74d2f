//! What users do to a ChatService, and what has to be there afterwards: the children without what differs from one
//! namespace to another, and the conditions. Faults are judged by the comparison with the undisturbed run.

use chatservice::constants::{condition, label, reason};
use chatservice::controller::names::watch_selector;
use chatservice::crd::ChatService;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams};
use kube::{Api, Resource, ResourceExt};
use serde_json::{Value, json};

use crate::rig::{Fault, Rig, claim, until, until_some};

/// The name of the ChatService.
pub const NAME: &str = "demo";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workflow {
    Create,
    ChangeImage,
    ScaleUp,
    ScaleDown,
    AutoscalingOn,
    AutoscalingOff,
    RotateSecret,
    Delete,
    Recreate,
}

impl Workflow {
    pub const ALL: &[Self] = &[
        Self::Create,
        Self::ChangeImage,
        Self::ScaleUp,
        Self::ScaleDown,
        Self::AutoscalingOn,
        Self::AutoscalingOff,
        Self::RotateSecret,
        Self::Delete,
        Self::Recreate,
    ];

    fn spec(self) -> Value {
        let replicas = if self == Self::ScaleDown { 3 } else { 1 };
        let backend = if self == Self::RotateSecret {
            json!({ "openai": { "credentialsSecretRef": { "name": "openai" } } })
        } else {
            json!({ "echo": {} })
        };
        let mut spec = json!({ "model": "m", "backend": backend, "replicas": replicas });
        if self == Self::AutoscalingOff {
            spec["autoscaling"] = autoscaling();
        }
        spec
    }

    /// Everything up to the moment of interest.
    async fn prepare(self, rig: &mut Rig) {
        if self == Self::Create {
            return;
        }
        if self == Self::RotateSecret {
            rig.answer_for_pods().await;
            rig.make::<Secret>(&secret("old")).await;
        }
        rig.create(NAME, &self.spec()).await;
        rig.until_settled(NAME).await;
        if self == Self::RotateSecret {
            rig.report(&[(reason::SECRET_KEY_MISSING, "no key")]);
            rig.fail_readiness(NAME).await;
            rig.until_ready_is(NAME, "False", reason::SECRET_KEY_MISSING).await;
        }
    }

    /// What the user does.
    async fn act(self, rig: &Rig) {
        match self {
            Self::Create => {
                rig.create(NAME, &self.spec()).await;
            }
            Self::ChangeImage => {
                let patch = json!({ "spec": { "image": "registry.example.com/chatservice:0.2.0" } });
                rig.merge::<ChatService>(NAME, &patch).await;
            }
            Self::ScaleUp => {
                rig.merge::<ChatService>(NAME, &json!({ "spec": { "replicas": 3 } })).await;
            }
            Self::ScaleDown => {
                rig.merge::<ChatService>(NAME, &json!({ "spec": { "replicas": 1 } })).await;
            }
            Self::AutoscalingOn => {
                rig.merge::<ChatService>(NAME, &json!({ "spec": { "autoscaling": autoscaling() } })).await;
            }
            Self::AutoscalingOff => {
                rig.merge::<ChatService>(NAME, &json!({ "spec": { "autoscaling": null } })).await;
            }
            Self::RotateSecret => {
                rig.merge::<Secret>("openai", &secret("new")).await;
                rig.report(&[]);
                rig.restore_readiness(NAME).await;
            }
            Self::Delete => {
                rig.api::<ChatService>().delete(NAME, &DeleteParams::background()).await.unwrap();
            }
            Self::Recreate => {
                rig.api::<ChatService>().delete(NAME, &DeleteParams::background()).await.unwrap();
                rig.create(NAME, &self.spec()).await;
            }
        }
    }

    /// Waits until nothing is under way any more.
    async fn finish(self, rig: &Rig) {
        if self == Self::Delete {
            until("everything to go", async || picture(rig).await.is_empty().then_some(())).await;
        } else {
            rig.until_settled(NAME).await;
        }
    }
}

fn autoscaling() -> Value {
    json!({ "minReplicas": 1, "maxReplicas": 2 })
}

fn secret(key: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "openai" }, "stringData": { "api-key": key },
    })
}

/// What came of a workflow.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    /// The changing requests that the operator sent after the user had acted.
    pub changes: Vec<String>,
    /// Those of them that reached the API server and delete something, sorted.
    pub deletes: Vec<String>,
    /// What is there in the end.
    pub picture: Vec<Value>,
}

/// Runs a workflow without a fault; None without an API server.
pub async fn undisturbed(workflow: Workflow) -> Option<Outcome> {
    let mut rig = Rig::without_operator().await?;
    rig.run_operator(None).await;
    workflow.prepare(&mut rig).await;
    let before = rig.faults.changes().len();
    workflow.act(&rig).await;
    workflow.finish(&rig).await;
    let changes = rig.faults.changes().split_off(before);
    let outcome = Outcome { changes, deletes: deletes(&rig), picture: picture(&rig).await };
    rig.clear().await;
    Some(outcome)
}

/// Runs a workflow with a fault at the `number`th change, and waits until what is there is what `expected` says. An
/// operator that died is followed by another. Whether the fault was met.
pub async fn disturbed(workflow: Workflow, number: usize, fault: Fault, expected: &Outcome) -> bool {
    let mut rig = Rig::without_operator().await.unwrap();
    rig.run_operator(None).await;
    workflow.prepare(&mut rig).await;
    let faults = rig.faults.clone();
    faults.at(number, fault);
    workflow.act(&rig).await;
    tokio::select! {
        biased;
        () = faults.crashed() => {
            rig.kill_operator().await;
            rig.run_operator(None).await;
            as_expected(&rig, workflow, number, fault, expected).await;
        }
        () = as_expected(&rig, workflow, number, fault, expected) => {}
    }
    assert_eq!(deletes(&rig), expected.deletes, "{workflow:?}, {fault:?} at {number}");
    rig.clear().await;
    faults.all_happened()
}

async fn as_expected(rig: &Rig, workflow: Workflow, number: usize, fault: Fault, expected: &Outcome) {
    until_some(&format!("the end of {workflow:?} with {fault:?} at {number}"), async || {
        let picture = picture(rig).await;
        if picture == expected.picture { Ok(()) } else { Err(difference(&expected.picture, &picture)) }
    })
    .await;
}

/// The first object that differs.
pub fn difference(expected: &[Value], found: &[Value]) -> String {
    let missing = expected.iter().find(|object| !found.contains(object));
    let surplus = found.iter().find(|object| !expected.contains(object));
    let text = |object: Option<&Value>| object.map_or_else(|| "-".to_owned(), Value::to_string);
    format!("\n  expected {}\n  found    {}", text(missing), text(surplus))
}

fn deletes(rig: &Rig) -> Vec<String> {
    let all = rig.recorded.all();
    let mut deletes: Vec<String> = all
        .iter()
        .filter(|line| line.starts_with("DELETE"))
        .map(|line| line.replace(&rig.namespace, "NS"))
        .collect();
    deletes.sort();
    deletes
}

/// Everything of ours in the rig's namespace.
pub async fn picture(rig: &Rig) -> Vec<Value> {
    let mut all = Vec::new();
    list::<ServiceAccount>(rig, &mut all).await;
    list::<ConfigMap>(rig, &mut all).await;
    list::<Service>(rig, &mut all).await;
    list::<PodDisruptionBudget>(rig, &mut all).await;
    list::<HorizontalPodAutoscaler>(rig, &mut all).await;
    list::<NetworkPolicy>(rig, &mut all).await;
    list::<Deployment>(rig, &mut all).await;
    if let Some(cs) = rig.find::<ChatService>(NAME).await {
        let claims = [condition::READY, condition::RECONCILING, condition::STALLED];
        let claims = claims.map(|type_| claim(&cs, type_).map(|(status, reason, _)| (status, reason)));
        let status = cs.status.clone().unwrap_or_default();
        let current = status.observed_generation == cs.metadata.generation;
        all.push(json!({ "current": current, "pods": status.pods, "claims": claims }));
    }
    all
}

async fn list<K>(rig: &Rig, into: &mut Vec<Value>)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let kind = ApiResource::erase::<K>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(rig.admin.clone(), &rig.namespace, &kind);
    for object in api.list(&ListParams::default().labels(&watch_selector())).await.unwrap() {
        assert!(object.labels().contains_key(label::INSTANCE));
        into.push(comparable(&object, &kind.kind, &rig.namespace));
    }
}

/// An object without what the API server adds and what differs between namespaces.
fn comparable(object: &DynamicObject, kind: &str, namespace: &str) -> Value {
    let owners: Vec<String> = object.owner_references().iter().map(|owner| owner.uid.clone()).collect();
    let mut value = serde_json::to_value(object).unwrap();
    value["kind"] = json!(kind);
    value.as_object_mut().unwrap().remove("status");
    let meta = value["metadata"].as_object_mut().unwrap();
    for key in ["uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"] {
        meta.remove(key);
    }
    if let Some(annotations) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
        // How often pods were replaced on the way does not matter.
        annotations.remove("deployment.kubernetes.io/revision");
        if annotations.is_empty() {
            meta.remove("annotations");
        }
    }
    if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
        if spec.get("clusterIP").is_some_and(|ip| ip != "None") {
            spec.remove("clusterIP");
            spec.remove("clusterIPs");
        }
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            port.as_object_mut().unwrap().remove("nodePort");
        }
    }
    if let Some(text) = value.pointer_mut("/data/config.json") {
        let mut config: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
        config["identity"]["generation"] = json!(0);
        *text = json!(config.to_string());
    }
    let mut text = value.to_string().replace(namespace, "NS");
    for owner in owners {
        text = text.replace(&owner, "OWNER");
    }
    serde_json::from_str(&text).unwrap()
}
