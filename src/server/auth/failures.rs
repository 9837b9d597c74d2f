//! Failed attempts of addresses. In: an address. Out: whether it may try again. Bounded in memory: addresses beyond that
//! push out those that have not tried for the longest time.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::Refusal;
use crate::server::config::RequestLimit;
use crate::server::limits;

/// Failures that an address may have: as many at once, then evenly.
const LIMIT: RequestLimit = RequestLimit { requests: 20, period_seconds: 60, burst: 20 };
/// Addresses that are remembered.
const ADDRESSES: u64 = 10_000;

/// Who failed lately. Clones are the same one.
#[derive(Clone)]
pub struct Failures {
    since: Instant,
    /// When each address may fail freely again, in µs since `since`.
    full_at: Cache<[u8; 16], u64>,
}

impl Default for Failures {
    fn default() -> Self {
        let life = Duration::from_secs(u64::from(LIMIT.period_seconds) * 2);
        let full_at = Cache::builder()
            .max_capacity(ADDRESSES)
            .time_to_live(life)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { since: Instant::now(), full_at }
    }
}

impl Failures {
    /// Whether an address may try.
    pub(super) fn check(&self, address: IpAddr) -> Result<(), Refusal> {
        let Some(full_at) = self.full_at.get(&octets(address)) else { return Ok(()) };
        let (_, state) = limits::decide(Some(full_at), self.now(), LIMIT);
        if state.allowed { Ok(()) } else { Err(Refusal::Shut { retry_after: state.retry_after }) }
    }

    /// It tried and failed.
    pub(super) fn add(&self, address: IpAddr) {
        let now = self.now();
        self.full_at
            .entry(octets(address))
            .and_upsert_with(|before| limits::charge(before.map(moka::Entry::into_value), now, LIMIT, 1));
    }

    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// What counts as one address: an IPv6 one is its /64.
pub(super) fn octets(address: IpAddr) -> [u8; 16] {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => {
            let mut octets = v6.octets();
            octets[8..].fill(0);
            octets
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_fails_too_often_is_shut_and_no_other_is() {
        let failures = Failures::default();
        let bad = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, last]);
        for attempt in 0..LIMIT.burst {
            assert_eq!(failures.check(bad(1)), Ok(()), "{attempt}");
            failures.add(bad(2));
        }
        let shut = failures.check(bad(3));
        let Err(Refusal::Shut { retry_after }) = shut else { panic!("{shut:?}") };
        assert!(retry_after <= Duration::from_secs(3), "{retry_after:?}");
        assert_eq!(failures.check(IpAddr::from([0x2001, 0xdb8, 0, 2, 0, 0, 0, 1])), Ok(()));
    }

    #[test]
    fn memory_is_bounded_whatever_tries() {
        let failures = Failures::default();
        for n in 0..50_000_u32 {
            failures.add(IpAddr::from(n.to_be_bytes()));
        }
        failures.full_at.run_pending_tasks();
        assert!(failures.full_at.entry_count() <= ADDRESSES);
    }
}
