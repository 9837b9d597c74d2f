//! `ConfigApplied` and `status.config`. In: the configuration that was written, and what the pods' servers say that they run.
//! Out: whether every ready pod runs it, and if not, why and what to do.

use super::{Claim, Subject};
use crate::constants::{port, reason};
use crate::controller::pods::{Observed, PodView};
use crate::crd::ConfigStatus;
use crate::server::config::ServerConfig;

/// What is known of the way of a configuration to the pods.
pub(super) struct Configuration {
    /// The condition.
    pub(super) claim: Claim,
    /// The same in numbers.
    pub(super) status: ConfigStatus,
    /// Whether something is to be waited for: a pod that cannot be reached is not.
    pub(super) under_way: bool,
}

/// Where a ready pod stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing<'a> {
    Runs,
    /// It has not said yet.
    Silent,
    /// It has been silent for too long.
    Unreachable,
    /// It runs another one.
    Older,
    /// It was made for another one: a new pod takes its place.
    Replaced,
    /// It runs another one and does not want this one.
    Refuses(&'a str),
}

fn standing<'a>(pod: &'a PodView, hash: &str, static_hash: &str) -> Standing<'a> {
    let report = match &pod.server {
        _ if pod.unreachable => return Standing::Unreachable,
        None => return Standing::Silent,
        Some(report) if report.config_hash == hash => return Standing::Runs,
        Some(report) if report.config_hash.is_empty() => return Standing::Silent,
        Some(report) => report,
    };
    if pod.made_for.as_deref().is_some_and(|made_for| made_for != static_hash) {
        return Standing::Replaced;
    }
    // One that is not JSON has no hash; any other one that was refused is not this one.
    match &report.rejected {
        Some(rejected) if rejected.hash.as_deref().is_none_or(|refused| refused == hash) => {
            Standing::Refuses(&rejected.message)
        }
        _ => Standing::Older,
    }
}

/// Judges the pods' word on `config`, of which `wanted` pods are to run it.
pub(super) fn judge(
    subject: &Subject,
    config: &ServerConfig,
    wanted: i32,
    observed: &Observed,
) -> Configuration {
    let (hash, static_hash, generation) = (config.hash(), config.static_hash(), config.identity.generation);
    let ready: Vec<(&PodView, Standing)> = observed
        .pods
        .iter()
        .filter(|pod| pod.ready)
        .map(|pod| (pod, standing(pod, &hash, &static_hash)))
        .collect();
    let running = ready.iter().filter(|(_, standing)| *standing == Standing::Runs).count();
    let should = usize::try_from(wanted).unwrap_or(0).max(ready.len());
    let counts =
        format!("{running} of {} ready pods run configuration {hash} (generation {generation})", ready.len());
    let namespace = &subject.namespace;
    let find = |wanted: &dyn Fn(Standing) -> bool| ready.iter().find(|(_, standing)| wanted(*standing));
    let refusal = ready.iter().find_map(|(pod, standing)| match standing {
        Standing::Refuses(message) => Some((pod, message)),
        _ => None,
    });
    let claim = if let Some((pod, message)) = refusal {
        // What a server says of a Secret holds the command; of other things it says what is wrong.
        let see = if message.contains("Fix") {
            String::new()
        } else {
            format!(
                ". Fix: change the spec; what the pod says: kubectl -n {namespace} logs {} --tail=20",
                pod.name
            )
        };
        let told =
            format!("pod \"{}\" keeps its last good configuration ({counts}): {message}{see}", pod.name);
        Claim::no(reason::REJECTED, told)
    } else if let Some((pod, _)) = find(&|standing| standing == Standing::Older) {
        let told = format!(
            "{counts}, \"{0}\" not yet: its node brings it, usually within seconds and within 100 s at most. If it stays: kubectl -n {namespace} delete pod {0}",
            pod.name
        );
        Claim::no(reason::PROPAGATING, told)
    } else if let Some((pod, _)) = find(&|standing| standing == Standing::Replaced) {
        let told = format!(
            "{counts}: pods such as \"{0}\" were made for an older one and are replaced. See how far: kubectl -n {namespace} rollout status deployment/{1}",
            pod.name, subject.name
        );
        Claim::no(reason::PROPAGATING, told)
    } else if let Some((pod, _)) = find(&|standing| standing == Standing::Silent) {
        let told = format!(
            "{counts}, \"{0}\" has not answered yet. If it stays: kubectl -n {namespace} logs {0}",
            pod.name
        );
        Claim::no(reason::PROPAGATING, told)
    } else if let Some((pod, _)) = find(&|standing| standing == Standing::Unreachable) {
        let told = format!(
            "{counts}; \"{0}\" has not answered the operator on port {1} for two minutes, so what it runs is not known. Fix: let the operator's pods reach that port, or see: kubectl -n {namespace} logs {0}",
            pod.name,
            port::ADMIN
        );
        Claim::unknown(reason::PODS_UNREACHABLE, told)
    } else if ready.is_empty() && wanted > 0 {
        let told = format!(
            "no pod is ready yet, so none runs configuration {hash} (generation {generation}). See why: kubectl -n {namespace} describe chat/{}",
            subject.name
        );
        Claim::no(reason::PROPAGATING, told)
    } else {
        Claim::yes(reason::APPLIED, format!("{counts}{}", ignored(observed)))
    };
    let waited_for = |standing: Standing| !matches!(standing, Standing::Runs | Standing::Unreachable);
    let under_way = find(&waited_for).is_some();
    let status = ConfigStatus { generation, hash, applied: format!("{running}/{should}") };
    Configuration { claim, status, under_way }
}

