//! The backend's certificate authority. In: the mounted ConfigMap that the configuration names. Out: its certificates, or
//! what is wrong with it and the command that helps.

use super::mount::Mount;
use super::{Authorities, SecretSource, problem};
use crate::admin::StatusProblem;
use crate::constants::{mount::CA_FILE, reason};
use crate::server::config::ServerConfig;

/// None where the configuration names no ConfigMap.
pub(super) fn load(
    config: &ServerConfig,
    source: &SecretSource,
) -> Result<Option<Authorities>, StatusProblem> {
    let Some(name) = &config.fixed.ca_config_map else { return Ok(None) };
    let namespace = &config.identity.namespace;
    let map = format!("ConfigMap \"{name}\" in namespace \"{namespace}\"");
    let create = format!("kubectl -n {namespace} create configmap {name} --from-file={CA_FILE}={CA_FILE}");
    let SecretSource::Mounted { ca, .. } = source else {
        let message = format!(
            "{map} cannot be read outside a cluster: leave spec.backend.openai.caBundleConfigMapRef out"
        );
        return Err(problem(reason::CONFIG_MAP_NOT_FOUND, message));
    };
    let unreadable = |error: std::io::Error| {
        problem(reason::CONFIG_MAP_KEY_MISSING, format!("key \"{CA_FILE}\" of {map} cannot be read: {error}"))
    };
    let mount = Mount::open(ca).map_err(unreadable)?;
    if mount.is_empty() {
        let message = format!("{map} does not exist or is empty. Fix: {create}");
        return Err(problem(reason::CONFIG_MAP_NOT_FOUND, message));
    }
    let replace = format!("{create} --dry-run=client -o yaml | kubectl apply -f -");
    let Some(text) = mount.read(CA_FILE).map_err(unreadable)? else {
        let message = format!("{map} has no key \"{CA_FILE}\" (found: {}). Fix: {replace}", mount.names());
        return Err(problem(reason::CONFIG_MAP_KEY_MISSING, message));
    };
    Authorities::from_pem(&text).map(Some).map_err(|error| {
        let message = format!("key \"{CA_FILE}\" of {map} cannot be used: {error}. Fix: {replace}");
        problem(reason::CONFIG_MAP_KEY_MISSING, message)
    })
}
