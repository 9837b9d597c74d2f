//! That limits in Redis are exact: over several servers at once, through everything that can go wrong with a script, and
//! whatever is stored in their place.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chatservice::server::pricing::NanoUsd;
use chatservice::server::store::redis::RedisStore;
use chatservice::server::store::{
    Admit, CacheKey, LimitStore, PodId, Refused, Reserve, SharerId, Standing, StoreError, TokenDemand,
};
use futures::StreamExt;
use futures::future::join_all;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use crate::behaviour::{DEADLINE, answered, ask as admission, in_time, keep, limit, reserve};
use crate::pod;
use crate::redis_server::RedisServer;
use crate::reservations::{another, ask, everything, left, money, tokens, unheard, used};

async fn keys(connection: &mut MultiplexedConnection) -> Vec<String> {
    connection.keys("*").await.unwrap()
}

/// Asks until the store is in time.
async fn asked(store: &RedisStore, reserve: Reserve) -> Standing {
    answered(|| ask(store, &reserve)).await
}

/// All that is stored, and for how long.
async fn everything_stored(connection: &mut MultiplexedConnection) -> BTreeMap<String, (Vec<u8>, i64)> {
    let mut stored = BTreeMap::new();
    for key in keys(connection).await {
        let value: Vec<u8> = redis::cmd("DUMP").arg(&key).query_async(connection).await.unwrap();
        let expires: i64 = redis::cmd("PEXPIRETIME").arg(&key).query_async(connection).await.unwrap();
        stored.insert(key, (value, expires));
    }
    stored
}

async fn all_have_a_life(connection: &mut MultiplexedConnection, after: &str) {
    for (key, (_, expires)) in everything_stored(connection).await {
        assert!(expires > 0, "{key} lives for ever after {after}");
    }
}

#[tokio::test]
async fn s4_fifty_requests_of_five_tokens_on_a_bucket_of_a_hundred_are_twenty() {
    let Some(server) = RedisServer::start().await else { return };
    let stores: Vec<_> = (0..3).map(|_| pod(&server, "u-1")).collect();
    for round in 0..200 {
        in_time(async |attempt| {
            let first = tokens(&format!("{round}-{attempt}"), 100, 5);
            let asked: Vec<_> = (0..50).map(|_| another(&first)).collect();
            let answers =
                join_all(asked.iter().zip(stores.iter().cycle()).map(|(asked, store)| ask(store, asked)));
            let answers = answers.await;
            let admitted = answers.iter().flatten().filter(|now| now.refused.is_none()).count();
            assert!(admitted <= 20, "{admitted} admitted in round {round}");
            let _: Vec<_> = answers.into_iter().collect::<Result<_, _>>()?;
            assert_eq!(admitted, 20, "round {round}");
            Ok(())
        })
        .await;
    }
}

