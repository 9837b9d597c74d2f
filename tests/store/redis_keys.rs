//! What is in Redis: keys, their lives, and what is made of values that are not ours.

use std::time::Duration;

use crate::new_id;
use bytes::Bytes;
use chatservice::constants::REDIS_KEY_PREFIX;
use chatservice::server::store::redis::RedisStore;
use chatservice::server::store::{
    Admit, Admitted, CacheKey, Conversation, ConversationStore, LimitStore, OwnedId, ResponseStore,
    Retention, Store, StoreError,
};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use crate::behaviour::{RETENTION, admit, answered, in_time, keep, late, limit, reserve, turn};
use crate::redis_server::RedisServer;
use crate::{pod, pod_at};

const KEY: CacheKey = CacheKey([7; 32]);
const HOUR: Duration = Duration::from_hours(1);

async fn keys(connection: &mut MultiplexedConnection) -> Vec<String> {
    connection.keys("*").await.unwrap()
}

/// Asks for an answer, with a limit or without.
async fn lookup(store: &RedisStore, caller: Option<&str>) -> Admitted {
    let reserve = caller.map(|caller| reserve(caller, limit(1, 3600, 1)));
    answered(|| store.admit(Admit { reserve: reserve.clone(), cache_key: Some(KEY), sharer: None })).await
}

/// The only bucket of requests.
async fn bucket(connection: &mut MultiplexedConnection) -> String {
    let mut keys = keys(connection).await;
    keys.retain(|key| key.contains(":ra1:"));
    assert_eq!(keys.len(), 1, "{keys:?}");
    keys.swap_remove(0)
}

/// The only key.
async fn only_key(connection: &mut MultiplexedConnection) -> String {
    let keys = keys(connection).await;
    assert_eq!(keys.len(), 1, "{keys:?}");
    keys[0].clone()
}

#[tokio::test]
async fn every_key_is_ours_names_no_caller_and_has_a_life() {
    let Some(server) = RedisServer::start().await else { return };
    let mut connection = server.connection().await;
    let store = pod(&server, "u-1");
    admit(&store, "203.0.113.7", limit(60, 60, 10)).await;
    answered(|| store.settle(vec![late("203.0.113.8", limit(60, 60, 10))])).await;
    answered(|| keep(&store, KEY, "x", HOUR)).await;
    answered(|| {
        store.append_turn(
            new_id(),
            turn(1, true),
            Retention { max_messages: 20, max_tokens: None, ttl: HOUR },
        )
    })
    .await;
    let keys = keys(&mut connection).await;
    for kind in [":ra1:", ":rr2:", ":c1:", "}:t"] {
        assert!(keys.iter().any(|key| key.contains(kind)), "{kind} in {keys:?}");
    }
    for key in keys {
        assert!(key.starts_with(REDIS_KEY_PREFIX) && key.contains("{u-1"), "{key}");
        assert!(!key.contains("203.0"), "{key}");
        let life: i64 = connection.pttl(&key).await.unwrap();
        let least = if key.contains(":ra1:") || key.contains(":rr2:") {
            24 * 3_600_000 - 60_000
        } else {
            3_600_000 - 60_000
        };
        assert!(life > least, "{key} lives {life} ms");
    }
}

#[tokio::test]
async fn buckets_outlive_what_eviction_could_take_first() {
    let Some(server) = RedisServer::start().await else { return };
    let mut connection = server.connection().await;
    let store = pod(&server, "u-1");
    answered(|| keep(&store, KEY, "x", 720 * HOUR)).await;
    let () = redis::cmd("FLUSHALL").query_async(&mut connection).await.unwrap();
    admit(&store, "a", limit(60, 60, 10)).await;
    let key = bucket(&mut connection).await;
    let life: i64 = connection.pttl(&key).await.unwrap();
    assert!(life > 1439 * 3_600_000, "{life}");
}

#[tokio::test]
async fn a_user_who_may_do_what_the_documentation_says_can_do_everything() {
    let Some(server) = RedisServer::start().await else { return };
    let documentation = include_str!("../../docs/redis.md");
    let rules = documentation.split('`').find(|part| part.starts_with("resetkeys ")).unwrap();
    let () = server.query(&format!("ACL SETUSER app on >pw {rules}")).await.unwrap();
    let store = pod_at(&server.url().replace("redis://", "redis://app:pw@"), "u-1");
    for _ in 0..2 {
        admit(&store, "a", limit(60, 60, 10)).await;
        answered(|| store.settle(vec![late("b", limit(60, 60, 10))])).await;
        answered(|| keep(&store, KEY, "x", HOUR)).await;
        assert!(lookup(&store, None).await.cached.is_some());
        let id = new_id();
        answered(|| store.append_turn(id, turn(1, true), RETENTION)).await;
        assert!(answered(|| store.conversation(id, None)).await.is_some());
        answered(|| store.put_response(id, Bytes::from_static(b"{}"), HOUR)).await;
        assert!(answered(|| store.response(id, Some(HOUR))).await.is_some());
        assert!(answered(|| store.delete_response(id)).await);
    }
    let log: Vec<redis::Value> = server.query("ACL LOG").await.unwrap();
    assert_eq!(log, [], "something was denied");
}

