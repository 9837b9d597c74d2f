//! The certificate of the API. In: the mounted Secret that the configuration names. Out: it, or what is wrong with it and the
//! command that helps.

use super::{Secret, SecretSource, problem};
use crate::admin::StatusProblem;
use crate::constants::{reason, secret_key};
use crate::server::config::ServerConfig;
use crate::server::edge::{CertificateError, ServerCertificate};

/// None where the configuration names no Secret, and outside a cluster, where nothing is encrypted.
pub(super) fn load(
    config: &ServerConfig,
    source: &SecretSource,
) -> Result<Option<ServerCertificate>, StatusProblem> {
    let (Some(name), SecretSource::Mounted { tls, .. }) = (&config.fixed.tls_secret, source) else {
        return Ok(None);
    };
    let namespace = &config.identity.namespace;
    let secret = Secret { namespace, name };
    let create = format!("kubectl -n {namespace} create secret tls {name} --cert=tls.crt --key=tls.key");
    let mount = secret.open_or(tls, &create)?;
    let mut texts = [const { String::new() }; 2];
    for (text, key) in texts.iter_mut().zip([secret_key::TLS_CERTIFICATE, secret_key::TLS_KEY]) {
        let replace = format!("{create} --dry-run=client -o yaml | kubectl apply -f -");
        let found = secret.optional(&mount, key)?;
        *text = found.ok_or_else(|| secret.key_missing_or(&mount, key, &replace))?;
    }
    let [certificate, key] = &texts;
    ServerCertificate::from_pem(certificate, key).map(Some).map_err(|error| {
        let wrong = match error {
            CertificateError::Chain => secret_key::TLS_CERTIFICATE,
            CertificateError::Key | CertificateError::Pair => secret_key::TLS_KEY,
        };
        let message = format!(
            "key \"{wrong}\" of {secret} cannot be used: it {error}. Fix: {create} --dry-run=client -o yaml | kubectl apply -f -"
        );
        problem(reason::SECRET_KEY_MISSING, message)
    })
}
