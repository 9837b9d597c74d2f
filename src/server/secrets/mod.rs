//! Where a server finds its secrets. In: the configuration and a [`SecretSource`]: mounted directories in a pod, the
//! environment outside a cluster. Out: [`Loaded`]: the secrets that may be used, and what is wrong with the others, in
//! words that name Secrets, keys and hosts and never a value.
//!
//! The operator may not read Secrets, so a server is the first to see what is wrong with one, and says so on `/status`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use http::Uri;
use secrecy::{ExposeSecret, SecretString};

use self::mount::Mount;
use super::auth::ApiKeys;
use super::backend::tls::Authorities;
use super::config::{BackendConfig, ServerConfig};
use super::edge::ServerCertificate;
use super::store::redis::{RedisAddress, RedisAddressError, RedisCertificates};
use crate::admin::StatusProblem;
use crate::constants::{DEFAULT_ALLOWED_HOST, env, mount as paths, reason, secret_key};

mod api_keys;
mod authorities;
mod certificate;
pub(crate) mod mount;

/// Where secrets are.
pub enum SecretSource {
    /// Secrets mounted as volumes: each data key is a file. A missing Secret is an empty directory, because the mount is
    /// optional.
    Mounted {
        /// Directory of the Secret with the backend's key.
        credentials: PathBuf,
        /// Directory of the Secret with the Redis address.
        redis: PathBuf,
        /// Directory of the ConfigMap with the backend's authority.
        ca: PathBuf,
        /// Directory of the Secret with callers' API keys.
        api_keys: PathBuf,
        /// Directory of the Secret with the API's certificate.
        tls: PathBuf,
    },
    /// Outside a cluster: `OPENAI_API_KEY`, `REDIS_URL` and `CHATSERVICE_API_KEYS`, in a copy of the environment.
    Environment(BTreeMap<String, String>),
}

impl SecretSource {
    /// Where the operator mounts them, with this directory in the place of `/etc/chatservice`.
    #[must_use]
    pub fn mounted_in(directory: &Path) -> Self {
        let of = |path: &str| {
            directory.join(path.strip_prefix(paths::DIR).unwrap_or(path).trim_start_matches('/'))
        };
        Self::Mounted {
            credentials: of(paths::CREDENTIALS_DIR),
            redis: of(paths::REDIS_DIR),
            ca: of(paths::CA_DIR),
            api_keys: of(paths::API_KEYS_DIR),
            tls: of(paths::TLS_DIR),
        }
    }
}

/// The backend's key, for the hosts that it may be sent to. The host of the configured base URL is one of them.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Visible ASCII, not empty.
    pub api_key: SecretString,
    /// Lower case, IPv6 addresses without brackets.
    pub allowed_hosts: Vec<String>,
}

/// What a server may use, and what is wrong.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// None: no key is to be sent, or there is a problem.
    pub credentials: Option<Credentials>,
    /// None: the memory store, or there is a problem.
    pub redis: Option<RedisAddress>,
    /// None: the public ones alone, or there is a problem.
    pub authorities: Option<Authorities>,
    /// None: no key lets anybody in, or there is a problem. There may be one with a part of them too.
    pub api_keys: Option<ApiKeys>,
    /// None: plain HTTP, or there is a problem.
    pub certificate: Option<ServerCertificate>,
    /// Empty: everything that the configuration names is there.
    pub problems: Vec<StatusProblem>,
}

impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        self.api_key.expose_secret() == other.api_key.expose_secret()
            && self.allowed_hosts == other.allowed_hosts
    }
}

/// The first thing that is wrong, told to whoever starts a server outside a cluster: there, what is wrong with the
/// environment stays wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(String);

/// Whether everything that the configuration names can be used.
pub fn check(config: &ServerConfig, source: &SecretSource) -> Result<(), Unusable> {
    match load(config, source).problems.into_iter().next() {
        Some(problem) => Err(Unusable(problem.message)),
        None => Ok(()),
    }
}

/// Reads what the configuration names. Blocks on files; [`super::reload`] keeps it off the runtime's threads.
#[must_use]
pub fn load(config: &ServerConfig, source: &SecretSource) -> Loaded {
    let mut problems = Vec::new();
    let credentials = credentials(config, source).unwrap_or_else(|problem| {
        problems.push(problem);
        None
    });
    let redis = redis(config, source).unwrap_or_else(|problem| {
        problems.push(problem);
        None
    });
    let authorities = authorities::load(config, source).unwrap_or_else(|problem| {
        problems.push(problem);
        None
    });
    let certificate = certificate::load(config, source).unwrap_or_else(|problem| {
        problems.push(problem);
        None
    });
    let api_keys = api_keys::load(config, source, &mut problems);
    Loaded { credentials, redis, authorities, api_keys, certificate, problems }
}

