//! What may stand in front of a backend. In: where it leads. Out: an address: of TLS with a certificate of the test's own
//! authority, or of an HTTP proxy that keeps a record of whom it was asked for.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use chatservice::server::backend::tls::Authorities;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// An authority of the test's own.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    /// As a client's configuration has it.
    pub fn trusted(&self) -> Authorities {
        Authorities::from_pem(&self.issuer.pem()).unwrap()
    }

    fn acceptor(&self, host: &str) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Something that listens on loopback; ends when dropped.
pub struct Front {
    pub address: SocketAddr,
    /// Heads of the requests that a proxy got.
    pub asked: Arc<Mutex<Vec<String>>>,
    _accepting: JoinSet<()>,
}

impl Front {
    /// TLS for this name in front of a backend.
    pub async fn tls(authority: &Authority, host: &str, backend: SocketAddr) -> Self {
        let acceptor = authority.acceptor(host);
        Self::start(move |stream, _| {
            let acceptor = acceptor.clone();
            async move {
                // A client that does not trust us ends the handshake.
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut inner = TcpStream::connect(backend).await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut inner).await;
            }
        })
        .await
    }

    /// A proxy that leads to `backend`, whatever it is asked for, or gives this answer.
    pub async fn proxy(backend: SocketAddr, answer: &'static str) -> Self {
        Self::start(move |mut stream, asked| async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => return,
                }
            }
            asked.lock().unwrap().push(String::from_utf8(head).unwrap());
            stream.write_all(answer.as_bytes()).await.unwrap();
            if answer.starts_with("HTTP/1.1 200") {
                let mut inner = TcpStream::connect(backend).await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut inner).await;
            }
        })
        .await
    }

    async fn start<F>(serve: impl Fn(TcpStream, Arc<Mutex<Vec<String>>>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::default());
        let (mut accepting, seen) = (JoinSet::new(), Arc::clone(&asked));
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&seen)));
            }
        });
        Self { address, asked, _accepting: accepting }
    }
}
