//! The log of one test. In: what is logged on its thread. Out: the text.

use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::Once;

thread_local! {
    /// What was logged on this thread. A test and its runtime have a thread of their own.
    static LOGGED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Appends to [`LOGGED`].
struct ThisThread;

impl Write for ThisThread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOGGED.with_borrow_mut(|log| log.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log of this thread, at every level and with the lines of all libraries.
pub struct Log;

impl Log {
    pub fn start() {
        static ONCE: Once = Once::new();
        // One subscriber for all threads: tracing remembers for a whole process whether anybody wants a line.
        ONCE.call_once(|| {
            tracing_subscriber::fmt()
                .with_writer(|| ThisThread)
                .with_ansi(false)
                .with_max_level(tracing::Level::TRACE)
                .init();
        });
        LOGGED.with_borrow_mut(Vec::clear);
    }

    pub fn text() -> String {
        LOGGED.with_borrow(|log| String::from_utf8(log.clone()).unwrap())
    }

    pub fn count(part: &str) -> usize {
        Self::text().lines().filter(|line| line.contains(part)).count()
    }
}
