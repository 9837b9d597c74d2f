//! Where lines go. In: whole lines, from any thread. Out: the same on standard error, many at once, from a thread of its
//! own: a request does not wait for whoever reads the log.
//!
//! Nothing is lost while the reader keeps up, also not at the end ([`flush`]). While it does not, [`ROOM`] bytes wait; what
//! comes beyond is left out, and a line says how many were.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// Bytes that wait for the reader.
const ROOM: usize = 1 << 20;
/// How long lines are gathered.
const GATHER: Duration = Duration::from_millis(5);
/// Longest wait for the reader at the end.
const PATIENCE: Duration = Duration::from_secs(2);

/// That of this process, once there is one.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Lines on their way. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Lines {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    waiting: Mutex<Waiting>,
    /// Rung when a first line waits.
    came: Condvar,
    /// Rung when everything was written.
    written: Condvar,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    left_out: u64,
    /// The thread writes what it has taken.
    writing: bool,
}

/// The lines of this process on standard error. Without a thread each is written as it comes.
pub(super) fn standard_error() -> Writer {
    let lines = Lines::default();
    let (inner, started) = (lines.inner.clone(), LINES.set(lines.clone()).is_ok());
    let thread = std::thread::Builder::new().name("log".to_owned());
    if started && thread.spawn(move || inner.run(&mut io::stderr())).is_ok() {
        Writer::Gathered(lines)
    } else {
        Writer::Direct
    }
}

/// Waits until all lines are written.
pub fn flush() {
    if let Some(lines) = LINES.get() {
        lines.inner.flush();
    }
}

impl Inner {
    fn push(&self, line: &[u8]) {
        let mut waiting = self.waiting();
        if waiting.bytes.len() + line.len() > ROOM {
            waiting.left_out += 1;
            return;
        }
        let first = waiting.bytes.is_empty();
        waiting.bytes.extend_from_slice(line);
        if first {
            self.came.notify_one();
        }
    }

    fn run(&self, out: &mut impl Write) {
        let mut taken = Vec::new();
        loop {
            let waiting = self.waiting();
            let waiting = self.came.wait_while(waiting, |waiting| waiting.bytes.is_empty());
            drop(waiting);
            // Nobody unparks it, so this is a pause.
            std::thread::park_timeout(GATHER);
            self.write(&mut taken, out);
        }
    }

    fn write(&self, taken: &mut Vec<u8>, out: &mut impl Write) {
        let left_out = {
            let mut waiting = self.waiting();
            waiting.writing = true;
            std::mem::swap(&mut waiting.bytes, taken);
            std::mem::take(&mut waiting.left_out)
        };
        // Nobody is left to be told when standard error fails.
        let _ = out.write_all(taken);
        taken.clear();
        let mut waiting = self.waiting();
        waiting.writing = false;
        drop(waiting);
        self.written.notify_all();
        if left_out > 0 {
            tracing::warn!(
                log.lines = left_out,
                "lines were left out: the log is not read as fast as it is written"
            );
        }
    }

    fn flush(&self) {
        let deadline = Instant::now() + PATIENCE;
        let mut waiting = self.waiting();
        while (waiting.writing || !waiting.bytes.is_empty()) && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            let woken = self.written.wait_timeout(waiting, left);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it holds the lock, and the lines would be whole if it did.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a line, which always comes whole.
#[derive(Clone)]
pub(super) enum Writer {
    /// With others.
    Gathered(Lines),
    /// By itself.
    Direct,
}

impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self {
            Self::Gathered(lines) => lines.inner.push(line),
            Self::Direct => io::stderr().write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_come_together_are_written_together_and_in_order() {
        let inner = Inner::default();
        for line in ["one\n", "two\n", "three\n"] {
            inner.push(line.as_bytes());
        }
        let (mut taken, mut out) = (Vec::new(), Vec::new());
        inner.write(&mut taken, &mut out);
        assert_eq!(out, b"one\ntwo\nthree\n");
        inner.flush();
    }

    #[test]
    fn what_nobody_reads_is_bounded_and_counted() {
        let inner = Inner::default();
        let line = [b'x'; 1000];
        for _ in 0..2 * ROOM / line.len() {
            inner.push(&line);
        }
        let waiting = inner.waiting();
        assert!(waiting.bytes.len() <= ROOM && waiting.bytes.len() + line.len() > ROOM);
        let written = (waiting.bytes.len() / line.len()) as u64;
        assert_eq!(waiting.left_out + written, (2 * ROOM / line.len()) as u64);
    }
}
