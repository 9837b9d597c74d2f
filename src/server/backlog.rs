//! What the store could not be told. In: settlements of requests that ended while it was away. Out: the same, once it is
//! back, in bounded memory.
//!
//! Each is kept with its id, so that what the store heard of after all counts once. Beyond [`MOST`] the oldest are added
//! up by caller: those have a new id, which is safe for what the store was never asked about. What it may have heard of,
//! the few of the moment when it went away, has room of its own; beyond that it is left out and counted: the store takes a
//! reservation that nobody settles for spent.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::pricing::NanoUsd;
use super::store::{CallerKey, ReservationId, Settle};

/// Settlements kept one by one: about a megabyte.
const MOST: usize = 4096;
/// Callers whose older ones are added up.
const CALLERS: usize = 4096;

/// Whose limits and whose budget.
type Whose = (CallerKey, Option<CallerKey>);

/// A settlement that is owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// What the store is to be told.
    pub settle: Settle,
    /// Whether it may have heard of it, so that only the id tells that it is the same.
    pub by_id: bool,
}

/// Settlements that are owed.
#[derive(Debug, Default)]
pub struct Backlog {
    single: VecDeque<Owed>,
    /// Older ones that only their ids tell.
    by_id: VecDeque<Owed>,
    added: HashMap<Whose, Settle>,
}

impl Backlog {
    /// Keeps what is owed. Out: how many were left out for want of room.
    #[must_use]
    pub fn push(&mut self, owed: impl IntoIterator<Item = Owed>) -> u64 {
        self.single.extend(owed);
        let mut lost = 0;
        while self.single.len() > MOST {
            lost += self.single.pop_front().map_or(0, |oldest| u64::from(!self.make_room(oldest)));
        }
        lost
    }

    /// The next that are to be told, oldest first.
    pub fn take(&mut self, most: usize) -> Vec<Settle> {
        let added: Vec<_> = self.added.keys().take(most).cloned().collect();
        let mut taken: Vec<_> = added.iter().filter_map(|whose| self.added.remove(whose)).collect();
        for queue in [&mut self.by_id, &mut self.single] {
            let fitting = most.saturating_sub(taken.len()).min(queue.len());
            taken.extend(queue.drain(..fitting).map(|owed| owed.settle));
        }
        taken
    }

    /// Puts back what was taken and perhaps told, with the ids that it was told with.
    #[must_use]
    pub fn put_back(&mut self, taken: Vec<Settle>) -> u64 {
        for settle in taken.into_iter().rev() {
            self.single.push_front(Owed { settle, by_id: true });
        }
        self.push([])
    }

