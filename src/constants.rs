//! Every string and number that is a contract: with the API server, with the chart, with dashboards, or between
//! the two planes. Code and tests use these; nothing spells them again.

/// API group of the custom resource.
pub const GROUP: &str = "chatservice.dev";
/// Its only version so far.
pub const VERSION: &str = "v1alpha1";
/// `Kind` of the custom resource.
pub const KIND: &str = "ChatService";
/// Longest name of a ChatService: children's names, labels and Services (63) must still fit their suffixes.
pub const NAME_MAX: usize = 52;

/// Field managers of server-side apply. Never renamed: a new name would orphan every field that the old one owns.
pub mod field_manager {
    /// Owns every field of the children but the Deployment's `spec.replicas`.
    pub const CONTROLLER: &str = "chatservice-controller";
    /// Owns the Deployment's `spec.replicas` alone, so that an autoscaler can take it over.
    pub const REPLICAS: &str = "chatservice-controller-replicas";
    /// Owns the status of the ChatService.
    pub const STATUS: &str = "chatservice-controller-status";
    /// With a suffix for each run: owns a Secret that `init-secret` made.
    pub const INIT_SECRET: &str = "chatservice-init-secret";
}

/// Recommended labels, on every child.
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/>
pub mod label {
    /// `chatservice`. With [`INSTANCE`] the frozen selector.
    pub const NAME: &str = "app.kubernetes.io/name";
    /// The ChatService's name. With [`NAME`] the frozen selector.
    pub const INSTANCE: &str = "app.kubernetes.io/instance";
    /// What the child is for.
    pub const COMPONENT: &str = "app.kubernetes.io/component";
    /// The larger whole.
    pub const PART_OF: &str = "app.kubernetes.io/part-of";
    /// Marks what the controller watches and may remove.
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    /// Kubernetes' own, on every namespace: its name.
    pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

    /// Value of [`NAME`] and [`PART_OF`].
    pub const NAME_VALUE: &str = "chatservice";
    /// Value of [`MANAGED_BY`].
    pub const MANAGED_BY_VALUE: &str = "chatservice-controller";
    /// Value of [`COMPONENT`] of all children.
    pub const COMPONENT_VALUE: &str = "server";
}

/// Annotations.
pub mod annotation {
    /// On the pod template: the hash of the static part of the configuration; a change rolls the pods.
    pub const CONFIG_HASH: &str = "chatservice.dev/config-hash";
    /// On the ChatService, `"true"`: nothing is written until it is removed.
    pub const PAUSED: &str = "chatservice.dev/paused";
    /// On the ChatService, any value, such as a time; copied to the pod template, so that another value replaces the pods.
    pub const RESTARTED_AT: &str = "chatservice.dev/restartedAt";
    /// On a pod, `<config hash>.<attempt>`: its change makes the kubelet look at the pod, and so at its mounts, at once.
    pub const TOUCHED: &str = "chatservice.dev/touched";
}

/// Condition types of a ChatService. Polarity and meaning follow kstatus.
pub mod condition {
    /// Enough pods serve at the desired generation. Always present.
    pub const READY: &str = "Ready";
    /// Work is in progress. Present only while true.
    pub const RECONCILING: &str = "Reconciling";
    /// Only a new spec helps. Present only while true.
    pub const STALLED: &str = "Stalled";
    /// Every ready pod runs the current configuration.
    pub const CONFIG_APPLIED: &str = "ConfigApplied";
    /// What the pods' own calls to the backend have met.
    pub const BACKEND_REACHABLE: &str = "BackendReachable";
    /// Limits, cache and conversations hold across pods.
    pub const STATE_SHARED: &str = "StateShared";
    /// Mirrors the HorizontalPodAutoscaler.
    pub const AUTOSCALING_READY: &str = "AutoscalingReady";
}

