//! The part of the `ChatService` API that is about callers: who they are, how they prove it, what is theirs. Types and
//! schema only. In: nothing. Out: the types both planes read. Every doc comment on a field is what `kubectl explain` shows.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::engine::BudgetPeriod;
use super::rules::{
    ACCOUNT_NAME_RULE, AMOUNT_RULE, AUDIENCE_RULE, CALLER_NAME_RULE, CALLERS_UNIQUE_RULE, NAMESPACE_RULE,
};
use super::v1alpha1::SecretRef;

/// How callers prove who they are: by API keys, by tokens of Kubernetes ServiceAccounts, or by either. What they ask
/// for is then theirs: limits, conversations, cached answers.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.apiKeysSecretRef) || has(self.serviceAccounts)").message(
    "set apiKeysSecretRef, serviceAccounts or both, or leave auth out to let everybody ask"))]
pub struct Auth {
    /// The Secret with the API keys: each data key is the name of a caller, its value that caller's key, or `sha256:` and
    /// the hex digits of the key's SHA-256; several keys stand on a line each. It is read again when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_keys_secret_ref: Option<SecretRef>,
    /// Whose ServiceAccount tokens are accepted, without any key: pods send the token that Kubernetes gives them.
    /// Default: nobody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_accounts: Option<ServiceAccounts>,
    /// Callers with limits or a budget of their own, at most 100; they have a name in metrics too. Others have those of
    /// the spec. Example: `[{name: mobile, rateLimits: {requestsPerMinute: 600}}]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[x_kube(validation = Rule::new(CALLERS_UNIQUE_RULE).message("two callers have the same name: write each once"))]
    pub callers: Option<Vec<CallerTerms>>,
}

/// Whose tokens are accepted.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccounts {
    /// The audience that a token must be made for. Default: chatservice.dev/NAMESPACE/NAME of this ChatService. One that
    /// is shared with another service lets that service use the tokens that it is sent here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    #[x_kube(validation = Rule::new(AUDIENCE_RULE).message(
        "must be visible ASCII without blanks, such as chatservice.dev/chat/demo, or be left out for the default"))]
    pub audience: Option<String>,
    /// The ServiceAccounts that may ask, 1 to 256. Example: `[{namespace: shop, name: web}]`.
    #[schemars(length(min = 1, max = 256))]
    pub allowed: Vec<AllowedAccount>,
}

/// A ServiceAccount that may ask. As a caller it is called `namespace/name`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AllowedAccount {
    /// Its namespace, such as shop.
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new(NAMESPACE_RULE).message(
        "must be the name of a namespace: lower-case letters, digits and '-', such as shop"))]
    pub namespace: String,
    /// Its name, such as web.
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new(ACCOUNT_NAME_RULE).message(
        "must be the name of a ServiceAccount: lower-case letters, digits, '-' and '.', such as web"))]
    pub name: String,
}

/// What a caller has of its own.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallerTerms {
    /// Who: a data key of the Secret with the API keys, or NAMESPACE/NAME of a ServiceAccount. Example: mobile.
    #[schemars(length(max = 317))]
    #[x_kube(validation = Rule::new(CALLER_NAME_RULE).message(
        "must be a data key of the Secret with the API keys, such as mobile, or NAMESPACE/NAME of a ServiceAccount, such as shop/web"))]
    pub name: String,
    /// Limits of its own, apart from everybody else's. What is left out is as in spec.rateLimits. Default: spec.rateLimits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limits: Option<CallerRateLimits>,
    /// A budget of its own, in place of spec.budget. Default: spec.budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<CallerBudget>,
}

/// Limits of one caller. At least one of requestsPerMinute, tokensPerMinute and concurrentRequests.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "has(self.requestsPerMinute) || has(self.tokensPerMinute) || has(self.concurrentRequests)").message(
    "set at least one of requestsPerMinute, tokensPerMinute and concurrentRequests, or leave rateLimits out for those of the spec"))]
#[x_kube(validation = Rule::new("!has(self.burst) || has(self.requestsPerMinute)").message(
    "burst needs requestsPerMinute: set it too, or take burst out"))]
pub struct CallerRateLimits {
    /// Requests in a minute, 1 to 1,000,000. Default: as in spec.rateLimits. Example: 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_per_minute: Option<u32>,
    /// Requests that may come at once, 1 to 100,000. Default: the smaller of requestsPerMinute and 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub burst: Option<u32>,
    /// Tokens in a minute, 1 to 1,000,000,000. Default: as in spec.rateLimits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub tokens_per_minute: Option<u32>,
    /// Requests being answered at the same time, 1 to 100,000. Default: as in spec.rateLimits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub concurrent_requests: Option<u32>,
}

/// How much money one caller may spend.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallerBudget {
    /// USD that it may spend in a period, a decimal in quotes, above 0 and below 1,000,000. Example: "100.00".
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new(AMOUNT_RULE).message(
        "must be USD as a decimal in quotes, above 0, below 1000000 and with at most six decimals, such as \"25.00\""))]
    pub amount: String,
    /// Day, Week (from Monday) or Month of the calendar in UTC.
    pub period: BudgetPeriod,
}

/// Whose equal requests are answered from the cache.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheScope {
    /// A caller's own. Where the service is open there is one scope: addresses are no identities.
    #[default]
    Caller,
    /// Everybody's.
    Service,
}

impl CacheScope {
    /// For serde: the default is left out of the servers' configuration.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
