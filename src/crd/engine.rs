//! The part of the `ChatService` API that is about the engine: models, limits, money, time. Types and schema only.
//! In: nothing. Out: the types both planes read. Every doc comment on a field is what `kubectl explain` shows.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::{
    AMOUNT_RULE, DURATION, MEMBERS_RULE, MODEL_NAME_RULE, NOT_OMITTED_RULE, PLAIN_HTTP_RULE, PRICE_RULE,
    TIMEOUTS_ORDER_RULE, UNIQUE_RULE, URL_RULE,
};
use super::v1alpha1::MODEL_NAME;

/// What a price must be.
const PRICE: &str = "must be USD as a decimal in quotes with at most six decimals, such as \"0.15\"";

/// A model that callers may ask for.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// What callers call it. Example: gpt-4o-mini.
    #[schemars(length(max = 128))]
    #[x_kube(validation = Rule::new(MODEL_NAME_RULE).message(MODEL_NAME))]
    pub name: String,
    /// What the backend calls it. Default: the same. Example: gpt-4.1-nano.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = Rule::new(MODEL_NAME_RULE).message(MODEL_NAME))]
    pub upstream_model: Option<String>,
    /// What its tokens cost. Default: the built-in list price where it is known, else costs are not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<ModelPrice>,
    /// Most tokens of an answer, 1 to 10,000,000. A budget needs it: it is reserved, and sent upstream where the request
    /// has no cap of its own. Default: not known. Example: 16384.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_output_tokens: Option<u32>,
    /// Names of models that are tried in this order when this one has no answer, at most 8. Default: none.
    /// Example: `[backup]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), inner(length(max = 128)))]
    #[x_kube(validation = Rule::new(UNIQUE_RULE).message("names a model twice: once is enough"))]
    pub fallbacks: Option<Vec<String>>,
    /// What the output cap is called in a request to the backend: max_tokens or max_completion_tokens. Default:
    /// max_completion_tokens for api.openai.com, else max_tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens_field: Option<MaxTokensField>,
    /// Members of a request that this model refuses and that are left out, at most 16. Default: none.
    /// Example: `[temperature]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(length(max = 64)))]
    #[x_kube(validation = Rule::new(MEMBERS_RULE).message(
        "must be names of members of a request: letters, digits and _, such as temperature"))]
    #[x_kube(validation = Rule::new(NOT_OMITTED_RULE).message(
        "must not name model, messages or stream, nor the output cap: maxTokensField says what that is called"))]
    pub omit: Option<Vec<String>>,
}

/// What a model's tokens cost.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelPrice {
    /// USD for a million tokens of the prompt, a decimal in quotes. Example: "0.15".
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new(PRICE_RULE).message(PRICE))]
    pub input_per_million_tokens: String,
    /// USD for a million tokens of the answer, a decimal in quotes. Example: "0.60".
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new(PRICE_RULE).message(PRICE))]
    pub output_per_million_tokens: String,
}

/// How much may be asked. At least one of requestsPerMinute, tokensPerMinute and concurrentRequests.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "has(self.requestsPerMinute) || has(self.tokensPerMinute) || has(self.concurrentRequests)").message(
    "set at least one of requestsPerMinute, tokensPerMinute and concurrentRequests, or leave rateLimits out for no limit"))]
#[x_kube(validation = Rule::new("!has(self.burst) || has(self.requestsPerMinute)").message(
    "burst needs requestsPerMinute: set it too, or take burst out"))]
pub struct RateLimits {
    /// Requests in a minute, evenly refilled (GCRA), 1 to 1,000,000. Default: not limited. Example: 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_per_minute: Option<u32>,
    /// Requests that may come at once, 1 to 100,000. Default: the smaller of requestsPerMinute and 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub burst: Option<u32>,
    /// Tokens in a minute, prompt and answer: a bucket of that size that refills evenly, 1 to 1,000,000,000. A request
    /// reserves an estimate and pays what it used. Default: not limited. Example: 100000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub tokens_per_minute: Option<u32>,
    /// Requests being answered at the same time, streams too, 1 to 100,000. Default: not limited. Example: 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub concurrent_requests: Option<u32>,
    /// Who has these limits: each Caller its own, or all callers of the Service one together. Default: Caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<Per>,
    /// What holds while Redis is away: Local (each pod keeps its share of the limit), Open (nothing is limited) or
    /// Closed (nothing is admitted). Default: Local.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_store_failure: Option<OnStoreFailure>,
    /// Enforce, or Shadow: what would be refused is counted in chat_rate_limited_total and served. Default: Enforce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<LimitMode>,
}

