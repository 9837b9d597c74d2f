//! Credentials that were good. In: an address and a credential. Out: whose it is, for as long as that holds; and whether it
//! was good from there before, which outlives the keys that it was checked with. Bounded in memory: those that were not
//! used for the longest time go first.

use std::net::IpAddr;
use std::sync::Arc;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::failures;
use crate::server::caller::Caller;

/// Credentials that are remembered, each with an address.
const CREDENTIALS: u64 = 10_000;

/// A credential that was good.
#[derive(Clone)]
pub(super) struct Accepted {
    /// Whose it is.
    pub(super) caller: Arc<Caller>,
    /// Seconds since 1970 from which it is not any more; None: until the keys change.
    pub(super) until: Option<i64>,
}

/// What is known of a credential from an address.
pub(super) enum Known {
    /// It is this caller's.
    Good(Arc<Caller>),
    /// It was somebody's, and has to prove itself once more: the keys have changed, or its time is over.
    GoodBefore,
    /// Nothing.
    Nothing,
}

/// Those of one gate, and those of the gates before it that it has not seen yet.
pub(super) struct AcceptedCredentials {
    /// Which gate accepted it, in the order in which they were made.
    credentials: Cache<blake3::Hash, (u64, Accepted)>,
    gate: u64,
    /// Of the hashes, so that nobody outside can aim at one.
    secret: [u8; 32],
}

impl Default for AcceptedCredentials {
    fn default() -> Self {
        let credentials =
            Cache::builder().max_capacity(CREDENTIALS).eviction_policy(EvictionPolicy::lru()).build();
        Self { credentials, gate: 0, secret: rand::random() }
    }
}

impl AcceptedCredentials {
    /// For the gate after this one, to which each of them has to prove itself once more.
    pub(super) fn next(&self) -> Self {
        Self { credentials: self.credentials.clone(), gate: self.gate + 1, secret: self.secret }
    }

    /// What stands for a credential from an address.
    pub(super) fn mark(&self, address: IpAddr, credential: &str) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher.update(&failures::octets(address));
        hasher.update(credential.as_bytes());
        hasher.finalize()
    }

    /// What is known of it.
    pub(super) fn find(&self, mark: &blake3::Hash, now: i64) -> Known {
        match self.credentials.get(mark) {
            None => Known::Nothing,
            Some((gate, accepted)) if gate == self.gate && accepted.until.is_none_or(|until| now < until) => {
                Known::Good(accepted.caller)
            }
            Some(_) => Known::GoodBefore,
        }
    }

    /// It is good.
    pub(super) fn insert(&self, mark: blake3::Hash, accepted: Accepted) {
        self.credentials.insert(mark, (self.gate, accepted));
    }

    /// It is not any more.
    pub(super) fn remove(&self, mark: &blake3::Hash) {
        self.credentials.invalidate(mark);
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> u64 {
        self.credentials.run_pending_tasks();
        self.credentials.entry_count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_from_however_many_addresses_and_over_however_many_gates() {
        let caller = Arc::new(Caller::proved("web", None));
        let mut accepted = AcceptedCredentials::default();
        for n in 0..50_000_u32 {
            let mark = accepted.mark(IpAddr::from(n.to_be_bytes()), "sk-0123456789abcdef");
            accepted.insert(mark, Accepted { caller: caller.clone(), until: None });
            if n % 10_000 == 0 {
                accepted = accepted.next();
            }
        }
        assert!(accepted.count() <= CREDENTIALS);
    }
}
