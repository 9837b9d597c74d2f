//! `chatservice doctor`: what is wrong with an installation, and what to do. In: a cluster, with the permissions of
//! whoever asks. Out: a line for each thing that was looked at, then numbered problems with their fixes. Only reads.
//!
//! What pods and Redis have to say is taken from where the operator put it, the status of the ChatServices: from here
//! neither may be reachable.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::future::Future;
use std::time::Duration;

use futures::{StreamExt, stream};
use http::{Request, StatusCode};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, ListParams, PostParams};
use kube::{Api, Client, Config, ResourceExt};
use serde::Deserialize;
use serde_json::Value;

use crate::constants::{LEASE, condition, label, reason};
use crate::controller::crd_guard::{self, Verdict};
use crate::controller::names::ServiceName;
use crate::controller::pods;
use crate::controller::rbac::{OWN_RULES, RULES, Rule};
use crate::controller::request::qualified;
use crate::crd::ChatService;
use crate::leader_election::LEASE_DURATION;

/// For one request.
const DEADLINE: Duration = Duration::from_secs(5);
/// Requests at once.
const AT_ONCE: usize = 8;
/// Objects of one list that are looked at; a page.
const PAGE: u32 = 500;
/// What marks the operator's Deployment, as the chart makes it.
const OPERATOR: &str = "app.kubernetes.io/part-of=chatservice,app.kubernetes.io/component=controller";
/// The oldest Kubernetes that the operator is made for, by its minor version.
const OLDEST_MINOR: u32 = 33;
const INSTALL: &str = "helm install chatservice charts/chatservice-operator --namespace chatservice-system --create-namespace --set image.repository=YOUR/chatservice";

/// What `doctor` is told.
#[derive(Clone, Debug, Default)]
pub struct DoctorOptions {
    /// Whose ChatServices are looked at; None: those of all namespaces.
    pub namespace: Option<String>,
    /// What runs this program, for the commands that are printed.
    pub program: String,
}

/// How a thing that was looked at is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Well.
    Well,
    /// It could not be found out, or does not matter here.
    Unknown,
    /// Something is wrong with it.
    Ill,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name.
    pub what: &'static str,
    /// How it is.
    pub state: State,
    /// The same in words.
    pub says: String,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What, and where.
    pub what: String,
    /// More about it; may be empty.
    pub details: String,
    /// What to do.
    pub fix: String,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// The cluster, and who asked.
    pub title: String,
    /// In the order in which it was looked at.
    pub checks: Vec<Check>,
    /// The most basic first.
    pub problems: Vec<Problem>,
}

impl Diagnosis {
    fn check(&mut self, what: &'static str, state: State, says: impl Into<String>) {
        self.checks.push(Check { what, state, says: says.into() });
    }

    fn problem(&mut self, what: impl Into<String>, details: impl Into<String>, fix: impl Into<String>) {
        let problem = Problem { what: what.into(), details: details.into(), fix: fix.into() };
        // The same cause may be met twice, for instance as Ready and as Stalled.
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// As people read it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{}\n\n", self.title);
        let width = self.checks.iter().map(|check| check.what.len()).max().unwrap_or(0);
        for Check { what, state, says } in &self.checks {
            let state = match state {
                State::Well => "ok",
                State::Unknown => "-",
                State::Ill => "FAIL",
            };
            let _ = writeln!(text, "  {state:<4}  {what:<width$}  {says}");
        }
        if self.problems.is_empty() {
            text.push_str("\nNothing is wrong.\n");
        }
        for (number, Problem { what, details, fix }) in self.problems.iter().enumerate() {
            let _ = writeln!(text, "\n{}. {what}", number + 1);
            for line in details.lines().filter(|line| !line.trim().is_empty()) {
                let _ = writeln!(text, "   {line}");
            }
            let _ = writeln!(text, "   Fix: {fix}");
        }
        text
    }
}

/// Why nothing could be looked at, or that something is wrong.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// There is no cluster to ask.
    #[error(
        "cannot find out how to reach the API server: {0}. Run it in a cluster, or set KUBECONFIG to a readable file"
    )]
    Configuration(Box<dyn std::error::Error + Send + Sync>),
    /// The sum of a diagnosis that was shown.
    #[error("{0}")]
    Problems(String),
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
}