/// Condition reasons: a stable API, also the reasons of events and of the servers' `/status`.
pub mod reason {
    /// `Ready`: all wanted pods are ready.
    pub const AVAILABLE: &str = "Available";
    /// `Ready`: pods are on their way, nothing is known to be wrong.
    pub const PROGRESSING: &str = "Progressing";
    /// `Ready`: fewer pods than wanted are ready, and no other reason fits: nothing says why, a container is not started,
    /// or something but a quota refuses the pods.
    pub const MINIMUM_REPLICAS_UNAVAILABLE: &str = "MinimumReplicasUnavailable";
    /// A Secret that the spec names does not exist (its mount is empty).
    pub const SECRET_NOT_FOUND: &str = "SecretNotFound";
    /// A Secret exists without the key that is needed.
    pub const SECRET_KEY_MISSING: &str = "SecretKeyMissing";
    /// A ConfigMap that the spec names does not exist (its mount is empty).
    pub const CONFIG_MAP_NOT_FOUND: &str = "ConfigMapNotFound";
    /// A ConfigMap exists without the key that is needed, or the key's value cannot be used.
    pub const CONFIG_MAP_KEY_MISSING: &str = "ConfigMapKeyMissing";
    /// The Secret does not allow its key to be sent to the host of `baseURL`.
    pub const CREDENTIAL_HOST_MISMATCH: &str = "CredentialHostMismatch";
    /// The kubelet cannot pull the image.
    pub const IMAGE_PULL_FAILED: &str = "ImagePullFailed";
    /// A container starts and dies again.
    pub const CRASH_LOOPING: &str = "CrashLooping";
    /// The scheduler finds no node.
    pub const UNSCHEDULABLE: &str = "Unschedulable";
    /// A ResourceQuota leaves no room for the pods or another child.
    pub const QUOTA_EXCEEDED: &str = "QuotaExceeded";
    /// The spec says something that cannot be done.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// `spec.image` does not match the operator's `--allowed-images`.
    pub const IMAGE_NOT_ALLOWED: &str = "ImageNotAllowed";
    /// The API server refuses a change because the field cannot change.
    pub const FIELD_IMMUTABLE: &str = "FieldImmutable";
    /// An object that is not ours has the name of a child.
    pub const NAME_TAKEN: &str = "NameTaken";
    /// The API server refuses the operator a permission, or a policy of the cluster refuses an object.
    pub const FORBIDDEN: &str = "Forbidden";
    /// The paused annotation is set.
    pub const PAUSED: &str = "Paused";
    /// The Deployment made no progress for its deadline.
    pub const PROGRESS_DEADLINE_EXCEEDED: &str = "ProgressDeadlineExceeded";
    /// `Reconciling`: pods of a new template replace the old ones.
    pub const ROLLING_OUT: &str = "RollingOut";
    /// `Reconciling`: pods are added or removed.
    pub const SCALING: &str = "ScalingUp";
    /// `Reconciling`: a ready pod is not known to run the current configuration yet.
    pub const CONFIG_PROPAGATING: &str = "ConfigPropagating";
    /// `ConfigApplied`: every ready pod says that it runs it.
    pub const APPLIED: &str = "Applied";
    /// `ConfigApplied`: it is on its way to some.
    pub const PROPAGATING: &str = "Propagating";
    /// `ConfigApplied`: a pod refuses it and keeps its last good one.
    pub const REJECTED: &str = "Rejected";
    /// `ConfigApplied`: pods have not answered the operator for two minutes.
    pub const PODS_UNREACHABLE: &str = "PodsUnreachable";
    /// `BackendReachable`: calls of a pod are answered.
    pub const REACHABLE: &str = "Reachable";
    /// `BackendReachable`: the breaker of every pod that made calls is open.
    pub const BACKEND_UNREACHABLE: &str = "BackendUnreachable";
    /// `BackendReachable`, `StateShared`: no pod has asked yet.
    pub const NOT_OBSERVED: &str = "NotObserved";
    /// `StateShared`: in Redis.
    pub const REDIS: &str = "Redis";
    /// `StateShared`: there is one pod, which shares with nobody.
    pub const SINGLE_POD: &str = "SinglePod";
    /// `StateShared`: several pods and no Redis.
    pub const PER_POD: &str = "PerPod";
    /// `StateShared`: a pod has lost Redis.
    pub const REDIS_UNREACHABLE: &str = "RedisUnreachable";
    /// `AutoscalingReady`: the autoscaler has metrics and acts on them.
    pub const SCALING_ACTIVE: &str = "ScalingActive";
    /// `AutoscalingReady`: the autoscaler cannot get its metrics, or cannot scale.
    pub const METRICS_UNAVAILABLE: &str = "MetricsUnavailable";
    /// `AutoscalingReady`: another autoscaler sets the same number.
    pub const CONFLICTING_AUTOSCALER: &str = "ConflictingAutoscaler";
    /// `AutoscalingReady`: the number of pods is fixed.
    pub const DISABLED: &str = "Disabled";
}

