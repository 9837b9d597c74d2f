//! Where a server finds its secrets. In: the configuration and a [`SecretSource`]: mounted directories in a pod, the
//! environment outside a cluster. Out: [`Loaded`]: the secrets that may be used, and what is wrong with the others, in
//! words that name Secrets, keys and hosts and never a value.
//!
//! The operator may not read Secrets, so a server is the first to see what is wrong with one, and says so on `/status`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use http::Uri;
use redis::IntoConnectionInfo;
use secrecy::{ExposeSecret, SecretString};

use self::mount::Mount;
use super::config::{BackendConfig, ServerConfig};
use crate::admin::StatusProblem;
use crate::constants::{env, mount as paths, reason, secret_key};

mod mount;
mod watch;

pub use watch::{SecretsReceiver, watch};

/// Hosts that a key may go to when its Secret does not say.
const DEFAULT_HOSTS: &str = "api.openai.com";

/// Where secrets are.
pub enum SecretSource {
    /// Secrets mounted as volumes: each data key is a file. A missing Secret is an empty directory, because the mount is
    /// optional.
    Mounted {
        /// Directory of the Secret with the backend's key.
        credentials: PathBuf,
        /// Directory of the Secret with the Redis address.
        redis: PathBuf,
    },
    /// Outside a cluster: `OPENAI_API_KEY` and `REDIS_URL`, in a copy of the environment.
    Environment(BTreeMap<String, String>),
}

impl SecretSource {
    /// Where the operator mounts them.
    #[must_use]
    pub fn mounted() -> Self {
        Self::Mounted { credentials: paths::CREDENTIALS_DIR.into(), redis: paths::REDIS_DIR.into() }
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

/// Where Redis is.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// A `redis://` or `rediss://` URL that the client has parsed; made from its parts where the Secret has those.
    pub url: SecretString,
}

/// What a server may use, and what is wrong.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// None: no key is to be sent, or there is a problem.
    pub credentials: Option<Credentials>,
    /// None: the memory store, or there is a problem.
    pub redis: Option<RedisSettings>,
    /// Empty: everything that the configuration names is there.
    pub problems: Vec<StatusProblem>,
}

impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        self.api_key.expose_secret() == other.api_key.expose_secret()
            && self.allowed_hosts == other.allowed_hosts
    }
}

impl PartialEq for RedisSettings {
    fn eq(&self, other: &Self) -> bool {
        self.url.expose_secret() == other.url.expose_secret()
    }
}

/// Reads what the configuration names. Blocks on files; [`watch()`] keeps it off the runtime's threads.
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
    Loaded { credentials, redis, problems }
}

fn credentials(config: &ServerConfig, source: &SecretSource) -> Result<Option<Credentials>, StatusProblem> {
    let (Some(name), BackendConfig::OpenAi { base_url }) =
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
            (key, hosts_of(hosts.as_deref().unwrap_or(DEFAULT_HOSTS)), Some(secret))
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

fn redis(config: &ServerConfig, source: &SecretSource) -> Result<Option<RedisSettings>, StatusProblem> {
    let Some(name) = &config.fixed.redis_secret else { return Ok(None) };
    let (url, what) = match source {
        SecretSource::Environment(variables) => match variables.get(env::REDIS_URL) {
            Some(url) => (url.clone(), env::REDIS_URL.to_owned()),
            None => return Ok(None),
        },
        SecretSource::Mounted { redis, .. } => {
            let secret = Secret { namespace: &config.identity.namespace, name };
            let mount = secret.open(redis, secret_key::REDIS_URL)?;
            match secret.optional(&mount, secret_key::REDIS_URL)? {
                Some(url) => (url, format!("key \"{}\" of {secret}", secret_key::REDIS_URL)),
                None => redis_parts(&secret, &mount)?,
            }
        }
    };
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    if !matches!(scheme, Some("redis" | "rediss")) || url.as_str().into_connection_info().is_err() {
        // The client's own words could quote the password.
        let message = format!(
            "{what} is not a Redis URL: write redis://[user:password@]host[:port][/db], or rediss:// for TLS"
        );
        return Err(problem(reason::SECRET_KEY_MISSING, message));
    }
    Ok(Some(RedisSettings { url: url.into() }))
}

/// A URL from `host`, `port`, `username` and `password`, and what to call it in a message.
fn redis_parts(secret: &Secret<'_>, mount: &Mount) -> Result<(String, String), StatusProblem> {
    if !mount.has(secret_key::REDIS_HOST) {
        return Err(secret.key_missing(mount, secret_key::REDIS_URL));
    }
    let host = secret.required(mount, secret_key::REDIS_HOST)?;
    let optional = |key| secret.optional(mount, key);
    let user = optional(secret_key::REDIS_USERNAME)?.map(|text| percent_encode(&text)).unwrap_or_default();
    let password = optional(secret_key::REDIS_PASSWORD)?.map(|text| percent_encode(&text));
    let login = match password {
        Some(password) => format!("{user}:{password}@"),
        None if user.is_empty() => String::new(),
        None => format!("{user}@"),
    };
    let number = optional(secret_key::REDIS_PORT)?.map(|number| format!(":{number}")).unwrap_or_default();
    let bare_v6 = host.contains(':') && !host.starts_with('[');
    let host = if bare_v6 { format!("[{host}]") } else { host };
    let what = format!("\"{}\" with \"{}\" of {secret}", secret_key::REDIS_HOST, secret_key::REDIS_PORT);
    Ok((format!("redis://{login}{host}{number}"), what))
}

/// Everything but the unreserved characters of RFC 3986.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.extend(
                [byte >> 4, byte & 15].map(|digit| char::from(b"0123456789ABCDEF"[usize::from(digit)])),
            );
        }
    }
    encoded
}

fn host_of(base_url: &str) -> Option<String> {
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
    fn open(&self, directory: &std::path::Path, key: &str) -> Result<Mount, StatusProblem> {
        match Mount::open(directory) {
            Ok(mount) if !mount.is_empty() => Ok(mount),
            Ok(_) => Err(problem(
                reason::SECRET_NOT_FOUND,
                format!("{self} does not exist or is empty. Fix: {}", self.create(key)),
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
        problem(
            reason::SECRET_KEY_MISSING,
            format!(
                "{self} has no key \"{key}\" (found: {}). Fix: {} --dry-run=client -o yaml | kubectl apply -f -",
                mount.names(),
                self.create(key)
            ),
        )
    }

    fn create(&self, key: &str) -> String {
        format!("kubectl -n {} create secret generic {} --from-literal={key}=...", self.namespace, self.name)
    }

    fn host_mismatch(&self, host: &str, allowed: &[String]) -> StatusProblem {
        let now = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
        let then: Vec<&str> = allowed.iter().map(String::as_str).chain([host]).collect();
        problem(
            reason::CREDENTIAL_HOST_MISMATCH,
            format!(
                "{self} does not allow its key to be sent to \"{host}\", the host of spec.backend.openai.baseURL \
                 (allowed: {now}). Fix, if that host may have the key: kubectl -n {} patch secret {} -p \
                 '{{\"stringData\":{{\"{}\":\"{}\"}}}}'",
                self.namespace,
                self.name,
                secret_key::ALLOWED_HOSTS,
                then.join(",")
            ),
        )
    }
}

#[cfg(test)]
mod tests;