    /// How many are owed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.single.len() + self.by_id.len() + self.added.len()
    }

    /// Whether nothing is owed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn make_room(&mut self, oldest: Owed) -> bool {
        if !oldest.by_id {
            return self.add(oldest.settle);
        }
        let fits = self.by_id.len() < MOST;
        if fits {
            self.by_id.push_back(oldest);
        }
        fits
    }

    fn add(&mut self, mut settle: Settle) -> bool {
        // A limit that it does not take of is not charged, but may be named by what it is added to.
        settle.requests = settle.reserve.requests.map_or(0, |_| settle.requests);
        settle.tokens = settle.reserve.tokens.map_or(0, |_| settle.tokens);
        let budget = settle.reserve.budget.as_ref().map(|demand| demand.caller.clone());
        let whose = (settle.reserve.caller.clone(), budget);
        let full = self.added.len() >= CALLERS;
        match self.added.get_mut(&whose) {
            Some(sum) => {
                sum.requests = sum.requests.saturating_add(settle.requests);
                sum.tokens = sum.tokens.saturating_add(settle.tokens);
                sum.cost = NanoUsd(sum.cost.0.saturating_add(settle.cost.0).min(NanoUsd::MAX.0));
                sum.reserve.requests = sum.reserve.requests.or(settle.reserve.requests);
                sum.reserve.tokens = sum.reserve.tokens.or(settle.reserve.tokens);
                true
            }
            None if full => false,
            None => {
                let mut sum = settle;
                sum.reserve.id = ReservationId(rand::random());
                sum.reserve.since = Instant::now();
                self.added.insert(whose, sum);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;
    use crate::server::config::RequestLimit;
    use crate::server::store::{Reserve, TokenDemand};

    fn owed(caller: usize, by_id: bool) -> Owed {
        let reserve = Reserve {
            id: ReservationId(rand::random()),
            since: Instant::now(),
            caller: CallerKey(caller.to_string().into()),
            requests: Some(RequestLimit { requests: 60, period_seconds: 60, burst: 10 }),
            tokens: Some(TokenDemand { per_minute: 1000, tokens: 3 }),
            concurrent: None,
            budget: None,
            life: Duration::from_mins(1),
            enforce: true,
        };
        let settle = Settle { reserve, reserved: false, requests: 1, tokens: 3, cost: NanoUsd(5) };
        Owed { settle, by_id }
    }

    #[test]
    fn what_fits_comes_back_in_order_with_its_id_also_when_it_was_put_back() {
        let mut backlog = Backlog::default();
        let all: Vec<_> = (0..300).map(|caller| owed(caller, caller % 2 == 0)).collect();
        assert_eq!(backlog.push(all.clone()), 0);
        let all: Vec<_> = all.into_iter().map(|owed| owed.settle).collect();
        let taken = backlog.take(256);
        assert_eq!(taken, all[..256]);
        assert_eq!(backlog.put_back(taken), 0);
        assert_eq!((backlog.take(1000), backlog.is_empty()), (all, true));
    }

    #[test]
    fn beyond_its_room_the_oldest_are_added_up_and_nothing_is_lost() {
        let mut backlog = Backlog::default();
        let many = MOST * 5;
        for number in 0..many {
            assert_eq!(backlog.push([owed(number % 7, false)]), 0);
        }
        assert_eq!(backlog.len(), MOST + 7);
        let (mut ids, mut sum) = (HashSet::new(), (0, 0, 0));
        while !backlog.is_empty() {
            for settle in backlog.take(100) {
                assert!(ids.insert(settle.reserve.id), "an id twice");
                sum = (sum.0 + settle.requests as usize, sum.1 + settle.tokens, sum.2 + settle.cost.0);
            }
        }
        assert_eq!(sum, (many, many as u64 * 3, many as u64 * 5));
    }

    #[test]
    fn s1_what_the_store_may_have_heard_of_as_it_went_away_outlasts_any_number_of_others() {
        let mut backlog = Backlog::default();
        let first: Vec<_> = (0..50).map(|caller| owed(caller, true)).collect();
        assert_eq!(backlog.push(first.clone()), 0);
        for _ in 0..MOST * 3 {
            assert_eq!(backlog.push([owed(7, false)]), 0);
        }
        assert_eq!(backlog.len(), 1 + 50 + MOST);
        let taken = backlog.take(51);
        assert_eq!(taken[1..], first.into_iter().map(|owed| owed.settle).collect::<Vec<_>>()[..]);
    }

    #[test]
    fn what_is_added_up_is_charged_to_the_limits_that_each_of_them_takes_of() {
        let (request, tokens, both) = ((true, false), (false, true), (true, true));
        for (first, second, expected) in [
            (request, tokens, (1, 3)),
            (tokens, request, (1, 3)),
            (request, both, (2, 3)),
            (tokens, both, (1, 6)),
        ] {
            let mut backlog = Backlog::default();
            for (request, tokens) in [first, second] {
                let mut owed = owed(0, false);
                owed.settle.reserve.requests.take_if(|_| !request);
                owed.settle.reserve.tokens.take_if(|_| !tokens);
                assert_eq!(backlog.push([owed]), 0);
            }
            assert_eq!(backlog.push((0..MOST).map(|_| owed(1, true))), 0);
            let sum = backlog.take(1).remove(0);
            assert_eq!((sum.requests, sum.tokens), expected, "{first:?} {second:?}");
            let whole = owed(0, false).settle.reserve;
            assert_eq!((sum.reserve.requests, sum.reserve.tokens), (whole.requests, whole.tokens));
        }
    }

    #[test]
    fn what_the_store_may_know_and_what_has_no_room_is_left_out_and_counted() {
        let mut backlog = Backlog::default();
        assert_eq!(backlog.push((0..2 * MOST + 10).map(|_| owed(0, true))), 10);
        let callers = (0..MOST + CALLERS + 5).map(|caller| owed(caller, false));
        assert_eq!(backlog.push(callers), MOST as u64 + 5);
        assert_eq!(backlog.len(), 2 * MOST + CALLERS);
    }
}
