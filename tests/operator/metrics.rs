//! A metrics API (metrics.k8s.io) for the pods of a test, reached by the API server through an ExternalName Service. There is one
//! for the whole API server, so one test uses it, and withdraws it: no namespace goes while one of the APIs does not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use chatservice::server::edge::{self, EdgeOptions, ServerCertificate, Tls};
use chatservice::shutdown::Shutdown;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::rig::{Rig, until};

const NAME: &str = "v1beta1.metrics.k8s.io";

#[derive(Clone)]
struct Metrics {
    client: Client,
    /// Pods elsewhere are another test's: of those it says nothing.
    namespace: String,
    /// What all pods use together, in percent of the 100m that one requests: each does its part of the work.
    load: Arc<AtomicU32>,
}

/// Serves it, until the rig stops; what all pods use together, in percent of what one requests: 100 to begin with.
pub async fn serve(rig: &mut Rig) -> Arc<AtomicU32> {
    let load = Arc::new(AtomicU32::new(100));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = Tls::new().unwrap();
    tls.present(&ServerCertificate::from_pem(&made.cert.pem(), &made.signing_key.serialize_pem()).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = Router::new()
        .route("/apis/metrics.k8s.io/v1beta1", get(async || Json(resources())))
        .route("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods", get(pods))
        .with_state(Metrics {
            client: rig.admin.clone(),
            namespace: rig.namespace.clone(),
            load: load.clone(),
        });
    rig.run(async move {
        let options = EdgeOptions { tls: Some(tls), ..EdgeOptions::default() };
        edge::serve(listener, app, options, Shutdown::new()).await;
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "metrics" },
        "spec": { "type": "ExternalName", "externalName": "localhost" },
    });
    rig.make::<Service>(&service).await;
    let object = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": { "name": NAME },
        "spec": {
            "group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
            "insecureSkipTLSVerify": true,
            "service": { "namespace": rig.namespace, "name": "metrics", "port": port },
        },
    });
    let services: Api<APIService> = Api::all(rig.admin.clone());
    services.patch(NAME, &PatchParams::apply("tests").force(), &Patch::Apply(&object)).await.unwrap();
    until("the metrics API", async || {
        let conditions = services.get(NAME).await.unwrap().status?.conditions?;
        conditions.iter().any(|c| c.type_ == "Available" && c.status == "True").then_some(())
    })
    .await;
    load
}

/// Takes it from the API server.
pub async fn withdraw(rig: &Rig) {
    let services: Api<APIService> = Api::all(rig.admin.clone());
    services.delete(NAME, &DeleteParams::default()).await.unwrap();
}

fn resources() -> Value {
    let pods = json!({ "name": "pods", "singularName": "", "namespaced": true, "kind": "PodMetrics", "verbs": ["get", "list"] });
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "metrics.k8s.io/v1beta1", "resources": [pods] })
}

async fn pods(State(metrics): State<Metrics>, Path(namespace): Path<String>) -> Json<Value> {
    let all: Api<Pod> = Api::namespaced(metrics.client, &namespace);
    let mut pods = all.list(&ListParams::default()).await.unwrap();
    pods.items.retain(|_| namespace == metrics.namespace);
    let load = metrics.load.load(Ordering::SeqCst) as usize;
    let used = format!("{}m", load / pods.items.len().max(1));
    let items: Vec<Value> = pods
        .iter()
        .map(|pod| {
            json!({
                "metadata": { "name": pod.name_any(), "namespace": namespace, "labels": pod.labels() },
                "timestamp": Timestamp::now().to_string(), "window": "1s",
                "containers": [{ "name": "server", "usage": { "cpu": used, "memory": "1Mi" } }],
            })
        })
        .collect();
    Json(
        json!({ "kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items }),
    )
}
