//! Equal requests on several servers that share one Redis, with the cache on and limits off.

use std::time::Duration;

use chatservice::server::config::ServerConfig;
use chatservice::server::store::redis::{RedisAddress, RedisStore};
use chatservice::server::store::{AnswerStore, CacheKey, Share, SharerId};
use futures::future::join_all;
use redis::AsyncCommands;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::coalescing::{CHAT, ask, config, count, fields, held, streamed};
use crate::http::{self, Answer, DEADLINE};
use crate::metrics;
use crate::mock_openai::{MockOpenAi, Script};
use crate::redis_server::RedisServer;
use crate::server::TestServer;

async fn pods(redis: &RedisServer, config: &ServerConfig) -> [TestServer; 3] {
    let [a, b, c] = [config, config, config].map(Clone::clone);
    let url = redis.url();
    [
        TestServer::start_on_redis(a, &url).await,
        TestServer::start_on_redis(b, &url).await,
        TestServer::start_on_redis(c, &url).await,
    ]
}

/// Waits until this many pods wait for another one's answer.
async fn wait_waiting(redis: &RedisServer, pods: usize) {
    let mut connection = redis.connection().await;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let locks: Vec<String> = connection.keys("*:l2:*").await.unwrap();
        let mut waiting = 0;
        for lock in &locks {
            // A text is one that nobody waits at.
            let fields: Vec<String> = connection.hkeys(lock).await.unwrap_or_default();
            waiting += fields.iter().filter(|field| field.starts_with("w:")).count();
        }
        if waiting >= pods {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{waiting} pods wait at {locks:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// No key outlives what it is for, whatever became of the pods.
async fn every_key_has_a_life(redis: &RedisServer) {
    let mut connection = redis.connection().await;
    let keys: Vec<String> = connection.keys("*").await.unwrap();
    for key in keys {
        assert_ne!(connection.pttl::<_, i64>(&key).await.unwrap(), -1, "{key}");
    }
}

/// One of the servers makes a call, which waits for the gate, and the others wait for it. A server that finds Redis slow,
/// as on a busy machine, asks by itself; then it is all done again.
async fn begin(
    servers: &[TestServer],
    redis: &RedisServer,
    mock: &MockOpenAi,
    script: Script,
) -> (Value, JoinSet<Answer>) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    for attempt in 0.. {
        let request = ask(&format!("attempt {attempt}"));
        let before = mock.requests().len();
        mock.script(script.clone().gated());
        let mut answers = JoinSet::new();
        for server in servers {
            let (url, request) = (server.at(CHAT), request.clone());
            answers.spawn(async move { http::post(&url, &request).await });
        }
        tokio::select! {
            () = wait_waiting(redis, servers.len() - 1) => return (request, answers),
            () = mock.wait_requests(before + 2) => mock.open_gate(),
        }
        answers.join_all().await;
        assert!(tokio::time::Instant::now() < deadline, "Redis is always slow");
    }
    unreachable!("attempts do not run out")
}

/// Sends requests to the servers in turn, all of them in flight in the end, but not so many at once that a busy machine
/// finds Redis slow, and then opens the gates.
async fn pile_up(
    servers: &[TestServer; 3],
    already: usize,
    requests: &[Value],
    open: impl FnOnce(),
) -> Vec<Answer> {
    const AT_ONCE: usize = 12;
    let mut answers = JoinSet::new();
    let mut sent = already;
    for batch in requests.chunks(AT_ONCE) {
        for request in batch {
            let (url, request) = (servers[sent % 3].at(CHAT), request.clone());
            answers.spawn(async move { http::post(&url, &request).await });
            sent += 1;
        }
        for (n, server) in servers.iter().enumerate() {
            let line = format!("chat_requests_in_flight {}", sent / 3 + usize::from(n < sent % 3));
            let deadline = tokio::time::Instant::now() + DEADLINE;
            while !metrics::text(server).await.lines().any(|shown| shown == line) {
                // Not the busy wait of most tests: Redis must be asked in time.
                tokio::time::sleep(Duration::from_millis(10)).await;
                assert!(tokio::time::Instant::now() < deadline, "not in flight: {line}");
            }
        }
    }
    open();
    answers.join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s14_a_thousand_equal_requests_on_three_servers_are_one_call_and_streams_one_each() {
    const REQUESTS: usize = 1000;
    let Some(redis) = RedisServer::start().await else { return };
    let mock = MockOpenAi::start().await;
    let servers = pods(&redis, &config(&mock)).await;
    let (request, first) = begin(&servers, &redis, &mock, Script::Words(3)).await;
    let before = mock.requests().len();
    every_key_has_a_life(&redis).await;
    let mut answers = pile_up(&servers, 3, &vec![request.clone(); REQUESTS - 3], || mock.open_gate()).await;
    answers.extend(first.join_all().await);
    assert_eq!(mock.requests().len(), before, "no other call");
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.body == answers[0].body));
    assert_eq!((count(&answers, "miss"), answers.len()), (1, REQUESTS));

    mock.script(held(3)).script(held(3)).script(held(3));
    let gates = || (0..3).for_each(|_| mock.open_gate());
    let answers = pile_up(&servers, 0, &vec![streamed("a thousand streams"); REQUESTS], gates).await;
    assert!(mock.requests().len() <= before + 3, "{}", mock.requests().len());
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.events().last().unwrap() == "[DONE]"));
}

