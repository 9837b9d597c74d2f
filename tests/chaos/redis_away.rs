//! A Redis that answers nobody for 90 s while requests come.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::figures::{Figures, percentile};
use crate::load::{Told, question};
use crate::mock_openai::MockOpenAi;
use crate::redis_server::RedisServer;
use crate::servers::Servers;

/// Requests a second, evenly, of this many clients.
const RATE: u32 = 400;
const CLIENTS: u32 = 40;
/// Before Redis hangs, and for how long it does.
const BASELINE: Duration = Duration::from_secs(20);
const AWAY: Duration = Duration::from_secs(90);
/// After it is back.
const BACK: Duration = Duration::from_secs(15);
/// A model with a price and a budget.
const PRICED: &str = "  model: gpt-4o-mini\n\
    \x20 models: [{ name: gpt-4o-mini, price: { inputPerMillionTokens: \"1\", outputPerMillionTokens: \"1\" }, maxOutputTokens: 50 }]\n\
    \x20 budget: { amount: \"1000.00\", period: Month }\n";
/// Billionths of a USD: 7 tokens of the prompt and 3 of the answer at a millionth of a USD each.
const COST: usize = 10_000;
/// Longer than Redis' record of a reservation could be needed: the rest of its minute, twice its life (a request's time and a
/// minute), and a minute more.
const LONG: Duration = Duration::from_secs(60 + 2 * (1 + 60) + 60 + 8);
/// Where it is told that the store keeps the limits again.
const SHARED: &str = "chat_store_mode{mode=\"shared\"} ";

/// Clients that ask until then, so many times a second together. Out: what each was told.
async fn asking(
    servers: &Servers,
    number: &Arc<AtomicUsize>,
    rate: u32,
    until: Instant,
) -> JoinSet<Vec<Told>> {
    let mut clients = JoinSet::new();
    for at in 0..CLIENTS {
        let mut client = servers.client(0, [127, 0, 0, 1]).await;
        let number = number.clone();
        clients.spawn(async move {
            let every = Duration::from_secs(1) * CLIENTS / rate;
            tokio::time::sleep(every * at / CLIENTS).await;
            let mut every = tokio::time::interval(every);
            let mut told = Vec::new();
            while Instant::now() < until {
                every.tick().await;
                told.push(client.ask(&question(number.fetch_add(1, Ordering::Relaxed))).await.unwrap());
            }
            told
        });
    }
    clients
}

