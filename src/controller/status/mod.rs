//! Step 6. In: what was asked for, what the API server answered, what the pods showed, and the status before. Out: the
//! status: its facts here, each condition in the file of its name (`ready` has the three that kstatus judges by). Pure, and
//! without a clock but for when a condition flipped: the same observation is the same status. `record` writes it if it changed.

mod autoscaling_ready;
mod backend_reachable;
mod config_applied;
mod progress;
mod ready;
mod state_shared;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use super::build::{Applied, Resources};
use super::dereference::template_image;
use super::error::Error;
use super::events::cut;
use super::image::Defaults;
use super::names::ServiceName;
use super::pods::Observed;
use super::validate::{Problem, ValidatedChatService};
use crate::constants::{condition, reason};
use crate::crd::{ChatService, ChatServiceStatus};
use config_applied::Configuration;
use progress::{Progress, deployment_says};
use ready::Verdict;
use state_shared::Redis;

/// Longest message of a condition: what a pod says is not ours, so it is bounded.
const MESSAGE_MAX: usize = 2048;

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
    /// Wanted pods; None when the object cannot be read or an autoscaler says how many.
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
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Claim {
    fn yes(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: "True", reason, message: message.into() }
    }

    fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: "False", reason, message: message.into() }
    }

    fn unknown(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: "Unknown", reason, message: message.into() }
    }
}

/// What a reconcile says of each condition.
struct Judgement {
    verdict: Verdict,
    /// None here: nothing was learnt of it this time.
    config_applied: Option<Claim>,
    backend_reachable: Option<Claim>,
    state_shared: Option<Claim>,
    autoscaling_ready: Option<Claim>,
}

/// The status. `observed` is None while the pods are not known yet; `now` dates conditions that flip.
#[must_use]
pub fn from(
    subject: &Subject,
    outcome: &Outcome,
    observed: Option<&Observed>,
    now: Timestamp,
) -> ChatServiceStatus {
    let mut status = subject.previous.clone();
    status.selector = ServiceName::new(&subject.name).map(|name| name.selector_text());
    let mut judgement = match outcome {
        Outcome::Paused => ready::paused(subject).into(),
        Outcome::Refused(problems) => ready::refused(problems).into(),
        Outcome::Failed(error) => match error.condition() {
            Some((reason, message)) => Verdict::not_ready(reason, message).into(),
            // Over with the next try, so nothing new is claimed, and the old generation stays the observed one.
            None => return subject.previous.clone(),
        },
        Outcome::Applied(applied) => {
            let observed = observed.cloned().unwrap_or_default();
            applied_facts(subject, applied, &observed, &mut status)
        }
    };
    if let Some(observed) = observed {
        judgement.backend_reachable = Some(backend_reachable::judge(subject, observed));
        if !matches!(outcome, Outcome::Applied(_)) {
            pod_counts(subject, observed, &mut status);
        }
    }
    status.observed_generation = Some(subject.generation);
    status.conditions = conditions(judgement, &subject.previous.conditions, subject.generation, now);
    status
}

impl From<Verdict> for Judgement {
    fn from(verdict: Verdict) -> Self {
        Self {
            verdict,
            config_applied: None,
            backend_reachable: None,
            state_shared: None,
            autoscaling_ready: None,
        }
    }
}

/// Whether nothing is left to wait for, so that the pods need not be asked often.
#[must_use]
pub fn settled(status: &ChatServiceStatus, observed: Option<&Observed>) -> bool {
    let is_true = |type_: &str| status.conditions.iter().any(|c| c.type_ == type_ && c.status == "True");
    let reported = observed.is_some_and(|observed| observed.reports().next().is_some());
    let done = is_true(condition::READY) && !is_true(condition::RECONCILING) && !reported;
    done || is_true(condition::STALLED)
}

/// Whether a rollout to the wanted image is under way: not when it waits for its turn, and not when it came to its end, well or not.
#[must_use]
pub fn rolls_out(service: &ValidatedChatService, resources: &Resources<Applied>) -> bool {
    let deployment = &resources.deployment;
    template_image(deployment) == Some(service.image.as_str())
        && !Progress::of(deployment, resources.wanted(), service.scale.least()).is_complete()
        && !deployment_says(deployment).deadline_exceeded
}

