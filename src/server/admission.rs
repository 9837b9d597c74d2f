//! Whether a request may go on. In: the configured limits, who asks, and what it may use. Out: a reservation that the
//! settlement guard owes, how the limits stand, and a cached answer if there is one, else who asks
//! for it; or the refusal.
//!
//! One trip to the store, none for a hit of the memory cache. A request that the store does not decide is decided as
//! `onStoreFailure` says.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;

use super::caller::Caller;
use super::config::{BudgetConfig, LimitsConfig};
use super::error::ApiError;
use super::estimate::Demand;
use super::metrics::OTHER;
use super::models::Model;
use super::operation::Operation;
use super::outcome::{LimitsNow, Outcome};
use super::pricing::NanoUsd;
use super::settlement::{Held, Settlement};
use super::state::{AppState, Live};
use super::store::{
    Admit, BudgetDemand, CacheKey, CallerKey, LimitState, Refused, ReservationId, Reserve, Share, SharerId,
    Standing, StoreError, TokenDemand,
};
use super::store_failure::Decision;
use super::terms::SERVICE;
use super::upstream_body::Known;
use crate::crd::{BudgetPeriod, LimitMode, Per};

/// How much longer a reservation holds than its request may take.
const GRACE: Duration = Duration::from_mins(1);
/// When a request that only others' open reservations stand in the way of may try again.
const RESERVED_RETRY: Duration = Duration::from_secs(1);
/// And one that cannot be decided.
const UNDECIDED_RETRY: Duration = Duration::from_secs(1);

/// Which of its limits a request is charged to now.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All of them.
    Whole,
    /// The request alone: it is to be answered by another's call.
    Request,
    /// What [`Part::Request`] left out, since it has to make a call after all.
    Rest,
}

/// What is asked of the store.
pub(super) struct Wanted {
    /// What is to be reserved.
    pub(super) part: Part,
    /// And the answer that is looked for.
    pub(super) cache_key: Option<CacheKey>,
    /// And, where there is none, who asks for it.
    pub(super) sharer: Option<SharerId>,
}

impl Wanted {
    /// Only this.
    pub(super) fn reserve(part: Part) -> Self {
        Self { part, cache_key: None, sharer: None }
    }
}

/// A request that wants to go on.
pub(super) struct Admission<'a> {
    pub(super) state: &'a AppState,
    pub(super) live: &'a Live,
    pub(super) caller: &'a Caller,
    /// None for what asks for no answer of a model.
    pub(super) asked: Option<Asked<'a>>,
}

/// What is asked of a model.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) operation: Operation,
    pub(super) body: &'a Bytes,
    /// What has been read of the body.
    pub(super) known: Option<&'a Known>,
    pub(super) model: &'a Arc<Model>,
}

