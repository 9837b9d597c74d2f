use serde_json::{Value, json};

use super::super::dereference::{ChildKey, Holder};
use super::*;
use crate::crd::{
    BudgetPeriod, CacheScope, LimitMode, LogFormat, LogLevel, MaxTokensField, OnStoreFailure, Per,
};
use crate::server::config::{
    BackendConfig, BudgetConfig, CacheConfig, ConversationConfig, LimitsConfig, ModelConfig, PriceConfig,
    RequestLimit, TimeoutConfig,
};

fn service(spec: &Value) -> ChatService {
    serde_json::from_value(json!({
        "apiVersion": "chatservice.dev/v1alpha1",
        "kind": "ChatService",
        "metadata": { "name": "demo", "namespace": "chat", "uid": "u-1", "generation": 3 },
        "spec": spec,
    }))
    .unwrap()
}

fn minimal() -> Value {
    json!({ "model": "echo-1", "backend": { "echo": {} } })
}

fn with(path: &str, value: &Value) -> ChatService {
    let mut spec = minimal();
    let mut at = &mut spec;
    for part in path.split('.') {
        at = &mut at[part];
    }
    *at = value.clone();
    service(&spec)
}

fn defaults() -> Defaults {
    Defaults {
        server_image: "registry.example.com/chatservice:0.1.0".into(),
        allowed_images: vec![],
        operator: None,
    }
}

fn check(cs: &ChatService) -> Result<ValidatedChatService, Vec<Problem>> {
    validate(cs, &References::default(), &defaults())
}

#[test]
fn a_minimal_spec_gets_every_default() {
    let validated = check(&service(&minimal())).unwrap();
    assert_eq!(validated.scale, Scale::Fixed(1));
    assert_eq!(validated.image, "registry.example.com/chatservice:0.1.0");
    assert_eq!(validated.endpoint(), "http://demo.chat.svc:8080/v1");
    assert_eq!(validated.owner.as_ref().unwrap().uid, "u-1");
    let dynamic = validated.config.dynamic;
    assert_eq!(dynamic.backend, BackendConfig::Echo {});
    assert_eq!((dynamic.defaults.temperature, dynamic.defaults.max_tokens), (0.7, 1000));
    assert_eq!((dynamic.limits.requests, dynamic.cache), (None, None));
    assert_eq!((dynamic.conversations.ttl_ms, dynamic.conversations.max_messages), (86_400_000, 20));
    assert_eq!((dynamic.log_level, validated.config.fixed.log_format), (LogLevel::Info, LogFormat::Json));
    assert_eq!(validated.resources.limits.unwrap()["memory"].0, "256Mi");
}

#[test]
fn what_the_spec_says_reaches_the_server() {
    let config = server_config(&service(&json!({
        "model": "gpt-4o-mini",
        "backend": { "openai": { "baseURL": "https://api.openai.com/v1/", "credentialsSecretRef": { "name": "openai" } } },
        "defaults": { "systemPrompt": "Be brief.", "temperature": 0.2, "maxTokens": 77 },
        "rateLimits": { "requestsPerMinute": 600, "burst": 50 },
        "cache": { "ttl": "1h", "memory": "32Mi" },
        "conversations": { "ttl": "2h", "maxMessages": 6 },
        "redis": { "secretRef": { "name": "demo-redis" } },
        "playground": { "enabled": false },
        "cors": { "allowOrigins": ["https://App.example.com:443", "http://[::1]:8080", "http://localhost:80"] },
        "logging": { "level": "debug", "format": "text" },
    })))
    .unwrap();
    assert_eq!(
        config.dynamic.backend,
        BackendConfig::OpenAi { base_url: "https://api.openai.com/v1".into(), proxy_url: None }
    );
    assert_eq!(config.fixed.credentials_secret.as_deref(), Some("openai"));
    assert_eq!(config.fixed.redis_secret.as_deref(), Some("demo-redis"));
    assert_eq!(
        config.dynamic.limits.requests,
        Some(RequestLimit { requests: 600, period_seconds: 60, burst: 50 })
    );
    assert_eq!(
        config.dynamic.cache,
        Some(CacheConfig { ttl_ms: 3_600_000, memory_bytes: 32 << 20, scope: CacheScope::default() })
    );
    assert_eq!(
        config.dynamic.conversations,
        ConversationConfig { ttl_ms: 7_200_000, max_messages: 6, max_tokens: None }
    );
    assert_eq!(config.dynamic.defaults.max_tokens, 77);
    assert!(!config.dynamic.playground);
    assert_eq!(
        config.dynamic.cors_origins,
        ["https://app.example.com", "http://[::1]:8080", "http://localhost"],
        "as browsers write them"
    );
    assert_eq!((config.dynamic.log_level, config.fixed.log_format), (LogLevel::Debug, LogFormat::Text));
    assert_eq!(
        (config.identity.namespace.as_str(), config.identity.uid.as_str(), config.identity.generation),
        ("chat", "u-1", 3)
    );
}

