//! Three server processes that share one Redis, a Cluster, or a master with Sentinels: exact limits, what a killed one leaves.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;
use tempfile::TempDir;

use crate::http;
use crate::process_support::Process;
use crate::redis_server::RedisServer;
use crate::redis_sets::RedisCluster;

/// How long it may take until a round is not disturbed, on a busy machine.
const ROUND: Duration = Duration::from_mins(3);

/// One request a minute, and 23 at once.
const CHAT: &str = "apiVersion: chatservice.dev/v1alpha1
kind: ChatService
metadata: { name: demo, namespace: chat }
spec:
  model: echo
  backend: { echo: {} }
  rateLimits: { requestsPerMinute: 1, burst: 23, tokensPerMinute: 100000, concurrentRequests: 50 }
  cache: { ttl: 1h }
  conversations: { ttl: 1h }
  redis: { secretRef: { name: demo-redis } }
  logging: { format: json }
";

/// The servers, and the file that they are made from.
struct Servers {
    processes: Vec<Process>,
    _directory: TempDir,
}

impl Servers {
    async fn start(redis_url: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file: PathBuf = directory.path().join("chat.yaml");
        std::fs::write(&file, CHAT).unwrap();
        let processes = join_all((0..3).map(|_| Process::of(&file, redis_url))).await;
        for process in &processes {
            // Connects; it is the first of the requests that are limited.
            let url = format!("{}/api/v1/conversations/{}", process.url, uuid::Uuid::new_v4());
            http::get(&url).await;
        }
        Self { processes, _directory: directory }
    }

    /// Answers to this many requests at once, spread evenly: how many were answered, how many refused.
    async fn ask(&self, requests: usize) -> (usize, usize) {
        let answers = join_all((0..requests).map(|number| async move {
            let url = format!("{}/api/v1/chat", self.processes[number % self.processes.len()].url);
            http::post(&url, &json!({"message": format!("question {number}")})).await.status.as_u16()
        }))
        .await;
        let count = |status| answers.iter().filter(|answer| **answer == status).count();
        let (answered, refused) = (count(200), count(429));
        assert_eq!(answered + refused, requests, "{answers:?}");
        (answered, refused)
    }

    /// Whether Redis answered all of them all the time.
    async fn undisturbed(&self) -> bool {
        let metrics = self.processes.iter().map(|process| async {
            let answer = http::get(&format!("{}/metrics", process.admin)).await;
            String::from_utf8(answer.body.to_vec()).unwrap()
        });
        let metrics = join_all(metrics).await;
        metrics.iter().all(|text| !text.contains("\nchat_store_errors_total{"))
    }
}

/// 23 are admitted: one with which each server connects, and 20 of the 50. Where Redis is answered too late, on a busy
/// machine, the servers may limit each for itself: then the round is begun again with new ones.
async fn twenty_of_fifty(redis_url: &str, empty: impl AsyncFn()) {
    let deadline = Instant::now() + ROUND;
    loop {
        empty().await;
        let servers = Servers::start(redis_url).await;
        let answered = servers.ask(50).await;
        if servers.undisturbed().await {
            assert_eq!(answered, (20, 30));
            return;
        }
        assert!(Instant::now() < deadline, "Redis does not answer all of a round in time");
    }
}

async fn flush(servers: &[RedisServer]) {
    for server in servers {
        let () = server.query("FLUSHALL").await.unwrap();
    }
}

#[tokio::test]
async fn s4_exactly_twenty_of_fifty_are_answered() {
    let Some(redis) = RedisServer::start().await else { return };
    twenty_of_fifty(&redis.url(), async || redis.query("FLUSHALL").await.unwrap()).await;
}

#[tokio::test]
async fn s4_exactly_twenty_of_fifty_are_answered_on_a_cluster() {
    let Some(cluster) = RedisCluster::start(false).await else { return };
    twenty_of_fifty(&cluster.url(), async || flush(&cluster.masters).await).await;
}

#[tokio::test]
async fn s6_servers_that_are_killed_leave_no_key_without_a_life() {
    let Some(redis) = RedisServer::start().await else { return };
    for round in 0_u64..5 {
        let servers = Servers::start(&redis.url()).await;
        let kill = async {
            // Somewhere in the middle of what they do.
            tokio::time::sleep(Duration::from_millis(round * 3)).await;
            for process in &servers.processes {
                process.signal("-KILL").await;
            }
        };
        let asked = (0..60).map(|number| {
            let url = format!("{}/api/v1/chat", servers.processes[number % 3].url);
            async move {
                let body = json!({"message": format!("question {number}")}).to_string();
                http::attempt(&url, body.as_bytes()).await;
            }
        });
        tokio::join!(kill, join_all(asked));
        drop(servers);
        let keys: Vec<String> = redis.query("KEYS *").await.unwrap();
        for key in keys {
            let life: i64 = redis.query(&format!("PTTL {key}")).await.unwrap();
            assert!(life != -1, "{key} lives for ever");
        }
    }
    let keys: Vec<String> = redis.query("KEYS *").await.unwrap();
    assert!(!keys.is_empty(), "something was written");
}
