//! `chatservice init-secret`: makes the Secret that a Redis and its chat servers share, once. In: its name, and the host
//! that it tells. Out: a Secret that is there; one that was there already is read and never changed.
//!
//! A chart cannot do this: a password that a template makes up is another one at each upgrade. The Secret is made by
//! server-side apply, because a role that names one Secret allows no `POST`, which has no name yet.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Config};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use crate::constants::{REDIS_KEY_PREFIX, field_manager, secret_key};

/// For all that is asked of the API server.
const DEADLINE: Duration = Duration::from_secs(30);
/// Bytes of a password, written as twice as many hex digits, which no URL, shell or ACL file needs quotes for.
const PASSWORD_BYTES: usize = 24;
const PORT: &str = "6379";
/// The servers' user.
const USERNAME: &str = "chatservice";
/// What the servers do, and nothing else (docs/redis.md).
const COMMANDS: &str = "-@all +@read +@write +@scripting +@connection +time -@dangerous +role";
/// What has to be there for Redis and for the servers.
const NEEDED: [&str; 4] =
    [secret_key::REDIS_HOST, secret_key::REDIS_USERNAME, secret_key::REDIS_PASSWORD, secret_key::REDIS_USERS];

/// What `chatservice init-secret` is told.
#[derive(Clone, Debug)]
pub struct InitSecretOptions {
    /// Name of the Secret.
    pub name: String,
    /// Where it is; none: the pod's own namespace, or that of the kubeconfig.
    pub namespace: Option<String>,
    /// The Redis that it leads to.
    pub host: String,
}

/// What was found or done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was not there.
    Made,
    /// It was, and stays as it is.
    Kept,
}

/// Why there is no usable Secret.
#[derive(Debug, thiserror::Error)]
pub enum InitSecretError {
    /// No way to reach an API server is configured.
    #[error("no API server is configured: {0}")]
    Configuration(Box<dyn std::error::Error + Send + Sync>),
    /// It does not answer.
    #[error("the API server did not answer within {DEADLINE:?}")]
    Timeout,
    /// It refuses.
    #[error("cannot {verb} Secret \"{name}\" in namespace \"{namespace}\": {source}")]
    Api {
        /// What was asked.
        verb: &'static str,
        /// Of which Secret.
        name: String,
        /// Where.
        namespace: String,
        /// What it said.
        source: Box<kube::Error>,
    },
    /// The Secret that is there lacks something.
    #[error(
        "Secret \"{name}\" in namespace \"{namespace}\" has no key \"{key}\" (found: {found}). Fix: add it, or have a new Secret made: kubectl -n {namespace} delete secret {name}"
    )]
    Incomplete {
        /// The Secret.
        name: String,
        /// Where.
        namespace: String,
        /// What it lacks.
        key: &'static str,
        /// The keys that it has.
        found: String,
    },
}

