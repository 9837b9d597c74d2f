//! Ten times as many requests as can be answered, whether or not earlier ones were: an open loop.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chatservice::server::overload::LoadOptions;
use tokio::task::JoinSet;

use crate::figures::{Figures, percentile};
use crate::load::{Client, Told, question};
use crate::mock_openai::{End, MockOpenAi, Script, plain_answer};
use crate::server::{TestServer, openai};

const PERMITS: usize = 64;
/// What the backend takes for an answer: with the permits it sets the peak.
const SLEEP: Duration = Duration::from_millis(200);
const PHASE: Duration = Duration::from_secs(10);
/// A refusal that waited in the queue first is no immediate one.
const IMMEDIATE: Duration = Duration::from_millis(500);
const FROM: [u8; 4] = [127, 0, 0, 1];

/// An answer that begins after [`SLEEP`].
fn slow() -> Script {
    let body = plain_answer(3, true);
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    Script::After(SLEEP, Box::new(Script::Raw([head.as_bytes(), body.as_bytes()].concat(), End::Clean)))
}

fn answered(told: &[Told]) -> usize {
    told.iter().filter(|told| told.status == 200).count()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make chaos"]
async fn s12_ten_times_too_many_leave_goodput_and_refusals_as_they_are() {
    let mock = MockOpenAi::start().await;
    mock.always(slow());
    let load = LoadOptions { permits: PERMITS, wait: Duration::from_secs(1), ..LoadOptions::default() };
    let server = TestServer::start_as(openai(&mock.base_url()), |options| options.load = load).await;

    // The peak: as many clients as permits, each asking again when it is answered.
    let mut clients = JoinSet::new();
    let until = Instant::now() + PHASE;
    for number in 0..PERMITS {
        let mut client = Client::connect(&server.url, FROM).await.unwrap();
        clients.spawn(async move {
            let mut told = Vec::new();
            while Instant::now() < until {
                told.push(client.ask(&question(number)).await.unwrap());
            }
            told
        });
    }
    let peak = answered(&clients.join_all().await.concat());

    // Ten times that, evenly, by whichever connection is free.
    let free = Arc::new(Mutex::new(Vec::new()));
    let mut asking = JoinSet::new();
    let (begin, mut sent) = (Instant::now(), 0);
    while begin.elapsed() < PHASE {
        let due = begin.elapsed().as_micros() * u128::try_from(peak * 10).unwrap() / PHASE.as_micros();
        while sent < due {
            sent += 1;
            let client = free.lock().unwrap().pop();
            let (free, url) = (free.clone(), server.url.clone());
            asking.spawn(async move {
                let mut client = match client {
                    Some(client) => client,
                    None => Client::connect(&url, FROM).await.unwrap(),
                };
                let told = client.ask(&question(7)).await.unwrap();
                free.lock().unwrap().push(client);
                told
            });
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let ended = Instant::now();
    let told = asking.join_all().await;
    let goodput = answered(&told);
    let mut refused: Vec<_> = told
        .iter()
        .filter(|told| told.status == 503 && told.took < IMMEDIATE)
        .map(|told| told.took)
        .collect();

    // Recovery: until one client that asks again and again is answered twenty times in a row.
    let mut client = Client::connect(&server.url, FROM).await.unwrap();
    let mut row = 0;
    let mut recovered = ended;
    while row < 20 {
        let answer = client.ask(&question(8)).await.unwrap();
        row = if answer.status == 200 { row + 1 } else { 0 };
        if row == 1 {
            recovered = answer.asked;
        }
        assert!(ended.elapsed() < Duration::from_mins(1), "it does not recover");
    }

    let mut figures = Figures::of("S12");
    let part = f64::from(u32::try_from(goodput).unwrap()) / f64::from(u32::try_from(peak).unwrap());
    println!("S12: {peak} answered in 10 s at the peak, {goodput} of {} at ten times that", told.len());
    figures.tell("goodput", format!("{:.1} % of the peak", part * 100.0), "at least 95 %", part >= 0.95);
    let refusals = percentile(&mut refused, 0.99);
    figures.at_most("p99 of immediate refusals", refusals, Duration::from_millis(10));
    figures.at_most(
        "until all are answered again",
        recovered.saturating_duration_since(ended),
        Duration::from_secs(5),
    );
}
