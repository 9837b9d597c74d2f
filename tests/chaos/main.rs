//! The faults in figures, `make chaos`: what takes minutes, a release build and a machine with nothing else to do. In: real
//! server processes, a real Redis, a mock backend. Out: a line for each figure, by the row that asks for it; the test fails
//! when one is missed.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "helpers of tests fail as tests do, and figures are for who looks"
)]

#[path = "../support/http.rs"]
mod http;
#[path = "../support/mock_openai.rs"]
mod mock_openai;
#[path = "../support/process.rs"]
mod process_support;
#[path = "../support/redis.rs"]
mod redis_server;
#[path = "../support/server.rs"]
mod server;

mod backend_away;
mod disconnects;
mod figures;
mod limits;
mod load;
mod overload;
mod redis_away;
mod servers;
mod shared_calls;