/// Ports.
pub mod port {
    /// Where the chat server listens inside its pod, and the default of `spec.service.port`.
    pub const HTTP: u16 = 8080;
    /// The admin listener of both planes.
    pub const ADMIN: u16 = 9090;
    /// Name of the first in Services and pods.
    pub const HTTP_NAME: &str = "http";
    /// Name of the second.
    pub const ADMIN_NAME: &str = "admin";
}

/// Paths that are part of an API.
pub mod path {
    /// Prometheus metrics (admin listener).
    pub const METRICS: &str = "/metrics";
    /// Alive (admin listener).
    pub const LIVEZ: &str = "/livez";
    /// Ready to serve (admin listener).
    pub const READYZ: &str = "/readyz";
    /// What runs and what is wrong, as [`crate::admin::ServerStatus`] (admin listener of a server).
    pub const STATUS: &str = "/status";

    /// Swagger UI.
    pub const DOCS: &str = "/docs";
    /// A reference page, which leads to Swagger UI.
    pub const REDOC: &str = "/redoc";
    /// A chat page for people.
    pub const PLAYGROUND: &str = "/playground";
    /// The OpenAPI document.
    pub const OPENAPI: &str = "/openapi.json";
    /// Simple dialect: one answer.
    pub const CHAT: &str = "/api/v1/chat";
    /// Behind the URL of an OTLP receiver.
    pub const OTLP_TRACES: &str = "/v1/traces";
    /// Everything under it speaks the OpenAI dialect, errors included.
    pub const OPENAI_PREFIX: &str = "/v1/";
}

/// Where a server pod finds its files.
pub mod mount {
    /// What all of them are in.
    pub const DIR: &str = "/etc/chatservice";
    /// Directory of the `<name>-config` ConfigMap.
    pub const CONFIG_DIR: &str = "/etc/chatservice/config";
    /// The data key in that ConfigMap, and so the file in the directory.
    pub const CONFIG_FILE: &str = "config.json";
    /// Directory of the Secret that `spec.backend.openai.credentialsSecretRef` names.
    pub const CREDENTIALS_DIR: &str = "/etc/chatservice/secrets/credentials";
    /// Directory of the Secret that `spec.redis.secretRef` names.
    pub const REDIS_DIR: &str = "/etc/chatservice/secrets/redis";
    /// Directory of the Secret that `spec.auth.apiKeysSecretRef` names.
    pub const API_KEYS_DIR: &str = "/etc/chatservice/secrets/api-keys";
    /// Directory of the Secret that `spec.service.tls.secretRef` names.
    pub const TLS_DIR: &str = "/etc/chatservice/secrets/tls";
    /// Directory of the ConfigMap that `spec.backend.openai.caBundleConfigMapRef` names.
    pub const CA_DIR: &str = "/etc/chatservice/ca";
    /// The data key in that ConfigMap: certificates in PEM.
    pub const CA_FILE: &str = "ca.crt";
}

/// Data keys of the Secrets that a ChatService names.
pub mod secret_key {
    /// The backend's key.
    pub const API_KEY: &str = "api-key";
    /// Comma-separated hosts that the key may be sent to; absent: `api.openai.com` alone.
    pub const ALLOWED_HOSTS: &str = "allowed-hosts";
    /// A whole Redis URL.
    pub const REDIS_URL: &str = "url";
    /// Or its parts: host name or address.
    pub const REDIS_HOST: &str = "host";
    /// Port, 6379 when absent.
    pub const REDIS_PORT: &str = "port";
    /// ACL user, absent for the default user.
    pub const REDIS_USERNAME: &str = "username";
    /// Password.
    pub const REDIS_PASSWORD: &str = "password";
    /// For Redis alone: its file of users, with the password's hash.
    pub const REDIS_USERS: &str = "users.acl";
    /// The certificates that may sign Redis', in PEM; absent: the system's.
    pub const REDIS_CA: &str = "ca.crt";
    /// The server's own certificate for Redis, in PEM.
    pub const REDIS_CERTIFICATE: &str = "tls.crt";
    /// Its key, in PEM.
    pub const REDIS_KEY: &str = "tls.key";
    /// The API's own certificate and what leads from it to its root, in PEM.
    pub const TLS_CERTIFICATE: &str = "tls.crt";
    /// Its key, in PEM.
    pub const TLS_KEY: &str = "tls.key";
}

