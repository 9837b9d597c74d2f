//! `chatservice.dev/v1alpha1`. Every doc comment on a field is what `kubectl explain` shows.
//!
//! Rules that need a sentence are CEL with a message; what a range or an enum says well is left to the schema. All
//! rules sit on `.spec` or deeper, where a new rule is ratcheted; a rule at the root would block status writes of
//! stored objects, so the only one there is about the name, which never changes.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::callers::{Auth, CacheScope};
use super::engine::{Budget, Model, RateLimits, Retries, Telemetry, Timeouts};
use super::rules::{
    ALL_ORIGINS_RULE, ANNOTATIONS_RULE, BUDGET_CAPS_RULE, BUDGET_PER_RULE, CACHE_SCOPE_RULE,
    CALLER_BUDGET_CAPS_RULE, CPU_REQUEST_RULE, DURATION, FALLBACKS_END_RULE, FALLBACKS_KNOWN_RULE,
    IMAGE_RULE, MEMORY_REQUEST_RULE, MEMORY_RULE, MODEL_AMONG_RULE, MODEL_NAME_RULE, MODELS_UNIQUE_RULE,
    OBJECT_NAME_RULE, ORIGINS_RULE, OWN_ANNOTATIONS_RULE, PLAIN_HTTP_RULE, PROXIES_RULE, PROXY_RULE,
    QUANTITIES_RULE, REQUESTS_BELOW_LIMITS_RULE, RESOURCE_NAMES_RULE, UNIQUE_RULE, URL_RULE,
};
use super::status::ChatServiceStatus;
use super::workload::{Autoscaling, NetworkRules, Pod, ServiceTls, annotations};

/// Most resources named in `resources.requests` or `.limits`.
const RESOURCES_MAX: u32 = 16;

/// A chat API for one or more models: the operator runs a chat server for it and keeps it as described here.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "chatservice.dev",
    version = "v1alpha1",
    kind = "ChatService",
    plural = "chatservices",
    singular = "chatservice",
    shortname = "chat",
    category = "chatservice",
    namespaced,
    status = "ChatServiceStatus",
    derive = "PartialEq",
    doc = "A chat API inside the cluster: a model or its stand-in, limits, a cache, conversations.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Pods", type_ = "string", json_path = ".status.pods"),
    printcolumn(name = "Up-To-Date", type_ = "integer", json_path = ".status.updatedReplicas"),
    printcolumn(name = "Config", type_ = "string", json_path = ".status.config.applied"),
    printcolumn(name = "Backend", type_ = "string", json_path = ".status.backend"),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".status.endpoint"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    ),
    printcolumn(
        name = "Autoscaling",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"AutoscalingReady\")].reason",
        priority = 1
    ),
    printcolumn(name = "Redis", type_ = "string", json_path = ".status.redis", priority = 1),
    printcolumn(name = "Image", type_ = "string", json_path = ".status.image", priority = 1),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,50}[a-z0-9])?$')").message(
        "metadata.name must be at most 52 characters of a-z, 0-9 and '-', begin with a letter and end with a letter or digit: names of Services and labels are made from it"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(MODEL_AMONG_RULE).field_path(".model").message(
    "must be the name of one of models: add it there, or name one that is"))]
#[x_kube(validation = Rule::new(BUDGET_CAPS_RULE).field_path(".budget").message(
    "needs models, each with maxOutputTokens: a request reserves what its longest answer would cost"))]
#[x_kube(validation = Rule::new(CPU_REQUEST_RULE).field_path(".resources").message(
    "needs requests.cpu: autoscaling by CPU compares with it. Set it, or leave resources out for 100m"))]
#[x_kube(validation = Rule::new(MEMORY_REQUEST_RULE).field_path(".resources").message(
    "needs requests.memory: autoscaling by memory compares with it. Set it, or leave resources out for 64Mi"))]
#[x_kube(validation = Rule::new(CALLER_BUDGET_CAPS_RULE).field_path(".auth.callers").message(
    "a budget needs models, each with maxOutputTokens: a request reserves what its longest answer would cost"))]
#[x_kube(validation = Rule::new(BUDGET_PER_RULE).field_path(".budget.per").message(
    "Caller needs auth, which says who a caller is: add it, or write Service"))]
#[x_kube(validation = Rule::new(CACHE_SCOPE_RULE).field_path(".cache.scope").message(
    "Caller needs auth, which says who a caller is: add it, or write Service"))]
pub struct ChatServiceSpec {
    /// What a caller gets who names no model. One of `models` where those are given. Example: gpt-4o-mini.
    #[x_kube(validation = Rule::new(MODEL_NAME_RULE).message(MODEL_NAME))]
    #[schemars(length(max = 256))]
    pub model: String,

