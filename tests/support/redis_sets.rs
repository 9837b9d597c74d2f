//! A Redis Cluster and a set of Sentinels of a test's own: real servers on free ports of loopback, killed when dropped.
//! In: nothing. Out: their URLs, and the servers, to make each of them fail. Needs `redis.rs` as `crate::redis_server`.

#![expect(clippy::expect_used, reason = "helpers of tests fail as tests do")]

use std::time::{Duration, Instant};

use redis::Value;

use crate::redis_server::{RedisServer, free_port};

/// How long a set may take to form on a busy machine, or to replace a master.
const FORM: Duration = Duration::from_secs(40);
/// Slots of a Cluster.
const SLOTS: usize = 16384;

// Every test binary uses some of these, none all.
const _: () = {
    let _ = RedisCluster::start;
    let _ = RedisCluster::url;
    let _ = RedisCluster::owner;
    let _ = RedisSentinels::start;
    let _ = RedisSentinels::url;
    let _ = |set: RedisSentinels| (set.master, set.replica);
};

/// Three masters with a third of the slots each, and replicas where they are asked for.
pub struct RedisCluster {
    /// The masters.
    pub masters: Vec<RedisServer>,
    /// The replica of each master, or none.
    pub replicas: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts three masters, each with a replica if `replicated`. None where `redis-server` is not installed. A node that
    /// is away costs its own slots only, and is noticed within a second.
    pub async fn start(replicated: bool) -> Option<Self> {
        let mut nodes = Vec::new();
        for _ in 0..if replicated { 6 } else { 3 } {
            nodes.push(RedisServer::start_with(|_| node_arguments()).await?);
        }
        let replicas = nodes.split_off(3);
        let cluster = Self { masters: nodes, replicas };
        cluster.form().await;
        Some(cluster)
    }

    /// Its URL, naming all masters.
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.masters.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// The number of the master that has the slot of a key.
    pub async fn owner(&self, key: &str) -> usize {
        let slot: usize = self.masters[0].query(&format!("CLUSTER KEYSLOT {key}")).await.expect("a slot");
        slot / SLOTS.div_ceil(3)
    }

    fn nodes(&self) -> impl Iterator<Item = &RedisServer> {
        self.masters.iter().chain(&self.replicas)
    }

    async fn form(&self) {
        let share = SLOTS.div_ceil(3);
        for (number, master) in self.masters.iter().enumerate() {
            let (first, last) = (number * share, ((number + 1) * share).min(SLOTS) - 1);
            let () = master.query(&format!("CLUSTER ADDSLOTSRANGE {first} {last}")).await.expect("slots");
            let () =
                master.query(&format!("CLUSTER SET-CONFIG-EPOCH {}", number + 1)).await.expect("an epoch");
        }
        // Everybody meets everybody: gossip would take seconds.
        for node in self.nodes() {
            let bus: Vec<String> = node.query("CONFIG GET cluster-port").await.expect("its bus");
            let meet = format!("CLUSTER MEET 127.0.0.1 {} {}", node.port(), bus[1]);
            for other in self.nodes().filter(|other| other.port() != node.port()) {
                let () = other.query(&meet).await.expect("a node to meet");
            }
        }
        let all = self.nodes().count();
        for node in self.nodes() {
            until("the nodes know each other", async || {
                let info: String = node.query("CLUSTER INFO").await.unwrap_or_default();
                info.contains(&format!("cluster_known_nodes:{all}\r"))
            })
            .await;
        }
        for (master, replica) in self.masters.iter().zip(&self.replicas) {
            let id: String = master.query("CLUSTER MYID").await.expect("its name");
            let follow = format!("CLUSTER REPLICATE {id}");
            until("the replica follows", async || replica.query::<()>(&follow).await.is_ok()).await;
            until("the replica is in step", async || in_step(replica).await).await;
        }
        for node in self.nodes() {
            until("all slots are served", async || {
                let info: String = node.query("CLUSTER INFO").await.unwrap_or_default();
                info.contains("cluster_state:ok")
            })
            .await;
        }
        // The map that any node gives must be whole, replicas included.
        for node in self.nodes() {
            until("all nodes tell the same", async || {
                let slots: Vec<Vec<Value>> = node.query("CLUSTER SLOTS").await.unwrap_or_default();
                slots.len() == 3 && slots.iter().all(|range| range.len() == 2 + all / 3)
            })
            .await;
        }
    }
}

/// A master with a replica, and three Sentinels that replace it after half a second of silence.
pub struct RedisSentinels {
    /// The master to begin with.
    pub master: RedisServer,
    /// Its replica.
    pub replica: RedisServer,
    /// The Sentinels.
    pub sentinels: Vec<RedisServer>,
}

impl RedisSentinels {
    /// Starts all five. None where `redis-server` is not installed.
    pub async fn start() -> Option<Self> {
        let master = RedisServer::start().await?;
        let port = master.port().to_string();
        let follow = ["--replicaof", "127.0.0.1", &port].map(str::to_owned);
        let replica = RedisServer::start_with(|_| follow.to_vec()).await?;
        until("the replica is in step", async || in_step(&replica).await).await;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            let sentinel = RedisServer::start_with(|directory| {
                let file = directory.path().join("sentinel.conf");
                let text = format!(
                    "sentinel monitor main 127.0.0.1 {port} 2\nsentinel down-after-milliseconds main 500\n\
                     sentinel failover-timeout main 3000\n"
                );
                std::fs::write(&file, text).expect("a configuration");
                vec![file.display().to_string(), "--sentinel".to_owned()]
            });
            sentinels.push(sentinel.await?);
        }
        for sentinel in &sentinels {
            until("the Sentinels know each other and the replica", async || {
                let info: String = sentinel.query("INFO sentinel").await.unwrap_or_default();
                info.contains("slaves=1,sentinels=3") && info.contains("status=ok")
            })
            .await;
        }
        Some(Self { master, replica, sentinels })
    }

    /// Its URL, naming all Sentinels.
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(|one| format!("127.0.0.1:{}", one.port())).collect();
        format!("redis+sentinel://{}/main", hosts.join(","))
    }
}

fn node_arguments() -> Vec<String> {
    let bus = free_port().to_string();
    [
        "--cluster-enabled",
        "yes",
        "--cluster-config-file",
        "nodes.conf",
        "--cluster-node-timeout",
        "1000",
        "--cluster-require-full-coverage",
        "no",
        "--cluster-port",
        &bus,
    ]
    .map(str::to_owned)
    .to_vec()
}

async fn in_step(replica: &RedisServer) -> bool {
    replica.query::<String>("INFO replication").await.unwrap_or_default().contains("master_link_status:up")
}

/// Waits for what takes time.
async fn until(what: &str, done: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + FORM;
    while !done().await {
        assert!(Instant::now() < deadline, "{what}: not within {FORM:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
