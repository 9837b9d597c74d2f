//! TLS to Redis: a private CA, and a certificate of our own where Redis asks for one.

use std::path::Path;
use std::process::Command;
use std::sync::Once;

use chatservice::server::store::StoreError;
use chatservice::server::store::redis::{RedisAddress, RedisCertificates, RedisStore};

use crate::behaviour::in_time;
use crate::faults::{attempt, until_back};
use crate::redis_server::{RedisServer, free_port};

fn openssl(directory: &Path, arguments: &str) {
    let done = Command::new("openssl").current_dir(directory).args(arguments.split(' ')).output();
    let done = done.expect("openssl");
    assert!(done.status.success(), "{arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A CA, and a certificate of its for 127.0.0.1 that servers and clients may show.
fn certificates(directory: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(directory, &format!("req -x509 {key} -keyout ca.key -out ca.crt -subj /CN=ca -days 2"));
    openssl(directory, &format!("req {key} -keyout tls.key -out tls.csr -subj /CN=redis"));
    std::fs::write(directory.join("names"), "subjectAltName=IP:127.0.0.1").unwrap();
    openssl(directory, "x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -out tls.crt -days 2 -extfile names");
}

/// A Redis that also listens with TLS, asks for certificates, and where.
async fn redis_with_tls() -> Option<(RedisServer, String)> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    let server = RedisServer::start_with(|directory| {
        certificates(directory.path());
        let port = free_port().to_string();
        let file = |name: &str| directory.path().join(name).display().to_string();
        let (ca, certificate, key) = (file("ca.crt"), file("tls.crt"), file("tls.key"));
        let options = ["--tls-port", &port, "--tls-ca-cert-file", &ca, "--tls-cert-file", &certificate];
        [&options[..], &["--tls-key-file", &key, "--tls-auth-clients", "yes"]]
            .concat()
            .iter()
            .map(|option| (*option).to_owned())
            .collect()
    });
    let server = server.await?;
    let port: Vec<String> = server.query("CONFIG GET tls-port").await.unwrap();
    Some((server, format!("rediss://127.0.0.1:{}", port[1])))
}

fn store(url: &str, certificates: &RedisCertificates) -> RedisStore {
    RedisStore::new(RedisAddress::from_url_with(url, certificates).unwrap(), "u-1")
}

#[tokio::test]
async fn a_private_ca_is_trusted_and_our_certificate_is_shown() {
    let Some((server, url)) = redis_with_tls().await else { return };
    let file = |name: &str| std::fs::read_to_string(server.directory().path().join(name)).unwrap();
    let (ca, certificate, key) = (file("ca.crt"), file("tls.crt"), file("tls.key"));
    let whole = RedisCertificates { ca: Some(&ca), certificate: Some(&certificate), key: Some(&key) };
    until_back(&store(&url, &whole)).await;

    for missing in [
        RedisCertificates { ca: None, ..whole },
        RedisCertificates { ca: Some(&ca), ..RedisCertificates::default() },
    ] {
        let store = store(&url, &missing);
        in_time(async |_| match attempt(&store).await {
            Err(StoreError::Unreachable(_)) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => panic!("it is connected without"),
        })
        .await;
    }
}

#[test]
fn a_certificate_that_cannot_be_used_is_named_and_not_quoted() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let file = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
    let (ca, certificate, key, other) = (file("ca.crt"), file("tls.crt"), file("tls.key"), file("ca.key"));
    let whole = RedisCertificates { ca: Some(&ca), certificate: Some(&certificate), key: Some(&key) };
    for (bad, named) in [
        (RedisCertificates { ca: Some("canary"), ..whole }, "ca.crt"),
        (RedisCertificates { ca: Some(&key), ..whole }, "ca.crt"),
        (RedisCertificates { certificate: Some("canary"), ..whole }, "tls.crt"),
        (RedisCertificates { certificate: None, ..whole }, "tls.crt"),
        (RedisCertificates { key: Some("canary"), ..whole }, "tls.key"),
        (RedisCertificates { key: Some(&other), ..whole }, "tls.key"),
        (RedisCertificates { key: None, ..whole }, "tls.key"),
    ] {
        let error = RedisAddress::from_url_with("rediss://cache", &bad).unwrap_err();
        assert_eq!(error.key(), named, "{error}");
        assert!(
            !error.to_string().contains("canary") && !error.to_string().contains("PRIVATE KEY-----\n"),
            "{error}"
        );
        let parts = RedisAddress::from_parts("cache", None, None, None, &bad).unwrap_err();
        assert_eq!(parts, error);
    }
    assert!(
        RedisAddress::from_parts("cache", None, None, None, &whole)
            .unwrap()
            .to_string()
            .starts_with("rediss://")
    );
}
