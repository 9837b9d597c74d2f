//! Where a call may go. In: the URL that is called. Out: a connection, unless the address is one that no backend has.
//!
//! Names are checked after they are resolved, so that no name can stand for a refused address; addresses written in the
//! URL, which no resolver sees, are checked too. Proxies from the environment are not looked at.

use std::error::Error;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::Service;

use super::route::{Link, Proxied, Route};
use super::tls::{Authorities, client_config};

pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// Asked of the kernel for what has come and is not read, which a slow client makes last; it grows to 32 MiB otherwise.
const RECEIVE_BUFFER: usize = 64 << 10;
/// TCP keep-alive probes find a peer that vanished during a long answer.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Turns names into addresses.
pub trait Resolve: Send + Sync {
    /// All addresses of a name.
    fn resolve(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The system's resolver.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let host = host.to_owned();
        Box::pin(async move {
            Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect())
        })
    }
}

/// Why nothing was dialled, or not in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// Every address of the host is refused.
    #[error("{0}")]
    Refused(String),
    /// The proxy did not let us through.
    #[error("{0}")]
    Proxy(String),
    /// Name resolution, TCP and TLS took longer than this.
    #[error("no connection within {0:?}")]
    Timeout(Duration),
}

/// Which addresses are dialled.
#[derive(Clone, Copy, Debug)]
pub struct DialPolicy {
    /// Whether loopback is: not in a cluster, where it is the pod itself, unless the key's owner named the host.
    pub loopback: bool,
}

impl DialPolicy {
    /// Why an address is not dialled, in words; None when it is.
    #[must_use]
    pub fn refusal(self, address: IpAddr) -> Option<&'static str> {
        let local = local_nat64(address).into_iter().flatten().map(IpAddr::V4);
        std::iter::once(plain_form(address)).chain(local).find_map(|form| match form {
            IpAddr::V4(v4) if refused_v4(v4) => Some(NEVER),
            IpAddr::V6(v6) if refused_v6(v6) => Some(NEVER),
            form if form.is_loopback() && !self.loopback => {
                Some("in a cluster a loopback address is called only when `allowed-hosts` names the host")
            }
            _ => None,
        })
    }

    /// The same for an address in a URL, which no resolver sees; a name passes.
    pub(super) fn check_literal(self, host: &str) -> Result<(), DialError> {
        match host.parse::<IpAddr>() {
            Ok(address) => self.check(host, vec![address]).map(drop),
            Err(_) => Ok(()),
        }
    }

    fn check(self, host: &str, addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, DialError> {
        let mut refusal = None;
        let kept: Vec<IpAddr> = addresses
            .into_iter()
            .filter(|address| {
                let refused = self.refusal(*address);
                refusal = refusal.or(refused);
                refused.is_none()
            })
            .collect();
        match refusal {
            Some(reason) if kept.is_empty() => {
                Err(DialError::Refused(format!("the backend {host} is not called: {reason}")))
            }
            _ => Ok(kept),
        }
    }
}

const NEVER: &str = "link-local, metadata and unspecified addresses never are; set another base URL";

/// What an IPv6 address stands for when it only wraps an IPv4 address: mapped, compatible, NAT64 and 6to4 forms.
fn plain_form(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let segments = v6.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // `::` and `::1` are IPv6's own.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => address,
        [0, 0, 0, 0, 0, 0 | 0xFFFF, high, low]
        | [0, 0, 0, 0, 0xFFFF, 0, high, low]
        | [0x64, 0xFF9B, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

/// The IPv4 addresses that an address under `64:ff9b:1::/48` (RFC 8215) may stand for: a network may use the whole
/// prefix, packed around the unused ninth byte (RFC 6052), or a /96 of it.
fn local_nat64(address: IpAddr) -> Option<impl Iterator<Item = Ipv4Addr>> {
    let IpAddr::V6(v6) = address else { return None };
    let [0, 0x64, 0xFF, 0x9B, 0, 1, a, b, _, c, d, _, rest @ ..] = v6.octets() else { return None };
    let packed = [Ipv4Addr::new(a, b, c, d), Ipv4Addr::from(rest)];
    // In either form the bits of the other are zero, which is no address to reach.
    Some(packed.into_iter().filter(|v4| !v4.is_unspecified()))
}

fn refused_v4(address: Ipv4Addr) -> bool {
    let metadata =
        [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];
    // All of 0.0.0.0/8 reaches this host on some systems.
    address.is_link_local()
        || address.octets()[0] == 0
        || address.is_broadcast()
        || metadata.contains(&address)
}

fn refused_v6(address: Ipv6Addr) -> bool {
    let metadata = [
        Ipv6Addr::new(0xFD00, 0xEC2, 0, 0, 0, 0, 0, 0x254),
        Ipv6Addr::new(0xFD20, 0xCE, 0, 0, 0, 0, 0, 0x254),
    ];
    address.is_unicast_link_local() || address.is_unspecified() || metadata.contains(&address)
}

/// A resolver behind the policy, in the form that hyper wants.
#[derive(Clone)]
struct Guarded {
    resolver: Arc<dyn Resolve>,
    policy: DialPolicy,
}

impl Service<Name> for Guarded {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (resolving, policy) = (self.resolver.resolve(name.as_str()), self.policy);
        Box::pin(async move {
            let addresses = policy.check(name.as_str(), resolving.await?)?;
            // Port 0 is replaced by the URL's.
            let addresses: Vec<_> = addresses.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect();
            Ok(addresses.into_iter())
        })
    }
}

/// Dials TCP.
#[derive(Clone)]
pub struct Dialer {
    http: HttpConnector<Guarded>,
    policy: DialPolicy,
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialling = self.policy.check_literal(host(&uri)).map(|()| self.http.call(uri));
        Box::pin(async move { Ok(dialling?.await?) })
    }
}

