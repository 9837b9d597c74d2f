//! What is compared. In: nothing. Out: the mock upstream, nginx as a plain reverse proxy in front of it, and chat servers
//! with everything on (callers with keys, request and token limits of each, cache, metrics, access log as in a pod), each
//! ready for requests; and one as a pod runs it, which nobody asks anything.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::load;
use crate::process::Process;
use crate::{ROLE, upstream};

/// How long a process may take to listen.
const START: Duration = Duration::from_secs(20);
/// Where chat completions are asked for.
pub const PATH: &str = "/v1/chat/completions";
/// Who asks there, with which key.
pub const CALLERS: [(&str, &str); 3] = [
    ("mobile", "sk-bench-0123456789abcdef-mobile"),
    ("shop", "sk-bench-0123456789abcdef-shop"),
    ("batch", "sk-bench-0123456789abcdef-batch"),
];

/// One row of the table.
pub struct Subject {
    /// What it is called there.
    pub name: String,
    /// Whose memory and CPU count.
    pub process: Rc<Process>,
    /// The Redis that it asks.
    pub redis: Option<Rc<Process>>,
    /// Where its requests go.
    pub url: String,
    /// Which requests.
    pub script: PathBuf,
    /// For how long at most: hits are faster than the highest limit that can be set, so they end before its burst does.
    pub at_most: Duration,
}

/// Everything that runs, killed when dropped.
pub struct Bench {
    subjects: Vec<Subject>,
    idle: Process,
    upstream: SocketAddr,
    _mock: Process,
    _directory: TempDir,
}

/// A program that has to be installed and is not.
pub fn missing_program() -> Option<&'static str> {
    ["nginx", "wrk", "redis-server"]
        .into_iter()
        .find(|program| Command::new(program).arg("-v").output().is_err())
}

impl Bench {
    /// Starts everything and waits until it listens.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let at = directory.path();
        let (upstream, redis, nginx) = (free_address(), free_address(), free_address());
        let mock = Process::start(
            Command::new(std::env::current_exe().expect("this program"))
                .env(ROLE, upstream::ROLE)
                .env(upstream::ADDRESS, upstream.to_string()),
        );
        let store = Rc::new(Process::start(
            Command::new("redis-server")
                .args(["--save", "", "--appendonly", "no", "--bind", "127.0.0.1"])
                .args(["--port", &redis.port().to_string()])
                .current_dir(at),
        ));
        let different = write(at, "different.lua", &load::script(true));
        let same = write(at, "same.lua", &load::script(false));
        let subject = |name: &str, process: &Rc<Process>, address: SocketAddr, script: &PathBuf| Subject {
            name: name.to_owned(),
            process: process.clone(),
            redis: name.contains("Redis").then(|| store.clone()),
            at_most: if script == &same { Duration::from_secs(2) } else { Duration::MAX },
            url: format!("http://{address}{PATH}"),
            script: script.clone(),
        };

        let configuration = write(at, "nginx.conf", &nginx_configuration(at, nginx, upstream));
        let proxy = Rc::new(Process::start(
            Command::new("nginx").arg("-p").arg(at).arg("-c").arg(configuration).args(["-g", "daemon off;"]),
        ));
        let memory = server(at, "memory", upstream, None);
        let shared = server(at, "redis", upstream, Some(redis));
        let (idle, pod) = idle(upstream, redis);
        for address in [upstream, redis, nginx, memory.1, shared.1, pod] {
            listening(address);
        }
        Self {
            subjects: vec![
                subject("nginx, plain proxy", &proxy, nginx, &different),
                subject("miss, memory store", &memory.0, memory.1, &different),
                subject("miss, Redis", &shared.0, shared.1, &different),
                subject("hit, Redis", &shared.0, shared.1, &same),
            ],
            idle,
            upstream,
            _mock: mock,
            _directory: directory,
        }
    }

    /// Every row.
    pub fn subjects(&self) -> &[Subject] {
        &self.subjects
    }

    /// The row that all are compared with.
    pub fn nginx(&self) -> &Subject {
        &self.subjects[0]
    }

    /// The chat servers, each once.
    pub fn servers(&self) -> impl Iterator<Item = &Subject> {
        self.subjects[1..3].iter()
    }

    /// The chat server that streams are measured on.
    pub fn streamer(&self) -> &Subject {
        &self.subjects[1]
    }

    /// The chat server that nobody asks anything.
    pub fn idle(&self) -> &Process {
        &self.idle
    }

    /// The mock's address.
    pub fn upstream(&self) -> SocketAddr {
        self.upstream
    }
}

fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).expect("a file in the temporary directory");
    path
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

fn listening(address: SocketAddr) {
    let deadline = Instant::now() + START;
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "nothing listens on {address}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// As many workers as cores, connections to the upstream kept: what a plain reverse proxy can do.
fn nginx_configuration(at: &Path, listen: SocketAddr, upstream: SocketAddr) -> String {
    let at = at.display();
    format!(
        "worker_processes auto;\nuser root;\npid {at}/nginx.pid;\nerror_log {at}/error.log;\nevents {{ worker_connections 4096; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000;\n  client_body_temp_path {at}/body;\n  proxy_temp_path {at}/proxy;\n\
         \x20 fastcgi_temp_path {at}/fastcgi;\n  uwsgi_temp_path {at}/uwsgi;\n  scgi_temp_path {at}/scgi;\n\
         \x20 upstream model {{ server {upstream}; keepalive 128; keepalive_requests 1000000; }}\n\
         \x20 server {{\n    listen {listen};\n    location / {{ proxy_pass http://model; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}\n  }}\n}}\n"
    )
}

/// `CHATSERVICE_API_KEYS` of all callers.
fn keys() -> String {
    CALLERS.map(|(name, key)| format!("{name}={key}")).join(",")
}

/// A chat server as a pod runs it: `serve`, which has a configuration and no ChatService to check.
fn idle(upstream: SocketAddr, redis: SocketAddr) -> (Process, SocketAddr) {
    let address = free_address();
    let mut command = Command::new(env!("CARGO_BIN_EXE_chatservice"));
    command.args(["serve", "--address", &address.to_string()]);
    command.args(["--admin-address", &free_address().to_string()]);
    command.env("OPENAI_BASE_URL", format!("http://{upstream}/v1")).env_remove("OPENAI_API_KEY");
    command.env("REDIS_URL", format!("redis://{redis}")).env("CHATSERVICE_API_KEYS", keys());
    command.env("RATE_LIMIT_REQUESTS", "1000");
    (Process::start(&mut command), address)
}

/// A chat server with every kind of governance on that a caller can meet.
fn server(
    at: &Path,
    name: &str,
    upstream: SocketAddr,
    redis: Option<SocketAddr>,
) -> (Rc<Process>, SocketAddr) {
    let address = free_address();
    let shared = if redis.is_some() { "  redis: { secretRef: { name: redis } }\n" } else { "" };
    let spec = format!(
        "apiVersion: chatservice.dev/v1alpha1\nkind: ChatService\nmetadata: {{ name: bench-{name} }}\nspec:\n\
         \x20 model: gpt-4o-mini\n  backend: {{ openai: {{ baseURL: \"http://{upstream}/v1\" }} }}\n\
         \x20 rateLimits: {{ requestsPerMinute: 1000000, burst: 100000, tokensPerMinute: 100000000 }}\n\
         \x20 auth: {{ apiKeysSecretRef: {{ name: callers }} }}\n  logging: {{ format: json }}\n\
         \x20 cache: {{ ttl: 1h }}\n{shared}"
    );
    let file = write(at, &format!("{name}.yaml"), &spec);
    let mut command = Command::new(env!("CARGO_BIN_EXE_chatservice"));
    command.args(["local", "-f"]).arg(file).args(["--address", &address.to_string()]);
    command.env_remove("REDIS_URL").env("CHATSERVICE_API_KEYS", keys());
    if let Some(redis) = redis {
        command.env("REDIS_URL", format!("redis://{redis}"));
    }
    (Rc::new(Process::start(&mut command)), address)
}
