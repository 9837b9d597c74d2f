//! API keys of callers. In: the Secret or the variable that holds them. Out: their hashes, and what is wrong with which
//! entry, with the command that helps.

use super::{Mount, Secret, SecretSource, problem};
use crate::admin::StatusProblem;
use crate::constants::{env, reason};
use crate::server::auth::ApiKeys;
use crate::server::config::ServerConfig;

/// A caller for a command that shows how to make the Secret.
const SOMEBODY: &str = "my-app";
/// Problems of single callers that are told: one is mended after the other.
const TOLD: usize = 3;

/// None where the configuration names no Secret, and where there is not one entry in it: entries that cannot be used say all
/// the same who is no caller any more.
pub(super) fn load(
    config: &ServerConfig,
    source: &SecretSource,
    problems: &mut Vec<StatusProblem>,
) -> Option<ApiKeys> {
    let name = config.fixed.api_keys_secret.as_deref()?;
    let mut keys = ApiKeys::default();
    let found = match source {
        SecretSource::Environment(variables) => of_variable(variables.get(env::API_KEYS), &mut keys),
        SecretSource::Mounted { api_keys, .. } => {
            let secret = Secret { namespace: &config.identity.namespace, name };
            secret.open(api_keys, SOMEBODY).map(|mount| of_secret(&secret, &mount, &mut keys))
        }
    };
    match found {
        Ok(wrong) => problems.extend(wrong.into_iter().take(TOLD)),
        Err(error) => problems.push(error),
    }
    let tokens = config.dynamic.auth.as_ref().is_some_and(|auth| auth.service_accounts.is_some());
    if keys.revokes_all() && !tokens {
        let secret = Secret { namespace: &config.identity.namespace, name };
        let first = keys.by_caller().map(|(caller, _)| caller).next().unwrap_or(SOMEBODY);
        let message = format!(
            "every entry of {secret} is empty, so nobody is let in. Fix, if somebody is to be: {}",
            secret.patch(first, "...")
        );
        problems.push(problem(reason::SECRET_KEY_MISSING, message));
    }
    (!keys.says_nothing()).then_some(keys)
}

fn of_secret(secret: &Secret<'_>, mount: &Mount, keys: &mut ApiKeys) -> Vec<StatusProblem> {
    let mut wrong = Vec::new();
    for caller in mount.keys() {
        let error = match mount.read(caller).map(Option::unwrap_or_default) {
            // Whoever empties an entry means that this caller is to have no key: unlike what is broken, it cannot be a slip
            // of the one who writes a new key.
            Ok(text) if text.trim().is_empty() => {
                keys.revoke(caller);
                None
            }
            Ok(text) => keys.add(caller, &text).err().map(|error| error.to_string()),
            Err(error) => {
                keys.refuse(caller);
                Some(error.to_string())
            }
        };
        wrong.extend(error.map(|error| {
            let message = format!(
                "key \"{caller}\" of {secret} lets nobody in: {error}. Fix: {}",
                secret.patch(caller, "...")
            );
            problem(reason::SECRET_KEY_MISSING, message)
        }));
    }
    wrong
}

/// `name=key,...`; a name that is there twice has both keys. Outside a cluster what is wrong stays wrong, so nothing is
/// taken of a variable that has an error.
fn of_variable(value: Option<&String>, keys: &mut ApiKeys) -> Result<Vec<StatusProblem>, StatusProblem> {
    let wrong = |what: String| {
        let message = format!("{0} {what}. Fix: export {0}=name=key,...", env::API_KEYS);
        problem(reason::SECRET_NOT_FOUND, message)
    };
    let Some(value) = value else {
        let why = "is not set: it holds the API keys of callers, which spec.auth.apiKeysSecretRef asks for";
        return Err(wrong(why.to_owned()));
    };
    let mut read = ApiKeys::default();
    for (number, entry) in value.split(',').enumerate() {
        let number = number + 1;
        let (name, key) = entry
            .split_once('=')
            .ok_or_else(|| wrong(format!("cannot be used: its entry {number} is not name=key")))?;
        let name = name.trim();
        let named = (1..=253).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        if !named {
            return Err(wrong(format!(
                "cannot be used: the name of its entry {number} is not letters, digits, '-', '.' and '_'"
            )));
        }
        read.add(name, key).map_err(|error| wrong(format!("cannot be used for {name}: {error}")))?;
    }
    *keys = read;
    Ok(Vec::new())
}