#[tokio::test]
async fn s5_no_window_of_a_period_admits_more_than_the_limit_and_the_burst() {
    const PERIOD: Duration = Duration::from_secs(1);
    let Some(server) = RedisServer::start().await else { return };
    let stores: Vec<_> = (0..3).map(|_| pod(&server, "u-1")).collect();
    let limit = limit(60, 1, 10);
    let seen = Cell::new(0);
    let hammer = stores.iter().map(async |store| {
        let mut admitted = Vec::new();
        let started = Instant::now();
        while started.elapsed() < PERIOD * 3 || (seen.get() < 100 && started.elapsed() < DEADLINE) {
            let asked = (0..8).map(async |_| {
                let before = Instant::now();
                let now = ask(store, &reserve("a", limit)).await;
                // One that was given up may have been admitted: it is within these bounds or later, and was not seen.
                now.is_ok_and(|now| now.refused.is_none()).then(|| (before, Instant::now()))
            });
            let more: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
            seen.set(seen.get() + more.len());
            admitted.extend(more);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        admitted
    });
    let admitted: Vec<_> = join_all(hammer).await.into_iter().flatten().collect();
    assert!(admitted.len() >= 100, "{} admitted: nothing was tested", admitted.len());
    for (start, _) in &admitted {
        let within =
            admitted.iter().filter(|(before, after)| before >= start && *after <= *start + PERIOD).count();
        assert!(within <= 70, "{within} admitted in one period");
    }
}

#[tokio::test]
async fn s6_every_key_has_a_life_whatever_wrote_it_and_wherever_it_was_cut() {
    let Some(server) = RedisServer::start().await else { return };
    let mut connection = server.connection().await;
    let store = pod(&server, "u-1");
    let request = everything("a");
    answered(|| ask(&store, &request)).await;
    all_have_a_life(&mut connection, "a reservation").await;
    answered(|| store.settle(vec![used(&request, 1, 1)])).await;
    all_have_a_life(&mut connection, "a settlement").await;
    answered(|| store.settle(vec![unheard(&everything("b"), 1, 1)])).await;
    all_have_a_life(&mut connection, "a settlement of what was not reserved").await;
    answered(|| store.heartbeat(PodId(1))).await;
    all_have_a_life(&mut connection, "a heartbeat").await;

    for round in 0..20 {
        let asked: Vec<_> = (0..50).map(|_| everything(&format!("c-{round}"))).collect();
        let asks = join_all(asked.iter().map(|asked| ask(&store, asked)));
        let settles = join_all(asked.iter().map(|asked| store.settle(vec![used(asked, 1, 1)])));
        let cut = async {
            let mut kill = redis::cmd("CLIENT");
            kill.arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes");
            let _: i64 = kill.query_async(&mut connection).await.unwrap();
        };
        let _ = futures::future::join3(asks, settles, cut).await;
        all_have_a_life(&mut connection, "connections that were cut").await;
    }
}

#[tokio::test]
async fn a_refusal_writes_nothing_whichever_limit_refuses() {
    let Some(server) = RedisServer::start().await else { return };
    let mut connection = server.connection().await;
    let store = pod(&server, "u-1");
    // What has expired is there to be put in order, and is not.
    let expired = Reserve { life: Duration::from_millis(1), ..everything("a") };
    answered(|| ask(&store, &expired)).await;
    let first = everything("a");
    answered(|| ask(&store, &first)).await;
    let before = everything_stored(&mut connection).await;
    let refused = [
        (Reserve { requests: Some(limit(1, 3600, 1)), ..another(&first) }, "requests"),
        (Reserve { concurrent: Some(1), ..another(&first) }, "concurrency"),
        (Reserve { tokens: Some(TokenDemand { per_minute: 10, tokens: 10 }), ..another(&first) }, "tokens"),
        (Reserve { budget: money("a", 100, 50).budget, tokens: None, ..another(&first) }, "budget reserved"),
        (Reserve { budget: money("a", 100, 90).budget, tokens: None, ..another(&first) }, "budget"),
    ];
    for (reserve, name) in refused {
        let refused = answered(|| ask(&store, &reserve)).await.refused;
        let told = match refused {
            Some(Refused::Requests(_)) => "requests",
            Some(Refused::Concurrency(_)) => "concurrency",
            Some(Refused::Tokens(_)) => "tokens",
            Some(Refused::Budget) => "budget",
            Some(Refused::BudgetReserved) => "budget reserved",
            None => "nothing",
        };
        assert_eq!(told, name);
        assert!(everything_stored(&mut connection).await == before, "{name} wrote");
    }
}

#[tokio::test]
async fn a_hit_takes_one_request_and_is_served_when_everything_else_is_exhausted() {
    let Some(server) = RedisServer::start().await else { return };
    let store = pod(&server, "u-1");
    let key = CacheKey([7; 32]);
    answered(|| keep(&store, key, "x", Duration::from_hours(1))).await;
    in_time(async |attempt| {
        let caller = format!("a-{attempt}");
        let huge =
            Reserve { budget: money(&caller, 100, 100).budget, concurrent: Some(1), ..everything(&caller) };
        assert_eq!(ask(&store, &huge).await?.refused, None);
        store.settle(vec![unheard(&tokens(&caller, 10, 0), 100, 0)]).await?;
        assert!(ask(&store, &another(&huge)).await?.refused.is_some());
        for left in [3, 2, 1, 0] {
            let request = another(&huge);
            let admit = Admit { reserve: Some(request.clone()), cache_key: Some(key), sharer: None };
            let hit = store.admit(admit.clone()).await?;
            let again = store.admit(admit).await?;
            assert_eq!(hit.cached.as_deref(), Some(&b"x"[..]));
            assert_eq!(again.cached, hit.cached);
            let standing = hit.standing.unwrap();
            assert_eq!((standing.refused, standing.requests.unwrap().remaining), (None, left));
            assert_eq!(standing.budget.unwrap().reserved, NanoUsd(100));
            assert_eq!(again.standing.unwrap().requests.unwrap().remaining, left, "charged once");
        }
        let admit = Admit { reserve: Some(another(&huge)), cache_key: Some(key), sharer: None };
        let refused = store.admit(admit).await?;
        assert!(matches!(refused.standing.unwrap().refused, Some(Refused::Requests(_))));
        assert_eq!(refused.cached, None, "over the request limit");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_hit_nobody_heard_of_is_charged_for_what_the_backend_then_did() {
    let Some(server) = RedisServer::start().await else { return };
    let store = pod(&server, "u-1");
    let key = CacheKey([7; 32]);
    answered(|| keep(&store, key, "x", Duration::from_hours(1))).await;
    in_time(async |attempt| {
        let request = everything(&format!("a-{attempt}"));
        let admit = Admit { reserve: Some(request.clone()), cache_key: Some(key), sharer: None };
        assert!(store.admit(admit).await?.cached.is_some());
        for _ in 0..2 {
            store.settle(vec![unheard(&request, 7, 20)]).await?;
        }
        let now = ask(&store, &another(&request)).await?;
        assert!(matches!(now.refused, Some(Refused::Tokens(_))));
        assert_eq!((now.requests.unwrap().remaining, now.tokens.unwrap().remaining), (4, 3));
        assert_eq!(now.budget.unwrap().spent, NanoUsd(20));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn s1_what_was_given_up_on_a_frozen_redis_is_charged_once_after_the_thaw() {
    let Some(server) = RedisServer::start().await else { return };
    let store = pod(&server, "u-1");
    for round in 0..10 {
        let probe = everything(&format!("warm-{round}"));
        answered(|| ask(&store, &probe)).await;
        let request = everything(&format!("a-{round}"));
        server.freeze();
        assert!(ask(&store, &request).await.is_err(), "it is frozen");
        // Perhaps it is on its way too, perhaps the breaker holds it back.
        let _ = store.settle(vec![unheard(&request, 5, 20)]).await;
        server.thaw();
        answered(|| store.settle(vec![unheard(&request, 5, 20)])).await;
        assert_eq!(answered(|| left(&store, &request)).await, (4, 5, (20, 0)), "round {round}");
    }
}

#[tokio::test]
async fn scripts_that_redis_forgot_or_refuses_to_run_do_all_or_nothing() {
    let Some(server) = RedisServer::start().await else { return };
    let mut connection = server.connection().await;
    let store = pod(&server, "u-1");
    let request = everything("a");
    answered(|| ask(&store, &request)).await;
    let () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut connection).await.unwrap();
    answered(|| store.settle(vec![used(&request, 1, 1)])).await;

    let waiting = Reserve { life: Duration::from_millis(1), ..everything("a") };
    answered(|| ask(&store, &waiting)).await;
    let before = everything_stored(&mut connection).await;
    let set = async |value: u64, connection: &mut MultiplexedConnection| {
        let mut command = redis::cmd("CONFIG");
        let () = command.arg("SET").arg("maxmemory").arg(value).query_async(connection).await.unwrap();
    };
    set(1, &mut connection).await;
    refused_as_full(async || ask(&store, &everything("a")).await).await;
    refused_as_full(async || store.settle(vec![unheard(&everything("b"), 1, 1)]).await).await;
    assert!(everything_stored(&mut connection).await == before, "a script that is refused writes nothing");
    set(0, &mut connection).await;

    let () = redis::cmd("REPLICAOF").arg("127.0.0.1").arg("1").query_async(&mut connection).await.unwrap();
    let deadline = Instant::now() + DEADLINE;
    while store.settle(vec![used(&waiting, 1, 1)]).await.is_ok() {
        assert!(Instant::now() < deadline, "a replica takes it");
    }
    let () = redis::cmd("REPLICAOF").arg("NO").arg("ONE").query_async(&mut connection).await.unwrap();
    answered(|| store.settle(vec![used(&waiting, 1, 1)])).await;
}

/// The operation is refused because Redis is full, as soon as it is answered at all.
async fn refused_as_full<T>(operation: impl AsyncFn() -> Result<T, StoreError>) {
    let outcome = in_time(async |_| match operation().await {
        Err(StoreError::Full) => Ok(None),
        outcome => outcome.map(Some),
    });
    assert!(outcome.await.is_none(), "a full Redis takes it");
}

#[tokio::test]
async fn a_full_redis_is_written_nothing_whatever_is_there() {
    let Some(server) = RedisServer::start().await else { return };
    let mut connection = server.connection().await;
    let set = async |value: u64, connection: &mut MultiplexedConnection| {
        let mut command = redis::cmd("CONFIG");
        let () = command.arg("SET").arg("maxmemory").arg(value).query_async(connection).await.unwrap();
    };
    let answer = CacheKey([7; 32]);
    let requests = [
        everything("a"),
        tokens("a", 10, 1),
        money("a", 100, 1),
        Reserve { concurrent: Some(1), ..tokens("a", 10, 1) },
        reserve("a", limit(1, 3600, 5)),
    ];
    let store = pod(&server, "u-1");
    set(1, &mut connection).await;
    // Nothing is there yet, then in the place of each key something else.
    for garbage in [false, true] {
        if garbage {
            set(0, &mut connection).await;
            asked(&store, everything("a")).await;
            answered(|| store.heartbeat(PodId(1))).await;
            for key in keys(&mut connection).await {
                put_garbage(&mut connection, &key, 8).await;
            }
            set(1, &mut connection).await;
        }
        let before = everything_stored(&mut connection).await;
        assert_eq!(before.is_empty(), !garbage);
        for request in &requests {
            refused_as_full(async || ask(&store, &another(request)).await).await;
            let sharer = Some(SharerId(7));
            let admit = || Admit { reserve: Some(another(request)), cache_key: Some(answer), sharer };
            refused_as_full(async || store.admit(admit()).await).await;
            refused_as_full(async || store.settle(vec![unheard(&another(request), 1, 1)]).await).await;
        }
        refused_as_full(async || store.heartbeat(PodId(1)).await).await;
        assert!(everything_stored(&mut connection).await == before, "a full Redis was written to");
    }
}

/// What anybody who can write to this Redis could put in the place of a key.
async fn put_garbage(connection: &mut MultiplexedConnection, key: &str, kind: usize) {
    const TEXTS: [&str; 8] = [
        "",
        "nan",
        "-inf inf nan",
        "1e400",
        "99999999999999999999 99999999999999999999 99999999999999999999",
        "-99999999999999999999 0 0",
        "0 0 0",
        "\0\u{ff}:12",
    ];
    let () = connection.del(key).await.unwrap();
    if let Some(text) = TEXTS.get(kind) {
        let () = connection.set(key, text).await.unwrap();
        return;
    }
    let mut command = match kind - TEXTS.len() {
        0 => redis::cmd("LPUSH"),
        1 => redis::cmd("SADD"),
        2 => redis::cmd("HSET"),
        3 => redis::cmd("ZADD"),
        _ => redis::cmd("HMSET"),
    };
    command.arg(key);
    match kind - TEXTS.len() {
        0 | 1 => command.arg("x"),
        2 => command.arg("keep").arg("1e300"),
        3 => command.arg("inf").arg("x").arg("-inf").arg("y:99999999999999999999").arg("0").arg(":"),
        _ => command.arg("keep").arg("nan").arg("x").arg("s"),
    };
    let () = command.query_async(connection).await.unwrap();
}

#[tokio::test]
async fn x13_whatever_is_stored_no_request_fails_and_every_key_is_ours_again() {
    let Some(server) = RedisServer::start().await else { return };
    let mut connection = server.connection().await;
    let store = pod(&server, "u-1");
    let request = Reserve { enforce: false, ..everything("a") };
    answered(|| ask(&store, &request)).await;
    answered(|| store.heartbeat(PodId(1))).await;
    let keys = keys(&mut connection).await;
    assert!(keys.len() >= 6, "{keys:?}");
    for key in &keys {
        for kind in 0..13 {
            let open = another(&request);
            answered(|| ask(&store, &open)).await;
            put_garbage(&mut connection, key, kind).await;
            let now = asked(&store, another(&request)).await;
            assert!(now.budget.unwrap().spent <= NanoUsd::MAX, "{key} {kind}");
            put_garbage(&mut connection, key, kind).await;
            answered(|| store.settle(vec![used(&open, 1, 1), unheard(&another(&request), 1, 1)])).await;
            put_garbage(&mut connection, key, kind).await;
            answered(|| store.heartbeat(PodId(1))).await;
            asked(&store, another(&request)).await;
        }
        let () = connection.del(key).await.unwrap();
    }
    asked(&store, another(&request)).await;
    answered(|| store.heartbeat(PodId(1))).await;
    all_have_a_life(&mut connection, "garbage").await;
}

#[tokio::test]
async fn an_admission_is_one_command_and_so_is_a_settlement_of_many() {
    let Some(server) = RedisServer::start().await else { return };
    let store = pod(&server, "u-1");
    let key = Some(CacheKey([7; 32]));
    answered(|| store.admit(Admit { reserve: Some(everything("warm")), cache_key: key, sharer: None })).await;
    answered(|| store.settle(vec![used(&everything("warm"), 1, 1)])).await;

    let connection = server.connection().await;
    let client = redis::Client::open(server.url()).unwrap();
    let commands = in_time(async |_| {
        let mut seen = client.get_async_monitor().await.unwrap().into_on_message::<String>();
        let reserve = everything("a");
        let done = async {
            let sharer = Some(SharerId(7));
            let admit = Admit { reserve: Some(reserve.clone()), cache_key: key, sharer };
            store.admit(admit).await?;
            let others = (0..20).map(|_| used(&everything("a"), 1, 1));
            store.settle(others.chain([used(&reserve, 1, 1)]).collect()).await
        };
        let done = done.await;
        let () = redis::cmd("ECHO").arg("the end").query_async(&mut connection.clone()).await.unwrap();
        let mut commands = Vec::new();
        while let Some(line) = seen.next().await.filter(|line| !line.contains("the end")) {
            if !line.contains("lua]") {
                commands.push(line.split('"').nth(1).unwrap_or_default().to_uppercase());
            }
        }
        // The store had to connect anew: another try.
        if commands.iter().any(|command| command == "PING") {
            return Err(StoreError::Unreachable("a moment ago".to_owned()));
        }
        done.map(|_| commands)
    })
    .await;
    assert_eq!(commands, ["EVALSHA", "EVALSHA"]);
}

#[tokio::test]
async fn pods_that_are_gone_are_not_counted() {
    let Some(server) = RedisServer::start().await else { return };
    let mut connection = server.connection().await;
    let store = pod(&server, "u-1");
    assert_eq!(answered(|| store.heartbeat(PodId(1))).await, 1);
    assert_eq!(answered(|| store.heartbeat(PodId(2))).await, 2);
    let key = keys(&mut connection).await.swap_remove(0);
    let members: Vec<(Vec<u8>, f64)> = connection.zrange_withscores(&key, 0, -1).await.unwrap();
    let (gone, at) = members.into_iter().find(|(member, _)| *member == 1_u128.to_be_bytes()).unwrap();
    let () = connection.zadd(&key, &gone, at - 15e6).await.unwrap();
    assert_eq!(answered(|| store.heartbeat(PodId(2))).await, 1);
    assert_eq!(answered(|| store.admit(admission("a", limit(1, 1, 1)))).await.cached, None);
}

#[tokio::test]
async fn a_budget_whose_open_reservations_were_evicted_counts_them_as_spent_until_they_are_settled() {
    let Some(server) = RedisServer::start().await else { return };
    let mut connection = server.connection().await;
    let store = pod(&server, "u-1");
    let (first, second) = (money("a", 100, 40), money("a", 100, 30));
    let account = |standing: &Standing| {
        let budget = standing.budget.unwrap();
        (budget.spent.0, budget.reserved.0)
    };
    for reserve in [&first, &second] {
        assert_eq!(asked(&store, reserve.clone()).await.refused, None);
    }
    let open = keys(&mut connection).await.into_iter().find(|key| key.contains(":bo1:")).unwrap();
    let () = connection.del(&open).await.unwrap();
    let probe = asked(&store, money("a", 100, 31)).await;
    assert_eq!((probe.refused, account(&probe)), (Some(Refused::Budget), (70, 0)));
    let third = money("a", 100, 10);
    assert_eq!(account(&asked(&store, third.clone()).await), (70, 10));
    answered(|| store.settle(vec![used(&first, 0, 5)])).await;
    assert_eq!(account(&asked(&store, money("a", 100, 1000)).await), (35, 10));
    answered(|| store.settle(vec![used(&second, 0, 6), used(&third, 0, 7)])).await;
    assert_eq!(account(&asked(&store, money("a", 100, 1000)).await), (18, 0));
}
