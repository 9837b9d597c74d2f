//! What an answer costs. In: a model's name and its tokens. Out: USD, exact, in integer billionths.

/// USD in billionths: exact, and below 2^53 for any amount of interest here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NanoUsd(pub u64);

impl NanoUsd {
    /// As USD, for counters and JSON.
    #[must_use]
    pub fn usd(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "exact below 2^53, which is nine million dollars")]
        let nanos = self.0 as f64;
        nanos / 1e9
    }
}
