//! Figures. In: what was measured and what it may be. Out: a line each; the end fails when one was missed.

use std::fmt::Display;
use std::time::Duration;

/// The figures of a row.
pub struct Figures {
    row: &'static str,
    missed: Vec<String>,
}

impl Figures {
    pub fn of(row: &'static str) -> Self {
        Self { row, missed: Vec::new() }
    }

    /// A figure and whether it is as it should be.
    pub fn tell(&mut self, what: &str, measured: impl Display, asked: &str, met: bool) {
        let line = format!("{}: {what}: {measured} ({asked}){}", self.row, if met { "" } else { " MISSED" });
        println!("{line}");
        if !met {
            self.missed.push(line);
        }
    }

    /// A time that is to be at most so long.
    pub fn at_most(&mut self, what: &str, measured: Duration, most: Duration) {
        let asked = format!("at most {most:?}");
        self.tell(what, format!("{:.1} ms", measured.as_secs_f64() * 1e3), &asked, measured <= most);
    }

    /// A number that is to be this one.
    pub fn exactly(&mut self, what: &str, measured: usize, asked: usize) {
        self.tell(what, measured, &format!("exactly {asked}"), measured == asked);
    }
}

impl Drop for Figures {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.missed.is_empty(), "missed: {:#?}", self.missed);
        }
    }
}

/// The time that this part of all is within.
pub fn percentile(times: &mut [Duration], part: f64) -> Duration {
    times.sort_unstable();
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in a list of thousands"
    )]
    let place = (times.len() as f64 * part) as usize;
    times.get(place.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}
