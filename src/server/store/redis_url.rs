//! The URLs of a Redis, a set of Sentinels and a Redis Cluster. In: the text of one. Out: its parts, or what is wrong in
//! words that repeat none of it: it may hold the password.

use std::borrow::Cow;
use std::net::IpAddr;

use super::redis_address::{DEFAULT_PORT, Login, Server, Topology};

/// Port of a Sentinel where none is given.
const SENTINEL_PORT: u16 = 26379;
/// Servers that a URL may name.
const MOST_SERVERS: usize = 64;

/// What a URL says.
pub(super) struct RedisUrl {
    pub topology: Topology,
    pub tls: bool,
    /// Redis itself, the Sentinels, or some nodes of the Cluster; never empty.
    pub servers: Vec<Server>,
    pub login: Login,
    /// Of the Sentinels; they know nothing of Redis' own users.
    pub sentinel_login: Login,
    pub database: u16,
}

impl RedisUrl {
    /// Reads `scheme://[[user]:password@]host[:port][,host[:port]...][/path][?options]`.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or("is not one that Redis clients know")?;
        let (tls, kind) = match scheme.strip_prefix("rediss") {
            Some(kind) => (true, kind),
            None => (false, scheme.strip_prefix("redis").ok_or("has a scheme that is not supported")?),
        };
        let (rest, options) = split_options(rest)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (parse_login(login)?, hosts),
            None => (Login::default(), authority),
        };
        let path = path.strip_suffix('/').unwrap_or(path);
        let (topology, database) = match kind {
            "" => (Topology::Single, path),
            "+sentinel" => {
                let (master, database) = path.split_once('/').unwrap_or((path, ""));
                (Topology::Sentinel { master: master_name(master)? }, database)
            }
            "+cluster" if !path.is_empty() => {
                return Err("of a Cluster has a path: a Cluster has no databases");
            }
            "+cluster" => (Topology::Cluster, path),
            _ => return Err("has a scheme that is not supported"),
        };
        let database = match database {
            "" => 0,
            number => number.parse().map_err(|_| "has a database that is not a number from 0 to 65535")?,
        };
        let sentinel = matches!(topology, Topology::Sentinel { .. });
        let sentinel_login = match options {
            None => Login::default(),
            Some(options) if sentinel => parse_options(options)?,
            Some(_) => {
                return Err(
                    "has options after `?`, which are not supported (percent-encode them in a password)",
                );
            }
        };
        let servers = hosts
            .split(',')
            .map(|host| parse_server(host, if sentinel { SENTINEL_PORT } else { DEFAULT_PORT }))
            .collect::<Result<Vec<_>, _>>()?;
        if servers.len() > 1 && topology == Topology::Single {
            return Err("names several hosts, which only redis+sentinel:// and redis+cluster:// do");
        }
        if servers.len() > MOST_SERVERS {
            return Err("names more than 64 hosts");
        }
        Ok(Self { topology, tls, servers, login, sentinel_login, database })
    }
}

/// Whether this is a name or an address, and nothing around it.
pub(super) fn is_host(text: &str) -> bool {
    let name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    text.parse::<IpAddr>().is_ok() || (!text.is_empty() && text.len() <= 253 && text.bytes().all(name))
}

fn split_options(rest: &str) -> Result<(&str, Option<&str>), &'static str> {
    if rest.contains('#') {
        return Err("has something after `#`, which is not supported (percent-encode it in a password)");
    }
    Ok(match rest.split_once('?') {
        Some((rest, options)) => (rest, Some(options)),
        None => (rest, None),
    })
}

fn parse_login(text: &str) -> Result<Login, &'static str> {
    let (username, password) = text.split_once(':').ok_or("has a user and no password")?;
    let login = Login { username: decoded(username)?, password: decoded(password)? };
    if login.username.is_some() && login.password.is_none() {
        return Err("has a user and no password");
    }
    Ok(login)
}

fn parse_options(options: &str) -> Result<Login, &'static str> {
    let mut login = Login::default();
    for option in options.split('&') {
        match option.split_once('=') {
            Some(("sentinel_username", value)) => login.username = decoded(value)?,
            Some(("sentinel_password", value)) => login.password = decoded(value)?,
            _ => return Err("has an option that is not sentinel_username or sentinel_password"),
        }
    }
    if login.username.is_some() && login.password.is_none() {
        return Err("has sentinel_username and no sentinel_password");
    }
    Ok(login)
}

fn parse_server(text: &str, default_port: u16) -> Result<Server, &'static str> {
    let no_host = "has no host, or one that is neither a name nor an address ([...] around IPv6)";
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(no_host)?;
            if !host.contains(':') {
                return Err(no_host);
            }
            (host, port.strip_prefix(':').or_else(|| port.is_empty().then_some("")).ok_or(no_host)?)
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    if !is_host(host) {
        return Err(no_host);
    }
    let port = match port {
        "" => default_port,
        port => (port.parse().ok().filter(|port| *port != 0))
            .ok_or("has a port that is not a number from 1 to 65535")?,
    };
    Ok(Server { host: host.to_owned(), port })
}