#[test]
fn what_the_spec_says_of_the_engine_reaches_the_server() {
    let config = server_config(&service(&json!({
        "model": "gpt-4o-mini",
        "backend": { "openai": {
            "proxyURL": "http://proxy.example.com:3128/", "caBundleConfigMapRef": { "name": "private-ca" },
        } },
        "models": [
            { "name": "gpt-4o-mini", "maxOutputTokens": 16384, "fallbacks": ["backup"] },
            { "name": "backup", "upstreamModel": "own", "maxOutputTokens": 4096, "omit": ["temperature"],
              "price": { "inputPerMillionTokens": "0.15", "outputPerMillionTokens": "0.60" },
              "maxTokensField": "max_tokens" },
        ],
        "rateLimits": { "tokensPerMinute": 100_000, "concurrentRequests": 20, "per": "Service",
            "onStoreFailure": "Closed", "mode": "Shadow" },
        "budget": { "amount": "25.5", "period": "Week" },
        "conversations": { "maxTokens": 32_000 },
        "timeouts": { "connect": "500ms", "firstToken": "30s", "idle": "20s", "request": "2m" },
        "retries": { "maxAttempts": 2 },
        "telemetry": { "otlpEndpoint": "http://otel.svc:4318/" },
    })))
    .unwrap();
    let (fixed, dynamic) = (config.fixed, config.dynamic);
    assert_eq!(
        dynamic.backend,
        BackendConfig::OpenAi {
            base_url: "https://api.openai.com/v1".into(),
            proxy_url: Some("http://proxy.example.com:3128".into())
        }
    );
    assert_eq!(fixed.ca_config_map.as_deref(), Some("private-ca"));
    assert_eq!(fixed.otlp_endpoint.as_deref(), Some("http://otel.svc:4318"));
    let price =
        PriceConfig { input_per_million_tokens: "0.15".into(), output_per_million_tokens: "0.60".into() };
    assert_eq!(
        dynamic.models,
        [
            ModelConfig {
                max_output_tokens: Some(16384),
                fallbacks: vec!["backup".into()],
                ..ModelConfig::named("gpt-4o-mini")
            },
            ModelConfig {
                upstream_model: Some("own".into()),
                price: Some(price),
                max_output_tokens: Some(4096),
                max_tokens_field: Some(MaxTokensField::MaxTokens),
                omit: vec!["temperature".into()],
                ..ModelConfig::named("backup")
            },
        ]
    );
    assert_eq!(
        dynamic.limits,
        LimitsConfig {
            requests: None,
            tokens_per_minute: Some(100_000),
            concurrent_requests: Some(20),
            per: Per::Service,
            on_store_failure: OnStoreFailure::Closed,
            mode: LimitMode::Shadow,
        }
    );
    assert_eq!(
        dynamic.budget,
        Some(BudgetConfig { amount_nano_usd: 25_500_000_000, period: BudgetPeriod::Week, per: Per::Service })
    );
    assert_eq!(dynamic.conversations.max_tokens, Some(32_000));
    assert_eq!(
        dynamic.timeouts,
        TimeoutConfig { connect_ms: 500, first_token_ms: 30_000, idle_ms: 20_000, request_ms: 120_000 }
    );
    assert_eq!(dynamic.max_attempts, 2);
}

