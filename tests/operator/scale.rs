//! Row O7: a thousand ChatServices, the operator a process of its own, its pods asked for their `/status` all the time.
//!
//! The pods' addresses are kwok's. Where the network is the test's own and 10.0.0.0/8 is its loopback, as
//! `tests/cluster/own-network.sh` makes it, one server here answers for all of them; elsewhere nobody does, which is said.

use std::collections::HashMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use chatservice::admin::ServerStatus;
use chatservice::constants::{label, metric, mount, port};
use chatservice::crd::ChatService;
use chatservice::server::config::ServerConfig;
use futures::{StreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::operator_process::OperatorProcess;
use crate::rig::{Rig, kubeconfig, until, until_some};

/// ChatServices.
const MANY: usize = 1000;
/// Edits of each kind that are measured, one after the other.
const EDITS: usize = 300;
/// An annotation of the pods, by which an edit is told.
const EDIT: &str = "example.com/edit";
/// How long nothing changes: each pod is asked once at least.
const IDLE: Duration = Duration::from_mins(1);
/// How long nothing must have been written before that.
const QUIET: Duration = Duration::from_secs(20);
/// From an edit to the children, of 99 in 100.
const P99: Duration = Duration::from_secs(1);
/// What the operator's process may hold in memory, at most.
const MEMORY_KIB: u64 = 64 * 1024;

/// What is known of the cluster, by ChatService: the configuration that was written, and what the Deployment makes pods for.
#[derive(Default)]
struct Seen {
    hashes: HashMap<String, String>,
    /// The edit that a child is made for, and when it came.
    configured: HashMap<String, (String, Instant)>,
    deployed: HashMap<String, (String, Instant)>,
    /// Whose pod has an address.
    pods: HashMap<IpAddr, String>,
}

type Cluster = Arc<Mutex<Seen>>;

/// Which of its addresses a pod was asked under.
#[derive(Clone, Copy)]
struct Asked(IpAddr);

impl Connected<IncomingStream<'_, TcpListener>> for Asked {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self(stream.io().local_addr().unwrap().ip())
    }
}

/// Answers for every pod; None where that is not possible.
async fn answer(cluster: &Cluster, tasks: &mut JoinSet<()>) -> Option<()> {
    // One of the addresses must be ours.
    let own = *cluster.lock().unwrap().pods.keys().next()?;
    TcpListener::bind((own, 0)).await.ok()?;
    let listener = TcpListener::bind(("0.0.0.0", port::ADMIN)).await.ok()?;
    let cluster = Arc::clone(cluster);
    let status = move |ConnectInfo(Asked(address)): ConnectInfo<Asked>, _: Request| {
        let seen = cluster.lock().unwrap();
        let hash = seen.pods.get(&address).and_then(|service| seen.hashes.get(service));
        let config_hash = hash.cloned().unwrap_or_default();
        async move { Json(ServerStatus { ready: true, config_hash, ..ServerStatus::default() }) }
    };
    let router = Router::new().fallback(status).into_make_service_with_connect_info::<Asked>();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    Some(())
}

/// Notes every object of kind `K` that belongs to a ChatService.
fn follow<K>(rig: &Rig, cluster: &Cluster, tasks: &mut JoinSet<()>, note: fn(&mut Seen, String, &K))
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    K: Clone + Debug + DeserializeOwned + Send + 'static,
{
    let config = watcher::Config::default().labels(&format!("{}={}", label::NAME, label::NAME_VALUE));
    let objects = watcher(rig.api::<K>(), config).default_backoff().applied_objects();
    let cluster = Arc::clone(cluster);
    tasks.spawn(async move {
        let mut objects = std::pin::pin!(objects);
        while let Some(object) = objects.next().await {
            // It watches again by itself.
            let Ok(object) = object else { continue };
            let service = object.labels()[label::INSTANCE].clone();
            note(&mut cluster.lock().unwrap(), service, &object);
        }
    });
}

fn note_config(seen: &mut Seen, service: String, map: &ConfigMap) {
    let Some(text) = map.data.as_ref().and_then(|data| data.get(mount::CONFIG_FILE)) else { return };
    let config: ServerConfig = serde_json::from_str(text).unwrap();
    seen.hashes.insert(service.clone(), config.hash());
    seen.configured.insert(service, (config.dynamic.model, Instant::now()));
}

fn note_deployment(seen: &mut Seen, service: String, deployment: &Deployment) {
    let template = deployment.spec.template.metadata.as_ref();
    let Some(edit) = template.and_then(|meta| meta.annotations.as_ref()?.get(EDIT)) else { return };
    if seen.deployed.get(&service).is_none_or(|(known, _)| known != edit) {
        seen.deployed.insert(service, (edit.clone(), Instant::now()));
    }
}

fn note_pod(seen: &mut Seen, service: String, pod: &Pod) {
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()?.parse().ok());
    seen.pods.extend(address.map(|address| (address, service)));
}

/// What the operator's process says of itself.
struct Operator(OperatorProcess);

impl Operator {
    /// Requests that change something, but for the Lease.
    async fn writes(&self) -> u64 {
        let metrics = self.0.says("/metrics").await;
        let lines = metrics.lines().filter(|line| line.starts_with(metric::API_REQUESTS));
        let writes = lines.filter(|line| {
            let reads =
                ["get", "list", "watch"].iter().any(|verb| line.contains(&format!("verb=\"{verb}\"")));
            !reads && !line.contains("leases")
        });
        writes.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    }

