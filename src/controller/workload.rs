//! The part of `validate` that decides how many pods there are, where they run and who reaches them. In: a ChatService.
//! Out: what `build` makes children of, with every problem on the way pushed to [`Checks`]. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscalerBehavior, MetricSpec, MetricTarget, ResourceMetricSource,
};

use super::check::{self, Checks};
use crate::crd::{Autoscaling, ChatServiceSpec, IpBlock, NetworkRules, Pod, Resources};

/// `targetCPUUtilizationPercentage` where nothing else is scaled by, as in Kubernetes.
const DEFAULT_CPU_PERCENT: i32 = 80;
/// Most pods of a ChatService.
const MOST_PODS: i64 = 1000;

/// How many pods there are.
#[derive(Clone, Debug, PartialEq)]
pub enum Scale {
    /// So many.
    Fixed(i32),
    /// As many as an autoscaler says.
    Auto(Autoscale),
}

/// What an autoscaler is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Autoscale {
    /// Fewest pods, at least 1.
    pub min: i32,
    /// Most pods, at least `min`.
    pub max: i32,
    /// What is measured; never empty.
    pub metrics: Vec<MetricSpec>,
    /// How fast; None: Kubernetes' default.
    pub behavior: Option<HorizontalPodAutoscalerBehavior>,
}

impl Scale {
    /// Most pods that there may be.
    #[must_use]
    pub fn most(&self) -> i32 {
        match self {
            Self::Fixed(replicas) => *replicas,
            Self::Auto(auto) => auto.max,
        }
    }

    /// Pods that are enough to serve: all of a fixed number.
    #[must_use]
    pub fn least(&self) -> i32 {
        match self {
            Self::Fixed(replicas) => *replicas,
            Self::Auto(auto) => auto.min,
        }
    }

    /// What the Deployment's `spec.replicas` is set to, if anything: an autoscaler does nothing at 0 pods, and a new
    /// Deployment begins with 1. It then begins with as many pods as there were.
    #[must_use]
    pub fn replicas(&self, deployment: &Standing) -> Option<i32> {
        match self {
            Self::Fixed(replicas) => Some(*replicas),
            Self::Auto(auto) => (deployment.created || deployment.replicas == 0)
                .then(|| deployment.pods_before.clamp(auto.min, auto.max)),
        }
    }
}

/// The operator's own pods, as NetworkPolicies select them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorPods {
    /// Their namespace.
    pub namespace: String,
    /// Labels that they have and no others in that namespace.
    pub labels: BTreeMap<String, String>,
}

/// How a Deployment stands before its number of pods is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// It was made in this run.
    pub created: bool,
    /// Its `spec.replicas`.
    pub replicas: i32,
    /// The pods that the ChatService's status counted last.
    pub pods_before: i32,
}

/// How many pods there are.
pub(super) fn scale(spec: &ChatServiceSpec, checks: &mut Checks) -> Scale {
    checks.range("spec.replicas", spec.replicas, 0..=MOST_PODS);
    let Some(given) = &spec.autoscaling else { return Scale::Fixed(spec.replicas) };
    let min = given.min_replicas.unwrap_or(1);
    let max = given.max_replicas;
    checks.range("spec.autoscaling.minReplicas", min, 1..=MOST_PODS);
    checks.range("spec.autoscaling.maxReplicas", max, 1..=MOST_PODS);
    if min > max {
        checks.push(
            "spec.autoscaling",
            "minReplicas must be at most maxReplicas: lower it or raise maxReplicas",
        );
    }
    let metrics = metrics(given, spec.resources.as_ref(), checks);
    Scale::Auto(Autoscale { min, max: max.max(min), metrics, behavior: given.behavior.clone() })
}

fn metrics(given: &Autoscaling, resources: Option<&Resources>, checks: &mut Checks) -> Vec<MetricSpec> {
    let own = given.metrics.as_deref().unwrap_or_default();
    let memory = given.target_memory_utilization_percentage;
    let otherwise = (memory.is_none() && own.is_empty()).then_some(DEFAULT_CPU_PERCENT);
    let cpu = given.target_cpu_utilization_percentage.or(otherwise);
    let mut metrics = Vec::new();
    for (name, field, percent, default) in [
        ("cpu", "targetCPUUtilizationPercentage", cpu, "100m"),
        ("memory", "targetMemoryUtilizationPercentage", memory, "64Mi"),
    ] {
        let Some(percent) = percent else { continue };
        checks.range(&format!("spec.autoscaling.{field}"), percent, 1..=1000);
        if !is_requested(resources, name) {
            checks.push(
                "spec.resources",
                format!(
                    "needs requests.{name}: autoscaling by {} compares with it. Set it, or leave resources out for {default}",
                    if name == "cpu" { "CPU" } else { name }
                ),
            );
        }
        metrics.push(utilization(name, percent));
    }
    if own.len() > 16 {
        checks.push("spec.autoscaling.metrics", "must have at most 16 entries");
    }
    if !own.iter().all(has_its_member) {
        checks.push(
            "spec.autoscaling.metrics",
            "type must be Resource, ContainerResource, Pods, Object or External, with exactly the member of that name: type: Pods, pods: {...}",
        );
    }
    metrics.extend_from_slice(own);
    metrics
}