fn credentials(config: &ServerConfig, source: &SecretSource) -> Result<Option<Credentials>, StatusProblem> {
    let (Some(name), BackendConfig::OpenAi { base_url, .. }) =
        (&config.fixed.credentials_secret, &config.dynamic.backend)
    else {
        return Ok(None);
    };
    let host = host_of(base_url);
    let (api_key, allowed_hosts, secret) = match source {
        SecretSource::Environment(variables) => {
            let Some(key) = variables.get(env::OPENAI_API_KEY) else {
                return Err(problem(
                    reason::SECRET_NOT_FOUND,
                    format!(
                        "{} is not set: it is the key of {base_url}. Fix: export {0}=..., or leave \
                         spec.backend.openai.credentialsSecretRef out to send no key",
                        env::OPENAI_API_KEY
                    ),
                ));
            };
            // The same person sets the key and the URL.
            (key.clone(), host.iter().cloned().collect(), None)
        }
        SecretSource::Mounted { credentials, .. } => {
            let secret = Secret { namespace: &config.identity.namespace, name };
            let mount = secret.open(credentials, secret_key::API_KEY)?;
            let key = secret.required(&mount, secret_key::API_KEY)?;
            let hosts = secret.optional(&mount, secret_key::ALLOWED_HOSTS)?;
            (key, hosts_of(hosts.as_deref().unwrap_or(DEFAULT_ALLOWED_HOST)), Some(secret))
        }
    };
    if !api_key.bytes().all(|byte| byte.is_ascii_graphic()) || api_key.is_empty() {
        let what = match &secret {
            Some(secret) => format!("key \"{}\" of {secret}", secret_key::API_KEY),
            None => env::OPENAI_API_KEY.to_owned(),
        };
        let message = format!("{what} is not one line of visible ASCII without blanks: write the key alone");
        return Err(problem(reason::SECRET_KEY_MISSING, message));
    }
    match (host, secret) {
        (Some(host), Some(secret)) if !allowed_hosts.contains(&host) => {
            Err(secret.host_mismatch(&host, &allowed_hosts))
        }
        (None, _) => Err(problem(
            reason::INVALID_SPEC,
            "spec.backend.openai.baseURL has no host: write http(s)://host[:port][/path]".to_owned(),
        )),
        _ => Ok(Some(Credentials { api_key: api_key.into(), allowed_hosts })),
    }
}

fn redis(config: &ServerConfig, source: &SecretSource) -> Result<Option<RedisAddress>, StatusProblem> {
    let Some(name) = &config.fixed.redis_secret else { return Ok(None) };
    let directory = match source {
        SecretSource::Environment(variables) => {
            let Some(url) = variables.get(env::REDIS_URL) else { return Ok(None) };
            return RedisAddress::from_url(url).map(Some).map_err(|error| {
                let message =
                    format!("{0} cannot be used: {error}. Fix: export {0}=redis://...", env::REDIS_URL);
                problem(reason::SECRET_KEY_MISSING, message)
            });
        }
        SecretSource::Mounted { redis, .. } => redis,
    };
    let secret = Secret { namespace: &config.identity.namespace, name };
    let mount = secret.open(directory, secret_key::REDIS_URL)?;
    let optional = |key| secret.optional(&mount, key);
    let (ca, certificate, key) = (
        optional(secret_key::REDIS_CA)?,
        optional(secret_key::REDIS_CERTIFICATE)?,
        optional(secret_key::REDIS_KEY)?,
    );
    let certificates =
        RedisCertificates { ca: ca.as_deref(), certificate: certificate.as_deref(), key: key.as_deref() };
    let address = if let Some(url) = optional(secret_key::REDIS_URL)? {
        RedisAddress::from_url_with(&url, &certificates)
    } else if let Some(host) = optional(secret_key::REDIS_HOST)? {
        let port = optional(secret_key::REDIS_PORT)?;
        let user = optional(secret_key::REDIS_USERNAME)?;
        let password = optional(secret_key::REDIS_PASSWORD)?;
        let (port, user, password) = (port.as_deref(), user.as_deref(), password.as_deref());
        RedisAddress::from_parts(&host, port, user, password, &certificates)
    } else {
        return Err(secret.key_missing(&mount, secret_key::REDIS_URL));
    };
    address.map(Some).map_err(|error| secret.bad_redis(&error))
}

