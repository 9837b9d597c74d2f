//! X10, X11: calls through a proxy. The dial-time filter looks at the proxy, the check of hosts at the backend, and the key
//! goes to the backend alone.

use chatservice::server::backend::BackendError;
use chatservice::server::backend::openai::{OpenAi, OpenAiOptions, OptionsError};

use crate::dial::Fixed;
use crate::front::{Authority, Front};
use crate::mock_openai::{MockOpenAi, Script};
use crate::{KEY, options, plain};

const OPEN: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

fn through(mock: &MockOpenAi, proxy: &Front, base_url: &str) -> OpenAiOptions {
    OpenAiOptions {
        base_url: base_url.to_owned(),
        allowed_hosts: vec!["llm.test".to_owned()],
        proxy_url: Some(format!("http://{}", proxy.address)),
        ..options(mock)
    }
}

/// No name is resolved: a proxy does that.
async fn call(options: OpenAiOptions) -> Result<(), BackendError> {
    let resolver = Fixed::new(&[]);
    let result = plain(&OpenAi::with_resolver(options, resolver.clone()).unwrap()).await.map(drop);
    assert!(resolver.asked().is_empty());
    result
}

#[tokio::test]
async fn https_goes_through_a_tunnel_that_the_proxy_cannot_look_into() {
    let mock = MockOpenAi::start().await;
    mock.script(Script::Words(1));
    let authority = Authority::new();
    let front = Front::tls(&authority, "llm.test", mock.address()).await;
    let proxy = Front::proxy(front.address, OPEN).await;
    let options = OpenAiOptions {
        authorities: Some(authority.trusted()),
        ..through(&mock, &proxy, "https://llm.test/v1")
    };
    call(options).await.unwrap();
    let asked = proxy.asked.lock().unwrap().clone();
    assert_eq!(asked, ["CONNECT llm.test:443 HTTP/1.1\r\nHost: llm.test:443\r\n\r\n"]);
    let sent = &mock.requests()[0];
    assert_eq!(sent.line, "POST /v1/chat/completions HTTP/1.1");
    assert!(sent.headers.contains(&("authorization".to_owned(), format!("Bearer {KEY}"))));
    assert!(sent.headers.contains(&("host".to_owned(), "llm.test".to_owned())));
}

#[tokio::test]
async fn http_goes_through_a_tunnel_too() {
    let mock = MockOpenAi::start().await;
    mock.script(Script::Words(1));
    let proxy = Front::proxy(mock.address(), OPEN).await;
    let mut options = through(&mock, &proxy, "http://llm.svc/v1");
    options.allowed_hosts = vec!["llm.svc".to_owned()];
    call(options).await.unwrap();
    assert!(proxy.asked.lock().unwrap()[0].starts_with("CONNECT llm.svc:80 HTTP/1.1\r\n"));
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named() {
    let mock = MockOpenAi::start().await;
    for (answer, words) in [
        ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "proxy authorization required"),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", "tunnel error: unsuccessful"),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "tunnel error"),
    ] {
        let proxy = Front::proxy(mock.address(), answer).await;
        let result = call(through(&mock, &proxy, "https://llm.test/v1")).await;
        let Err(BackendError::Unavailable(message)) = result else { panic!("{answer}: {result:?}") };
        let expected =
            format!("the proxy {} (spec.backend.openai.proxyURL) did not connect to llm.test", proxy.address);
        assert!(message.contains(&expected) && message.contains(words), "{message}");
    }
    let proxy = Front::proxy(mock.address(), OPEN).await;
    let mut options = through(&mock, &proxy, "https://llm.test/v1");
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    options.proxy_url = Some(format!("http://{}", nobody.local_addr().unwrap()));
    drop(nobody);
    let result = call(options).await;
    assert!(matches!(&result, Err(BackendError::Unavailable(why)) if why.contains("refused")), "{result:?}");
    assert_eq!(mock.connections(), 0);
}

#[tokio::test]
async fn x11_the_key_goes_to_allowed_hosts_only_and_a_proxy_is_none() {
    let mock = MockOpenAi::start().await;
    let proxy = Front::proxy(mock.address(), OPEN).await;
    let mut options = through(&mock, &proxy, "https://llm.test/v1");
    options.allowed_hosts = vec![proxy.address.ip().to_string()];
    let Err(BackendError::NotConfigured(why)) = call(options).await else { panic!("a call was made") };
    assert!(why.contains("adds llm.test"), "{why}");
    assert!(proxy.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn x10_a_refused_address_is_neither_a_proxy_nor_behind_one() {
    let mock = MockOpenAi::start().await;
    let proxy = Front::proxy(mock.address(), OPEN).await;
    let refused = |result: Result<(), BackendError>, what: &str| match result {
        Err(BackendError::NotConfigured(why)) => assert!(why.contains("is not called"), "{what}: {why}"),
        other => panic!("{what}: {other:?}"),
    };
    for host in ["169.254.169.254", "168.63.129.16", "[fd00:ec2::254]", "[::ffff:100.100.100.200]"] {
        let mut options = through(&mock, &proxy, "https://llm.test/v1");
        options.proxy_url = Some(format!("http://{host}:3128"));
        refused(call(options).await, host);

        let mut options = through(&mock, &proxy, &format!("https://{host}/v1"));
        options.api_key = None;
        refused(call(options).await, host);
    }
    // A name for a refused address, and loopback in a cluster.
    let mut options = through(&mock, &proxy, "https://llm.test/v1");
    options.proxy_url = Some("http://proxy.test:3128".to_owned());
    let backend = OpenAi::with_resolver(options, Fixed::new(&["169.254.169.254"])).unwrap();
    refused(plain(&backend).await.map(drop), "proxy.test");
    let mut options = through(&mock, &proxy, "https://llm.test/v1");
    options.in_cluster = true;
    refused(call(options).await, "loopback");
    assert!(proxy.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn x10_a_proxy_url_with_a_password_is_refused() {
    let mock = MockOpenAi::start().await;
    let options =
        OpenAiOptions { proxy_url: Some("http://u:p@proxy.test:3128".to_owned()), ..options(&mock) };
    assert_eq!(OpenAi::new(options).err(), Some(OptionsError::ProxyUrl));
}
