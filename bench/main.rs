//! The benchmark harness, `make bench`. In: the release binary, and nginx, wrk and redis-server from Debian. Out: a table
//! of ratios: every subject runs in every round, beside nginx as a plain reverse proxy on the same cores, and the median
//! of the rounds counts. A time alone says more of the machine than of the program.
//!
//! Every subject has the same load, mock upstream, bodies and cores; both keep their connections to the upstream. nginx has a
//! worker and the chat server a thread for each core. `BENCH_ONLY` (a part of a name) leaves all other chat servers' rows out.
//! Everything talks over loopback. `BENCH_ROUNDS` (5) and `BENCH_SECONDS` (5, for each subject in each round) change how
//! long it takes.

#![expect(
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::panic,
    clippy::print_stdout,
    reason = "a harness that cannot measure says why and ends"
)]

mod load;
mod process;
mod report;
mod streams;
mod subjects;
mod upstream;

use std::process::ExitCode;
use std::time::Duration;

use load::{Load, Measured};
use report::Table;
use subjects::{Bench, Subject};

/// The variable that makes a process of this program the mock upstream.
const ROLE: &str = "BENCH_ROLE";

fn main() -> ExitCode {
    // `cargo test --all-targets` runs benches too, with this argument: they measure nothing there.
    if std::env::args().any(|argument| argument == "--test") {
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    if std::env::var(ROLE).as_deref() == Ok(upstream::ROLE) {
        runtime.block_on(upstream::serve());
        return ExitCode::FAILURE;
    }
    if let Some(missing) = subjects::missing_program() {
        println!("bench: {missing} is not installed: apt-get install nginx-light wrk redis-server");
        return ExitCode::FAILURE;
    }
    runtime.block_on(run());
    ExitCode::SUCCESS
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

async fn run() {
    let rounds = number("BENCH_ROUNDS", 5);
    let seconds = Duration::from_secs(number("BENCH_SECONDS", 5));
    let bench = Bench::start();
    // What a server does at its start is over by then.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let idle: Vec<(String, u64)> =
        bench.servers().map(|subject| (subject.name.clone(), subject.process.rss_bytes())).collect();
    println!("idle, as in a pod: {:.1} MiB", report::mib(bench.idle().rss_bytes()));
    let mut table = Table::new(idle);
    for round in 1..=rounds {
        for subject in bench.subjects().iter().filter(|subject| wanted(subject, bench.nginx())) {
            let measured = measure(subject, seconds);
            println!("round {round}: {:<24} {:>8.0} requests/s", subject.name, measured.requests_per_second);
            table.add(&subject.name, measured);
        }
    }
    println!("\n{}", table.markdown(&bench.nginx().name, rounds, seconds));
    if only().is_none() {
        let streams = streams::measure(bench.streamer(), bench.upstream(), seconds * 2).await;
        println!("{}", streams.markdown());
    }
}

fn only() -> Option<String> {
    std::env::var("BENCH_ONLY").ok()
}

/// nginx, and what is asked for.
fn wanted(subject: &Subject, base: &Subject) -> bool {
    subject.name == base.name || only().is_none_or(|only| subject.name.contains(&only))
}

fn measure(subject: &Subject, time: Duration) -> Measured {
    let time = time.min(subject.at_most);
    let load = Load { url: subject.url.clone(), script: subject.script.clone(), time };
    let redis = || subject.redis.as_ref().map(|redis| redis.cpu()).unwrap_or_default();
    let before = (subject.process.cpu(), redis());
    let mut measured = load.run();
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / measured.requests.max(1.0);
    let own = each(subject.process.cpu().saturating_sub(before.0));
    let redis = each(redis().saturating_sub(before.1));
    (measured.cpu_micros_per_request, measured.redis_micros_per_request) = (own, redis);
    measured.rss_bytes = subject.process.rss_bytes();
    assert!(
        measured.failed == 0.0,
        "{}: {} answers were not 200, so the figures mean nothing",
        subject.name,
        measured.failed
    );
    measured
}
