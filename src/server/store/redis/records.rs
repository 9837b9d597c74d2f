//! Which reservations Redis has to know. In: when this server asks Redis something about one, and when it has heard the
//! answer. Out: the key with the record of each, and those keys that nobody needs any more.
//!
//! A script that was given up still runs when a frozen Redis thaws, so Redis notes each id that it has done something for.
//! The ids of a minute are the fields of one hash, which is dropped whole: soon, when the answers of all its scripts were
//! heard and all its reservations are settled, since nothing of it can come any more; else when everything in it is
//! forgotten by [`Reserve::forgotten`] too. Only the server that made an id ever names it, so each has its own.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::server::store::{Reserve, Settle};

/// Ids of so much time are in one hash.
const MINUTE: Duration = Duration::from_mins(1);
/// A hash whose minute ended this long ago may be dropped.
const QUIET: Duration = Duration::from_mins(1);

/// What this server has to remember of its records.
pub(super) struct Records {
    server: u64,
    started: Instant,
    minutes: Mutex<BTreeMap<u64, Minute>>,
}

/// The ids of a minute.
#[derive(Default)]
struct Minute {
    /// Scripts whose answer was not heard, and reservations that are not settled.
    open: u64,
    /// The longest life of a reservation in it.
    life: Duration,
}

impl Default for Records {
    fn default() -> Self {
        Self { server: rand::random(), started: Instant::now(), minutes: Mutex::default() }
    }
}

impl Records {
    /// What follows `rr2:` in the key with the record of this reservation.
    pub(super) fn name(&self, reserve: &Reserve) -> String {
        self.name_of(self.minute(reserve))
    }

    /// Redis is asked about this reservation.
    pub(super) fn asked(&self, reserve: &Reserve) {
        let mut minutes = self.minutes();
        let minute = minutes.entry(self.minute(reserve)).or_default();
        minute.open += 1;
        minute.life = minute.life.max(reserve.life);
    }

    /// Its answer was heard, and this reservation is settled by it or there is nothing to settle.
    pub(super) fn ended(&self, reserve: &Reserve) {
        self.heard(reserve, 1);
    }

    /// The answer to a settlement was heard. One whose admission was heard has nothing left that could come.
    pub(super) fn settled(&self, settle: &Settle) {
        self.heard(&settle.reserve, 1 + u64::from(settle.heard()));
    }

    fn heard(&self, reserve: &Reserve, ends: u64) {
        if let Some(minute) = self.minutes().get_mut(&self.minute(reserve)) {
            minute.open = minute.open.saturating_sub(ends);
        }
    }

    /// What follows `rr2:` in the keys that are not needed any more. Each is told once.
    pub(super) fn over(&self) -> Vec<String> {
        let passed = self.started.elapsed();
        let mut over = Vec::new();
        self.minutes().retain(|number, minute| {
            let ended = MINUTE * u32::try_from(number + 1).unwrap_or(u32::MAX);
            let quiet = passed.saturating_sub(ended);
            let keep = quiet < QUIET || (minute.open > 0 && quiet < minute.life * 2 + QUIET);
            if !keep {
                over.push(self.name_of(*number));
            }
            keep
        });
        over
    }

    fn name_of(&self, minute: u64) -> String {
        format!("{:016x}:{minute}", self.server)
    }

    /// The minute that a reservation was named in: the same each time.
    pub(super) fn minute(&self, reserve: &Reserve) -> u64 {
        reserve.since.saturating_duration_since(self.started).as_secs() / MINUTE.as_secs()
    }

    fn minutes(&self) -> MutexGuard<'_, BTreeMap<u64, Minute>> {
        // Nothing panics while it holds the lock, and the counts would be whole if it did.
        self.minutes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::pricing::NanoUsd;
    use crate::server::store::{CallerKey, ReservationId};

    const LIFE: Duration = Duration::from_mins(11);

    fn reserve() -> Reserve {
        Reserve {
            id: ReservationId(rand::random()),
            since: Instant::now(),
            caller: CallerKey("a".into()),
            requests: None,
            tokens: None,
            concurrent: Some(1),
            budget: None,
            life: LIFE,
            enforce: true,
        }
    }

    fn settle(reserve: &Reserve, requests: u32) -> Settle {
        Settle { reserve: reserve.clone(), reserved: true, requests, tokens: 0, cost: NanoUsd(0) }
    }

    /// As if all this had happened so long ago.
    fn later(mut records: Records, by: Duration) -> Records {
        records.started -= by;
        let minutes = by.as_secs() / 60;
        let moved = std::mem::take(&mut *records.minutes());
        // What was asked about just now is still of its old minute.
        *records.minutes() = moved;
        assert!(minutes > 0);
        records
    }

    #[test]
    fn a_minute_is_dropped_once_all_its_answers_were_heard_and_all_is_settled() {
        let records = Records::default();
        let (kept, refused) = (reserve(), reserve());
        for asked in [&kept, &refused] {
            records.asked(asked);
        }
        records.ended(&refused);
        let name = records.name(&kept);
        assert_eq!(records.over(), [""; 0]);
        let records = later(records, QUIET * 3);
        assert_eq!(records.over(), [""; 0], "one is not settled");
        let records = Records { started: records.started + QUIET * 3, ..records };
        records.asked(&kept);
        records.settled(&settle(&kept, 1));
        let records = later(records, QUIET * 3);
        assert_eq!(records.over(), [name]);
        assert_eq!(records.over(), [""; 0], "told once");
    }

    #[test]
    fn a_minute_with_an_answer_that_was_not_heard_is_kept_until_it_is_forgotten() {
        let records = Records::default();
        let unheard = reserve();
        records.asked(&unheard);
        records.asked(&unheard);
        // Its admission may yet run.
        records.settled(&settle(&unheard, 0));
        let name = records.name(&unheard);
        let records = later(records, LIFE * 2);
        assert_eq!(records.over(), [""; 0]);
        let records = later(records, QUIET * 3);
        assert_eq!(records.over(), [name]);
    }
}
