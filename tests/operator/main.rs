//! The operator on a real API server with its controllers, a scheduler and kwok, which makes pods ready without running
//! them. In: `CHATSERVICE_TEST_KUBECONFIG`, which `tests/cluster/with-api-server.sh` sets. Each test has a namespace and
//! an operator of its own.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests fail the test"
)]

mod autoscaling;
mod callers;
mod conditions;
mod election;
mod fields;
mod init_secret;
mod lifecycle;
mod metrics;
mod network;
mod permissions;
mod pods;
mod refusals;
mod rig;
mod stored;
mod upgrade;
mod waiting;
