//! The part of `validate` that is about callers. In: `spec.auth` and `spec.trustedProxies`. Out: what servers are told of
//! them, with every problem pushed to [`Checks`]. Pure. The sentences are those of the schema's rules.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::check::Checks;
use super::configure::DEFAULT_BURST;
use crate::constants::GROUP;
use crate::crd::{AllowedAccount, CallerRateLimits, CallerTerms, ChatService, Per, ServiceAccounts};
use crate::server::config::{
    AuthConfig, BudgetConfig, CallerConfig, LimitsConfig, RequestLimit, ServiceAccountsConfig, TokenIssuer,
};

/// Callers with something of their own at most.
const CALLERS_MAX: usize = 100;
/// ServiceAccounts at most.
const ACCOUNTS_MAX: usize = 256;
/// Longest audience.
const AUDIENCE_MAX: usize = 256;
/// Proxies at most.
const PROXIES_MAX: usize = 64;

/// The name of the Secret with API keys.
pub(super) fn api_keys_secret(cs: &ChatService, checks: &mut Checks) -> Option<String> {
    let name = cs.spec.auth.as_ref()?.api_keys_secret_ref.as_ref()?.name.clone();
    checks.object_name("spec.auth.apiKeysSecretRef.name", "Secret", &name);
    Some(name)
}

/// How callers prove who they are. `limits` are those of everybody.
pub(super) fn auth(
    cs: &ChatService,
    issuer: Option<&TokenIssuer>,
    limits: &LimitsConfig,
    checks: &mut Checks,
) -> Option<AuthConfig> {
    let given = cs.spec.auth.as_ref()?;
    if given.api_keys_secret_ref.is_none() && given.service_accounts.is_none() {
        checks.push(
            "spec.auth",
            "set apiKeysSecretRef, serviceAccounts or both, or leave auth out to let everybody ask",
        );
    }
    let service_accounts =
        given.service_accounts.as_ref().map(|accounts| service_accounts(cs, accounts, issuer, checks));
    let callers = given.callers.as_deref().unwrap_or_default();
    if callers.len() > CALLERS_MAX {
        checks.push("spec.auth.callers", format!("must have at most {CALLERS_MAX} entries"));
    }
    let mut names = HashSet::new();
    if !callers.iter().all(|caller| names.insert(&caller.name)) {
        checks.push("spec.auth.callers", "two callers have the same name: write each once");
    }
    let callers = callers.iter().enumerate();
    let callers = callers.map(|(index, terms)| caller(index, terms, limits, checks)).collect();
    Some(AuthConfig { service_accounts, callers })
}

fn service_accounts(
    cs: &ChatService,
    given: &ServiceAccounts,
    issuer: Option<&TokenIssuer>,
    checks: &mut Checks,
) -> ServiceAccountsConfig {
    const FIELD: &str = "spec.auth.serviceAccounts";
    let audience = given.audience.as_deref().unwrap_or_default();
    if audience.len() > AUDIENCE_MAX || !audience.bytes().all(|byte| byte.is_ascii_graphic()) {
        checks.push(
            &format!("{FIELD}.audience"),
            "must be visible ASCII without blanks, such as chatservice.dev/chat/demo, or be left out for the default",
        );
    }
    let audience = if audience.is_empty() {
        let meta = &cs.metadata;
        let (namespace, name) = (meta.namespace.as_deref().unwrap_or("local"), meta.name.as_deref());
        format!("{GROUP}/{namespace}/{}", name.unwrap_or_default())
    } else {
        audience.to_owned()
    };
    if !(1..=ACCOUNTS_MAX).contains(&given.allowed.len()) {
        checks.push(&format!("{FIELD}.allowed"), format!("must have 1 to {ACCOUNTS_MAX} entries"));
    }
    for (index, AllowedAccount { namespace, name }) in given.allowed.iter().enumerate() {
        if !is_namespace(namespace) {
            checks.push(
                &format!("{FIELD}.allowed[{index}].namespace"),
                "must be the name of a namespace: lower-case letters, digits and '-', such as shop",
            );
        }
        if !is_account(name) {
            checks.push(
                &format!("{FIELD}.allowed[{index}].name"),
                "must be the name of a ServiceAccount: lower-case letters, digits, '-' and '.', such as web",
            );
        }
    }
    let allowed = given.allowed.iter().map(|account| format!("{}/{}", account.namespace, account.name));
    ServiceAccountsConfig { audience, allowed: allowed.collect(), issuer: issuer.cloned() }
}

