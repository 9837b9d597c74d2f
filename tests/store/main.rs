//! The store: one suite of behaviour for both stores, through the trait, and what only Redis can do to us.
//! In: a `MemoryStore`, and `RedisStore`s on a real `redis-server` of each test's own.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests fail as tests do"
)]

mod agreement;
mod behaviour;
mod cluster;
mod exactness;
mod faults;
mod log;
mod redis_keys;
#[path = "../support/redis.rs"]
mod redis_server;
#[path = "../support/redis_sets.rs"]
mod redis_sets;
mod reservations;
mod sentinel;
mod sharing;
mod tls;

use chatservice::server::caller::Caller;
use chatservice::server::conversations;
use chatservice::server::store::OwnedId;
use chatservice::server::store::redis::{RedisAddress, RedisStore};
use redis_server::RedisServer;
use redis_sets::RedisCluster;

/// Where a new conversation is kept.
fn new_id() -> OwnedId {
    Caller::at([127, 0, 0, 1].into()).owned(conversations::new_id().0)
}

/// A store of the ChatService `uid` on this server, as a pod would have it.
fn pod(server: &RedisServer, uid: &str) -> RedisStore {
    pod_at(&server.url(), uid)
}

/// The same, at this URL.
fn pod_at(url: &str, uid: &str) -> RedisStore {
    RedisStore::new(RedisAddress::from_url(url).unwrap(), uid)
}

/// Each behaviour of a suite as a test of both stores, and all of them of the one in a Redis Cluster, under these names.
macro_rules! for_all_stores {
    ($suite:ident as $memory:ident, $redis:ident, $cluster:ident: $($behaviour:ident),* $(,)?) => {
        mod $memory {
            $(#[tokio::test]
            async fn $behaviour() {
                crate::$suite::$behaviour(&chatservice::server::store::memory::MemoryStore::new()).await;
            })*
        }

        mod $redis {
            $(#[tokio::test]
            async fn $behaviour() {
                let Some(server) = crate::RedisServer::start().await else { return };
                crate::$suite::$behaviour(&crate::pod(&server, "u-1")).await;
            })*
        }

        mod $cluster {
            #[tokio::test]
            async fn behaves_as_one_redis_does() {
                let Some(cluster) = crate::RedisCluster::start(false).await else { return };
                $(println!("{}", stringify!($behaviour));
                crate::$suite::$behaviour(&crate::pod_at(&cluster.url(), stringify!($behaviour))).await;)*
            }
        }
    };
}

for_all_stores!(behaviour as memory, redis, redis_cluster:
    a_burst_is_admitted_exactly_however_many_come_at_once,
    a_refusal_changes_nothing,
    a_refused_caller_is_admitted_at_the_told_time_and_not_before,
    callers_have_their_own_buckets,
    requests_charged_after_the_fact_count,
    a_store_counts_the_servers_that_share_it,
    nothing_is_asked_of_the_store_for_a_request_without_limit_and_cache,
    a_conversation_is_read_back_in_order_and_trimmed_by_whole_turns,
    a_conversation_keeps_the_turns_whose_tokens_fit,
    a_conversation_adds_up_what_all_its_turns_used,
    turns_that_come_at_once_stay_whole,
    a_conversation_that_is_gone_is_not_brought_back,
    a_conversation_expires_and_every_use_renews_its_life,
    a_response_is_kept_as_it_is_replaced_and_erased,
    a_response_expires_and_going_on_from_it_renews_its_life,
);

for_all_stores!(reservations as memory_reservations, redis_reservations, redis_cluster_reservations:
    tokens_are_reserved_whole_and_settled_to_what_was_used,
    a_request_larger_than_the_bucket_is_admitted_when_it_is_full,
    absurd_usage_waits_an_hour_and_not_for_ever,
    places_are_exact_and_given_back,
    s6_places_of_a_server_that_died_are_free_when_their_reservations_expire,
    spending_is_told_from_what_others_have_reserved,
    what_expires_counts_as_spent_and_is_corrected_when_it_settles_late,
    a_budget_is_seen_without_taking_of_it,
    a_refusal_by_one_limit_takes_nothing_of_the_others,
    what_is_not_enforced_is_charged_and_told,
    reservations_and_settlements_count_once_however_often_they_are_told,
    a_request_that_was_reserved_unheard_is_charged_once_in_every_order,
    a_store_that_lost_a_reservation_is_told_what_was_used,
    s15_a_budget_is_never_exceeded_and_nobody_is_locked_out_while_money_is_left,
);
