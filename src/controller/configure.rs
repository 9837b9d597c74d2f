//! The part of `validate` that decides what a server is told. In: a ChatService. Out: its [`ServerConfig`], with every
//! problem on the way pushed to [`Checks`]. Pure.

use kube::Resource;

use super::callers;
use super::check::{self, Checks, Span};
use super::models;
use crate::constants::drain;
use crate::crd::{Backend, CacheScope, ChatService, Per};
use crate::server::config::{
    BackendConfig, BudgetConfig, CacheConfig, ConversationConfig, DEFAULT_ATTEMPTS, DynamicConfig,
    FORMAT_VERSION, Identity, LimitsConfig, RequestDefaults, RequestLimit, ServerConfig, StaticConfig,
    TimeoutConfig, TokenIssuer,
};

/// `cache.memory` when it is left out.
const DEFAULT_CACHE_BYTES: u64 = 64 << 20;
/// `rateLimits.burst` when it is left out is the smaller of this and `requestsPerMinute`.
pub(super) const DEFAULT_BURST: u32 = 10;
/// What is of a caller's own without anything that says who a caller is.
const NEEDS_AUTH: &str = "Caller needs auth, which says who a caller is: add it, or write Service";

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

const CACHE_TTL: Span =
    Span { min_ms: 0, max_ms: 720 * HOUR, says: "from 0s (no cache) to 720h, such as 1h" };
const CONVERSATION_TTL: Span =
    Span { min_ms: MINUTE, max_ms: 8760 * HOUR, says: "from 1m to 8760h, such as 24h" };
const CONNECT: Span = Span { min_ms: 10, max_ms: MINUTE, says: "from 10ms to 1m, such as 1s" };
const FIRST_TOKEN: Span = Span { min_ms: SECOND, max_ms: HOUR, says: "from 1s to 1h, such as 120s" };
const IDLE: Span = Span { min_ms: SECOND, max_ms: HOUR, says: "from 1s to 1h, such as 60s" };
const REQUEST: Span = Span { min_ms: SECOND, max_ms: 24 * HOUR, says: "from 1s to 24h, such as 10m" };

/// The configuration, with who makes the tokens of the cluster, where that is known; None only where there is no backend to speak of, which is a problem too.
pub(super) fn config_of(
    cs: &ChatService,
    signers: Option<&TokenIssuer>,
    checks: &mut Checks,
) -> Option<ServerConfig> {
    let spec = &cs.spec;
    let (backend, credentials_secret, ca_config_map) = backend(&spec.backend, checks)?;
    let redis_secret = spec.redis.as_ref().map(|redis| redis.secret_ref.name.clone());
    if let Some(name) = &redis_secret {
        checks.object_name("spec.redis.secretRef.name", "Secret", name);
    }
    let logging = spec.logging.clone().unwrap_or_default();
    let models = models::of(spec, checks);
    let budget = budget(cs, checks);
    let limits = limits(cs, checks);
    let auth = callers::auth(cs, signers, &limits, checks);
    let own = auth.iter().flat_map(|auth| &auth.callers);
    if budget.is_some() || own.clone().any(|caller| caller.budget.is_some()) {
        models::need_known_costs(&models, &backend, checks);
    }
    Some(ServerConfig {
        format_version: FORMAT_VERSION,
        identity: identity(cs),
        fixed: StaticConfig {
            credentials_secret,
            redis_secret,
            ca_config_map,
            api_keys_secret: callers::api_keys_secret(cs, checks),
            tls_secret: tls_secret(cs, checks),
            otlp_endpoint: otlp_endpoint(cs, checks),
            log_format: logging.format.unwrap_or_default(),
            grace_seconds: grace_seconds(cs),
        },
        dynamic: DynamicConfig {
            model: spec.model.clone(),
            models,
            backend,
            timeouts: timeouts(cs, checks),
            max_attempts: max_attempts(cs, checks),
            defaults: request_defaults(cs, checks),
            limits,
            budget,
            cache: cache(cs, checks),
            auth,
            trusted_proxies: callers::trusted_proxies(cs, checks),
            conversations: conversations(cs, checks),
            cors_origins: cors_origins(cs, checks),
            playground: spec.playground.as_ref().and_then(|playground| playground.enabled).unwrap_or(true),
            log_level: logging.level.unwrap_or_default(),
        },
    })
}

fn tls_secret(cs: &ChatService, checks: &mut Checks) -> Option<String> {
    let tls = cs.spec.service.as_ref()?.tls.as_ref()?;
    checks.object_name("spec.service.tls.secretRef.name", "Secret", &tls.secret_ref.name);
    Some(tls.secret_ref.name.clone())
}

