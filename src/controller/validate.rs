//! Step 2. In: a ChatService, what was read before deciding, and the operator's defaults. Out: a
//! [`ValidatedChatService`] in which everything is decided and nothing is raw, or every problem at once. Pure.
//!
//! The API server has checked most of this at `kubectl apply`. It is checked again because objects may be stored from
//! before a rule existed, and because `local` has no API server.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;

use super::autoscaling::Autoscalers;
use super::check::{self, Checks};
use super::configure::config_of;
use super::dereference::References;
pub use super::image::Defaults;
use super::names::ServiceName;
use super::workload::{self, OperatorPods, Scale};
use crate::constants::{KIND, annotation, port, reason};
use crate::crd::{ChatService, NetworkRules, Pod, Resources, ServiceType};
use crate::server::config::ServerConfig;

/// One thing that only a new spec helps against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// One of `InvalidSpec`, `ImageNotAllowed`, `NameTaken`.
    pub reason: &'static str,
    /// Path of the field, such as `spec.cache.ttl`; empty when the problem is not in a field.
    pub field: String,
    /// What is wrong, what is allowed, what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            return f.write_str(&self.message);
        }
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// A ChatService of which everything is decided.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedChatService {
    /// Its namespace.
    pub namespace: String,
    /// Its name, from which all names and labels are made.
    pub name: ServiceName,
    /// The owner reference of its children; None where no API server has given it a uid.
    pub owner: Option<OwnerReference>,
    /// What the servers are told.
    pub config: ServerConfig,
    /// How many pods there are.
    pub scale: Scale,
    /// Who else sets their number.
    pub autoscalers: Autoscalers,
    /// The pods that the status counted last.
    pub pods_before: i32,
    /// The servers' image.
    pub image: String,
    /// Another value replaces the pods.
    pub restarted_at: Option<String>,
    /// CPU and memory of a server.
    pub resources: ResourceRequirements,
    /// Kind of Service.
    pub service_type: ServiceType,
    /// Its port.
    pub service_port: u16,
    /// Its annotations.
    pub service_annotations: Option<BTreeMap<String, String>>,
    /// What is said of the pods.
    pub pod: Pod,
    /// Who reaches the pods; None: that is left open.
    pub network: Option<NetworkRules>,
    /// The operator's own pods, where that is known.
    pub operator: Option<OperatorPods>,
}

impl ValidatedChatService {
    /// The base URL for OpenAI SDKs inside the cluster.
    #[must_use]
    pub fn endpoint(&self) -> String {
        let scheme = if self.config.fixed.tls_secret.is_some() { "https" } else { "http" };
        format!("{scheme}://{}.{}.svc:{}/v1", self.name, self.namespace, self.service_port)
    }
}

/// Decides everything about a ChatService.
///
/// # Errors
/// Every problem of the spec; a foreign object with a child's name; an image that the operator does not allow.
pub fn validate(
    cs: &ChatService,
    refs: &References,
    defaults: &Defaults,
) -> Result<ValidatedChatService, Vec<Problem>> {
    let mut checks = Checks::default();
    let name = service_name(cs, &mut checks);
    let config = config_of(cs, refs.token_issuer(), &mut checks);
    let scale = workload::scale(&cs.spec, &mut checks);
    let image = image(cs, defaults, &mut checks);
    let resources = resources(cs.spec.resources.as_ref(), &mut checks);
    let service = cs.spec.service.clone().unwrap_or_default();
    let service_port = service.port.unwrap_or(port::HTTP);
    checks.range("spec.service.port", service_port, 1..=65535);
    let service_annotations = workload::service_annotations(&cs.spec, &mut checks);
    let pod = workload::pod(&cs.spec, &mut checks);
    let network = workload::network_rules(&cs.spec, &mut checks);
    checks.extend(refs.foreign().map(|foreign| Problem {
        reason: reason::NAME_TAKEN,
        field: String::new(),
        message: foreign.to_string(),
    }));
    match (name, config, checks.finish()) {
        (Some(name), Some(config), Ok(())) => Ok(ValidatedChatService {
            namespace: config.identity.namespace.clone(),
            owner: cs.meta().uid.as_ref().and_then(|_| cs.controller_owner_ref(&())),
            name,
            config,
            scale,
            autoscalers: refs.autoscalers.clone(),
            pods_before: refs.pods_before,
            image,
            restarted_at: cs
                .meta()
                .annotations
                .as_ref()
                .and_then(|all| all.get(annotation::RESTARTED_AT).cloned()),
            resources,
            service_type: service.type_.unwrap_or_default(),
            service_port,
            service_annotations,
            pod,
            network,
            operator: defaults.operator.clone(),
        }),
        (_, _, Err(problems)) => Err(problems),
        // A missing name or configuration always comes with a problem.
        (_, _, Ok(())) => Err(vec![check::invalid("spec", format!("is not a {KIND}"))]),
    }
}