#[tokio::test]
async fn pods_share_buckets_and_answers_and_services_do_not() {
    let Some(server) = RedisServer::start().await else { return };
    let (first, second, other) = (pod(&server, "u-1"), pod(&server, "u-1"), pod(&server, "u-2"));
    let limit = limit(1, 3600, 1);
    while admit(&first, "a", limit).await.allowed {}
    assert!(!admit(&second, "a", limit).await.allowed);
    assert!(admit(&other, "a", limit).await.allowed);

    answered(|| keep(&first, KEY, "the answer", HOUR)).await;
    assert_eq!(lookup(&second, None).await.cached, Some(Bytes::from_static(b"the answer")));
    assert_eq!(lookup(&second, Some("b")).await.cached, Some(Bytes::from_static(b"the answer")));
    assert_eq!(lookup(&other, None).await.cached, None);
}

#[tokio::test]
async fn a_refused_request_is_not_given_the_answer_and_writes_nothing() {
    let Some(server) = RedisServer::start().await else { return };
    let mut connection = server.connection().await;
    let store = pod(&server, "u-1");
    while admit(&store, "a", limit(1, 3600, 1)).await.allowed {}
    let bucket = bucket(&mut connection).await;
    let () = connection.pexpire(&bucket, 1_000_000).await.unwrap();
    let before: String = connection.get(&bucket).await.unwrap();
    answered(|| keep(&store, KEY, "x", HOUR)).await;

    let refused = lookup(&store, Some("a")).await;
    assert!(refused.standing.unwrap().refused.is_some());
    assert_eq!(refused.cached, None);
    assert_eq!(connection.get::<_, String>(&bucket).await.unwrap(), before);
    assert!(connection.pttl::<_, i64>(&bucket).await.unwrap() <= 1_000_000, "its life was not renewed");
}

#[tokio::test]
async fn an_answer_is_gone_after_its_life() {
    let Some(server) = RedisServer::start().await else { return };
    let store = pod(&server, "u-1");
    answered(|| keep(&store, KEY, "x", Duration::from_millis(1))).await;
    while lookup(&store, None).await.cached.is_some() {}
}

#[tokio::test]
async fn scripts_that_redis_forgot_are_sent_again() {
    let Some(server) = RedisServer::start().await else { return };
    let mut connection = server.connection().await;
    let store = pod(&server, "u-1");
    let id = new_id();
    let retention = Retention { max_messages: 20, max_tokens: None, ttl: HOUR };
    answered(|| store.append_turn(id, turn(1, true), RETENTION)).await;
    admit(&store, "a", limit(60, 60, 10)).await;
    for _ in 0..3 {
        let () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut connection).await.unwrap();
        assert!(admit(&store, "b", limit(60, 60, 10)).await.allowed);
        assert!(answered(|| store.append_turn(id, turn(2, false), retention)).await);
    }
}

#[tokio::test]
async fn a_bucket_that_is_not_ours_counts_as_full_and_is_replaced() {
    let Some(server) = RedisServer::start().await else { return };
    let mut connection = server.connection().await;
    let store = pod(&server, "u-1");
    let limit = limit(1, 3600, 3);
    admit(&store, "a", limit).await;
    let bucket = bucket(&mut connection).await;
    for garbage in
        ["", "abc", "nan 0 0 0", "-5 0 0 0", "-inf 0 0 0", "0x 0 0 0", "{}", "1 2", "1 2 3 4 5", "1 2 3 x"]
    {
        let () = connection.set(&bucket, garbage).await.unwrap();
        let state = admit(&store, "a", limit).await;
        assert!(state.allowed, "{garbage:?}");
        // Fewer where an attempt was late and then repeated.
        assert!(state.remaining <= 2, "{garbage:?}");
        let life: i64 = connection.pttl(&bucket).await.unwrap();
        assert!(life > 0, "{garbage:?}");
    }
    for far in ["9007199254740993 0 0 0", "99999999999999999999 0 0 0"] {
        let () = connection.set(&bucket, far).await.unwrap();
        let state = admit(&store, "a", limit).await;
        assert!(!state.allowed && state.retry_after <= 4 * HOUR, "{far}: {state:?}");
    }
    let () = connection.del(&bucket).await.unwrap();
    let () = connection.lpush(&bucket, "x").await.unwrap();
    assert!(admit(&store, "a", limit).await.allowed);
    let stored: String = connection.get(&bucket).await.unwrap();
    assert!(stored.split(' ').all(|part| part.parse::<u64>().is_ok()), "numbers again: {stored}");
}