#[test]
fn a_budget_needs_the_price_and_the_longest_answer_of_every_model_and_names_those_without() {
    let with = |backend: Value, models: Value| {
        let mut spec =
            json!({ "model": "a", "backend": backend, "budget": { "amount": "1", "period": "Day" } });
        spec["models"] = models;
        server_config(&service(&spec))
            .map(|_| ())
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    };
    let (echo, openai) = (json!({ "echo": {} }), json!({ "openai": {} }));
    let price = json!({ "inputPerMillionTokens": "1", "outputPerMillionTokens": "2" });
    let capped =
        |name: &str, upstream: &str| json!({ "name": name, "upstreamModel": upstream, "maxOutputTokens": 9 });
    let priced = json!({ "name": "b", "maxOutputTokens": 9, "price": price });
    assert_eq!(with(openai.clone(), json!([capped("a", "gpt-4o"), priced])), Ok(()));
    assert_eq!(with(echo, json!([capped("a", "a")])), Ok(()), "echo costs nothing");
    let said = with(openai.clone(), json!([capped("a", "gpt-4o"), capped("b", "mine"), capped("c", "mine")]));
    let said = said.unwrap_err();
    assert!(
        said.starts_with("spec.budget: needs a price of every model") && said.contains("\"b\", \"c\""),
        "{said}"
    );
    for models in [Value::Null, json!([{ "name": "a", "price": price }])] {
        let said = with(openai.clone(), models).unwrap_err();
        assert!(said.contains("maxOutputTokens") && said.contains("that of \"a\" is not known"), "{said}");
    }
}

#[test]
fn empty_urls_are_as_good_as_none() {
    let config = server_config(&service(&json!({
        "model": "m", "backend": { "openai": { "proxyURL": "" } }, "telemetry": { "otlpEndpoint": "" },
    })))
    .unwrap();
    let base_url = "https://api.openai.com/v1".into();
    assert_eq!(config.dynamic.backend, BackendConfig::OpenAi { base_url, proxy_url: None });
    assert_eq!(config.fixed.otlp_endpoint, None);
}

#[test]
fn the_default_burst_is_never_above_the_rate() {
    for (rate, burst) in [(1, 1), (9, 9), (10, 10), (600, 10)] {
        let cs = with("rateLimits", &json!({ "requestsPerMinute": rate }));
        assert_eq!(server_config(&cs).unwrap().dynamic.limits.requests.unwrap().burst, burst);
    }
}

#[test]
fn a_cache_with_ttl_0s_is_off() {
    assert_eq!(server_config(&with("cache", &json!({ "ttl": "0s" }))).unwrap().dynamic.cache, None);
}

#[test]
fn without_a_cluster_the_uid_is_a_stable_hash_of_the_name() {
    let mut cs = service(&minimal());
    cs.metadata.uid = None;
    cs.metadata.namespace = None;
    let identity = server_config(&cs).unwrap().identity;
    assert_eq!((identity.namespace.as_str(), identity.uid.len()), ("local", 16));
    assert_eq!(server_config(&cs).unwrap().identity, identity);
    assert_eq!(check(&cs).unwrap().owner, None);
}