fn caller(index: usize, terms: &CallerTerms, limits: &LimitsConfig, checks: &mut Checks) -> CallerConfig {
    let field = format!("spec.auth.callers[{index}]");
    let named = match terms.name.split_once('/') {
        Some((namespace, name)) => is_namespace(namespace) && is_account(name),
        None => is_data_key(&terms.name),
    };
    if !named {
        checks.push(
            &format!("{field}.name"),
            "must be a data key of the Secret with the API keys, such as mobile, or NAMESPACE/NAME of a ServiceAccount, such as shop/web",
        );
    }
    let own = terms.rate_limits.as_ref().map(|given| own_limits(&field, given, limits, checks));
    let budget = terms.budget.as_ref().and_then(|budget| {
        let amount_nano_usd = checks.amount(&format!("{field}.budget.amount"), &budget.amount)?;
        Some(BudgetConfig { amount_nano_usd, period: budget.period, per: Per::Caller })
    });
    CallerConfig { name: terms.name.clone(), limits: own, budget }
}

/// Numbers that are left out are everybody's; what is counted is the caller's own.
fn own_limits(
    field: &str,
    given: &CallerRateLimits,
    limits: &LimitsConfig,
    checks: &mut Checks,
) -> LimitsConfig {
    let (requests, tokens, concurrent) =
        (given.requests_per_minute, given.tokens_per_minute, given.concurrent_requests);
    if (requests, tokens, concurrent) == (None, None, None) {
        checks.push(
            &format!("{field}.rateLimits"),
            "set at least one of requestsPerMinute, tokensPerMinute and concurrentRequests, or leave rateLimits out for those of the spec",
        );
    }
    if given.burst.is_some() && requests.is_none() {
        checks.push(
            &format!("{field}.rateLimits"),
            "burst needs requestsPerMinute: set it too, or take burst out",
        );
    }
    for (name, value, max) in [
        ("requestsPerMinute", requests, 1_000_000),
        ("burst", given.burst, 100_000),
        ("tokensPerMinute", tokens, 1_000_000_000),
        ("concurrentRequests", concurrent, 100_000),
    ] {
        if let Some(value) = value {
            checks.range(&format!("{field}.rateLimits.{name}"), value, 1..=max);
        }
    }
    let requests = requests.map(|requests| RequestLimit {
        requests,
        period_seconds: 60,
        burst: given.burst.unwrap_or(requests.min(DEFAULT_BURST)),
    });
    LimitsConfig {
        requests: requests.or(limits.requests),
        tokens_per_minute: tokens.or(limits.tokens_per_minute),
        concurrent_requests: concurrent.or(limits.concurrent_requests),
        per: Per::Caller,
        ..*limits
    }
}

/// Proxies whose `X-Forwarded-For` is believed.
pub(super) fn trusted_proxies(cs: &ChatService, checks: &mut Checks) -> Vec<IpNet> {
    const FIELD: &str = "spec.trustedProxies";
    let given = cs.spec.trusted_proxies.as_deref().unwrap_or_default();
    if given.len() > PROXIES_MAX {
        checks.push(FIELD, format!("must have at most {PROXIES_MAX} entries"));
    }
    let proxies: Option<Vec<IpNet>> = given.iter().map(|text| network(text)).collect();
    if proxies.is_none() {
        checks.push(
            FIELD,
            "must be addresses or CIDRs, such as 10.0.0.0/8, and not all addresses (/0): whoever is trusted says who the caller is",
        );
    }
    proxies.unwrap_or_default()
}

/// An address, or more than one but not all.
fn network(text: &str) -> Option<IpNet> {
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()?;
    Some(network).filter(|network| network.prefix_len() > 0)
}

fn is_namespace(name: &str) -> bool {
    name.len() <= 63 && !name.contains('.') && is_account(name)
}

fn is_account(name: &str) -> bool {
    let outer = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = name.bytes().next().zip(name.bytes().last());
    name.len() <= 253
        && ends.is_some_and(|(first, last)| outer(first) && outer(last))
        && name.bytes().all(|byte| outer(byte) || b"-.".contains(&byte))
}

fn is_data_key(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (1..=253).contains(&name.len()) && name.bytes().all(inner)
}