#[tokio::test]
async fn an_answer_or_a_conversation_of_another_type_is_no_panic() {
    let Some(server) = RedisServer::start().await else { return };
    let mut connection = server.connection().await;
    let store = pod(&server, "u-1");
    answered(|| keep(&store, KEY, "x", HOUR)).await;
    let key = only_key(&mut connection).await;
    let () = connection.del(&key).await.unwrap();
    let () = connection.lpush(&key, "x").await.unwrap();
    assert_eq!(lookup(&store, Some("a")).await.cached, None);
    assert_eq!(lookup(&store, None).await.cached, None);
    answered(|| keep(&store, KEY, "y", HOUR)).await;
    assert_eq!(lookup(&store, None).await.cached, Some(Bytes::from_static(b"y")), "replaced");

    let () = redis::cmd("FLUSHALL").query_async(&mut connection).await.unwrap();
    let id = new_id();
    let retention = Retention { max_messages: 20, max_tokens: None, ttl: HOUR };
    let short = Retention { max_messages: 2, ..retention };
    answered(|| store.append_turn(id, turn(1, true), RETENTION)).await;
    let key = only_key(&mut connection).await;
    let (said, turn2) = (br#"10 {"user":"q","assistant":"a"}"#.as_slice(), turn(2, false));
    let failed = async |what: &str| {
        assert!(matches!(settled(&store, id).await, Err(StoreError::Failed(_))), "{what}");
    };
    for garbage in [&b""[..], b"{}", b"x {}", b"10 [1]", b"-1 {}", b"10 {\"user\":1}", b"\xff\xfe"] {
        let () = connection.hset(&key, "1", garbage).await.unwrap();
        failed("a turn").await;
        assert!(
            settle(|| store.append_turn(id, turn2.clone(), short)).await.unwrap(),
            "and is dropped later"
        );
        assert_eq!(settled(&store, id).await.unwrap().unwrap().turns.len(), 1);
        let () = connection.del(&key).await.unwrap();
        answered(|| store.append_turn(id, turn(1, true), RETENTION)).await;
    }
    for (field, garbage) in
        [("at", "x"), ("tokens", "-1"), ("cost", ""), ("tokens", "99999999999999999999"), ("7", "x")]
    {
        let () = connection.hset(&key, field, garbage).await.unwrap();
        failed(field).await;
        let () = connection.del(&key).await.unwrap();
        answered(|| store.append_turn(id, turn(1, true), RETENTION)).await;
    }
    for (field, garbage) in [
        ("oldest", "x"),
        ("oldest", "-1e15"),
        ("last", "1e15"),
        ("last", "nan"),
        ("tokens", "x"),
        ("kept", "x"),
    ] {
        let () = connection.hset(&key, field, garbage).await.unwrap();
        let appended = settle(|| store.append_turn(id, turn2.clone(), retention)).await;
        assert!(matches!(appended, Err(StoreError::Failed(_))), "{field} {garbage}: {appended:?}");
        let () = connection.del(&key).await.unwrap();
        answered(|| store.append_turn(id, turn(1, true), RETENTION)).await;
    }
    let () = connection.hset(&key, "1", said).await.unwrap();
    assert_eq!(settled(&store, id).await.unwrap().unwrap().turns[0].said.user, "q");
    let () = connection.set(&key, "x").await.unwrap();
    assert!(matches!(settled(&store, id).await, Err(StoreError::Failed(_))));
    let appended = settle(|| store.append_turn(id, turn(2, false), retention)).await;
    assert!(matches!(appended, Err(StoreError::Failed(_))), "{appended:?}");
    assert_eq!(store.connected(), Some(true), "an answer all the same");
}

async fn settled(store: &RedisStore, id: OwnedId) -> Result<Option<Conversation>, StoreError> {
    settle(|| store.conversation(id, None)).await
}

/// The first outcome that is not a missed deadline.
async fn settle<T, F>(operation: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    in_time(async |_| match operation().await {
        Err(StoreError::Failed(reason)) => Ok(Err(StoreError::Failed(reason))),
        outcome => outcome.map(Ok),
    })
    .await
}
