//! One Redis: the connection that all requests share, and what is known of the other end. In: a command. Out: its answer,
//! where else to ask, or [`StoreError`] in bounded time: at most [`CONNECT`] and [`OPERATION`] for a request that has to
//! connect, [`OPERATION`] for one that finds the connection dead, nothing while the breaker is open.
//!
//! Nothing is tried twice. A connection that failed is dropped, and the next request opens a new one.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, RedisError, RedisResult, Value};
use tokio::time::{Instant, timeout, timeout_at};

use super::StoreError;
use super::breaker::{Breaker, Permit, SPREAD};
use super::redis_address::{RedisAddress, Server, Topology};
use super::sentinel;
use super::verdict::{Redirect, Verdict, describe, verdict};

/// Deadline of connecting, authentication and finding out where to included.
pub const CONNECT: Duration = Duration::from_millis(250);
/// Deadline of one operation, all its redirections included.
pub const OPERATION: Duration = Duration::from_millis(50);
/// Commands that wait for their turn to be written; who comes later waits outside, no longer than its deadline. What is
/// written and not answered goes with the connection, as soon as nothing is answered for the time of one operation.
const QUEUE: usize = 256;

/// What one operation has left of its deadlines.
pub struct Trip {
    /// When it has to be connected.
    pub connect_by: Instant,
    /// How long it may still wait for answers.
    left: Duration,
}

impl Trip {
    /// An operation that begins now.
    #[must_use]
    pub fn new() -> Self {
        Self::connected_by(Instant::now() + CONNECT)
    }

    /// A part of an operation that has to be connected by then.
    #[must_use]
    pub fn connected_by(connect_by: Instant) -> Self {
        Self { connect_by, left: OPERATION }
    }
}

/// What one operation sends.
pub enum Sent {
    /// A command.
    One(Cmd),
    /// Several, all of whose keys are in one slot. The answer is that of the last one, or the first error.
    All(Pipeline),
}