#[test]
fn what_the_schema_refuses_is_refused_again_and_names_its_field() {
    let openai = |url: &str| json!({ "openai": { "baseURL": url } });
    for (path, value, field) in [
        ("model", json!(""), "spec.model"),
        ("model", json!("-x"), "spec.model"),
        ("model", json!("a b"), "spec.model"),
        ("backend", json!({}), "spec.backend"),
        ("backend", json!({ "echo": {}, "openai": {} }), "spec.backend"),
        ("backend", openai("ftp://x"), "spec.backend.openai.baseURL"),
        ("backend", openai("https://user@example.com"), "spec.backend.openai.baseURL"),
        ("backend", openai("https://example.com/?q"), "spec.backend.openai.baseURL"),
        ("backend", openai("https://example.com/#f"), "spec.backend.openai.baseURL"),
        ("backend", openai("https://example.com:99999"), "spec.backend.openai.baseURL"),
        ("backend", openai("http://example.com/v1"), "spec.backend.openai.baseURL"),
        ("backend", openai("http://169.254.169.254/v1"), "spec.backend.openai.baseURL"),
        ("backend.openai", json!({}), "spec.backend"),
        ("backend", json!({ "openai": { "proxyURL": "http://p:1/x" } }), "spec.backend.openai.proxyURL"),
        ("backend", json!({ "openai": { "proxyURL": "http://p" } }), "spec.backend.openai.proxyURL"),
        (
            "backend",
            json!({ "openai": { "caBundleConfigMapRef": { "name": "../x" } } }),
            "spec.backend.openai.caBundleConfigMapRef.name",
        ),
        ("defaults", json!({ "temperature": 2.1 }), "spec.defaults.temperature"),
        ("defaults", json!({ "maxTokens": 0 }), "spec.defaults.maxTokens"),
        ("defaults", json!({ "systemPrompt": "x".repeat(8193) }), "spec.defaults.systemPrompt"),
        ("rateLimits", json!({ "requestsPerMinute": 0 }), "spec.rateLimits.requestsPerMinute"),
        ("rateLimits", json!({ "requestsPerMinute": 1, "burst": 0 }), "spec.rateLimits.burst"),
        ("rateLimits", json!({}), "spec.rateLimits"),
        ("rateLimits", json!({ "tokensPerMinute": 1, "burst": 1 }), "spec.rateLimits"),
        ("rateLimits", json!({ "concurrentRequests": 0 }), "spec.rateLimits.concurrentRequests"),
        ("models", json!([]), "spec.models"),
        ("models", json!([{ "name": "other" }]), "spec.model"),
        ("models", json!([{ "name": "echo-1" }, { "name": "a b" }]), "spec.models[1].name"),
        ("models", json!([{ "name": "echo-1" }, { "name": "echo-1" }]), "spec.models"),
        ("models", json!([{ "name": "echo-1", "fallbacks": ["x"] }]), "spec.models"),
        ("models", json!([{ "name": "echo-1", "fallbacks": ["echo-1"] }]), "spec.models"),
        ("models", json!([{ "name": "echo-1", "omit": ["stream"] }]), "spec.models[0].omit"),
        ("models", json!([{ "name": "echo-1", "omit": ["max_completion_tokens"] }]), "spec.models[0].omit"),
        ("models", json!([{ "name": "echo-1", "omit": ["a.b"] }]), "spec.models[0].omit"),
        ("models", json!([{ "name": "echo-1", "upstreamModel": "" }]), "spec.models[0].upstreamModel"),
        ("models", json!([{ "name": "echo-1", "maxOutputTokens": 0 }]), "spec.models[0].maxOutputTokens"),
        ("budget", json!({ "amount": "1", "period": "Day" }), "spec.budget"),
        ("budget", json!({ "amount": "0.0", "period": "Day" }), "spec.budget.amount"),
        ("budget", json!({ "amount": "1000000", "period": "Day" }), "spec.budget.amount"),
        ("timeouts", json!({ "connect": "9ms" }), "spec.timeouts.connect"),
        ("timeouts", json!({ "request": "25h" }), "spec.timeouts.request"),
        ("timeouts", json!({ "firstToken": "11m" }), "spec.timeouts"),
        ("timeouts", json!({ "idle": "3s", "request": "2s" }), "spec.timeouts"),
        ("retries", json!({ "maxAttempts": 0 }), "spec.retries.maxAttempts"),
        ("telemetry", json!({ "otlpEndpoint": "otel:4318" }), "spec.telemetry.otlpEndpoint"),
        ("telemetry", json!({ "otlpEndpoint": "http://otel.example.com" }), "spec.telemetry.otlpEndpoint"),
        ("conversations", json!({ "maxTokens": 99 }), "spec.conversations.maxTokens"),
        ("cache", json!({ "ttl": "1d" }), "spec.cache.ttl"),
        ("cache", json!({ "ttl": "721h" }), "spec.cache.ttl"),
        ("cache", json!({ "ttl": "1h", "memory": "1Ki" }), "spec.cache.memory"),
        ("conversations", json!({ "ttl": "1s" }), "spec.conversations.ttl"),
        ("conversations", json!({ "maxMessages": 1 }), "spec.conversations.maxMessages"),
        ("redis", json!({ "secretRef": { "name": "../x" } }), "spec.redis.secretRef.name"),
        ("replicas", json!(-1), "spec.replicas"),
        ("resources", json!({ "limits": { "memory": "lots" } }), "spec.resources.limits.memory"),
        ("service", json!({ "port": 0 }), "spec.service.port"),
    ] {
        let problems = check(&with(path, &value)).unwrap_err();
        let found: Vec<(&str, &str)> = problems.iter().map(|p| (p.reason, p.field.as_str())).collect();
        assert_eq!(found, [(reason::INVALID_SPEC, field)], "{value}");
    }
}

