//! Row O7: a thousand ChatServices, the operator a process of its own, its pods asked for their `/status` all the time.
//!
//! The pods' addresses are kwok's. Where the network is the test's own and 10.0.0.0/8 is its loopback, as
//! `tests/cluster/own-network.sh` makes it, one server here answers for all of them; elsewhere nobody does, which is said.

use std::collections::HashMap;
use std::net::IpAddr;
use std::process::Stdio;
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
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::rig::{Rig, kubeconfig, until_some};
use crate::web;

/// ChatServices.
const MANY: usize = 1000;
/// Edits that are measured, one after the other.
const EDITS: usize = 300;
/// How long nothing changes.
const IDLE: Duration = Duration::from_mins(1);

/// What the fake pods know: by ChatService the model and the hash of its configuration, and when it came.
#[derive(Default)]
struct Configured {
    hashes: HashMap<String, String>,
    models: HashMap<String, (String, Instant)>,
}

/// Which of its addresses a pod was asked under.
#[derive(Clone, Copy)]
struct Asked(IpAddr);

impl Connected<IncomingStream<'_, TcpListener>> for Asked {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self(stream.io().local_addr().unwrap().ip())
    }
}

/// Answers for every pod; None where that is not possible.
async fn answer(
    pods: HashMap<IpAddr, String>,
    configured: Arc<Mutex<Configured>>,
    tasks: &mut JoinSet<()>,
) -> Option<()> {
    // One of the addresses must be ours.
    let own = pods.keys().next()?;
    TcpListener::bind((*own, 0)).await.ok()?;
    let listener = TcpListener::bind(("0.0.0.0", port::ADMIN)).await.ok()?;
    let status = move |ConnectInfo(Asked(address)): ConnectInfo<Asked>, _: Request| {
        let service = pods.get(&address).cloned().unwrap_or_default();
        let config_hash = configured.lock().unwrap().hashes.get(&service).cloned().unwrap_or_default();
        async move { Json(ServerStatus { ready: true, config_hash, ..ServerStatus::default() }) }
    };
    let router = Router::new().fallback(status).into_make_service_with_connect_info::<Asked>();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    Some(())
}

/// Notes every configuration that the operator writes.
fn follow(rig: &Rig, configured: &Arc<Mutex<Configured>>, tasks: &mut JoinSet<()>) {
    let config = watcher::Config::default().labels(&format!("{}={}", label::NAME, label::NAME_VALUE));
    let maps = watcher(rig.api::<ConfigMap>(), config).default_backoff().applied_objects();
    let configured = Arc::clone(configured);
    tasks.spawn(async move {
        let mut maps = std::pin::pin!(maps);
        while let Ok(Some(map)) = maps.try_next().await {
            let Some(text) = map.data.as_ref().and_then(|data| data.get(mount::CONFIG_FILE)) else {
                continue;
            };
            let config: ServerConfig = serde_json::from_str(text).unwrap();
            let service = map.labels()[label::INSTANCE].clone();
            let mut configured = configured.lock().unwrap();
            configured.hashes.insert(service.clone(), config.hash());
            configured.models.insert(service, (config.dynamic.model, Instant::now()));
        }
    });
}

/// The operator's process.
struct Operator {
    child: tokio::process::Child,
    admin: String,
    _log: JoinSet<()>,
}

impl Operator {
    /// The program that was built with this test, or the one that `CHATSERVICE_PROGRAM` names: a release build.
    async fn start(rig: &Rig) -> Self {
        let program = std::env::var("CHATSERVICE_PROGRAM");
        let program = program.unwrap_or_else(|_| env!("CARGO_BIN_EXE_chatservice").to_owned());
        println!("O7: the operator is {program}");
        let mut child = Command::new(program)
            .args(["controller", "--admin-address", "127.0.0.1:0", "--watch-namespaces", &rig.namespace])
            .args(["--lease-namespace", &rig.namespace])
            .env("KUBECONFIG", kubeconfig())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let admin = loop {
            let line = lines.next_line().await.unwrap().expect("it listens before it ends");
            let line: Value = serde_json::from_str(&line).unwrap();
            if let Some(address) = line["admin.address"].as_str() {
                break format!("http://{address}");
            }
        };
        let mut log = JoinSet::new();
        log.spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                tracing::warn!(line);
            }
        });
        Self { child, admin, _log: log }
    }

    async fn metrics(&self) -> String {
        let answer = web::get(&format!("{}/metrics", self.admin)).await;
        String::from_utf8(answer.body.to_vec()).unwrap()
    }

    /// Requests that change something, but for the Lease.
    async fn writes(&self) -> u64 {
        let metrics = self.metrics().await;
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
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
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
    let operator = Operator::start(&rig).await;
    let (configured, mut tasks) = (Arc::<Mutex<Configured>>::default(), JoinSet::new());
    follow(&rig, &configured, &mut tasks);
    let start = Instant::now();
    let spec = json!({ "model": "m-0", "backend": { "echo": {} } });
    let making = (0..MANY).map(|number| rig_create(&rig, number, &spec));
    stream::iter(making.collect::<Vec<_>>()).buffer_unordered(8).collect::<Vec<()>>().await;
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

    let pods = rig.api::<Pod>().list(&ListParams::default()).await.unwrap();
    let pods: HashMap<IpAddr, String> = pods
        .into_iter()
        .filter_map(|pod| {
            let address = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
            Some((address, pod.labels().get(label::INSTANCE)?.clone()))
        })
        .collect();
    match answer(pods, Arc::clone(&configured), &mut tasks).await {
        Some(()) => println!("O7: one server answers for all pods"),
        None => println!("O7: nobody answers for the pods: run it by tests/cluster/own-network.sh"),
    }
    // Two rounds of questions, so that what is known of the pods is known.
    tokio::time::sleep(Duration::from_secs(130)).await;
    let before = operator.writes().await;
    tokio::time::sleep(IDLE).await;
    let idle = operator.writes().await - before;
    println!("O7: writes in {} s while nothing changes: {idle}", IDLE.as_secs());

    let mut took = Vec::new();
    for edit in 1..=EDITS {
        let (service, model) = (name(rand::random_range(0..MANY)), format!("m-{edit}"));
        let begin = Instant::now();
        let patch = json!({ "spec": { "model": model } });
        rig.api::<ChatService>()
            .patch(&service, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .unwrap();
        let came = until_some("the configuration", async || {
            let configured = configured.lock().unwrap();
            let found = configured.models.get(&service).filter(|(running, _)| *running == model);
            found.map(|(_, at)| *at).ok_or_else(String::new)
        })
        .await;
        took.push(came.saturating_duration_since(begin));
    }
    took.sort();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_millis();
    println!("O7: edit to children, {EDITS} edits: p50 {} ms, p99 {} ms", at(50), at(99));
    println!("O7: memory {} KiB, at most {} KiB", operator.memory("VmRSS"), operator.memory("VmHWM"));
    assert_eq!(idle, 0);
    rig.clear().await;
}

async fn rig_create(rig: &Rig, number: usize, spec: &Value) {
    rig.create(&name(number), spec).await;
}