/// Kubernetes takes a limit for the request where there is none; without `resources` there are defaults.
fn is_requested(resources: Option<&Resources>, name: &str) -> bool {
    let Some(resources) = resources else { return true };
    [&resources.requests, &resources.limits].into_iter().flatten().any(|given| given.contains_key(name))
}

fn utilization(resource: &str, percent: i32) -> MetricSpec {
    MetricSpec {
        type_: "Resource".to_owned(),
        resource: Some(ResourceMetricSource {
            name: resource.to_owned(),
            target: MetricTarget {
                type_: "Utilization".to_owned(),
                average_utilization: Some(percent),
                ..MetricTarget::default()
            },
        }),
        ..MetricSpec::default()
    }
}

/// Whether exactly the member is set that the type names.
fn has_its_member(metric: &MetricSpec) -> bool {
    let MetricSpec { container_resource, external, object, pods, resource, type_ } = metric;
    let members = [
        ("ContainerResource", container_resource.is_some()),
        ("External", external.is_some()),
        ("Object", object.is_some()),
        ("Pods", pods.is_some()),
        ("Resource", resource.is_some()),
    ];
    members.iter().filter(|(_, set)| *set).map(|(name, _)| *name).eq([type_.as_str()])
}

/// What is said of the pods.
pub(super) fn pod(spec: &ChatServiceSpec, checks: &mut Checks) -> Pod {
    let pod = spec.pod.clone().unwrap_or_default();
    let own = |prefixes: &[&str], key: &str| prefixes.iter().any(|prefix| key.starts_with(prefix));
    check_annotations("spec.pod.annotations", pod.annotations.as_ref(), checks);
    for (field, labels) in [("labels", &pod.labels), ("nodeSelector", &pod.node_selector)] {
        let field = format!("spec.pod.{field}");
        let labels = labels.iter().flatten();
        if labels.clone().any(|(key, value)| !check::qualified_name(key) || !check::label_value(value)) {
            checks.push(
                &field,
                "must be labels: keys such as team or example.com/team, values of at most 63 letters, digits, '-', '_' and '.'",
            );
        }
        check_entries(&field, labels.count(), 32, checks);
    }
    if pod.labels.iter().flatten().any(|(key, _)| own(&["app.kubernetes.io/", "chatservice.dev/"], key)) {
        checks.push(
            "spec.pod.labels",
            "keys must not begin with app.kubernetes.io/ or chatservice.dev/: the operator sets those",
        );
    }
    check_entries("spec.pod.tolerations", pod.tolerations.iter().flatten().count(), 32, checks);
    let spread = pod.topology_spread_constraints.iter().flatten();
    check_entries("spec.pod.topologySpreadConstraints", spread.count(), 8, checks);
    if let Some(name) = pod.priority_class_name.as_ref().filter(|name| !name.is_empty()) {
        checks.object_name("spec.pod.priorityClassName", "PriorityClass", name);
    }
    let secrets: Vec<&str> =
        pod.image_pull_secrets.iter().flatten().map(|secret| secret.name.as_str()).collect();
    check_entries("spec.pod.imagePullSecrets", secrets.len(), 8, checks);
    for (index, name) in secrets.iter().enumerate() {
        checks.object_name(&format!("spec.pod.imagePullSecrets[{index}].name"), "Secret", name);
        if secrets[..index].contains(name) {
            checks.push("spec.pod.imagePullSecrets", "names a Secret twice: once is enough");
        }
    }
    if let Some(seconds) = pod.termination_grace_period_seconds {
        checks.range("spec.pod.terminationGracePeriodSeconds", seconds, 15..=86400);
    }
    pod
}

/// Annotations of the Service.
pub(super) fn service_annotations(
    spec: &ChatServiceSpec,
    checks: &mut Checks,
) -> Option<BTreeMap<String, String>> {
    let annotations = spec.service.as_ref()?.annotations.clone();
    check_annotations("spec.service.annotations", annotations.as_ref(), checks);
    annotations
}

fn check_annotations(field: &str, annotations: Option<&BTreeMap<String, String>>, checks: &mut Checks) {
    let keys = || annotations.into_iter().flat_map(BTreeMap::keys);
    if !keys().all(|key| check::qualified_name(key)) {
        checks.push(field, "keys must be names of annotations, such as owner or example.com/owner");
    }
    if keys().any(|key| key.starts_with("chatservice.dev/")) {
        checks.push(field, "keys must not begin with chatservice.dev/: the operator sets those");
    }
    check_entries(field, keys().count(), 32, checks);
}

fn check_entries(field: &str, count: usize, most: usize, checks: &mut Checks) {
    if count > most {
        checks.push(field, format!("must have at most {most} entries"));
    }
}

