//! The real server in a process of its own: `chatservice serve`, set up by its environment. In: where its backend is.
//! Out: its addresses, its memory, its end. Killed when dropped.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use super::http::DEADLINE;

// Every test binary uses some of these, none all.
const _: () = {
    let _ = (
        Process::start,
        Process::of,
        Process::local,
        Process::configured,
        Process::mounted,
        Process::signal,
        Process::end,
        Process::memory,
    );
    let _ = |process: Process| (process.url, process.admin);
};

/// A running server.
pub struct Process {
    pub url: String,
    pub admin: String,
    child: Child,
    /// Requests that it answers at once.
    at_once: usize,
    /// Bytes of its log.
    logged: Arc<AtomicUsize>,
    /// Reads the log, or the server would wait for somebody to.
    _log: JoinSet<()>,
}

// Every test binary uses some of these, none all.
const _: () = {
    let _ = (Process::logged, Process::at_once, Process::memory, Process::signal, Process::end);
};

impl Process {
    /// With this backend, waiting until it is ready.
    pub async fn start(base_url: &str) -> Self {
        let variables =
            [("OPENAI_API_KEY", "k"), ("OPENAI_BASE_URL", base_url), ("OPENAI_MODEL", "gpt-4o-mini")];
        Self::run(&["serve"], &variables).await
    }

    /// One of the servers of a ChatService in a file, which share the Redis at this URL, waiting until it is ready.
    pub async fn of(file: &Path, redis_url: &str) -> Self {
        Self::local(file, &[("REDIS_URL", redis_url)]).await
    }

    /// With the configuration in a file, as the operator writes it, waiting until it is ready.
    pub async fn configured(file: &Path) -> Self {
        Self::run(&["serve", "--config", file.to_str().unwrap()], &[]).await
    }

    /// The same with what it names mounted under this directory, as the kubelet mounts it under `/etc/chatservice`.
    pub async fn mounted(file: &Path, mounts: &Path) -> Self {
        let (file, mounts) = (file.to_str().unwrap(), mounts.to_str().unwrap());
        Self::run(&["serve", "--config", file, "--mounts", mounts], &[]).await
    }

    /// The ChatService in a file, with these secrets, waiting until it is ready.
    pub async fn local(file: &Path, variables: &[(&str, &str)]) -> Self {
        Self::run(&["local", "-f", file.to_str().unwrap()], variables).await
    }

    async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_chatservice"))
            .args(arguments)
            .args(["--address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0"])
            .env_clear()
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let listening = async {
            let mut seen = String::new();
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains("\"listening\"") {
                    return serde_json::from_str::<serde_json::Value>(&line).unwrap();
                }
                seen = seen + &line + "\n";
            }
            panic!("it ended: {seen}");
        };
        let listening = tokio::time::timeout(DEADLINE, listening).await.expect("it listens in time");
        let url = |key: &str| format!("http://{}", listening[key].as_str().unwrap());
        let (url, admin) = (url("api.address"), url("admin.address"));
        let at_once = listening["requests.at_once"].as_u64().unwrap().try_into().unwrap();
        let (mut log, logged) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
        let count = logged.clone();
        log.spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                count.fetch_add(line.len() + 1, Ordering::Relaxed);
            }
        });
        let process = Self { url, admin, child, at_once, logged, _log: log };
        process.wait_readyz(200).await;
        process
    }

    /// Waits until `/readyz` answers so.
    pub async fn wait_readyz(&self, status: u16) {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while super::http::get(&format!("{}/readyz", self.admin)).await.status != status {
            assert!(tokio::time::Instant::now() < deadline, "/readyz does not answer {status}");
            tokio::task::yield_now().await;
        }
    }

    /// Sends a signal by name.
    pub async fn signal(&self, name: &str) {
        let id = self.child.id().expect("it runs").to_string();
        assert!(Command::new("kill").args([name, &id]).status().await.unwrap().success());
    }

    /// Waits for its end.
    pub async fn end(&mut self, within: Duration) -> ExitStatus {
        tokio::time::timeout(within, self.child.wait()).await.expect("an end in time").unwrap()
    }

    /// Requests that it answers at once, as it said when it started.
    pub fn at_once(&self) -> usize {
        self.at_once
    }

    /// Bytes of its log since it listens.
    pub fn logged(&self) -> usize {
        self.logged.load(Ordering::Relaxed)
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> usize {
        let path = format!("/proc/{}/status", self.child.id().expect("it runs"));
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
    }
}
