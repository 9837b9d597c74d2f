//! The NetworkPolicy, where one is asked for. Probes are not in it: what comes from a pod's own node always passes.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{ValidatedChatService, metadata};
use crate::constants::{label, port};
use crate::controller::workload::OperatorPods;
use crate::crd::{Destination, IpBlock, NetworkRules, Peer};

/// Where names are looked up. Resolvers differ in where they run, so any of them may be asked.
const DNS: u16 = 53;

pub(super) fn build(service: &ValidatedChatService) -> Option<NetworkPolicy> {
    let rules = service.network.as_ref()?;
    let egress = egress(rules);
    let mut types = vec!["Ingress".to_owned()];
    types.extend(egress.is_some().then(|| "Egress".to_owned()));
    Some(NetworkPolicy {
        metadata: metadata(service, service.name.to_string()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some(service.name.selector()),
                ..LabelSelector::default()
            }),
            policy_types: Some(types),
            ingress: Some(ingress(rules, service.operator.as_ref())),
            egress,
        }),
    })
}

/// The API for those who may; the admin port for the operator, which asks each server how it is, and for those who scrape.
fn ingress(rules: &NetworkRules, operator: Option<&OperatorPods>) -> Vec<NetworkPolicyIngressRule> {
    let callers = rules.ingress_from.as_deref().unwrap_or_default();
    let scrapers = rules.scrape_from.as_deref().unwrap_or_default();
    let admin: Vec<NetworkPolicyPeer> =
        operator.into_iter().map(operator_pods).chain(scrapers.iter().map(peer)).collect();
    let mut allowed = vec![NetworkPolicyIngressRule {
        // Without peers a rule means everybody.
        from: (!callers.is_empty()).then(|| callers.iter().map(peer).collect()),
        ports: Some(vec![on_port("TCP", port::HTTP)]),
    }];
    if !admin.is_empty() {
        allowed.push(NetworkPolicyIngressRule {
            from: Some(admin),
            ports: Some(vec![on_port("TCP", port::ADMIN)]),
        });
    }
    allowed
}

/// DNS and exactly what is named; None leaves egress open. What Redis' address is stands in a Secret, and a backend's
/// addresses change behind its name, so neither can be added here.
fn egress(rules: &NetworkRules) -> Option<Vec<NetworkPolicyEgressRule>> {
    let destinations = rules.egress_to.as_deref().filter(|destinations| !destinations.is_empty())?;
    let dns =
        NetworkPolicyEgressRule { to: None, ports: Some(vec![on_port("UDP", DNS), on_port("TCP", DNS)]) };
    Some([dns].into_iter().chain(destinations.iter().map(destination)).collect())
}

fn destination(to: &Destination) -> NetworkPolicyEgressRule {
    let ports: Vec<NetworkPolicyPort> =
        to.ports.iter().flatten().map(|number| on_port("TCP", *number)).collect();
    NetworkPolicyEgressRule {
        to: Some(vec![NetworkPolicyPeer {
            ip_block: to.ip_block.as_ref().map(block),
            namespace_selector: to.namespace_selector.clone(),
            pod_selector: to.pod_selector.clone(),
        }]),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

fn peer(peer: &Peer) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        ip_block: peer.ip_block.as_ref().map(block),
        namespace_selector: peer.namespace_selector.clone(),
        pod_selector: peer.pod_selector.clone(),
    }
}

fn operator_pods(operator: &OperatorPods) -> NetworkPolicyPeer {
    let selector = |labels: BTreeMap<String, String>| LabelSelector {
        match_labels: Some(labels),
        ..LabelSelector::default()
    };
    NetworkPolicyPeer {
        namespace_selector: Some(selector(
            [(label::NAMESPACE_NAME.to_owned(), operator.namespace.clone())].into(),
        )),
        pod_selector: Some(selector(operator.labels.clone())),
        ..NetworkPolicyPeer::default()
    }
}

fn block(block: &IpBlock) -> IPBlock {
    IPBlock { cidr: block.cidr.clone(), except: block.except.clone() }
}

fn on_port(protocol: &str, number: u16) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(i32::from(number))),
        protocol: Some(protocol.to_owned()),
        ..NetworkPolicyPort::default()
    }
}
