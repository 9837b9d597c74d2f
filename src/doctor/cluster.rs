//! What the cluster has to have. In: its API server. Out: whether it answers and is new enough, whether the CRD is of this version, and
//! whether there are metrics to scale by.

use http::Request;
use kube::{Client, Config};
use serde_json::Value;

use super::services::Service;
use super::{Diagnosis, DoctorOptions, State, ask};
use crate::controller::crd_guard::{self, Verdict};

/// The oldest Kubernetes that the operator is made for, by its minor version.
const OLDEST_MINOR: u32 = 33;

/// Whether there is an answer at all.
pub(super) async fn api_server(client: &Client, config: &Config, found: &mut Diagnosis) -> bool {
    let url = &config.cluster_url;
    found.title = format!("ChatService {} looks at {url}", env!("CARGO_PKG_VERSION"));
    let version = match ask(client.apiserver_version()).await {
        Ok(version) => version,
        Err(error) => {
            found.check("API server", State::Ill, "no answer");
            found.problem(
                format!("The API server at {url} cannot be asked."),
                error.to_string(),
                "kubectl cluster-info says whether kubectl can; choose a context: kubectl config use-context NAME",
            );
            return false;
        }
    };
    let minor: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
    if minor.parse::<u32>().is_ok_and(|minor| minor < OLDEST_MINOR) {
        found.check("API server", State::Ill, format!("Kubernetes {}", version.git_version));
        found.problem(
            format!("Kubernetes {} is older than 1.{OLDEST_MINOR}.", version.git_version),
            "",
            "upgrade the cluster, or use another one",
        );
    } else {
        found.check("API server", State::Well, format!("Kubernetes {}", version.git_version));
    }
    true
}

/// Whether there is a CRD at all.
pub(super) async fn definition(client: &Client, options: &DoctorOptions, found: &mut Diagnosis) -> bool {
    let fix = crd_guard::fix(&options.program);
    match crd_guard::look(client).await {
        Verdict::Current => found.check("CRD", State::Well, "has every field of this version"),
        Verdict::Missing => {
            found.check("CRD", State::Ill, "not installed");
            found.problem("The CRD chatservices.chatservice.dev is not installed.", "", fix);
            return false;
        }
        Verdict::Outdated(fields) => {
            found.check("CRD", State::Ill, "older than this version");
            let lacks = format!("It lacks {}: such fields have no effect.", crd_guard::named(&fields));
            found.problem("The CRD chatservices.chatservice.dev is older than this version.", lacks, fix);
        }
        Verdict::Hidden => found.check("CRD", State::Unknown, "you may not read /openapi/v3"),
        Verdict::Unknown(error) => found.check("CRD", State::Unknown, error),
    }
    true
}

/// Autoscaling by CPU or memory needs it.
pub(super) async fn metrics_api(client: &Client, services: &[Service], found: &mut Diagnosis) {
    let scaled = services.iter().filter(|service| service.seen.spec.get("autoscaling").is_some()).count();
    if scaled == 0 {
        return found.check("metrics API", State::Unknown, "not needed: no ChatService is autoscaled");
    }
    let Ok(request) = Request::get("/apis/metrics.k8s.io/v1beta1/nodes?limit=1").body(Vec::new()) else {
        return;
    };
    match ask(client.request::<Value>(request)).await {
        Ok(_) => found.check("metrics API", State::Well, format!("answers; {scaled} ChatServices need it")),
        Err(kube::Error::Api(status)) if status.is_forbidden() => {
            found.check("metrics API", State::Well, format!("is installed; {scaled} ChatServices need it"));
        }
        Err(error) => {
            found.check("metrics API", State::Ill, format!("no answer; {scaled} ChatServices need it"));
            found.problem(
                "The metrics API does not answer, so nothing is scaled by CPU or memory.",
                error.to_string(),
                "kubectl apply -f https://github.com/kubernetes-sigs/metrics-server/releases/latest/download/components.yaml; where it is installed: kubectl describe apiservice v1beta1.metrics.k8s.io",
            );
        }
    }
}
