//! A namespace, an operator that watches it alone, and a server that answers `/status` for all its pods.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use axum::routing::get;
use axum::{Json, Router};
use chatservice::admin::{Readiness, ServerStatus, StatusProblem};
use chatservice::constants::{LEASE, condition, metric, mount, path};
use chatservice::controller::client::Clients;
use chatservice::controller::metrics::ControllerMetrics;
use chatservice::controller::observe::Pace;
use chatservice::controller::{Defaults, Error, Operator, WAITS_FOR};
use chatservice::crd::{ChatService, custom_resource_definition};
use chatservice::leader_election::LeaseOptions;
use chatservice::server::config::ServerConfig;
use chatservice::shutdown::Shutdown;
use http::Request;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Resource};
use prometheus::{Registry, TextEncoder};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::util::MapRequestLayer;

#[path = "../support/fault_layer.rs"]
mod fault_layer;
pub use fault_layer::{End, Fault, FaultLayer, Faults, Lists, concerns};

/// Where the API server is.
const KUBECONFIG: &str = "CHATSERVICE_TEST_KUBECONFIG";
/// Long enough for a busy machine; nothing waits for it in vain but a failure.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// The servers' default image.
pub const IMAGE: &str = "registry.example.com/chatservice:0.1.0";

/// The requests of an operator, as `METHOD path?query`.
#[derive(Clone, Default)]
pub struct Recorded(Arc<Mutex<Vec<String>>>);

impl Recorded {
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// How many begin with `method` and contain `part`.
    pub fn count(&self, method: &str, part: &str) -> usize {
        self.all().iter().filter(|line| line.starts_with(method) && line.contains(part)).count()
    }
}

/// The file that says where the API server is.
pub fn kubeconfig() -> String {
    std::env::var(KUBECONFIG).unwrap()
}

/// One subscriber for the process.
static LOG: OnceLock<()> = OnceLock::new();

/// Where the fake pods are, once a test has given them a server.
type Address = Arc<Mutex<Option<SocketAddr>>>;

pub struct Rig {
    /// An administrator's.
    pub admin: Client,
    /// What the operator asked of the API server.
    pub recorded: Recorded,
    /// This test's own.
    pub namespace: String,
    /// The fake pods' answer to `/status`.
    pub answer: Arc<Mutex<ServerStatus>>,
    /// How often they were asked.
    pub asked: Arc<AtomicUsize>,
    /// Namespaces that the operator is told to watch before this test's own.
    pub also_watched: Vec<String>,
    /// The servers' image where a ChatService names none.
    pub image: String,
    /// How many ChatServices the operator rolls at a time.
    pub max_concurrent_rollouts: usize,
    /// Where its Lease is, for tests in which this test's own namespace goes away.
    pub lease_namespace: Option<String>,
    /// Where the operator finds the API server, if not where the kubeconfig says.
    pub server: Option<String>,
    /// Whether the operator's watches are there.
    pub readiness: Readiness,
    /// What goes wrong between the operator and the API server.
    pub faults: Faults,
    /// How long pods may be silent.
    pub patience: Duration,
    registry: Registry,
    pods: Address,
    shutdown: CancellationToken,
    operator: JoinSet<()>,
    /// Operators that died before this one.
    deaths: usize,
    tasks: JoinSet<()>,
}

/// A rig with a running operator, or None, with a word why, where there is no API server.
pub async fn start() -> Option<Rig> {
    let mut rig = Rig::without_operator().await?;
    rig.run_operator(None).await;
    Some(rig)
}