fn master_name(text: &str) -> Result<String, &'static str> {
    let name = decoded(text)?.ok_or("of a set of Sentinels has no master's name after the hosts")?;
    // What Sentinel itself allows.
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !name.bytes().all(allowed) {
        return Err("has a master's name with something else than letters, digits and `.-_`");
    }
    Ok(name)
}

/// Percent-decoded; None when empty.
fn decoded(text: &str) -> Result<Option<String>, &'static str> {
    let text = percent_encoding::percent_decode_str(text).decode_utf8();
    let text = text.map(Cow::into_owned).map_err(|_| "has a user or password that is not UTF-8")?;
    Ok((!text.is_empty()).then_some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> RedisUrl {
        RedisUrl::parse(text).unwrap_or_else(|reason| panic!("{text} {reason}"))
    }

    fn hosts(url: &RedisUrl) -> Vec<String> {
        url.servers.iter().map(ToString::to_string).collect()
    }

    fn login(username: Option<&str>, password: Option<&str>) -> Login {
        Login { username: username.map(str::to_owned), password: password.map(str::to_owned) }
    }

    #[test]
    fn every_topology_has_its_form() {
        for (text, topology, tls, servers, database) in [
            ("redis://cache", Topology::Single, false, vec!["cache:6379"], 0),
            ("rediss://cache:7000/3", Topology::Single, true, vec!["cache:7000"], 3),
            ("redis://[fd00::7]/", Topology::Single, false, vec!["[fd00::7]:6379"], 0),
            (
                "redis+sentinel://s1,s2:26380,[fd00::3]:1/my.master-1/2",
                Topology::Sentinel { master: "my.master-1".to_owned() },
                false,
                vec!["s1:26379", "s2:26380", "[fd00::3]:1"],
                2,
            ),
            (
                "rediss+sentinel://s1/m",
                Topology::Sentinel { master: "m".to_owned() },
                true,
                vec!["s1:26379"],
                0,
            ),
            ("redis+cluster://a,b:7000", Topology::Cluster, false, vec!["a:6379", "b:7000"], 0),
            ("rediss+cluster://10.0.0.7/", Topology::Cluster, true, vec!["10.0.0.7:6379"], 0),
        ] {
            let url = parsed(text);
            assert_eq!((&url.topology, url.tls, url.database), (&topology, tls, database), "{text}");
            assert_eq!(hosts(&url), servers, "{text}");
            assert!((url.login, url.sentinel_login) == Default::default(), "{text}");
        }
    }

    #[test]
    fn users_and_passwords_are_percent_decoded() {
        for (text, expected) in [
            ("redis://:pw@cache", login(None, Some("pw"))),
            ("redis://app:p%40%2F%3A%23%25%C3%BC@cache", login(Some("app"), Some("p@/:#%ü"))),
            ("redis://a%3Ab:c:d@cache", login(Some("a:b"), Some("c:d"))),
            ("redis+cluster://app:p@w@a,b", login(Some("app"), Some("p@w"))),
            ("redis://:@cache", login(None, None)),
        ] {
            assert!(parsed(text).login == expected, "{text}");
        }
        let url = parsed("redis+sentinel://app:pw@s1/m?sentinel_username=s&sentinel_password=%26%3D");
        assert!(url.login == login(Some("app"), Some("pw")));
        assert!(url.sentinel_login == login(Some("s"), Some("&=")));
    }

    #[test]
    fn what_cannot_be_used_is_told() {
        for (text, part) in [
            ("", "not one that Redis clients know"),
            ("cache:6379", "not one that Redis clients know"),
            ("http://cache", "a scheme"),
            ("redis+unix://x", "a scheme"),
            ("valkey://cache", "a scheme"),
            ("redis://", "no host"),
            ("redis://a b", "no host"),
            ("redis://fd00::7", "a port"),
            ("redis://[cache]", "no host"),
            ("redis://[fd00::7]x", "no host"),
            ("redis+cluster://a,,b", "no host"),
            ("redis://a,b", "several hosts"),
            ("redis://cache:0", "a port"),
            ("redis://cache:99999", "a port"),
            ("redis://cache:x", "a port"),
            ("redis://cache/x", "a database"),
            ("redis://cache/-1", "a database"),
            ("redis://cache/1/2", "a database"),
            ("redis://user@cache", "no password"),
            ("redis://user:@cache", "no password"),
            ("redis://:%ff@cache", "not UTF-8"),
            ("redis://:a#b@cache", "after `#`"),
            ("redis://:a?b@cache", "options after `?`"),
            ("redis+cluster://a/1", "no databases"),
            ("redis+cluster://a?x=1", "options after `?`"),
            ("redis+sentinel://s1", "no master's name"),
            ("redis+sentinel://s1/", "no master's name"),
            ("redis+sentinel://s1//1", "no master's name"),
            ("redis+sentinel://s1/a%20b", "master's name"),
            ("redis+sentinel://s1/m/x", "a database"),
            ("redis+sentinel://s1/m?password=x", "an option"),
            ("redis+sentinel://s1/m?sentinel_username=x", "no sentinel_password"),
        ] {
            match RedisUrl::parse(text) {
                Ok(_) => panic!("{text} is taken"),
                Err(reason) => assert!(reason.contains(part), "{text}: {reason}"),
            }
        }
        assert!(RedisUrl::parse(&format!("redis+cluster://{}a", "a,".repeat(64))).is_err());
    }
}
