//! Where Redis is and who we are there. In: a URL or the parts of one, and certificates, from a Secret or the environment.
//! Out: a [`RedisAddress`], or what is wrong with the text and what is allowed. No message and no `Debug` holds a password
//! or a key.

use std::fmt;

use redis::io::tcp::TcpSettings;
use redis::{Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisResult};

pub use super::redis_tls::RedisCertificates;
use super::redis_tls::Tls;
use super::redis_url::{RedisUrl, is_host};
use crate::constants::secret_key;

/// Port where none is given.
pub(super) const DEFAULT_PORT: u16 = 6379;
/// What is allowed, for messages.
const URL_FORM: &str = "write redis://[[user]:password@]host[:port][/database], redis+sentinel://host[:port],.../master or \
                        redis+cluster://host[:port],..., and rediss for redis where there is TLS";

/// An address that has been checked. Nothing has been connected to.
#[derive(Clone, PartialEq)]
pub struct RedisAddress {
    topology: Topology,
    /// Redis itself, the Sentinels, or some nodes of the Cluster; never empty.
    servers: Vec<Server>,
    login: Login,
    sentinel_login: Login,
    database: u16,
    tls: Option<Tls>,
}

/// What is behind the servers of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// One Redis.
    Single,
    /// Sentinels, which know where the master of this name is.
    Sentinel {
        /// The name.
        master: String,
    },
    /// A Redis Cluster.
    Cluster,
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Server {
    /// What a Sentinel or a Cluster says; None for what is no address. An empty host is a host for the one who asked.
    pub(super) fn told(host: &str, port: u16) -> Option<Self> {
        ((host.is_empty() || is_host(host)) && port != 0).then(|| Self { host: host.to_owned(), port })
    }

    /// This server, on this host if it has none of its own.
    pub(super) fn or_on(self, host: &str) -> Self {
        if self.host.is_empty() { Self { host: host.to_owned(), ..self } } else { self }
    }
}

/// Who we are.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Login {
    pub username: Option<String>,
    pub password: Option<String>,
}

/// What is wrong with an address. The text that was given is not repeated: it may hold the password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisAddressError {
    /// A URL that cannot be used.
    #[error("the Redis URL {reason}: {URL_FORM}")]
    Url {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// One of the parts cannot be used.
    #[error("the Redis `{key}` {allowed}")]
    Part {
        /// One of `constants::secret_key`.
        key: &'static str,
        /// What is allowed.
        allowed: &'static str,
    },
}

impl RedisAddressError {
    /// The data key of a Secret that is to be changed: one of `constants::secret_key`.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::Url { .. } => secret_key::REDIS_URL,
            Self::Part { key, .. } => key,
        }
    }
}

/// A part that cannot be used.
pub(super) fn wrong(key: &'static str, allowed: &'static str) -> RedisAddressError {
    RedisAddressError::Part { key, allowed }
}

impl RedisAddress {
    /// An address from one of the forms of docs/redis.md. Certificates are checked against the system's roots.
    pub fn from_url(text: &str) -> Result<Self, RedisAddressError> {
        Self::from_url_with(text, &RedisCertificates::default())
    }

    /// An address from a URL, and the certificates of a Secret, which only a URL with TLS can use.
    pub fn from_url_with(text: &str, certificates: &RedisCertificates) -> Result<Self, RedisAddressError> {
        let RedisUrl { topology, tls, servers, login, sentinel_login, database } =
            RedisUrl::parse(text.trim()).map_err(|reason| RedisAddressError::Url { reason })?;
        if let Some(key) = certificates.first_key().filter(|_| !tls) {
            return Err(wrong(
                key,
                "can only be used with TLS: write rediss for redis in `url`, or remove it",
            ));
        }
        let tls = tls.then(|| Tls::new(certificates)).transpose()?;
        Ok(Self { topology, servers, login, sentinel_login, database, tls })
    }

