//! After observe: brings a new configuration or Secret to pods at once. In: what the pods' servers say, and the configuration that
//! was written. Out: another value of an annotation on each pod that lacks something, and when to look again.
//!
//! A kubelet looks at a pod's mounts once a minute or so, and whenever the pod changes. It may do so from a cache that does not
//! hold the new object yet, so a pod that goes on lacking it is touched again, each time later, five times at most.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::Instant;

use super::ObjectKey;
use super::error::Error;
use super::pods::{Observed, PodView};
use crate::constants::{annotation, field_manager, reason};
use crate::server::config::ServerConfig;

/// Touches for one thing that a pod lacks.
const ATTEMPTS: u32 = 5;
/// From the first touch to the second; then twice as long each time. A server is known to run a new configuration about so long
/// after its pod was touched.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// What a Secret or ConfigMap that the kubelet has not brought yet, or an old version of it, looks like to a server.
const MOUNTED: [&str; 5] = [
    reason::SECRET_NOT_FOUND,
    reason::SECRET_KEY_MISSING,
    reason::CREDENTIAL_HOST_MISMATCH,
    reason::CONFIG_MAP_NOT_FOUND,
    reason::CONFIG_MAP_KEY_MISSING,
];

/// Remembers what was touched and when: the annotation says neither.
#[derive(Debug, Default)]
pub struct Toucher(Mutex<HashMap<ObjectKey, BTreeMap<String, Touch>>>);

/// The last touch of a pod, for as long as it lacks something.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Touch {
    hash: String,
    /// Reasons that its server gave: other ones are progress, and begin anew.
    lacked: Vec<String>,
    attempt: u32,
    at: Instant,
}

#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Now, with this number.
    Touch(u32),
    /// Not before this long.
    Wait(Duration),
    /// The kubelet's own time has to come.
    GiveUp,
}

/// What pods are to have.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    hash: &'a str,
    static_hash: &'a str,
}

/// Whether a look at its mounts may help a pod. One that was made for another configuration is replaced.
fn lacks(pod: &PodView, wanted: Wanted<'_>) -> bool {
    let Some(report) = &pod.server else { return false };
    let stays = pod.made_for.as_deref().is_none_or(|made_for| made_for == wanted.static_hash);
    let is_behind = stays && !report.config_hash.is_empty() && report.config_hash != wanted.hash;
    is_behind || report.problems.iter().any(|problem| MOUNTED.contains(&problem.reason.as_str()))
}

/// What the server of a pod says that it lacks.
fn reasons(pod: &PodView) -> Vec<String> {
    pod.server.iter().flat_map(|report| &report.problems).map(|problem| problem.reason.clone()).collect()
}

/// What to do with a pod that lacks something, which has `annotation` now.
fn next(last: Option<&Touch>, annotation: Option<&str>, hash: &str, lacked: &[String], now: Instant) -> Next {
    let Some(last) = last.filter(|last| last.hash == hash && last.lacked == lacked) else {
        // A touch has to change something: a value that is there already is not written again.
        let first = format!("{hash}.1");
        return Next::Touch(if annotation == Some(first.as_str()) { 2 } else { 1 });
    };
    if last.attempt >= ATTEMPTS {
        return Next::GiveUp;
    }
    let due = last.at + FIRST_PAUSE * 2_u32.pow(last.attempt.saturating_sub(1));
    if now < due { Next::Wait(due - now) } else { Next::Touch(last.attempt + 1) }
}

impl Toucher {
    /// Touches the pods of `key` that need it; `touched` is a pod's annotation. How long until the next touch may be due.
    ///
    /// # Errors
    /// The API server refuses. A pod that is gone is no error.
    pub(super) async fn touch(
        &self,
        client: &Client,
        key: &ObjectKey,
        config: &ServerConfig,
        observed: &Observed,
        touched: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Duration>, Error> {
        let (hash, static_hash) = (config.hash(), config.static_hash());
        let wanted = Wanted { hash: &hash, static_hash: &static_hash };
        let api: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
        let mut soonest: Option<Duration> = None;
        for (pod, lacked, next) in self.due(key, wanted, observed, touched) {
            let wait = match next {
                Next::GiveUp => continue,
                Next::Wait(wait) => wait,
                Next::Touch(attempt) => {
                    write(&api, &key.namespace, &pod, &format!("{hash}.{attempt}")).await?;
                    tracing::debug!(pod, attempt, "touched, so that its node looks at its mounts");
                    let touch = Touch { hash: hash.clone(), lacked, attempt, at: Instant::now() };
                    let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                    all.entry(key.clone()).or_default().insert(pod, touch);
                    FIRST_PAUSE
                }
            };
            soonest = Some(soonest.map_or(wait, |soonest| soonest.min(wait)));
        }
        Ok(soonest)
    }

    /// What to do with each pod that lacks something. What is known of the others is forgotten.
    fn due(
        &self,
        key: &ObjectKey,
        wanted: Wanted<'_>,
        observed: &Observed,
        touched: impl Fn(&str) -> Option<String>,
    ) -> Vec<(String, Vec<String>, Next)> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let needy: Vec<&PodView> = observed.pods.iter().filter(|pod| lacks(pod, wanted)).collect();
        if needy.is_empty() {
            all.remove(key);
            return Vec::new();
        }
        let known = all.entry(key.clone()).or_default();
        known.retain(|name, _| needy.iter().any(|pod| pod.name == *name));
        let now = Instant::now();
        let decide = |pod: &PodView| {
            let (lacked, annotation) = (reasons(pod), touched(&pod.name));
            let next = next(known.get(&pod.name), annotation.as_deref(), wanted.hash, &lacked, now);
            (pod.name.clone(), lacked, next)
        };
        needy.into_iter().map(decide).collect()
    }