/// What the budget's account says is spent, once all is settled: nothing is reserved any more.
async fn spent(redis: &RedisServer) -> usize {
    let keys: Vec<String> = redis.query("KEYS *:ba1:M:*").await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let account: String = redis.query(&format!("GET {}", keys[0])).await.unwrap();
        let parts: Vec<usize> = account.split(' ').map(|part| part.parse().unwrap()).collect();
        if parts[2] == 0 {
            return parts[1];
        }
        assert!(Instant::now() < deadline, "something stays reserved: {account}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make chaos"]
async fn s1_s2_a_redis_that_is_frozen_for_90_s_under_load_is_hardly_noticed() {
    let Some(redis) = RedisServer::start().await else { return };
    let mock = MockOpenAi::fast(3).await;
    // The memory cache is full before Redis hangs: what memory grows by after that is the outage's.
    let spec = format!(
        "{PRICED}  rateLimits: {{ requestsPerMinute: 1000000, burst: 100000, tokensPerMinute: 100000000, concurrentRequests: 1000 }}\n\
         \x20 cache: {{ ttl: 1h, memory: 4Mi }}\n"
    );
    let servers = Servers::start(1, &redis.url(), &mock.base_url(), &spec).await;
    let number = Arc::new(AtomicUsize::new(0));
    let begin = Instant::now();
    let (frozen, thaw) = (begin + BASELINE, begin + BASELINE + AWAY);
    let clients = asking(&servers, &number, RATE, thaw + BACK).await;
    let process = &servers.processes[0];
    tokio::time::sleep_until(frozen.into()).await;
    let (memory, logged, asked) = (process.memory(), process.logged(), number.load(Ordering::Relaxed));
    let usual = logged / asked.max(1);
    redis.pause(AWAY).await;
    tokio::time::sleep_until((frozen + AWAY.saturating_sub(Duration::from_millis(500))).into()).await;
    let memory = (memory, process.memory());
    let (logged, asked) = (process.logged() - logged, number.load(Ordering::Relaxed) - asked);
    // It answers others again, and then it is seen whether the server uses it.
    let () = redis.query("PING").await.map(|_: String| ()).unwrap();
    let answers = Instant::now();
    while servers.sum(SHARED).await < 1.0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(answers.elapsed() < Duration::from_secs(30), "Redis is not used again");
    }
    let used_again = answers.elapsed();
    let all = clients.join_all().await.concat();
    let spent = spent(&redis).await;

    let failed = all.iter().filter(|told| told.status != 200).count();
    let times = |from: Instant, to: Instant| -> Vec<Duration> {
        all.iter().filter(|told| (from..to).contains(&told.asked)).map(|told| told.took).collect()
    };
    // The first seconds warm up.
    let mut before = times(begin + BASELINE / 4, frozen);
    let mut during = times(frozen, thaw);
    let longest = during.iter().max().copied().unwrap();
    let rate = |count: usize, time: Duration| f64::from(u32::try_from(count).unwrap()) / time.as_secs_f64();
    let through = rate(during.len(), AWAY) / rate(before.len(), BASELINE * 3 / 4);
    let (baseline, away) = (percentile(&mut before, 0.99), percentile(&mut during, 0.99));
    let mut figures = Figures::of("S1");
    figures.exactly("failed requests", failed, 0);
    figures.at_most("p99 before", baseline, Duration::from_secs(1));
    figures.at_most(
        "p99 while Redis is frozen, beyond that",
        away.saturating_sub(baseline),
        Duration::from_millis(100),
    );
    figures.tell("throughput", format!("{:.1} %", through * 100.0), "at least 95 %", through >= 0.95);
    let grown = rate(memory.1, Duration::from_secs(1)) / rate(memory.0, Duration::from_secs(1));
    figures.tell("resident memory", format!("{grown:.2} times"), "at most 1.1 times", grown <= 1.1);
    // Each request has its line in the access log: what is beyond that is the outage's.
    let more = (logged / asked.max(1)).saturating_sub(usual);
    figures.tell("log of a request beyond its own line, bytes", more, "at most 200", more <= 200);
    figures.exactly("spent after the thaw, in requests", spent / COST, all.len());
    figures.exactly("and the rest", spent % COST, 0);
    let mut figures = Figures::of("S2");
    figures.at_most("longest answer while Redis is frozen", longest, Duration::from_secs(1));
    figures.at_most("until Redis is used again", used_again, Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make chaos"]
async fn s1_what_redis_did_and_nobody_heard_is_not_charged_again_however_late_it_is_told() {
    let Some(redis) = RedisServer::start().await else { return };
    let mock = MockOpenAi::fast(3).await;
    let spec = format!(
        "{PRICED}  rateLimits: {{ requestsPerMinute: 1000000, burst: 100000, tokensPerMinute: 100000000 }}\n\
         \x20 timeouts: {{ firstToken: 1s, idle: 1s, request: 1s }}\n"
    );
    let servers = Servers::start(1, &redis.url(), &mock.base_url(), &spec).await;
    let number = Arc::new(AtomicUsize::new(0));
    let frozen = Instant::now() + Duration::from_secs(5);
    let clients = asking(&servers, &number, RATE, frozen + LONG + BACK).await;
    tokio::time::sleep_until(frozen.into()).await;
    // Stopped, it finds what it was sent last when it goes on, and does it.
    redis.freeze();
    tokio::time::sleep(LONG).await;
    redis.thaw();
    let all = clients.join_all().await.concat();
    let spent = spent(&redis).await;
    let mut figures = Figures::of("S1");
    let failed = all.iter().filter(|told| told.status != 200).count();
    figures.exactly("failed requests, stopped for longer than anything is remembered", failed, 0);
    figures.exactly("spent after that, in requests", spent / COST, all.len());
    figures.exactly("and the rest", spent % COST, 0);
}