/// The host of a URL, in the spelling of [`Credentials::allowed_hosts`].
pub(super) fn host_of(base_url: &str) -> Option<String> {
    let uri: Uri = base_url.parse().ok()?;
    uri.host().map(normal).filter(|host| !host.is_empty())
}

fn hosts_of(list: &str) -> Vec<String> {
    list.split(',').map(|host| normal(host.trim())).filter(|host| !host.is_empty()).collect()
}

/// One spelling of a host: lower case, no brackets.
fn normal(host: &str) -> String {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.to_ascii_lowercase()
}

fn problem(reason: &str, message: String) -> StatusProblem {
    StatusProblem { reason: reason.to_owned(), message }
}

/// A Secret's name, for messages.
#[derive(Clone, Copy)]
struct Secret<'a> {
    namespace: &'a str,
    name: &'a str,
}

impl std::fmt::Display for Secret<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret \"{}\" in namespace \"{}\"", self.name, self.namespace)
    }
}

impl Secret<'_> {
    /// The mounted Secret; `key` is the one that a new Secret would need.
    fn open(&self, directory: &Path, key: &str) -> Result<Mount, StatusProblem> {
        self.open_or(directory, &self.create(key))
    }

    /// The same; `fix` makes a new one.
    fn open_or(&self, directory: &Path, fix: &str) -> Result<Mount, StatusProblem> {
        match Mount::open(directory) {
            Ok(mount) if !mount.is_empty() => Ok(mount),
            Ok(_) => Err(problem(
                reason::SECRET_NOT_FOUND,
                format!("{self} does not exist or is empty. Fix: {fix}"),
            )),
            Err(error) => Err(problem(
                reason::SECRET_NOT_FOUND,
                format!("{self} cannot be read: {} ({})", error.kind(), directory.display()),
            )),
        }
    }

    fn required(&self, mount: &Mount, key: &str) -> Result<String, StatusProblem> {
        self.optional(mount, key)?.ok_or_else(|| self.key_missing(mount, key))
    }

    fn optional(&self, mount: &Mount, key: &str) -> Result<Option<String>, StatusProblem> {
        mount.read(key).map_err(|error| {
            problem(reason::SECRET_KEY_MISSING, format!("key \"{key}\" of {self} cannot be read: {error}"))
        })
    }

    fn key_missing(&self, mount: &Mount, key: &str) -> StatusProblem {
        // `create` alone fails on a Secret that exists.
        let fix = format!("{} --dry-run=client -o yaml | kubectl apply -f -", self.create(key));
        self.key_missing_or(mount, key, &fix)
    }

    fn key_missing_or(&self, mount: &Mount, key: &str, fix: &str) -> StatusProblem {
        let found = mount.names();
        problem(
            reason::SECRET_KEY_MISSING,
            format!("{self} has no key \"{key}\" (found: {found}). Fix: {fix}"),
        )
    }

    fn create(&self, key: &str) -> String {
        format!("kubectl -n {} create secret generic {} --from-literal={key}=...", self.namespace, self.name)
    }

    fn bad_redis(&self, error: &RedisAddressError) -> StatusProblem {
        let key = error.key();
        problem(
            reason::SECRET_KEY_MISSING,
            format!("key \"{key}\" of {self} cannot be used: {error}. Fix: {}", self.patch(key, "...")),
        )
    }

    /// Sets one key and leaves the others.
    fn patch(&self, key: &str, value: &str) -> String {
        format!(
            "kubectl -n {} patch secret {} -p '{{\"stringData\":{{\"{key}\":\"{value}\"}}}}'",
            self.namespace, self.name
        )
    }

    fn host_mismatch(&self, host: &str, allowed: &[String]) -> StatusProblem {
        let now = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
        let then: Vec<&str> = allowed.iter().map(String::as_str).chain([host]).collect();
        problem(
            reason::CREDENTIAL_HOST_MISMATCH,
            format!(
                "{self} does not allow its key to be sent to \"{host}\", the host of spec.backend.openai.baseURL \
                 (allowed: {now}). Fix, if that host may have the key: {}",
                self.patch(secret_key::ALLOWED_HOSTS, &then.join(","))
            ),
        )
    }
}

#[cfg(test)]
mod tests;
