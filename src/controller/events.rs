//! Events on transitions. In: the Ready condition before and after. Out: at most one event, in the words of the
//! condition. A reconcile that changes nothing publishes nothing.

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

/// The event of a change of the Ready condition, if it changed its status or reason.
fn transition(before: &[Condition], after: &[Condition]) -> Option<Event> {
    let ready = |conditions: &[Condition]| conditions.iter().find(|c| c.type_ == condition::READY).cloned();
    let after = ready(after)?;
    if ready(before).is_some_and(|before| before.status == after.status && before.reason == after.reason) {
        return None;
    }
    let normal = [reason::AVAILABLE, reason::PROGRESSING, reason::PAUSED].contains(&after.reason.as_str());
    Some(Event {
        type_: if normal { EventType::Normal } else { EventType::Warning },
        action: "Reconcile".to_owned(),
        note: Some(cut(after.message, NOTE_MAX)),
        reason: after.reason,
        secondary: None,
    })
}

/// Publishes the transition. A failure is logged and forgotten: an event must never hold up what it is about.
/// Returns whether the permission is missing, if that was found out.
pub(super) async fn publish(
    recorder: &Recorder,
    object: &ObjectReference,
    before: &[Condition],
    after: &[Condition],
) -> Option<bool> {
    let event = transition(before, after)?;
    match tokio::time::timeout(DEADLINE, recorder.publish(&event, object)).await {
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

    fn ready(status: &str, reason: &str, message: &str) -> Vec<Condition> {
        vec![Condition {
            type_: condition::READY.into(),
            status: status.into(),
            reason: reason.into(),
            message: message.into(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        }]
    }

    #[test]
    fn only_a_change_of_status_or_reason_is_an_event() {
        let before = ready("False", reason::PROGRESSING, "0 of 1");
        assert!(transition(&before, &ready("False", reason::PROGRESSING, "other words")).is_none());
        let event = transition(&before, &ready("True", reason::AVAILABLE, "1 of 1")).unwrap();
        assert_eq!((event.type_, event.reason.as_str()), (EventType::Normal, reason::AVAILABLE));
        let event = transition(&before, &ready("False", reason::SECRET_NOT_FOUND, "x")).unwrap();
        assert_eq!(event.type_, EventType::Warning);
        assert!(transition(&[], &before).is_some());
    }

    #[test]
    fn notes_are_cut_between_characters() {
        assert_eq!(cut("aé".repeat(10), 4), "aéa");
        assert_eq!(cut("short".into(), NOTE_MAX), "short");
    }
}