/// What a server for this ChatService is told: the part of [`validate`] that needs no cluster.
///
/// # Errors
/// Every problem of the fields that a server's configuration is made from.
pub fn server_config(cs: &ChatService) -> Result<ServerConfig, Vec<Problem>> {
    let mut checks = Checks::default();
    service_name(cs, &mut checks);
    let config = config_of(cs, None, &mut checks);
    match (config, checks.finish()) {
        (Some(config), Ok(())) => Ok(config),
        (_, Err(problems)) => Err(problems),
        (None, Ok(())) => Err(vec![check::invalid("spec", format!("is not a {KIND}"))]),
    }
}

fn service_name(cs: &ChatService, checks: &mut Checks) -> Option<ServiceName> {
    let name = ServiceName::new(cs.meta().name.as_deref().unwrap_or_default());
    if name.is_none() {
        checks.push(
            "metadata.name",
            "must be at most 52 characters of a-z, 0-9 and '-', begin with a letter and end with a letter or digit",
        );
    }
    name
}

fn image(cs: &ChatService, defaults: &Defaults, checks: &mut Checks) -> String {
    let Some(image) = cs.spec.image.clone().filter(|image| !image.is_empty()) else {
        return defaults.server_image.clone();
    };
    if !defaults.allows(&image) {
        checks.extend([Problem {
            reason: reason::IMAGE_NOT_ALLOWED,
            field: "spec.image".to_owned(),
            message: format!(
                "\"{image}\" is not allowed by the operator (allowed: {}). Fix: leave spec.image out for the default \"{}\", or start the operator with a matching --allowed-images",
                defaults.patterns().join(", "),
                defaults.server_image
            ),
        }]);
    }
    image
}

/// What is given is taken as it is; only a spec without `resources` gets the defaults, because a default limit may lie
/// below a request that was given.
fn resources(given: Option<&Resources>, checks: &mut Checks) -> ResourceRequirements {
    let quantities = |pairs: &[(&str, &str)]| -> BTreeMap<String, Quantity> {
        pairs.iter().map(|&(name, value)| (name.to_owned(), Quantity(value.to_owned()))).collect()
    };
    let (requests, limits) = match given {
        None => (
            Some(quantities(&[("cpu", "100m"), ("memory", "64Mi")])),
            Some(quantities(&[("memory", "256Mi")])),
        ),
        Some(given) => (given.requests.clone(), given.limits.clone()),
    };
    for (field, values) in [("spec.resources.requests", &requests), ("spec.resources.limits", &limits)] {
        for (name, quantity) in values.iter().flatten() {
            if !check::quantity(&quantity.0) {
                checks.push(
                    &format!("{field}.{name}"),
                    format!(
                        "\"{}\" is not a quantity: write for instance 100m, 0.5, 64Mi or 1Gi",
                        quantity.0
                    ),
                );
            }
        }
    }
    ResourceRequirements { requests, limits, ..ResourceRequirements::default() }
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