    /// What callers may ask for, at most 64. Default: `model` alone, under its own name. Example:
    /// `[{name: gpt-4o-mini, fallbacks: [backup]}, {name: backup, upstreamModel: gpt-4.1-nano}]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[x_kube(validation = Rule::new(MODELS_UNIQUE_RULE).message("two models have the same name: give each its own"))]
    #[x_kube(validation = Rule::new(FALLBACKS_KNOWN_RULE).message(
        "fallbacks must be names of models in this list: add the missing one, or take its name out"))]
    #[x_kube(validation = Rule::new(FALLBACKS_END_RULE).message(
        "following fallbacks must end after at most 8 models and never come back to one that was tried: take one of them out"))]
    pub models: Option<Vec<Model>>,

    /// What answers: exactly one of `echo` and `openai`.
    pub backend: Backend,

    /// What fills a request that leaves it out. `temperature` and `maxTokens` apply to /api/v1 only; `systemPrompt`
    /// to both dialects, where the request brings none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defaults: Option<Defaults>,

    /// How much may be asked: requests, tokens, requests at once. Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limits: Option<RateLimits>,

    /// How much money may be spent. The price and maxOutputTokens of every model must be known. Absent: no budget.
    /// Example: {amount: "25.00", period: Month}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,

    /// Whether equal requests are answered from memory or Redis. Absent: no cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,

    /// How callers prove who they are. Absent: everybody may ask, and a caller is a client address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,

    /// Proxies in front of the Service whose X-Forwarded-For is believed, as addresses or CIDRs, at most 64. Default:
    /// none, a caller's address is that of its connection. Example: `[10.0.0.0/8]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(max = 49)))]
    #[x_kube(validation = Rule::new(PROXIES_RULE).message(
        "must be addresses or CIDRs, such as 10.0.0.0/8, and not all addresses (/0): whoever is trusted says who the caller is"))]
    pub trusted_proxies: Option<Vec<String>>,

    /// How long conversations of /api/v1 and stored responses of /v1 are remembered. Absent: the defaults of its fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversations: Option<Conversations>,

    /// How long each part of a call to the backend may take. Absent: the defaults of its fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,

    /// How often a call to the backend is tried. Absent: the defaults of its fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,

    /// Redis, which makes limits, cache and conversations hold across pods. Absent: each pod keeps its own in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<Redis>,

    /// How many chat server pods run, 0 to 1000; ignored while `autoscaling` is set. Default: 1. `kubectl scale chat/NAME
    /// --replicas=3` sets it too.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,

    /// How many pods run, decided by load: a HorizontalPodAutoscaler. Absent: `replicas`. Example: {minReplicas: 2,
    /// maxReplicas: 10, targetCPUUtilizationPercentage: 70}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,

    /// The chat server's image. It must match one of the operator's --allowed-images.
    /// Default: the image of the operator's own version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new(IMAGE_RULE).message(
        "must be an image with a tag or digest, such as registry.example.com/chatservice:0.1.0, or be left out for the operator's default"))]
    pub image: Option<String>,

    /// CPU and memory of a chat server container.
    /// Default: requests of 100m CPU and 64Mi memory, a limit of 256Mi memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// How the API is reached inside the cluster. Default: a ClusterIP Service on port 8080.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,

    /// Who may reach the pods, and whom they may reach. Absent: everybody, everything. Example: {enabled: true,
    /// ingressFrom: [{podSelector: {matchLabels: {app: web}}}]}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<NetworkRules>,

    /// What is said of the pods beyond their container: labels, nodes, priority, how long they have to end. Absent: the
    /// defaults of its fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,

    /// Which web pages from elsewhere may ask from a browser. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,

    /// The chat page at /playground. Absent: it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub playground: Option<Playground>,

    /// What the chat server logs. Prompts, answers and keys never are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logging: Option<Logging>,

    /// Traces for OpenTelemetry, by its conventions for generative AI. Prompts, answers and keys are never in them.
    /// Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<Telemetry>,
}

/// What a model's name must be.
pub(super) const MODEL_NAME: &str = "must be a model name: 1 to 128 letters, digits or . _ : / @ -, beginning with a letter or digit, such as gpt-4o-mini";

impl ChatServiceSpec {
    /// One model of one backend and the schema's default of everything else.
    #[must_use]
    pub fn new(model: &str, backend: Backend) -> Self {
        Self {
            model: model.to_owned(),
            models: None,
            backend,
            defaults: None,
            rate_limits: None,
            budget: None,
            cache: None,
            auth: None,
            trusted_proxies: None,
            conversations: None,
            timeouts: None,
            retries: None,
            redis: None,
            replicas: default_replicas(),
            autoscaling: None,
            image: None,
            resources: None,
            service: None,
            network_policy: None,
            pod: None,
            cors: None,
            playground: None,
            logging: None,
            telemetry: None,
        }
    }
}

