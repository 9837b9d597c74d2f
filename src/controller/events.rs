//! Events on transitions. In: the conditions before and after. Out: an event for each that changed for better or worse, in its
//! words. A reconcile that changes nothing publishes nothing.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{Event, EventType, Recorder};

use super::error::is_terminating;
use crate::constants::{condition, reason};

/// Longest note that the API server takes.
const NOTE_MAX: usize = 1024;
/// An event that cannot be published in this time is given up.
const DEADLINE: Duration = Duration::from_secs(5);

/// Reasons of a condition that is not true and with which nothing is wrong.
const CALM: [&str; 3] = [reason::PROPAGATING, reason::NOT_OBSERVED, reason::DISABLED];

/// The events of what changed. Each change of the Ready condition is one; of the others, when something is wrong and when
/// that ends, so that a new configuration which simply arrives says nothing.
fn transitions(before: &[Condition], after: &[Condition]) -> Vec<Event> {
    after
        .iter()
        .filter_map(|after| transition(before.iter().find(|c| c.type_ == after.type_), after))
        .collect()
}

fn transition(before: Option<&Condition>, after: &Condition) -> Option<Event> {
    if before.is_some_and(|before| before.status == after.status && before.reason == after.reason) {
        return None;
    }
    let normal = match after.type_.as_str() {
        condition::READY => {
            [reason::AVAILABLE, reason::PROGRESSING, reason::PAUSED].contains(&after.reason.as_str())
        }
        // Their reasons are those of Ready.
        condition::RECONCILING | condition::STALLED => return None,
        _ if is_wrong(after) => false,
        _ if after.status == "True" && before.is_some_and(is_wrong) => true,
        _ => return None,
    };
    Some(Event {
        type_: if normal { EventType::Normal } else { EventType::Warning },
        action: "Reconcile".to_owned(),
        note: Some(cut(after.message.clone(), NOTE_MAX)),
        reason: after.reason.clone(),
        secondary: None,
    })
}

fn is_wrong(condition: &Condition) -> bool {
    condition.status != "True" && !CALM.contains(&condition.reason.as_str())
}

/// Publishes the transitions. A failure is logged and forgotten: an event must never hold up what it is about.
/// Returns whether the permission is missing, if that was found out.
pub(super) async fn publish(
    recorder: &Recorder,
    object: &ObjectReference,
    before: &[Condition],
    after: &[Condition],
) -> Option<bool> {
    let mut refused = None;
    for event in transitions(before, after) {
        refused = publish_one(recorder, object, &event).await.or(refused);
    }
    refused
}

async fn publish_one(recorder: &Recorder, object: &ObjectReference, event: &Event) -> Option<bool> {
    match tokio::time::timeout(DEADLINE, recorder.publish(event, object)).await {
        Ok(Ok(())) => Some(false),
        // A namespace that is being deleted takes no event.
        Ok(Err(kube::Error::Api(status))) if status.is_forbidden() && !is_terminating(&status) => {
            tracing::warn!(
                answer = status.message,
                "the operator may not publish events and goes on without. Fix: helm upgrade the operator's chart, whose roles hold every rule it needs"
            );
            Some(true)
        }
        Ok(Err(error)) => {
            tracing::debug!(error = %error, "an event was not published");
            None
        }
        Err(_) => {
            tracing::debug!("an event was not published in time");
            None
        }
    }
}

/// At most `max` bytes of `text`, cut between characters.
pub(super) fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
    }
    text
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn conditions(all: &[(&str, &str, &str)]) -> Vec<Condition> {
        let condition = |&(type_, status, reason): &(&str, &str, &str)| Condition {
            type_: type_.into(),
            status: status.into(),
            reason: reason.into(),
            message: format!("{type_} is {status}"),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        };
        all.iter().map(condition).collect()
    }

    #[test]
    fn a_change_for_better_or_worse_is_an_event() {
        const READY: &str = condition::READY;
        const CONFIG: &str = condition::CONFIG_APPLIED;
        let cases: [(&[_], &[_], &[_]); 10] = [
            (&[], &[(READY, "False", reason::PROGRESSING)], &["Normal Progressing"]),
            (&[(READY, "False", reason::PROGRESSING)], &[(READY, "False", reason::PROGRESSING)], &[]),
            (
                &[(READY, "False", reason::PROGRESSING)],
                &[(READY, "True", reason::AVAILABLE)],
                &["Normal Available"],
            ),
            (
                &[(READY, "True", reason::AVAILABLE)],
                &[(READY, "False", reason::SECRET_NOT_FOUND)],
                &["Warning SecretNotFound"],
            ),
            (&[], &[(CONFIG, "False", reason::PROPAGATING)], &[]),
            (&[(CONFIG, "False", reason::PROPAGATING)], &[(CONFIG, "True", reason::APPLIED)], &[]),
            (
                &[(CONFIG, "False", reason::PROPAGATING)],
                &[
                    (CONFIG, "False", reason::REJECTED),
                    (condition::RECONCILING, "True", reason::CONFIG_PROPAGATING),
                ],
                &["Warning Rejected"],
            ),
            (
                &[(CONFIG, "False", reason::REJECTED)],
                &[(CONFIG, "True", reason::APPLIED)],
                &["Normal Applied"],
            ),
            (
                &[(condition::BACKEND_REACHABLE, "True", reason::REACHABLE)],
                &[(condition::BACKEND_REACHABLE, "False", reason::BACKEND_UNREACHABLE)],
                &["Warning BackendUnreachable"],
            ),
            (&[], &[(condition::STATE_SHARED, "Unknown", reason::NOT_OBSERVED)], &[]),
        ];
        for (before, after, expected) in cases {
            let events = transitions(&conditions(before), &conditions(after));
            let found: Vec<String> =
                events.iter().map(|event| format!("{:?} {}", event.type_, event.reason)).collect();
            assert_eq!(found, expected, "{before:?} {after:?}");
        }
    }

    #[test]
    fn notes_are_cut_between_characters() {
        assert_eq!(cut("aé".repeat(10), 4), "aéa");
        assert_eq!(cut("short".into(), NOTE_MAX), "short");
    }
}
