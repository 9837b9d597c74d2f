//! Who asks for an answer that several pods want, and how many trips it takes to know.

use std::time::Duration;

use bytes::Bytes;
use chatservice::server::store::redis::RedisStore;
use chatservice::server::store::{
    Admit, Admitted, AnswerStore, CacheKey, Kept, LimitStore, Released, Share, SharerId,
};

use crate::behaviour::{admit, answered, kept, limit, reserve};
use crate::redis_server::RedisServer;
use crate::redis_sets::RedisCluster;
use crate::{pod, pod_at};

const KEY: CacheKey = CacheKey([7; 32]);
const HOUR: Duration = Duration::from_hours(1);

/// A pod's first request, of a caller with a limit or without.
async fn wants(store: &RedisStore, key: CacheKey, pod: u128, limited: bool) -> Admitted {
    let ask = || Admit {
        reserve: limited.then(|| reserve("a", limit(1000, 3600, 1000))),
        cache_key: Some(key),
        sharer: Some(SharerId(pod)),
    };
    answered(|| store.admit(ask())).await
}

/// One of those that wait looks again.
async fn looks(store: &RedisStore, key: CacheKey, pod: u128) -> Share {
    answered(|| store.share(key, SharerId(pod))).await
}

async fn releases(store: &RedisStore, key: CacheKey, pod: u128, released: Released) {
    answered(|| store.release(key, SharerId(pod), released.clone())).await;
}

fn failed(error: &'static str, again: bool) -> Released {
    Released::Failed { error: Bytes::from_static(error.as_bytes()), again }
}

async fn one_pod_leads(store: &RedisStore) {
    for limited in [true, false] {
        let key = CacheKey([u8::from(limited); 32]);
        assert_eq!(wants(store, key, 1, limited).await.share, Some(Share::Lead));
        assert_eq!(wants(store, key, 1, limited).await.share, Some(Share::Lead), "asked twice, leads once");
        assert_eq!(wants(store, key, 2, limited).await.share, Some(Share::Wait));
        assert_eq!(looks(store, key, 3).await, Share::Wait);
        assert_eq!(answered(|| store.renew(key, SharerId(1))).await, Some(2), "two wait");
        assert_eq!(answered(|| store.renew(key, SharerId(2))).await, None, "does not lead");
        releases(store, key, 3, Released::Left).await;
        assert_eq!(answered(|| store.renew(key, SharerId(1))).await, Some(1));
        let answer = Bytes::from_static(b"the answer");
        answered(|| kept(store, Kept { key, answer: answer.clone(), life: HOUR, led: true })).await;
        assert_eq!(looks(store, key, 2).await, Share::Answer(answer.clone()));
        let hit = wants(store, key, 4, limited).await;
        assert_eq!((hit.cached, hit.share), (Some(answer), None));
    }
}

async fn a_refused_request_leads_nothing(store: &RedisStore) {
    let small = limit(1, 3600, 1);
    while admit(store, "b", small).await.allowed {}
    let ask =
        || Admit { reserve: Some(reserve("b", small)), cache_key: Some(KEY), sharer: Some(SharerId(1)) };
    let refused = answered(|| store.admit(ask())).await;
    assert!(refused.standing.unwrap().refused.is_some());
    assert_eq!(refused.share, None);
    assert_eq!(looks(store, KEY, 2).await, Share::Lead, "nobody leads");
    releases(store, KEY, 2, Released::Left).await;
}

#[tokio::test]
async fn s14_one_pod_leads_and_the_others_wait_until_it_tells() {
    let Some(server) = RedisServer::start().await else { return };
    let store = pod(&server, "u-1");
    one_pod_leads(&store).await;
    a_refused_request_leads_nothing(&store).await;
}

#[tokio::test]
async fn s14_the_same_on_a_cluster() {
    let Some(cluster) = RedisCluster::start(false).await else { return };
    let store = pod_at(&cluster.url(), "u-1");
    one_pod_leads(&store).await;
    a_refused_request_leads_nothing(&store).await;
}

#[tokio::test]
async fn s14_after_two_failures_those_who_wait_are_told_and_who_comes_begins_anew() {
    let Some(server) = RedisServer::start().await else { return };
    let store = pod(&server, "u-1");
    assert_eq!(looks(&store, KEY, 1).await, Share::Lead);
    for waits in [2, 3] {
        assert_eq!(looks(&store, KEY, waits).await, Share::Wait);
    }
    releases(&store, KEY, 1, failed("first", true)).await;
    assert_eq!(looks(&store, KEY, 2).await, Share::Lead, "one tries again");
    assert_eq!(looks(&store, KEY, 3).await, Share::Wait);
    assert_eq!(looks(&store, KEY, 1).await, Share::Wait, "so do those of the pod that failed");
    releases(&store, KEY, 2, failed("second", true)).await;
    for waits in [3, 1] {
        assert_eq!(looks(&store, KEY, waits).await, Share::Failed(Bytes::from_static(b"second")));
    }
    assert_eq!(looks(&store, KEY, 4).await, Share::Lead, "nothing of it is kept for who comes");

    assert_eq!(looks(&store, KEY, 5).await, Share::Wait);
    releases(&store, KEY, 4, failed("refused", false)).await;
    assert_eq!(looks(&store, KEY, 5).await, Share::Failed(Bytes::from_static(b"refused")), "no second try");
}