impl Rig {
    pub async fn without_operator() -> Option<Self> {
        let Ok(kubeconfig) = std::env::var(KUBECONFIG) else {
            assert!(std::env::var_os("CI").is_none(), "{KUBECONFIG} is not set");
            eprintln!("skipped: {KUBECONFIG} is not set; run it under tests/cluster/with-api-server.sh");
            return None;
        };
        // A second call finds the provider installed, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        LOG.get_or_init(|| {
            let filter = tracing_subscriber::EnvFilter::new("warn,chatservice=debug");
            tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().init();
        });
        let admin = Client::try_from(config(&kubeconfig).await).unwrap();
        install_crd(&admin).await;
        let namespace = format!("t-{:016x}", rand::random::<u64>());
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
        let namespaces: Api<Namespace> = Api::all(admin.clone());
        namespaces.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
        Some(Self {
            admin,
            recorded: Recorded::default(),
            namespace,
            answer: Arc::default(),
            asked: Arc::default(),
            also_watched: Vec::new(),
            image: IMAGE.to_owned(),
            max_concurrent_rollouts: 5,
            lease_namespace: None,
            server: None,
            readiness: Readiness::new(Shutdown::new(), &WAITS_FOR),
            faults: Faults::default(),
            // Most tests have pods without a server, and nothing to wait for.
            patience: Duration::from_millis(300),
            registry: Registry::new(),
            pods: Address::default(),
            shutdown: CancellationToken::new(),
            operator: JoinSet::new(),
            deaths: 0,
            tasks: JoinSet::new(),
        })
    }

    /// Runs an operator, as the ServiceAccount `account` of the namespace or as the administrator. As the latter it is
    /// waited for.
    pub async fn run_operator(&mut self, account: Option<&str>) {
        self.begin_operator(account).await;
        if account.is_none() {
            let readiness = self.readiness.clone();
            until("the operator's watches", async || readiness.is_ready().then_some(())).await;
        }
    }

    /// The same, without waiting.
    pub async fn begin_operator(&mut self, account: Option<&str>) {
        let user = account.map(|account| format!("system:serviceaccount:{}:{account}", self.namespace));
        let recorded = self.recorded.clone();
        let layer = MapRequestLayer::new(move |mut request: Request<Body>| {
            if let Some(user) = &user {
                request.headers_mut().insert("Impersonate-User", user.parse().unwrap());
            }
            let target = request.uri().path_and_query().unwrap().as_str();
            recorded.0.lock().unwrap().push(format!("{} {target}", request.method()));
            request
        });
        let kubeconfig = kubeconfig();
        let mut config = config(&kubeconfig).await;
        config.default_retry = false;
        if let Some(server) = &self.server {
            config.cluster_url = server.parse().unwrap();
        }
        let bottom = |faults: Faults| {
            let builder = ClientBuilder::try_from(config.clone()).unwrap();
            builder.with_layer(&layer).with_layer(&FaultLayer(faults))
        };
        let metrics = ControllerMetrics::new(&self.registry).unwrap();
        let pods = Arc::clone(&self.pods);
        let mut watch_namespaces = self.also_watched.clone();
        watch_namespaces.push(self.namespace.clone());
        // The Lease has tests of its own; here its requests would only blur the numbers.
        let clients = Clients::assemble(bottom(self.faults.clone()), bottom(Faults::default()), &metrics);
        let lease = LeaseOptions {
            namespace: Some(self.lease_namespace.clone().unwrap_or_else(|| self.namespace.clone())),
            // A dead operator's Lease would have to be waited for.
            name: self.lease_namespace.as_ref().map_or_else(
                || format!("{LEASE}-{}", self.deaths),
                |_| format!("{LEASE}-{}-{}", self.namespace, self.deaths),
            ),
            identity: "test".to_owned(),
        };
        let defaults = Defaults { server_image: self.image.clone(), allowed_images: vec![], operator: None };
        let pace = Pace {
            unsettled: Duration::from_millis(200),
            settled: Duration::from_secs(2),
            patience: self.patience,
            overdue: Pace::default().overdue,
            signing_keys: Duration::from_secs(2),
        };
        let (max_concurrent_rollouts, readiness) = (self.max_concurrent_rollouts, self.readiness.clone());
        let operator = move || {
            let pods = Arc::clone(&pods);
            Operator {
                clients: clients.clone(),
                lease: lease.clone(),
                watch_namespaces: watch_namespaces.clone(),
                defaults: defaults.clone(),
                max_concurrent_rollouts,
                metrics: metrics.clone(),
                readiness: readiness.clone(),
                pace,
                address: Arc::new(move |_| *pods.lock().unwrap()),
            }
        };
        let shutdown = self.shutdown.clone();
        self.operator.spawn(async move {
            // A starved machine may cost the Lease: an operator that ends for that is started again, as a kubelet does.
            while let Err(lost) = operator().run(shutdown.clone()).await {
                assert!(matches!(lost, Error::Lost(_)), "{lost}");
            }
        });
    }

    /// Ends the operator and runs another one, whose servers' image is `image`.
    pub async fn upgrade(&mut self, image: &str) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.operator.join_next()).await.unwrap().unwrap().unwrap();
        self.shutdown = CancellationToken::new();
        self.registry = Registry::new();
        self.readiness = Readiness::new(Shutdown::new(), &WAITS_FOR);
        image.clone_into(&mut self.image);
        self.run_operator(None).await;
    }

    /// A client of the ServiceAccount `account` of the namespace.
    pub async fn client_as(&self, account: &str) -> Client {
        let user = format!("system:serviceaccount:{}:{account}", self.namespace);
        let layer = MapRequestLayer::new(move |mut request: Request<Body>| {
            request.headers_mut().insert("Impersonate-User", user.parse().unwrap());
            request
        });
        let kubeconfig = kubeconfig();
        ClientBuilder::try_from(config(&kubeconfig).await).unwrap().with_layer(&layer).build()
    }

    /// Gives the fake pods a server that answers `/status` with [`Self::answer`]; while that names no configuration, one
    /// that runs whatever is wanted.
    pub async fn answer_for_pods(&mut self) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        *self.pods.lock().unwrap() = Some(listener.local_addr().unwrap());
        let (answer, asked) = (Arc::clone(&self.answer), Arc::clone(&self.asked));
        let maps = self.api::<ConfigMap>();
        let router = Router::new().route(
            path::STATUS,
            get(async move || {
                asked.fetch_add(1, Ordering::Relaxed);
                let mut said = answer.lock().unwrap().clone();
                if said.config_hash.is_empty() {
                    said.config_hash = wanted_hash(&maps).await.unwrap_or_default();
                }
                Json(said)
            }),
        );
        self.tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    }

    /// Runs a part of a test until the rig is gone.
    pub fn run(&mut self, part: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(part);
    }

    /// What every fake pod says is wrong from now on.
    pub fn report(&self, problems: &[(&str, &str)]) {
        let problems = problems
            .iter()
            .map(|&(reason, message)| StatusProblem { reason: reason.into(), message: message.into() });
        self.answer.lock().unwrap().problems = problems.collect();
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.admin.clone(), &self.namespace)
    }

    pub async fn create(&self, name: &str, spec: &Value) -> ChatService {
        let object = json!({
            "apiVersion": "chatservice.dev/v1alpha1", "kind": "ChatService",
            "metadata": { "name": name }, "spec": spec,
        });
        self.make::<ChatService>(&object).await
    }

    pub async fn make<K>(&self, object: &Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        let object: K = serde_json::from_value(object.clone()).unwrap();
        self.api().create(&PostParams::default(), &object).await.unwrap()
    }

    pub async fn merge<K>(&self, name: &str, patch: &Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.api().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap()
    }

    pub async fn find<K>(&self, name: &str) -> Option<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.api().get_opt(name).await.unwrap()
    }

    /// A ChatService as it is, also one that is none by its schema.
    pub async fn unreadable(&self, name: &str) -> Value {
        let path =
            format!("/apis/chatservice.dev/v1alpha1/namespaces/{}/chatservices/{name}", self.namespace);
        self.admin.request(Request::get(path).body(Vec::new()).unwrap()).await.unwrap()
    }

    /// Waits until the Ready condition has this status and reason for the current generation; its object.
    pub async fn until_ready_is(&self, name: &str, status: &str, reason: &str) -> ChatService {
        until_some(&format!("Ready={status} {reason} of {name}"), async || {
            let Some(cs) = self.find::<ChatService>(name).await else { return Err("it is gone".to_owned()) };
            let current = cs.status.as_ref().and_then(|s| s.observed_generation) == cs.metadata.generation;
            let ready = claim(&cs, condition::READY);
            if current && ready.as_ref().is_some_and(|(s, r, _)| s == status && r == reason) {
                return Ok(cs);
            }
            Err(format!("{:?}", cs.status))
        })
        .await
    }

    /// Waits until it is ready and nothing is under way.
    pub async fn until_settled(&self, name: &str) -> ChatService {
        until_some(&format!("{name} to settle"), async || {
            let cs = self.until_ready_is(name, "True", "Available").await;
            if claim(&cs, condition::RECONCILING).is_none() {
                Ok(cs)
            } else {
                Err(format!("{:?}", cs.status))
            }
        })
        .await
    }

    pub async fn pods(&self, name: &str) -> Vec<Pod> {
        let params = ListParams::default().labels(&format!("app.kubernetes.io/instance={name}"));
        let pods = self.api::<Pod>().list(&params).await.unwrap().items;
        pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect()
    }

    /// Sets the status of a pod, as a kubelet would.
    pub async fn patch_pod_status(&self, pod: &str, status: &Value) {
        let patch = json!({ "status": status });
        self.api::<Pod>()
            .patch_status(pod, &PatchParams::default(), &Patch::Strategic(&patch))
            .await
            .unwrap();
    }

    /// Makes every pod of `name` not ready, as a kubelet does whose readiness probe fails.
    pub async fn fail_readiness(&self, name: &str) {
        for pod in self.pods(name).await {
            let conditions = json!([
                { "type": "Ready", "status": "False" }, { "type": "ContainersReady", "status": "False" },
            ]);
            self.patch_pod_status(&pod.metadata.name.unwrap(), &json!({ "conditions": conditions })).await;
        }
    }

    pub async fn restore_readiness(&self, name: &str) {
        for pod in self.pods(name).await {
            let conditions = json!([
                { "type": "Ready", "status": "True" }, { "type": "ContainersReady", "status": "True" },
            ]);
            self.patch_pod_status(&pod.metadata.name.unwrap(), &json!({ "conditions": conditions })).await;
        }
    }

    /// The operator's metrics as text.
    pub fn metrics(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap()
    }

    /// Reconciles that ended well so far.
    pub fn reconciles(&self) -> u64 {
        let metrics = self.metrics();
        let line = "chatservice_controller_reconcile_total{outcome=\"success\"} ";
        metrics.lines().find_map(|l| l.strip_prefix(line)).map_or(0, |count| count.parse().unwrap())
    }

    /// Ready `ChatServices` as metrics count them: those whose `ConfigApplied` is True, False, Unknown.
    pub fn ready_objects(&self) -> [u64; 3] {
        let metrics = self.metrics();
        ["True", "False", "Unknown"].map(|config| {
            let line =
                format!("chatservice_controller_objects{{config_applied=\"{config}\",ready=\"True\"}} ");
            metrics.lines().find_map(|l| l.strip_prefix(&line)).unwrap().parse().unwrap()
        })
    }

    /// Seconds, as a metric without labels says them: such as `config_waiting`, how long the one that waits longest for its
    /// configuration has waited.
    pub fn seconds(&self, what: &str) -> f64 {
        let metrics = self.metrics();
        let line = format!("chatservice_controller_{what}_seconds ");
        metrics.lines().find_map(|l| l.strip_prefix(&line)).unwrap().parse().unwrap()
    }

    /// Waits until so many ChatServices changed and wait for their turn.
    pub async fn until_waiting(&self, count: usize) {
        until_some(&format!("{count} to wait for their turn"), async || {
            let metrics = self.metrics();
            let line = metrics.lines().find_map(|line| line.strip_prefix(metric::QUEUE_DEPTH)).unwrap();
            if line.trim() == count.to_string() { Ok(()) } else { Err(line.to_owned()) }
        })
        .await;
    }

    /// Stops the operator and waits until it has ended well.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.operator.join_next()).await.unwrap().unwrap().unwrap();
    }

    /// Ends the operator as if its process had died.
    pub async fn kill_operator(&mut self) {
        self.operator.shutdown().await;
        self.deaths += 1;
        self.faults = Faults::default();
        self.registry = Registry::new();
        self.readiness = Readiness::new(Shutdown::new(), &WAITS_FOR);
    }

    /// Removes the namespace and all that is in it, without waiting for it.
    pub async fn clear(mut self) {
        self.operator.shutdown().await;
        let namespaces: Api<Namespace> = Api::all(self.admin.clone());
        namespaces.delete(&self.namespace, &DeleteParams::background()).await.unwrap();
    }
}

