//! The edge with real sockets: deadlines, HTTP's corner cases, the drain, the admin listener, signals, panics.

mod admin;
mod deadlines;
mod drain;
mod http1;
mod process;
mod support;