fn default_replicas() -> i32 {
    1
}

/// What answers. Exactly one member is set.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.echo) != has(self.openai)").message(
    "set exactly one backend: echo: {} answers with the last message and needs no key, openai: {baseURL: ...} calls an OpenAI-compatible API"))]
pub struct Backend {
    /// Answers with the last user message, word by word: for demos, tests and probes. Offline and deterministic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub echo: Option<EchoBackend>,
    /// Any API that speaks OpenAI's chat completions: OpenAI, vLLM, Ollama, llama.cpp, a gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub openai: Option<OpenAiBackend>,
}

/// The built-in backend. It has no settings yet.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EchoBackend {}

/// An OpenAI-compatible API.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenAiBackend {
    /// The URL in front of `/chat/completions`. Default: https://api.openai.com/v1. Example:
    /// http://vllm.models.svc:8000/v1. Plain http only to loopback, private addresses and names inside the cluster.
    #[serde(rename = "baseURL", default = "default_base_url")]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = Rule::new(URL_RULE).message(
        "must be http(s)://host[:port][/path] without user, query or fragment, such as https://api.openai.com/v1"))]
    #[x_kube(validation = Rule::new(PLAIN_HTTP_RULE).message(
        "plain http is only allowed to loopback, private addresses and cluster-local names (*.svc, *.local, *.internal or a name without dots): write https://"))]
    pub base_url: String,

    /// The Secret with the data key `api-key`, and `allowed-hosts`: the comma-separated hosts that the key may be
    /// sent to (absent: api.openai.com alone). Without a reference no key is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,

    /// The egress proxy that calls go through, where a cluster needs one: http(s)://host:port. Default: none; the
    /// environment's proxies are ignored. Example: http://proxy.example.com:3128.
    #[serde(rename = "proxyURL", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 300))]
    #[x_kube(validation = Rule::new(format!("self == '' || {PROXY_RULE}")).message(
        "must be http(s)://host:port without user, path, query or fragment, such as http://proxy.example.com:3128, or be left out for no proxy"))]
    pub proxy_url: Option<String>,

    /// The ConfigMap with the data key `ca.crt`: PEM certificates of the authorities that the backend's certificate
    /// may come from, beside the public ones. Default: the public ones alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle_config_map_ref: Option<ConfigMapRef>,
}

fn default_base_url() -> String {
    "https://api.openai.com/v1".to_owned()
}

/// A Secret in the namespace of the ChatService.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// The name of the Secret, such as openai.
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new(OBJECT_NAME_RULE).message(
        "must be the name of a Secret: lower-case letters, digits, '-' and '.', such as openai"))]
    pub name: String,
}

/// A ConfigMap in the namespace of the ChatService.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapRef {
    /// The name of the ConfigMap, such as private-ca.
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new(OBJECT_NAME_RULE).message(
        "must be the name of a ConfigMap: lower-case letters, digits, '-' and '.', such as private-ca"))]
    pub name: String,
}

/// What fills a request that leaves it out.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Defaults {
    /// Put in front of the messages of a request that has no system or developer message. At most 8192 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub system_prompt: Option<String>,
    /// Sampling temperature of /api/v1, 0 to 2. Default: 0.7.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 2.0))]
    pub temperature: Option<f64>,
    /// Longest answer of /api/v1 in tokens, 1 to 4000. Default: 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4000))]
    pub max_tokens: Option<u32>,
}

/// Exact-match cache of answers.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cache {
    /// How long an answer is served again, 0s (off) to 720h. Example: 1h.
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(format!("{DURATION} && duration(self) <= duration('720h')")).message(
        "must be a duration from 0s (no cache) to 720h, such as 30s, 10m or 1h30m"))]
    pub ttl: String,
    /// Memory of a pod that answers may take, keys and overhead counted, 1Mi to 16Gi. Default: 64Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(MEMORY_RULE).message(
        "must be a whole number of bytes from 1Mi to 16Gi, such as 64Mi"))]
    pub memory: Option<String>,
    /// Whose equal requests share an answer: those of one Caller, which needs auth, or of the whole Service. Default: Caller with auth, else Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<CacheScope>,
}

