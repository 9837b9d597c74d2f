//! The budget. In: what was spent and reserved, the day, and the most that a request can cost. Out: whether it may go on,
//! and how the account stands. Pure: stores hold the state and own the clock (`store/limits.lua` is the same rule inside
//! Redis).

use jiff::civil::{Date, date};
use jiff::{Span, ToSpan, Unit};

use crate::crd::BudgetPeriod;
use crate::server::pricing::NanoUsd;
use crate::server::store::{BudgetState, Refused};

const EPOCH: Date = date(1970, 1, 1);

/// The first day of the period that a day is in, both in days since 1970 in UTC.
#[must_use]
pub fn period_start(period: BudgetPeriod, day: i64) -> i64 {
    let Ok(date) = Span::new().try_days(day).and_then(|days| EPOCH.checked_add(days)) else { return day };
    match period {
        BudgetPeriod::Day => day,
        BudgetPeriod::Week => day - i64::from(date.weekday().to_monday_zero_offset()),
        BudgetPeriod::Month => day + 1 - i64::from(date.day()),
    }
}

/// The first day after the period that begins on this day.
#[must_use]
pub fn period_end(period: BudgetPeriod, start: i64) -> i64 {
    match period {
        BudgetPeriod::Day => start + 1,
        BudgetPeriod::Week => start + 7,
        BudgetPeriod::Month => {
            let first = Span::new().try_days(start).and_then(|days| EPOCH.checked_add(days));
            let next = first.and_then(|first| first.checked_add(1.month()));
            let days = next.and_then(|next| EPOCH.until((Unit::Day, next)));
            days.map_or(start + 31, |days| i64::from(days.get_days()))
        }
    }
}

/// What was spent and reserved in a period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// First day of the period.
    pub start: i64,
    /// Billionths of a USD that are spent.
    pub spent: u64,
    /// And those that requests under way may yet spend.
    pub reserved: u64,
}

impl Account {
    /// The account of the period that this day is in: a new one where the stored one is of an earlier period. One of the
    /// next period, from before the clock stepped back, is gone on with; one of a later period cannot be.
    #[must_use]
    pub fn of(stored: Option<Self>, period: BudgetPeriod, day: i64) -> Self {
        let start = period_start(period, day);
        match stored {
            Some(stored) if stored.start < start => Self { start, ..Self::default() },
            Some(stored) if stored.start <= period_end(period, start) => stored,
            Some(stored) => Self { start, ..stored },
            None => Self { start, ..Self::default() },
        }
    }

    /// Whether a request that can cost `worst` is over the amount.
    #[must_use]
    pub fn refuses(&self, worst: NanoUsd, amount: u64) -> Option<Refused> {
        let spent = self.spent.saturating_add(worst.0);
        if spent > amount {
            Some(Refused::Budget)
        } else if spent.saturating_add(self.reserved) > amount {
            Some(Refused::BudgetReserved)
        } else {
            None
        }
    }

    /// After money was reserved.
    #[must_use]
    pub fn reserved(self, worst: u64) -> Self {
        Self { reserved: capped(self.reserved.saturating_add(worst)), ..self }
    }

    /// After money was spent, `reserved` of which is no longer reserved.
    #[must_use]
    pub fn spent(self, reserved: u64, spent: u64) -> Self {
        let spent = capped(self.spent.saturating_add(spent));
        Self { spent, reserved: self.reserved.saturating_sub(reserved), ..self }
    }

    /// After a reservation that had expired, and so counts as spent, came to a cost all the same.
    #[must_use]
    pub fn corrected(self, worst: u64, cost: u64) -> Self {
        Self { spent: capped(self.spent.saturating_add(cost).saturating_sub(worst)), ..self }
    }

    /// What is told of it.
    #[must_use]
    pub fn state(&self) -> BudgetState {
        BudgetState { spent: NanoUsd(self.spent), reserved: NanoUsd(self.reserved) }
    }
}

/// Up to where numbers are exact everywhere.
fn capped(amount: u64) -> u64 {
    amount.min(NanoUsd::MAX.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(year: i16, month: i8, day: i8) -> i64 {
        i64::from(EPOCH.until((Unit::Day, date(year, month, day))).unwrap().get_days())
    }

    #[test]
    fn periods_are_of_the_calendar_and_weeks_begin_on_monday() {
        use BudgetPeriod::{Day, Month, Week};
        for (period, today, start, end) in [
            (Day, day(2026, 11, 23), day(2026, 11, 23), day(2026, 11, 24)),
            (Week, day(2026, 11, 23), day(2026, 11, 23), day(2026, 11, 30)),
            (Week, day(2026, 11, 22), day(2026, 11, 16), day(2026, 11, 23)),
            (Week, day(2027, 1, 1), day(2026, 12, 28), day(2027, 1, 4)),
            (Month, day(2026, 11, 1), day(2026, 11, 1), day(2026, 12, 1)),
            (Month, day(2026, 12, 31), day(2026, 12, 1), day(2027, 1, 1)),
            (Month, day(2028, 2, 29), day(2028, 2, 1), day(2028, 3, 1)),
            (Month, day(2027, 2, 28), day(2027, 2, 1), day(2027, 3, 1)),
            (Month, day(2100, 2, 28), day(2100, 2, 1), day(2100, 3, 1)),
        ] {
            assert_eq!(period_start(period, today), start, "{period:?} of {today}");
            assert_eq!(period_end(period, start), end, "{period:?} of {today}");
        }
        for absurd in [i64::MIN, i64::MAX] {
            assert_eq!(period_start(Month, absurd), absurd);
        }
    }

    #[test]
    fn only_what_is_spent_exhausts_a_budget() {
        let account = |spent, reserved| Account { start: 0, spent, reserved };
        for (account, worst, refused) in [
            (account(0, 0), 100, None),
            (account(0, 0), 101, Some(Refused::Budget)),
            (account(60, 30), 10, None),
            (account(60, 30), 11, Some(Refused::BudgetReserved)),
            (account(60, 30), 41, Some(Refused::Budget)),
            (account(u64::MAX, u64::MAX), u64::MAX, Some(Refused::Budget)),
        ] {
            assert_eq!(account.refuses(NanoUsd(worst), 100), refused, "{account:?} and {worst}");
        }
    }

    #[test]
    fn a_new_period_begins_with_nothing_and_a_step_back_ends_none() {
        let today = day(2026, 11, 23);
        let stored = |start| Some(Account { start, spent: 5, reserved: 3 });
        let of = |start| Account::of(stored(start), BudgetPeriod::Month, today);
        let month = day(2026, 11, 1);
        assert_eq!(of(day(2026, 10, 1)), Account { start: month, spent: 0, reserved: 0 });
        assert_eq!(of(month), stored(month).unwrap());
        assert_eq!(of(day(2026, 12, 1)), stored(day(2026, 12, 1)).unwrap());
        assert_eq!(of(day(2030, 1, 1)), Account { start: month, spent: 5, reserved: 3 });
    }
}
