//! `BackendReachable`. In: what the pods' own calls to the backend have met. Out: the condition. Nobody calls a backend to find
//! out: a call may cost money, and only a pod's own way to it counts.

use super::{Claim, Subject};
use crate::constants::reason;
use crate::controller::names::ServiceName;
use crate::controller::pods::Observed;

/// Judges by all pods that have made calls, ready or not.
pub(super) fn judge(subject: &Subject, observed: &Observed) -> Claim {
    let met: Vec<bool> =
        observed.pods.iter().filter_map(|pod| pod.server.as_ref()?.backend_reachable).collect();
    let answered = met.iter().filter(|&&reachable| reachable).count();
    if answered > 0 {
        let message = format!("{answered} of {} pods that made calls get answers", met.len());
        return Claim::yes(reason::REACHABLE, message);
    }
    if met.is_empty() {
        return Claim::unknown(reason::NOT_OBSERVED, "no pod has called the backend yet");
    }
    let selector = ServiceName::new(&subject.name).map(|name| name.selector_text()).unwrap_or_default();
    Claim::no(
        reason::BACKEND_UNREACHABLE,
        format!(
            "the last calls of all {} pods that made any have failed; they are tried again with the next requests. Fix: check that the backend is well and that spec.backend names it; the pods say why: kubectl -n {} logs -l {selector} --tail=20",
            met.len(),
            subject.namespace
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::{runs, subject};
    use super::*;
    use crate::controller::pods::PodView;
    use crate::crd::ChatServiceStatus;

    #[test]
    fn one_pod_that_gets_answers_is_enough() {
        let met = |reachable: Option<bool>| -> PodView {
            let mut pod = runs("h");
            pod.server.as_mut().unwrap().backend_reachable = reachable;
            pod
        };
        for (pods, status, reason) in [
            (vec![], "Unknown", reason::NOT_OBSERVED),
            (vec![met(None)], "Unknown", reason::NOT_OBSERVED),
            (vec![met(Some(true)), met(None)], "True", reason::REACHABLE),
            (vec![met(Some(true)), met(Some(false))], "True", reason::REACHABLE),
            (vec![met(Some(false)), met(None)], "False", reason::BACKEND_UNREACHABLE),
            (vec![met(Some(false)), met(Some(false))], "False", reason::BACKEND_UNREACHABLE),
        ] {
            let claim = judge(&subject(ChatServiceStatus::default()), &Observed { pods });
            assert_eq!((claim.status, claim.reason), (status, reason), "{}", claim.message);
            let says_how = claim.message.contains("kubectl -n chat logs -l app.kubernetes.io/");
            assert_eq!(says_how, status == "False", "{}", claim.message);
        }
    }
}