/// The host that a key may be sent to when its owner names none.
pub const DEFAULT_ALLOWED_HOST: &str = "api.openai.com";

/// The operator's Lease, where it is given no other name.
pub const LEASE: &str = "chatservice-controller";

/// Environment variables.
pub mod env {
    /// The image of the servers whose ChatService names none.
    pub const SERVER_IMAGE: &str = "CHATSERVICE_SERVER_IMAGE";
    /// The operator's `--watch-namespaces`.
    pub const WATCH_NAMESPACES: &str = "CHATSERVICE_WATCH_NAMESPACES";
    /// The operator's `--max-concurrent-rollouts`.
    pub const MAX_CONCURRENT_ROLLOUTS: &str = "CHATSERVICE_MAX_CONCURRENT_ROLLOUTS";
    /// The operator's `--allowed-images`.
    pub const ALLOWED_IMAGES: &str = "CHATSERVICE_ALLOWED_IMAGES";
    /// The operator's `--operator-labels`.
    pub const OPERATOR_LABELS: &str = "CHATSERVICE_OPERATOR_LABELS";
    /// The operator's `--log-level`.
    pub const LOG_LEVEL: &str = "CHATSERVICE_LOG_LEVEL";
    /// The operator's `--log-format`.
    pub const LOG_FORMAT: &str = "CHATSERVICE_LOG_FORMAT";
    /// The operator's `--lease-name`.
    pub const LEASE_NAME: &str = "CHATSERVICE_LEASE_NAME";
    /// The operator's `--lease-namespace`: that of its pod.
    pub const POD_NAMESPACE: &str = "POD_NAMESPACE";
    /// The operator's `--identity`: the name of its pod.
    pub const POD_NAME: &str = "POD_NAME";
    /// Outside a cluster: the backend's key.
    pub const OPENAI_API_KEY: &str = "OPENAI_API_KEY";
    /// Outside a cluster: the backend's base URL.
    pub const OPENAI_BASE_URL: &str = "OPENAI_BASE_URL";
    /// Outside a cluster: the default model.
    pub const OPENAI_MODEL: &str = "OPENAI_MODEL";
    /// Outside a cluster: the store.
    pub const REDIS_URL: &str = "REDIS_URL";
    /// Outside a cluster: the callers' API keys, `name=key,...`.
    pub const API_KEYS: &str = "CHATSERVICE_API_KEYS";
    /// Outside a cluster: requests a window, and the burst.
    pub const RATE_LIMIT_REQUESTS: &str = "RATE_LIMIT_REQUESTS";
    /// Outside a cluster: the window in seconds.
    pub const RATE_LIMIT_WINDOW: &str = "RATE_LIMIT_WINDOW";
    /// Base URL in `<name>-connection`, for apps' `envFrom`: the SDKs read it.
    pub const CONNECTION_BASE_URL: &str = OPENAI_BASE_URL;
}

/// What a process waits for before it is ready, as `/readyz` names it.
pub mod readiness {
    /// Operator: a CustomResourceDefinition that has every field of this version.
    pub const CRD: &str = "crd";
    /// Operator: the Lease, or the knowledge that another process has it.
    pub const LEASE: &str = "lease";
    /// Operator: complete lists of everything that is watched.
    pub const WATCHES: &str = "watches";
    /// Operator: the permission to write statuses.
    pub const STATUS_PERMISSION: &str = "permission to patch chatservices.chatservice.dev/status";
    /// Operator: the permission to publish events.
    pub const EVENTS_PERMISSION: &str = "permission to create and patch events.events.k8s.io";
    /// Operator: the permission to watch ChatServices.
    pub const WATCH_PERMISSION: &str = "permission to list and watch chatservices.chatservice.dev";
    /// A running configuration with every Secret that it names, once.
    pub const CREDENTIALS: &str = "credentials";
}

/// How a server pod ends.
pub mod drain {
    use std::time::Duration;

    /// From SIGTERM to SIGKILL, where `spec.pod.terminationGracePeriodSeconds` says nothing.
    pub const DEFAULT_GRACE_SECONDS: u32 = 60;
    /// From SIGTERM on, how long connections are still accepted: endpoints and proxies learn late.
    pub const MINIMUM: Duration = Duration::from_secs(10);
}

/// Every Redis key begins with this.
pub const REDIS_KEY_PREFIX: &str = "chatservice:";

