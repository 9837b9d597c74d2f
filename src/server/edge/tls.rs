//! TLS of the API listener. In: a certificate and its key in PEM, which may be exchanged at any time. Out: encrypted connections
//! that speak HTTP/2 or HTTP/1.1, as the client chooses by ALPN.

use std::fmt;
use std::io;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::socket::Socket;

/// What ALPN calls HTTP/2.
const HTTP_2: &[u8] = b"h2";
/// What ALPN calls HTTP/1.1.
const HTTP_1: &[u8] = b"http/1.1";

/// A certificate, what leads from it to its root, and its key.
#[derive(Clone)]
pub struct ServerCertificate {
    certified: Arc<CertifiedKey>,
    /// Of both texts: two are equal when they were made of the same.
    digest: [u8; 32],
}

/// Why a certificate cannot be used. Nothing shows a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// There is no `BEGIN CERTIFICATE`, or one cannot be read.
    #[error("must be certificates in PEM (-----BEGIN CERTIFICATE-----), the server's own first")]
    Chain,
    /// There is no key.
    #[error("must be a key in PEM (-----BEGIN PRIVATE KEY-----)")]
    Key,
    /// They do not belong together.
    #[error("must be the key of the first certificate in `tls.crt`")]
    Pair,
}

impl ServerCertificate {
    /// Reads a pair. What is in the texts beside certificates and a key is not looked at.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
        let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or(CertificateError::Chain)?;
        let parsed = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| CertificateError::Key)?;
        let certified = CertifiedKey::from_der(chain, parsed, &ring::default_provider())
            .map_err(|_| CertificateError::Pair)?;
        let digest = *blake3::Hasher::new()
            .update(&(certificate.len() as u64).to_le_bytes())
            .update(certificate.as_bytes())
            .update(key.as_bytes())
            .finalize()
            .as_bytes();
        Ok(Self { certified: Arc::new(certified), digest })
    }
}

impl PartialEq for ServerCertificate {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerCertificate")
    }
}

/// TLS with whatever certificate there is now. Clones are the same one; before there is one every handshake fails.
#[derive(Clone)]
pub struct Tls {
    current: Arc<Current>,
    acceptor: TlsAcceptor,
}

#[derive(Default)]
struct Current(ArcSwapOption<CertifiedKey>);

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl ResolvesServerCert for Current {
    /// One certificate for every name: a Service has several, and clients check.
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

impl Tls {
    /// Without a certificate yet. An error is a fault of ours: the provider knows no version of TLS.
    pub fn new() -> Result<Self, rustls::Error> {
        let current = Arc::new(Current::default());
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![HTTP_2.to_vec(), HTTP_1.to_vec()];
        Ok(Self { current, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    /// New connections are made with this one; those that there are go on.
    pub fn present(&self, certificate: &ServerCertificate) {
        self.current.0.store(Some(certificate.certified.clone()));
    }

    /// The handshake. Its caller bounds it.
    pub(super) async fn accept(&self, socket: Socket) -> io::Result<TlsStream<Socket>> {
        self.acceptor.accept(socket).await
    }
}

/// Whether the client chose HTTP/2.
pub(super) fn is_http_2(stream: &TlsStream<Socket>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(HTTP_2)
}
