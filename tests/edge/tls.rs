//! Encrypted connections: which protocol, which certificate, and what HTTP/2 lets a client do to others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use chatservice::server::edge::{CertificateError, EdgeOptions, ServerCertificate, Tls};
use http::{Request, Version};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{Edge, PATIENCE, SHORT, patient, within};

/// A certificate for `demo`, and what a client needs to believe it.
struct Identity {
    certificate: String,
    key: String,
}

impl Identity {
    fn new() -> Self {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["demo".to_owned()]).unwrap();
        Self { certificate: cert.pem(), key: signing_key.serialize_pem() }
    }

    fn server(&self) -> ServerCertificate {
        ServerCertificate::from_pem(&self.certificate, &self.key).unwrap()
    }
}

/// How many requests are being handled.
#[derive(Clone, Default)]
struct Handled(Arc<AtomicUsize>);

struct Handling(Handled);

impl Handled {
    fn begin(&self) -> Handling {
        self.0.fetch_add(1, Ordering::SeqCst);
        Handling(self.clone())
    }

    async fn until(&self, count: usize) {
        within(async {
            while self.0.load(Ordering::SeqCst) != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn app(handled: &Handled) -> Router {
    let (held, endless) = (handled.clone(), handled.clone());
    Router::new()
        .route("/quick", get(|request: Request<Body>| async move { format!("{:?}", request.version()) }))
        .route(
            "/never",
            get(async move || {
                let _handling = held.begin();
                std::future::pending::<String>().await
            }),
        )
        .route(
            "/endless",
            get(async move || {
                let handling = endless.begin();
                Body::from_stream(futures::stream::repeat_with(move || {
                    let _ = &handling;
                    Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 4096]))
                }))
            }),
        )
}

/// An edge that presents `identity`, its TLS and its app.
async fn start(identity: Option<&Identity>, options: EdgeOptions) -> (Edge, Tls, Handled) {
    let tls = Tls::new().unwrap();
    if let Some(identity) = identity {
        tls.present(&identity.server());
    }
    let handled = Handled::default();
    let edge = Edge::start(app(&handled), EdgeOptions { tls: Some(tls.clone()), ..options }).await;
    (edge, tls, handled)
}

async fn shake(edge: &Edge, identity: &Identity, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots
        .add(rustls::pki_types::CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap())
        .unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(edge.address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("demo").unwrap(), stream).await
}

/// An HTTP/2 client, and the task that drives it.
async fn http_2(edge: &Edge, identity: &Identity) -> (SendRequest<Empty<Bytes>>, JoinSet<()>) {
    let stream = shake(edge, identity, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let mut task = JoinSet::new();
    task.spawn(async move {
        let _ = connection.await;
    });
    (sender, task)
}

fn get_of(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("https://demo{path}")).version(Version::HTTP_2).body(Empty::new()).unwrap()
}

async fn text(sender: &mut SendRequest<Empty<Bytes>>, path: &str) -> String {
    let response = within(sender.send_request(get_of(path))).await.unwrap();
    String::from_utf8(within(response.into_body().collect()).await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn the_client_chooses_the_protocol() {
    let identity = Identity::new();
    let (edge, _, _) = start(Some(&identity), patient()).await;
    let (mut sender, _task) = http_2(&edge, &identity).await;
    for _ in 0..3 {
        assert_eq!(text(&mut sender, "/quick").await, "HTTP/2.0");
    }
    for alpn in [&["http/1.1"][..], &[]] {
        let mut stream = shake(&edge, &identity, alpn).await.unwrap();
        for _ in 0..2 {
            stream.write_all(b"GET /quick HTTP/1.1\r\nhost: demo\r\n\r\n").await.unwrap();
            let mut answer = vec![0; 512];
            let length = within(stream.read(&mut answer)).await.unwrap();
            assert!(String::from_utf8_lossy(&answer[..length]).ends_with("HTTP/1.1"), "{alpn:?}");
        }
    }
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections_and_the_others_go_on() {
    let (old, new) = (Identity::new(), Identity::new());
    let (edge, tls, _) = start(Some(&old), patient()).await;
    let (mut sender, _task) = http_2(&edge, &old).await;
    tls.present(&new.server());
    assert_eq!(text(&mut sender, "/quick").await, "HTTP/2.0");
    let (mut sender, _other) = http_2(&edge, &new).await;
    assert_eq!(text(&mut sender, "/quick").await, "HTTP/2.0");
    assert!(shake(&edge, &old, &["h2"]).await.is_err());
}

#[tokio::test]
async fn without_a_certificate_and_without_tls_there_is_no_answer_and_no_waiting() {
    let identity = Identity::new();
    let (edge, tls, _) = start(None, EdgeOptions { head: SHORT, ..patient() }).await;
    assert!(within(shake(&edge, &identity, &["h2"])).await.is_err());
    tls.present(&identity.server());
    let mut silent = edge.connect().await;
    assert_eq!(silent.rest().await, "");
    let mut plain = edge.connect().await;
    plain.send("GET /quick HTTP/1.1\r\nhost: demo\r\n\r\n").await;
    let mut said = Vec::new();
    within(plain.0.read_to_end(&mut said)).await.ok();
    assert!(!String::from_utf8_lossy(&said).contains("200 OK"));
    let (mut sender, _task) = http_2(&edge, &identity).await;
    assert_eq!(text(&mut sender, "/quick").await, "HTTP/2.0");
}

#[tokio::test]
async fn a_stream_that_its_client_drops_ends_and_the_others_go_on() {
    let identity = Identity::new();
    let (edge, _, handled) = start(Some(&identity), patient()).await;
    let (mut sender, task) = http_2(&edge, &identity).await;
    let mut first = Box::pin(sender.send_request(get_of("/never")));
    let mut second = Box::pin(sender.send_request(get_of("/never")));
    assert!(timeout(SHORT, &mut first).await.is_err() && timeout(SHORT, &mut second).await.is_err());
    handled.until(2).await;
    drop(first);
    handled.until(1).await;
    assert_eq!(text(&mut sender, "/quick").await, "HTTP/2.0");
    // And with the connection everything that it was doing.
    drop((second, sender, task));
    handled.until(0).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_one_of_its_streams_is_cut_off() {
    let identity = Identity::new();
    let (edge, _, handled) = start(Some(&identity), EdgeOptions { write_stall: SHORT, ..patient() }).await;
    let (mut sender, _task) = http_2(&edge, &identity).await;
    // Its head is read, its body is not: the window fills, and the socket itself never does.
    let response = within(sender.send_request(get_of("/endless"))).await.unwrap();
    handled.until(1).await;
    handled.until(0).await;
    drop(response);
}

#[tokio::test]
async fn resets_in_a_row_cost_the_connection_and_nobody_else() {
    let identity = Identity::new();
    let (edge, _, handled) = start(Some(&identity), patient()).await;
    let (mut other, _other_task) = http_2(&edge, &identity).await;
    let (mut flooding, _task) = http_2(&edge, &identity).await;
    let flood = async {
        for _ in 0..5000 {
            if flooding.ready().await.is_err() {
                return;
            }
            let mut request = Box::pin(flooding.send_request(get_of("/never")));
            let _ = futures::poll!(&mut request);
            tokio::task::yield_now().await;
        }
    };
    let looking = async {
        for _ in 0..20 {
            assert_eq!(text(&mut other, "/quick").await, "HTTP/2.0");
        }
    };
    within(async { tokio::join!(flood, looking) }).await;
    drop(flooding);
    handled.until(0).await;
    assert_eq!(text(&mut other, "/quick").await, "HTTP/2.0");
}

/// A frame as RFC 9113 has it.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Shakes hands and says what every HTTP/2 client says first.
async fn raw(edge: &Edge, identity: &Identity) -> TlsStream<TcpStream> {
    let mut stream = shake(edge, identity, &["h2"]).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    stream
}

/// Reads until the connection is closed.
async fn until_closed(stream: &mut TlsStream<TcpStream>) {
    let mut scrap = Vec::new();
    within(stream.read_to_end(&mut scrap)).await.ok();
}

#[tokio::test]
async fn a_head_without_end_is_bounded_in_bytes_and_in_time() {
    let identity = Identity::new();
    let (edge, _, _) = start(Some(&identity), EdgeOptions { head: SHORT, ..patient() }).await;
    // A request that goes on and on in CONTINUATION frames.
    let mut endless = raw(&edge, &identity).await;
    endless.write_all(&frame(1, 0, 1, &[0x82])).await.unwrap();
    let literal = [&[0x00, 0x01, b'a', 0x7f, 0x81, 0x7d][..], &[b'b'; 16_000]].concat();
    let flood = async { while endless.write_all(&frame(9, 0, 1, &literal)).await.is_ok() {} };
    within(flood).await;
    // One that stops in the middle.
    let mut unfinished = raw(&edge, &identity).await;
    unfinished.write_all(&frame(1, 0, 1, &[0x82])).await.unwrap();
    until_closed(&mut unfinished).await;
    // One that stops before its first frame.
    let mut partial = shake(&edge, &identity, &["h2"]).await.unwrap();
    partial.write_all(b"PRI * HT").await.unwrap();
    until_closed(&mut partial).await;
    let (mut sender, _task) = http_2(&edge, &identity).await;
    assert_eq!(text(&mut sender, "/quick").await, "HTTP/2.0");
}

#[tokio::test]
async fn pings_do_not_keep_an_idle_connection() {
    let identity = Identity::new();
    let (edge, _, _) = start(Some(&identity), EdgeOptions { idle: SHORT, head: PATIENCE, ..patient() }).await;
    let mut stream = raw(&edge, &identity).await;
    // GET https demo /quick: the indexed fields of HPACK, and :authority and :path as literals.
    let head = [&[0x82, 0x87, 0x41, 4][..], b"demo", &[0x44, 6], b"/quick"].concat();
    stream.write_all(&frame(1, 5, 1, &head)).await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let pinging = async {
        while write.write_all(&frame(6, 0, 0, &[0; 8])).await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    let reading = async {
        let mut said = Vec::new();
        read.read_to_end(&mut said).await.ok();
        assert!(said.windows(8).any(|window| window == b"HTTP/2.0"), "the request was answered");
    };
    within(async { tokio::join!(pinging, reading) }).await;
}

#[tokio::test]
async fn a_drain_takes_no_more_requests_and_answers_those_in_flight() {
    let identity = Identity::new();
    let (mut edge, _, handled) = start(Some(&identity), patient()).await;
    let (mut sender, mut task) = http_2(&edge, &identity).await;
    let response = within(sender.send_request(get_of("/endless"))).await.unwrap();
    handled.until(1).await;
    let (idle, mut idle_task) = http_2(&edge, &identity).await;
    edge.shutdown.begin();
    within(idle_task.join_next()).await;
    drop(idle);
    let mut body = response.into_body();
    for _ in 0..50 {
        assert!(within(body.frame()).await.unwrap().is_ok());
    }
    drop(body);
    within(task.join_next()).await;
    assert_eq!(edge.report().await.cut, 0);
}

#[test]
fn what_is_no_pair_is_refused_in_words() {
    let (one, other) = (Identity::new(), Identity::new());
    let refusal = |certificate: &str, key: &str| ServerCertificate::from_pem(certificate, key).unwrap_err();
    assert_eq!(refusal("", &one.key), CertificateError::Chain);
    assert_eq!(refusal(&one.key, &one.key), CertificateError::Chain);
    assert_eq!(refusal(&one.certificate, &one.certificate), CertificateError::Key);
    assert_eq!(refusal(&one.certificate, &other.key), CertificateError::Pair);
    assert!(one.server() == one.server() && one.server() != other.server());
    assert_eq!(format!("{:?}", one.server()), "ServerCertificate");
}
