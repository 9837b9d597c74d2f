//! A backend that fails every call for a while, and then none.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::figures::Figures;
use crate::load::question;
use crate::mock_openai::{MockOpenAi, Script};
use crate::redis_server::RedisServer;
use crate::servers::Servers;

const CLIENTS: usize = 20;
const FAILING: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make chaos"]
async fn s7_a_backend_that_fails_is_spared_and_used_again_soon_after_it_is_well() {
    let Some(redis) = RedisServer::start().await else { return };
    for (name, script) in [
        ("503", Script::Status(503, vec![], String::new())),
        ("500", Script::Status(500, vec![], String::new())),
        ("429", Script::Status(429, vec![("retry-after", "1".to_owned())], String::new())),
    ] {
        let mock = MockOpenAi::fast(3).await;
        let servers = Servers::start(1, &redis.url(), &mock.base_url(), "  model: gpt-4o-mini\n").await;
        mock.always(script);
        let begin = Instant::now();
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let mut client = servers.client(0, [127, 0, 0, 1]).await;
            clients.spawn(async move {
                let mut told = Vec::new();
                while begin.elapsed() < FAILING * 2 {
                    told.push(client.ask(&question(number)).await.unwrap());
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                told
            });
        }
        tokio::time::sleep_until((begin + FAILING).into()).await;
        let calls = mock.count();
        mock.always(Script::Words(3));
        let well = Instant::now();
        let told = clients.join_all().await.concat();
        let asked = told.iter().filter(|told| told.asked < well).count();
        let last_failed =
            told.iter().filter(|told| told.status != 200).map(|told| told.asked + told.took).max();
        let mut figures = Figures::of("S7");
        let calls = f64::from(u32::try_from(calls).unwrap()) / f64::from(u32::try_from(asked).unwrap());
        figures.tell(
            &format!("calls a request, all answered {name}"),
            format!("{calls:.2}"),
            "at most 1.2",
            calls <= 1.2,
        );
        let until = last_failed.unwrap().saturating_duration_since(well);
        figures.at_most("from when it is well to the last failure", until, Duration::from_secs(5));
    }
}
