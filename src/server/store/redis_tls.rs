//! TLS to Redis. In: certificates in PEM, as a Secret has them. Out: how to connect with them, or which of them cannot be
//! used. Nothing shows a key.

use redis::{Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, TlsCertificates};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::redis_address::{RedisAddressError, wrong};
use crate::constants::secret_key;

/// Certificates in PEM. Empty is absent.
#[derive(Clone, Copy, Default)]
pub struct RedisCertificates<'a> {
    /// Those that may sign Redis' certificate, instead of the system's.
    pub ca: Option<&'a str>,
    /// Our certificate and what leads from it to its root.
    pub certificate: Option<&'a str>,
    /// Its key.
    pub key: Option<&'a str>,
}

impl<'a> RedisCertificates<'a> {
    /// The data key of the first that is given.
    pub(super) fn first_key(&self) -> Option<&'static str> {
        let [ca, certificate, key] = self.given();
        let keys = [
            (ca, secret_key::REDIS_CA),
            (certificate, secret_key::REDIS_CERTIFICATE),
            (key, secret_key::REDIS_KEY),
        ];
        keys.into_iter().find_map(|(pem, key)| pem.map(|_| key))
    }

    fn given(&self) -> [Option<&'a str>; 3] {
        [self.ca, self.certificate, self.key].map(|pem| pem.filter(|pem| !pem.trim().is_empty()))
    }
}

/// How a server's certificate is checked, and what we show.
#[derive(Clone)]
pub(super) struct Tls {
    pem: [Option<String>; 3],
    /// Host and port in it mean nothing.
    template: ConnectionAddr,
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        self.pem == other.pem
    }
}

impl Tls {
    /// Without certificates the system's roots are trusted and nothing is shown.
    pub fn new(certificates: &RedisCertificates) -> Result<Self, RedisAddressError> {
        let [ca, certificate, key] = certificates.given();
        if let Some(ca) = ca {
            check_roots(ca)?;
        }
        let client_tls = match (certificate, key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => {
                check_pair(certificate, key)?;
                Some(ClientTlsConfig { client_cert: certificate.into(), client_key: key.into() })
            }
            (Some(_), None) => {
                return Err(wrong(secret_key::REDIS_KEY, "must not be absent where `tls.crt` is given"));
            }
            (None, Some(_)) => {
                return Err(wrong(
                    secret_key::REDIS_CERTIFICATE,
                    "must not be absent where `tls.key` is given",
                ));
            }
        };
        let bare = ConnectionAddr::TcpTls { host: String::new(), port: 0, insecure: false, tls_params: None };
        let certificates = TlsCertificates { client_tls, root_cert: ca.map(Into::into) };
        let client = bare.into_connection_info().and_then(|info| Client::build_with_tls(info, certificates));
        let template =
            client.map_err(|_| wrong(secret_key::REDIS_CA, PEM))?.get_connection_info().addr().clone();
        Ok(Self { pem: [ca, certificate, key].map(|pem| pem.map(str::to_owned)), template })
    }

    /// The address of a server.
    pub fn address(&self, host: String, port: u16) -> ConnectionAddr {
        let tls_params = match &self.template {
            ConnectionAddr::TcpTls { tls_params, .. } => tls_params.clone(),
            _ => None,
        };
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params }
    }
}

const PEM: &str = "must be certificates in PEM (-----BEGIN CERTIFICATE-----)";

fn chain(pem: &str, key: &'static str) -> Result<Vec<CertificateDer<'static>>, RedisAddressError> {
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    chain.ok().filter(|chain| !chain.is_empty()).ok_or(wrong(key, PEM))
}

fn check_roots(pem: &str) -> Result<(), RedisAddressError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(pem, secret_key::REDIS_CA)? {
        roots.add(certificate).map_err(|_| wrong(secret_key::REDIS_CA, PEM))?;
    }
    Ok(())
}

fn check_pair(certificate: &str, key: &str) -> Result<(), RedisAddressError> {
    let chain = chain(certificate, secret_key::REDIS_CERTIFICATE)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| wrong(secret_key::REDIS_KEY, "must be a key in PEM (-----BEGIN PRIVATE KEY-----)"))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider())
        .map(|_| ())
        .map_err(|_| wrong(secret_key::REDIS_KEY, "must be the key of the first certificate in `tls.crt`"))
}
