//! Step 3. In: a [`ValidatedChatService`]. Out: every object it needs, as [`Resources<Prepared>`]. Pure: no client, no
//! clock, sorted maps, so that building twice gives the same bytes.

mod config_map;
mod deployment;
mod horizontal_pod_autoscaler;
mod network_policy;
pub(super) mod pod_disruption_budget;
mod service;
mod service_account;

use std::marker::PhantomData;

pub(super) use deployment::PROGRESS_DEADLINE_SECONDS;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::{Value, json};

use super::validate::ValidatedChatService;
use super::workload::Scale;

/// Name of the one container of a pod.
pub const CONTAINER: &str = "server";

/// What was built and not written.
#[derive(Clone, Copy, Debug)]
pub struct Prepared;
/// What the API server answered when it was written; a child whose status nobody asks for, and that need not be written again, as
/// it was built.
#[derive(Clone, Copy, Debug)]
pub struct Applied;

/// The children of one ChatService. Only `apply` turns prepared ones into applied ones, so a status cannot be made from
/// wishes.
#[derive(Clone, Debug)]
pub struct Resources<State> {
    /// The pods' account, without a token.
    pub service_account: ServiceAccount,
    /// The server's configuration.
    pub config: ConfigMap,
    /// The environment of apps.
    pub connection: ConfigMap,
    /// The API.
    pub service: Service,
    /// The admin listeners, one address a pod.
    pub admin_service: Service,
    /// Who reaches the pods, where that is said.
    pub network_policy: Option<NetworkPolicy>,
    /// Only where a disruption can leave a pod running.
    pub pod_disruption_budget: Option<PodDisruptionBudget>,
    /// The pods; as built without their number, which has a field manager of its own.
    pub deployment: Deployment,
    /// The pods' number, where it is fixed.
    pub replicas: Option<i32>,
    /// What decides their number, where it is not.
    pub horizontal_pod_autoscaler: Option<HorizontalPodAutoscaler>,
    /// Nothing: which of the two it is.
    pub(super) state: PhantomData<State>,
}

impl Resources<Prepared> {
    /// The objects as JSON in the order in which they are applied. A fixed number of pods is written into the Deployment.
    #[must_use]
    pub fn to_values(&self) -> Vec<Value> {
        let Self {
            service_account,
            config,
            connection,
            service,
            admin_service,
            network_policy,
            pod_disruption_budget,
            deployment,
            replicas,
            horizontal_pod_autoscaler,
            state: _,
        } = self;
        let mut deployment = value(deployment);
        if let (Some(spec), Some(replicas)) = (deployment.get_mut("spec"), replicas) {
            spec["replicas"] = json!(replicas);
        }
        let mut values = vec![
            value(service_account),
            value(config),
            value(connection),
            value(service),
            value(admin_service),
        ];
        values.extend(network_policy.as_ref().map(value));
        values.extend(pod_disruption_budget.as_ref().map(value));
        values.push(deployment);
        values.extend(horizontal_pod_autoscaler.as_ref().map(value));
        values
    }
}

impl Resources<Applied> {
    /// The number of pods that is wanted now: the one written, or what an autoscaler made of it.
    #[must_use]
    pub fn wanted(&self) -> i32 {
        self.deployment.spec.replicas.unwrap_or(1)
    }
}

/// None of these types can fail to serialise: their maps have string keys.
fn value<K: Serialize>(object: &K) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

/// Builds every child.
#[must_use]
pub fn build(service: &ValidatedChatService) -> Resources<Prepared> {
    Resources {
        service_account: service_account::build(service),
        config: config_map::config(service),
        connection: config_map::connection(service),
        service: service::api(service),
        admin_service: service::admin(service),
        network_policy: network_policy::build(service),
        pod_disruption_budget: pod_disruption_budget::build(service),
        deployment: deployment::build(service),
        replicas: match service.scale {
            Scale::Fixed(replicas) => Some(replicas),
            Scale::Auto(_) => None,
        },
        horizontal_pod_autoscaler: horizontal_pod_autoscaler::build(service),
        state: PhantomData,
    }
}