    /// The object is gone.
    pub(super) fn forget(&self, key: &ObjectKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// Writes the annotation of a pod. One that is gone is no error.
async fn write(api: &Api<Pod>, namespace: &str, pod: &str, value: &str) -> Result<(), Error> {
    let patch = json!({ "metadata": { "annotations": { (annotation::TOUCHED): value } } });
    let params =
        PatchParams { field_manager: Some(field_manager::CONTROLLER.into()), ..PatchParams::default() };
    match api.patch_metadata(pod, &params, &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(source) => Err(Error::Request {
            verb: "patch",
            resource: "pods".to_owned(),
            namespace: namespace.to_owned(),
            name: pod.to_owned(),
            source: Box::new(source),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::pods::Report;
    use super::*;
    use crate::admin::StatusProblem;

    const WANTED: Wanted<'_> = Wanted { hash: "new", static_hash: "s" };

    fn pod(hash: &str, problem: Option<&str>) -> PodView {
        let problems = problem.map(|reason| StatusProblem { reason: reason.into(), message: String::new() });
        let report = Report {
            config_hash: hash.into(),
            problems: problems.into_iter().collect(),
            ..Report::default()
        };
        PodView { name: "demo-x".into(), server: Some(report), ..PodView::default() }
    }

    #[test]
    fn what_a_mount_can_bring_is_lacking() {
        for (pod, expected) in [
            (pod("new", None), false),
            (pod("old", None), true),
            (pod("", None), false),
            (PodView { server: None, ..pod("old", None) }, false),
            (PodView { made_for: Some("s".into()), ..pod("old", None) }, true),
            (PodView { made_for: Some("other".into()), ..pod("old", None) }, false),
            (pod("new", Some(reason::SECRET_NOT_FOUND)), true),
            (pod("new", Some(reason::CREDENTIAL_HOST_MISMATCH)), true),
            (pod("new", Some(reason::INVALID_SPEC)), false),
        ] {
            assert_eq!(lacks(&pod, WANTED), expected, "{pod:?}");
        }
    }

    #[test]
    fn a_pod_is_touched_at_once_then_ever_later_and_five_times_at_most() {
        let start = Instant::now();
        let second = |second: u64| start + Duration::from_secs(second);
        let nothing: &[String] = &[];
        let mut last: Option<Touch> = None;
        let mut touched = Vec::new();
        for at in 0..200 {
            match next(last.as_ref(), None, "h", nothing, second(at)) {
                Next::Touch(attempt) => {
                    touched.push((at, attempt));
                    last = Some(Touch { hash: "h".into(), lacked: vec![], attempt, at: second(at) });
                }
                Next::Wait(wait) => assert!(wait <= Duration::from_secs(40)),
                Next::GiveUp => assert!(at > 75),
            }
        }
        assert_eq!(touched, [(0, 1), (5, 2), (15, 3), (35, 4), (75, 5)]);
        let mismatch = [reason::CREDENTIAL_HOST_MISMATCH.to_owned()];
        for (case, last, annotation, hash, lacked, expected) in [
            ("another configuration", last.as_ref(), Some("h.5"), "other", nothing, 1),
            ("another reason", last.as_ref(), Some("h.5"), "h", &mismatch[..], 1),
            ("it was well between", None, Some("h.5"), "h", nothing, 1),
            ("the same value would change nothing", None, Some("h.1"), "h", nothing, 2),
        ] {
            assert_eq!(next(last, annotation, hash, lacked, second(200)), Next::Touch(expected), "{case}");
        }
    }

    #[test]
    fn what_is_no_longer_lacking_is_forgotten() {
        let toucher = Toucher::default();
        let key = ObjectKey { namespace: "chat".into(), name: "demo".into() };
        let due = |pods: Vec<PodView>| toucher.due(&key, WANTED, &Observed { pods }, |_| None);
        let first = || [("demo-x".to_owned(), vec![], Next::Touch(1))];
        assert_eq!(due(vec![pod("old", None)]), first());
        toucher.0.lock().unwrap().entry(key.clone()).or_default().insert(
            "demo-x".into(),
            Touch { hash: "new".into(), lacked: vec![], attempt: 5, at: Instant::now() },
        );
        assert_eq!(due(vec![pod("old", None)]), [("demo-x".to_owned(), vec![], Next::GiveUp)]);
        assert_eq!(due(vec![pod("new", None)]), []);
        assert_eq!(due(vec![pod("old", None)]), first());
    }
}
