//! `Ready`, `Reconciling`, `Stalled`. In: how far a reconcile came, the Deployment, the pods. Out: a [`Verdict`] by the rules of
//! kstatus.

use super::config_applied::Configuration;
use super::progress::{Progress, deployment_says};
use super::{Claim, Subject};
use crate::constants::{annotation, condition, reason};
use crate::controller::build::{Applied, Resources};
use crate::controller::names::ServiceName;
use crate::controller::pods::{Observed, PodView};
use crate::controller::validate::Problem;
use crate::crd::ChatServiceStatus;

/// Reasons that a server may give, the most telling first.
const REPORTED: [&str; 5] = [
    reason::SECRET_NOT_FOUND,
    reason::SECRET_KEY_MISSING,
    reason::CREDENTIAL_HOST_MISMATCH,
    reason::CONFIG_MAP_NOT_FOUND,
    reason::CONFIG_MAP_KEY_MISSING,
];
/// Reasons from the pods' own status, the most telling first.
const TROUBLES: [&str; 4] = [
    reason::IMAGE_PULL_FAILED,
    reason::CRASH_LOOPING,
    reason::UNSCHEDULABLE,
    reason::MINIMUM_REPLICAS_UNAVAILABLE,
];

/// The three conditions that tools judge by.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) ready: Claim,
    pub(super) reconciling: Option<Claim>,
    pub(super) stalled: Option<Claim>,
}

impl Verdict {
    pub(super) fn not_ready(reason: &'static str, message: String) -> Self {
        Self { ready: Claim::no(reason, message), reconciling: None, stalled: None }
    }
}

/// While the paused annotation is set.
pub(super) fn paused(subject: &Subject) -> Verdict {
    Verdict::not_ready(
        reason::PAUSED,
        format!(
            "the annotation {} is set, so nothing is changed. Fix: kubectl -n {} annotate chat/{} {}-",
            annotation::PAUSED,
            subject.namespace,
            subject.name,
            annotation::PAUSED
        ),
    )
}

/// When only a new spec, or somebody's hand, helps.
pub(super) fn refused(problems: &[Problem]) -> Verdict {
    let reason = problems.first().map_or(reason::INVALID_SPEC, |problem| problem.reason);
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let message = texts.join("; ");
    Verdict { stalled: Some(Claim::yes(reason, message.clone())), ..Verdict::not_ready(reason, message) }
}

/// What the Deployment and the pods say once everything is written.
pub(super) fn rolled_out(
    subject: &Subject,
    resources: &Resources<Applied>,
    progress: &Progress,
    observed: &Observed,
    configuration: &Configuration,
) -> Verdict {
    let counts = format!("{} of {} pods are ready", progress.ready, progress.wanted);
    if progress.is_complete() {
        return complete(counts, progress, observed, configuration);
    }
    let said = deployment_says(&resources.deployment);
    let cause =
        cause(observed).or_else(|| said.refused.as_deref().map(|message| pods_refused(subject, message)));
    if progress.is_growing() {
        let message = cause.map_or(counts.clone(), |cause| format!("{counts}; {}", cause.message));
        return Verdict {
            ready: Claim::yes(reason::AVAILABLE, message),
            reconciling: (!said.deadline_exceeded).then(|| progress.claim()),
            stalled: None,
        };
    }
    let fell = said.complete && progress.is_whole() && !is_scaling(&subject.previous, observed);
    let reconciling = (!said.deadline_exceeded && !fell).then(|| progress.claim());
    // What can heal without a new spec is never a stall.
    let stalled = (said.deadline_exceeded && cause.is_none()).then(|| {
        Claim::yes(
            reason::PROGRESS_DEADLINE_EXCEEDED,
            format!("{counts} and there was no progress. {}", look(subject)),
        )
    });
    let ready = cause.unwrap_or_else(|| {
        if reconciling.is_some() {
            Claim::no(reason::PROGRESSING, counts)
        } else {
            Claim::no(reason::MINIMUM_REPLICAS_UNAVAILABLE, format!("{counts}. {}", look(subject)))
        }
    });
    Verdict { ready, reconciling, stalled }
}

