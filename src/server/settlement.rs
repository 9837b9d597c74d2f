//! What is settled when a request ends, however it ends. In: a value from each request's [`SettlementGuard`].
//! Out: counters of tokens and cost, and what the store is told without anybody waiting: charges, answers to keep.
//!
//! A guard is taken at admission with its place in a bounded queue, and sits in the response body. Its `Drop` sends the
//! value through that place, synchronously, so a client that leaves cannot lose it. One task empties the queue and is
//! drained before exit ([`super::settler`]).

use std::sync::Arc;
use tokio::sync::mpsc;

use super::backend::attempts::{Attempt, AttemptLog};
use super::backlog::Owed;
use super::caller::Caller;
use super::models::Model;
use super::pricing::NanoUsd;
use super::store::{Kept, Reserve, Settle};
use super::store_failure::Outage;

/// Requests that may be unsettled at once; admission refuses beyond it.
pub const QUEUE: usize = 4096;

/// Tokens of one request, as the backend reported them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
}

impl Usage {
    /// Both.
    #[must_use]
    pub fn total(self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

/// What one request used, and what it reserved for it.
#[derive(Clone, Default)]
pub struct Settlement {
    /// Who sent it.
    pub caller: Option<Arc<Caller>>,
    /// The calls to backends. None for a hit of the cache.
    pub attempts: AttemptLog,
    /// Whether a stream was asked for: then what was delivered is known.
    pub stream: bool,
    /// Tokens of the prompt, estimated.
    pub prompt_tokens: u64,
    /// Tokens of the answer that were delivered, estimated.
    pub delivered: u64,
    /// What was reserved; None where nothing is limited, for a hit, and for a request that was refused.
    pub held: Option<Held>,
    /// The request alone, where it is charged by itself: a hit, or an answer that is shared.
    pub request: Option<Held>,
    /// An answer for the store's cache.
    pub keep: Option<Kept>,
}

/// What a request reserved, and where.
#[derive(Clone)]
pub struct Held {
    /// What was asked for.
    pub reserve: Reserve,
    /// Whether the store reserved it, as far as is known.
    pub reserved: bool,
    /// Requests that are charged if it did not.
    pub requests: u32,
    /// Whether the store was asked, and may have heard so.
    pub asked: bool,
    /// The share that it is of, where the store was away.
    pub outage: Option<Arc<Outage>>,
}

impl Held {
    /// What the store is asked for, from now on: until it has answered, it may have reserved it.
    #[must_use]
    pub fn asked(reserve: Reserve) -> Self {
        Self { reserve, reserved: true, requests: 0, asked: true, outage: None }
    }

    fn settle(&self, tokens: u64, cost: NanoUsd) -> (Owed, Option<&Outage>) {
        let (reserve, reserved, requests) = (self.reserve.clone(), self.reserved, self.requests);
        let settle = Settle { reserve, reserved, requests, tokens, cost };
        (Owed { settle, by_id: self.asked }, self.outage.as_deref())
    }

    /// A request that the store is not asked about, to be charged afterwards.
    #[must_use]
    pub fn unasked(reserve: Reserve) -> Self {
        Self { reserve, reserved: false, requests: 1, asked: false, outage: None }
    }
}

/// One call that is charged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What was called.
    pub model: Arc<Model>,
    /// What it used, as far as is known.
    pub usage: Usage,
    /// Whether the backend said so.
    pub reported: bool,
    /// What it cost, where the price is known.
    pub cost: Option<NanoUsd>,
}

/// What a request is charged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bill {
    /// The calls that cost something, in order.
    pub lines: Vec<Line>,
    /// Tokens of them all.
    pub tokens: u64,
}

impl Bill {
    /// What all calls cost; None when a price is not known.
    #[must_use]
    pub fn cost(&self) -> Option<NanoUsd> {
        self.lines.iter().all(|line| line.cost.is_some()).then(|| self.known_cost())
    }

    /// The same, where a call whose price is not known costs nothing.
    fn known_cost(&self) -> NanoUsd {
        let sum = self
            .lines
            .iter()
            .filter_map(|line| line.cost)
            .fold(0, |sum: u64, cost| sum.saturating_add(cost.0));
        NanoUsd(sum).min(NanoUsd::MAX)
    }
}

