//! Who sends a request. In: its headers and the address of its connection. Out: a [`Caller`], or a [`Refusal`], which tells
//! an honest caller what to do and anybody else nothing.
//!
//! What was accepted once is remembered with the address that it came from, so that a request costs one hash and one
//! look-up. It is also what lets a known caller in while its address is shut for the guesses of others.

mod accepted;
mod api_keys;
mod failures;
mod forwarded;
mod signature;
mod token;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, header};
use ipnet::IpNet;

use super::caller::Caller;
use super::config::{AuthConfig, CallerConfig, ServerConfig, SigningKey};
use accepted::{Accepted, AcceptedCredentials, Known};
pub(crate) use api_keys::HASHED;
pub use api_keys::{ApiKeys, KEY_MAX, KEY_MIN, UnusableKey};
pub use failures::Failures;
use token::Tokens;

/// Longest credential: tokens of ServiceAccounts have about 1 KiB.
const CREDENTIAL_MAX: usize = 8 << 10;

/// Why a request is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It says nothing of who sends it.
    #[error(
        "this service answers known callers only: send an API key, or the token of a ServiceAccount, as `Authorization: Bearer ...`"
    )]
    Missing,
    /// It says so in a form that is not ours.
    #[error("the Authorization header cannot be used: send it once, as `Authorization: Bearer ...`")]
    Malformed,
    /// Nobody has this key, or no key of the cluster signed this token. Which it is, is not told.
    #[error(
        "the API key or token is not valid here: check that it is whole and of this service, or ask who runs the service for a new one"
    )]
    Unknown,
    /// A token of this cluster that is not one of a ServiceAccount, or not valid yet.
    #[error(
        "the token is not one that this service accepts: send that of a ServiceAccount, as Kubernetes makes it"
    )]
    Claims,
    /// A token of this cluster for somebody else.
    #[error("the token is not made for this service: ask for one with the audience {audience}")]
    Audience {
        /// What this service wants.
        audience: String,
    },
    /// A token of this cluster that was good once.
    #[error(
        "the token has expired: read it from its file anew for each request, Kubernetes replaces it in time"
    )]
    Expired,
    /// A token of this cluster that lives too long.
    #[error("the token lives longer than 24 h: ask for one with expirationSeconds of at most 86400")]
    Lifetime,
    /// A token of a ServiceAccount that may not ask.
    #[error(
        "the ServiceAccount {account} may not ask here: who runs this service can add it to spec.auth.serviceAccounts.allowed"
    )]
    NotAllowed {
        /// `namespace/name`.
        account: String,
    },
    /// Too many guesses from this address.
    #[error("too many keys or tokens from this address were not valid: try again in {} s", retry_after.as_secs_f64().ceil())]
    Shut {
        /// When it is worth trying again.
        retry_after: Duration,
    },
}

impl Refusal {
    /// All that [`Self::label`] gives.
    pub const LABELS: [&str; 9] = [
        "missing",
        "malformed",
        "unknown",
        "claims",
        "audience",
        "expired",
        "lifetime",
        "not_allowed",
        "shut",
    ];

    /// Label `reason` of `chat_auth_failures_total`.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Claims => "claims",
            Self::Audience { .. } => "audience",
            Self::Expired => "expired",
            Self::Lifetime => "lifetime",
            Self::NotAllowed { .. } => "not_allowed",
            Self::Shut { .. } => "shut",
        }
    }

    /// Whether it may have been a guess. What says nothing tries nothing, and what the cluster signed was not guessed:
    /// it comes from a workload that is set up wrong, or whose token is too old.
    fn is_attempt(&self) -> bool {
        matches!(self, Self::Malformed | Self::Unknown)
    }
}

/// Who is let in by one configuration.
pub struct Access {
    proxies: Vec<IpNet>,
    /// None: the service is open.
    gate: Option<Arc<Gate>>,
}

impl Access {
    /// By this configuration and these API keys. Where nothing of these has changed, all stays as it was in `previous`;
    /// where something has, what that one accepted is checked once more, also while its address is shut.
    #[must_use]
    pub fn new(config: &ServerConfig, keys: Option<&ApiKeys>, previous: Option<&Self>) -> Self {
        let proxies = config.dynamic.trusted_proxies.clone();
        // With a Secret of keys and no word of auth, nobody is let in without a key.
        let closed = config.dynamic.auth.is_some() || config.fixed.api_keys_secret.is_some();
        let auth = config.dynamic.auth.clone().unwrap_or_default();
        let made_of = (auth, keys.cloned());
        let gate = closed.then(|| match previous.and_then(|access| access.gate.as_ref()) {
            Some(gate) if gate.made_of == made_of => gate.clone(),
            before => Arc::new(Gate::new(made_of, before.map(|gate| gate.accepted.next()))),
        });
        Self { proxies, gate }
    }

