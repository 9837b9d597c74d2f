//! The operator as a process of its own. In: a kubeconfig and arguments. Out: where its admin listener is, and what that says.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::web;

/// Names another program than the one that was built with the tests, such as a release build.
const PROGRAM: &str = "CHATSERVICE_PROGRAM";

/// Killed when it is dropped.
pub struct OperatorProcess {
    pub child: Child,
    admin: String,
    _log: JoinSet<()>,
}

impl OperatorProcess {
    /// Starts one and waits until it listens.
    pub async fn start(kubeconfig: &Path, arguments: &[&str]) -> Self {
        let program = std::env::var(PROGRAM);
        let program = program.unwrap_or_else(|_| env!("CARGO_BIN_EXE_chatservice").to_owned());
        let mut child = Command::new(program)
            .args(["controller", "--admin-address", "127.0.0.1:0"])
            .args(arguments)
            .env_clear()
            .env("KUBECONFIG", kubeconfig)
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
                tracing::debug!(line, "a process");
            }
        });
        Self { child, admin, _log: log }
    }

    /// What a path of its admin listener says.
    pub async fn says(&self, path: &str) -> String {
        let answer = web::get(&format!("{}{path}", self.admin)).await;
        String::from_utf8(answer.body.to_vec()).unwrap()
    }

    pub async fn signal(&self, name: &str) {
        let id = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args([name, &id]).status().await.unwrap().success());
    }
}
