//! Step 6. In: what was asked for, what the API server answered, what the pods showed, and the status before. Out: the
//! status, by the rules of kstatus (`Ready` always, `Reconciling` and `Stalled` only while true). Pure;
//! `record` writes it if it changed.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use super::build::{Applied, PROGRESS_DEADLINE_SECONDS, Resources};
use super::error::Error;
use super::events::cut;
use super::names::ServiceName;
use super::pods::{Observed, PodView};
use super::validate::{Problem, ValidatedChatService};
use crate::constants::{annotation, condition, reason};
use crate::crd::ChatServiceStatus;

/// Longest message of a condition: what a pod says is not ours, so it is bounded.
const MESSAGE_MAX: usize = 2048;
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

/// What the status is about.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: Option<String>,
    /// Its generation.
    pub generation: i64,
    /// Wanted pods; None when the object cannot be read.
    pub wanted: Option<i32>,
    /// The status before.
    pub previous: ChatServiceStatus,
}

/// How far a reconcile came.
#[derive(Debug)]
pub enum Outcome {
    /// The paused annotation is set.
    Paused,
    /// Only a new spec, or somebody's hand, helps.
    Refused(Vec<Problem>),
    /// Something that is tried again.
    Failed(Error),
    /// Every child is written.
    Applied(Box<(ValidatedChatService, Resources<Applied>)>),
}

/// A condition before it has a time.
#[derive(Debug, PartialEq, Eq)]
struct Claim {
    reason: &'static str,
    message: String,
}

