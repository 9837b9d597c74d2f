//! The one connection to Redis that all requests share. In: an operation. Out: its answer, or [`StoreError`] in bounded
//! time: at most [`CONNECT`] and [`OPERATION`] for a request that has to connect, [`OPERATION`] for one that finds the
//! connection dead, nothing while the breaker is open.
//!
//! Nothing is tried twice. An operation that fails drops the connection, and the next request opens a new one.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind};
use tokio::time::timeout;

use super::StoreError;
use super::breaker::{Breaker, Permit, SPREAD};
use super::redis_address::{RedisAddress, Topology};
use super::sentinel;

/// Deadline of connecting, authentication included.
pub const CONNECT: Duration = Duration::from_millis(250);
/// Deadline of one operation.
pub const OPERATION: Duration = Duration::from_millis(50);

/// The connection, and what is known of the other end.
pub struct Link {
    address: RedisAddress,
    state: Mutex<State>,
    /// Held by the request that connects; the others wait for its connection.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    connection: Option<MultiplexedConnection>,
    /// Number of the connection, so that a late failure of an old one does not drop its successor.
    generation: u64,
    breaker: Breaker,
    connected: Option<bool>,
}

/// A connection to use, and what to say when it fails.
struct Lease {
    connection: MultiplexedConnection,
    generation: u64,
    permit: Permit,
}

/// What a failed operation says of the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is there and does not want this.
    Answered,
    /// The connection ended. A new one may work: Redis was restarted, or closed an idle connection.
    Ended,
    /// It is not there, or not able to serve.
    Away,
}

impl Link {
    /// A link that connects when it is first used.
    #[must_use]
    pub fn new(address: RedisAddress) -> Self {
        Self { address, state: Mutex::default(), connecting: tokio::sync::Mutex::default() }
    }

