//! What a Lease means to one process. In: the Lease as it is, and for how long it has been so. Out: what to do, and how it is when this
//! process holds it. Pure.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;

use super::LEASE_DURATION;

/// `leaseDurationSeconds` as Kubernetes has it.
const LEASE_SECONDS: i32 = 15;

/// What to do about a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nobody holds it, or its holder is gone: try to take it.
    Acquire,
    /// It is ours: renew it.
    Renew,
    /// Somebody holds it, for this long at least.
    Wait(Duration),
}

/// Decides about a Lease that has been as it is for `unchanged`, as far as `me` could see. None: there is none.
#[must_use]
pub fn evaluate(lease: Option<&LeaseSpec>, me: &str, unchanged: Duration) -> Decision {
    let holder = lease.and_then(|lease| lease.holder_identity.as_deref()).filter(|holder| !holder.is_empty());
    match holder {
        None => Decision::Acquire,
        Some(holder) if holder == me => Decision::Renew,
        Some(_) => {
            let seconds = lease.and_then(|lease| lease.lease_duration_seconds);
            let seconds =
                seconds.and_then(|seconds| u64::try_from(seconds).ok()).filter(|&seconds| seconds > 0);
            let lasts = seconds.map_or(LEASE_DURATION, Duration::from_secs);
            match lasts.checked_sub(unchanged).filter(|left| !left.is_zero()) {
                Some(left) => Decision::Wait(left),
                None => Decision::Acquire,
            }
        }
    }
}

/// The Lease as `me` holds it at `now`: a holder that changes is a transition.
pub(super) fn held(before: Option<&LeaseSpec>, me: &str, now: Timestamp) -> LeaseSpec {
    let stays = before.is_some_and(|before| before.holder_identity.as_deref() == Some(me));
    let transitions = before.and_then(|before| before.lease_transitions);
    let since = before.filter(|_| stays).and_then(|before| before.acquire_time.clone());
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: Some(LEASE_SECONDS),
        acquire_time: Some(since.unwrap_or(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(match (before, stays) {
            (None, _) => 0,
            (Some(_), true) => transitions.unwrap_or(0),
            (Some(_), false) => transitions.unwrap_or(0).saturating_add(1),
        }),
        ..LeaseSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: Option<&str>, seconds: Option<i32>) -> LeaseSpec {
        LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: seconds,
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn who_may_take_the_lease_and_when() {
        let seconds = Duration::from_secs;
        for (lease, unchanged, expected) in [
            (None, 0, Decision::Acquire),
            (Some(lease(None, None)), 0, Decision::Acquire),
            (Some(lease(Some(""), Some(1))), 0, Decision::Acquire),
            (Some(lease(Some("me"), Some(15))), 0, Decision::Renew),
            (Some(lease(Some("me"), Some(15))), 99, Decision::Renew),
            (Some(lease(Some("other"), Some(15))), 0, Decision::Wait(seconds(15))),
            (Some(lease(Some("other"), Some(15))), 14, Decision::Wait(seconds(1))),
            (Some(lease(Some("other"), Some(15))), 15, Decision::Acquire),
            (Some(lease(Some("other"), Some(15))), 99, Decision::Acquire),
            (Some(lease(Some("other"), Some(30))), 20, Decision::Wait(seconds(10))),
            (Some(lease(Some("other"), None)), 14, Decision::Wait(seconds(1))),
            (Some(lease(Some("other"), Some(0))), 15, Decision::Acquire),
            (Some(lease(Some("other"), Some(-1))), 1, Decision::Wait(seconds(14))),
        ] {
            assert_eq!(evaluate(lease.as_ref(), "me", seconds(unchanged)), expected, "{lease:?} {unchanged}");
        }
    }

    #[test]
    fn a_change_of_holder_is_a_transition_and_a_renewal_is_none() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = held(None, "a", at(100));
        assert_eq!(
            (first.lease_transitions, first.acquire_time.clone()),
            (Some(0), Some(MicroTime(at(100))))
        );
        let renewed = held(Some(&first), "a", at(102));
        assert_eq!(renewed.acquire_time, first.acquire_time);
        assert_eq!(
            (renewed.lease_transitions, renewed.renew_time.clone()),
            (Some(0), Some(MicroTime(at(102))))
        );
        let taken = held(Some(&renewed), "b", at(120));
        assert_eq!((taken.lease_transitions, taken.acquire_time), (Some(1), Some(MicroTime(at(120)))));
        assert_eq!(taken.holder_identity.as_deref(), Some("b"));
    }
}
