//! The figures. In: what each round measured. Out: medians and their ratios to nginx, as a Markdown table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::load::{CONNECTIONS, Measured};

/// What was measured so far.
pub struct Table {
    idle: Vec<(String, u64)>,
    order: Vec<String>,
    rounds: BTreeMap<String, Vec<Measured>>,
}

impl Table {
    /// With the memory of each server before any request.
    pub fn new(idle: Vec<(String, u64)>) -> Self {
        Self { idle, order: Vec::new(), rounds: BTreeMap::new() }
    }

    /// Takes one round of one subject.
    pub fn add(&mut self, subject: &str, measured: Measured) {
        if !self.rounds.contains_key(subject) {
            self.order.push(subject.to_owned());
        }
        self.rounds.entry(subject.to_owned()).or_default().push(measured);
    }

    /// The table. A ratio is that of the same round; `base` is the subject that all are compared with.
    pub fn markdown(&self, base: &str, rounds: u64, time: Duration) -> String {
        let mut text = format!(
            "{CONNECTIONS} connections, medians of {rounds} rounds of {} s each\n\n\
             | subject | × {base} | requests/s | p50 ms | p99 ms | CPU µs/request | of Redis | RSS MiB | idle RSS MiB |\n\
             |---|---|---|---|---|---|---|---|---|\n",
            time.as_secs()
        );
        let base = &self.rounds[base];
        for name in &self.order {
            let rounds = &self.rounds[name];
            let of = |value: fn(&Measured) -> f64| median(rounds.iter().map(value).collect());
            let ratios =
                rounds.iter().zip(base).map(|(own, base)| own.requests_per_second / base.requests_per_second);
            let idle = self.idle.iter().find(|(subject, _)| subject == name);
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "| {name} | {:.2} | {:.0} | {:.2} | {:.2} | {:.0} | {:.0} | {:.1} | {} |",
                median(ratios.collect()),
                of(|m| m.requests_per_second),
                of(|m| m.p50_ms),
                of(|m| m.p99_ms),
                of(|m| m.cpu_micros_per_request),
                of(|m| m.redis_micros_per_request),
                of(|m| mib(m.rss_bytes)),
                idle.map_or_else(|| "–".to_owned(), |(_, bytes)| format!("{:.1}", mib(*bytes))),
            );
        }
        text
    }
}

/// Bytes as MiB.
pub fn mib(bytes: u64) -> f64 {
    kib(bytes) / 1024.0
}

/// Bytes as KiB.
pub fn kib(bytes: u64) -> f64 {
    // Whole KiB are what `/proc` tells.
    f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
