//! What a Redis Cluster can do to a server: move slots, lose nodes, replace them. A node that is away costs its own slots and
//! no others.

use std::time::{Duration, Instant};

use crate::new_id;
use chatservice::server::store::redis::RedisStore;
use chatservice::server::store::{
    Admit, CacheKey, ConversationStore, LimitStore, SharerId, Store, StoreError,
};

use crate::behaviour::{
    DEADLINE, RETENTION, admit, answered, in_time, keep, late, limit, reserve, try_admit, turn,
};
use crate::faults::looked_for_until;
use crate::pod_at;
use crate::redis_server::RedisServer;
use crate::redis_sets::RedisCluster;

const HOUR: Duration = Duration::from_hours(1);

/// A cached answer whose key is in a slot of this master, and the Redis key.
async fn answer_on(cluster: &RedisCluster, master: usize) -> CacheKey {
    for first in 0..=u8::MAX {
        if cluster.owner(&tag(first)).await == master {
            return CacheKey([first; 32]);
        }
    }
    panic!("no part of the cache is on master {master}");
}

/// What is hashed of the keys of answers that begin with this byte.
fn tag(first: u8) -> String {
    format!("{{u-1:{first:02x}}}")
}

async fn put(store: &RedisStore, key: CacheKey) -> Result<(), StoreError> {
    keep(store, key, "x", HOUR).await
}

/// Repeats until it works.
async fn until_put(store: &RedisStore, key: CacheKey) {
    answered(|| put(store, key)).await;
}

/// Repeats until it does not.
async fn until_lost(store: &RedisStore, key: CacheKey) {
    let deadline = Instant::now() + DEADLINE;
    // Also the breaker knows by then: the next one costs nothing.
    while put(store, key).await.is_ok() || store.connected() != Some(false) {
        assert!(Instant::now() < deadline, "it does not notice");
    }
}

async fn keys(server: &RedisServer) -> Vec<String> {
    server.query("KEYS *").await.unwrap()
}

#[tokio::test]
async fn s6_every_key_on_every_node_has_a_life_and_one_service_is_on_all_of_them() {
    let Some(cluster) = RedisCluster::start(false).await else { return };
    let store = pod_at(&cluster.url(), "u-1");
    assert!(store.is_cluster());
    assert_eq!(store.connected(), None);
    admit(&store, "a", limit(60, 60, 10)).await;
    answered(|| store.settle(vec![late("b", limit(60, 60, 10))])).await;
    for first in 0..=u8::MAX {
        until_put(&store, CacheKey([first; 32])).await;
        answered(|| store.append_turn(new_id(), turn(1, true), RETENTION)).await;
    }
    for master in &cluster.masters {
        let keys = keys(master).await;
        assert!(keys.len() > 50, "spread over all: {}", keys.len());
        for key in keys {
            let life: i64 = master.query(&format!("PTTL {key}")).await.unwrap();
            assert!(life > 0, "{key} lives {life} ms");
        }
    }
    assert_eq!(store.connected(), Some(true));
}

#[tokio::test]
async fn one_node_of_the_url_is_enough_and_forgotten_scripts_are_sent_again() {
    let Some(cluster) = RedisCluster::start(false).await else { return };
    let store = pod_at(&format!("redis+cluster://127.0.0.1:{}", cluster.masters[1].port()), "u-1");
    for round in 0..3 {
        for number in 0..10 {
            admit(&store, &format!("{round}-{number}"), limit(60, 60, 10)).await;
            assert!(answered(|| store.append_turn(new_id(), turn(1, true), RETENTION)).await);
        }
        for master in &cluster.masters {
            let () = master.query("SCRIPT FLUSH").await.unwrap();
        }
    }
}

/// A slot on its way from one master to another.
struct Move<'a> {
    slot: u16,
    from: &'a RedisServer,
    to: &'a RedisServer,
    to_id: String,
}

