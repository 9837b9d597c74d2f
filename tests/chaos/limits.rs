//! Limits over three processes that share a Redis.

use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::task::JoinSet;

use crate::figures::Figures;
use crate::load::{Client, question};
use crate::mock_openai::MockOpenAi;
use crate::redis_server::RedisServer;
use crate::servers::Servers;

const MINUTE: Duration = Duration::from_mins(1);

/// 50 requests at once of a caller who may 20: so often.
const ROUNDS: usize = 200;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make chaos"]
async fn s4_exactly_twenty_of_fifty_are_answered_two_hundred_times() {
    let Some(redis) = RedisServer::start().await else { return };
    let mock = MockOpenAi::fast(3).await;
    let spec = "  model: gpt-4o-mini\n  rateLimits: { requestsPerMinute: 1, burst: 20, tokensPerMinute: 100000000 }\n";
    let servers = Servers::start(3, &redis.url(), &mock.base_url(), spec).await;
    let mut figures = Figures::of("S4");
    let (mut exact, mut over, mut disturbed) = (0, 0, 0);
    for caller in 0.. {
        if exact + over == ROUNDS || disturbed > ROUNDS {
            break;
        }
        // Each round a caller that nobody has heard of.
        let from = [127, 1, u8::try_from(caller / 250).unwrap(), u8::try_from(caller % 250 + 1).unwrap()];
        let before = servers.sum("chat_store_errors_total").await;
        let asked = (0..50).map(|number| {
            let servers = &servers;
            async move { servers.client(number, from).await.ask(&question(number)).await.unwrap().status }
        });
        let answers = join_all(asked).await;
        let answered = answers.iter().filter(|status| **status == 200).count();
        if servers.sum("chat_store_errors_total").await > before {
            // Redis was late for one of them, which then was decided without it.
            disturbed += 1;
        } else if answered == 20 {
            exact += 1;
        } else {
            over += 1;
        }
    }
    figures.exactly("rounds of 50 in which exactly 20 were answered", exact, ROUNDS);
    println!("S4: rounds that a late Redis disturbed and that were made again: {disturbed}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make chaos"]
async fn s5_no_minute_admits_more_than_the_limit_and_the_burst() {
    const RATE: usize = 3000;
    const CLIENTS: usize = 60;
    let Some(redis) = RedisServer::start().await else { return };
    let mock = MockOpenAi::fast(3).await;
    let spec = "  model: gpt-4o-mini\n  rateLimits: { requestsPerMinute: 60, burst: 10, per: Service }\n";
    let servers = Servers::start(3, &redis.url(), &mock.base_url(), spec).await;
    let until = Instant::now() + MINUTE + Duration::from_secs(15);
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let mut client = servers.client(number, [127, 0, 0, 1]).await;
        clients.spawn(async move {
            let mut every = tokio::time::interval(
                Duration::from_secs(1) * u32::try_from(CLIENTS).unwrap() / u32::try_from(RATE).unwrap(),
            );
            let (mut asked, mut admitted) = (0, Vec::new());
            while Instant::now() < until {
                every.tick().await;
                let told = client.ask(&question(number * 1_000_000 + asked)).await.unwrap();
                asked += 1;
                if told.status == 200 {
                    admitted.push(told.asked + told.took);
                }
            }
            (asked, admitted)
        });
    }
    let (mut asked, mut admitted) = (0, Vec::new());
    while let Some(client) = clients.join_next().await {
        let (of_client, more) = client.unwrap();
        asked += of_client;
        admitted.extend(more);
    }
    admitted.sort_unstable();
    let most = admitted
        .iter()
        .map(|start| admitted.iter().filter(|at| (*start..*start + MINUTE).contains(at)).count())
        .max()
        .unwrap();
    let mut figures = Figures::of("S5");
    figures.tell("admitted in the fullest minute", most, "at most 70", most <= 70);
    figures.tell("and at least what the limit allows", most, "at least 60", most >= 60);
    figures.tell("requests a second", asked / 75, "3000", asked / 75 >= RATE * 99 / 100);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make chaos"]
async fn s15_a_budget_is_spent_to_its_last_request_and_never_exceeded() {
    /// Billionths of a USD: 3 tokens of an answer at a thousandth of a USD each; an answer may have 50.
    const COST: usize = 3_000_000;
    const WORST: usize = 50_000_000;
    const BUDGET: usize = 1_000_000_000;
    let Some(redis) = RedisServer::start().await else { return };
    let mock = MockOpenAi::fast(3).await;
    let price =
        "price: { inputPerMillionTokens: \"0\", outputPerMillionTokens: \"1000\" }, maxOutputTokens: 50";
    let spec = format!(
        "  model: gpt-4o-mini\n  models: [{{ name: gpt-4o-mini, {price}, fallbacks: [spare] }}, {{ name: spare, {price} }}]\n\
         \x20 budget: {{ amount: \"1.00\", period: Month }}\n"
    );
    let servers = Servers::start(3, &redis.url(), &mock.base_url(), &spec).await;
    let mut clients: Vec<Client> = Vec::new();
    for number in 0..50 {
        clients.push(servers.client(number, [127, 0, 0, 1]).await);
    }
    let (mut answered, mut first, mut number) = (0, None, 0);
    let deadline = Instant::now() + MINUTE * 3;
    loop {
        let asked = clients.iter_mut().enumerate().map(|(at, client)| {
            let question = question(number + at);
            async move { client.ask(&question).await.unwrap() }
        });
        let answers = join_all(asked).await;
        number += answers.len();
        let good = answers.iter().filter(|told| told.status == 200).count();
        first.get_or_insert(good);
        answered += good;
        let spent = answers.iter().filter(|told| told.body.contains("insufficient_quota")).count();
        if spent == answers.len() {
            break;
        }
        assert!(Instant::now() < deadline, "{answered} answered, and it is not spent");
    }
    let mut figures = Figures::of("S15");
    figures.exactly("of the 50 first requests at once", first.unwrap(), BUDGET / WORST);
    let spent = answered * COST;
    figures.tell("spent, billionths of a USD", spent, "at most 1000000000", spent <= BUDGET);
    figures.tell(
        "left where nobody is admitted",
        BUDGET - spent.min(BUDGET),
        "less than one request's worst case",
        BUDGET < spent + WORST,
    );
}
