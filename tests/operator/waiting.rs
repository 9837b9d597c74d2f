//! An API server that is not what the operator needs yet is waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::StatusCode;
use axum::{Json, Router};
use chatservice::admin::Readiness;
use chatservice::constants::LEASE;
use chatservice::controller::client::Clients;
use chatservice::controller::metrics::ControllerMetrics;
use chatservice::controller::observe::{Pace, pod_address};
use chatservice::controller::{Defaults, Operator, WAITS_FOR};
use chatservice::leader_election::LeaseOptions;
use chatservice::shutdown::Shutdown;
use kube::Config;
use prometheus::Registry;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::rig::until;

#[tokio::test]
async fn without_the_crd_the_operator_waits_and_ends_when_it_is_told() {
    // A second call finds the provider installed, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&looks);
    let not_found =
        json!({ "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "" });
    let router = Router::new().fallback(async move || {
        counted.fetch_add(1, Ordering::SeqCst);
        (StatusCode::NOT_FOUND, Json(not_found))
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });

    let readiness = Readiness::new(Shutdown::new(), &WAITS_FOR);
    let metrics = ControllerMetrics::new(&Registry::new()).unwrap();
    let operator = Operator {
        clients: Clients::connect(Config::new(url.parse().unwrap()), &metrics).unwrap(),
        lease: LeaseOptions { namespace: None, name: LEASE.to_owned(), identity: "test".to_owned() },
        watch_namespaces: vec!["chat".into()],
        defaults: Defaults { server_image: "i:1".into(), allowed_images: vec![], operator: None },
        metrics,
        max_concurrent_rollouts: 5,
        readiness: readiness.clone(),
        pace: Pace::default(),
        address: pod_address(),
    };
    let shutdown = CancellationToken::new();
    let mut running = JoinSet::new();
    running.spawn(operator.run(shutdown.clone()));
    until("a second look", async || (looks.load(Ordering::SeqCst) >= 2).then_some(())).await;
    assert!(running.try_join_next().is_none(), "it waits");
    assert_eq!(readiness.reasons(), ["crd", "lease"]);
    shutdown.cancel();
    running.join_next().await.unwrap().unwrap().unwrap();
}
