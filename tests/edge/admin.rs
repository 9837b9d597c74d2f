//! The admin listener, asked as a kubelet and a container runtime ask it.

use chatservice::admin::{AdminState, Readiness, serve_admin};
use chatservice::constants::path;
use chatservice::healthcheck;
use chatservice::shutdown::Shutdown;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::within;

#[tokio::test]
async fn it_answers_before_during_and_after_readiness_and_ends_last() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let shutdown = Shutdown::new();
    let readiness = Readiness::new(shutdown.clone(), &["credentials"]);
    let state =
        AdminState { registry: prometheus::Registry::new(), readiness: readiness.clone(), status: None };
    let token = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_admin(listener, state, token.clone()));

    let ready = async || healthcheck::check(&address, path::READYZ).await.map_err(|error| error.to_string());
    healthcheck::check(&address, path::LIVEZ).await.unwrap();
    let not_ready = format!("{address}/readyz answered 503: not ready: credentials");
    assert_eq!(ready().await, Err(not_ready));
    readiness.done("credentials");
    assert_eq!(ready().await, Ok(()));
    shutdown.begin();
    assert_eq!(ready().await, Err(format!("{address}/readyz answered 503: not ready: draining")));

    token.cancel();
    within(tasks.join_next()).await.unwrap().unwrap();
    let error = healthcheck::check(&address, path::LIVEZ).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot ask {address}: ")), "{error}");
}

#[tokio::test]
async fn a_listener_that_says_nothing_is_not_healthy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let error = within(healthcheck::check(&address, path::LIVEZ)).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{address} did not answer within 2s"));
}