/// Who reaches the pods; None where that is left open.
pub(super) fn network_rules(spec: &ChatServiceSpec, checks: &mut Checks) -> Option<NetworkRules> {
    let rules = spec.network_policy.as_ref()?;
    for (field, peers) in [("ingressFrom", &rules.ingress_from), ("scrapeFrom", &rules.scrape_from)] {
        let peers = peers.as_deref().unwrap_or_default();
        check_entries(&format!("spec.networkPolicy.{field}"), peers.len(), 32, checks);
        for (index, peer) in peers.iter().enumerate() {
            let selects = peer.namespace_selector.is_some() || peer.pod_selector.is_some();
            let path = format!("spec.networkPolicy.{field}[{index}]");
            check_peer(&path, peer.ip_block.as_ref(), selects, checks);
        }
    }
    let destinations = rules.egress_to.as_deref().unwrap_or_default();
    check_entries("spec.networkPolicy.egressTo", destinations.len(), 32, checks);
    for (index, to) in destinations.iter().enumerate() {
        let selects = to.namespace_selector.is_some() || to.pod_selector.is_some();
        let path = format!("spec.networkPolicy.egressTo[{index}]");
        check_peer(&path, to.ip_block.as_ref(), selects, checks);
        for port in to.ports.iter().flatten() {
            checks.range(&format!("{path}.ports"), *port, 1..=65535);
        }
    }
    rules.enabled.then(|| rules.clone())
}

fn check_peer(path: &str, block: Option<&IpBlock>, selects: bool, checks: &mut Checks) {
    if block.is_some() == selects {
        checks.push(path, "set ipBlock alone, or namespaceSelector, podSelector or both");
    }
    let Some(block) = block else { return };
    let Some(range) = Range::parse(&block.cidr) else {
        checks.push(
            &format!("{path}.ipBlock.cidr"),
            "must be an IP range in CIDR form, such as 10.0.0.0/8 or 2001:db8::/32",
        );
        return;
    };
    let inside = |text: &String| Range::parse(text).is_some_and(|inner| range.holds(&inner));
    if !block.except.iter().flatten().all(inside) {
        checks.push(
            &format!("{path}.ipBlock"),
            "except must hold ranges inside cidr, such as 10.1.0.0/16 for 10.0.0.0/8",
        );
    }
}

/// A range of addresses in CIDR form: its address and the bits that count.
struct Range {
    address: IpAddr,
    bits: u32,
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
        let plain = bits == "0" || !bits.starts_with(['0', '+']);
        let bits = bits.parse().ok().filter(|bits| *bits <= most && plain && !mapped)?;
        Some(Self { address, bits })
    }

    fn holds(&self, other: &Self) -> bool {
        let same = match (self.address, other.address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                u64::from(a.to_bits() ^ b.to_bits()).checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                (a.to_bits() ^ b.to_bits()).checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        };
        same && self.bits <= other.bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_compared_as_kubernetes_does() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "10.1.2.3/32", "2001:db8::/32", "::/0"] {
            assert!(Range::parse(text).is_some(), "{text}");
        }
        for text in [
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0/8",
            "10.0.0.0/08",
            "::/129",
            "::ffff:1.2.3.4/96",
            "a/8",
            "1.1.1.1/+8",
        ] {
            assert!(Range::parse(text).is_none(), "{text}");
        }
        for (outer, inner, holds) in [
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.0.0.0/8", "10.0.0.0/8", true),
            ("10.0.0.0/8", "11.0.0.0/16", false),
            ("10.1.0.0/16", "10.0.0.0/8", false),
            ("0.0.0.0/0", "1.2.3.4/32", true),
            ("::/0", "2001:db8::/32", true),
            ("2001:db8::/32", "2001:db8:1::/48", true),
            ("::/0", "10.0.0.0/8", false),
        ] {
            let (outer_range, inner_range) = (Range::parse(outer).unwrap(), Range::parse(inner).unwrap());
            assert_eq!(outer_range.holds(&inner_range), holds, "{outer} {inner}");
        }
    }

    #[test]
    fn an_autoscaled_deployment_is_given_a_number_only_when_it_is_new_or_at_zero() {
        let auto = |min, max| Scale::Auto(Autoscale { min, max, metrics: Vec::new(), behavior: None });
        let standing = |created, replicas, pods_before| Standing { created, replicas, pods_before };
        for (scale, deployment, written) in [
            (Scale::Fixed(3), standing(true, 1, 0), Some(3)),
            (Scale::Fixed(0), standing(false, 7, 7), Some(0)),
            (auto(2, 10), standing(false, 1, 0), None),
            (auto(2, 10), standing(false, 7, 7), None),
            (auto(2, 10), standing(true, 1, 0), Some(2)),
            (auto(2, 10), standing(true, 1, 7), Some(7)),
            (auto(2, 10), standing(true, 1, 12), Some(10)),
            (auto(2, 10), standing(false, 0, 0), Some(2)),
            (auto(2, 10), standing(false, 0, 4), Some(4)),
        ] {
            assert_eq!(scale.replicas(&deployment), written, "{scale:?} {deployment:?}");
        }
    }
}
