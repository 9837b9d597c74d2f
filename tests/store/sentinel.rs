//! A master that Sentinels know: it is found, it is replaced, and then its successor is used.

use std::time::{Duration, Instant};

use crate::new_id;
use chatservice::server::store::redis::RedisStore;
use chatservice::server::store::{CacheKey, ConversationStore, LimitStore, Store, StoreError};

use crate::behaviour::{RETENTION, admit, answered, in_time, keep, late, limit, try_admit, turn};
use crate::faults::{attempt, requests_hardly_wait, until_away, until_back};
use crate::pod_at;
use crate::redis_server::RedisServer;
use crate::redis_sets::RedisSentinels;

const HOUR: Duration = Duration::from_hours(1);

/// Asks a server, which may just be closing all connections.
async fn ask<T: redis::FromRedisValue>(server: &RedisServer, command: &str) -> Result<T, StoreError> {
    server.query(command).await.map_err(|error| StoreError::Unreachable(error.to_string()))
}

async fn use_everything(store: &RedisStore) {
    admit(store, "a", limit(1, 3600, 100)).await;
    answered(|| store.settle(vec![late("b", limit(60, 60, 10))])).await;
    answered(|| keep(store, CacheKey([7; 32]), "x", HOUR)).await;
    answered(|| store.append_turn(new_id(), turn(1, true), RETENTION)).await;
}

/// S3 and S6.
#[tokio::test]
async fn s3_s6_the_replica_is_used_once_it_is_the_master_and_every_key_there_has_a_life() {
    let Some(mut sentinels) = RedisSentinels::start().await else { return };
    let store = pod_at(&sentinels.url(), "u-1");
    assert!(!store.is_cluster());
    use_everything(&store).await;
    in_time(async |_| {
        let written: u32 = ask(&sentinels.master, "DBSIZE").await?;
        let copied: u32 = ask(&sentinels.replica, "DBSIZE").await?;
        if copied == written { Ok(()) } else { Err(StoreError::Timeout(Duration::ZERO)) }
    })
    .await;

    sentinels.master.kill();
    until_away(&store).await;
    requests_hardly_wait(&store).await;
    let after = in_time(async |_| try_admit(&store, "a", limit(1, 3600, 100)).await).await;
    assert!(after.remaining < 99, "the bucket is there: {after:?}");
    assert_eq!(store.connected(), Some(true));

    let keys: Vec<String> = sentinels.replica.query("KEYS *").await.unwrap();
    for key in keys {
        let life: i64 = sentinels.replica.query(&format!("PTTL {key}")).await.unwrap();
        assert!(life > 0, "{key} lives {life} ms");
    }
}

/// S3: the old master is still there, and is one no more.
#[tokio::test]
async fn s3_a_master_that_is_made_a_replica_is_left() {
    let Some(sentinels) = RedisSentinels::start().await else { return };
    let store = pod_at(&sentinels.url(), "u-1");
    until_back(&store).await;
    let () = sentinels.sentinels[0].query("SENTINEL FAILOVER main").await.unwrap();
    in_time(async |_| {
        let role = ask::<Vec<redis::Value>>(&sentinels.replica, "ROLE").await?;
        let master = role[0] == redis::Value::BulkString(b"master".to_vec());
        if master { Ok(()) } else { Err(StoreError::Timeout(Duration::ZERO)) }
    })
    .await;
    in_time(async |_| {
        attempt(&store).await?;
        let stats: String = ask(&sentinels.replica, "INFO commandstats").await?;
        let used = stats.contains("cmdstat_eval");
        if used { Ok(()) } else { Err(StoreError::Timeout(Duration::ZERO)) }
    })
    .await;
}

#[tokio::test]
async fn sentinels_that_hang_or_are_gone_cost_nothing_while_one_answers() {
    let Some(mut sentinels) = RedisSentinels::start().await else { return };
    sentinels.sentinels[0].freeze();
    sentinels.sentinels[1].kill();
    until_back(&pod_at(&sentinels.url(), "u-1")).await;

    sentinels.sentinels[2].freeze();
    let store = pod_at(&sentinels.url(), "u-1");
    let started = Instant::now();
    assert!(attempt(&store).await.is_err());
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_name_that_no_sentinel_knows_is_told() {
    let Some(sentinels) = RedisSentinels::start().await else { return };
    let store = pod_at(&sentinels.url().replace("/main", "/other"), "u-1");
    in_time(async |_| match attempt(&store).await {
        Err(StoreError::Unreachable(reason)) if reason.contains("no Sentinel knows") => Ok(()),
        outcome => Err(outcome.err().unwrap_or(StoreError::Timeout(Duration::ZERO))),
    })
    .await;
}
