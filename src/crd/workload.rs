//! The part of the `ChatService` API that is about pods: how many there are, where they run, who reaches them. Types and
//! schema only. In: nothing. Out: what the operator makes children of. Every doc comment on a field is what
//! `kubectl explain` shows.
//!
//! Types of Kubernetes have its own schema, so a typo is refused at `kubectl apply`; of its descriptions only the first
//! sentence is kept, because a CRD has to stay small.

use std::collections::BTreeMap;

use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscalerBehavior, MetricSpec};
use k8s_openapi::api::core::v1::{Affinity, Toleration, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::rules::{
    ANNOTATIONS_RULE, BLOCK_EXCEPT_RULE, CIDR_RULE, LABELS_RULE, METRICS_RULE, OBJECT_NAME_RULE,
    OWN_ANNOTATIONS_RULE, OWN_LABELS_RULE, PEER_RULE, UNIQUE_NAMES_RULE,
};
use super::v1alpha1::SecretRef;

/// What labels must be.
const LABELS: &str = "must be labels: keys such as team or example.com/team, values of at most 63 letters, digits, '-', '_' and '.'";
/// What a peer must be.
const PEER: &str = "set ipBlock alone, or namespaceSelector, podSelector or both";
/// What a CIDR must be.
const CIDR: &str = "must be an IP range in CIDR form, such as 10.0.0.0/8 or 2001:db8::/32";

/// How many pods run, decided by load. While it is set, `replicas` is ignored.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.minReplicas) || self.minReplicas <= self.maxReplicas").message(
    "minReplicas must be at most maxReplicas: lower it or raise maxReplicas"))]
pub struct Autoscaling {
    /// Fewest pods, 1 to 1000. Default: 1. Example: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: Option<i32>,
    /// Most pods, 1 to 1000. Example: 10.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,
    /// CPU that the pods use on average, in percent of what they request, 1 to 1000. Default: 80 where neither memory nor
    /// metrics are given, else CPU does not count. Example: 70.
    #[serde(rename = "targetCPUUtilizationPercentage", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub target_cpu_utilization_percentage: Option<i32>,
    /// Memory that the pods use on average, in percent of what they request, 1 to 1000. Default: memory does not count.
    /// Example: 80.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub target_memory_utilization_percentage: Option<i32>,
    /// Further metrics as in a HorizontalPodAutoscaler (autoscaling/v2), at most 16. The one that asks for most pods
    /// decides. Default: none. Example: `[{type: Pods, pods: {metric: {name: chat_requests_in_flight}, target: {type:
    /// AverageValue, averageValue: "20"}}}]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "metrics")]
    #[x_kube(validation = Rule::new(METRICS_RULE).message(
        "type must be Resource, ContainerResource, Pods, Object or External, with exactly the member of that name: type: Pods, pods: {...}"))]
    pub metrics: Option<Vec<MetricSpec>>,
    /// How fast pods are added and removed, as in a HorizontalPodAutoscaler (autoscaling/v2). Default: that of
    /// Kubernetes. Example: {scaleDown: {stabilizationWindowSeconds: 600}}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::<HorizontalPodAutoscalerBehavior>")]
    pub behavior: Option<HorizontalPodAutoscalerBehavior>,
}

/// What may be said of the pods: a chosen set, so that nobody can put a container of their own beside ours.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// Annotations of the pods, at most 32. Default: none of yours. Example: {example.com/owner: search}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "annotations")]
    #[x_kube(validation = Rule::new(ANNOTATIONS_RULE).message(
        "keys must be names of annotations, such as owner or example.com/owner"))]
    #[x_kube(validation = Rule::new(OWN_ANNOTATIONS_RULE).message(
        "keys must not begin with chatservice.dev/: the operator sets those"))]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Labels of the pods, at most 32. Default: none of yours. Example: {team: search}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "labels")]
    #[x_kube(validation = Rule::new(LABELS_RULE).message(LABELS))]
    #[x_kube(validation = Rule::new(OWN_LABELS_RULE).message(
        "keys must not begin with app.kubernetes.io/ or chatservice.dev/: the operator sets those"))]
    pub labels: Option<BTreeMap<String, String>>,
    /// Labels that a node must have, at most 32. Default: any node. Example: {kubernetes.io/arch: amd64}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "labels")]
    #[x_kube(validation = Rule::new(LABELS_RULE).message(LABELS))]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Taints of nodes that the pods put up with, at most 32. Default: none. Example: `[{key: dedicated, operator: Equal,
    /// value: chat, effect: NoSchedule}]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "list::<Toleration, 32>")]
    pub tolerations: Option<Vec<Toleration>>,
    /// Which nodes, and the neighbourhood of which pods, are wanted or avoided. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::<Affinity>")]
    pub affinity: Option<Affinity>,
    /// How pods are spread over zones or nodes, at most 8; without a labelSelector those of this ChatService are meant.
    /// Default: that of the cluster. Example: `[{topologyKey: topology.kubernetes.io/zone, maxSkew: 1,
    /// whenUnsatisfiable: ScheduleAnyway}]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "list::<TopologySpreadConstraint, 8>")]
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    /// The PriorityClass of the pods. Default: that of the cluster. Example: business-critical.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new(format!("self == '' || {OBJECT_NAME_RULE}")).message(
        "must be the name of a PriorityClass: lower-case letters, digits, '-' and '.', such as business-critical"))]
    pub priority_class_name: Option<String>,
    /// Secrets with credentials for the registry of the image, at most 8. Default: none. Example: `[{name: registry}]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    #[x_kube(validation = Rule::new(UNIQUE_NAMES_RULE).message("names a Secret twice: once is enough"))]
    pub image_pull_secrets: Option<Vec<SecretRef>>,
    /// Seconds that a pod has to end, 15 to 86400. It goes on answering; a stream that is still open 5 s before the end
    /// is ended with an error event. Default: 60. Example: 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 15, max = 86400))]
    pub termination_grace_period_seconds: Option<u32>,
}