    /// A line of `/proc/PID/status` in KiB.
    fn memory(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.child.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
    }
}

fn name(number: usize) -> String {
    format!("s-{number}")
}

async fn ready(rig: &Rig) -> usize {
    let services = rig.api::<ChatService>().list(&ListParams::default()).await.unwrap();
    let ready = |cs: &&ChatService| {
        let status = cs.status.as_ref();
        let current = status.and_then(|status| status.observed_generation) == cs.metadata.generation;
        let is = |type_: &str| {
            status.is_some_and(|s| s.conditions.iter().any(|c| c.type_ == type_ && c.status == "True"))
        };
        current && is("Ready") && !is("Reconciling")
    };
    services.iter().filter(ready).count()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: make chaos"]
async fn a_thousand_services() {
    let Some(rig) = Rig::without_operator().await else { return };
    let arguments = ["--watch-namespaces", &rig.namespace, "--lease-namespace", &rig.namespace];
    let operator = Operator(OperatorProcess::start(Path::new(&kubeconfig()), &arguments).await);
    let (cluster, mut tasks) = (Cluster::default(), JoinSet::new());
    follow(&rig, &cluster, &mut tasks, note_config);
    follow(&rig, &cluster, &mut tasks, note_deployment);
    follow(&rig, &cluster, &mut tasks, note_pod);
    let start = Instant::now();
    let spec = json!({ "model": "m-0", "backend": { "echo": {} } });
    let making = (0..MANY).map(|number| rig_create(&rig, number, &spec));
    stream::iter(making.collect::<Vec<_>>()).buffer_unordered(8).collect::<Vec<()>>().await;
    until("a pod's address", async || (!cluster.lock().unwrap().pods.is_empty()).then_some(())).await;
    match answer(&cluster, &mut tasks).await {
        Some(()) => println!("O7: one server answers for all pods"),
        None => println!("O7: nobody answers for the pods: run it by tests/cluster/own-network.sh"),
    }
    let end = start + Duration::from_mins(20);
    let mut shown = 0;
    while let now = ready(&rig).await
        && now < MANY
    {
        assert!(Instant::now() < end, "{now} of {MANY} are ready");
        if now >= shown + 100 {
            println!("O7: {now} are ready after {} s", start.elapsed().as_secs());
            shown = now;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    println!("O7: {MANY} ChatServices are made and ready after {} s", start.elapsed().as_secs());
    println!("O7: memory {} KiB then", operator.memory("VmRSS"));

    let mut before = operator.writes().await;
    loop {
        tokio::time::sleep(QUIET).await;
        let now = operator.writes().await;
        if now == before {
            break;
        }
        assert!(Instant::now() < end, "it goes on writing: {before}, {now}");
        before = now;
    }
    tokio::time::sleep(IDLE).await;
    let idle = operator.writes().await - before;
    println!("O7: writes in {} s while nothing changes: {idle}", IDLE.as_secs());

    // The configuration alone, which pods take up; and with it what only new pods have.
    let mut slowest = Vec::new();
    for pods_too in [false, true] {
        let mut took = Vec::new();
        for number in 1..=EDITS {
            took.push(edit(&rig, &cluster, &format!("{pods_too}-{number}"), pods_too).await);
        }
        took.sort();
        let at = |percent: usize| took[(took.len() - 1) * percent / 100];
        let what = if pods_too { "of configuration and pods" } else { "of the configuration" };
        let (p50, p99) = (at(50).as_millis(), at(99).as_millis());
        println!("O7: edit to children, {EDITS} edits {what}: p50 {p50} ms, p99 {p99} ms");
        slowest.push(at(99));
    }
    let (resident, most) = (operator.memory("VmRSS"), operator.memory("VmHWM"));
    let (own, program) = (operator.memory("RssAnon"), operator.memory("RssFile"));
    println!(
        "O7: memory {resident} KiB, of which {own} KiB its own and {program} KiB of its program; at most {most} KiB"
    );
    rig.clear().await;
    assert_eq!(idle, 0, "writes while nothing changed");
    assert!(slowest.iter().all(|p99| *p99 <= P99), "{slowest:?}");
    assert!(most <= MEMORY_KIB, "{most} KiB");
}

/// Edits a ChatService by chance; how long it takes until the children have it that it concerns.
async fn edit(rig: &Rig, cluster: &Cluster, edit: &str, pods_too: bool) -> Duration {
    let service = name(rand::random_range(0..MANY));
    let mut patch = json!({ "spec": { "model": edit } });
    if pods_too {
        patch["spec"]["pod"] = json!({ "annotations": { EDIT: edit } });
    }
    let begin = Instant::now();
    let params = PatchParams::default();
    rig.api::<ChatService>().patch(&service, &params, &Patch::Merge(&patch)).await.unwrap();
    let last = until_some("the children", async || {
        let seen = cluster.lock().unwrap();
        let came = |children: &HashMap<String, (String, Instant)>| {
            children.get(&service).filter(|(found, _)| found == edit).map(|(_, at)| *at)
        };
        let config = came(&seen.configured).ok_or_else(String::new)?;
        let deployment = if pods_too { came(&seen.deployed).ok_or_else(String::new)? } else { config };
        Ok(config.max(deployment))
    });
    last.await.saturating_duration_since(begin)
}

async fn rig_create(rig: &Rig, number: usize, spec: &Value) {
    rig.create(&name(number), spec).await;
}
