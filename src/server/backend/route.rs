//! The way of a connection: straight, or through an HTTP proxy. In: the URL that is called. Out: a connection to its host,
//! not yet encrypted for it; through a proxy it is a CONNECT tunnel, for http too, so that no proxy reads a key.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::Service;

use super::connect::{BoxError, DialError, DialPolicy, Dialer, host};

/// A TCP connection, or a TLS connection to a proxy.
pub(super) type Link = MaybeHttpsStream<TokioIo<TcpStream>>;

/// How to get to a host.
#[derive(Clone)]
pub(super) enum Route {
    /// By its own address.
    Direct(Dialer),
    /// Through a proxy.
    Proxy(Box<Proxied>),
}

/// A way through a proxy.
#[derive(Clone)]
pub(super) struct Proxied {
    /// To the proxy and through it.
    pub tunnel: Tunnel<HttpsConnector<Dialer>>,
    /// For addresses in the URL that is called; names are resolved by the proxy.
    pub policy: DialPolicy,
    /// The proxy, for messages.
    pub shown: Arc<str>,
}

impl Service<Uri> for Route {
    type Response = Link;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Link, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::Direct(dialer) => dialer.poll_ready(context),
            Self::Proxy(proxied) => proxied.tunnel.poll_ready(context).map_err(Into::into),
        }
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        match self {
            Self::Direct(dialer) => {
                let dialling = dialer.call(uri);
                Box::pin(async move { Ok(MaybeHttpsStream::Http(dialling.await?)) })
            }
            Self::Proxy(proxied) => {
                let Proxied { tunnel, policy, shown } = &mut **proxied;
                let tunnelling =
                    policy.check_literal(host(&uri)).map(|()| tunnel.call(with_port(uri.clone())));
                let shown = shown.clone();
                Box::pin(
                    async move { tunnelling?.await.map_err(|error| explain(&shown, &uri, &error).into()) },
                )
            }
        }
    }
}

/// With the port spelled out: a tunnel takes 443 for a missing one, also for http.
fn with_port(uri: Uri) -> Uri {
    if uri.port().is_some() || uri.scheme_str() != Some("http") {
        return uri;
    }
    let mut parts = uri.clone().into_parts();
    parts.authority = parts.authority.and_then(|authority| format!("{}:80", authority.host()).parse().ok());
    Uri::from_parts(parts).unwrap_or(uri)
}

/// Says that it was the proxy. A refusal of ours stays what it is.
fn explain(proxy: &str, target: &Uri, error: &(dyn std::error::Error + 'static)) -> DialError {
    let mut innermost = error;
    loop {
        if let Some(refused) = innermost.downcast_ref::<DialError>() {
            return refused.clone();
        }
        match innermost.source() {
            Some(source) => innermost = source,
            None => break,
        }
    }
    DialError::Proxy(format!(
        "the proxy {proxy} (spec.backend.openai.proxyURL) did not connect to {}: {innermost}",
        host(target)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_knows_the_port() {
        for (uri, expected) in [
            ("http://llm.svc/v1", "http://llm.svc:80/v1"),
            ("http://llm.svc:8000/v1", "http://llm.svc:8000/v1"),
            ("http://[fd00::1]/v1", "http://[fd00::1]:80/v1"),
            ("https://llm.example/v1", "https://llm.example/v1"),
        ] {
            assert_eq!(with_port(uri.parse().unwrap()), expected, "{uri}");
        }
    }
}