impl Admission<'_> {
    /// Asks the store. What it reserves is owed from the moment that it is asked. Out: the stored answer or who asks for
    /// it; None where that was not to be told, or the store is away.
    pub(super) async fn admit(
        &self,
        wanted: Wanted,
        owed: &mut Settlement,
        outcome: &mut Outcome,
    ) -> Result<Option<Share>, ApiError> {
        let Wanted { part, cache_key, sharer } = wanted;
        let Some(reserve) = self.reserve(part, owed) else {
            return Ok(if cache_key.is_some() { self.look(cache_key, sharer).await } else { None });
        };
        let slot = owed.slot(part == Part::Request);
        *slot = Some(Held::asked(reserve.clone()));
        match self.live.store.admit(Admit { reserve: Some(reserve.clone()), cache_key, sharer }).await {
            Ok(admitted) => {
                let standing = admitted.standing.unwrap_or_default();
                let hit = admitted.cached.is_some();
                if admitted.cache_failed {
                    self.state.metrics().store_error("share");
                }
                *slot = None;
                if self.live.store.shared() {
                    self.state.charging().local.told(&reserve, &standing, hit);
                }
                self.tell_budget(&reserve, &standing);
                self.judge(&reserve, standing, hit, outcome)?;
                if !hit && reserve.to_settle() {
                    *slot = Some(Held { requests: 1, ..Held::asked(reserve) });
                }
                Ok(admitted.cached.map(Share::Answer).or(admitted.share))
            }
            Err(error) => {
                self.state.metrics().store_error("admit");
                self.alone(reserve, &error, slot, outcome)?;
                Ok(None)
            }
        }
    }

    /// A hit of the memory cache is charged one request, which the shared store is told afterwards.
    pub(super) fn charge_later(&self, owed: &mut Settlement) {
        *owed.slot(true) = self.reserve_request().map(Held::unasked);
    }

    async fn look(&self, cache_key: Option<CacheKey>, sharer: Option<SharerId>) -> Option<Share> {
        let asked = self.live.store.admit(Admit { reserve: None, cache_key, sharer }).await;
        let told = asked.inspect_err(|_| self.state.metrics().store_error("admit")).ok()?;
        told.cached.map(Share::Answer).or(told.share)
    }

    /// Decides without the store.
    fn alone(
        &self,
        reserve: Reserve,
        error: &StoreError,
        slot: &mut Option<Held>,
        outcome: &mut Outcome,
    ) -> Result<(), ApiError> {
        let mode = self.live.config.dynamic.limits.on_store_failure;
        // A frozen store still does what it was asked, once it thaws: a request that is refused here takes that back.
        let may_have_it = error.may_be_done();
        *slot = may_have_it.then(|| Held::asked(reserve.clone()));
        match self.state.charging().local.decide(mode, &reserve) {
            Decision::Closed if reserve.enforce => {
                return Err(ApiError::LimitsUnknown { retry_after: UNDECIDED_RETRY });
            }
            Decision::Open | Decision::Closed => {
                *slot = Some(Held { asked: may_have_it, ..Held::unasked(reserve) });
            }
            Decision::Local(outage, standing) => {
                self.judge(&reserve, standing, false, outcome)?;
                *slot = Some(Held { outage: Some(outage), asked: may_have_it, ..Held::unasked(reserve) });
            }
        }
        Ok(())
    }

    /// What a request takes of its limits; None where that is nothing.
    fn reserve(&self, part: Part, owed: &mut Settlement) -> Option<Reserve> {
        if part == Part::Request {
            return self.reserve_request();
        }
        let terms = self.live.terms.of(self.caller);
        let Asked { operation, body, known, model } = self.asked?;
        let mut reserve = blank(self.live, self.caller);
        reserve.requests = terms.limits.requests.filter(|_| part == Part::Whole);
        reserve.concurrent = terms.limits.concurrent_requests;
        if terms.limits.tokens_per_minute.is_some() || terms.budget.is_some() {
            let demand = Demand::of(operation, body, known);
            owed.prompt_tokens = demand.prompt.estimate();
            reserve.tokens = terms.limits.tokens_per_minute.map(|per_minute| {
                let usual = self.state.charging().learned.p95(&model.name);
                TokenDemand { per_minute, tokens: demand.tokens(usual) }
            });
            reserve.budget = terms.budget.map(|budget| self.worst(budget, demand, model));
        }
        reserve.limited().then_some(reserve)
    }

    fn reserve_request(&self) -> Option<Reserve> {
        let requests = Some(self.live.terms.of(self.caller).limits.requests?);
        Some(Reserve { requests, ..blank(self.live, self.caller) })
    }

    fn worst(&self, budget: BudgetConfig, demand: Demand, model: &Arc<Model>) -> BudgetDemand {
        let chain = self.live.models.chain(model);
        // A configuration that prices not every model is refused where it is written; here its budget allows nothing.
        let worst = demand.worst(chain.iter().map(AsRef::as_ref)).unwrap_or(NanoUsd::MAX);
        BudgetDemand { caller: whose(budget.per, self.caller), budget, worst }
    }

    /// What follows from how the limits stand. A hit needs nothing but its request.
    fn judge(
        &self,
        reserve: &Reserve,
        standing: Standing,
        hit: bool,
        outcome: &mut Outcome,
    ) -> Result<(), ApiError> {
        outcome.limits.take(reserve, &standing);
        let budget = reserve.budget.as_ref().map(|demand| demand.budget);
        let refused = standing.refused.filter(|refused| !hit || matches!(refused, Refused::Requests(_)));
        let Some(refused) = refused else { return Ok(()) };
        count(self.state, refused, reserve.enforce);
        if !reserve.enforce {
            return Ok(());
        }
        if let (Refused::Requests(_), Some(now)) = (refused, standing.requests) {
            let now = LimitState { allowed: false, ..now };
            self.state.charging().denials.add(reserve.caller.clone(), now);
        }
        Err(refusal(refused, &self.live.terms.of(self.caller).limits, budget.as_ref()))
    }

    /// The store's own word on a budget, for those that metrics show: [`super::terms::AllTerms::shown_budgets`]. A share of
    /// one says nothing of the whole.
    fn tell_budget(&self, reserve: &Reserve, standing: &Standing) {
        let (Some(demand), Some(now)) = (&reserve.budget, standing.budget) else { return };
        let label = match demand.budget.per {
            Per::Service => OTHER,
            Per::Caller if self.caller.is_labelled() => self.caller.label(),
            Per::Caller => return,
        };
        self.state.metrics().budget_used(label, now.spent, NanoUsd(demand.budget.amount_nano_usd));
    }
}