/// Metadata of a child: its name, our labels, and the ChatService as its owner, so that it goes with it.
fn metadata(service: &ValidatedChatService, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(service.namespace.clone()),
        labels: Some(service.name.labels()),
        owner_references: service.owner.clone().map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::dereference::References;
    use super::super::validate::{Defaults, validate};
    use super::super::workload::OperatorPods;
    use super::*;

    fn built(name: &str, spec: &Value) -> Resources<Prepared> {
        let cs = serde_json::from_value(json!({
            "apiVersion": "chatservice.dev/v1alpha1",
            "kind": "ChatService",
            "metadata": { "name": name, "namespace": "chat", "uid": "u-1", "generation": 3 },
            "spec": spec,
        }))
        .unwrap();
        let defaults = Defaults {
            server_image: "registry.example.com/chatservice:0.1.0".into(),
            allowed_images: vec!["*".into()],
            operator: Some(OperatorPods {
                namespace: "chatservice-system".into(),
                labels: [("app.kubernetes.io/instance".into(), "chatservice".into())].into(),
            }),
        };
        build(&validate(&cs, &References::default(), &defaults).unwrap())
    }

    fn full() -> Value {
        json!({
            "model": "gpt-4o-mini",
            "models": [
                { "name": "gpt-4o-mini", "maxOutputTokens": 16384, "fallbacks": ["backup"] },
                { "name": "backup", "upstreamModel": "gpt-4.1-nano", "maxOutputTokens": 32768, "omit": ["temperature"] },
            ],
            "backend": { "openai": {
                "baseURL": "https://api.openai.com/v1", "credentialsSecretRef": { "name": "openai" },
                "proxyURL": "http://proxy.example.com:3128", "caBundleConfigMapRef": { "name": "private-ca" },
            } },
            "defaults": { "systemPrompt": "Be brief.", "temperature": 0.5, "maxTokens": 500 },
            "rateLimits": {
                "requestsPerMinute": 60, "tokensPerMinute": 100_000, "concurrentRequests": 20, "mode": "Enforce",
            },
            "budget": { "amount": "25.00", "period": "Month" },
            "cache": { "ttl": "1h" },
            "conversations": { "ttl": "24h", "maxMessages": 20, "maxTokens": 32000 },
            "timeouts": { "connect": "2s" },
            "retries": { "maxAttempts": 2 },
            "redis": { "secretRef": { "name": "prod-redis" } },
            "replicas": 3,
            "pod": {
                "annotations": { "example.com/owner": "search" }, "labels": { "team": "search" },
                "nodeSelector": { "kubernetes.io/arch": "amd64" },
                "tolerations": [{ "key": "dedicated", "operator": "Equal", "value": "chat", "effect": "NoSchedule" }],
                "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [
                    { "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": { "a": "b" } } },
                ] } },
                "topologySpreadConstraints": [
                    { "topologyKey": "topology.kubernetes.io/zone", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway" },
                ],
                "priorityClassName": "business-critical", "imagePullSecrets": [{ "name": "registry" }],
                "terminationGracePeriodSeconds": 300,
            },
            "networkPolicy": {
                "enabled": true,
                "ingressFrom": [{ "podSelector": { "matchLabels": { "app": "web" } } }],
                "scrapeFrom": [{ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "monitoring" } } }],
                "egressTo": [
                    { "ipBlock": { "cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"] }, "ports": [443] },
                    { "podSelector": { "matchLabels": { "app": "redis" } } },
                ],
            },
            "image": "registry.example.com/chatservice:0.2.0",
            "resources": { "requests": { "cpu": "1" }, "limits": { "memory": "1Gi" } },
            "service": { "type": "NodePort", "port": 80, "annotations": { "example.com/lb": "internal" },
                "tls": { "secretRef": { "name": "prod-tls" } } },
            "logging": { "level": "warn", "format": "text" },
            "telemetry": { "otlpEndpoint": "http://otel-collector.observability.svc:4318" },
        })
    }

    #[test]
    fn children_of_a_minimal_service() {
        insta::assert_yaml_snapshot!(
            built("demo", &json!({ "model": "echo-1", "backend": { "echo": {} } })).to_values()
        );
    }

    #[test]
    fn children_of_a_full_service() {
        insta::assert_yaml_snapshot!(built("prod", &full()).to_values());
    }

    /// The Deployment has no number, the autoscaler has; a budget, because there may be two pods.
    #[test]
    fn children_of_an_autoscaled_service() {
        let spec = json!({
            "model": "echo-1", "backend": { "echo": {} },
            "autoscaling": {
                "maxReplicas": 10, "targetCPUUtilizationPercentage": 70, "targetMemoryUtilizationPercentage": 90,
                "metrics": [{ "type": "External", "external": {
                    "metric": { "name": "queue" }, "target": { "type": "Value", "value": "100" },
                } }],
                "behavior": { "scaleDown": { "stabilizationWindowSeconds": 60 } },
            },
        });
        let values = built("demo", &spec).to_values();
        let deployment = values.iter().find(|object| object["kind"] == "Deployment").unwrap();
        assert_eq!(deployment.pointer("/spec/replicas"), None);
        let of_number = |object: &Value| {
            ["HorizontalPodAutoscaler", "PodDisruptionBudget"].iter().any(|kind| object["kind"] == *kind)
        };
        insta::assert_yaml_snapshot!(values.into_iter().filter(of_number).collect::<Vec<_>>());
    }

    #[test]
    fn a_network_policy_leaves_open_what_is_not_said() {
        let policy = |rules: Value| {
            let mut spec = full();
            spec["networkPolicy"] = rules;
            built("prod", &spec).network_policy
        };
        assert_eq!(policy(json!({ "enabled": false, "egressTo": [{ "podSelector": {} }] })), None);
        for rules in
            [json!({ "enabled": true }), json!({ "enabled": true, "egressTo": [], "ingressFrom": [] })]
        {
            let spec = policy(rules).unwrap().spec.unwrap();
            assert_eq!(spec.policy_types, Some(vec!["Ingress".to_owned()]));
            assert_eq!(spec.egress, None);
            let ingress = spec.ingress.unwrap();
            assert_eq!(
                (ingress.len(), &ingress[0].from),
                (2, &None),
                "the API for all, the admin port for the operator"
            );
        }
    }

    #[test]
    fn the_deployment_says_nothing_of_the_number_of_its_pods() {
        let resources = built("prod", &full());
        assert_eq!((resources.deployment.spec.replicas, resources.replicas), (None, Some(3)));
        assert_eq!(value(&resources.deployment).pointer("/spec/replicas"), None);
    }

    #[test]
    fn every_selector_is_the_frozen_one() {
        let resources = built("prod", &full());
        let frozen = json!({ "app.kubernetes.io/name": "chatservice", "app.kubernetes.io/instance": "prod" });
        for object in resources.to_values() {
            for path in ["/spec/selector/matchLabels", "/spec/selector"] {
                if let Some(found) = object.pointer(path).filter(|found| found.get("matchLabels").is_none()) {
                    assert_eq!(found, &frozen, "{}", object["kind"]);
                }
            }
        }
    }

    #[test]
    fn a_budget_exists_from_two_pods_on() {
        for (replicas, expected) in [(0, false), (1, false), (2, true), (3, true)] {
            let mut spec = full();
            spec["replicas"] = json!(replicas);
            assert_eq!(built("prod", &spec).pod_disruption_budget.is_some(), expected, "{replicas}");
        }
    }

    #[test]
    fn a_static_change_changes_the_template_and_a_dynamic_one_does_not() {
        let template = |path: &str, value: Value| {
            let mut spec = full();
            *spec.pointer_mut(path).unwrap() = value;
            built("prod", &spec).deployment.spec.template
        };
        let before = template("/model", full()["model"].clone());
        for (path, value) in [
            ("/backend/openai/credentialsSecretRef/name", json!("other")),
            ("/backend/openai/caBundleConfigMapRef/name", json!("other")),
            ("/redis/secretRef/name", json!("other")),
            ("/service/tls/secretRef/name", json!("other")),
            ("/telemetry/otlpEndpoint", json!("")),
            ("/logging/format", json!("json")),
            ("/image", json!("registry.example.com/chatservice:0.3.0")),
            ("/resources/requests/cpu", json!("2")),
            ("/pod/labels/team", json!("other")),
            ("/pod/terminationGracePeriodSeconds", json!(60)),
        ] {
            assert_ne!(template(path, value), before, "{path}");
        }
        for (path, value) in [
            ("/model", json!("backup")),
            ("/models/0/fallbacks", json!([])),
            ("/backend/openai/proxyURL", json!("")),
            ("/defaults/temperature", json!(1)),
            ("/rateLimits/mode", json!("Shadow")),
            ("/budget/amount", json!("30")),
            ("/cache/ttl", json!("0s")),
            ("/conversations/maxTokens", json!(100)),
            ("/timeouts/connect", json!("3s")),
            ("/retries/maxAttempts", json!(1)),
            ("/logging/level", json!("debug")),
            ("/replicas", json!(7)),
            ("/service/annotations", json!({})),
            ("/networkPolicy/enabled", json!(false)),
        ] {
            assert_eq!(template(path, value), before, "{path}");
        }
    }
}
