//! What users do to a ChatService, and what has to be there afterwards: the children without what differs from one
//! namespace to another, and the conditions. Faults are judged by the comparison with the undisturbed run.

use std::collections::BTreeMap;

use chatservice::constants::{condition, label, reason};
use chatservice::crd::ChatService;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{DeleteParams, DynamicObject, ListParams};
use serde_json::{Value, json};

use crate::kinds;
use crate::rig::{Fault, Rig, claim, concerns, look_for, until};

/// The name of a ChatService that is alone.
pub const NAME: &str = "demo";

/// A fault at a change of a workflow.
pub type Point = (usize, Fault);

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

    /// ChatServices that go through it side by side: one server answers for all pods, so those with something to say are
    /// alone.
    pub fn most(self) -> usize {
        if self == Self::RotateSecret { 1 } else { 24 }
    }

    /// Everything up to the moment of interest.
    async fn prepare(self, rig: &mut Rig, names: &[String]) {
        if self == Self::Create {
            return;
        }
        if self == Self::RotateSecret {
            rig.answer_for_pods().await;
            rig.make::<Secret>(&secret("old")).await;
        }
        for name in names {
            rig.create(name, &self.spec()).await;
        }
        for name in names {
            rig.until_settled(name).await;
            if self == Self::RotateSecret {
                rig.report(&[(reason::SECRET_KEY_MISSING, "no key")]);
                rig.fail_readiness(name).await;
                rig.until_ready_is(name, "False", reason::SECRET_KEY_MISSING).await;
            }
        }
    }

    /// What the user does.
    async fn act(self, rig: &Rig, name: &str) {
        match self {
            Self::Create => {
                rig.create(name, &self.spec()).await;
            }
            Self::ChangeImage => {
                let patch = json!({ "spec": { "image": "registry.example.com/chatservice:0.2.0" } });
                rig.merge::<ChatService>(name, &patch).await;
            }
            Self::ScaleUp => {
                rig.merge::<ChatService>(name, &json!({ "spec": { "replicas": 3 } })).await;
            }
            Self::ScaleDown => {
                rig.merge::<ChatService>(name, &json!({ "spec": { "replicas": 1 } })).await;
            }
            Self::AutoscalingOn => {
                rig.merge::<ChatService>(name, &json!({ "spec": { "autoscaling": autoscaling() } })).await;
            }
            Self::AutoscalingOff => {
                rig.merge::<ChatService>(name, &json!({ "spec": { "autoscaling": null } })).await;
            }
            Self::RotateSecret => {
                rig.merge::<Secret>("openai", &secret("new")).await;
                rig.report(&[]);
                rig.restore_readiness(name).await;
            }
            Self::Delete => {
                rig.api::<ChatService>().delete(name, &DeleteParams::background()).await.unwrap();
            }
            Self::Recreate => {
                rig.api::<ChatService>().delete(name, &DeleteParams::background()).await.unwrap();
                rig.create(name, &self.spec()).await;
            }
        }
    }

    /// Waits until nothing is under way any more.
    async fn finish(self, rig: &Rig, name: &str) {
        if self == Self::Delete {
            until("everything to go", async || {
                let gone = said(rig, name).await.is_none() && children(rig, name).await.is_empty();
                gone.then_some(())
            })
            .await;
        } else {
            rig.until_settled(name).await;
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
    /// What is there in the end: what it says of itself, and its children.
    pub service: Option<Value>,
    pub children: Vec<Value>,
}

/// Runs a workflow without a fault; None without an API server.
pub async fn undisturbed(workflow: Workflow) -> Option<Outcome> {
    let mut rig = Rig::without_operator().await?;
    rig.run_operator(None).await;
    workflow.prepare(&mut rig, &[NAME.to_owned()]).await;
    let before = rig.faults.changes().len();
    workflow.act(&rig, NAME).await;
    workflow.finish(&rig, NAME).await;
    let changes = rig.faults.changes().split_off(before);
    let (service, children) = (said(&rig, NAME).await, children(&rig, NAME).await);
    let outcome = Outcome { changes, deletes: deletes(&rig, NAME), service, children };
    rig.clear().await;
    Some(outcome)
}

/// What came of faults: which were met, and what did not end as it should.
#[derive(Debug, Default)]
pub struct Disturbed {
    /// Faults.
    pub points: usize,
    /// Those that did not happen: another order of things may come to its end with fewer changes.
    pub missed: Vec<Point>,
    /// What did not end as without the fault.
    pub failures: Vec<String>,
}

impl Disturbed {
    pub fn add(&mut self, other: Self) {
        self.points += other.points;
        self.missed.extend(other.missed);
        self.failures.extend(other.failures);
    }
}

/// ChatServices that meet a fault each.
fn named(points: &[Point]) -> BTreeMap<String, Point> {
    points.iter().enumerate().map(|(number, &point)| (format!("{NAME}{number:02}"), point)).collect()
}

/// Runs a workflow with a ChatService for each of `points`, all at once, until each is what `expected` says.
pub async fn side_by_side(workflow: Workflow, points: &[Point], expected: &Outcome) -> Disturbed {
    let mut rig = Rig::without_operator().await.unwrap();
    rig.run_operator(None).await;
    let services = named(points);
    workflow.prepare(&mut rig, &services.keys().cloned().collect::<Vec<_>>()).await;
    for (name, &(number, fault)) in &services {
        rig.faults.at(name, number, fault);
    }
    join_all(services.keys().map(|name| workflow.act(&rig, name))).await;
    let failures = failures(&rig, workflow, &services, expected).await;
    let missed =
        services.iter().filter(|(name, _)| !rig.faults.happened(name)).map(|(_, &point)| point).collect();
    rig.clear().await;
    Disturbed { points: points.len(), missed, failures }
}

/// When the user acts on a ChatService over which an operator dies.
#[derive(Clone, Copy, Debug)]
pub enum Acts {
    /// Before there is one: its first look at the ChatService is the first that changes something of it.
    Before,
    /// While it runs.
    Meanwhile,
}

/// Runs a workflow with a ChatService for each of `points`, at each of which the operator dies and is followed by another, until
/// each is what `expected` says.
pub async fn one_crash_after_the_other(
    workflow: Workflow,
    acts: Acts,
    points: &[Point],
    expected: &Outcome,
) -> Disturbed {
    let mut rig = Rig::without_operator().await.unwrap();
    rig.run_operator(None).await;
    let services = named(points);
    workflow.prepare(&mut rig, &services.keys().cloned().collect::<Vec<_>>()).await;
    let mut missed = Vec::new();
    for (name, &(number, fault)) in &services {
        rig.kill_operator().await;
        match acts {
            Acts::Before => {
                workflow.act(&rig, name).await;
                rig.faults.at(name, number, fault);
                rig.begin_operator(None).await;
            }
            Acts::Meanwhile => {
                rig.run_operator(None).await;
                looked(&rig).await;
                rig.faults.at(name, number, fault);
                workflow.act(&rig, name).await;
            }
        }
        let faults = rig.faults.clone();
        tokio::select! {
            biased;
            () = faults.crashed() => {}
            _ = as_expected(&rig, name, expected) => missed.push((number, fault)),
        }
    }
    rig.kill_operator().await;
    rig.run_operator(None).await;
    let failures = failures(&rig, workflow, &services, expected).await;
    rig.clear().await;
    Disturbed { points: points.len(), missed, failures }
}

/// Waits until the operator has looked at every ChatService that is there.
async fn looked(rig: &Rig) {
    let there = rig.api::<ChatService>().list_metadata(&ListParams::default()).await.unwrap().items.len();
    until("a look at each", async || (rig.reconciles() >= there as u64).then_some(())).await;
}

/// Waits for the end of each; what is wrong with those that are not as expected.
async fn failures(
    rig: &Rig,
    workflow: Workflow,
    services: &BTreeMap<String, Point>,
    expected: &Outcome,
) -> Vec<String> {
    let look = |(name, &(number, fault)): (&String, &Point)| {
        let (name, place) = (name.clone(), format!("{workflow:?}, {fault:?} at {number}"));
        async move {
            let found = as_expected(rig, &name, expected).await.and_then(|()| {
                let (mut deletes, mut wanted) = (deletes(rig, &name), expected.deletes.clone());
                if matches!(fault, Fault::CrashBefore | Fault::CrashAfter) {
                    // What a process was about to hear when it was killed, the next one asks for again.
                    deletes.dedup();
                    wanted.dedup();
                }
                if deletes == wanted { Ok(()) } else { Err(format!("it deleted {deletes:?}")) }
            });
            found.err().map(|seen| format!("{place}: {seen}"))
        }
    };
    join_all(services.iter().map(look)).await.into_iter().flatten().collect()
}

async fn as_expected(rig: &Rig, name: &str, expected: &Outcome) -> Result<(), String> {
    look_for(async || {
        // One question, before those for each kind: many wait here at once.
        let service = said(rig, name).await;
        if service != expected.service {
            return Err(difference(expected.service.as_slice(), service.as_slice()));
        }
        let children = children(rig, name).await;
        if children == expected.children { Ok(()) } else { Err(difference(&expected.children, &children)) }
    })
    .await
}

/// The first object that differs.
pub fn difference(expected: &[Value], found: &[Value]) -> String {
    let missing = expected.iter().find(|object| !found.contains(object));
    let surplus = found.iter().find(|object| !expected.contains(object));
    let text = |object: Option<&Value>| object.map_or_else(|| "-".to_owned(), Value::to_string);
    format!("\n  expected {}\n  found    {}", text(missing), text(surplus))
}

/// What the operator deleted of a ChatService.
fn deletes(rig: &Rig, name: &str) -> Vec<String> {
    let all = rig.recorded.all();
    let deletes = all.iter().filter(|line| line.starts_with("DELETE") && concerns(line, name));
    let mut deletes: Vec<_> = deletes.map(|line| alike(line, rig, name)).collect();
    deletes.sort();
    deletes
}

/// A text as it would be in another namespace with another name.
fn alike(text: &str, rig: &Rig, name: &str) -> String {
    text.replace(&rig.namespace, "NS").replace(name, "NAME")
}

/// Everything of ours in the rig's namespace, where one ChatService is alone.
pub async fn picture(rig: &Rig) -> Vec<Value> {
    let mut all = children(rig, NAME).await;
    all.extend(said(rig, NAME).await);
    all
}

/// The children of a ChatService.
pub async fn children(rig: &Rig, name: &str) -> Vec<Value> {
    let params = ListParams::default().labels(&format!("{}={name}", label::INSTANCE));
    let children = kinds::objects(rig, &params).await;
    children.iter().map(|(kind, object)| comparable(object, kind, rig, name)).collect()
}

/// What a ChatService says of itself, where there is one.
async fn said(rig: &Rig, name: &str) -> Option<Value> {
    let cs = rig.find::<ChatService>(name).await?;
    let claims = [condition::READY, condition::RECONCILING, condition::STALLED];
    let claims = claims.map(|type_| claim(&cs, type_).map(|(status, reason, _)| (status, reason)));
    let status = cs.status.clone().unwrap_or_default();
    let current = status.observed_generation == cs.metadata.generation;
    Some(json!({ "current": current, "pods": status.pods, "claims": claims }))
}

/// An object without what the API server adds and what differs between namespaces.
fn comparable(object: &DynamicObject, kind: &str, rig: &Rig, name: &str) -> Value {
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
    let mut text = alike(&value.to_string(), rig, name);
    for owner in owners {
        text = text.replace(&owner, "OWNER");
    }
    serde_json::from_str(&text).unwrap()
}