    /// Who sends a request with these headers over a connection from this address.
    pub fn identify(
        &self,
        peer: IpAddr,
        headers: &HeaderMap,
        failures: &Failures,
    ) -> Result<Arc<Caller>, Refusal> {
        let address = forwarded::client(peer, headers, &self.proxies);
        match &self.gate {
            None => Ok(Arc::new(Caller::at(address))),
            Some(gate) => gate.identify(address, headers, failures, jiff::Timestamp::now().as_second()),
        }
    }
}

/// Whether servers can check a signature with this key.
#[must_use]
pub fn can_verify(key: &SigningKey) -> bool {
    signature::VerifyingKey::new(key).is_some()
}

/// Lets in who proves to be a caller.
struct Gate {
    made_of: (AuthConfig, Option<ApiKeys>),
    keys: Vec<(api_keys::Digest, Arc<Caller>)>,
    tokens: Option<Tokens>,
    accepted: AcceptedCredentials,
}

impl Gate {
    fn new(made_of: (AuthConfig, Option<ApiKeys>), accepted: Option<AcceptedCredentials>) -> Self {
        let (auth, keys) = &made_of;
        let caller = |name: &str| Arc::new(caller(name, &auth.callers));
        let keys = keys.iter().flat_map(ApiKeys::by_caller);
        let keys = keys.flat_map(|(name, digests)| {
            let caller = caller(name);
            digests.iter().map(move |digest| (*digest, caller.clone()))
        });
        let keys = keys.collect();
        let tokens = auth.service_accounts.as_ref().map(|config| Tokens::new(config, caller));
        Self { keys, tokens, accepted: accepted.unwrap_or_default(), made_of }
    }

    fn identify(
        &self,
        address: IpAddr,
        headers: &HeaderMap,
        failures: &Failures,
        now: i64,
    ) -> Result<Arc<Caller>, Refusal> {
        let credential = match bearer(headers) {
            Ok(credential) => credential,
            Err(refusal) if refusal.is_attempt() => {
                failures.check(address)?;
                failures.add(address);
                return Err(refusal);
            }
            Err(refusal) => return Err(refusal),
        };
        let mark = self.accepted.mark(address, credential);
        match self.accepted.find(&mark, now) {
            Known::Good(caller) => return Ok(caller),
            // No guess, whatever has become of it.
            Known::GoodBefore => {}
            Known::Nothing => failures.check(address)?,
        }
        match self.check(credential, now) {
            Ok(accepted) => {
                self.accepted.insert(mark, accepted.clone());
                Ok(accepted.caller)
            }
            Err(refusal) => {
                self.accepted.remove(&mark);
                if refusal.is_attempt() {
                    failures.add(address);
                }
                Err(refusal)
            }
        }
    }

    fn check(&self, credential: &str, now: i64) -> Result<Accepted, Refusal> {
        if let Some(caller) = api_keys::find(&self.keys, credential) {
            return Ok(Accepted { caller: caller.clone(), until: None });
        }
        let (caller, until) = self.tokens.as_ref().ok_or(Refusal::Unknown)?.check(credential, now)?;
        Ok(Accepted { caller, until: Some(until) })
    }
}

/// A caller by its name; the configuration names those that have a label.
fn caller(name: &str, named: &[CallerConfig]) -> Caller {
    let label = named.iter().find(|caller| caller.name == name).map(|caller| Arc::from(&*caller.name));
    Caller::proved(name, label)
}

/// The credential of a request. One in its URL is none: URLs are written down everywhere.
fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(Refusal::Missing)?;
    if values.next().is_some() {
        return Err(Refusal::Malformed);
    }
    let value = value.to_str().map_err(|_| Refusal::Malformed)?;
    let (scheme, credential) = value.split_once(' ').unwrap_or((value, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Refusal::Malformed);
    }
    let credential = credential.trim();
    let visible = credential.bytes().all(|byte| byte.is_ascii_graphic());
    match credential.len() {
        0 => Err(Refusal::Missing),
        1..=CREDENTIAL_MAX if visible => Ok(credential),
        _ => Err(Refusal::Malformed),
    }
}

#[cfg(test)]
mod tests;
