//! Budgets in Redis, looked at without taking of them. In and out: as `LimitStore::budgets` says.

use super::Base;
use super::limits::{NOT_AN_ANSWER, period_letter};
use crate::crd::BudgetPeriod;
use crate::server::pricing::NanoUsd;
use crate::server::store::{BudgetState, CallerKey, StoreError};

/// Budgets in one trip: Redis does nothing else meanwhile.
const TOGETHER: usize = 64;

impl Base {
    /// How these stand, [`TOGETHER`] in a trip.
    pub(super) async fn budgets(
        &self,
        of: Vec<(CallerKey, BudgetPeriod)>,
    ) -> Result<Vec<BudgetState>, StoreError> {
        let mut states = Vec::with_capacity(of.len());
        for of in of.chunks(TOGETHER) {
            let mut script = self.scripts.budgets.arg(self.key_life(std::iter::empty()));
            // It asks for no records.
            script.arg(0);
            for (caller, period) in of {
                let period = period_letter(*period);
                script.key(self.limit_key(&format!("ba1:{period}"), caller));
                script.key(self.limit_key(&format!("bo1:{period}"), caller));
                script.arg(period);
            }
            let told: Vec<(u64, u64)> = self.invoke(&script).await?;
            if told.len() != of.len() {
                return Err(StoreError::Failed(NOT_AN_ANSWER.to_owned()));
            }
            states.extend(
                told.into_iter().map(|(spent, reserved)| BudgetState {
                    spent: NanoUsd(spent),
                    reserved: NanoUsd(reserved),
                }),
            );
        }
        Ok(states)
    }
}
