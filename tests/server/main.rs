//! The chat server as its callers meet it: both dialects, limits, cache, conversations, faults of the backend.

#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[path = "../support/config_mount.rs"]
mod config_mount;
#[path = "../support/http.rs"]
mod http;
#[path = "../support/metrics.rs"]
mod metrics;
#[path = "../support/mock_openai.rs"]
mod mock_openai;
#[path = "../support/otlp.rs"]
mod otlp;
#[path = "../support/process.rs"]
mod process_support;
#[path = "../support/redis.rs"]
mod redis_server;
#[path = "../support/redis_sets.rs"]
mod redis_sets;
#[path = "../support/server.rs"]
mod server;
#[path = "../support/tokens.rs"]
mod tokens;

mod bad_input;
mod cache_and_limits;
mod caller_scope;
mod callers;
mod charging;
mod coalescing;
mod coalescing_pods;
mod conversations;
mod cors;
mod cuts;
mod disconnects;
mod embeddings;
mod key_rotation;
mod models;
mod openai_dialect;
mod openapi;
mod openapi_schemas;
mod operations;
mod overload;
mod pages;
mod process;
mod reload;
mod responses;
mod secrecy;
mod simple_dialect;
mod store_away;
mod streams;
mod telemetry;
mod three_processes;
mod traces;
mod trips;
mod upstream_faults;

/// A backend that answers this many requests with `word0 word1 word2`.
async fn answering(requests: usize) -> mock_openai::MockOpenAi {
    let mock = mock_openai::MockOpenAi::start().await;
    for _ in 0..requests {
        mock.script(mock_openai::Script::Words(3));
    }
    mock
}
