//! What each caller has of limits and money. In: a configuration. Out: everybody's terms, and those of callers that have
//! their own.

use std::collections::HashMap;

use super::caller::Caller;
use super::config::{BudgetConfig, DynamicConfig, LimitsConfig};
use super::metrics::OTHER;
use super::store::CallerKey;
use crate::crd::Per;

/// Whose limits they are that all callers share. No caller is called so: neither an address nor a name holds a `*`.
pub const SERVICE: &str = "*";

/// What holds for a caller.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How much it may ask.
    pub limits: LimitsConfig,
    /// How much it may spend. None: as much as it asks for.
    pub budget: Option<BudgetConfig>,
}

impl Terms {
    fn limit_anything(&self) -> bool {
        let limits = &self.limits;
        limits.requests.is_some()
            || limits.tokens_per_minute.is_some()
            || limits.concurrent_requests.is_some()
            || self.budget.is_some()
    }
}

/// The terms of all callers.
pub struct AllTerms {
    everybody: Terms,
    named: HashMap<String, Terms>,
}

impl AllTerms {
    /// Those of a configuration.
    #[must_use]
    pub fn new(config: &DynamicConfig) -> Self {
        let everybody = Terms { limits: config.limits, budget: config.budget };
        let callers = config.auth.iter().flat_map(|auth| &auth.callers);
        let own = callers.map(|caller| {
            let limits = caller.limits.unwrap_or(everybody.limits);
            (caller.name.clone(), Terms { limits, budget: caller.budget.or(everybody.budget) })
        });
        Self { everybody, named: own.collect() }
    }

    /// Those of a caller.
    #[must_use]
    pub fn of(&self, caller: &Caller) -> &Terms {
        let name = caller.identity().filter(|_| !self.named.is_empty());
        name.and_then(|name| self.named.get(name)).unwrap_or(&self.everybody)
    }

    /// Whether anybody has a budget.
    #[must_use]
    pub fn spend(&self) -> bool {
        self.all().any(|terms| terms.budget.is_some())
    }

    /// Whether anybody's tokens or money are limited.
    #[must_use]
    pub fn charge(&self) -> bool {
        self.all().any(|terms| terms.budget.is_some() || terms.limits.tokens_per_minute.is_some())
    }

    /// Whether there is any limit or budget.
    #[must_use]
    pub fn limit_anything(&self) -> bool {
        self.all().any(Terms::limit_anything)
    }

    /// The budgets that metrics show, each with whose it is and its label: the one that all share, and those of callers
    /// that have a name. The others would take turns in one gauge.
    pub fn shown_budgets(&self) -> impl Iterator<Item = (CallerKey, &str, BudgetConfig)> {
        let shared = self.everybody.budget.filter(|budget| budget.per == Per::Service);
        let shared = shared.map(|budget| (CallerKey(SERVICE.into()), OTHER, budget));
        let own = self.named.iter().filter_map(|(name, terms)| {
            let budget = terms.budget.filter(|budget| budget.per == Per::Caller)?;
            Some((CallerKey(name.as_str().into()), name.as_str(), budget))
        });
        shared.into_iter().chain(own)
    }

    fn all(&self) -> impl Iterator<Item = &Terms> {
        self.named.values().chain([&self.everybody])
    }
}