/// The hash of the configuration that the operator wrote, where it wrote one.
async fn wanted_hash(maps: &Api<ConfigMap>) -> Option<String> {
    let maps = maps.list(&ListParams::default()).await.unwrap();
    let config = maps.into_iter().find_map(|map| map.data?.remove(mount::CONFIG_FILE))?;
    Some(serde_json::from_str::<ServerConfig>(&config).unwrap().hash())
}

/// Status, reason and message of a condition.
pub fn claim(cs: &ChatService, type_: &str) -> Option<(String, String, String)> {
    let found = cs.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == type_)?;
    Some((found.status.clone(), found.reason.clone(), found.message.clone()))
}

/// Waits for a value.
pub async fn until<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    until_some(what, async || look().await.ok_or_else(String::new)).await
}

/// Waits for a value; what was seen instead is printed when it does not come.
pub async fn until_some<T>(what: &str, look: impl AsyncFn() -> Result<T, String>) -> T {
    look_for(look).await.unwrap_or_else(|seen| panic!("gave up waiting for {what}; seen: {seen}"))
}

/// Waits for a value; what was seen instead when it does not come.
pub async fn look_for<T>(look: impl AsyncFn() -> Result<T, String>) -> Result<T, String> {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        match look().await {
            Err(_) if tokio::time::Instant::now() < end => {}
            found => return found,
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits for a namespace that is being deleted to be gone. It is touched now and then: its controller looks again after half
/// of the longest grace of the pods that it saw, or five seconds after a change. Not all the time: it would never get
/// its own writes through.
pub async fn until_gone(namespaces: &Api<Namespace>, name: &str) {
    let began = tokio::time::Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_secs(4));
    loop {
        ticks.tick().await;
        let label = json!({ "example.com/touched": began.elapsed().as_secs().to_string() });
        let touched = Patch::Merge(json!({ "metadata": { "labels": label } }));
        match namespaces.patch(name, &PatchParams::default(), &touched).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => return,
            touched => assert!(began.elapsed() < 2 * PATIENCE, "namespace {name} does not go: {touched:?}"),
        }
    }
}

async fn config(kubeconfig: &str) -> kube::Config {
    let kubeconfig = Kubeconfig::read_from(Path::new(kubeconfig)).unwrap();
    kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap()
}

async fn install_crd(admin: &Client) {
    let crds: Api<CustomResourceDefinition> = Api::all(admin.clone());
    let crd = custom_resource_definition();
    let name = "chatservices.chatservice.dev";
    let params = PatchParams::apply("tests").force();
    crds.patch(name, &params, &Patch::Apply(&crd)).await.unwrap();
    until("the CRD", async || {
        let crd = crds.get(name).await.unwrap();
        let conditions = crd.status?.conditions?;
        conditions.iter().any(|c| c.type_ == "Established" && c.status == "True").then_some(())
    })
    .await;
}