/// A NetworkPolicy for the pods.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkRules {
    /// Whether there is one. Without, everything may reach the pods, and they may reach everything. Example: true.
    pub enabled: bool,
    /// Who may reach the API, at most 32. Default: everybody. Example: `[{namespaceSelector: {matchLabels: {team:
    /// search}}}]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub ingress_from: Option<Vec<Peer>>,
    /// Who may reach the admin port with its metrics, besides the operator, at most 32. Default: nobody. Example:
    /// `[{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub scrape_from: Option<Vec<Peer>>,
    /// What the pods may reach, besides DNS (port 53), at most 32: the backend, Redis, the receiver of traces. Default:
    /// everything. Example: `[{ipBlock: {cidr: 0.0.0.0/0}, ports: [443]}, {podSelector: {matchLabels: {app: redis}}}]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub egress_to: Option<Vec<Destination>>,
}

/// Pods, or a range of addresses.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(PEER_RULE).message(PEER))]
pub struct Peer {
    /// A range of addresses. Example: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_block: Option<IpBlock>,
    /// Namespaces by their labels; {} for all. Default: that of the ChatService.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::<LabelSelector>")]
    pub namespace_selector: Option<LabelSelector>,
    /// Pods by their labels; {} for all. Default: all of the namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::<LabelSelector>")]
    pub pod_selector: Option<LabelSelector>,
}

/// Pods, or a range of addresses, and their ports.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(PEER_RULE).message(PEER))]
pub struct Destination {
    /// A range of addresses. Example: {cidr: 0.0.0.0/0, except: [169.254.0.0/16]}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_block: Option<IpBlock>,
    /// Namespaces by their labels; {} for all. Default: that of the ChatService.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::<LabelSelector>")]
    pub namespace_selector: Option<LabelSelector>,
    /// Pods by their labels; {} for all. Default: all of the namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::<LabelSelector>")]
    pub pod_selector: Option<LabelSelector>,
    /// TCP ports as the pods have them, at most 16. Default: every port. Example: `[443]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(range(min = 1, max = 65535)))]
    pub ports: Option<Vec<u16>>,
}

/// A range of addresses.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(BLOCK_EXCEPT_RULE).message(
    "except must hold ranges inside cidr, such as 10.1.0.0/16 for 10.0.0.0/8"))]
pub struct IpBlock {
    /// The range in CIDR form. Example: 10.0.0.0/8.
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new(CIDR_RULE).message(CIDR))]
    pub cidr: String,
    /// Ranges inside it that are left out, at most 16. Default: none. Example: `[10.1.0.0/16]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(length(max = 64)))]
    pub except: Option<Vec<String>>,
}

/// TLS on the port of the API, with HTTP/2 for clients that ask for it.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceTls {
    /// The Secret with the data keys `tls.crt` (the certificate and what leads to its root, in PEM) and `tls.key`, as
    /// cert-manager writes it. It is read again when it changes; a bad one does not take the place of a good one.
    pub secret_ref: SecretRef,
}

/// Annotations: bounded, which the rules over them need.
pub(super) fn annotations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object", "maxProperties": 32,
        "additionalProperties": { "type": "string", "maxLength": 8192 },
    })
}

/// Labels: bounded, which the rules over them need.
fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object", "maxProperties": 32,
        "additionalProperties": { "type": "string", "maxLength": 63 },
    })
}

fn metrics(generator: &mut SchemaGenerator) -> Schema {
    list::<MetricSpec, 16>(generator)
}

/// A list of a type of Kubernetes, of at most `MAX` items.
fn list<T: JsonSchema, const MAX: u32>(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "maxItems": MAX, "items": embedded::<T>(generator) })
}

/// The schema of a type of Kubernetes with short descriptions.
fn embedded<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = generator.subschema_for::<T>().to_value();
    shorten(&mut schema);
    // An object stays one: shortening touches nothing but texts.
    Schema::try_from(schema).unwrap_or_default()
}

fn shorten(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if name == "description" => *text = first_sentence(text),
                    _ => shorten(member),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(shorten),
        _ => {}
    }
}

/// Up to the first full stop that ends a sentence and not an abbreviation; a word alone ("Required.") is none.
fn first_sentence(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut from = 0;
    while let Some(at) = text[from..].find(". ").map(|at| from + at) {
        let before = &text[..at];
        let ends = text[at + 2..].starts_with(|c: char| c.is_ascii_uppercase()) && !before.ends_with("e.g");
        if ends && before.contains(' ') {
            return text[..=at].to_owned();
        }
        from = at + 2;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_description_is_cut_after_its_first_sentence() {
        for (text, first) in [
            ("One pod. More follow.", "One pod."),
            ("Some, e.g. This one.\n\nMore.", "Some, e.g. This one."),
            ("Required. A list. More.", "Required. A list."),
            ("no capital. follows", "no capital. follows"),
            ("Alone", "Alone"),
        ] {
            assert_eq!(first_sentence(text), first);
        }
    }
}
