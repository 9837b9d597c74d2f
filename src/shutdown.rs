//! The end of the process. In: SIGTERM, SIGINT, or a call. Out: what every part of the process waits on to stop.
//!
//! There are three steps, each a token that stays set: draining (the first signal), streams end (the edge sets it
//! shortly before the grace period is over), and now (the second signal).

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// One for the process. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    streams_end: CancellationToken,
    now: CancellationToken,
}

impl Shutdown {
    /// Not begun.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The first step: take leave of the callers. Takes effect before it returns.
    pub fn begin(&self) {
        self.draining.cancel();
    }

    /// The last step: at once. It includes the others.
    pub fn force(&self) {
        self.draining.cancel();
        self.streams_end.cancel();
        self.now.cancel();
    }

    /// The middle step: streams that are still open say so and end. The edge calls it.
    pub fn end_streams(&self) {
        self.draining.cancel();
        self.streams_end.cancel();
    }

    /// Whether the first step was taken.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Set by the first step. For what stops by itself: a controller, a poller, a watcher.
    #[must_use]
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Set when streams have to end. A stream's relay selects on it, sends its terminal error event and closes.
    #[must_use]
    pub fn streams_end(&self) -> &CancellationToken {
        &self.streams_end
    }

    /// Set by the last step: nothing waits any more.
    #[must_use]
    pub fn now(&self) -> &CancellationToken {
        &self.now
    }
}

/// The signals of the process, caught from its construction on.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches SIGTERM and SIGINT instead of dying of them. Called once, before anything listens, so that a signal
    /// during start is not lost. Errors: outside a tokio runtime, or when the kernel refuses the handler.
    pub fn install() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Turns the first signal into [`Shutdown::begin`] and the second into [`Shutdown::force`], then ends. A task owns
    /// it; it may be dropped at any time.
    pub async fn watch(mut self, shutdown: Shutdown) {
        self.next().await;
        tracing::info!("a signal came: draining; a second one ends the process at once");
        shutdown.begin();
        self.next().await;
        tracing::warn!("a second signal came: ending at once");
        shutdown.force();
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_includes_the_ones_before_it() {
        let steps = |shutdown: &Shutdown| {
            [shutdown.is_draining(), shutdown.streams_end().is_cancelled(), shutdown.now().is_cancelled()]
        };
        let shutdown = Shutdown::new();
        assert_eq!(steps(&shutdown), [false, false, false]);
        shutdown.clone().begin();
        assert_eq!(steps(&shutdown), [true, false, false]);
        shutdown.force();
        assert_eq!(steps(&shutdown), [true, true, true]);

        let shutdown = Shutdown::new();
        shutdown.end_streams();
        assert_eq!(steps(&shutdown), [true, true, false]);
    }
}
