//! What all connections are told once. In: that it is so. Out: whoever waits for it is woken.
//!
//! A connection looks at every wake-up whether it was told. A token's own look takes two locks that all connections of the
//! process share, so the token is asked only to be woken by it, and once there is something to be told.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Given or not.
#[derive(Default)]
pub(super) struct Signal {
    given: AtomicBool,
    token: CancellationToken,
}

/// Waits for a [`Signal`], always in the same task.
pub(super) struct Given<'a> {
    signal: &'a Signal,
    wait: Pin<Box<WaitForCancellationFuture<'a>>>,
    asked: bool,
}

impl Signal {
    /// Tells everybody.
    pub(super) fn give(&self) {
        self.given.store(true, Ordering::Release);
        self.token.cancel();
    }

    /// Whether it was given.
    pub(super) fn is_given(&self) -> bool {
        self.given.load(Ordering::Acquire)
    }

    /// Waits for it.
    pub(super) fn given(&self) -> Given<'_> {
        Given { signal: self, wait: Box::pin(self.token.cancelled()), asked: false }
    }
}

impl Future for Given<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.asked && !self.signal.is_given() {
            return Poll::Pending;
        }
        self.asked = true;
        self.wait.as_mut().poll(context)
    }
}
