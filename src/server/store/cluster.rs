//! The nodes of a Redis Cluster. In: a slot, and what nodes say of where slots are. Out: the node to ask. Each node has its
//! own connection and breaker, so that one that is away costs its own slots and no others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::StoreError;
use super::breaker::Permit;
use super::node::{Failure, Node, Sent, Trip};
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

    /// The node that has this slot, as far as is known; asks where there is nothing to go by.
    pub async fn node(&self, slot: u16, trip: &Trip) -> Result<Arc<Node>, StoreError> {
        if self.map().owners.is_empty() {
            let ask = tokio::time::timeout_at(trip.connect_by, self.refresh());
            ask.await.unwrap_or(Err(StoreError::Timeout(super::node::CONNECT)))?;
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

    /// Asks the nodes that answer where the slots are, or those of the address if none does. Who waits for another's
    /// answer takes that.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let version = self.map().version;
        let _turn = self.asking.lock().await;
        if self.map().version != version {
            return Ok(());
        }
        let known: Vec<_> =
            self.map().nodes.values().filter(|node| node.connected() == Some(true)).cloned().collect();
        if self.ask(known).await.is_ok() {
            return Ok(());
        }
        let seeds = self.address.servers().iter().map(|server| match self.map().nodes.get(server) {
            Some(node) => node.clone(),
            None => self.new_node(server),
        });
        self.ask(seeds.collect()).await
    }

    /// Takes the first good answer.
    async fn ask(&self, nodes: Vec<Arc<Node>>) -> Result<(), StoreError> {
        let mut command = redis::cmd("CLUSTER");
        command.arg("SLOTS");
        let sent = &Sent::One(command);
        let mut asked: FuturesUnordered<_> = nodes
            .into_iter()
            .filter(|node| node.permit() == Permit::Closed)
            .map(|node| async move {
                let answer = node.run(sent, false, &mut Trip::new()).await;
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
        Err(reason.unwrap_or_else(|| StoreError::Unreachable("no node of the Cluster answers".to_owned())))
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
