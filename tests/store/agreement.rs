//! That the rules in Lua are the rules in Rust: the same calendar, and the same answers to any sequence of requests.

use std::time::{Duration, Instant};

use chatservice::crd::BudgetPeriod;
use chatservice::server::limits::budget::{period_end, period_start};
use chatservice::server::store::memory::MemoryStore;
use chatservice::server::store::redis::RedisStore;
use chatservice::server::store::{LimitStore, Refused, Reserve, Standing, StoreError, TokenDemand};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::behaviour::{in_time, limit};
use crate::pod;
use crate::redis_server::RedisServer;
use crate::reservations::{ask, everything, money, unheard, used};

#[tokio::test]
async fn periods_in_redis_are_those_of_the_calendar() {
    let Some(server) = RedisServer::start().await else { return };
    let mut connection = server.connection().await;
    let text = concat!(
        include_str!("../../src/server/store/limits.lua"),
        include_str!("../../src/server/store/each.lua"),
        "local answer = {}\n",
        "for i = 3, #ARGV do\n",
        "  for _, period in ipairs({'D', 'W', 'M'}) do\n",
        "    local start = each().period_start(period, tonumber(ARGV[i]))\n",
        "    answer[#answer + 1] = start\n",
        "    answer[#answer + 1] = each().period_end(period, start)\n",
        "  end\n",
        "end\n",
        "return answer\n",
    );
    let script = redis::Script::new(text);
    // Every day of 250 years, in parts.
    for first in (0..91_310).step_by(1000) {
        let days: Vec<i64> = (first..first + 1000).collect();
        let mut call = script.arg(1000);
        // It is about no reservation.
        call.arg(0);
        for day in &days {
            call.arg(day);
        }
        let answer: Vec<i64> = call.invoke_async(&mut connection).await.unwrap();
        let expected: Vec<i64> = days
            .iter()
            .flat_map(|day| {
                [BudgetPeriod::Day, BudgetPeriod::Week, BudgetPeriod::Month].map(|period| (period, *day))
            })
            .flat_map(|(period, day)| {
                let start = period_start(period, day);
                [start, period_end(period, start)]
            })
            .collect();
        assert_eq!(answer, expected, "from day {first}");
    }
}

/// A standing without what depends on the time, as text.
fn timeless(standing: &Standing) -> String {
    let refused = standing.refused.map(|refused| match refused {
        Refused::Requests(_) => "requests",
        Refused::Concurrency(_) => "concurrency",
        Refused::Tokens(_) => "tokens",
        Refused::Budget => "budget",
        Refused::BudgetReserved => "budget reserved",
    });
    let requests = standing.requests.map(|state| state.remaining);
    let tokens = standing.tokens.map(|state| state.remaining);
    format!("{refused:?} {requests:?} {tokens:?} {:?}", standing.budget)
}

/// One random sequence on both stores. Limits are such that none refills within it.
async fn same_answers(redis: &RedisStore, seed: u64, attempt: u32) -> Result<(), StoreError> {
    let mut random = StdRng::seed_from_u64(seed);
    let memory = MemoryStore::new();
    let mut known: Vec<Reserve> = Vec::new();
    let started = Instant::now();
    for step in 0..150 {
        if random.random_bool(0.6) || known.is_empty() {
            let caller = format!("{}-{seed}-{attempt}", random.random_range(0..3));
            let mut request = everything(&caller);
            request.requests = random.random_bool(0.8).then(|| limit(1, 86_400, 40));
            request.concurrent = random.random_bool(0.8).then(|| random.random_range(1..8));
            request.tokens = random
                .random_bool(0.8)
                .then(|| TokenDemand { per_minute: 5, tokens: random.random_range(0..8) });
            let service = format!("service-{seed}-{attempt}");
            let worst = random.random_range(0..400);
            request.budget = random.random_bool(0.8).then(|| money(&service, 2000, worst).budget).flatten();
            request.enforce = random.random_bool(0.9);
            known.push(request);
        }
        let request = known[random.random_range(known.len().saturating_sub(10)..known.len())].clone();
        if !request.limited() {
            continue;
        }
        let context = format!("seed {seed}, step {step}: {request:?}");
        if random.random_bool(0.6) {
            let (ours, theirs) = (ask(&memory, &request).await?, ask(redis, &request).await?);
            if started.elapsed() < Duration::from_secs(10) {
                assert_eq!(timeless(&theirs), timeless(&ours), "{context}");
            }
        } else {
            let tokens = random.random_range(0..8);
            let cost = random.random_range(0..500);
            let settle =
                if random.random() { used(&request, tokens, cost) } else { unheard(&request, tokens, cost) };
            let (ours, theirs) =
                (memory.settle(vec![settle.clone()]).await?, redis.settle(vec![settle]).await?);
            assert_eq!(theirs.len(), ours.len(), "{context}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn both_stores_say_the_same_to_any_sequence() {
    let Some(server) = RedisServer::start().await else { return };
    let store = pod(&server, "u-1");
    for seed in 0..40 {
        in_time(async |attempt| same_answers(&store, seed, attempt).await).await;
    }
}