/// Looks at everything and shows what was found.
///
/// # Errors
/// There is no cluster to ask, or something is wrong in it.
pub async fn run(options: DoctorOptions) -> Result<(), DoctorError> {
    let config = Config::infer().await.map_err(|error| DoctorError::Configuration(Box::new(error)))?;
    let diagnosis = diagnose(config, &options).await?;
    crate::output::print(&diagnosis.text())?;
    match diagnosis.problems.len() {
        0 => Ok(()),
        1 => Err(DoctorError::Problems("1 problem was found".to_owned())),
        many => Err(DoctorError::Problems(format!("{many} problems were found"))),
    }
}

/// Looks at everything.
///
/// # Errors
/// The configuration cannot be used.
pub async fn diagnose(mut config: Config, options: &DoctorOptions) -> Result<Diagnosis, DoctorError> {
    config.connect_timeout = Some(DEADLINE);
    config.default_retry = false;
    let client = Client::try_from(config.clone());
    let client = client.map_err(|error| DoctorError::Configuration(Box::new(error)))?;
    let mut found = Diagnosis::default();
    if !api_server(&client, &config, &mut found).await {
        return Ok(found);
    }
    let installed = definition(&client, options, &mut found).await;
    let operators = operators(&client, &mut found).await;
    permissions(&client, &config, &operators, &mut found).await;
    if installed {
        let services = services(&client, options, &mut found).await;
        redis(&services, &mut found);
        metrics_api(&client, &services, &mut found).await;
    }
    Ok(found)
}

/// One request within its deadline; why there is no answer, in words.
async fn ask<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, kube::Error> {
    let timed_out = || kube::Error::Service(format!("no answer within {} s", DEADLINE.as_secs()).into());
    tokio::time::timeout(DEADLINE, request).await.unwrap_or_else(|_| Err(timed_out()))
}

/// Whether there is an answer at all.
async fn api_server(client: &Client, config: &Config, found: &mut Diagnosis) -> bool {
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
async fn definition(client: &Client, options: &DoctorOptions, found: &mut Diagnosis) -> bool {
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

/// An operator that is installed.
struct Installed {
    namespace: String,
    name: String,
    account: String,
    /// Empty: all.
    watches: Vec<String>,
    lease: String,
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

    fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.account)
    }
}

