//! Whom we believe to be a backend. In: certificates of authorities in PEM. Out: a TLS configuration that trusts them
//! beside the public ones: the image has no certificate store.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// Certificates of authorities, at least one, each of which can be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorities(Arc<[CertificateDer<'static>]>);

/// Why a text is no bundle of certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthoritiesError {
    /// There is no `BEGIN CERTIFICATE`.
    #[error(
        "it has no certificate: it must hold one or more in PEM, each from -----BEGIN CERTIFICATE----- on"
    )]
    None,
    /// One of them is none.
    #[error("its certificate {0} cannot be read: write it as PEM, as the authority gave it out")]
    Bad(usize),
}

impl Authorities {
    /// Reads a PEM bundle. What is in it beside certificates is not looked at.
    pub fn from_pem(text: &str) -> Result<Self, AuthoritiesError> {
        let mut roots = RootCertStore::empty();
        let mut certificates = Vec::new();
        for (index, certificate) in CertificateDer::pem_slice_iter(text.as_bytes()).enumerate() {
            let bad = AuthoritiesError::Bad(index + 1);
            let certificate = certificate.map_err(|_| bad)?;
            roots.add(certificate.clone()).map_err(|_| bad)?;
            certificates.push(certificate);
        }
        if certificates.is_empty() { Err(AuthoritiesError::None) } else { Ok(Self(certificates.into())) }
    }
}

/// Trusts the public authorities and these.
pub(super) fn client_config(authorities: Option<&Authorities>) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for certificate in authorities.into_iter().flat_map(|authorities| authorities.0.iter()) {
        roots.add(certificate.clone())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
