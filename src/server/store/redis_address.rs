//! Where Redis is. In: a URL, or the parts of one, from a Secret or the environment. Out: a [`RedisAddress`], or what is
//! wrong with the text and what is allowed. No message and no `Debug` holds the password.

use std::fmt;
use std::net::IpAddr;

use redis::io::tcp::TcpSettings;
use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};

use crate::constants::secret_key;

/// Port where none is given.
const DEFAULT_PORT: u16 = 6379;
/// What is allowed, for messages.
const URL_FORM: &str = "write redis://[[user]:password@]host[:port][/database], or rediss:// for TLS";

/// An address that has been checked. Nothing has been connected to.
#[derive(Clone)]
pub struct RedisAddress {
    client: Client,
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

impl RedisAddress {
    /// An address from `redis://[[user]:password@]host[:port][/database]`, or `rediss://` for TLS, whose certificate is
    /// checked against the system's roots. A password is percent-encoded, as in every URL.
    pub fn from_url(text: &str) -> Result<Self, RedisAddressError> {
        let wrong = |reason| RedisAddressError::Url { reason };
        let url = redis::parse_redis_url(text.trim()).ok_or(wrong("is not one that Redis clients know"))?;
        if !["redis", "rediss"].contains(&url.scheme()) {
            return Err(wrong("has a scheme that is not supported"));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(wrong("has no host"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong(
                "has options after `?` or `#`, which are not supported (percent-encode them in a password)",
            ));
        }
        if url.port() == Some(0) {
            return Err(wrong("has port 0"));
        }
        let database = url.path().trim_matches('/');
        if !database.is_empty() && database.parse::<u16>().is_err() {
            return Err(wrong("has a database that is not a number from 0 to 65535"));
        }
        if !url.username().is_empty() && url.password().is_none() {
            return Err(wrong("has a user and no password"));
        }
        let info = url.into_connection_info().map_err(|_| wrong("cannot be used"))?;
        Self::from_info(info).ok_or(wrong("cannot be used"))
    }

    /// An address from a Secret's `host`, `port`, `username` and `password`. Surrounding white space of all but the
    /// password is ignored; empty is absent.
    pub fn from_parts(
        host: &str,
        port: Option<&str>,
        username: Option<&str>,
        password: Option<&str>,
    ) -> Result<Self, RedisAddressError> {
        let wrong = |key, allowed| RedisAddressError::Part { key, allowed };
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
        let mut settings = RedisConnectionInfo::default();
        match (given(username.map(str::trim)), given(password)) {
            (Some(_), None) => {
                return Err(wrong(secret_key::REDIS_PASSWORD, "must be given where `username` is given"));
            }
            (user, password) => {
                if let Some(user) = user {
                    settings = settings.set_username(user);
                }
                if let Some(password) = password {
                    settings = settings.set_password(password);
                }
            }
        }
        let unusable = wrong(secret_key::REDIS_HOST, "cannot be used");
        let info = (host, port).into_connection_info().map_err(|_| unusable.clone())?;
        Self::from_info(info.set_redis_settings(settings)).ok_or(unusable)
    }

    fn from_info(info: ConnectionInfo) -> Option<Self> {
        // CLIENT SETINFO would be one more exchange before the first answer, for a name that nobody looks up.
        let settings = info.redis_settings().clone().set_skip_set_lib_name();
        let info =
            info.set_tcp_settings(TcpSettings::default().set_nodelay(true)).set_redis_settings(settings);
        Client::open(info).ok().map(|client| Self { client })
    }

    /// What opens connections.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }
}

/// Whether this is a name or an address, and nothing around it.
fn is_host(text: &str) -> bool {
    let name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    text.parse::<IpAddr>().is_ok() || (!text.is_empty() && text.len() <= 253 && text.bytes().all(name))
}

/// Whether both lead to the same data as the same user: a Secret that was written again without a change is no change.
impl PartialEq for RedisAddress {
    fn eq(&self, other: &Self) -> bool {
        let (mine, other) = (self.client.get_connection_info(), other.client.get_connection_info());
        let login = |info: &ConnectionInfo| {
            let settings = info.redis_settings();
            (settings.db(), settings.username().map(str::to_owned), settings.password().map(str::to_owned))
        };
        mine.addr() == other.addr() && login(mine) == login(other)
    }
}

/// The address without user and password.
impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.client.get_connection_info().addr();
        let scheme = if matches!(address, ConnectionAddr::TcpTls { .. }) { "rediss" } else { "redis" };
        write!(f, "{scheme}://{address}")
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

    #[test]
    fn urls_and_parts_are_read_and_shown_without_the_password() {
        for (url, shown) in [
            ("redis://cache", "redis://cache:6379"),
            ("redis://:s3cret%2F@cache:7000/3\n", "redis://cache:7000"),
            ("rediss://app:s3cret@10.0.0.7", "rediss://10.0.0.7:6379"),
        ] {
            let address = RedisAddress::from_url(url).unwrap();
            assert_eq!(address.to_string(), shown);
            assert!(!format!("{address:?}").contains("s3cret"));
        }
        let url = RedisAddress::from_url("redis://:s3cret%2F@cache").unwrap().client();
        assert_eq!(url.get_connection_info().redis_settings().password(), Some("s3cret/"));

        let parts =
            RedisAddress::from_parts(" cache\n", Some("7000\n"), Some("app"), Some("s3cret")).unwrap();
        assert_eq!(format!("{parts:?}"), "RedisAddress(redis://cache:7000)");
        assert_eq!(parts.client().get_connection_info().redis_settings().username(), Some("app"));
        assert_eq!(
            RedisAddress::from_parts("fd00::7", Some(""), None, None).unwrap().to_string(),
            "redis://fd00::7:6379"
        );
    }

    #[test]
    fn addresses_are_equal_when_host_port_database_and_login_are() {
        let address = |url| RedisAddress::from_url(url).unwrap();
        let one = address("redis://app:pw@cache:6379/1");
        assert_eq!(one, address("redis://app:pw@cache/1"));
        for other in [
            "redis://app:pw@other/1",
            "redis://app:pw@cache:7000/1",
            "redis://app:pw@cache/2",
            "redis://app:new@cache/1",
            "redis://api:pw@cache/1",
            "rediss://app:pw@cache/1",
        ] {
            assert_ne!(one, address(other), "{other}");
        }
        let parts = RedisAddress::from_parts("cache", None, None, Some("p@/:")).unwrap();
        assert_eq!(parts, address("redis://:p%40%2F%3A@cache"));
    }

    #[test]
    fn a_url_that_cannot_be_used_is_refused_with_what_is_allowed_and_without_its_text() {
        for url in [
            "",
            "cache:6379",
            "http://:s3cret@cache",
            "unix:///s3cret.sock",
            "redis://",
            "redis://:s3cret@cache:0",
            "redis://:s3cret@cache:99999",
            "redis://:s3cret@cache/s3cret",
            "redis://:s3cret@cache/-1",
            "redis://s3cret@cache",
            "redis://:pass#s3cret@cache",
            "redis://:s3cret@cache?db=s3cret",
            "rediss://:s3cret@cache/#insecure",
        ] {
            let message = RedisAddress::from_url(url).unwrap_err().to_string();
            assert!(message.contains("rediss://"), "{message}");
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
            let message = RedisAddress::from_parts(host, port, user, password).unwrap_err().to_string();
            assert!(message.contains(named), "{message}");
        }
    }
}