/// A reservation of nothing.
fn blank(live: &Live, caller: &Caller) -> Reserve {
    Reserve {
        id: ReservationId(rand::random()),
        since: Instant::now(),
        caller: whose(live.terms.of(caller).limits.per, caller),
        requests: None,
        tokens: None,
        concurrent: None,
        budget: None,
        life: Duration::from_millis(live.config.dynamic.timeouts.request_ms) + GRACE,
        enforce: live.enforces(),
    }
}

/// Whose limits those of the service are.
static EVERYBODY: LazyLock<CallerKey> = LazyLock::new(|| CallerKey(SERVICE.into()));

/// Whose limits a caller's requests take of.
fn whose(per: Per, caller: &Caller) -> CallerKey {
    match per {
        Per::Caller => caller.key().clone(),
        Per::Service => EVERYBODY.clone(),
    }
}

/// What a caller gets that was refused within the last second: nothing need be read for it.
pub(super) fn refused_lately(
    state: &AppState,
    live: &Live,
    caller: &Caller,
) -> Option<(ApiError, HeaderMap)> {
    let limits = &live.terms.of(caller).limits;
    let limit = limits.requests.filter(|_| live.enforces())?;
    let now = state.charging().denials.get(&whose(limits.per, caller))?;
    let refused = Refused::Requests(now.retry_after);
    count(state, refused, true);
    let error = refusal(refused, limits, None);
    let limits = LimitsNow { requests: Some((limit, now)), tokens: None };
    let outcome = Outcome { limits, ..Outcome::from(error.clone()) };
    Some((error, outcome.headers()))
}

fn count(state: &AppState, refused: Refused, enforced: bool) {
    state.metrics().rate_limited.with_label_values(&[label(refused, enforced)]).inc();
}

/// Label `limit` of `chat_rate_limited_total`; what is only counted has labels of its own.
fn label(refused: Refused, enforced: bool) -> &'static str {
    match (refused, enforced) {
        (Refused::Requests(_), true) => "requests",
        (Refused::Requests(_), false) => "requests_shadow",
        (Refused::Tokens(_), true) => "tokens",
        (Refused::Tokens(_), false) => "tokens_shadow",
        (Refused::Concurrency(_), true) => "concurrency",
        (Refused::Concurrency(_), false) => "concurrency_shadow",
        (Refused::Budget | Refused::BudgetReserved, true) => "budget",
        (Refused::Budget | Refused::BudgetReserved, false) => "budget_shadow",
    }
}

/// What a refused caller is told: which limit, and when to come back.
fn refusal(refused: Refused, limits: &LimitsConfig, budget: Option<&BudgetConfig>) -> ApiError {
    let budget = budget.map(words).unwrap_or_default();
    let (limit, retry_after) = match refused {
        Refused::Requests(after) => {
            let limit =
                limits.requests.map(|limit| (limit.requests, limit.period_seconds)).unwrap_or_default();
            (format!("{} requests per {} s", limit.0, limit.1), after)
        }
        Refused::Tokens(after) => {
            (format!("{} tokens per minute", limits.tokens_per_minute.unwrap_or_default()), after)
        }
        Refused::Concurrency(after) => {
            (format!("{} requests at the same time", limits.concurrent_requests.unwrap_or_default()), after)
        }
        Refused::BudgetReserved => {
            (format!("{budget}, with what open requests may still cost,"), RESERVED_RETRY)
        }
        Refused::Budget => return ApiError::BudgetSpent { budget },
    };
    ApiError::RateLimited { limit, retry_after }
}