/// `Reconciling` of a service whose pods keep the default image of the operator before until others have rolled.
pub(super) fn waits_for_turn(image: &str) -> Claim {
    Claim::yes(
        reason::ROLLING_OUT,
        format!(
            "waits for its turn to run \"{image}\": after an upgrade the operator rolls so many ChatServices at a time (--max-concurrent-rollouts). Until then changes of the pods wait too; one that names spec.image is not waited for"
        ),
    )
}

/// All wanted pods serve. What they report, and a configuration that one of them refuses, is told beside it.
fn complete(
    counts: String,
    progress: &Progress,
    observed: &Observed,
    configuration: &Configuration,
) -> Verdict {
    let mut message = counts;
    if let Some((pod, problem)) = observed.reports().next() {
        message = format!("{message}; pod \"{}\" reports {}: {}", pod.name, problem.reason, problem.message);
    } else if configuration.claim.reason == reason::REJECTED {
        message = format!("{message}, but {}", configuration.claim.message);
    }
    let surplus = progress.total - progress.wanted;
    let removed = (surplus > 0).then(|| Claim::yes(reason::SCALING, format!("{surplus} pods are removed")));
    let propagating = || {
        let claim = &configuration.claim;
        configuration.under_way.then(|| Claim::yes(reason::CONFIG_PROPAGATING, claim.message.clone()))
    };
    Verdict {
        ready: Claim::yes(reason::AVAILABLE, message),
        reconciling: removed.or_else(propagating),
        stalled: None,
    }
}

/// Whether pods are still being added: a Deployment calls itself complete while it scales, so the status before has to
/// say it. Not once every pod that is missing has been awaited for as long as a rollout may take.
fn is_scaling(previous: &ChatServiceStatus, observed: &Observed) -> bool {
    let mut missing = observed.pods.iter().filter(|pod| !pod.ready).peekable();
    if missing.peek().is_some() && missing.all(|pod| pod.overdue) {
        return false;
    }
    let mut conditions = previous.conditions.iter();
    previous.conditions.is_empty()
        || conditions.any(|c| {
            c.type_ == condition::RECONCILING && c.status == "True" && c.reason != reason::CONFIG_PROPAGATING
        })
}

/// The Deployment's pods are refused: by a quota, or by something else that admits pods.
fn pods_refused(subject: &Subject, message: &str) -> Claim {
    if !message.contains("exceeded quota") {
        return Claim::no(
            reason::MINIMUM_REPLICAS_UNAVAILABLE,
            format!("pods are refused: {message}. {}", look(subject)),
        );
    }
    Claim::no(
        reason::QUOTA_EXCEEDED,
        format!(
            "{message}. Fix: raise the quota, or make room: kubectl -n {} describe resourcequota",
            subject.namespace
        ),
    )
}

fn look(subject: &Subject) -> String {
    let selector = ServiceName::new(&subject.name).map(|name| name.selector_text()).unwrap_or_default();
    format!("See why: kubectl -n {} describe pods -l {selector}", subject.namespace)
}

/// The most telling thing that is wrong with a pod that is not ready.
fn cause(observed: &Observed) -> Option<Claim> {
    let waiting = || observed.pods.iter().filter(|pod| !pod.ready);
    let reported = REPORTED.iter().find_map(|&reason| {
        let problems = |pod: &PodView| pod.server.clone().into_iter().flat_map(|server| server.problems);
        waiting()
            .flat_map(problems)
            .find(|problem| problem.reason == reason)
            .map(|p| Claim::no(reason, p.message))
    });
    let troubled = || {
        TROUBLES.iter().find_map(|&reason| {
            let troubles = waiting().filter_map(|pod| pod.trouble.as_ref());
            troubles.filter(|t| t.reason == reason).map(|t| Claim::no(reason, t.message.clone())).next()
        })
    };
    // A reason that this version does not know is still worth its message.
    let other = || {
        let first = waiting().flat_map(|pod| pod.server.iter().flat_map(|server| &server.problems)).next()?;
        Some(Claim::no(reason::MINIMUM_REPLICAS_UNAVAILABLE, format!("{}: {}", first.reason, first.message)))
    };
    reported.or_else(troubled).or_else(other)
}