/// The file of Redis' users: `probe` for the kubelet's pings, and the servers' with the hash of its password, bound to our
/// keys. Nobody can log in as `default`; it keeps its permissions, because Redis reads its append-only file as that user and
/// would lose every transaction in it.
#[must_use]
pub fn users(password: &str) -> String {
    let hash = hex(&Sha256::digest(password.as_bytes()));
    format!(
        "user default off resetpass ~* &* +@all\n\
         user probe on nopass resetkeys resetchannels -@all +ping\n\
         user {USERNAME} on #{hash} resetkeys ~{REDIS_KEY_PREFIX}* resetchannels {COMMANDS}\n"
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A Secret with a password that nobody knows yet.
#[must_use]
pub fn new_secret(name: &str, host: &str) -> Secret {
    let password = hex(&rand::random::<[u8; PASSWORD_BYTES]>());
    let data = [
        (secret_key::REDIS_USERS, users(&password)),
        (secret_key::REDIS_HOST, host.to_owned()),
        (secret_key::REDIS_PORT, PORT.to_owned()),
        (secret_key::REDIS_USERNAME, USERNAME.to_owned()),
        (secret_key::REDIS_PASSWORD, password),
    ];
    let mut secret = Secret {
        string_data: Some(data.map(|(key, value)| (key.to_owned(), value)).into()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    };
    secret.metadata.name = Some(name.to_owned());
    secret
}

/// Makes the Secret unless it is there.
pub async fn init_secret(options: InitSecretOptions) -> Result<Outcome, InitSecretError> {
    let config = Config::infer().await.map_err(|error| InitSecretError::Configuration(Box::new(error)))?;
    let namespace = options.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config).map_err(|error| InitSecretError::Configuration(Box::new(error)))?;
    ensure(client, &namespace, &options).await
}

/// The same through a given client.
pub async fn ensure(
    client: Client,
    namespace: &str,
    options: &InitSecretOptions,
) -> Result<Outcome, InitSecretError> {
    let secrets = Api::namespaced(client, namespace);
    timeout(DEADLINE, get_or_make(&secrets, namespace, options))
        .await
        .unwrap_or(Err(InitSecretError::Timeout))
}

async fn get_or_make(
    secrets: &Api<Secret>,
    namespace: &str,
    options: &InitSecretOptions,
) -> Result<Outcome, InitSecretError> {
    let name = &options.name;
    let failed = |verb, source| InitSecretError::Api {
        verb,
        name: name.clone(),
        namespace: namespace.to_owned(),
        source: Box::new(source),
    };
    if let Some(secret) = secrets.get_opt(name).await.map_err(|error| failed("get", error))? {
        return complete(&secret, namespace, name);
    }
    // Each run is a manager of its own: where two make it at once, the later one's other password is a conflict.
    let run = format!("{}-{:08x}", field_manager::INIT_SECRET, rand::random::<u32>());
    let secret = new_secret(name, &options.host);
    let data: BTreeMap<_, _> = secret.string_data.iter().flatten().map(|(k, v)| (k, encoded(v))).collect();
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "type": secret.type_, "data": data,
    });
    match secrets.patch(name, &PatchParams::apply(&run), &Patch::Apply(&object)).await {
        Ok(_) => Ok(Outcome::Made),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let secret = secrets.get(name).await.map_err(|error| failed("get", error))?;
            complete(&secret, namespace, name)
        }
        Err(error) => Err(failed("create", error)),
    }
}

/// As the API server writes bytes: `stringData` is not tracked by server-side apply, so the password would be nobody's.
fn encoded(value: &str) -> serde_json::Value {
    serde_json::to_value(k8s_openapi::ByteString(value.as_bytes().to_vec())).unwrap_or_default()
}

fn complete(secret: &Secret, namespace: &str, name: &str) -> Result<Outcome, InitSecretError> {
    let keys: Vec<&str> = secret.data.iter().flatten().map(|(key, _)| key.as_str()).collect();
    match NEEDED.into_iter().find(|needed| !keys.contains(needed)) {
        None => Ok(Outcome::Kept),
        Some(key) => Err(InitSecretError::Incomplete {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            key,
            found: if keys.is_empty() { "none".to_owned() } else { keys.join(", ") },
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_file_holds_the_passwords_hash_and_never_the_password() {
        let secret = new_secret("demo-redis", "demo-redis");
        let data = secret.string_data.unwrap();
        let (password, users) = (&data["password"], &data["users.acl"]);
        assert_eq!(password.len(), 2 * PASSWORD_BYTES);
        assert!(!users.contains(password.as_str()));
        assert!(users.contains(&format!("#{} ", hex(&Sha256::digest(password.as_bytes())))));
        assert_ne!(new_secret("a", "b").string_data.unwrap()["password"], *password);
    }

    #[test]
    fn a_secret_that_lacks_a_key_is_named_with_what_it_has() {
        let mut secret = Secret::default();
        let error = complete(&secret, "chat", "demo-redis").unwrap_err().to_string();
        assert!(error.contains("has no key \"host\" (found: none)"), "{error}");
        let bytes = || k8s_openapi::ByteString(vec![]);
        secret.data = Some(NEEDED.map(|key| (key.to_owned(), bytes())).into());
        assert_eq!(complete(&secret, "chat", "demo-redis").unwrap(), Outcome::Kept);
        secret.data.as_mut().unwrap().remove("users.acl");
        let error = complete(&secret, "chat", "demo-redis").unwrap_err().to_string();
        assert!(error.contains("\"users.acl\" (found: host, password, username)"), "{error}");
        assert!(error.contains("kubectl -n chat delete secret demo-redis"), "{error}");
    }
}
