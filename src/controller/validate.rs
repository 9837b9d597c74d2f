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

use super::check::{self, Checks};
use super::dereference::References;
pub use super::image::Defaults;
use super::names::ServiceName;
use crate::constants::{KIND, port, reason};
use crate::crd::{Backend, ChatService, Resources, ServiceType};
use crate::server::config::{
    BackendConfig, CacheConfig, ConversationConfig, DEFAULT_ATTEMPTS, DynamicConfig, FORMAT_VERSION,
    Identity, LimitsConfig, ModelConfig, RequestDefaults, RequestLimit, ServerConfig, StaticConfig,
    TimeoutConfig,
};

/// `cache.memory` when it is left out.
const DEFAULT_CACHE_BYTES: u64 = 64 << 20;
/// `rateLimits.burst` when it is left out is the smaller of this and `requestsPerMinute`.
const DEFAULT_BURST: u32 = 10;

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
    /// Wanted pods.
    pub replicas: i32,
    /// The servers' image.
    pub image: String,
    /// CPU and memory of a server.
    pub resources: ResourceRequirements,
    /// Kind of Service.
    pub service_type: ServiceType,
    /// Its port.
    pub service_port: u16,
}

impl ValidatedChatService {
    /// The base URL for OpenAI SDKs inside the cluster.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}.{}.svc:{}/v1", self.name, self.namespace, self.service_port)
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
    let config = config_of(cs, &mut checks);
    let replicas = cs.spec.replicas;
    checks.range("spec.replicas", replicas.into(), 0, 1000);
    let image = image(cs, defaults, &mut checks);
    let resources = resources(cs.spec.resources.as_ref(), &mut checks);
    let service = cs.spec.service.clone().unwrap_or_default();
    let service_port = service.port.unwrap_or(port::HTTP);
    checks.range("spec.service.port", service_port.into(), 1, 65535);
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
            replicas,
            image,
            resources,
            service_type: service.type_.unwrap_or_default(),
            service_port,
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
    let config = config_of(cs, &mut checks);
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

fn config_of(cs: &ChatService, checks: &mut Checks) -> Option<ServerConfig> {
    let spec = &cs.spec;
    if !check::model_name(&spec.model) {
        checks.push(
            "spec.model",
            "must be a model name: 1 to 128 letters, digits or . _ : / @ -, beginning with a letter or digit, such as gpt-4o-mini",
        );
    }
    let (backend, credentials_secret) = backend(&spec.backend, checks)?;
    let redis_secret = spec.redis.as_ref().map(|redis| redis.secret_ref.name.clone());
    if let Some(name) = &redis_secret {
        checks.secret_name("spec.redis.secretRef.name", name);
    }
    let logging = spec.logging.clone().unwrap_or_default();
    Some(ServerConfig {
        format_version: FORMAT_VERSION,
        identity: identity(cs),
        fixed: StaticConfig {
            credentials_secret,
            redis_secret,
            ca_config_map: None,
            otlp_endpoint: None,
            log_format: logging.format.unwrap_or_default(),
        },
        dynamic: DynamicConfig {
            model: spec.model.clone(),
            models: vec![ModelConfig::named(&spec.model)],
            backend,
            timeouts: TimeoutConfig::default(),
            max_attempts: DEFAULT_ATTEMPTS,
            defaults: request_defaults(cs, checks),
            limits: LimitsConfig { requests: request_limit(cs, checks), ..LimitsConfig::default() },
            budget: None,
            cache: cache(cs, checks),
            conversations: conversations(cs, checks),
            log_level: logging.level.unwrap_or_default(),
        },
    })
}

fn identity(cs: &ChatService) -> Identity {
    let meta = cs.meta();
    let name = meta.name.clone().unwrap_or_default();
    // Outside a cluster the same file must find its own data in Redis again, so the stand-in is made from the name.
    let uid =
        meta.uid.clone().unwrap_or_else(|| blake3::hash(name.as_bytes()).to_hex().chars().take(16).collect());
    Identity {
        namespace: meta.namespace.clone().unwrap_or_else(|| "local".to_owned()),
        name,
        uid,
        generation: meta.generation.unwrap_or(0),
    }
}

fn backend(backend: &Backend, checks: &mut Checks) -> Option<(BackendConfig, Option<String>)> {
    match (&backend.echo, &backend.openai) {
        (Some(_), None) => Some((BackendConfig::Echo {}, None)),
        (None, Some(openai)) => {
            if let Some(problem) = check::base_url(&openai.base_url) {
                checks.push("spec.backend.openai.baseURL", problem);
            }
            let secret = openai.credentials_secret_ref.as_ref().map(|secret| secret.name.clone());
            if let Some(name) = &secret {
                checks.secret_name("spec.backend.openai.credentialsSecretRef.name", name);
            }
            let base_url = openai.base_url.trim_end_matches('/').to_owned();
            Some((BackendConfig::OpenAi { base_url, proxy_url: None }, secret))
        }
        (Some(_), Some(_)) | (None, None) => {
            checks.push(
                "spec.backend",
                "set exactly one backend: echo: {} answers with the last message and needs no key, openai: {baseURL: ...} calls an OpenAI-compatible API",
            );
            None
        }
    }
}

fn request_defaults(cs: &ChatService, checks: &mut Checks) -> RequestDefaults {
    let given = cs.spec.defaults.clone().unwrap_or_default();
    let built_in = RequestDefaults::default();
    if given.system_prompt.as_ref().is_some_and(|prompt| prompt.chars().count() > 8192) {
        checks.push("spec.defaults.systemPrompt", "must be at most 8192 characters");
    }
    let temperature = given.temperature.unwrap_or(built_in.temperature);
    if !(0.0..=2.0).contains(&temperature) {
        checks.push("spec.defaults.temperature", "must be from 0 to 2");
    }
    let max_tokens = given.max_tokens.unwrap_or(built_in.max_tokens);
    checks.range("spec.defaults.maxTokens", max_tokens.into(), 1, 4000);
    RequestDefaults { system_prompt: given.system_prompt, temperature, max_tokens }
}

fn request_limit(cs: &ChatService, checks: &mut Checks) -> Option<RequestLimit> {
    let limits = cs.spec.rate_limits.as_ref()?;
    let requests = limits.requests_per_minute;
    let burst = limits.burst.unwrap_or(requests.min(DEFAULT_BURST));
    checks.range("spec.rateLimits.requestsPerMinute", requests.into(), 1, 1_000_000);
    if let Some(burst) = limits.burst {
        checks.range("spec.rateLimits.burst", burst.into(), 1, 100_000);
    }
    Some(RequestLimit { requests, period_seconds: 60, burst })
}

fn cache(cs: &ChatService, checks: &mut Checks) -> Option<CacheConfig> {
    let cache = cs.spec.cache.as_ref()?;
    let ttl_ms = checks.duration_ms("spec.cache.ttl", &cache.ttl, (0, "0s (no cache)"), (720, "720h"), "1h");
    let memory_bytes = match &cache.memory {
        None => DEFAULT_CACHE_BYTES,
        Some(text) => checks.memory("spec.cache.memory", text),
    };
    (ttl_ms > 0).then_some(CacheConfig { ttl_ms, memory_bytes })
}

fn conversations(cs: &ChatService, checks: &mut Checks) -> ConversationConfig {
    let given = cs.spec.conversations.clone().unwrap_or_default();
    let built_in = ConversationConfig::default();
    let ttl_ms = given.ttl.map_or(built_in.ttl_ms, |ttl| {
        checks.duration_ms("spec.conversations.ttl", &ttl, (60_000, "1m"), (8760, "8760h"), "24h")
    });
    let max_messages = given.max_messages.unwrap_or(built_in.max_messages);
    checks.range("spec.conversations.maxMessages", max_messages.into(), 2, 200);
    ConversationConfig { ttl_ms, max_messages, max_tokens: None }
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