    /// An address from a Secret's `host`, `port`, `username` and `password`, with TLS where there are certificates.
    /// Surrounding white space of all but the password is ignored; empty is absent.
    pub fn from_parts(
        host: &str,
        port: Option<&str>,
        username: Option<&str>,
        password: Option<&str>,
        certificates: &RedisCertificates,
    ) -> Result<Self, RedisAddressError> {
        let given = |part: Option<&str>| part.filter(|part| !part.is_empty()).map(str::to_owned);
        let host = host.trim();
        if !is_host(host) {
            return Err(wrong(
                secret_key::REDIS_HOST,
                "must be a host name or an IP address alone, such as redis.chat.svc: no scheme, port or brackets",
            ));
        }
        let port = match given(port.map(str::trim)) {
            None => DEFAULT_PORT,
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(wrong(
                secret_key::REDIS_PORT,
                "must be a number from 1 to 65535, or be left out for 6379",
            ))?,
        };
        let login = Login { username: given(username.map(str::trim)), password: given(password) };
        if login.username.is_some() && login.password.is_none() {
            return Err(wrong(secret_key::REDIS_PASSWORD, "must not be absent where `username` is given"));
        }
        let tls = certificates.first_key().map(|_| Tls::new(certificates)).transpose()?;
        Ok(Self {
            topology: Topology::Single,
            servers: vec![Server { host: host.to_owned(), port }],
            login,
            sentinel_login: Login::default(),
            database: 0,
            tls,
        })
    }

    /// What is behind the servers.
    pub(super) fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Redis itself, the Sentinels, or some nodes of the Cluster; never empty.
    pub(super) fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// How to connect to a Redis.
    pub(super) fn redis(&self, server: &Server) -> RedisResult<Client> {
        self.client(server, &self.login, self.database)
    }

    /// How to connect to a Sentinel.
    pub(super) fn sentinel(&self, server: &Server) -> RedisResult<Client> {
        self.client(server, &self.sentinel_login, 0)
    }

    fn client(&self, server: &Server, login: &Login, database: u16) -> RedisResult<Client> {
        let (host, port) = (server.host.clone(), server.port);
        let address = match &self.tls {
            Some(tls) => tls.address(host, port),
            None => ConnectionAddr::Tcp(host, port),
        };
        // CLIENT SETINFO would be one more exchange before the first answer, for a name that nobody looks up.
        let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name().set_db(i64::from(database));
        if let Some(username) = &login.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &login.password {
            settings = settings.set_password(password);
        }
        let info = address
            .into_connection_info()?
            .set_tcp_settings(TcpSettings::default().set_nodelay(true))
            .set_redis_settings(settings);
        Client::open(info)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// The address without users and passwords.
impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        let kind = match self.topology {
            Topology::Single => "",
            Topology::Sentinel { .. } => "+sentinel",
            Topology::Cluster => "+cluster",
        };
        write!(f, "{scheme}{kind}://")?;
        for (index, server) in self.servers.iter().enumerate() {
            write!(f, "{}{server}", if index == 0 { "" } else { "," })?;
        }
        match &self.topology {
            Topology::Sentinel { master } => write!(f, "/{master}"),
            Topology::Single | Topology::Cluster => Ok(()),
        }
    }
}