impl Settlement {
    /// What is to be charged as things stand. Every call counts that was handed to a connection and not refused: as it
    /// was reported, else a stream by its prompt and what was delivered, and a plain call by all that was reserved.
    #[must_use]
    pub fn bill(&self) -> Bill {
        let attempts = self.attempts.attempts();
        let last = attempts.len().saturating_sub(1);
        let lines = attempts.iter().enumerate().filter_map(|(index, attempt)| {
            let delivered = if index == last { self.delivered } else { 0 };
            self.line(attempt, Usage { prompt_tokens: self.prompt_tokens, completion_tokens: delivered })
        });
        let mut bill = Bill::default();
        for (line, tokens) in lines {
            bill.tokens = bill.tokens.saturating_add(tokens);
            bill.lines.push(line);
        }
        bill
    }

    /// A call and the tokens that it is charged.
    fn line(&self, attempt: &Attempt, estimate: Usage) -> Option<(Line, u64)> {
        if !attempt.written || (attempt.refused && attempt.usage.is_none()) {
            return None;
        }
        let usage = attempt.usage.unwrap_or(estimate);
        let price = attempt.model.price;
        let cost = price.map(|price| price.cost(usage));
        let line = Line { model: attempt.model.clone(), usage, reported: attempt.usage.is_some(), cost };
        if line.reported || self.stream {
            return Some((line, usage.total()));
        }
        let reserve = self.held.as_ref().map(|held| &held.reserve);
        let tokens = reserve.and_then(|reserve| reserve.tokens).map_or(usage.total(), |demand| demand.tokens);
        let worst = reserve.and_then(|reserve| reserve.budget.as_ref()).map(|demand| demand.worst);
        Some((Line { cost: worst.or(cost), ..line }, tokens))
    }

    /// Where the reservation is noted, of the request alone or of all else.
    pub fn slot(&mut self, request_alone: bool) -> &mut Option<Held> {
        if request_alone { &mut self.request } else { &mut self.held }
    }

    /// What the store is told of this bill, each with the share that it is of where the store was away.
    pub fn settles(&self, bill: &Bill) -> impl Iterator<Item = (Owed, Option<&Outage>)> {
        let alone = self.request.as_ref().map(|held| held.settle(0, NanoUsd(0)));
        let all = self.held.as_ref().map(|held| held.settle(bill.tokens, bill.known_cost()));
        alone.into_iter().chain(all)
    }
}

/// Holds a request's place in the queue; settles when dropped.
pub struct SettlementGuard {
    permit: Option<mpsc::OwnedPermit<Box<Settlement>>>,
    /// Large, and handed on from one to the next until the request ends. There until it is sent.
    settlement: Option<Box<Settlement>>,
}

impl SettlementGuard {
    /// What will be settled, to be filled in as it becomes known.
    pub fn settlement(&mut self) -> &mut Settlement {
        self.settlement.get_or_insert_default()
    }
}

impl Drop for SettlementGuard {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            permit.send(self.settlement.take().unwrap_or_default());
        }
    }
}

/// Hands out places in the queue.
#[derive(Clone)]
pub struct SettlementQueue {
    sender: mpsc::Sender<Box<Settlement>>,
}

impl SettlementQueue {
    /// A guard, or None when [`QUEUE`] requests are unsettled.
    #[must_use]
    pub fn guard(&self) -> Option<SettlementGuard> {
        let permit = self.sender.clone().try_reserve_owned().ok()?;
        Some(SettlementGuard { permit: Some(permit), settlement: Some(Box::default()) })
    }
}

