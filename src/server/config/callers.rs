//! The part of a server's configuration that is about callers. In: `controller::configure`. Out: what `server::auth` checks
//! with. There is no secret in it: API keys are mounted beside it, and of signing keys it has the public half.

use serde::{Deserialize, Serialize};

use super::{BudgetConfig, LimitsConfig};

/// How callers prove who they are. API keys are there too where `StaticConfig::api_keys_secret` names a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthConfig {
    /// Whose tokens are accepted. None: nobody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_accounts: Option<ServiceAccountsConfig>,
    /// Callers with something of their own, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub callers: Vec<CallerConfig>,
}

/// Whose tokens are accepted, and how they are known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountsConfig {
    /// What a token must be made for.
    pub audience: String,
    /// ServiceAccounts as `namespace/name`.
    pub allowed: Vec<String>,
    /// Who makes tokens in this cluster. None outside a cluster, where none is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<TokenIssuer>,
}

/// Who makes the tokens of a cluster, as its API server says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenIssuer {
    /// Claim `iss`.
    pub url: String,
    /// Keys that its tokens are signed with, at least one.
    pub keys: Vec<SigningKey>,
}

/// The public half of a key, with the members of a JSON Web Key.
/// <https://www.rfc-editor.org/rfc/rfc7517>, <https://www.rfc-editor.org/rfc/rfc7518#section-6>
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKey {
    /// Its name, by which a token says which key signed it.
    pub kid: String,
    /// `RSA` or `EC`.
    pub kty: String,
    /// The one algorithm that it is for, where that is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alg: Option<String>,
    /// RSA: the modulus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<String>,
    /// RSA: the exponent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e: Option<String>,
    /// EC: the curve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crv: Option<String>,
    /// EC: a coordinate of the point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x: Option<String>,
    /// EC: the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
}

/// A caller with something of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallerConfig {
    /// Its identity; also its label in metrics.
    pub name: String,
    /// All of its limits. None: those of everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsConfig>,
    /// Its budget. None: that of everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetConfig>,
}