/// Fields that a server does not know, because it is older than the operator: they have no effect.
fn ignored(observed: &Observed) -> String {
    let unknown = observed.pods.iter().find_map(|pod| {
        let fields = &pod.server.as_ref()?.unknown_fields;
        (!fields.is_empty()).then(|| (&pod.name, fields.join(", ")))
    });
    unknown.map_or_else(String::new, |(pod, fields)| {
        format!("; pod \"{pod}\" is older than the operator and ignores {fields}: leave spec.image out, or name a newer one")
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{runs, service, subject};
    use super::*;
    use crate::admin::RejectedConfig;
    use crate::crd::ChatServiceStatus;

    #[test]
    fn a_configuration_is_applied_when_every_ready_pod_says_so() {
        let config = service().config;
        let current = runs(&config.hash());
        let older = runs("old");
        let rejects = |hash: Option<&str>| {
            let mut pod = runs("old");
            let rejected = RejectedConfig { hash: hash.map(str::to_owned), message: "its host".into() };
            pod.server.as_mut().unwrap().rejected = Some(rejected);
            pod
        };
        let silent = PodView { server: None, ..current.clone() };
        let lost = PodView { unreachable: true, ..silent.clone() };
        let made_before = PodView { made_for: Some("other".into()), ..rejects(None) };
        let unready = PodView { ready: false, ..older.clone() };
        let mut newer = current.clone();
        newer.server.as_mut().unwrap().unknown_fields = vec!["dynamic.future".into()];
        let fix = "kubectl -n chat delete pod demo-x";
        for (case, pods, status, reason, applied, under_way, part) in [
            ("all", vec![&current, &current], "True", reason::APPLIED, "2/2", false, "2 of 2"),
            ("one older", vec![&older, &current], "False", reason::PROPAGATING, "1/2", true, fix),
            (
                "a third one older",
                vec![&current, &current, &older],
                "False",
                reason::PROPAGATING,
                "2/3",
                true,
                fix,
            ),
            (
                "not asked yet",
                vec![&current, &silent],
                "False",
                reason::PROPAGATING,
                "1/2",
                true,
                "not answered yet",
            ),
            (
                "unreachable",
                vec![&current, &lost],
                "Unknown",
                reason::PODS_UNREACHABLE,
                "1/2",
                false,
                "port 9090",
            ),
            ("one of each", vec![&older, &lost], "False", reason::PROPAGATING, "0/2", true, fix),
            (
                "refused",
                vec![&current, &rejects(Some(&config.hash()))],
                "False",
                reason::REJECTED,
                "1/2",
                true,
                "its host",
            ),
            ("cannot be read", vec![&rejects(None)], "False", reason::REJECTED, "0/2", true, "its host"),
            (
                "refused another one",
                vec![&rejects(Some("x"))],
                "False",
                reason::PROPAGATING,
                "0/2",
                true,
                fix,
            ),
            (
                "of an older template",
                vec![&made_before],
                "False",
                reason::PROPAGATING,
                "0/2",
                true,
                "rollout status",
            ),
            ("not ready", vec![&current, &unready], "True", reason::APPLIED, "1/2", false, "1 of 1"),
            ("none ready", vec![&unready], "False", reason::PROPAGATING, "0/2", false, "describe chat/demo"),
            ("no pod", vec![], "False", reason::PROPAGATING, "0/2", false, "describe chat/demo"),
            (
                "an older server",
                vec![&newer],
                "True",
                reason::APPLIED,
                "1/2",
                false,
                "ignores dynamic.future",
            ),
        ] {
            let pods = pods.into_iter().cloned().collect();
            let subject = subject(ChatServiceStatus::default());
            let Configuration { claim, status: numbers, under_way: waits } =
                judge(&subject, &config, 2, &Observed { pods });
            assert_eq!((claim.status, claim.reason, waits), (status, reason, under_way), "{case}");
            assert_eq!(numbers.applied, applied, "{case}");
            assert_eq!((numbers.hash, numbers.generation), (config.hash(), 7), "{case}");
            assert!(claim.message.contains(part), "{case}: {}", claim.message);
        }
    }

    #[test]
    fn a_service_without_pods_has_nothing_to_apply() {
        let subject = subject(ChatServiceStatus::default());
        let Configuration { claim, status, .. } = judge(&subject, &service().config, 0, &Observed::default());
        assert_eq!((claim.status, claim.reason, status.applied.as_str()), ("True", reason::APPLIED, "0/0"));
    }
}
