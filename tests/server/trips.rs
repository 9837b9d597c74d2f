//! How often a request awaits Redis, counted by MONITOR: once on a single Redis or a master with Sentinels, twice on a Cluster,
//! not at all for a hit of the memory cache; a conversation adds two. What nobody waits for is not counted.

#![expect(clippy::print_stdout, reason = "the counts are shown with --nocapture")]

use std::collections::BTreeMap;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::BoxStream;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::http::{self, DEADLINE};
use crate::metrics;
use crate::mock_openai::MockOpenAi;
use crate::redis_server::RedisServer;
use crate::redis_sets::{RedisCluster, RedisSentinels};
use crate::server::{TestServer, cache, openai};
use chatservice::crd::{BudgetPeriod, Per};
use chatservice::server::config::{BudgetConfig, PriceConfig, RequestLimit, ServerConfig};

/// How long it may take until a round is not disturbed: on a busy machine Redis may be late, and then servers do without.
const ROUND: std::time::Duration = std::time::Duration::from_mins(3);
/// Requests that come together.
const TOGETHER: usize = 64;

/// Trips by what they were for.
type Trips = BTreeMap<&'static str, usize>;

macro_rules! script {
    ($($file:literal),+) => {
        concat!($(include_str!(concat!("../../src/server/store/", $file, ".lua"))),+)
    };
}

