//! The `chatservice` binary: every subcommand of both planes.

fn main() {}