#[tokio::test]
async fn s14_the_call_goes_on_for_other_pods_and_ends_with_the_last_of_them() {
    let Some(redis) = RedisServer::start().await else { return };
    let mock = MockOpenAi::start().await;
    let [leading, waiting, _] = pods(&redis, &config(&mock)).await;
    for stays in [true, false] {
        let text = format!("leave {stays}");
        let before = mock.requests().len();
        mock.script(Script::Words(2).gated());
        let request = ask(&text);
        let (leader, waiter) = (leading.at(CHAT), waiting.at(CHAT));
        let mut follower = Box::pin(http::post(&waiter, &request));
        tokio::select! {
            _ = http::post(&leader, &request) => panic!("nothing is answered yet"),
            _ = async { mock.wait_requests(before + 1).await; (&mut follower).await } => panic!("nor here"),
            () = wait_waiting(&redis, 1) => {}
        }
        metrics::wait(&leading, "chat_requests_in_flight 0").await;
        if stays {
            mock.open_gate();
            let answer = follower.await;
            assert_eq!((answer.status.as_u16(), answer.header("x-chat-cache")), (200, "coalesced"));
        } else {
            drop(follower);
            mock.wait_disconnects(1).await;
        }
        assert_eq!(mock.requests().len(), before + 1);
    }
    every_key_has_a_life(&redis).await;
}

#[tokio::test]
async fn s14_when_the_leading_server_dies_one_that_waits_takes_its_place() {
    let Some(redis) = RedisServer::start().await else { return };
    let mock = MockOpenAi::start().await;
    let config = config(&mock);
    let dying = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (mortal, redis_url) = (config.clone(), redis.url());
    let leading =
        dying.spawn(async move { TestServer::start_on_redis(mortal, &redis_url).await }).await.unwrap();
    let waiting = TestServer::start_on_redis(config, &redis.url()).await;
    mock.script(Script::silence()).script(Script::Words(2));
    let url = leading.at(CHAT);
    let _asked = dying.spawn(async move { http::post(&url, &ask("die")).await });
    mock.wait_requests(1).await;
    let url = waiting.at(CHAT);
    let request = ask("die");
    let answers = join_all((0..20).map(|_| http::post(&url, &request)));
    let death = async {
        wait_waiting(&redis, 1).await;
        // As SIGKILL would: nothing that runs there gets another turn.
        dying.shutdown_background();
    };
    let (answers, ()) = tokio::join!(answers, death);
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(mock.requests().len(), 2, "the one that was lost, and one more");
    every_key_has_a_life(&redis).await;
}

#[tokio::test]
async fn s14_when_the_leading_server_fails_one_that_waits_tries_once_more() {
    let Some(redis) = RedisServer::start().await else { return };
    let mock = MockOpenAi::start().await;
    let servers = pods(&redis, &config(&mock)).await;
    let failure = Script::Status(500, vec![], "{}".to_owned());
    let refusal = r#"{"error":{"message":"no such thing","type":"invalid_request_error"}}"#;
    let refusal = Script::Status(400, vec![], refusal.to_owned());
    for (text, first, second, calls, expected) in [
        ("fail once", failure.clone(), Some(Script::Words(2)), 2, [503, 200, 200]),
        ("fail twice", failure.clone(), Some(failure), 2, [503, 503, 503]),
        ("refused", refusal, None, 1, [400, 400, 400]),
    ] {
        let before = mock.requests().len();
        mock.script(first.gated());
        if let Some(second) = second {
            mock.script(second);
        }
        let request = ask(text);
        let urls = servers.each_ref().map(|server| server.at(CHAT));
        let leader = http::post(&urls[0], &request);
        let others = async {
            mock.wait_requests(before + 1).await;
            let others = join_all(urls[1..].iter().map(|url| http::post(url, &request)));
            let gate = async {
                wait_waiting(&redis, 2).await;
                mock.open_gate();
            };
            tokio::join!(others, gate).0
        };
        let (leader, others) = tokio::join!(leader, others);
        let statuses = [leader.status.as_u16(), others[0].status.as_u16(), others[1].status.as_u16()];
        assert_eq!(statuses, expected, "{text}");
        assert_eq!(mock.requests().len(), before + calls, "{text}");
        if text == "refused" {
            assert_eq!(others[0].json()["error"]["message"], "no such thing");
        }
        every_key_has_a_life(&redis).await;
        let mut connection = redis.connection().await;
        let () = redis::cmd("FLUSHALL").query_async(&mut connection).await.unwrap();
    }
}