/// The scripts, and what a request waits for them for.
fn scripts() -> [(redis::Script, Option<&'static str>); 9] {
    [
        (script!("limits", "each", "lock", "share", "admit"), Some("admit")),
        (script!("clock", "lock", "share", "look"), Some("look")),
        (script!("clock", "read_conversation"), Some("read")),
        (script!("clock", "append_turn"), Some("append")),
        (script!("limits", "each", "settle"), None),
        (script!("limits", "each", "budgets"), None),
        (script!("heartbeat"), None),
        (script!("lock", "renew"), None),
        (script!("lock", "release"), None),
    ]
    .map(|(text, awaited)| (redis::Script::new(text), awaited))
}

/// Commands that no request waits for: answers to keep, records to forget, connections, and what this test says.
const UNAWAITED: [&str; 11] =
    ["SET", "UNLINK", "PING", "ECHO", "HELLO", "CLIENT", "CLUSTER", "ROLE", "KEYS", "MONITOR", "INFO"];

/// What a command is, as MONITOR shows it; None where nobody waits for it.
fn awaited(line: &str, scripts: &[(redis::Script, Option<&'static str>)]) -> Option<&'static str> {
    if line.contains(" lua] ") {
        return None;
    }
    let mut words = line.split('"').skip(1).step_by(2);
    let (name, first) = (words.next().unwrap().to_ascii_uppercase(), words.next().unwrap_or_default());
    if name == "EVALSHA" {
        let known = scripts.iter().find(|(script, _)| script.get_hash() == first);
        return known.map_or(Some("a script that this test does not know"), |(_, what)| *what);
    }
    if name == "GET" {
        // Streams are not shared across pods, so nothing but the answer is looked for.
        return Some("look");
    }
    // A Sentinel and a replica look after the master.
    let others = ["PUBLISH", "SUBSCRIBE", "REPLCONF", "PSYNC"];
    let unawaited = UNAWAITED.contains(&name.as_str()) || others.contains(&name.as_str());
    (!unawaited).then_some("a command that this test does not know")
}

/// What the servers of one Redis, set or Cluster are asked.
struct Monitor<'a> {
    servers: Vec<&'a RedisServer>,
    commands: Vec<BoxStream<'static, String>>,
}

impl<'a> Monitor<'a> {
    async fn of(servers: Vec<&'a RedisServer>) -> Self {
        let mut commands = Vec::new();
        for server in &servers {
            let monitor = redis::Client::open(server.url()).unwrap().get_async_monitor().await.unwrap();
            commands.push(monitor.into_on_message::<String>().boxed());
        }
        Self { servers, commands }
    }

    /// Awaited trips since it was last asked.
    async fn trips(&mut self) -> Trips {
        let (end, scripts) = (uuid::Uuid::new_v4().to_string(), scripts());
        let mut trips = Trips::new();
        for (server, commands) in self.servers.iter().zip(&mut self.commands) {
            let () = server.query(&format!("ECHO {end}")).await.unwrap();
            loop {
                let line = tokio::time::timeout(DEADLINE, commands.next()).await.unwrap().unwrap();
                if line.contains(&end) {
                    break;
                }
                if let Some(what) = awaited(&line, &scripts) {
                    *trips.entry(what).or_default() += 1;
                }
            }
        }
        trips
    }

    /// Answers that are kept.
    async fn answers(&self) -> usize {
        let kept = self.servers.iter().map(|server| server.query::<Vec<String>>("KEYS *:c1:*"));
        join_all(kept).await.into_iter().map(|keys| keys.unwrap().len()).sum()
    }
}

/// Every limit, a budget and the cache: the most that one request can ask of Redis.
fn governed(mock: &MockOpenAi) -> ServerConfig {
    let mut config = openai(&mock.base_url());
    let model = &mut config.dynamic.models[0];
    let price = || "1".to_owned();
    model.price = Some(PriceConfig { input_per_million_tokens: price(), output_per_million_tokens: price() });
    model.max_output_tokens = Some(100);
    let (amount_nano_usd, period, per) = (1_000_000_000_000, BudgetPeriod::Month, Per::Service);
    config.dynamic.budget = Some(BudgetConfig { amount_nano_usd, period, per });
    config.dynamic.limits.requests =
        Some(RequestLimit { requests: 1_000_000, period_seconds: 1, burst: 1_000_000 });
    config.dynamic.limits.tokens_per_minute = Some(1_000_000_000);
    config.dynamic.limits.concurrent_requests = Some(1000);
    config.dynamic.cache = Some(cache());
    config
}

/// None where Redis was late.
async fn ask(server: &TestServer, question: &str, stream: bool, cached: &str) -> Option<()> {
    let body = json!({"messages": [{"role": "user", "content": question}], "stream": stream});
    let answer = http::post(&server.at("/v1/chat/completions"), &body).await;
    if !undisturbed(server).await {
        return None;
    }
    assert_eq!((answer.status.as_u16(), answer.header("x-chat-cache")), (200, cached), "{question}");
    Some(())
}

/// A turn; None where Redis was late, so that it was refused or not stored.
async fn turn(server: &TestServer, message: &str, conversation: Option<&Value>) -> Option<Value> {
    let mut body = json!({"message": message});
    if let Some(id) = conversation {
        body["conversation_id"] = id.clone();
    }
    let answer = http::post(&server.at("/api/v1/chat"), &body).await;
    if !undisturbed(server).await {
        return None;
    }
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    (answer["persisted"] == true).then(|| answer["conversation_id"].clone())
}

async fn undisturbed(server: &TestServer) -> bool {
    !metrics::text(server).await.contains("chat_store_errors_total{")
}

/// Counts; None where Redis was late. `admission` is what a request awaits that looks for an answer.
async fn count(url: &str, servers: Vec<&RedisServer>, admission: &Trips) -> Option<()> {
    let mock = MockOpenAi::fast(3).await;
    let config = governed(&mock);
    let server = TestServer::start_on_redis(config.clone(), url).await;
    let other = TestServer::start_on_redis(config, url).await;
    for redis in &servers {
        // So that each request finds its script there.
        for (script, _) in scripts() {
            script.load_async(&mut redis.connection().await).await.unwrap();
        }
    }
    for server in [&server, &other] {
        let id = turn(server, "to connect", None).await?;
        turn(server, "and to read", Some(&id)).await?;
    }
    let mut monitor = Monitor::of(servers).await;
    let (kept, mut seen) = (monitor.answers().await, Vec::new());
    let round = uuid::Uuid::new_v4();
    let with = |more: &[&'static str]| {
        let mut trips = admission.clone();
        trips.extend(more.iter().map(|what| (*what, 1)));
        trips
    };
    monitor.trips().await;

    let question = format!("one of its own {round}");
    ask(&server, &question, false, "miss").await?;
    seen.push(("a miss", monitor.trips().await, with(&[])));
    ask(&server, &question, true, "hit").await?;
    seen.push(("a hit of the memory cache", monitor.trips().await, Trips::new()));
    let deadline = Instant::now() + DEADLINE;
    while monitor.answers().await == kept {
        if !undisturbed(&server).await {
            return None;
        }
        assert!(Instant::now() < deadline, "the answer is not kept");
    }
    monitor.trips().await;
    ask(&other, &question, false, "hit").await?;
    seen.push(("a hit of Redis", monitor.trips().await, with(&[])));
    ask(&server, &format!("streamed {round}"), true, "miss").await?;
    seen.push(("a streamed miss", monitor.trips().await, with(&[])));
    let id = turn(&server, &format!("first {round}"), None).await?;
    seen.push(("the first turn of a conversation", monitor.trips().await, with(&["append"])));
    turn(&server, &format!("second {round}"), Some(&id)).await?;
    seen.push(("a later turn", monitor.trips().await, with(&["append", "read"])));

    let questions: Vec<_> = (0..TOGETHER).map(|number| format!("{number} of many {round}")).collect();
    let asked = join_all(questions.iter().map(|question| ask(&server, question, false, "miss"))).await;
    asked.into_iter().collect::<Option<Vec<()>>>()?;
    let together = monitor.trips().await;
    if !(undisturbed(&server).await && undisturbed(&other).await) {
        return None;
    }
    for (what, trips, expected) in seen {
        println!("{what} awaits {} trips: {trips:?}", trips.values().sum::<usize>());
        assert_eq!(trips, expected, "{what}");
    }
    println!("{TOGETHER} misses together: {together:?}");
    assert_eq!(together.keys().collect::<Vec<_>>(), admission.keys().collect::<Vec<_>>());
    assert!(together["admit"] <= TOGETHER, "none awaits more than its own, and some share one");
    Some(())
}

async fn counted(url: &str, servers: &[&RedisServer], admission: &[&'static str]) {
    let admission = admission.iter().map(|what| (*what, 1)).collect();
    let deadline = Instant::now() + ROUND;
    while count(url, servers.to_vec(), &admission).await.is_none() {
        assert!(Instant::now() < deadline, "Redis was never answering in time");
    }
}

#[tokio::test]
async fn a_request_awaits_one_trip_to_redis_and_a_hit_of_the_memory_cache_none() {
    let Some(redis) = RedisServer::start().await else { return };
    counted(&redis.url(), &[&redis], &["admit"]).await;
}

#[tokio::test]
async fn a_request_awaits_one_trip_to_a_redis_that_sentinels_look_after() {
    let Some(set) = RedisSentinels::start().await else { return };
    counted(&set.url(), &[&set.master], &["admit"]).await;
}

#[tokio::test]
async fn a_request_awaits_two_trips_to_a_redis_cluster() {
    let Some(cluster) = RedisCluster::start(false).await else { return };
    counted(&cluster.url(), &cluster.masters.iter().collect::<Vec<_>>(), &["admit", "look"]).await;
}