/// What a [`Connector`] is made of.
pub struct ConnectorOptions {
    /// Turns names into addresses.
    pub resolver: Arc<dyn Resolve>,
    /// Which addresses of the backend are dialled.
    pub policy: DialPolicy,
    /// A proxy, and which addresses of its are dialled.
    pub proxy: Option<(Uri, DialPolicy)>,
    /// Authorities beside the public ones.
    pub authorities: Option<Authorities>,
    /// For name resolution, TCP, the proxy and TLS together.
    pub timeout: Duration,
}

/// Dials TCP and TLS within a deadline.
#[derive(Clone)]
pub struct Connector {
    https: HttpsConnector<Route>,
    timeout: Duration,
}

impl Connector {
    /// Trusts the public authorities, and those in the options.
    pub fn new(options: ConnectorOptions) -> Result<Self, rustls::Error> {
        let ConnectorOptions { resolver, policy, proxy, authorities, timeout } = options;
        let tls = client_config(authorities.as_ref())?;
        let dialer = |policy| Dialer::new(resolver.clone(), policy, timeout);
        let route = match proxy {
            None => Route::Direct(dialer(policy)),
            Some((uri, of_proxy)) => Route::Proxy(Box::new(Proxied {
                shown: uri.authority().map_or("", |authority| authority.as_str()).into(),
                tunnel: Tunnel::new(uri, encrypted(tls.clone(), dialer(of_proxy))),
                policy,
            })),
        };
        Ok(Self { https: encrypted(tls, route), timeout })
    }
}

/// TLS for https.
fn encrypted<T>(tls: rustls::ClientConfig, inner: T) -> HttpsConnector<T> {
    HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(inner)
}

impl Dialer {
    fn new(resolver: Arc<dyn Resolve>, policy: DialPolicy, timeout: Duration) -> Self {
        let mut http = HttpConnector::new_with_resolver(Guarded { resolver, policy });
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(KEEPALIVE));
        http.set_recv_buffer_size(Some(RECEIVE_BUFFER));
        // Shared between the addresses of a name, so that a dead one leaves time for the next.
        http.set_connect_timeout(Some(timeout));
        Self { http, policy }
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<Link>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.https.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, timeout) = (self.https.call(uri), self.timeout);
        Box::pin(async move {
            tokio::time::timeout(timeout, connecting).await.map_err(|_| DialError::Timeout(timeout))?
        })
    }
}

/// The host of a URL, without the brackets of an IPv6 address.
#[must_use]
pub fn host(uri: &Uri) -> &str {
    let host = uri.host().unwrap_or_default();
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_and_metadata_addresses_are_refused_in_every_form() {
        for address in [
            "169.254.169.254",
            "169.254.0.1",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "0.0.0.0",
            "0.1.2.3",
            "255.255.255.255",
            "::",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "::ffff:169.254.169.254",
            "::ffff:0:169.254.169.254",
            "::169.254.169.254",
            "::ffff:100.100.100.200",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1:a9fe:a9:fe00::",
            "64:ff9b:1::a9fe:a9fe",
            "64:ff9b::a83f:8110",
            "2002:a9fe:a9fe::1",
            "::ffff:0.0.0.0",
        ] {
            let policy = DialPolicy { loopback: true };
            assert!(policy.refusal(address.parse().unwrap()).is_some(), "{address}");
        }
    }

    #[test]
    fn loopback_is_refused_only_where_it_is_the_pod_itself() {
        for address in ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1"] {
            let address = address.parse().unwrap();
            assert!(DialPolicy { loopback: false }.refusal(address).is_some(), "{address}");
            assert_eq!(DialPolicy { loopback: true }.refusal(address), None, "{address}");
        }
    }

    #[test]
    fn other_addresses_are_dialled() {
        for address in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "1.1.1.1",
            "100.64.0.1",
            "2606:4700::1",
            "fd00::1",
            "64:ff9b::a00:1",
            "64:ff9b:1:a00:0:100::",
        ] {
            assert_eq!(DialPolicy { loopback: false }.refusal(address.parse().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn of_several_addresses_only_the_good_ones_are_dialled() {
        let addresses =
            |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let policy = DialPolicy { loopback: false };
        let mixed = addresses(&["169.254.169.254", "10.0.0.1"]);
        assert_eq!(policy.check("a", mixed).unwrap(), addresses(&["10.0.0.1"]));
        assert!(matches!(
            policy.check("a", addresses(&["fe80::1", "127.0.0.1"])),
            Err(DialError::Refused(_))
        ));
    }
}
