//! Tokens of Kubernetes ServiceAccounts, checked without asking anybody. In: a JWT in its compact form, and the time. Out:
//! whose it is and until when it holds. <https://www.rfc-editor.org/rfc/rfc7519>, <https://www.rfc-editor.org/rfc/rfc8725>
//!
//! Nothing of a token is read before its signature is checked but the name of the key. It holds until it expires: whether
//! it was revoked since cannot be seen from here.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Refusal;
use super::signature::{VerifyingKey, decode};
use crate::server::caller::Caller;
use crate::server::config::ServiceAccountsConfig;

/// By how much clocks may differ, in seconds.
pub(super) const LEEWAY: i64 = 30;
/// Longest life of a token, in seconds: one that is stolen is not worth more.
pub(super) const LIFETIME: i64 = 24 * 60 * 60;
/// What begins the subject of a ServiceAccount's token.
const SUBJECT: &str = "system:serviceaccount:";

/// Whose tokens are accepted.
pub(super) struct Tokens {
    audience: String,
    issuer: String,
    keys: Vec<VerifyingKey>,
    /// By `namespace/name`.
    allowed: HashMap<String, Arc<Caller>>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
    /// Extensions that must be understood: there is none that is.
    crit: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: i64,
    iat: i64,
    nbf: Option<i64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn has(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Several(several) => several.iter().any(|one| one == audience),
        }
    }
}

impl Tokens {
    /// Those of this configuration; `caller` makes a caller of a name.
    pub(super) fn new(config: &ServiceAccountsConfig, caller: impl Fn(&str) -> Arc<Caller>) -> Self {
        let keys = config.issuer.iter().flat_map(|issuer| &issuer.keys).filter_map(VerifyingKey::new);
        Self {
            audience: config.audience.clone(),
            issuer: config.issuer.as_ref().map(|issuer| issuer.url.clone()).unwrap_or_default(),
            keys: keys.collect(),
            allowed: config.allowed.iter().map(|name| (name.clone(), caller(name))).collect(),
        }
    }

    /// Whose token it is, and the second since 1970 from which it holds no more.
    pub(super) fn check(&self, token: &str, now: i64) -> Result<(Arc<Caller>, i64), Refusal> {
        let claims = self.signed(token).ok_or(Refusal::Unknown)?;
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| Refusal::Claims)?;
        let account = claims.sub.strip_prefix(SUBJECT).and_then(|subject| subject.split_once(':'));
        let (true, Some((namespace, name))) = (claims.iss == self.issuer, account) else {
            return Err(Refusal::Claims);
        };
        if !claims.aud.has(&self.audience) {
            return Err(Refusal::Audience { audience: self.audience.clone() });
        }
        let until = claims.exp.saturating_add(LEEWAY);
        if until <= now {
            return Err(Refusal::Expired);
        }
        if claims.iat.max(claims.nbf.unwrap_or(claims.iat)) > now.saturating_add(LEEWAY) {
            return Err(Refusal::Claims);
        }
        if claims.exp.saturating_sub(claims.iat) > LIFETIME {
            return Err(Refusal::Lifetime);
        }
        let account = format!("{namespace}/{name}");
        match self.allowed.get(&account) {
            Some(caller) => Ok((caller.clone(), until)),
            None => Err(Refusal::NotAllowed { account }),
        }
    }

    /// The claims of a token that a key of the cluster signed.
    fn signed(&self, token: &str) -> Option<Vec<u8>> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.').filter(|(_, claims)| !claims.contains('.'))?;
        let header: Header = serde_json::from_slice(&decode(header)?).ok()?;
        let signature = decode(signature)?;
        let mut keys = self.keys.iter().filter(|key| key.kid == header.kid && key.algorithm == header.alg);
        let signed = header.crit.is_none() && keys.any(|key| key.signed(message.as_bytes(), &signature));
        if signed { decode(claims) } else { None }
    }
}
