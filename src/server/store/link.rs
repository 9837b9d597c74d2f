//! The way to Redis: one, a master that Sentinels know, or a Cluster. In: a command and its key. Out: the answer, or
//! [`StoreError`] in bounded time, as `node.rs` says. Who meets an open breaker goes on at once; whether Redis serves
//! again is found out beside the requests, by tasks that end with the link.

use std::sync::{Arc, Mutex, PoisonError};

use redis::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::StoreError;
use super::breaker::Permit;
use super::cluster::Cluster;
use super::node::{CONNECT, Failure, Node, Sent, Trip};
use super::redis_address::{RedisAddress, Topology};
use super::slots::slot_of;
use super::verdict::Redirect;

/// How often a Cluster may send one command elsewhere.
const REDIRECTIONS: usize = 2;

/// The way to one Redis, set of Sentinels or Cluster.
pub struct Link {
    nodes: Nodes,
    /// Each takes as long as connecting and one operation at most.
    tasks: Mutex<JoinSet<()>>,
}

enum Nodes {
    One(Arc<Node>),
    Cluster(Arc<Cluster>),
}

impl Link {
    /// A link that connects when it is first used.
    #[must_use]
    pub fn new(address: RedisAddress) -> Self {
        let address = Arc::new(address);
        let nodes = match address.topology() {
            Topology::Single | Topology::Sentinel { .. } => Nodes::One(Arc::new(Node::only(address))),
            Topology::Cluster => Nodes::Cluster(Arc::new(Cluster::new(address))),
        };
        Self { nodes, tasks: Mutex::default() }
    }

    /// Whether keys that are used together must have the same hash tag: one script over several then is one trip each.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        matches!(self.nodes, Nodes::Cluster(_))
    }

    /// Whether Redis answers; None before it was asked.
    #[must_use]
    pub fn connected(&self) -> Option<bool> {
        match &self.nodes {
            Nodes::One(node) => node.connected(),
            Nodes::Cluster(cluster) => cluster.connected(),
        }
    }

    /// Finds out, beside what else there is to do, whether Redis serves: at once where it was never asked or is thought
    /// to, and where it is away once its pause is over.
    pub fn look(&self) {
        match &self.nodes {
            Nodes::One(node) => {
                let node = node.clone();
                self.start(async move {
                    node.look().await;
                });
            }
            Nodes::Cluster(cluster) => {
                let cluster = cluster.clone();
                self.start(async move { cluster.look().await });
            }
        }
    }

    /// Runs one operation, all of whose keys are in the slot of this one.
    pub async fn run(&self, key: &[u8], sent: &Sent, trip: &mut Trip) -> Result<Value, StoreError> {
        match &self.nodes {
            Nodes::One(node) => self.run_alone(node, sent, trip).await,
            Nodes::Cluster(cluster) => self.run_in(cluster, slot_of(key), sent, trip).await,
        }
    }

    async fn run_alone(&self, node: &Arc<Node>, sent: &Sent, trip: &mut Trip) -> Result<Value, StoreError> {
        match node.permit() {
            Permit::Closed => {}
            Permit::Refused => return Err(open()),
            Permit::Probe => {
                let node = node.clone();
                self.start(async move { node.probe().await });
                return Err(open());
            }
        }
        let began = std::time::Instant::now();
        match node.run(sent, false, trip).await {
            Ok(answer) => Ok(answer),
            Err(Failure::Store(error)) => Err(error),
            Err(Failure::Redirect(_)) => {
                let reason = "it is a node of a Cluster: write redis+cluster:// in its URL";
                node.failed(began, None, reason);
                Err(StoreError::Unreachable(reason.to_owned()))
            }
        }
    }

    async fn run_in(
        &self,
        cluster: &Arc<Cluster>,
        slot: u16,
        sent: &Sent,
        trip: &mut Trip,
    ) -> Result<Value, StoreError> {
        let mut node = cluster.node(slot, trip).await.inspect_err(|_| {
            if let Some(node) = cluster.due() {
                self.look_around(cluster, Some(node));
            }
        })?;
        let mut asking = false;
        for _ in 0..=REDIRECTIONS {
            match node.permit() {
                Permit::Closed => {}
                Permit::Refused => return Err(open()),
                Permit::Probe => {
                    self.look_around(cluster, Some(node));
                    return Err(open());
                }
            }
            match node.run(sent, asking, trip).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Store(error)) => {
                    if error.may_be_done() || matches!(error, StoreError::Unreachable(_)) {
                        self.look_around(cluster, None);
                    }
                    return Err(error);
                }
                Err(Failure::Redirect(Redirect { to: None, .. })) => break,
                Err(Failure::Redirect(Redirect { to: Some(server), ask })) => {
                    node = cluster.redirected(server, slot, ask);
                    asking = ask;
                    if !ask {
                        self.look_around(cluster, None);
                    }
                }
            }
        }
        Err(StoreError::Unreachable("the Cluster sends its nodes' requests elsewhere too often".to_owned()))
    }

    /// Asks where the slots are, and whether this node serves again: it may, or another has its slots by now.
    fn look_around(&self, cluster: &Arc<Cluster>, node: Option<Arc<Node>>) {
        let cluster = cluster.clone();
        self.start(async move {
            let probe = async {
                if let Some(node) = node {
                    node.probe().await;
                }
            };
            // What it comes to is known from the nodes.
            let (_, ()) = futures::join!(cluster.refresh(Instant::now() + CONNECT), probe);
        });
    }

    fn start(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

fn open() -> StoreError {
    StoreError::Unreachable("it did not answer a moment ago".to_owned())
}