impl<'a> Move<'a> {
    async fn begin(cluster: &'a RedisCluster, tag: &str) -> Self {
        let owner = cluster.owner(tag).await;
        let (from, to) = (&cluster.masters[owner], &cluster.masters[(owner + 1) % 3]);
        let slot = from.query(&format!("CLUSTER KEYSLOT {tag}")).await.unwrap();
        let from_id: String = from.query("CLUSTER MYID").await.unwrap();
        let to_id: String = to.query("CLUSTER MYID").await.unwrap();
        let () = to.query(&format!("CLUSTER SETSLOT {slot} IMPORTING {from_id}")).await.unwrap();
        let () = from.query(&format!("CLUSTER SETSLOT {slot} MIGRATING {to_id}")).await.unwrap();
        Self { slot, from, to, to_id }
    }

    async fn end(&self) {
        for node in [self.to, self.from] {
            let () = node.query(&format!("CLUSTER SETSLOT {} NODE {}", self.slot, self.to_id)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_slot_that_is_being_moved_and_one_that_was_are_followed() {
    let Some(cluster) = RedisCluster::start(false).await else { return };
    let store = pod_at(&cluster.url(), "u-1");
    let id = new_id();
    let moved = Move::begin(&cluster, &format!("{{u-1:{id}}}")).await;

    // It is not there yet, so the old owner says ASK; and the new one does not have the script.
    answered(|| store.append_turn(id, turn(1, true), RETENTION)).await;
    assert_eq!(keys(moved.to).await.len(), 1, "written by the new owner");
    assert!(answered(|| store.append_turn(id, turn(2, false), RETENTION)).await);

    moved.end().await;
    // Now it says MOVED.
    assert!(answered(|| store.append_turn(id, turn(3, false), RETENTION)).await);
    assert!(answered(|| store.conversation(id, None)).await.is_some());
    assert_eq!(store.connected(), Some(true), "being sent elsewhere is no outage");
}

#[tokio::test]
async fn limits_whose_slot_is_being_moved_are_no_outage_of_what_else_the_node_has() {
    let Some(cluster) = RedisCluster::start(false).await else { return };
    let store = pod_at(&cluster.url(), "u-1");
    let limit = limit(1, 3600, 100);
    let before = admit(&store, "a", limit).await;
    let other = answer_on(&cluster, cluster.owner("{u-1}").await).await;

    let moved = Move::begin(&cluster, "{u-1}").await;
    for _ in 0..20 {
        // Some of its keys exist, the hash of this minute, and some do not: neither node can run the script.
        let split = try_admit(&store, "b", limit).await;
        assert!(
            matches!(split, Err(StoreError::Unreachable(_) | StoreError::Timeout(_) | StoreError::Cut)),
            "{split:?}"
        );
        until_put(&store, other).await;
    }
    in_time(async |_| put(&store, other).await).await;

    let () = moved.from.query(&format!("CLUSTER SETSLOT {} STABLE", moved.slot)).await.unwrap();
    let () = moved.to.query(&format!("CLUSTER SETSLOT {} STABLE", moved.slot)).await.unwrap();
    assert!(admit(&store, "a", limit).await.remaining < before.remaining, "its bucket is there");
}

/// S1 and S2, for one node of three.
#[tokio::test]
async fn s1_s2_a_node_that_hangs_costs_its_own_slots_and_those_hardly_wait() {
    let Some(cluster) = RedisCluster::start(false).await else { return };
    let store = pod_at(&cluster.url(), "u-1");
    let answers = [answer_on(&cluster, 0).await, answer_on(&cluster, 1).await, answer_on(&cluster, 2).await];
    for key in answers {
        until_put(&store, key).await;
    }

    cluster.masters[1].freeze();
    until_lost(&store, answers[1]).await;
    let started = Instant::now();
    for _ in 0..200 {
        assert!(put(&store, answers[1]).await.is_err());
    }
    assert!(started.elapsed() < Duration::from_secs(1), "{:?} for 200 requests", started.elapsed());
    // While the others say that it is away, too.
    for _ in 0..20 {
        until_put(&store, answers[0]).await;
        until_put(&store, answers[2]).await;
    }

    cluster.masters[1].thaw();
    until_put(&store, answers[1]).await;
    in_time(async |_| {
        put(&store, answers[1]).await?;
        let away = StoreError::Unreachable("one of its nodes is away".to_owned());
        if store.connected() == Some(true) { Ok(()) } else { Err(away) }
    })
    .await;
}

/// S1 to S3, for a Cluster that hangs before anything is known of it.
#[tokio::test]
async fn s1_s2_s3_a_cluster_that_hangs_from_the_start_is_waited_for_once_and_found_when_it_is_back() {
    let Some(cluster) = RedisCluster::start(false).await else { return };
    cluster.masters.iter().for_each(RedisServer::freeze);
    let (asked, idle) = (pod_at(&cluster.url(), "u-1"), pod_at(&cluster.url(), "u-1"));
    let key = CacheKey([7; 32]);
    until_lost(&asked, key).await;
    let started = Instant::now();
    for _ in 0..200 {
        assert!(put(&asked, key).await.is_err());
    }
    assert!(started.elapsed() < Duration::from_secs(1), "{:?} for 200 requests", started.elapsed());
    looked_for_until(&idle, false).await;

    cluster.masters.iter().for_each(RedisServer::thaw);
    until_put(&asked, key).await;
    looked_for_until(&idle, true).await;
}

#[tokio::test]
async fn s1_limits_are_kept_while_only_the_answers_slot_is_away() {
    let Some(cluster) = RedisCluster::start(false).await else { return };
    let store = pod_at(&cluster.url(), "u-1");
    let other = (cluster.owner("{u-1}").await + 1) % 3;
    let key = answer_on(&cluster, other).await;
    until_put(&store, key).await;
    let look = async |sharer| {
        let reserve = Some(reserve("a", limit(1, 3600, 100)));
        in_time(async |_| store.admit(Admit { reserve: reserve.clone(), cache_key: Some(key), sharer }).await)
            .await
    };
    let before = look(None).await;
    assert!(before.cached.is_some() && !before.cache_failed, "{before:?}");

    cluster.masters[other].freeze();
    let mut remaining = before.standing.unwrap().requests.unwrap().remaining;
    for sharer in [None, Some(SharerId(1))] {
        let away = look(sharer).await;
        assert!(away.cached.is_none() && away.share.is_none() && away.cache_failed, "{away:?}");
        let now = away.standing.unwrap().requests.unwrap().remaining;
        assert!(now < remaining, "{now} of {remaining} are left");
        remaining = now;
    }
}

/// S3, for one node of three.
#[tokio::test]
async fn s3_a_node_that_was_killed_is_replaced_by_its_replica() {
    let Some(mut cluster) = RedisCluster::start(true).await else { return };
    let store = pod_at(&cluster.url(), "u-1");
    let limit = limit(1, 3600, 100);
    admit(&store, "a", limit).await;
    let owner = cluster.owner("{u-1}").await;
    // What was written is on the replica before its master dies.
    let replica = &cluster.replicas[owner];
    let () = in_time(async |_| {
        let keys = replica.query::<Vec<String>>("KEYS *").await.unwrap();
        if keys.is_empty() { Err(StoreError::Timeout(Duration::ZERO)) } else { Ok(()) }
    })
    .await;

    cluster.masters[owner].kill();
    let after = in_time(async |_| try_admit(&store, "a", limit).await).await;
    assert!(after.remaining < 99, "the replica has the bucket: {after:?}");
}

#[tokio::test]
async fn a_cluster_that_is_addressed_as_one_redis_says_what_to_write() {
    let Some(cluster) = RedisCluster::start(false).await else { return };
    let other = (cluster.owner("{u-1}").await + 1) % 3;
    let store = pod_at(&cluster.masters[other].url(), "u-1");
    let deadline = Instant::now() + DEADLINE;
    loop {
        match try_admit(&store, "a", limit(1, 60, 1)).await {
            Err(StoreError::Unreachable(reason)) if reason.contains("redis+cluster://") => break,
            outcome => assert!(outcome.is_err() && Instant::now() < deadline, "{outcome:?}"),
        }
    }
    assert_eq!(store.connected(), Some(false));
}

#[tokio::test]
async fn a_cluster_whose_nodes_hang_is_given_up_in_time() {
    let Some(cluster) = RedisCluster::start(false).await else { return };
    for node in &cluster.masters {
        node.freeze();
    }
    let store = pod_at(&cluster.url(), "u-1");
    let started = Instant::now();
    let outcomes = futures::future::join_all((0..100).map(|_| {
        let admit = Admit { reserve: None, cache_key: Some(CacheKey([7; 32])), sharer: None };
        store.admit(admit)
    }))
    .await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert!(outcomes.iter().all(Result::is_err));
}