/// Response headers of ours. `x-request-id`, `retry-after` and the like are OpenAI's or HTTP's names.
pub mod header {
    use http::HeaderName;

    /// The request's id, a client's own where it is sane.
    pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
    /// Simple dialect, streamed: the conversation.
    pub const CONVERSATION_ID: HeaderName = HeaderName::from_static("x-conversation-id");
    /// The id that the backend gave the call.
    pub const UPSTREAM_REQUEST_ID: HeaderName = HeaderName::from_static("x-upstream-request-id");
    /// `hit`, `miss`, `coalesced` or `bypass`.
    pub const CACHE: HeaderName = HeaderName::from_static("x-chat-cache");
    /// USD of this answer, as a decimal.
    pub const COST: HeaderName = HeaderName::from_static("x-chat-cost-usd");
    /// Seconds spent on the request.
    pub const PROCESS_TIME: HeaderName = HeaderName::from_static("x-process-time");
    /// Milliseconds spent on the request, as OpenAI names it.
    pub const OPENAI_PROCESSING_MS: HeaderName = HeaderName::from_static("openai-processing-ms");
    /// `false` tells the SDKs not to try again.
    pub const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
    /// Requests a minute.
    pub const LIMIT_REQUESTS: HeaderName = HeaderName::from_static("x-ratelimit-limit-requests");
    /// Requests admissible now.
    pub const REMAINING_REQUESTS: HeaderName = HeaderName::from_static("x-ratelimit-remaining-requests");
    /// Time until the bucket is full, as `6m0s`.
    pub const RESET_REQUESTS: HeaderName = HeaderName::from_static("x-ratelimit-reset-requests");
    /// Tokens a minute.
    pub const LIMIT_TOKENS: HeaderName = HeaderName::from_static("x-ratelimit-limit-tokens");
    /// Tokens that could be reserved now.
    pub const REMAINING_TOKENS: HeaderName = HeaderName::from_static("x-ratelimit-remaining-tokens");
    /// Time until the bucket of tokens is full, as `6m0s`.
    pub const RESET_TOKENS: HeaderName = HeaderName::from_static("x-ratelimit-reset-tokens");
    /// How often an SDK has sent this request before.
    pub const CLIENT_RETRY_COUNT: HeaderName = HeaderName::from_static("x-stainless-retry-count");
    /// W3C Trace Context: which trace a request belongs to.
    pub const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
    /// `retry-after` in milliseconds.
    pub const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
}

/// Attributes of spans: OpenTelemetry's names.
pub mod trace {
    /// Method of the request.
    pub const METHOD: &str = "http.request.method";
    /// Its path, as the router has it.
    pub const ROUTE: &str = "http.route";
    /// Status of the response.
    pub const STATUS: &str = "http.response.status_code";
    /// What went wrong, from a closed set of words.
    pub const ERROR: &str = "error.type";
    /// What is done: `chat` or `embeddings`.
    pub const OPERATION: &str = "gen_ai.operation.name";
    /// `openai` or `echo`.
    pub const PROVIDER: &str = "gen_ai.provider.name";
    /// The same under its older name.
    pub const SYSTEM: &str = "gen_ai.system";
    /// The model that is asked.
    pub const REQUEST_MODEL: &str = "gen_ai.request.model";
    /// The model that answered: it, or a fallback of it.
    pub const RESPONSE_MODEL: &str = "gen_ai.response.model";
    /// Tokens of the prompt.
    pub const INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
    /// Tokens of the answer.
    pub const OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
    /// Why the answer ended.
    pub const FINISH_REASONS: &str = "gen_ai.response.finish_reasons";
}