/// `workload` checks its range.
fn grace_seconds(cs: &ChatService) -> u32 {
    let given = cs.spec.pod.as_ref().and_then(|pod| pod.termination_grace_period_seconds);
    given.unwrap_or(drain::DEFAULT_GRACE_SECONDS)
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

/// What answers, and the names of the Secret with its key and of the ConfigMap with its authority.
type BackendParts = (BackendConfig, Option<String>, Option<String>);

fn backend(backend: &Backend, checks: &mut Checks) -> Option<BackendParts> {
    match (&backend.echo, &backend.openai) {
        (Some(_), None) => Some((BackendConfig::Echo {}, None, None)),
        (None, Some(openai)) => {
            if let Some(problem) = check::base_url(&openai.base_url) {
                checks.push("spec.backend.openai.baseURL", problem);
            }
            let proxy_url = openai.proxy_url.clone().filter(|url| !url.is_empty());
            if let Some(problem) = proxy_url.as_deref().and_then(check::proxy_url) {
                checks.push("spec.backend.openai.proxyURL", problem);
            }
            let secret = openai.credentials_secret_ref.as_ref().map(|secret| secret.name.clone());
            if let Some(name) = &secret {
                checks.object_name("spec.backend.openai.credentialsSecretRef.name", "Secret", name);
            }
            let ca = openai.ca_bundle_config_map_ref.as_ref().map(|map| map.name.clone());
            if let Some(name) = &ca {
                checks.object_name("spec.backend.openai.caBundleConfigMapRef.name", "ConfigMap", name);
            }
            let base_url = openai.base_url.trim_end_matches('/').to_owned();
            let proxy_url = proxy_url.map(|url| url.trim_end_matches('/').to_owned());
            Some((BackendConfig::OpenAi { base_url, proxy_url }, secret, ca))
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
    checks.range("spec.defaults.maxTokens", max_tokens, 1..=4000);
    RequestDefaults { system_prompt: given.system_prompt, temperature, max_tokens }
}

fn limits(cs: &ChatService, checks: &mut Checks) -> LimitsConfig {
    let Some(given) = &cs.spec.rate_limits else { return LimitsConfig::default() };
    let (requests, tokens, concurrent) =
        (given.requests_per_minute, given.tokens_per_minute, given.concurrent_requests);
    if (requests, tokens, concurrent) == (None, None, None) {
        checks.push(
            "spec.rateLimits",
            "set at least one of requestsPerMinute, tokensPerMinute and concurrentRequests, or leave rateLimits out for no limit",
        );
    }
    if given.burst.is_some() && requests.is_none() {
        checks.push("spec.rateLimits", "burst needs requestsPerMinute: set it too, or take burst out");
    }
    for (field, value, max) in [
        ("requestsPerMinute", requests, 1_000_000),
        ("burst", given.burst, 100_000),
        ("tokensPerMinute", tokens, 1_000_000_000),
        ("concurrentRequests", concurrent, 100_000),
    ] {
        if let Some(value) = value {
            checks.range(&format!("spec.rateLimits.{field}"), value, 1..=max);
        }
    }
    LimitsConfig {
        requests: requests.map(|requests| RequestLimit {
            requests,
            period_seconds: 60,
            burst: given.burst.unwrap_or(requests.min(DEFAULT_BURST)),
        }),
        tokens_per_minute: tokens,
        concurrent_requests: concurrent,
        per: given.per.unwrap_or_default(),
        on_store_failure: given.on_store_failure.unwrap_or_default(),
        mode: given.mode.unwrap_or_default(),
    }
}

/// A budget of each caller's own is worth something only where callers prove who they are.
fn budget(cs: &ChatService, checks: &mut Checks) -> Option<BudgetConfig> {
    let given = cs.spec.budget.as_ref()?;
    let amount_nano_usd = checks.amount("spec.budget.amount", &given.amount)?;
    let per = given.per.unwrap_or(Per::Service);
    if per == Per::Caller && cs.spec.auth.is_none() {
        checks.push("spec.budget.per", NEEDS_AUTH);
    }
    Some(BudgetConfig { amount_nano_usd, period: given.period, per })
}

fn cache(cs: &ChatService, checks: &mut Checks) -> Option<CacheConfig> {
    let cache = cs.spec.cache.as_ref()?;
    let ttl_ms = checks.duration_ms("spec.cache.ttl", &cache.ttl, &CACHE_TTL);
    let memory_bytes = match &cache.memory {
        None => DEFAULT_CACHE_BYTES,
        Some(text) => checks.memory("spec.cache.memory", text),
    };
    if cache.scope == Some(CacheScope::Caller) && cs.spec.auth.is_none() {
        checks.push("spec.cache.scope", NEEDS_AUTH);
    }
    let scope = cache.scope.unwrap_or_default();
    (ttl_ms > 0).then_some(CacheConfig { ttl_ms, memory_bytes, scope })
}

fn conversations(cs: &ChatService, checks: &mut Checks) -> ConversationConfig {
    let given = cs.spec.conversations.clone().unwrap_or_default();
    let built_in = ConversationConfig::default();
    let ttl_ms = given
        .ttl
        .map_or(built_in.ttl_ms, |ttl| checks.duration_ms("spec.conversations.ttl", &ttl, &CONVERSATION_TTL));
    let max_messages = given.max_messages.unwrap_or(built_in.max_messages);
    checks.range("spec.conversations.maxMessages", max_messages, 2..=200);
    if let Some(max_tokens) = given.max_tokens {
        checks.range("spec.conversations.maxTokens", max_tokens, 100..=10_000_000);
    }
    ConversationConfig { ttl_ms, max_messages, max_tokens: given.max_tokens }
}

fn timeouts(cs: &ChatService, checks: &mut Checks) -> TimeoutConfig {
    let given = cs.spec.timeouts.clone().unwrap_or_default();
    let built_in = TimeoutConfig::default();
    let mut of = |field: &str, text: Option<&String>, span: &Span, otherwise: u64| {
        text.map_or(otherwise, |text| checks.duration_ms(&format!("spec.timeouts.{field}"), text, span))
    };
    let timeouts = TimeoutConfig {
        connect_ms: of("connect", given.connect.as_ref(), &CONNECT, built_in.connect_ms),
        first_token_ms: of("firstToken", given.first_token.as_ref(), &FIRST_TOKEN, built_in.first_token_ms),
        idle_ms: of("idle", given.idle.as_ref(), &IDLE, built_in.idle_ms),
        request_ms: of("request", given.request.as_ref(), &REQUEST, built_in.request_ms),
    };
    // Only what is written down is compared: a short `request` must not force three more lines.
    let longest = [
        given.connect.map(|_| timeouts.connect_ms),
        given.first_token.map(|_| timeouts.first_token_ms),
        given.idle.map(|_| timeouts.idle_ms),
    ];
    let all_read = timeouts.request_ms > 0 && longest.iter().all(|given| *given != Some(0));
    if all_read && longest.into_iter().flatten().any(|given| given > timeouts.request_ms) {
        checks.push(
            "spec.timeouts",
            "connect, firstToken and idle must be at most request, which is 10m when it is left out: lower them or raise request",
        );
    }
    timeouts
}

fn max_attempts(cs: &ChatService, checks: &mut Checks) -> u32 {
    let given = cs.spec.retries.as_ref().and_then(|retries| retries.max_attempts);
    let max_attempts = given.unwrap_or(DEFAULT_ATTEMPTS);
    checks.range("spec.retries.maxAttempts", max_attempts, 1..=10);
    max_attempts
}

fn cors_origins(cs: &ChatService, checks: &mut Checks) -> Vec<String> {
    let given = cs.spec.cors.as_ref().and_then(|cors| cors.allow_origins.as_deref()).unwrap_or_default();
    let field = "spec.cors.allowOrigins";
    if given.len() > 32 {
        checks.push(field, "must be at most 32 origins");
    }
    if given
        .iter()
        .enumerate()
        .any(|(index, origin)| given.iter().skip(index + 1).any(|other| other == origin))
    {
        checks.push(field, "names an origin twice: once is enough");
    }
    if given.len() > 1 && given.iter().any(|origin| origin == "*") {
        checks.push(field, "* is every origin: leave the others out, or take it out");
    }
    let origins: Vec<_> = given.iter().map(|origin| check::origin(origin)).collect();
    if origins.contains(&None) {
        checks.push(
            field,
            "must be origins, http(s)://host[:port] without path, such as https://app.example.com, or * for all",
        );
    }
    origins.into_iter().flatten().collect()
}

fn otlp_endpoint(cs: &ChatService, checks: &mut Checks) -> Option<String> {
    let telemetry = cs.spec.telemetry.as_ref()?;
    let endpoint = telemetry.otlp_endpoint.as_ref().filter(|url| !url.is_empty())?;
    if let Some(problem) = check::otlp_endpoint(endpoint) {
        checks.push("spec.telemetry.otlpEndpoint", problem);
    }
    Some(endpoint.trim_end_matches('/').to_owned())
}