/// Whether its last status says that pods of the operator's default image were on their way, for an operator that starts anew.
#[must_use]
pub fn was_rolling_out(cs: &ChatService, defaults: &Defaults) -> bool {
    let Some(status) = &cs.status else { return false };
    let rolls = |c: &Condition| c.type_ == condition::RECONCILING && c.reason == reason::ROLLING_OUT;
    cs.spec.image.as_ref().is_none_or(String::is_empty)
        && status.image.as_ref() == Some(&defaults.server_image)
        && status.conditions.iter().any(rolls)
}

/// What is to be said once every child is written.
fn applied_facts(
    subject: &Subject,
    (service, resources): &(ValidatedChatService, Resources<Applied>),
    observed: &Observed,
    status: &mut ChatServiceStatus,
) -> Judgement {
    let (config, wanted) = (&service.config, resources.wanted());
    let progress = Progress::of(&resources.deployment, wanted, service.scale.least());
    let configuration = config_applied::judge(subject, config, wanted, observed);
    status.replicas = Some(progress.total);
    status.ready_replicas = Some(progress.ready);
    status.updated_replicas = Some(progress.updated);
    status.pods = Some(format!("{}/{wanted}", progress.ready));
    status.endpoint = Some(service.endpoint());
    status.image = template_image(&resources.deployment).map(str::to_owned);
    status.backend = Some(config.dynamic.backend.name().to_owned());
    status.redis = config.fixed.redis_secret.as_ref().map(|_| Redis::of(observed).text().to_owned());
    let waits = template_image(&resources.deployment) != Some(service.image.as_str());
    let turn = waits.then(|| ready::waits_for_turn(&service.image));
    let verdict = ready::rolled_out(subject, resources, &progress, observed, &configuration);
    let verdict = Verdict { reconciling: verdict.reconciling.or(turn), ..verdict };
    let state_shared = state_shared::judge(subject, config, wanted, observed);
    let Configuration { claim, status: numbers, under_way: _ } = configuration;
    status.config = Some(numbers);
    Judgement {
        verdict,
        config_applied: Some(claim),
        backend_reachable: None,
        state_shared: Some(state_shared),
        autoscaling_ready: Some(autoscaling_ready::judge(service, resources)),
    }
}

/// The numbers of pods where no Deployment was written that could tell them.
fn pod_counts(subject: &Subject, observed: &Observed, status: &mut ChatServiceStatus) {
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    status.replicas = Some(count(observed.pods.len()));
    status.ready_replicas = Some(count(observed.ready()));
    if let Some(wanted) = subject.wanted {
        status.pods = Some(format!("{}/{wanted}", observed.ready()));
    }
}

fn conditions(
    judgement: Judgement,
    previous: &[Condition],
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    let Judgement { verdict, config_applied, backend_reachable, state_shared, autoscaling_ready } = judgement;
    let before = |type_: &str| previous.iter().find(|condition| condition.type_ == type_);
    let dated = |type_: &str, claim: Claim| Condition {
        type_: type_.to_owned(),
        status: claim.status.to_owned(),
        reason: claim.reason.to_owned(),
        message: cut(claim.message, MESSAGE_MAX),
        observed_generation: Some(generation),
        last_transition_time: before(type_)
            .filter(|before| before.status == claim.status)
            .map_or(Time(now), |before| before.last_transition_time.clone()),
    };
    let judged = [
        (condition::READY, Some(verdict.ready)),
        (condition::RECONCILING, verdict.reconciling),
        (condition::STALLED, verdict.stalled),
    ];
    let judged = judged.into_iter().filter_map(|(type_, claim)| claim.map(|claim| dated(type_, claim)));
    // Where nothing was learnt the last word stands, with the generation that it was about.
    let learnt = [
        (condition::CONFIG_APPLIED, config_applied),
        (condition::BACKEND_REACHABLE, backend_reachable),
        (condition::STATE_SHARED, state_shared),
        (condition::AUTOSCALING_READY, autoscaling_ready),
    ];
    let learnt = learnt.into_iter().filter_map(|(type_, claim)| {
        claim.map_or_else(|| before(type_).cloned(), |claim| Some(dated(type_, claim)))
    });
    judged.chain(learnt).collect()
}

#[cfg(test)]
mod tests;