/// A budget in words: `25.00 USD a month`.
fn words(budget: &BudgetConfig) -> String {
    let (usd, nanos) = (budget.amount_nano_usd / 1_000_000_000, budget.amount_nano_usd % 1_000_000_000);
    let decimals = format!("{nanos:09}");
    let kept = decimals.trim_end_matches('0').len().max(2);
    let period = match budget.period {
        BudgetPeriod::Day => "day",
        BudgetPeriod::Week => "week",
        BudgetPeriod::Month => "month",
    };
    format!("{usd}.{} USD a {period}", decimals.get(..kept).unwrap_or_default())
}

impl Live {
    /// Whether what is over a limit is refused, and not only counted.
    #[must_use]
    pub fn enforces(&self) -> bool {
        self.config.dynamic.limits.mode == LimitMode::Enforce
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::config::RequestLimit;
    use crate::server::error::Dialect;

    const BUDGET: BudgetConfig =
        BudgetConfig { amount_nano_usd: 25_000_000_000, period: BudgetPeriod::Month, per: Per::Service };

    #[test]
    fn every_refusal_says_which_limit_and_when_to_come_back() {
        let limits = LimitsConfig {
            requests: Some(RequestLimit { requests: 60, period_seconds: 60, burst: 10 }),
            tokens_per_minute: Some(1000),
            concurrent_requests: Some(20),
            ..LimitsConfig::default()
        };
        let soon = Duration::from_millis(1500);
        for (refused, words, code, retry) in [
            (Refused::Requests(soon), "60 requests per 60 s", "rate_limit_exceeded", "1500"),
            (Refused::Tokens(soon), "1000 tokens per minute", "rate_limit_exceeded", "1500"),
            (Refused::Concurrency(soon), "20 requests at the same time", "rate_limit_exceeded", "1500"),
            (Refused::BudgetReserved, "25.00 USD a month", "rate_limit_exceeded", "1000"),
            (Refused::Budget, "25.00 USD a month", "insufficient_quota", ""),
        ] {
            let error = refusal(refused, &limits, Some(&BUDGET));
            let body = error.body(Dialect::OpenAi);
            assert!(body["error"]["message"].as_str().unwrap().contains(words), "{body}");
            assert_eq!(body["error"]["code"], code);
            let response = error.into_response(Dialect::OpenAi);
            assert_eq!(response.status(), 429);
            let header = |name| response.headers().get(name).map_or("", |value| value.to_str().unwrap());
            assert_eq!(header("retry-after-ms"), retry);
            assert_eq!(header("x-should-retry"), if retry.is_empty() { "false" } else { "" });
        }
    }

    #[test]
    fn amounts_are_told_exactly() {
        for (amount_nano_usd, text) in [
            (1_000_000_000, "1.00 USD a month"),
            (500_000_000, "0.50 USD a month"),
            (1_234_500_000, "1.2345 USD a month"),
            (1, "0.000000001 USD a month"),
        ] {
            assert_eq!(words(&BudgetConfig { amount_nano_usd, ..BUDGET }), text);
        }
    }

    #[test]
    fn no_address_and_no_name_is_the_key_that_all_share() {
        let at = |address: &str| Caller::at(address.parse().unwrap());
        let named = |name: &str| Caller::proved(name, None);
        let shared = whose(Per::Service, &at("203.0.113.7"));
        assert_eq!(shared, whose(Per::Service, &named("mobile")));
        let callers =
            [at("203.0.113.7"), at("2001:db8::1"), named("mobile"), named("shop/web"), named("a_b.c-d")];
        for caller in callers {
            assert_eq!(whose(Per::Caller, &caller), *caller.key());
            assert_ne!(whose(Per::Caller, &caller), shared);
        }
    }
}