/// Memory of conversations.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Conversations {
    /// How long after its last use a conversation or a stored response is kept, 1m to 8760h. Default: 24h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(format!("{DURATION} && duration(self) >= duration('1m') && duration(self) <= duration('8760h')")).message(
        "must be a duration from 1m to 8760h, such as 24h"))]
    pub ttl: Option<String>,
    /// How many of the last messages are kept and sent along, 2 to 200. Default: 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 200))]
    pub max_messages: Option<u32>,
    /// How many tokens the kept messages may have together, 100 to 10,000,000; whole turns are dropped until they fit.
    /// Default: not bounded. Example: 32000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 10_000_000))]
    pub max_tokens: Option<u32>,
}

/// The store that pods share.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Redis {
    /// The Secret with the data key `url`: redis://host:port, redis+sentinel://host:port,host:port/master or
    /// redis+cluster://host:port,host:port (rediss for redis with TLS). Or with `host` and optionally `port`, `username`
    /// and `password`. For TLS optionally `ca.crt`, and `tls.crt` with `tls.key`.
    pub secret_ref: SecretRef,
}

/// CPU and memory.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(REQUESTS_BELOW_LIMITS_RULE).message(
    "each of requests must be at most its limit: lower the request or raise the limit"))]
pub struct Resources {
    /// What the scheduler reserves. Example: {cpu: 100m, memory: 64Mi}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "quantities")]
    #[x_kube(validation = Rule::new(QUANTITIES_RULE).message("values must be quantities, such as 100m, 1 or 64Mi"))]
    #[x_kube(validation = Rule::new(RESOURCE_NAMES_RULE).message(
        "names must be cpu, memory, ephemeral-storage, hugepages-SIZE or VENDOR/RESOURCE"))]
    pub requests: Option<BTreeMap<String, Quantity>>,
    /// What the container may not exceed. Example: {memory: 256Mi}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "quantities")]
    #[x_kube(validation = Rule::new(QUANTITIES_RULE).message("values must be quantities, such as 100m, 1 or 64Mi"))]
    #[x_kube(validation = Rule::new(RESOURCE_NAMES_RULE).message(
        "names must be cpu, memory, ephemeral-storage, hugepages-SIZE or VENDOR/RESOURCE"))]
    pub limits: Option<BTreeMap<String, Quantity>>,
}

/// Bounded, which the rules over it need, and without the page that Kubernetes has to say about quantities.
fn quantities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": RESOURCES_MAX,
        "additionalProperties": { "x-kubernetes-int-or-string": true, "maxLength": 32 },
    })
}

/// How the API is reached.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// How the Service is exposed.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<ServiceType>,
    /// The Service's port, 1 to 65535. Default: 8080.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Annotations of the Service, at most 32: what a cloud's load balancer is told. Default: none. Example:
    /// {service.beta.kubernetes.io/aws-load-balancer-internal: "true"}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "annotations")]
    #[x_kube(validation = Rule::new(ANNOTATIONS_RULE).message(
        "keys must be names of annotations, such as owner or example.com/owner"))]
    #[x_kube(validation = Rule::new(OWN_ANNOTATIONS_RULE).message(
        "keys must not begin with chatservice.dev/: the operator sets those"))]
    pub annotations: Option<BTreeMap<String, String>>,
    /// TLS on this port, with HTTP/2 for clients that ask for it. Absent: plain HTTP/1.1. Example: {secretRef: {name:
    /// demo-tls}}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServiceTls>,
}

/// ClusterIP, NodePort or LoadBalancer. Default: ClusterIP.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// Reached inside the cluster.
    #[default]
    ClusterIP,
    /// Also on a port of every node.
    NodePort,
    /// Also through the cloud's load balancer.
    LoadBalancer,
}

/// Pages from elsewhere.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cors {
    /// Origins whose pages may ask and read answers, at most 32, or `*` alone for all. Whoever opens such a page needs a key as
    /// any other client does. Default: none. Example: [https://app.example.com].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), inner(length(max = 300)))]
    #[x_kube(validation = Rule::new(UNIQUE_RULE).message("names an origin twice: once is enough"))]
    #[x_kube(validation = Rule::new(ORIGINS_RULE).message(
        "must be origins, http(s)://host[:port] without path, such as https://app.example.com, or * for all"))]
    #[x_kube(validation = Rule::new(ALL_ORIGINS_RULE).message("* is every origin: leave the others out, or take it out"))]
    pub allow_origins: Option<Vec<String>>,
}

/// The chat page.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Playground {
    /// Whether it is served. It calls the API as any other client does: with the same keys, limits and costs.
    /// Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// What the chat server logs.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Logging {
    /// The least severe lines that are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<LogLevel>,
    /// The form of a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<LogFormat>,
}

/// error, warn, info or debug. Default: info, one line per request.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What failed and needs somebody.
    Error,
    /// And what was off but handled.
    Warn,
    /// And one line per request.
    #[default]
    Info,
    /// And how each request was handled.
    Debug,
}

/// json or text. Default: json.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}