impl Claim {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

#[derive(Debug)]
struct Verdict {
    ready: bool,
    summary: Claim,
    reconciling: Option<Claim>,
    stalled: Option<Claim>,
}

impl Verdict {
    fn not_ready(summary: Claim) -> Self {
        Self { ready: false, summary, reconciling: None, stalled: None }
    }
}

/// The status. `observed` is None while the pods are not known yet; `now` dates
/// conditions that flip, and ends the patience with pods that are added.
#[must_use]
pub fn from(
    subject: &Subject,
    outcome: &Outcome,
    observed: Option<&Observed>,
    now: Timestamp,
) -> ChatServiceStatus {
    let verdict = match outcome {
        Outcome::Paused => paused(subject),
        Outcome::Refused(problems) => refused(problems),
        Outcome::Failed(error) => match error.condition() {
            Some((reason, message)) => Verdict::not_ready(Claim::new(reason, message)),
            // Over with the next try, so nothing new is claimed, and the old generation stays the observed one.
            None => return subject.previous.clone(),
        },
        Outcome::Applied(applied) => {
            rolled_out(subject, applied, observed.unwrap_or(&Observed::default()), now)
        }
    };
    let mut status = facts(subject, outcome, observed);
    status.observed_generation = Some(subject.generation);
    status.conditions = conditions(&verdict, &subject.previous.conditions, subject.generation, now);
    status
}

/// Whether nothing is left to wait for, so that the pods need not be asked often.
#[must_use]
pub fn settled(status: &ChatServiceStatus, observed: Option<&Observed>) -> bool {
    let is_true = |type_: &str| status.conditions.iter().any(|c| c.type_ == type_ && c.status == "True");
    let reported = observed.is_some_and(|observed| observed.reports().next().is_some());
    let done = is_true(condition::READY) && !is_true(condition::RECONCILING) && !reported;
    done || is_true(condition::STALLED)
}

fn paused(subject: &Subject) -> Verdict {
    Verdict::not_ready(Claim::new(
        reason::PAUSED,
        format!(
            "the annotation {} is set, so nothing is changed. Fix: kubectl -n {} annotate chat/{} {}-",
            annotation::PAUSED,
            subject.namespace,
            subject.name,
            annotation::PAUSED
        ),
    ))
}

fn refused(problems: &[Problem]) -> Verdict {
    let reason = problems.first().map_or(reason::INVALID_SPEC, |problem| problem.reason);
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let message = texts.join("; ");
    Verdict {
        stalled: Some(Claim::new(reason, message.clone())),
        ..Verdict::not_ready(Claim::new(reason, message))
    }
}

/// What the Deployment and the pods say once everything is written.
fn rolled_out(
    subject: &Subject,
    (service, resources): &(ValidatedChatService, Resources<Applied>),
    observed: &Observed,
    now: Timestamp,
) -> Verdict {
    let (deployment, wanted) = (&resources.deployment, service.replicas);
    let progress = Progress::of(deployment, wanted);
    if progress.is_complete() {
        let mut message = format!("{} of {wanted} pods are ready", progress.ready);
        if let Some((pod, problem)) = observed.reports().next() {
            message =
                format!("{message}; pod \"{}\" reports {}: {}", pod.name, problem.reason, problem.message);
        }
        let surplus = progress.total - wanted;
        let removed =
            (surplus > 0).then(|| Claim::new(reason::SCALING, format!("{surplus} pods are removed")));
        return Verdict {
            ready: true,
            summary: Claim::new(reason::AVAILABLE, message),
            reconciling: removed.or_else(|| behind(subject, observed, &service.config.hash())),
            stalled: None,
        };
    }
    let said = deployment_says(deployment);
    let cause =
        cause(observed).or_else(|| said.refused.as_deref().map(|message| pods_refused(subject, message)));
    let counts = format!("{} of {wanted} pods are ready", progress.ready);
    let fell = said.complete && progress.is_whole() && !is_scaling(&subject.previous, now);
    let reconciling = (!said.deadline_exceeded && !fell).then(|| progress.claim(wanted));
    // What can heal without a new spec is never a stall.
    let stalled = (said.deadline_exceeded && cause.is_none()).then(|| {
        Claim::new(
            reason::PROGRESS_DEADLINE_EXCEEDED,
            format!("{counts} and there was no progress. {}", look(subject)),
        )
    });
    let summary = cause.unwrap_or_else(|| {
        if reconciling.is_some() {
            Claim::new(reason::PROGRESSING, counts)
        } else {
            Claim::new(reason::MINIMUM_REPLICAS_UNAVAILABLE, format!("{counts}. {}", look(subject)))
        }
    });
    Verdict { ready: false, summary, reconciling, stalled }
}

/// Ready pods whose servers run an older configuration. They serve, so Ready stays.
fn behind(subject: &Subject, observed: &Observed, hash: &str) -> Option<Claim> {
    let behind: Vec<&PodView> = observed.pods.iter().filter(|pod| pod.ready && pod.is_behind(hash)).collect();
    let first = behind.first()?;
    let counts =
        format!("{} of {} ready pods still run an older configuration", behind.len(), observed.ready());
    // One that is not JSON has no hash; any other one that was refused is not the wanted one.
    let refused = behind.iter().find_map(|pod| {
        let rejected = pod.server.as_ref()?.rejected.as_ref()?;
        let wanted = rejected.hash.as_deref().is_none_or(|rejected| rejected == hash);
        wanted.then(|| format!("{counts}; \"{}\" refuses the new one: {}", pod.name, rejected.message))
    });
    let message = refused.unwrap_or_else(|| {
        format!(
            "{counts}, \"{0}\" among them; their nodes bring the new one within 100 s. If it stays: kubectl -n {1} delete pod {0}",
            first.name, subject.namespace
        )
    });
    Some(Claim::new(reason::CONFIG_PROPAGATING, message))
}

/// Whether pods are still being added: a Deployment calls itself complete while it scales, so the status before has to
/// say it. Not for longer than a rollout may take.
fn is_scaling(previous: &ChatServiceStatus, now: Timestamp) -> bool {
    let mut conditions = previous.conditions.iter();
    if previous.conditions.is_empty() {
        return true;
    }
    conditions.any(|c| {
        let since = now.as_second() - c.last_transition_time.0.as_second();
        c.type_ == condition::RECONCILING
            && c.status == "True"
            && c.reason != reason::CONFIG_PROPAGATING
            && since < i64::from(PROGRESS_DEADLINE_SECONDS)
    })
}

/// The Deployment's pods are refused: by a quota, or by something else that admits pods.
fn pods_refused(subject: &Subject, message: &str) -> Claim {
    if !message.contains("exceeded quota") {
        return Claim::new(
            reason::MINIMUM_REPLICAS_UNAVAILABLE,
            format!("pods are refused: {message}. {}", look(subject)),
        );
    }
    Claim::new(
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
            .map(|p| Claim::new(reason, p.message))
    });
    let troubled = || {
        TROUBLES.iter().find_map(|&reason| {
            let troubles = waiting().filter_map(|pod| pod.trouble.as_ref());
            troubles.filter(|t| t.reason == reason).map(|t| Claim::new(reason, t.message.clone())).next()
        })
    };
    // A reason that this version does not know is still worth its message.
    let other = || {
        let first = waiting().flat_map(|pod| pod.server.iter().flat_map(|server| &server.problems)).next()?;
        Some(Claim::new(reason::MINIMUM_REPLICAS_UNAVAILABLE, format!("{}: {}", first.reason, first.message)))
    };
    reported.or_else(troubled).or_else(other)
}

/// Where a Deployment stands. Counts of an older generation say nothing of this one, so they do not count.
struct Progress {
    observed: bool,
    total: i32,
    updated: i32,
    available: i32,
    ready: i32,
    wanted: i32,
}

impl Progress {
    fn of(deployment: &Deployment, wanted: i32) -> Self {
        let status = deployment.status.clone().unwrap_or_default();
        let count = |value: Option<i32>| value.unwrap_or(0);
        Self {
            observed: status.observed_generation >= deployment.metadata.generation,
            total: count(status.replicas),
            updated: count(status.updated_replicas),
            available: count(status.available_replicas),
            ready: count(status.ready_replicas),
            wanted,
        }
    }

