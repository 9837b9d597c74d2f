//! The operators that are installed. In: their Deployments, Leases and pods. Out: whether they run and one of them leads, and what they
//! wait for.

use http::{Request, StatusCode};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::{DEADLINE, Diagnosis, PAGE, State, ask};
use crate::constants::LEASE;
use crate::controller::pods;
use crate::leader_election::LEASE_DURATION;

/// What marks the operator's Deployment, as the chart makes it.
const OPERATOR: &str = "app.kubernetes.io/part-of=chatservice,app.kubernetes.io/component=controller";
const INSTALL: &str = "helm install chatservice charts/chatservice-operator --namespace chatservice-system --create-namespace --set image.repository=YOUR/chatservice";

/// An operator that is installed.
pub(super) struct Installed {
    pub(super) namespace: String,
    pub(super) name: String,
    account: String,
    /// Empty: all.
    pub(super) watches: Vec<String>,
    pub(super) lease: String,
}

impl Installed {
    fn of(deployment: &Deployment) -> Self {
        let pod = deployment.spec.template.spec.clone().unwrap_or_default();
        let args: Vec<String> =
            pod.containers.into_iter().flat_map(|container| container.args.unwrap_or_default()).collect();
        let value = |flag: &str| args.iter().find_map(|arg| arg.strip_prefix(flag)?.strip_prefix('='));
        let watches = value("--watch-namespaces").unwrap_or_default();
        Self {
            namespace: deployment.namespace().unwrap_or_default(),
            name: deployment.name_any(),
            account: pod.service_account_name.unwrap_or_else(|| "default".to_owned()),
            watches: watches.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            lease: value("--lease-name").unwrap_or(LEASE).to_owned(),
        }
    }

    pub(super) fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.account)
    }
}

/// Looks at all of them.
pub(super) async fn look(client: &Client, found: &mut Diagnosis) -> Vec<Installed> {
    let api: Api<Deployment> = Api::all(client.clone());
    let deployments = match ask(api.list(&ListParams::default().labels(OPERATOR))).await {
        Ok(list) => list.items,
        Err(error) => {
            found.check("operator", State::Unknown, format!("Deployments cannot be listed: {error}"));
            return Vec::new();
        }
    };
    if deployments.is_empty() {
        found.check("operator", State::Ill, "not installed");
        found.problem("No operator is installed.", "No Deployment has the labels of its chart.", INSTALL);
    }
    let mut all = Vec::new();
    for deployment in &deployments {
        let operator = Installed::of(deployment);
        let status = deployment.status.clone().unwrap_or_default();
        let (ready, wanted) = (status.ready_replicas.unwrap_or(0), deployment.spec.replicas.unwrap_or(1));
        let leads = leader(client, &operator).await;
        let place = format!("{}/{}", operator.namespace, operator.name);
        let counts = format!("{place}: {ready} of {wanted} pods are ready");
        let well = ready >= wanted.max(1) && leads.is_ok();
        let says = leads.as_ref().map_or_else(|_| counts.clone(), |leads| format!("{counts}, {leads}"));
        found.check("operator", if well { State::Well } else { State::Ill }, says);
        if ready < wanted.max(1) {
            let fix = format!(
                "kubectl -n {} logs deployment/{} says what it waits for; without pods: kubectl -n {0} describe deployment {1}",
                operator.namespace, operator.name
            );
            let details = waiting(client, &operator, deployment).await;
            found.problem(format!("The operator {counts}."), details, fix);
        } else if let Err(details) = leads {
            found.problem(
                format!("Of the operator {place} no process leads, so nothing is changed."),
                details,
                format!("kubectl -n {} rollout restart deployment/{}", operator.namespace, operator.name),
            );
        }
        all.push(operator);
    }
    all
}

/// Who leads, or why nobody does.
async fn leader(client: &Client, operator: &Installed) -> Result<String, String> {
    let api: Api<Lease> = Api::namespaced(client.clone(), &operator.namespace);
    let lease = match ask(api.get_opt(&operator.lease)).await {
        Ok(lease) => lease.and_then(|lease| lease.spec).unwrap_or_default(),
        // Not to be allowed to look is no problem of the operator.
        Err(error) => return Ok(format!("its Lease cannot be read: {error}")),
    };
    let holder = lease.holder_identity.filter(|holder| !holder.is_empty());
    let Some(holder) = holder else { return Err(format!("Nobody holds the Lease \"{}\".", operator.lease)) };
    let age = lease.renew_time.map(|time| Timestamp::now().as_second() - time.0.as_second());
    // Twice, because the clocks of two machines are compared here.
    let oldest = i64::try_from(LEASE_DURATION.as_secs() * 2).unwrap_or(i64::MAX);
    match age {
        Some(age) if age <= oldest => Ok(format!("\"{holder}\" leads")),
        Some(age) => Err(format!("\"{holder}\" renewed the Lease \"{}\" {age} s ago.", operator.lease)),
        None => Err(format!("\"{holder}\" never renewed the Lease \"{}\".", operator.lease)),
    }
}

/// What its pods say they wait for, and what the kubelet says of them.
async fn waiting(client: &Client, operator: &Installed, deployment: &Deployment) -> String {
    let api: Api<Pod> = Api::namespaced(client.clone(), &operator.namespace);
    let selector = deployment.spec.selector.match_labels.clone().unwrap_or_default();
    let selector = selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
    let Ok(list) = ask(api.list(&ListParams::default().labels(&selector).limit(PAGE))).await else {
        return String::new();
    };
    let mut lines = Vec::new();
    for pod in &list.items {
        let view = pods::view(pod);
        if view.ready {
            continue;
        }
        match view.trouble {
            Some(trouble) => lines.push(trouble.message),
            None => lines.extend(readyz(client, &operator.namespace, &view.name).await),
        }
    }
    lines.join("\n")
}

/// `/readyz` of a pod, through the API server.
async fn readyz(client: &Client, namespace: &str, pod: &str) -> Option<String> {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:9090/proxy/readyz");
    let request = Request::get(path).body(kube::client::Body::empty()).ok()?;
    let response = ask(client.send(request)).await.ok()?;
    if response.status() != StatusCode::SERVICE_UNAVAILABLE {
        return None;
    }
    let body = tokio::time::timeout(DEADLINE, response.into_body().collect_bytes()).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&body).trim().to_owned();
    text.starts_with("not ready").then(|| format!("pod \"{pod}\" is {text}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_operator_is_read_from_its_deployment() {
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": { "name": "op", "namespace": "system" },
            "spec": { "selector": {}, "template": { "spec": {
                "serviceAccountName": "account",
                "containers": [{ "name": "controller", "args": ["controller", "--watch-namespaces=a,b", "--lease-name=op"] }],
            } } },
        }))
        .unwrap();
        let operator = Installed::of(&deployment);
        assert_eq!(operator.user(), "system:serviceaccount:system:account");
        assert_eq!(operator.watches, ["a", "b"]);
        assert_eq!(operator.lease, "op");
    }
}
