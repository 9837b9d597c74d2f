//! What an error says of a Redis. In: the error. Out: a [`Verdict`], and words for people that repeat no key and no value.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::redis_address::Server;

/// What a failed operation says of the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is there and does not want this.
    Answered,
    /// It is there and has no room for this now.
    Full,
    /// Another node of the Cluster has it.
    Redirect(Redirect),
    /// The connection ended. A new one may work: Redis was restarted, or closed an idle connection.
    Ended,
    /// Its keys are on two nodes while their slot is being moved; what else the node has is served.
    Split,
    /// It cannot serve this now.
    Busy,
    /// It is not there, or whoever is behind its name is not the one to serve.
    Away,
}

/// Where a Cluster sends us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// This once, for the slot is being moved there; else for good.
    pub ask: bool,
    /// An empty host is the host that was asked; None is no address at all.
    pub to: Option<Server>,
}

impl Redirect {
    fn of(error: &RedisError, ask: bool) -> Self {
        // Redis writes no brackets around IPv6.
        let address = error.redirect_node().and_then(|(address, _)| address.rsplit_once(':'));
        let to = address.and_then(|(host, port)| Server::told(host, port.parse().ok()?));
        Self { ask, to }
    }
}

/// What an error says.
#[must_use]
pub fn verdict(error: &RedisError) -> Verdict {
    use ServerErrorKind::{Ask, BusyLoading, ClusterDown, MasterDown, Moved, ReadOnly, TryAgain};
    match error.kind() {
        ErrorKind::Io if error.is_connection_dropped() && !error.is_connection_refusal() => Verdict::Ended,
        ErrorKind::Server(Moved) => Verdict::Redirect(Redirect::of(error, false)),
        ErrorKind::Server(Ask) => Verdict::Redirect(Redirect::of(error, true)),
        ErrorKind::Server(TryAgain) => Verdict::Split,
        ErrorKind::Server(ClusterDown) => Verdict::Busy,
        ErrorKind::Io
        | ErrorKind::AuthenticationFailed
        | ErrorKind::Server(BusyLoading | MasterDown | ReadOnly) => Verdict::Away,
        // A script of somebody else that does not end; what is stored cannot be made durable.
        _ if error.code() == Some("OOM") => Verdict::Full,
        _ if matches!(error.code(), Some("BUSY" | "MISCONF" | "NOREPLICAS")) => Verdict::Busy,
        _ => Verdict::Answered,
    }
}

/// What went wrong, without what the other end said in its own words: that may repeat keys and values.
#[must_use]
pub fn describe(error: &RedisError) -> String {
    match (error.kind(), error.code()) {
        (ErrorKind::Io, _) => error.to_string(),
        (ErrorKind::AuthenticationFailed, _) => "it refuses the user or the password".to_owned(),
        (ErrorKind::MasterNameNotFoundBySentinel, _) => {
            "no Sentinel knows a master of the name in its URL".to_owned()
        }
        (_, Some(code)) => code.chars().filter(char::is_ascii_alphanumeric).take(32).collect(),
        _ => error.category().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn io(kind: io::ErrorKind) -> RedisError {
        io::Error::from(kind).into()
    }

    fn server(kind: ServerErrorKind, detail: &str) -> RedisError {
        (ErrorKind::Server(kind), "x", detail.to_owned()).into()
    }

    fn other(code: &str) -> RedisError {
        redis::make_extension_error(code.to_owned(), None)
    }

    #[test]
    fn errors_that_mean_away_are_told_from_answers() {
        use ServerErrorKind as Kind;
        for (error, expected) in [
            (io(io::ErrorKind::ConnectionRefused), Verdict::Away),
            (io(io::ErrorKind::TimedOut), Verdict::Away),
            (io(io::ErrorKind::BrokenPipe), Verdict::Ended),
            (io(io::ErrorKind::ConnectionReset), Verdict::Ended),
            (server(Kind::BusyLoading, ""), Verdict::Away),
            (server(Kind::MasterDown, ""), Verdict::Away),
            (server(Kind::ReadOnly, ""), Verdict::Away),
            (server(Kind::ClusterDown, ""), Verdict::Busy),
            (server(Kind::TryAgain, ""), Verdict::Split),
            (server(Kind::NoPerm, ""), Verdict::Answered),
            (server(Kind::NoScript, ""), Verdict::Answered),
            (server(Kind::ResponseError, ""), Verdict::Answered),
            (other("OOM"), Verdict::Full),
            (other("MISCONF"), Verdict::Busy),
            (other("WRONGTYPE"), Verdict::Answered),
        ] {
            assert_eq!(verdict(&error), expected, "{error}");
        }
    }

    #[test]
    fn redirections_tell_where() {
        let to = |host: &str| Some(Server { host: host.to_owned(), port: 6381 });
        for (detail, expected) in [
            ("3999 127.0.0.1:6381", to("127.0.0.1")),
            ("3999 redis-1.chat.svc:6381", to("redis-1.chat.svc")),
            ("3999 fd00::7:6381", to("fd00::7")),
            ("3999 :6381", to("")),
            ("3999 ?:6381", None),
            ("3999 a/b:6381", None),
            ("3999 a:0", None),
            ("3999 a", None),
            ("", None),
        ] {
            for (kind, ask) in [(ServerErrorKind::Moved, false), (ServerErrorKind::Ask, true)] {
                let expected = Verdict::Redirect(Redirect { ask, to: expected.clone() });
                assert_eq!(verdict(&server(kind, detail)), expected, "{detail}");
            }
        }
    }

    #[test]
    fn descriptions_do_not_repeat_what_redis_said() {
        assert_eq!(describe(&server(ServerErrorKind::NoPerm, "key s3cret")), "NOPERM");
    }
}