/// How much money may be spent.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// USD that may be spent in a period, a decimal in quotes, above 0 and below 1,000,000. Example: "25.00".
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new(AMOUNT_RULE).message(
        "must be USD as a decimal in quotes, above 0, below 1000000 and with at most six decimals, such as \"25.00\""))]
    pub amount: String,
    /// Day, Week (from Monday) or Month of the calendar in UTC.
    pub period: BudgetPeriod,
    /// Who has it: each Caller its own, which needs auth, or all callers of the Service one together. Default: Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<Per>,
}

/// How long each part of a call to the backend may take. Durations such as 500ms, 90s or 10m.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(TIMEOUTS_ORDER_RULE).message(
    "connect, firstToken and idle must be at most request, which is 10m when it is left out: lower them or raise request"))]
pub struct Timeouts {
    /// Name resolution, TCP and TLS together, 10ms to 1m. Default: 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(format!("{DURATION} && duration(self) >= duration('10ms') && duration(self) <= duration('1m')")).message(
        "must be a duration from 10ms to 1m, such as 1s"))]
    pub connect: Option<String>,
    /// Streams: from the call to the first event, 1s to 1h. Default: 120s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(format!("{DURATION} && duration(self) >= duration('1s') && duration(self) <= duration('1h')")).message(
        "must be a duration from 1s to 1h, such as 120s"))]
    pub first_token: Option<String>,
    /// Streams: from one event to the next, 1s to 1h; a client that reads slowly does not count. Default: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(format!("{DURATION} && duration(self) >= duration('1s') && duration(self) <= duration('1h')")).message(
        "must be a duration from 1s to 1h, such as 60s"))]
    pub idle: Option<String>,
    /// The whole request, all attempts and the stream together, 1s to 24h. Default: 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(format!("{DURATION} && duration(self) >= duration('1s') && duration(self) <= duration('24h')")).message(
        "must be a duration from 1s to 24h, such as 10m"))]
    pub request: Option<String>,
}

/// How often a call to the backend is tried.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retries {
    /// Calls made for one request at most, the first one counted, 1 to 10; only before the first byte of an answer.
    /// Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub max_attempts: Option<u32>,
}

/// Traces.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Telemetry {
    /// The URL of an OTLP receiver over HTTP; /v1/traces is added to it. Default: no traces. Example:
    /// http://otel-collector.observability.svc:4318. Plain http only to loopback, private addresses and names inside the
    /// cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = Rule::new(format!("self == '' || {URL_RULE}")).message(
        "must be http(s)://host[:port][/path] without user, query or fragment, such as http://otel-collector.observability.svc:4318, or be left out for no traces"))]
    #[x_kube(validation = Rule::new(PLAIN_HTTP_RULE).message(
        "plain http is only allowed to loopback, private addresses and cluster-local names (*.svc, *.local, *.internal or a name without dots): write https://"))]
    pub otlp_endpoint: Option<String>,
}

/// What an output cap is called in a request to a backend.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxTokensField {
    /// The old name, which OpenAI's newer models refuse.
    MaxTokens,
    /// The new name, which most other servers do not know.
    MaxCompletionTokens,
}

impl MaxTokensField {
    /// As in a request.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
        }
    }
}

/// Who has a limit.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Per {
    /// Each caller has its own.
    #[default]
    Caller,
    /// All callers share one.
    Service,
}

/// What holds while Redis is away.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnStoreFailure {
    /// Each pod keeps its own share of the limit.
    #[default]
    Local,
    /// Nothing is limited.
    Open,
    /// Nothing is admitted.
    Closed,
}

/// Whether limits are enforced.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LimitMode {
    /// What is over a limit is refused.
    #[default]
    Enforce,
    /// What would be refused is counted and served.
    Shadow,
}

/// A period of the calendar in UTC.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BudgetPeriod {
    /// From midnight to midnight.
    Day,
    /// From Monday.
    Week,
    /// From the first of the month.
    Month,
}
