//! `StateShared` and `status.redis`. In: whether the spec names a Redis, how many pods are wanted, and what the servers say of
//! Redis. Out: whether limits, cache and conversations hold across pods.

use super::{Claim, Subject};
use crate::constants::reason;
use crate::controller::pods::{Observed, PodView};
use crate::server::config::ServerConfig;

/// What the pods say of Redis, all together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Redis {
    Connected,
    Unreachable,
    /// None has asked it yet.
    Unknown,
}

impl Redis {
    /// One pod without Redis is enough to not hold what is promised across pods.
    pub(super) fn of(observed: &Observed) -> Self {
        match observed.pods.iter().filter_map(shares).min() {
            Some(true) => Self::Connected,
            Some(false) => Self::Unreachable,
            None => Self::Unknown,
        }
    }

    /// As `status.redis` has it.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Connected => "Connected",
            Self::Unreachable => "Unreachable",
            Self::Unknown => "Unknown",
        }
    }
}

fn shares(pod: &PodView) -> Option<bool> {
    pod.server.as_ref()?.redis
}

/// Judges a service of `wanted` pods.
pub(super) fn judge(subject: &Subject, config: &ServerConfig, wanted: i32, observed: &Observed) -> Claim {
    let (namespace, name) = (&subject.namespace, &subject.name);
    let Some(secret) = &config.fixed.redis_secret else {
        if wanted <= 1 {
            let message = "one pod keeps limits, cache and conversations in its memory: they end with it";
            return Claim::yes(reason::SINGLE_POD, message);
        }
        return Claim::no(
            reason::PER_POD,
            format!(
                "each of {wanted} pods keeps its own limits, cache and conversations: callers get up to {wanted} times their limits. Fix: name a Redis: kubectl -n {namespace} patch chat/{name} --type=merge -p '{{\"spec\": {{\"redis\": {{\"secretRef\": {{\"name\": \"...\"}}}}}}}}'"
            ),
        );
    };
    match Redis::of(observed) {
        Redis::Connected => {
            Claim::yes(reason::REDIS, "limits, cache and conversations of all pods are in Redis")
        }
        Redis::Unknown => Claim::unknown(reason::NOT_OBSERVED, "no pod has asked Redis yet"),
        Redis::Unreachable => {
            let lost = observed.pods.iter().find(|pod| shares(pod) == Some(false));
            let pod = lost.map(|pod| pod.name.as_str()).unwrap_or_default();
            Claim::no(
                reason::REDIS_UNREACHABLE,
                format!(
                    "pod \"{pod}\" does not reach the Redis of Secret \"{secret}\" and goes on by itself (spec.rateLimits.onStoreFailure). Fix: check that Redis is well and what the Secret says; the pod says why: kubectl -n {namespace} logs {pod} --tail=20"
                ),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{runs, service, subject};
    use super::*;
    use crate::crd::ChatServiceStatus;

    #[test]
    fn state_is_shared_where_it_is_in_redis_or_there_is_nobody_to_share_with() {
        let pod = |redis: Option<bool>| {
            let mut pod = runs("h");
            pod.server.as_mut().unwrap().redis = redis;
            pod
        };
        let (yes, no, unasked) = (pod(Some(true)), pod(Some(false)), pod(None));
        let with = service().config;
        let mut without = with.clone();
        without.fixed.redis_secret = None;
        for (config, wanted, pods, status, reason) in [
            (&without, 0, vec![], "True", reason::SINGLE_POD),
            (&without, 1, vec![], "True", reason::SINGLE_POD),
            (&without, 2, vec![], "False", reason::PER_POD),
            (&with, 1, vec![], "Unknown", reason::NOT_OBSERVED),
            (&with, 2, vec![&unasked], "Unknown", reason::NOT_OBSERVED),
            (&with, 2, vec![&yes, &unasked], "True", reason::REDIS),
            (&with, 2, vec![&yes, &no], "False", reason::REDIS_UNREACHABLE),
        ] {
            let observed = Observed { pods: pods.into_iter().cloned().collect() };
            let claim = judge(&subject(ChatServiceStatus::default()), config, wanted, &observed);
            assert_eq!((claim.status, claim.reason), (status, reason), "{}", claim.message);
            assert_eq!(claim.message.contains("kubectl -n chat "), status == "False", "{}", claim.message);
        }
    }
}
