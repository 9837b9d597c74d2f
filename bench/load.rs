//! Closed-loop load by wrk. In: a URL, a script that makes the requests, a time. Out: what wrk measured.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::subjects::CALLERS;

/// Connections that each send one request after the other.
pub const CONNECTIONS: u32 = 64;

/// One run.
pub struct Load {
    /// Where the requests go.
    pub url: String,
    /// The wrk script.
    pub script: PathBuf,
    /// How long.
    pub time: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    /// Answers.
    pub requests: f64,
    /// Answers a second.
    pub requests_per_second: f64,
    /// Latencies in ms.
    pub p50_ms: f64,
    /// As the last.
    pub p99_ms: f64,
    /// Answers with another status than 2xx or 3xx, and broken connections.
    pub failed: f64,
    /// CPU of the subject for a request.
    pub cpu_micros_per_request: f64,
    /// CPU of the Redis that it asks, for a request.
    pub redis_micros_per_request: f64,
    /// Memory of the subject after it.
    pub rss_bytes: u64,
}

impl Load {
    /// Runs it to its end.
    pub fn run(&self) -> Measured {
        let output = Command::new("wrk")
            .args([
                "-t1",
                &format!("-c{CONNECTIONS}"),
                &format!("-d{}s", self.time.as_secs()),
                "--timeout",
                "10s",
            ])
            .arg("-s")
            .arg(&self.script)
            .arg(&self.url)
            .output()
            .expect("wrk");
        let text = String::from_utf8_lossy(&output.stdout);
        // The scripts' `done` prints one line of numbers.
        let line = text.lines().find_map(|line| line.strip_prefix("measured "));
        let line = line.unwrap_or_else(|| panic!("wrk: {text}{}", String::from_utf8_lossy(&output.stderr)));
        let numbers: Vec<f64> = line.split(' ').map(|number| number.parse().expect("a number")).collect();
        let [requests, micros, p50, p99, failed] = numbers[..] else { panic!("wrk: {line}") };
        Measured {
            requests,
            requests_per_second: requests / micros * 1e6,
            p50_ms: p50 / 1e3,
            p99_ms: p99 / 1e3,
            failed,
            ..Measured::default()
        }
    }
}

/// The wrk script that posts chat completions, of one caller after the other: all different, or all the same.
pub fn script(different: bool) -> String {
    let number = if different { "counter" } else { "0" };
    let header = |(_, key): &(&str, &str)| {
        format!(r#"{{["Content-Type"] = "application/json", ["Authorization"] = "Bearer {key}"}}"#)
    };
    let headers = CALLERS.iter().map(header).collect::<Vec<_>>().join(", ");
    format!(
        r#"counter = math.floor(os.time()) * 1000000
local head = '{{"model":"gpt-4o-mini","max_tokens":64,"messages":[{{"role":"system","content":"You are a helpful assistant that answers briefly."}},{{"role":"user","content":"Question '
local tail = ': how many days does a leap year have, and why is it so?"}}]}}'
local callers = {{{headers}}}
wrk.method = "POST"
request = function()
  counter = counter + 1
  return wrk.format(nil, nil, callers[counter % #callers + 1], head .. string.format("%d", {number}) .. tail)
end
done = function(summary, latency)
  local e = summary.errors
  print(string.format("measured %d %d %d %d %d", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), e.status + e.connect + e.read + e.write + e.timeout))
end
"#
    )
}
