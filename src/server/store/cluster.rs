//! The nodes of a Redis Cluster. In: a slot, and what nodes say of where slots are. Out: the node to ask. Each node has its
//! own connection and breaker, so that one that is away costs its own slots and no others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use super::StoreError;
use super::breaker::Permit;
use super::node::{CONNECT, Failure, Node, Sent, Trip};
use super::redis_address::{RedisAddress, Server};
use super::slots::{SLOTS, SlotRange, parse_slots};

/// What is known of a Cluster; nothing until it is asked.
pub struct Cluster {
    address: Arc<RedisAddress>,
    map: Mutex<Map>,
    /// Held by who asks where the slots are; the others wait for the answer.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Map {
    /// By slot; empty until it is known.
    owners: Vec<Option<Arc<Node>>>,
    nodes: HashMap<Server, Arc<Node>>,
    /// Grows with each answer of where the slots are.
    version: u64,
}

impl Cluster {
    /// A Cluster that is asked when it is first used.
    #[must_use]
    pub fn new(address: Arc<RedisAddress>) -> Self {
        Self { address, map: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    /// The node that has this slot, as far as is known; asks where there is nothing to go by, unless nobody answered a
    /// moment ago.
    pub async fn node(&self, slot: u16, trip: &Trip) -> Result<Arc<Node>, StoreError> {
        if self.map().owners.is_empty() {
            let nodes = self.nodes();
            if nodes.iter().all(|node| node.is_away()) {
                return Err(unanswered());
            }
            let ask = tokio::time::timeout_at(trip.connect_by, self.refresh(trip.connect_by));
            ask.await.unwrap_or(Err(StoreError::Timeout(CONNECT)))?;
        }
        let owner = self.map().owners.get(usize::from(slot)).cloned().flatten();
        owner.ok_or_else(|| {
            StoreError::Unreachable("no node of the Cluster has this part of the keys".to_owned())
        })
    }

    /// The node at this address, which has the slot from now on unless only this once.
    pub fn redirected(&self, server: Server, slot: u16, ask: bool) -> Arc<Node> {
        let mut map = self.map();
        let node = map.nodes.entry(server).or_insert_with_key(|server| self.new_node(server)).clone();
        if !ask && let Some(owner) = map.owners.get_mut(usize::from(slot)) {
            *owner = Some(node.clone());
        }
        node
    }

    /// Whether all nodes with slots answer; None before one was asked.
    pub fn connected(&self) -> Option<bool> {
        let known: Vec<_> = self.map().nodes.values().filter_map(|node| node.connected()).collect();
        (!known.is_empty()).then(|| known.iter().all(|connected| *connected))
    }

    /// A node that is away and may be tried again; who is told sees to it that somebody does.
    pub fn due(&self) -> Option<Arc<Node>> {
        self.nodes().into_iter().find(|node| node.is_away() && node.permit() == Permit::Probe)
    }

    /// Finds out which nodes serve, and where the slots are if nobody said yet or one that was away was tried.
    pub async fn look(&self) {
        let looks = self.nodes().into_iter().map(|node| async move {
            let was_away = node.is_away();
            node.look().await && was_away
        });
        let tried = join_all(looks).await.contains(&true);
        if tried || self.map().owners.is_empty() {
            // What it comes to is known from the nodes.
            let _ = self.refresh(Instant::now() + CONNECT).await;
        }
    }

    /// Asks the nodes that answer where the slots are, or those of the address if none does. Who waits for another's
    /// answer takes that.
    pub async fn refresh(&self, connect_by: Instant) -> Result<(), StoreError> {
        let version = self.map().version;
        let _turn = self.asking.lock().await;
        if self.map().version != version {
            return Ok(());
        }
        let known: Vec<_> =
            self.map().nodes.values().filter(|node| node.connected() == Some(true)).cloned().collect();
        if self.ask(known, connect_by).await.is_ok() {
            return Ok(());
        }
        self.ask(self.seeds(), connect_by).await
    }

    /// The nodes that are known, or those of the address where none is.
    fn nodes(&self) -> Vec<Arc<Node>> {
        let known: Vec<_> = self.map().nodes.values().cloned().collect();
        if known.is_empty() { self.seeds() } else { known }
    }

    /// The nodes of the address, kept so that what is found out about them is known to the next who asks.
    fn seeds(&self) -> Vec<Arc<Node>> {
        let mut map = self.map();
        let servers = self.address.servers().iter();
        servers
            .map(|server| {
                map.nodes.entry(server.clone()).or_insert_with_key(|server| self.new_node(server)).clone()
            })
            .collect()
    }

    /// Takes the first good answer.
    async fn ask(&self, nodes: Vec<Arc<Node>>, connect_by: Instant) -> Result<(), StoreError> {
        let mut command = redis::cmd("CLUSTER");
        command.arg("SLOTS");
        let sent = &Sent::One(command);
        let mut asked: FuturesUnordered<_> = nodes
            .into_iter()
            .filter(|node| !node.is_away())
            .map(|node| async move {
                let answer = node.run(sent, false, &mut Trip::connected_by(connect_by)).await;
                (node, answer)
            })
            .collect();
        let mut reason = None;
        while let Some((node, answer)) = asked.next().await {
            match answer {
                Ok(answer) => {
                    let ranges = parse_slots(&answer);
                    if !ranges.is_empty() {
                        self.take(&ranges, &node);
                        return Ok(());
                    }
                    reason = Some(StoreError::Failed("it is a Cluster without slots".to_owned()));
                }
                Err(Failure::Store(error)) => reason = Some(error),
                Err(Failure::Redirect(_)) => {}
            }
        }
        Err(reason.unwrap_or_else(unanswered))
    }

    /// Nodes that are in both keep their connections; those that have no slots any more are forgotten.
    fn take(&self, ranges: &[SlotRange], asked: &Arc<Node>) {
        let mut map = self.map();
        let mut before = std::mem::take(&mut map.nodes);
        // The one that was asked is one of the nodes, under the address by which it was reached.
        if let Some(server) = asked.server() {
            before.entry(server.clone()).or_insert_with(|| asked.clone());
        }
        map.owners = vec![None; usize::from(SLOTS)];
        for range in ranges {
            let server = range.master.clone().or_on(asked.host());
            let node = match map.nodes.get(&server) {
                Some(node) => node.clone(),
                None => before.remove(&server).unwrap_or_else(|| self.new_node(&server)),
            };
            map.nodes.insert(server, node.clone());
            map.owners[usize::from(range.first)..=usize::from(range.last)].fill(Some(node));
        }
        map.version += 1;
    }

    fn new_node(&self, server: &Server) -> Arc<Node> {
        Arc::new(Node::at(self.address.clone(), server.clone()))
    }

    fn map(&self) -> MutexGuard<'_, Map> {
        // Nothing panics while it holds the lock.
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unanswered() -> StoreError {
    StoreError::Unreachable("no node of the Cluster answers".to_owned())
}