async fn operators(client: &Client, found: &mut Diagnosis) -> Vec<Installed> {
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

/// Asks, as the operator, whether it may do what it has to.
async fn permissions(client: &Client, config: &Config, operators: &[Installed], found: &mut Diagnosis) {
    let me = ask(Api::<SelfSubjectReview>::all(client.clone())
        .create(&PostParams::default(), &SelfSubjectReview::default()))
    .await;
    let me = me.ok().and_then(|review| review.status?.user_info?.username).unwrap_or_default();
    for operator in operators {
        let user = operator.user();
        let asking = if me == user { Ok(client.clone()) } else { impersonate(config, &user) };
        let Ok(asking) = asking else { continue };
        match missing(&asking, operator).await {
            Ok((all, missing)) if missing.is_empty() => {
                found.check("permissions", State::Well, format!("{user} has all {all}"));
            }
            Ok((all, missing)) => {
                found.check("permissions", State::Ill, format!("{user} lacks {} of {all}", missing.len()));
                found.problem(
                    format!("The operator's account {user} lacks permissions."),
                    missing.join("\n"),
                    "helm upgrade the operator's chart, whose roles hold every rule it needs (with rbac.create=false: add these rules to yours)",
                );
            }
            Err(error) => found.check(
                "permissions",
                State::Unknown,
                format!("{error}. In its pod it can be asked: kubectl -n {} exec deployment/{} -- /chatservice doctor", operator.namespace, operator.name),
            ),
        }
    }
}

fn impersonate(config: &Config, user: &str) -> kube::Result<Client> {
    let mut config = config.clone();
    config.auth_info.impersonate = Some(user.to_owned());
    Client::try_from(config)
}

/// How many permissions there have to be, and those that are missing, in words.
async fn missing(client: &Client, operator: &Installed) -> Result<(usize, Vec<String>), String> {
    let mut wanted = Vec::new();
    let everywhere = [String::new()];
    let scopes: &[String] = if operator.watches.is_empty() { &everywhere } else { &operator.watches };
    for namespace in scopes {
        wanted.extend(single(RULES, namespace, ""));
    }
    wanted.extend(single(OWN_RULES, &operator.namespace, &operator.lease));
    let api: &Api<SelfSubjectAccessReview> = &Api::all(client.clone());
    let answers: Vec<Result<Option<String>, kube::Error>> = stream::iter(wanted)
        .map(|attributes| async move {
            let place = match attributes.namespace.as_deref() {
                Some("") | None => "in all namespaces".to_owned(),
                Some(namespace) => format!("in namespace \"{namespace}\""),
            };
            let text = |value: &Option<String>| value.clone().unwrap_or_default();
            let resource = qualified(&text(&attributes.group), &text(&attributes.resource));
            let subresource =
                attributes.subresource.as_ref().map(|sub| format!("/{sub}")).unwrap_or_default();
            let line = format!("It may not {} {resource}{subresource} {place}.", text(&attributes.verb));
            let review = SelfSubjectAccessReview {
                spec: SelfSubjectAccessReviewSpec {
                    resource_attributes: Some(attributes),
                    ..SelfSubjectAccessReviewSpec::default()
                },
                ..SelfSubjectAccessReview::default()
            };
            let answer = ask(api.create(&PostParams::default(), &review)).await?;
            Ok(answer.status.is_none_or(|status| !status.allowed).then_some(line))
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    let all = answers.len();
    let mut missing = Vec::new();
    for answer in answers {
        match answer {
            Ok(line) => missing.extend(line),
            Err(kube::Error::Api(status)) if status.is_forbidden() => {
                return Err(
                    "you may not impersonate the operator's account, so its permissions were not looked at"
                        .to_owned(),
                );
            }
            Err(error) => return Err(format!("its permissions cannot be asked for: {error}")),
        }
    }
    Ok((all, missing))
}

/// Rules as single questions. `name`: the only object that is meant; none for what has no name when it is made.
fn single(rules: &[Rule], namespace: &str, name: &str) -> Vec<ResourceAttributes> {
    let mut all = Vec::new();
    for rule in rules {
        for &resource in rule.resources {
            let (resource, subresource) = match resource.split_once('/') {
                Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
                None => (resource, None),
            };
            all.extend(rule.verbs.iter().map(|&verb| ResourceAttributes {
                group: Some(rule.group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource: subresource.clone(),
                verb: Some(verb.to_owned()),
                namespace: Some(namespace.to_owned()),
                name: Some(name.to_owned()).filter(|name| !name.is_empty() && verb != "create"),
                ..ResourceAttributes::default()
            }));
        }
    }
    all
}

/// The part of a ChatService that is looked at. Read leniently: one that is damaged must not hide the others.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Seen {
    spec: Value,
    status: SeenStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SeenStatus {
    conditions: Vec<SeenCondition>,
    redis: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SeenCondition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
    reason: String,
    message: String,
}

struct Service {
    namespace: String,
    name: String,
    seen: Seen,
}

impl Service {
    fn place(&self) -> String {
        format!("ChatService \"{}\" in namespace \"{}\"", self.name, self.namespace)
    }

    fn condition(&self, type_: &str) -> Option<&SeenCondition> {
        self.seen.status.conditions.iter().find(|condition| condition.type_ == type_)
    }
}

async fn services(client: &Client, options: &DoctorOptions, found: &mut Diagnosis) -> Vec<Service> {
    let kind = ApiResource::erase::<ChatService>(&());
    let api: Api<DynamicObject> = match &options.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &kind),
        None => Api::all_with(client.clone(), &kind),
    };
    let mut all = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = match ask(api.list(&params)).await {
            Ok(page) => page,
            Err(error) => {
                found.check("ChatServices", State::Unknown, format!("cannot be listed: {error}"));
                return all;
            }
        };
        params.continue_token = page.metadata.continue_.clone().filter(|token| !token.is_empty());
        all.extend(page.items.into_iter().map(|object| Service {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            seen: serde_json::from_value(object.data).unwrap_or_default(),
        }));
        if params.continue_token.is_none() {
            break;
        }
    }
    let before = found.problems.len();
    for service in &all {
        judge(service, found);
    }
    let ready = |service: &&Service| service.condition(condition::READY).is_some_and(|c| c.status == "True");
    let well = found.problems.len() == before;
    let says = format!("{} of {} are Ready", all.iter().filter(ready).count(), all.len());
    found.check("ChatServices", if well { State::Well } else { State::Ill }, says);
    pods_of(client, &all, found).await;
    all
}

/// What a ChatService says of itself.
fn judge(service: &Service, found: &mut Diagnosis) {
    let place = service.place();
    let Some(ready) = service.condition(condition::READY) else {
        return found.problem(
            format!("{place} has no status."),
            "No operator has looked at it.",
            format!(
                "see that an operator runs that watches namespace \"{}\" (chart: watchNamespaces)",
                service.namespace
            ),
        );
    };
    if ready.reason == reason::PAUSED {
        return;
    }
    for condition in &service.seen.status.conditions {
        // Reconciling and Stalled are bad when true, and said by Ready then; the others are good when true.
        if condition.status != "False"
            || [condition::RECONCILING, condition::STALLED].contains(&condition.type_.as_str())
            || [reason::PROGRESSING, "Disabled"].contains(&condition.reason.as_str())
        {
            continue;
        }
        let what = format!("{place} is not {}: {}.", condition.type_, condition.reason);
        let (details, fix) = condition.message.split_once(" Fix: ").unwrap_or((&condition.message, ""));
        let look = format!("kubectl -n {} describe chat/{}", service.namespace, service.name);
        found.problem(what, details, if fix.is_empty() { look } else { fix.to_owned() });
    }
}

/// What the kubelet says of pods whose ChatService does not say it already.
async fn pods_of(client: &Client, services: &[Service], found: &mut Diagnosis) {
    let mut ill = 0;
    let mut known = true;
    let mut seen = 0;
    for service in services {
        if service.condition(condition::READY).is_some_and(|ready| ready.status == "True") {
            continue;
        }
        let Some(name) = ServiceName::new(&service.name) else { continue };
        let api: Api<Pod> = Api::namespaced(client.clone(), &service.namespace);
        let params = ListParams::default().labels(&name.selector_text()).limit(PAGE);
        let Ok(list) = ask(api.list(&params)).await else {
            known = false;
            continue;
        };
        let troubles: BTreeSet<String> =
            list.iter().filter_map(|pod| pods::view(pod).trouble).map(|trouble| trouble.message).collect();
        seen += list.items.len();
        for message in troubles {
            ill += 1;
            let said = service.seen.status.conditions.iter().any(|condition| condition.message == message);
            if said {
                continue;
            }
            let (details, fix) = message.split_once(" Fix: ").unwrap_or((&message, ""));
            let look = format!("kubectl -n {} describe pods -l {}", service.namespace, name.selector_text());
            let fix = if fix.is_empty() { look } else { fix.to_owned() };
            found.problem(format!("A pod of {} is in trouble.", service.place()), details, fix);
        }
    }
    match (ill, known) {
        (0, true) if seen == 0 => {}
        (0, true) => found.check("pods", State::Well, "none of those that are not ready is in trouble"),
        (0, false) => found.check("pods", State::Unknown, "cannot be listed"),
        (ill, _) => found.check("pods", State::Ill, format!("{ill} are in trouble")),
    }
}

/// Redis as the pods saw it last.
fn redis(services: &[Service], found: &mut Diagnosis) {
    let using: Vec<&Service> =
        services.iter().filter(|service| service.seen.spec.get("redis").is_some()).collect();
    if using.is_empty() {
        return found.check("Redis", State::Unknown, "not needed: no ChatService uses it");
    }
    let away: Vec<&&Service> =
        using.iter().filter(|service| service.seen.status.redis.as_deref() == Some("Unreachable")).collect();
    let state = if away.is_empty() { State::Well } else { State::Ill };
    found.check("Redis", state, format!("{} of {} reach theirs", using.len() - away.len(), using.len()));
    for service in away {
        // Where a condition says more, it was said above.
        if service.condition("StateShared").is_some_and(|shared| shared.status == "False") {
            continue;
        }
        let secret = service.seen.spec.pointer("/redis/secretRef/name").and_then(Value::as_str).unwrap_or("");
        found.problem(
            format!("The pods of {} do not reach Redis.", service.place()),
            "They serve with limits and cache of their own, and keep no conversations.",
            format!(
                "see that Redis runs, that the Secret \"{secret}\" has its address and password, and that no NetworkPolicy is between: kubectl -n {} logs -l {}={}",
                service.namespace, label::INSTANCE, service.name
            ),
        );
    }
}

/// Autoscaling by CPU or memory needs it.
async fn metrics_api(client: &Client, services: &[Service], found: &mut Diagnosis) {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(object: &Value) -> Service {
        Service {
            namespace: "chat".into(),
            name: "demo".into(),
            seen: serde_json::from_value(object.clone()).unwrap(),
        }
    }

    fn judged(conditions: &Value) -> Vec<Problem> {
        let mut found = Diagnosis::default();
        judge(&service(&json!({ "status": { "conditions": conditions } })), &mut found);
        found.problems
    }

    #[test]
    fn a_diagnosis_is_aligned_and_numbered_and_ends_each_problem_with_its_fix() {
        let mut found = Diagnosis { title: "ChatService looks".into(), ..Diagnosis::default() };
        found.check("CRD", State::Well, "has every field");
        found.check("metrics API", State::Unknown, "not needed");
        found.check("ChatServices", State::Ill, "0 of 1 are Ready");
        found.problem("It is ill.", "It says so.\n\nTwice.", "make it well");
        found.problem("It is ill.", "It says so.\n\nTwice.", "make it well");
        found.problem("Another is ill.", "", "make it well too");
        let expected = "\
ChatService looks

  ok    CRD           has every field
  -     metrics API   not needed
  FAIL  ChatServices  0 of 1 are Ready

1. It is ill.
   It says so.
   Twice.
   Fix: make it well

2. Another is ill.
   Fix: make it well too
";
        assert_eq!(found.text(), expected);
        found.problems.clear();
        assert!(found.text().ends_with("\nNothing is wrong.\n"));
    }

    #[test]
    fn a_condition_that_is_false_is_a_problem_with_the_fix_of_its_message() {
        let message =
            "Secret \"openai\" in namespace \"chat\" does not exist. Fix: kubectl -n chat create secret";
        let problems = judged(&json!([
            { "type": "Ready", "status": "False", "reason": "SecretNotFound", "message": message },
            { "type": "Stalled", "status": "True", "reason": "SecretNotFound", "message": message },
            { "type": "ConfigApplied", "status": "False", "reason": "Rejected", "message": "a pod kept its last one" },
        ]));
        assert_eq!(problems.len(), 2);
        assert_eq!(
            problems[0].what,
            "ChatService \"demo\" in namespace \"chat\" is not Ready: SecretNotFound."
        );
        assert_eq!(problems[0].details, "Secret \"openai\" in namespace \"chat\" does not exist.");
        assert_eq!(problems[0].fix, "kubectl -n chat create secret");
        assert_eq!(problems[1].fix, "kubectl -n chat describe chat/demo");
    }

    #[test]
    fn what_is_on_its_way_or_paused_or_good_is_no_problem() {
        for conditions in [
            json!([{ "type": "Ready", "status": "True", "reason": "Available", "message": "" }]),
            json!([{ "type": "Ready", "status": "False", "reason": "Progressing", "message": "0 of 1" }]),
            json!([{ "type": "Ready", "status": "False", "reason": "Paused", "message": "" }]),
            json!([
                { "type": "Ready", "status": "True", "reason": "Available" },
                { "type": "Reconciling", "status": "False", "reason": "Done" },
                { "type": "AutoscalingReady", "status": "False", "reason": "Disabled" },
                { "type": "BackendReachable", "status": "Unknown", "reason": "NotObserved" },
            ]),
        ] {
            assert_eq!(judged(&conditions), [], "{conditions}");
        }
        assert_eq!(judged(&json!([])).len(), 1, "nobody has looked at it");
    }

    #[test]
    fn redis_is_judged_by_what_the_pods_said() {
        let found = |redis: Value, status: Value| {
            let mut found = Diagnosis::default();
            let object = json!({ "spec": { "redis": redis }, "status": { "redis": status } });
            let object = if redis.is_null() { json!({ "spec": {} }) } else { object };
            super::redis(&[service(&object)], &mut found);
            (found.checks[0].state, found.problems.len())
        };
        let reference = json!({ "secretRef": { "name": "r" } });
        assert_eq!(found(json!(null), json!(null)), (State::Unknown, 0));
        assert_eq!(found(reference.clone(), json!("Connected")), (State::Well, 0));
        assert_eq!(found(reference, json!("Unreachable")), (State::Ill, 1));
    }

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

    #[test]
    fn rules_become_single_questions() {
        let questions = single(RULES, "chat", "");
        let status = questions.iter().find(|question| question.subresource.is_some()).unwrap();
        assert_eq!(status.resource.as_deref(), Some("chatservices"));
        assert_eq!(status.subresource.as_deref(), Some("status"));
        let expected: usize = RULES.iter().map(|rule| rule.resources.len() * rule.verbs.len()).sum();
        assert_eq!(questions.len(), expected);
        let lease = single(OWN_RULES, "system", "op");
        assert!(lease.iter().all(|q| (q.verb.as_deref() == Some("create")) == q.name.is_none()));
    }
}
