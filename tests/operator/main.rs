//! The operator on a real API server with its controllers, a scheduler and kwok, which makes pods ready without running
//! them. In: `CHATSERVICE_TEST_KUBECONFIG`, which `tests/cluster/with-api-server.sh` sets. Each test has a namespace and
//! an operator of its own.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests fail the test"
)]

mod autoscaling;
mod callers;
mod conditions;
mod doctor;
mod election;
mod faults;
mod fields;
mod init_secret;
mod kinds;
mod lifecycle;
mod metrics;
mod network;
mod operator_process;
mod permissions;
mod pods;
mod processes;
mod refusals;
mod rig;
mod scale;
mod stored;
mod transitions;
mod turns;
mod upgrade;
mod waiting;
#[path = "../support/http.rs"]
mod web;
mod workflows;