impl Sent {
    /// Asks, with ASKING in front where a slot is being moved to where this is sent.
    async fn query(&self, asking: bool, connection: &mut MultiplexedConnection) -> RedisResult<Value> {
        let mut both = redis::pipe();
        if asking {
            both.cmd("ASKING").ignore();
        }
        match (self, asking) {
            (Self::One(command), false) => return command.query_async(connection).await,
            (Self::All(commands), false) => return commands.query_async(connection).await,
            (Self::One(command), true) => both.add_command(command.clone()),
            (Self::All(commands), true) => {
                for command in commands.cmd_iter() {
                    // Each of them is asked for.
                    both.add_command(command.clone()).ignore().cmd("ASKING").ignore();
                }
                return both.query_async(connection).await;
            }
        };
        let (answer,): (Value,) = both.query_async(connection).await?;
        Ok(answer)
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// Another node has it.
    Redirect(Redirect),
    /// It is not to be had.
    Store(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Where a node is.
enum Place {
    At(Server),
    /// Where the Sentinels say, each time anew.
    MasterOf(String),
}

/// A Redis, and what is known of it.
pub struct Node {
    address: Arc<RedisAddress>,
    place: Place,
    state: Mutex<State>,
    /// Held by the request that connects; the others wait for its connection.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    connection: Option<MultiplexedConnection>,
    /// Number of the connection, so that a late failure of an old one does not drop its successor.
    generation: u64,
    /// Whether it has answered.
    proved: bool,
    breaker: Breaker,
    /// Whether the node was ever answered or given up.
    known: bool,
}

/// A connection to use, and which.
struct Lease {
    connection: MultiplexedConnection,
    generation: u64,
}

impl Node {
    /// The only node of this address, which is not one of a Cluster.
    #[must_use]
    pub fn only(address: Arc<RedisAddress>) -> Self {
        let place = match address.topology() {
            Topology::Sentinel { master } => Place::MasterOf(master.clone()),
            Topology::Single | Topology::Cluster => Place::At(address.servers()[0].clone()),
        };
        Self::new(address, place)
    }

    /// A node of a Cluster.
    #[must_use]
    pub fn at(address: Arc<RedisAddress>, server: Server) -> Self {
        Self::new(address, Place::At(server))
    }

    fn new(address: Arc<RedisAddress>, place: Place) -> Self {
        Self { address, place, state: Mutex::default(), connecting: tokio::sync::Mutex::default() }
    }

    /// Whether it answers; None before it was asked.
    #[must_use]
    pub fn connected(&self) -> Option<bool> {
        let state = self.state();
        state.known.then(|| !state.breaker.is_open())
    }

    /// Whether a request may ask it. Who is told [`Permit::Probe`] sees to it that somebody calls [`Self::probe`].
    pub fn permit(&self) -> Permit {
        self.state().breaker.permit(now())
    }

    /// Runs one operation, with ASKING where a slot is being moved here.
    pub async fn run(&self, sent: &Sent, asking: bool, trip: &mut Trip) -> Result<Value, Failure> {
        let Lease { mut connection, generation } = self.lease(trip.connect_by).await?;
        let began = Instant::now();
        let outcome = timeout(trip.left, sent.query(asking, &mut connection)).await;
        trip.left = trip.left.saturating_sub(began.elapsed());
        let began = began.into_std();
        match outcome {
            Ok(Ok(value)) => {
                self.answered(generation);
                Ok(value)
            }
            Ok(Err(error)) => Err(self.refused(&error, generation, began)),
            Err(_) => {
                self.failed(began, None, "it does not answer");
                Err(StoreError::Timeout(OPERATION).into())
            }
        }
    }

    fn refused(&self, error: &RedisError, generation: u64, began: std::time::Instant) -> Failure {
        let reason = describe(error);
        match verdict(error) {
            Verdict::Answered => {
                self.answered(generation);
                return StoreError::Failed(reason).into();
            }
            Verdict::Full => {
                self.answered(generation);
                return StoreError::Full.into();
            }
            Verdict::Redirect(redirect) => {
                let to = redirect.to.map(|to| to.or_on(self.host()));
                return Failure::Redirect(Redirect { to, ..redirect });
            }
            // One that never answered is no better anew.
            Verdict::Ended if !self.ended(generation) => self.failed(began, None, &reason),
            Verdict::Ended | Verdict::Split => {}
            Verdict::Busy => self.failed(began, None, &reason),
            Verdict::Away => self.failed(began, Some(generation), &reason),
        }
        if error.is_io_error() { StoreError::Cut.into() } else { StoreError::Unreachable(reason).into() }
    }

    /// Whether it is given up, and its pause may be over.
    pub fn is_away(&self) -> bool {
        self.state().breaker.is_open()
    }

    /// Finds out whether it serves, unless that was tried a moment ago. What comes of it [`Self::connected`] tells. False
    /// where nothing was tried.
    pub async fn look(&self) -> bool {
        match self.permit() {
            Permit::Refused => return false,
            Permit::Probe => self.probe().await,
            Permit::Closed => {
                let _ = self.run(&Sent::One(redis::cmd("PING")), false, &mut Trip::new()).await;
            }
        }
        true
    }

    /// Whether it serves again, for the requests that go on without.
    pub async fn probe(&self) {
        let answer = match self.lease(Instant::now() + CONNECT).await {
            Ok(lease) => ask_role(lease).await,
            Err(error) => Err(error.to_string()),
        };
        let closed = {
            let mut state = self.state();
            if answer.is_err() {
                state.connection = None;
            }
            state.breaker.probed(answer.is_ok(), now(), rand::random_range(SPREAD))
        };
        if closed {
            tracing::warn!(redis.address = %self, "Redis answers again");
        }
    }

    /// The shared connection, opened if there is none.
    async fn lease(&self, connect_by: Instant) -> Result<Lease, StoreError> {
        if let Some(lease) = self.current() {
            return Ok(lease);
        }
        let was_open = self.state().breaker.is_open();
        let began = now();
        let connect = async {
            let _turn = self.connecting.lock().await;
            if let Some(lease) = self.current() {
                return Ok(lease);
            }
            if !was_open && self.state().breaker.is_open() {
                return Err("it could not be connected to a moment ago".to_owned());
            }
            let connection = self.open().await.map_err(|error| describe(&error))?;
            let mut state = self.state();
            state.generation += 1;
            state.proved = false;
            state.connection = Some(connection.clone());
            Ok(Lease { connection, generation: state.generation })
        };
        match timeout_at(connect_by, connect).await {
            Ok(Ok(lease)) => Ok(lease),
            Ok(Err(reason)) => {
                self.failed(began, None, &reason);
                Err(StoreError::Unreachable(reason))
            }
            Err(_) => {
                self.failed(began, None, "it cannot be connected to in time");
                Err(StoreError::Timeout(CONNECT))
            }
        }
    }

    /// A new connection, to the master that Sentinels name where there are Sentinels.
    async fn open(&self) -> RedisResult<MultiplexedConnection> {
        match &self.place {
            Place::At(server) => connect(self.address.redis(server)?).await,
            Place::MasterOf(name) => {
                let master = sentinel::master(&self.address, name).await?;
                connect(self.address.redis(&master)?).await
            }
        }
    }

    fn current(&self) -> Option<Lease> {
        let state = self.state();
        let connection = state.connection.clone()?;
        Some(Lease { connection, generation: state.generation })
    }

    /// Drops the connection with this number. Whether it, or its successor, has ever answered.
    fn ended(&self, generation: u64) -> bool {
        let mut state = self.state();
        if generation != state.generation {
            return true;
        }
        state.connection = None;
        state.proved
    }

    /// Its address, where that does not change.
    pub fn server(&self) -> Option<&Server> {
        match &self.place {
            Place::At(server) => Some(server),
            Place::MasterOf(_) => None,
        }
    }

    /// Its host, where that does not change.
    pub fn host(&self) -> &str {
        self.server().map(|server| server.host.as_str()).unwrap_or_default()
    }

    fn answered(&self, generation: u64) {
        let mut state = self.state();
        state.known = true;
        state.proved |= generation == state.generation;
        state.breaker.answered(now());
    }

    /// Tells the breaker, and drops the connection with this number, or whichever there is when nobody is answered.
    pub fn failed(&self, began: std::time::Instant, generation: Option<u64>, reason: &str) {
        let opened = {
            let mut state = self.state();
            let opened = state.breaker.failed(began, now(), rand::random_range(SPREAD));
            state.known |= opened;
            if opened || generation == Some(state.generation) {
                state.connection = None;
            }
            opened
        };
        if opened {
            tracing::warn!(redis.address = %self, error = reason, "Redis is not reachable");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and the state would be whole if it did.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where it is, without user and password.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address.topology(), &self.place) {
            (Topology::Cluster, Place::At(server)) => server.fmt(f),
            _ => self.address.fmt(f),
        }
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Connects without a deadline: that around the whole is the only one.
pub(super) async fn connect(client: Client) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_pipeline_buffer_size(QUEUE);
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    // A Redis that wants a password hangs up on a long command such as a script's, but says why to a short one.
    redis::cmd("PING").query_async::<()>(&mut connection).await?;
    Ok(connection)
}

/// A Redis that serves is a master; one that keeps the question from us may be.
async fn ask_role(Lease { mut connection, .. }: Lease) -> Result<(), String> {
    let command = redis::cmd("ROLE");
    let answer = timeout(OPERATION, command.query_async::<Vec<Value>>(&mut connection)).await;
    match answer.map_err(|_| "it does not answer".to_owned())? {
        Ok(role) if role.first() == Some(&Value::BulkString(b"slave".to_vec())) => {
            Err("it is a replica".to_owned())
        }
        Ok(_) => Ok(()),
        Err(error) if verdict(&error) == Verdict::Answered => Ok(()),
        Err(error) => Err(describe(&error)),
    }
}