/// The queue, and the end of it that is emptied.
#[must_use]
pub fn queue() -> (SettlementQueue, mpsc::Receiver<Box<Settlement>>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (SettlementQueue { sender }, receiver)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::crd::{BudgetPeriod, Per};
    use crate::server::config::{BackendConfig, BudgetConfig, DynamicConfig, ModelConfig, PriceConfig};
    use crate::server::models::Models;
    use crate::server::store::{BudgetDemand, CallerKey, ReservationId, TokenDemand};

    /// `one` costs a billionth of a USD for a token, `ten` ten, of `unknown` no price is known.
    fn models() -> Models {
        let backend = BackendConfig::OpenAi { base_url: "https://x.example".to_owned(), proxy_url: None };
        let mut config = DynamicConfig::new("unknown", backend);
        config.models.extend([("one", "0.001"), ("ten", "0.01")].map(|(name, price)| ModelConfig {
            price: Some(PriceConfig {
                input_per_million_tokens: price.to_owned(),
                output_per_million_tokens: price.to_owned(),
            }),
            ..ModelConfig::named(name)
        }));
        Models::new(&config)
    }

    fn reserve() -> Reserve {
        let budget = BudgetConfig { amount_nano_usd: 1, period: BudgetPeriod::Day, per: Per::Service };
        Reserve {
            id: ReservationId(1),
            since: Instant::now(),
            caller: CallerKey("a".into()),
            requests: None,
            tokens: Some(TokenDemand { per_minute: 1, tokens: 70 }),
            concurrent: None,
            budget: Some(BudgetDemand { caller: CallerKey("*".into()), budget, worst: NanoUsd(900) }),
            life: Duration::from_mins(1),
            enforce: true,
        }
    }

    #[derive(Clone, Copy)]
    enum Call {
        NotWritten,
        Refused,
        Silent,
        Reported(u64, u64),
    }

    /// A request whose prompt is estimated at 5 tokens, of which 3 were delivered.
    fn settlement(stream: bool, calls: &[(&str, Call)]) -> Settlement {
        let models = models();
        let held = Some(Held::asked(reserve()));
        let owed = Settlement { stream, prompt_tokens: 5, delivered: 3, held, ..Settlement::default() };
        for (name, call) in calls {
            let marks = owed.attempts.begin(models.get(name).unwrap().clone());
            match *call {
                Call::NotWritten => {}
                Call::Refused => {
                    marks.written.set();
                    marks.refused.set();
                }
                Call::Silent => marks.written.set(),
                Call::Reported(prompt_tokens, completion_tokens) => {
                    marks.written.set();
                    owed.attempts.reported(Usage { prompt_tokens, completion_tokens });
                }
            }
        }
        owed
    }

    #[test]
    fn every_call_that_may_have_used_something_is_charged_and_no_other() {
        use Call::{NotWritten, Refused, Reported, Silent};
        type Case<'a> = (&'a str, bool, &'a [(&'a str, Call)], u64, Option<u64>);
        let cases: [Case<'_>; 13] = [
            ("a hit", false, &[], 0, Some(0)),
            ("nothing written", false, &[("one", NotWritten)], 0, Some(0)),
            ("refused", true, &[("one", Refused)], 0, Some(0)),
            ("reported", false, &[("one", Reported(7, 4))], 11, Some(11)),
            ("reported in a stream", true, &[("one", Reported(7, 4))], 11, Some(11)),
            ("a stream without report", true, &[("one", Silent)], 8, Some(8)),
            ("a plain call without report", false, &[("one", Silent)], 70, Some(900)),
            ("of another price", false, &[("one", Refused), ("ten", Reported(1, 1))], 2, Some(20)),
            ("refused, then silent", false, &[("one", Refused), ("ten", Silent)], 70, Some(900)),
            ("twice in a stream", true, &[("one", Silent), ("ten", Reported(1, 1))], 7, Some(25)),
            ("only the last delivered", true, &[("one", Silent), ("ten", Silent)], 13, Some(85)),
            (
                "a call not begun in earnest",
                true,
                &[("one", Reported(1, 1)), ("ten", NotWritten)],
                2,
                Some(2),
            ),
            ("of unknown price", true, &[("unknown", Reported(1, 1)), ("one", Reported(2, 2))], 6, None),
        ];
        for (case, stream, calls, tokens, cost) in cases {
            let owed = settlement(stream, calls);
            let bill = owed.bill();
            assert_eq!((bill.tokens, bill.cost().map(|cost| cost.0)), (tokens, cost), "{case}");
            let settle = owed.settles(&bill).next().unwrap().0.settle;
            assert_eq!((settle.tokens, settle.cost.0), (tokens, cost.unwrap_or(4)), "{case}");
        }
    }

    #[test]
    fn without_a_reservation_the_estimate_is_counted_and_nobody_is_told() {
        let owed = Settlement { held: None, ..settlement(false, &[("one", Call::Silent)]) };
        let bill = owed.bill();
        assert_eq!((bill.tokens, bill.cost()), (8, Some(NanoUsd(8))));
        assert_eq!(owed.settles(&bill).count(), 0);
    }

    #[test]
    fn a_dropped_guard_settles_and_gives_its_place_back() {
        let (queue, mut owed) = queue();
        let mut guards: Vec<_> = std::iter::from_fn(|| queue.guard()).collect();
        assert_eq!(guards.len(), QUEUE);
        let mut guard = guards.pop().unwrap();
        guard.settlement().delivered = 9;
        drop(guard);
        assert_eq!(owed.try_recv().unwrap().delivered, 9);
        assert!(queue.guard().is_some());
    }
}