    /// Whether keys that are used together must have the same hash tag: one script over several then is one trip each.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        *self.address.topology() == Topology::Cluster
    }

    /// Whether the last operation was answered; None before the first.
    #[must_use]
    pub fn connected(&self) -> Option<bool> {
        self.state().connected
    }

    /// Runs one operation.
    pub async fn run<T, F>(&self, operation: impl FnOnce(MultiplexedConnection) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let Lease { connection, generation, permit } = self.lease().await?;
        match timeout(OPERATION, operation(connection)).await {
            Ok(Ok(value)) => {
                self.answered();
                Ok(value)
            }
            Ok(Err(error)) => {
                let reason = describe(&error);
                match verdict(&error) {
                    Verdict::Answered => {
                        self.answered();
                        return Err(StoreError::Failed(reason));
                    }
                    Verdict::Ended if permit == Permit::Closed => self.lost(Some(generation), None, &reason),
                    Verdict::Ended | Verdict::Away => self.lost(Some(generation), Some(permit), &reason),
                }
                Err(StoreError::Unreachable(reason))
            }
            Err(_) => {
                self.lost(Some(generation), Some(permit), "it does not answer");
                Err(StoreError::Timeout(OPERATION))
            }
        }
    }

    /// The shared connection, opened if there is none.
    async fn lease(&self) -> Result<Lease, StoreError> {
        let permit = self.state().breaker.permit(Instant::now());
        if permit == Permit::Refused {
            return Err(StoreError::Unreachable("it did not answer a moment ago".to_owned()));
        }
        if let Some(lease) = self.current(permit) {
            return Ok(lease);
        }
        let connect = async {
            let _turn = self.connecting.lock().await;
            if let Some(lease) = self.current(permit) {
                return Ok(lease);
            }
            if permit == Permit::Closed && self.state().breaker.is_open() {
                return Err("it could not be connected to a moment ago".to_owned());
            }
            let connection = self.open().await.map_err(|error| describe(&error))?;
            let mut state = self.state();
            state.generation += 1;
            state.connection = Some(connection.clone());
            Ok(Lease { connection, generation: state.generation, permit })
        };
        match timeout(CONNECT, connect).await {
            Ok(Ok(lease)) => Ok(lease),
            Ok(Err(reason)) => {
                self.lost(None, Some(permit), &reason);
                Err(StoreError::Unreachable(reason))
            }
            Err(_) => {
                self.lost(None, Some(permit), "it cannot be connected to in time");
                Err(StoreError::Timeout(CONNECT))
            }
        }
    }

    /// A new connection, to the master that Sentinels name where there are Sentinels.
    async fn open(&self) -> RedisResult<MultiplexedConnection> {
        let master = match self.address.topology() {
            Topology::Sentinel { master } => Some(sentinel::master(&self.address, master).await?),
            Topology::Single | Topology::Cluster => None,
        };
        let server = master.as_ref().unwrap_or(&self.address.servers()[0]);
        sentinel::connect(self.address.redis(server)).await
    }

    fn current(&self, permit: Permit) -> Option<Lease> {
        let state = self.state();
        let connection = state.connection.clone()?;
        Some(Lease { connection, generation: state.generation, permit })
    }

    fn answered(&self) {
        let before = {
            let mut state = self.state();
            state.breaker.answered();
            state.connected.replace(true)
        };
        if before == Some(false) {
            tracing::warn!(redis.address = %self.address, "Redis answers again");
        }
    }

    /// Drops the connection with this number, tells the breaker where there is something to tell, and logs the first
    /// failure of an outage.
    fn lost(&self, generation: Option<u64>, permit: Option<Permit>, reason: &str) {
        let before = {
            let mut state = self.state();
            if generation == Some(state.generation) {
                state.connection = None;
            }
            if let Some(permit) = permit {
                state.breaker.failed(Instant::now(), permit, rand::random_range(SPREAD));
            }
            state.connected.replace(false)
        };
        if before != Some(false) {
            tracing::warn!(redis.address = %self.address, error = reason, "Redis is not reachable");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and the state would be whole if it did.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn verdict(error: &RedisError) -> Verdict {
    use ServerErrorKind::{Ask, BusyLoading, ClusterDown, MasterDown, Moved, ReadOnly, TryAgain};
    match error.kind() {
        ErrorKind::Io if error.is_connection_dropped() && !error.is_connection_refusal() => Verdict::Ended,
        ErrorKind::Io | ErrorKind::AuthenticationFailed => Verdict::Away,
        // A replica, one that is not ready, or a part of a cluster: whoever is behind the name may change.
        ErrorKind::Server(BusyLoading | MasterDown | ReadOnly | ClusterDown | Moved | Ask | TryAgain) => {
            Verdict::Away
        }
        _ => Verdict::Answered,
    }
}

/// What went wrong, without what the other end said in its own words: that may repeat keys and values.
fn describe(error: &RedisError) -> String {
    match (error.kind(), error.code()) {
        (ErrorKind::Io, _) => error.to_string(),
        (ErrorKind::AuthenticationFailed, _) => "it refuses the user or the password".to_owned(),
        (_, Some(code)) => code.chars().filter(char::is_ascii_alphanumeric).take(32).collect(),
        _ => error.category().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn errors_that_mean_away_are_told_from_answers() {
        let io = |kind: io::ErrorKind| RedisError::from(io::Error::from(kind));
        let server = |kind| RedisError::from((ErrorKind::Server(kind), "x"));
        for (error, expected) in [
            (io(io::ErrorKind::ConnectionRefused), Verdict::Away),
            (io(io::ErrorKind::TimedOut), Verdict::Away),
            (io(io::ErrorKind::BrokenPipe), Verdict::Ended),
            (io(io::ErrorKind::ConnectionReset), Verdict::Ended),
            (server(ServerErrorKind::BusyLoading), Verdict::Away),
            (server(ServerErrorKind::ReadOnly), Verdict::Away),
            (server(ServerErrorKind::NoPerm), Verdict::Answered),
            (server(ServerErrorKind::ResponseError), Verdict::Answered),
        ] {
            assert_eq!(verdict(&error), expected, "{error}");
        }
    }

    #[test]
    fn descriptions_do_not_repeat_what_redis_said() {
        let error =
            RedisError::from((ErrorKind::Server(ServerErrorKind::NoPerm), "x", "key s3cret".to_owned()));
        assert_eq!(describe(&error), "NOPERM");
    }
}