impl fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisAddress({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> RedisAddress {
        RedisAddress::from_url(url).unwrap()
    }

    fn parts(
        host: &str,
        port: Option<&str>,
        user: Option<&str>,
        password: Option<&str>,
    ) -> Result<RedisAddress, RedisAddressError> {
        RedisAddress::from_parts(host, port, user, password, &RedisCertificates::default())
    }

    #[test]
    fn addresses_are_shown_without_passwords() {
        for (url, shown) in [
            ("redis://cache", "redis://cache:6379"),
            ("redis://:s3cret%2F@cache:7000/3\n", "redis://cache:7000"),
            ("rediss://app:s3cret@10.0.0.7", "rediss://10.0.0.7:6379"),
            (
                "rediss+sentinel://:s3cret@a,[fd00::7]:1/m/2?sentinel_password=s3cret",
                "rediss+sentinel://a:26379,[fd00::7]:1/m",
            ),
            ("redis+cluster://:s3cret@a,b:7000", "redis+cluster://a:6379,b:7000"),
        ] {
            let address = address(url);
            assert_eq!(address.to_string(), shown);
            assert_eq!(format!("{address:?}"), format!("RedisAddress({shown})"));
        }
        let parts = parts(" cache\n", Some("7000\n"), Some("app"), Some("s3cret")).unwrap();
        assert_eq!(format!("{parts:?}"), "RedisAddress(redis://cache:7000)");
        assert_eq!(
            super::tests::parts("fd00::7", Some(""), None, None).unwrap(),
            address("redis://[fd00::7]")
        );
    }

    #[test]
    fn each_server_is_connected_to_with_its_own_login() {
        let address = address("redis+sentinel://app:pw@s1/m/3?sentinel_password=watch");
        let server = &address.servers()[0];
        let login = |client: Client| {
            let settings = client.get_connection_info().redis_settings().clone();
            let (user, password) =
                (settings.username().map(str::to_owned), settings.password().map(str::to_owned));
            (user, password, settings.db())
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(login(address.redis(server).unwrap()), (text("app"), text("pw"), 3));
        assert_eq!(login(address.sentinel(server).unwrap()), (None, text("watch"), 0));
    }

    #[test]
    fn addresses_are_equal_when_they_lead_to_the_same_data_as_the_same_user() {
        let one = address("redis://app:pw@cache:6379/1");
        assert_eq!(one, address("redis://app:pw@cache/1"));
        for other in [
            "redis://app:pw@other/1",
            "redis://app:pw@cache:7000/1",
            "redis://app:pw@cache/2",
            "redis://app:new@cache/1",
            "redis://api:pw@cache/1",
            "rediss://app:pw@cache/1",
            "redis+cluster://app:pw@cache",
        ] {
            assert_ne!(one, address(other), "{other}");
        }
        assert_ne!(address("redis+sentinel://s/a"), address("redis+sentinel://s/b"));
        assert_eq!(parts("cache", None, None, Some("p@/:")), Ok(address("redis://:p%40%2F%3A@cache")));
    }

    #[test]
    fn a_url_that_cannot_be_used_is_refused_with_what_is_allowed_and_without_its_text() {
        for url in [
            "",
            "cache:6379",
            "http://:s3cret@cache",
            "unix:///s3cret.sock",
            "redis://:s3cret@cache:99999",
            "redis://:s3cret@cache/s3cret",
            "redis://s3cret@cache",
            "redis://:pass#s3cret@cache",
            "redis://:s3cret@cache?db=s3cret",
            "rediss://:s3cret@cache/#insecure",
            "redis+sentinel://:s3cret@a",
            "redis+cluster://:s3cret@a/s3cret",
        ] {
            let message = RedisAddress::from_url(url).unwrap_err().to_string();
            assert!(message.contains("redis+sentinel://host") && message.contains("TLS"), "{message}");
            assert!(!message.contains("s3cret"), "{message}");
        }
    }

    #[test]
    fn a_part_that_cannot_be_used_is_named() {
        for (host, port, user, password, named) in [
            ("", None, None, None, "`host`"),
            ("redis://cache", None, None, None, "`host`"),
            ("cache:6379", None, None, None, "`host`"),
            ("[fd00::7]", None, None, None, "`host`"),
            ("cache", Some("0"), None, None, "`port`"),
            ("cache", Some("redis"), None, None, "`port`"),
            ("cache", None, Some("app"), None, "`password`"),
        ] {
            let message = parts(host, port, user, password).unwrap_err().to_string();
            assert!(message.contains(named), "{message}");
        }
    }

    #[test]
    fn certificates_need_tls() {
        let certificates = RedisCertificates { ca: Some("x"), ..RedisCertificates::default() };
        let error = RedisAddress::from_url_with("redis://cache", &certificates).unwrap_err();
        assert_eq!(error.key(), secret_key::REDIS_CA);
        assert!(error.to_string().contains("rediss"), "{error}");
        let empty = RedisCertificates { ca: Some(" \n"), ..RedisCertificates::default() };
        assert_eq!(RedisAddress::from_url_with("redis://cache", &empty), Ok(address("redis://cache")));
    }
}
