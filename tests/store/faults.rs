//! What Redis can do to a server: hang, die, come back, refuse. In all of it a request waits a bounded time, and Redis is
//! used again once it is there.

use std::time::{Duration, Instant};

use bytes::Bytes;
use chatservice::server::store::redis::{RedisAddress, RedisStore};
use chatservice::server::store::{ConversationStore, LimitStore, ResponseStore, Store, StoreError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::behaviour::{DEADLINE, RETENTION, admit, answered, ask, limit, turn};
use crate::log::Log;
use crate::redis_server::RedisServer;
use crate::{new_id, pod, pod_at};

pub async fn attempt(store: &RedisStore) -> Result<(), StoreError> {
    store.admit(ask("a", limit(1_000_000, 60, 100_000))).await.map(drop)
}

/// Waits until the store has noticed that Redis is away, and gives the longest time that one request took.
pub async fn until_away(store: &RedisStore) -> Duration {
    let deadline = Instant::now() + DEADLINE;
    let mut longest = Duration::ZERO;
    loop {
        let started = Instant::now();
        let outcome = attempt(store).await;
        longest = longest.max(started.elapsed());
        if outcome.is_err() && store.connected() == Some(false) {
            return longest;
        }
        assert!(Instant::now() < deadline, "it does not notice");
    }
}

pub async fn until_back(store: &RedisStore) {
    let deadline = Instant::now() + DEADLINE;
    while attempt(store).await.is_err() {
        assert!(Instant::now() < deadline, "Redis is not used again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(store.connected(), Some(true));
}

/// 200 requests one after the other cost a request's own deadlines a few times, not 200 times.
pub async fn requests_hardly_wait(store: &RedisStore) {
    let started = Instant::now();
    for _ in 0..200 {
        assert!(attempt(store).await.is_err());
    }
    assert!(started.elapsed() < Duration::from_secs(1), "{:?} for 200 requests", started.elapsed());
}

#[tokio::test]
async fn s1_s2_a_redis_that_pauses_costs_one_request_a_moment() {
    let Some(server) = RedisServer::start().await else { return };
    Log::start();
    let store = pod(&server, "u-1");
    assert_eq!(store.connected(), None);
    until_back(&store).await;

    server.pause(Duration::from_secs(5)).await;
    let waited = until_away(&store).await;
    assert!(waited < Duration::from_secs(1), "{waited:?}");
    requests_hardly_wait(&store).await;

    until_back(&store).await;
    assert!(Log::count("Redis is not reachable") >= 1, "{}", Log::text());
}

#[tokio::test]
async fn s1_s2_a_frozen_redis_costs_one_request_a_moment_also_where_it_was_never_connected_to() {
    let Some(server) = RedisServer::start().await else { return };
    let (used, fresh) = (pod(&server, "u-1"), pod(&server, "u-1"));
    until_back(&used).await;

    server.freeze();
    for store in [&used, &fresh] {
        let waited = until_away(store).await;
        assert!(waited < Duration::from_secs(1), "{waited:?}");
        requests_hardly_wait(store).await;
    }

    server.thaw();
    until_back(&used).await;
    until_back(&fresh).await;
}

#[tokio::test]
async fn s2_requests_that_meet_a_hanging_redis_together_wait_together() {
    let Some(server) = RedisServer::start().await else { return };
    server.freeze();
    let store = pod(&server, "u-1");
    let started = Instant::now();
    let outcomes = futures::future::join_all((0..100).map(|_| attempt(&store))).await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert!(outcomes.iter().all(Result::is_err));
    server.thaw();
}

#[tokio::test]
async fn s1_s3_a_redis_that_was_killed_is_used_again_when_it_is_back_and_both_are_logged_once() {
    let Some(mut server) = RedisServer::start().await else { return };
    Log::start();
    let store = pod(&server, "u-1");
    until_back(&store).await;
    let before = (Log::count("not reachable"), Log::count("answers again"));

    server.kill();
    until_away(&store).await;
    requests_hardly_wait(&store).await;
    assert_eq!(Log::count("not reachable"), before.0 + 1, "{}", Log::text());

    server.restart().await;
    let limit = limit(1, 3600, 5);
    assert!(admit(&store, "b", limit).await.allowed, "restarted empty");
    assert!(Log::count("answers again") > before.1, "{}", Log::text());
}

#[tokio::test]
async fn a_store_is_made_without_redis_and_finds_it_later() {
    let Some(mut server) = RedisServer::start().await else { return };
    server.kill();
    let store = pod(&server, "u-1");
    assert_eq!(store.connected(), None);
    let refused = attempt(&store).await;
    assert!(matches!(refused, Err(StoreError::Unreachable(_) | StoreError::Timeout(_))), "{refused:?}");
    server.restart().await;
    until_back(&store).await;
}

/// Passes on what comes, until a script was answered: then it ends the connection instead of passing that on.
async fn cut_at_the_answer(listener: TcpListener, port: u16) {
    let mut connections = JoinSet::new();
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        connections.spawn(async move {
            let mut redis = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let (mut asked, mut answer, mut script) = ([0; 16384], [0; 16384], false);
            loop {
                tokio::select! {
                    Ok(count @ 1..) = client.read(&mut asked) => {
                        script |= asked[..count].windows(5).any(|word| word == b"EVAL\r");
                        redis.write_all(&asked[..count]).await.unwrap();
                    }
                    Ok(count @ 1..) = redis.read(&mut answer) => {
                        if script {
                            return;
                        }
                        client.write_all(&answer[..count]).await.unwrap();
                    }
                    else => return,
                }
            }
        });
    }
}

#[tokio::test]
async fn what_was_sent_before_a_connection_ended_may_be_done_and_what_was_not_is_not() {
    let Some(mut server) = RedisServer::start().await else { return };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let mut proxy = JoinSet::new();
    proxy.spawn(cut_at_the_answer(listener, server.port()));
    let store = pod_at(&url, "u-1");
    let deadline = Instant::now() + DEADLINE;
    loop {
        let cut = attempt(&store).await.unwrap_err();
        assert!(cut.may_be_done() || matches!(cut, StoreError::Unreachable(_)), "{cut:?}");
        if cut == StoreError::Cut {
            break;
        }
        assert!(Instant::now() < deadline, "{cut:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let charged: Vec<String> = server.query("KEYS *:ra1:*").await.unwrap();
    assert_eq!(charged.len(), 1, "it was done");

    server.kill();
    let refused = attempt(&pod(&server, "u-1")).await.unwrap_err();
    assert!(!refused.may_be_done() || matches!(refused, StoreError::Timeout(_)), "{refused:?}");
}

/// As the settler does, on which an idle server depends.
pub async fn looked_for_until(store: &RedisStore, connected: bool) {
    let deadline = Instant::now() + DEADLINE;
    while store.connected() != Some(connected) {
        assert!(Instant::now() < deadline, "it is not found out: {:?}", store.connected());
        store.look();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn s3_a_redis_that_nobody_asks_is_found_to_be_away_and_to_be_back() {
    let Some(mut server) = RedisServer::start().await else { return };
    let store = pod(&server, "u-1");
    server.kill();
    looked_for_until(&store, false).await;
    server.restart().await;
    looked_for_until(&store, true).await;
    server.freeze();
    looked_for_until(&store, false).await;
    server.thaw();
    looked_for_until(&store, true).await;
}

#[tokio::test]
async fn s1_what_was_told_not_to_be_stored_is_not_there_after_the_thaw() {
    let Some(server) = RedisServer::start().await else { return };
    let store = pod(&server, "u-1");
    let (response, conversation) = (new_id(), new_id());
    let put = async |id| store.put_response(id, Bytes::from_static(b"{}"), RETENTION.ttl).await;
    let append = async |id| store.append_turn(id, turn(1, true), RETENTION).await;
    // Redis knows the scripts, and its clock is known.
    answered(|| put(new_id())).await;
    answered(|| append(new_id())).await;
    server.freeze();
    let (put, appended) = tokio::join!(put(response), append(conversation));
    assert!(put.is_err() && appended.is_err(), "{put:?} {appended:?}");
    server.thaw();
    until_back(&store).await;
    assert!(answered(|| store.response(response, None)).await.is_none());
    assert!(answered(|| store.conversation(conversation, None)).await.is_none());
}

#[tokio::test]
async fn a_request_that_is_given_up_does_not_keep_others_from_connecting() {
    let Some(server) = RedisServer::start().await else { return };
    server.freeze();
    let store = pod(&server, "u-1");
    let given_up = tokio::time::timeout(Duration::from_millis(5), attempt(&store)).await;
    assert!(given_up.is_err(), "it was still waiting");
    server.thaw();
    until_back(&store).await;
}

#[tokio::test]
async fn s3_a_replica_that_refuses_writes_counts_as_away() {
    let Some(server) = RedisServer::start().await else { return };
    let store = pod(&server, "u-1");
    until_back(&store).await;
    let mut connection = server.connection().await;
    let replica_of = async |host: &str, port: &str, connection: &mut redis::aio::MultiplexedConnection| {
        let mut command = redis::cmd("REPLICAOF");
        let () = command.arg(host).arg(port).query_async(connection).await.unwrap();
    };
    replica_of("127.0.0.1", "1", &mut connection).await;
    until_away(&store).await;
    replica_of("NO", "ONE", &mut connection).await;
    until_back(&store).await;
}

#[tokio::test]
async fn s3_a_full_redis_refuses_and_stays_connected() {
    let Some(server) = RedisServer::start().await else { return };
    let store = pod(&server, "u-1");
    until_back(&store).await;
    let mut connection = server.connection().await;
    let max_memory = async |bytes: u64, connection: &mut redis::aio::MultiplexedConnection| {
        let mut command = redis::cmd("CONFIG");
        let () = command.arg("SET").arg("maxmemory").arg(bytes).query_async(connection).await.unwrap();
    };
    max_memory(1, &mut connection).await;
    let deadline = Instant::now() + DEADLINE;
    loop {
        match attempt(&store).await {
            Err(StoreError::Full) => break,
            outcome => assert!(Instant::now() < deadline, "{outcome:?}"),
        }
        // Refused at once while the breaker is open: whoever closes it has to get a turn.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(store.connected(), Some(true));
    max_memory(0, &mut connection).await;
    until_back(&store).await;
}

#[tokio::test]
async fn passwords_are_used_and_reach_no_message_and_no_log() {
    let Some(server) = RedisServer::start().await else { return };
    Log::start();
    let mut connection = server.connection().await;
    let mut set = redis::cmd("CONFIG");
    let () = set.arg("SET").arg("requirepass").arg("r1ght/pw").query_async(&mut connection).await.unwrap();

    let at = |password: &str| {
        let url = server.url().replace("redis://", &format!("redis://:{password}@"));
        RedisStore::new(RedisAddress::from_url(&url).unwrap(), "u-1")
    };
    until_back(&at("r1ght%2Fpw")).await;

    for store in [at("wr0ngpw"), pod(&server, "u-1")] {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let error = attempt(&store).await.unwrap_err().to_string();
            assert!(!error.contains("wr0ngpw"), "{error}");
            if error.contains("refuses the user or the password") || error.contains("NOAUTH") {
                break;
            }
            assert!(Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert!(Log::text().contains("redis.address"), "there is a log");
    assert!(!Log::text().contains("wr0ngpw") && !Log::text().contains("r1ght"), "{}", Log::text());
}