#[test]
fn urls_inside_the_cluster_may_be_plain_http() {
    for url in [
        "http://vllm:8000/v1",
        "http://vllm.models.svc:8000/v1",
        "http://vllm.models.svc.cluster.local/v1",
        "http://10.1.2.3/v1",
        "http://127.0.0.1:1/v1",
        "http://[::1]:1/v1",
        "http://[fd00::1]/v1",
        "https://[2001:db8::1]:443/v1",
        "https://example.com",
    ] {
        let cs = with("backend", &json!({ "openai": { "baseURL": url } }));
        assert!(check(&cs).is_ok(), "{url}");
    }
}

#[test]
fn every_problem_is_reported_at_once() {
    let mut cs = with("model", &json!(""));
    cs.spec.replicas = 5000;
    cs.metadata.name = Some("Demo.1".into());
    let fields: Vec<String> = check(&cs).unwrap_err().into_iter().map(|p| p.field).collect();
    assert_eq!(fields, ["metadata.name", "spec.model", "spec.replicas"]);
}

#[test]
fn an_image_of_another_repository_is_refused_with_what_is_allowed() {
    let problems = check(&with("image", &json!("evil.example.com/x:1"))).unwrap_err();
    assert_eq!(problems[0].reason, reason::IMAGE_NOT_ALLOWED);
    let message = problems[0].to_string();
    assert!(message.contains("registry.example.com/chatservice:*") && message.contains("Fix:"), "{message}");
    assert_eq!(
        check(&with("image", &json!("registry.example.com/chatservice:0.2.0"))).unwrap().image,
        "registry.example.com/chatservice:0.2.0"
    );
}

#[test]
fn a_foreign_object_with_a_childs_name_is_named() {
    let mut refs = References::default();
    let key = ChildKey { kind: "Service", name: "demo".into() };
    refs.insert(key, Holder::Foreign("nobody (no owner)".into()));
    let problems = validate(&service(&minimal()), &refs, &defaults()).unwrap_err();
    assert_eq!(problems[0].reason, reason::NAME_TAKEN);
    assert!(problems[0].to_string().starts_with("Service \"demo\" already exists"), "{}", problems[0]);
}
