//! Rows O1 and O12: operators as processes of their own, each behind a proxy of its own that notes what it writes and can cut it
//! off. Whoever leads is ended in every way there is, while somebody edits a ChatService all the time.

use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use chatservice::crd::ChatService;
use chatservice::leader_election::LEASE_DURATION;
use http::Method;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::api::{Patch, PatchParams};
use kube::client::Body;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::operator_process::OperatorProcess;
use crate::rig::{Rig, until};

const NAME: &str = "demo";
const LEASE: &str = "processes";

/// What a process wrote, but for its Lease, and when it asked for it.
type Writes = Arc<Mutex<Vec<(Instant, String)>>>;

/// A process and its way to the API server.
struct Process {
    operator: OperatorProcess,
    writes: Writes,
    /// Whether it is cut off.
    partition: watch::Sender<bool>,
    _tasks: JoinSet<()>,
    _folder: TempDir,
}

/// Takes requests in plain HTTP and hands them on with an administrator's rights, unless it is cut off.
async fn proxy(admin: Client, writes: Writes, cut: watch::Receiver<bool>, tasks: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new()
        .fallback(move |request: Request| forward(admin.clone(), Arc::clone(&writes), cut.clone(), request));
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

async fn forward(
    admin: Client,
    writes: Writes,
    mut cut: watch::Receiver<bool>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().unwrap().to_string();
    if parts.method != Method::GET && !target.contains("/leases") {
        writes.lock().unwrap().push((Instant::now(), format!("{} {target}", parts.method)));
    }
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let mut onward = http::Request::new(Body::from(body));
    *onward.method_mut() = parts.method;
    *onward.uri_mut() = target.parse().unwrap();
    for name in ["content-type", "accept"] {
        if let Some(value) = parts.headers.get(name) {
            onward.headers_mut().insert(http::HeaderName::from_static(name), value.clone());
        }
    }
    let answering = async {
        let _ = cut.wait_for(|cut| !cut).await.map(|_| ());
        admin.send(onward).await.unwrap().map(axum::body::Body::new)
    };
    answering.await
}

impl Process {
    async fn start(rig: &Rig) -> Self {
        Self::start_cut(rig, false).await
    }

    /// One that may be cut off from its first moment.
    async fn start_cut(rig: &Rig, cut: bool) -> Self {
        let (writes, partition) = (Writes::default(), watch::channel(cut).0);
        let mut tasks = JoinSet::new();
        let server = proxy(rig.admin.clone(), Arc::clone(&writes), partition.subscribe(), &mut tasks).await;
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u", "namespace": rig.namespace } }],
            "clusters": [{ "name": "c", "cluster": { "server": server } }], "users": [{ "name": "u", "user": {} }],
        });
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let arguments = ["--lease-name", LEASE, "--watch-namespaces", &rig.namespace];
        let operator = OperatorProcess::start(&kubeconfig, &arguments).await;
        Self { operator, writes, partition, _tasks: tasks, _folder: folder }
    }

    /// What `/readyz` says.
    async fn readyz(&self) -> String {
        self.operator.says("/readyz").await
    }

    async fn signal(&self, name: &str) {
        self.operator.signal(name).await;
    }

    async fn end(&mut self, within: Duration) -> ExitStatus {
        tokio::time::timeout(within, self.operator.child.wait()).await.expect("an end in time").unwrap()
    }

    fn first_write_after(&self, begin: Instant) -> Option<Instant> {
        self.writes.lock().unwrap().iter().map(|(at, _)| *at).find(|at| *at >= begin)
    }

    fn last_write(&self) -> Option<Instant> {
        self.writes.lock().unwrap().last().map(|(at, _)| *at)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// A rollout.
    Term,
    /// The kernel, or a node that is gone.
    Kill,
    /// Frozen for 30 s.
    Stop,
    /// No way to the API server.
    Partition,
}

