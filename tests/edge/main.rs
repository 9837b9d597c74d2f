//! The edge with real sockets: deadlines, HTTP's corner cases, the drain, the admin listener, signals, panics.

#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod admin;
mod deadlines;
mod drain;
mod http1;
mod process;
mod support;
mod tls;