#[tokio::test]
async fn s14_without_redis_each_server_shares_among_its_own() {
    let Some(mut redis) = RedisServer::start().await else { return };
    let mock = MockOpenAi::start().await;
    let server = TestServer::start_on_redis(config(&mock), &redis.url()).await;
    redis.kill();
    mock.script(Script::Words(2).gated());
    let (url, request) = (server.at(CHAT), ask("alone"));
    let answers = join_all((0..20).map(|_| http::post(&url, &request)));
    let gate = async {
        mock.wait_requests(1).await;
        metrics::wait(&server, "chat_requests_in_flight 20").await;
        mock.open_gate();
    };
    let (answers, ()) = tokio::join!(answers, gate);
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(mock.requests().len(), 1);
}

#[tokio::test]
async fn a_hostile_lock_is_none() {
    let Some(redis) = RedisServer::start().await else { return };
    let mut connection = redis.connection().await;
    let store = RedisStore::new(RedisAddress::from_url(&redis.url()).unwrap(), "u-1");
    let (key, id, other) = (CacheKey([7; 32]), SharerId(1), SharerId(2));
    let lead = async |id| {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            match store.share(key, id).await {
                Ok(share) => return share,
                Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
            }
        }
    };
    assert_eq!(lead(id).await, Share::Lead);
    let lock: Vec<String> = connection.keys("*:l2:*").await.unwrap();
    let lock = &lock[0];
    assert_eq!(lead(other).await, Share::Wait);
    // Held until the year 3000, by a text, of another type.
    let () = connection.hset(lock, "until", "32503680000000000").await.unwrap();
    assert_eq!(lead(other).await, Share::Lead);
    let () = connection.hset(lock, "until", "soon").await.unwrap();
    assert_eq!(lead(id).await, Share::Lead);
    let () = connection.set(lock, "x").await.unwrap();
    assert_eq!(lead(other).await, Share::Lead);
    every_key_has_a_life(&redis).await;
}

#[tokio::test]
async fn x2_an_answer_is_found_only_by_the_same_service_with_every_field_equal() {
    let Some(redis) = RedisServer::start().await else { return };
    let mock = MockOpenAi::start().await;
    let mut one = config(&mock);
    one.dynamic.models = ["gpt-4o-mini", "other"].map(chatservice::server::config::ModelConfig::named).into();
    let mut other_service = one.clone();
    other_service.identity.uid = uuid::Uuid::new_v4().to_string();
    let writer = TestServer::start_on_redis(one.clone(), &redis.url()).await;
    let request = ask("same");
    let asked = async |server: &TestServer, request: &Value| {
        http::post(&server.at(CHAT), request).await.header("x-chat-cache").to_owned()
    };
    mock.script(Script::Words(1));
    assert_eq!(asked(&writer, &request).await, "miss");
    writer.stop().await;

    // Servers that know nothing but what is in Redis.
    let stranger = TestServer::start_on_redis(other_service, &redis.url()).await;
    mock.script(Script::Words(1));
    assert_eq!(asked(&stranger, &request).await, "miss", "another service");
    let mut capped = one.clone();
    capped.dynamic.models[0].max_output_tokens = Some(5);
    let capped = TestServer::start_on_redis(capped, &redis.url()).await;
    mock.script(Script::Words(1));
    assert_eq!(asked(&capped, &request).await, "miss", "another output cap");
    let reader = TestServer::start_on_redis(one, &redis.url()).await;
    for (field, value) in fields() {
        let mut other = request.clone();
        other[field] = value;
        mock.script(Script::Words(1));
        assert_eq!(asked(&reader, &other).await, "miss", "{field}");
    }
    for (field, value) in [("stream", json!(true)), ("stream_options", json!({"include_usage": true}))] {
        let mut same = streamed("same");
        same[field] = value;
        assert_eq!(asked(&reader, &same).await, "hit", "{field}");
    }
    assert_eq!(asked(&reader, &request).await, "hit");
}