/// Ends the leader of two, while somebody edits; how long nobody wrote.
async fn takeover(how: End) -> Option<Duration> {
    let rig = Rig::without_operator().await?;
    let mut leader = Process::start(&rig).await;
    until("a leader", async || (leader.readyz().await == "ok\n").then_some(())).await;
    let other = Process::start(&rig).await;
    until("a second one that waits", async || {
        other.readyz().await.starts_with("ok: waiting, \"chatservice_").then_some(())
    })
    .await;
    rig.create(NAME, &json!({ "model": "m-0", "backend": { "echo": {} } })).await;
    let services = rig.api::<ChatService>();
    let mut editing = JoinSet::new();
    editing.spawn(async move {
        for round in 1_u64.. {
            let patch = json!({ "spec": { "model": format!("m-{round}") } });
            services.patch(NAME, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    until("the leader to write", async || leader.last_write()).await;
    assert_eq!(other.last_write(), None, "who waits writes nothing");

    let begin = Instant::now();
    match how {
        End::Term => leader.signal("-TERM").await,
        End::Kill => leader.signal("-KILL").await,
        End::Stop => leader.signal("-STOP").await,
        End::Partition => {
            leader.partition.send_replace(true);
        }
    }
    let first = until("the other to write", async || other.first_write_after(begin)).await;
    let status = match how {
        End::Stop => {
            tokio::time::sleep_until(begin + Duration::from_secs(30)).await;
            leader.signal("-CONT").await;
            leader.end(Duration::from_secs(10)).await
        }
        End::Term | End::Kill | End::Partition => leader.end(Duration::from_secs(10)).await,
    };
    let expected = match how {
        End::Term => Some(0),
        End::Kill => None,
        End::Stop | End::Partition => Some(1),
    };
    assert_eq!(status.code(), expected);
    let last = leader.last_write().unwrap();
    assert!(last < first, "{how:?}: it wrote {:?} after the other had begun", last.duration_since(first));
    if how == End::Partition {
        // Its attempts went nowhere, but it must not even make them.
        assert!(last < begin + Duration::from_secs(11), "{:?}", last - begin);
    }
    let lease = rig.find::<Lease>(LEASE).await.unwrap().spec.unwrap();
    assert_eq!(lease.lease_transitions, Some(1));
    editing.shutdown().await;
    rig.clear().await;
    Some(first - begin)
}

#[tokio::test]
async fn a_second_process_takes_over_as_soon_as_the_first_was_told_to_end() {
    let Some(gap) = takeover(End::Term).await else { return };
    assert!(gap < LEASE_DURATION, "it gave its Lease back, so nobody waited for that to end: {gap:?}");
}

#[tokio::test]
#[ignore = "two minutes: make chaos"]
async fn whatever_ends_the_leader_another_follows_and_they_never_both_write() {
    for (how, seconds) in [(End::Term, 3), (End::Kill, 20), (End::Stop, 20), (End::Partition, 20)] {
        let Some(gap) = takeover(how).await else { return };
        println!("O12: {how:?}: the other writes after {:.1} s, overlapping writes 0", gap.as_secs_f64());
        assert!(gap <= Duration::from_secs(seconds), "{how:?}: {gap:?}");
    }
}

/// Row O1: nothing of what the operator asks is answered for a minute.
#[tokio::test]
#[ignore = "a minute: make chaos"]
async fn an_api_server_that_is_away_for_a_minute_costs_one_exit() {
    let Some(rig) = Rig::without_operator().await else { return };
    let mut leader = Process::start(&rig).await;
    until("a leader", async || (leader.readyz().await == "ok\n").then_some(())).await;
    rig.create(NAME, &json!({ "model": "m", "backend": { "echo": {} } })).await;
    rig.until_ready_is(NAME, "True", "Available").await;
    let begin = Instant::now();
    leader.partition.send_replace(true);
    rig.merge::<ChatService>(NAME, &json!({ "spec": { "replicas": 2 } })).await;
    assert_eq!(leader.end(Duration::from_secs(30)).await.code(), Some(1), "it could not renew its Lease");
    let ended = begin.elapsed();
    // As a kubelet does.
    let mut again = Process::start_cut(&rig, true).await;
    while begin.elapsed() < Duration::from_mins(1) {
        assert_eq!(again.operator.says("/livez").await, "ok\n");
        assert!(again.readyz().await.starts_with("not ready"));
        assert!(again.operator.child.try_wait().unwrap().is_none(), "it waits");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let back = Instant::now();
    again.partition.send_replace(false);
    until("the edit to be carried out", async || {
        let deployment = rig.find::<Deployment>(NAME).await?;
        (deployment.spec.replicas == Some(2)).then_some(())
    })
    .await;
    println!(
        "O1: API server away for 60 s: 1 exit after {:.1} s, then alive; converged {:.1} s after it was back",
        ended.as_secs_f64(),
        back.elapsed().as_secs_f64()
    );
    assert!(back.elapsed() < Duration::from_secs(30));
    rig.clear().await;
}