    fn is_complete(&self) -> bool {
        self.observed
            && self.updated >= self.wanted
            && self.available >= self.wanted
            && self.total <= self.updated.max(self.wanted)
    }

    /// Every wanted pod exists and is of the current template.
    fn is_whole(&self) -> bool {
        self.observed && self.updated == self.wanted && self.total == self.wanted
    }

    fn claim(&self, wanted: i32) -> Claim {
        if self.total > self.updated {
            return Claim::new(
                reason::ROLLING_OUT,
                format!("{} of {wanted} pods have the current template", self.updated.min(wanted)),
            );
        }
        Claim::new(reason::SCALING, format!("{} of {wanted} pods are ready", self.ready))
    }
}

#[derive(Default)]
struct DeploymentSays {
    deadline_exceeded: bool,
    /// The last rollout came to its end.
    complete: bool,
    /// Why no pod can be made.
    refused: Option<String>,
}

fn deployment_says(deployment: &Deployment) -> DeploymentSays {
    let Some(DeploymentStatus { conditions: Some(conditions), observed_generation, .. }) = &deployment.status
    else {
        return DeploymentSays::default();
    };
    if *observed_generation < deployment.metadata.generation {
        return DeploymentSays::default();
    }
    let find = |type_: &str, status: &str| {
        conditions.iter().find(|c| c.type_.as_deref() == Some(type_) && c.status.as_deref() == Some(status))
    };
    DeploymentSays {
        deadline_exceeded: find("Progressing", "False")
            .is_some_and(|c| c.reason.as_deref() == Some("ProgressDeadlineExceeded")),
        complete: find("Progressing", "True")
            .is_some_and(|c| c.reason.as_deref() == Some("NewReplicaSetAvailable")),
        refused: find("ReplicaFailure", "True").map(|c| c.message.clone().unwrap_or_default()),
    }
}

/// Everything in the status but conditions and generation.
fn facts(subject: &Subject, outcome: &Outcome, observed: Option<&Observed>) -> ChatServiceStatus {
    let mut status = subject.previous.clone();
    status.selector = ServiceName::new(&subject.name).map(|name| name.selector_text());
    if let Outcome::Applied(applied) = outcome {
        let (service, resources) = applied.as_ref();
        let progress = Progress::of(&resources.deployment, service.replicas);
        status.replicas = Some(progress.total);
        status.ready_replicas = Some(progress.ready);
        status.updated_replicas = Some(progress.updated);
        status.pods = Some(format!("{}/{}", progress.ready, service.replicas));
        status.endpoint = Some(service.endpoint());
        status.image = template_image(&resources.deployment);
        status.backend = Some(service.config.dynamic.backend.name().to_owned());
        status.redis = service.config.fixed.redis_secret.as_ref().map(|_| redis(observed).to_owned());
    } else if let Some(observed) = observed {
        let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        status.replicas = Some(count(observed.pods.len()));
        status.ready_replicas = Some(count(observed.ready()));
        if let Some(wanted) = subject.wanted {
            status.pods = Some(format!("{}/{wanted}", observed.ready()));
        }
    }
    status
}

fn template_image(deployment: &Deployment) -> Option<String> {
    deployment.spec.template.spec.as_ref()?.containers.first()?.image.clone()
}

fn redis(observed: Option<&Observed>) -> &'static str {
    let answers =
        observed.into_iter().flat_map(|o| &o.pods).filter_map(|pod| pod.server.as_ref()?.redis_connected);
    // One pod without Redis is enough to not hold what is promised across pods.
    match answers.min() {
        Some(true) => "Connected",
        Some(false) => "Unreachable",
        None => "Unknown",
    }
}

fn conditions(verdict: &Verdict, previous: &[Condition], generation: i64, now: Timestamp) -> Vec<Condition> {
    let Verdict { ready, summary, reconciling, stalled } = verdict;
    let claims = [
        (condition::READY, if *ready { "True" } else { "False" }, Some(summary)),
        (condition::RECONCILING, "True", reconciling.as_ref()),
        (condition::STALLED, "True", stalled.as_ref()),
    ];
    let dated = |type_: &str, status: &str| {
        let before = previous.iter().find(|condition| condition.type_ == type_ && condition.status == status);
        before.map_or(Time(now), |before| before.last_transition_time.clone())
    };
    claims
        .into_iter()
        .filter_map(|(type_, status, claim)| {
            claim.map(|claim| Condition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: claim.reason.to_owned(),
                message: cut(claim.message.clone(), MESSAGE_MAX),
                observed_generation: Some(generation),
                last_transition_time: dated(type_, status),
            })
        })
        .collect()
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