/// Metric names of both planes.
pub mod metric {
    /// Counter: requests answered. Labels `method`, `endpoint`, `status`.
    pub const HTTP_REQUESTS: &str = "http_requests_total";
    /// Histogram, seconds. Labels `method`, `endpoint`.
    pub const HTTP_DURATION: &str = "http_request_duration_seconds";
    /// Counter: calls to the backend. Labels `model`, `status`.
    pub const BACKEND_CALLS: &str = "openai_api_calls_total";
    /// Counter: tokens, prompt and completion. Label `model`.
    pub const TOKENS_USED: &str = "openai_tokens_used_total";
    /// Gauge: requests being answered.
    pub const IN_FLIGHT: &str = "chat_requests_in_flight";
    /// Gauge: streams open.
    pub const STREAMS_ACTIVE: &str = "chat_streams_active";
    /// Histogram, seconds from the request to the first delta.
    pub const TIME_TO_FIRST_TOKEN: &str = "chat_time_to_first_token_seconds";
    /// Counter, USD. Labels `model`, `caller`.
    pub const COST: &str = "chat_cost_usd_total";
    /// Counter: tokens. Labels `model`, `caller`, `kind`: `prompt`, `completion`.
    pub const TOKENS: &str = "chat_tokens_total";
    /// Counter: requests that an SDK sent again, as its `x-stainless-retry-count` says. Label `retry`: `1`, `2`, `3` or more.
    pub const CLIENT_RETRIES: &str = "chat_client_retries_total";
    /// Counter. Label `reason`.
    pub const BACKEND_RETRIES: &str = "chat_backend_retries_total";
    /// Gauge: 0 closed, 1 half open, 2 open. Label `model`.
    pub const BACKEND_BREAKER_STATE: &str = "chat_backend_breaker_state";
    /// Gauge: 1 for the mode that is in force. Label `mode`: `shared`, `local`, `open`, `closed`.
    pub const STORE_MODE: &str = "chat_store_mode";
    /// Counter. Label `result`: `applied`, `rejected`.
    pub const CONFIG_RELOADS: &str = "chat_config_reload_total";
    /// Gauge: spent part of a budget. Label `caller`.
    pub const BUDGET_USED_RATIO: &str = "chat_budget_used_ratio";
    /// Counter, USD that answers of the cache would have cost.
    pub const CACHE_SAVED_USD: &str = "chat_cache_saved_usd_total";
    /// Counter. Label `result`: `hit`, `miss`, `coalesced`, `bypass`.
    pub const CACHE_REQUESTS: &str = "chat_cache_requests_total";
    /// Counter: requests refused. Label `limit`: `requests`, `tokens`, `concurrency`, `budget`; with `_shadow` behind it
    /// those that only would have been.
    pub const RATE_LIMITED: &str = "chat_rate_limited_total";
    /// Counter: requests whose sender did not prove to be a caller. Label `reason`.
    pub const AUTH_FAILURES: &str = "chat_auth_failures_total";
    /// Counter. Label `op`.
    pub const STORE_ERRORS: &str = "chat_store_errors_total";
    /// Gauge: generation of the ChatService whose configuration runs.
    pub const CONFIG_GENERATION: &str = "chat_config_generation";
    /// Gauge, always 1. Label `version`.
    pub const BUILD_INFO: &str = "chatservice_build_info";

    /// Gauge of the operator: seconds since it last read the keys that ServiceAccount tokens are signed with.
    pub const JWKS_AGE: &str = "chat_jwks_age_seconds";
    /// Counter. Label `outcome`: `success`, `failure`.
    pub const RECONCILES: &str = "chatservice_controller_reconcile_total";
    /// Histogram, seconds.
    pub const RECONCILE_DURATION: &str = "chatservice_controller_reconcile_duration_seconds";
    /// Counter. Label `reason`.
    pub const RECONCILE_ERRORS: &str = "chatservice_controller_reconcile_errors_total";
    /// Gauge: objects by two conditions. Labels `ready`: `True`, `False`; `config_applied`: `True`, `False`, `Unknown`.
    pub const OBJECTS: &str = "chatservice_controller_objects";
    /// Gauge: seconds that the object that has been unready longest has been so; 0 when all are ready.
    pub const UNREADY: &str = "chatservice_controller_unready_seconds";
    /// Gauge: seconds that the ready object that waits longest for its configuration has waited; 0 when none waits.
    pub const CONFIG_WAITING: &str = "chatservice_controller_config_waiting_seconds";
    /// Gauge: objects that wait after a failure.
    pub const IN_BACKOFF: &str = "chatservice_controller_objects_in_backoff";
    /// Gauge: objects of which something changed and whose reconcile has not begun.
    pub const QUEUE_DEPTH: &str = "chatservice_controller_queue_depth";
    /// Gauge: 1 while this process holds the Lease, else 0.
    pub const LEADER: &str = "chatservice_controller_leader";
    /// Counter: requests to the API server. Labels `verb`, `resource`, `code`; the code is `none` without an answer.
    pub const API_REQUESTS: &str = "chatservice_controller_api_requests_total";
}
