//! X10: where a call may go. Names are resolved by the test; only its own loopback listener is ever dialled.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chatservice::server::backend::BackendError;
use chatservice::server::backend::connect::Resolve;
use chatservice::server::backend::openai::{OpenAi, OpenAiOptions};
use futures::future::BoxFuture;

use crate::mock_openai::{MockOpenAi, Script};
use crate::{options, plain};

/// Answers every name with the same addresses; without any, never.
pub struct Fixed {
    addresses: Vec<IpAddr>,
    asked: Mutex<Vec<String>>,
}

impl Fixed {
    pub fn new(addresses: &[&str]) -> Arc<Self> {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Arc::new(Self { addresses, asked: Mutex::default() })
    }

    /// The names that were asked for.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Resolve for Fixed {
    fn resolve(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        self.asked.lock().unwrap().push(host.to_owned());
        let addresses = self.addresses.clone();
        Box::pin(async move {
            if addresses.is_empty() {
                std::future::pending::<()>().await;
            }
            Ok(addresses)
        })
    }
}

/// Options for a URL on the mock's port, without a key.
fn keyless(mock: &MockOpenAi, host: &str) -> OpenAiOptions {
    OpenAiOptions {
        base_url: format!("http://{host}:{}/v1", mock.address().port()),
        api_key: None,
        allowed_hosts: vec![],
        ..options(mock)
    }
}

fn assert_refused(result: Result<impl Sized, BackendError>, what: &str) {
    match result.map(|_| ()) {
        Err(BackendError::NotConfigured(why)) => assert!(why.contains("is not called"), "{what}: {why}"),
        other => panic!("{what}: {other:?}"),
    }
}

#[tokio::test]
async fn a_name_that_stands_for_a_refused_address_is_not_dialled() {
    let mock = MockOpenAi::start().await;
    for address in [
        "169.254.169.254",
        "fe80::1",
        "fd00:ec2::254",
        "168.63.129.16",
        "100.100.100.200",
        "0.0.0.0",
        "::",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
    ] {
        let resolver = Fixed::new(&[address]);
        let backend = OpenAi::with_resolver(keyless(&mock, "model.internal"), resolver.clone()).unwrap();
        assert_refused(plain(&backend).await, address);
        assert_eq!(resolver.asked(), ["model.internal"]);
    }
}

#[tokio::test]
async fn an_address_in_the_url_is_checked_too() {
    let mock = MockOpenAi::start().await;
    for host in
        ["169.254.169.254", "168.63.129.16", "[fe80::1]", "[fd00:ec2::254]", "[::ffff:169.254.169.254]"]
    {
        let resolver = Fixed::new(&["127.0.0.1"]);
        let mut options = keyless(&mock, host);
        options.base_url = options.base_url.replace("http://", "https://");
        assert_refused(plain(&OpenAi::with_resolver(options, resolver.clone()).unwrap()).await, host);
        assert!(resolver.asked().is_empty(), "{host}");
    }
}

#[tokio::test]
async fn loopback_is_the_pod_itself_in_a_cluster() {
    for host in ["model.internal", "127.0.0.1"] {
        let mock = MockOpenAi::start().await;
        let mut options = keyless(&mock, host);
        options.in_cluster = true;
        let backend = |options: &OpenAiOptions| {
            OpenAi::with_resolver(options.clone(), Fixed::new(&["127.0.0.1"])).unwrap()
        };
        assert_refused(plain(&backend(&options)).await, host);
        assert_eq!(mock.connections(), 0);

        mock.script(Script::Words(1)).script(Script::Words(1));
        options.allowed_hosts = vec![host.to_owned()];
        plain(&backend(&options)).await.unwrap();
        options.allowed_hosts.clear();
        options.in_cluster = false;
        plain(&backend(&options)).await.unwrap();
    }
}

#[tokio::test]
async fn a_refused_address_beside_a_good_one_is_left_out() {
    let mock = MockOpenAi::start().await;
    mock.script(Script::Words(1));
    let resolver = Fixed::new(&["169.254.169.254", "127.0.0.1"]);
    plain(&OpenAi::with_resolver(keyless(&mock, "model.internal"), resolver).unwrap()).await.unwrap();
    let host = format!("model.internal:{}", mock.address().port());
    assert!(mock.requests()[0].headers.contains(&("host".to_owned(), host)));
}

#[tokio::test]
async fn a_name_that_does_not_resolve_in_time_is_a_timeout() {
    let mock = MockOpenAi::start().await;
    let mut options = keyless(&mock, "model.internal");
    options.timeouts.connect = Duration::from_millis(100);
    let error = plain(&OpenAi::with_resolver(options, Fixed::new(&[])).unwrap()).await.unwrap_err();
    assert_eq!(error, BackendError::Timeout(Duration::from_millis(100)));
}

#[tokio::test]
async fn x10_other_spellings_of_an_address_are_that_address() {
    let mock = MockOpenAi::start().await;
    // 169.254.169.254 in decimal, hex and octal, as the system's own resolver reads it.
    for host in ["2852039166", "0xa9fea9fe", "0xa9.0xfe.0xa9.0xfe", "0251.0376.0251.0376", "169.254.43518"] {
        let mut options = keyless(&mock, host);
        options.base_url = options.base_url.replace("http://", "https://");
        match plain(&OpenAi::new(options).unwrap()).await {
            Err(BackendError::NotConfigured(why)) => assert!(why.contains("is not called"), "{host}: {why}"),
            // A resolver that does not know the spelling leads nowhere either.
            Err(BackendError::Unavailable(why)) => assert!(why.contains("cannot connect"), "{host}: {why}"),
            other => panic!("{host}: {other:?}"),
        }
    }
    assert_eq!(mock.connections(), 0);
}

/// A name that stands for a good address first.
struct Rebinding(Mutex<Vec<&'static str>>);

impl Resolve for Rebinding {
    fn resolve(&self, _: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let address = self.0.lock().unwrap().pop().unwrap().parse().unwrap();
        Box::pin(async move { Ok(vec![address]) })
    }
}

#[tokio::test]
async fn x10_a_name_is_checked_at_every_dial() {
    let mock = MockOpenAi::start().await;
    let bytes = crate::mock_openai::plain_answer(1, true);
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", bytes.len());
    mock.script(Script::Raw((head + &bytes).into_bytes(), crate::mock_openai::End::Cut));
    let resolver = Arc::new(Rebinding(Mutex::new(vec!["169.254.169.254", "127.0.0.1"])));
    let backend = OpenAi::with_resolver(keyless(&mock, "model.internal"), resolver).unwrap();
    plain(&backend).await.unwrap();
    assert_refused(plain(&backend).await, "rebound");
    assert_eq!(mock.connections(), 1);
}
