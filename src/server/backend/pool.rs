//! Connections that nobody uses now. In: one whose answer has ended. Out: the one that was used last, if the backend has not
//! closed it meanwhile. A task closes those that nobody will want any more; it runs while there are any.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use super::http1::Connection;

/// Idle connections kept.
const SIZE: usize = 64;
/// How long an idle connection is kept: shorter than common servers and load balancers keep theirs.
const IDLE: Duration = Duration::from_secs(30);
/// How often those are closed that were idle for too long, or that the backend has closed.
const SWEEP: Duration = Duration::from_secs(5);

/// Idle connections to one host, closed with it.
pub(super) struct Pool {
    state: Mutex<State>,
    tasks: TaskTracker,
}

#[derive(Default)]
struct State {
    /// In the order in which they became idle.
    idle: Vec<Idle>,
    sweeper: Option<AbortHandle>,
}

struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

impl Idle {
    fn is_fresh(&mut self) -> bool {
        self.since.elapsed() < IDLE && self.connection.is_idle()
    }
}

impl Pool {
    /// An empty one. `tasks` gets the one that closes connections.
    pub(super) fn new(tasks: TaskTracker) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), tasks })
    }

    /// A connection to use, if there is one.
    pub(super) fn take(&self) -> Option<Box<Connection>> {
        loop {
            let mut idle = self.state().idle.pop()?;
            if idle.is_fresh() {
                return Some(idle.connection);
            }
        }
    }

    /// Keeps a connection whose answer has ended, unless it is to be closed or there are enough.
    pub(super) fn put(self: &Arc<Self>, mut connection: Box<Connection>) {
        if !connection.is_idle() {
            return;
        }
        let mut state = self.state();
        if state.idle.len() < SIZE {
            state.idle.push(Idle { connection, since: Instant::now() });
            if state.sweeper.is_none() {
                state.sweeper = Some(self.tasks.spawn(sweep(Arc::downgrade(self))).abort_handle());
            }
        }
    }

    /// Closes those that nobody will want. False when none is left.
    fn close_old(&self) -> bool {
        let mut state = self.state();
        let old: Vec<_> = state.idle.extract_if(.., |idle| !idle.is_fresh()).collect();
        let some = !state.idle.is_empty();
        if !some {
            state.sweeper = None;
        }
        drop(state);
        drop(old);
        some
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and what is in there would be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(sweeper) = self.state().sweeper.take() {
            sweeper.abort();
        }
    }
}

async fn sweep(pool: Weak<Pool>) {
    loop {
        sleep(SWEEP).await;
        if !pool.upgrade().is_some_and(|pool| pool.close_old()) {
            return;
        }
    }
}
