//! A process that wants the Lease. In: the API server. Out: the Lease acquired, kept and given back, and [`Leadership`] told.

use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;

use super::barrier::Leadership;
use super::decision::{Decision, evaluate, held};
use super::{RENEW_DEADLINE, RETRY_PERIOD};

/// One request about the Lease: several have to fit into [`RENEW_DEADLINE`].
const ATTEMPT: Duration = Duration::from_secs(3);

/// From a write that somebody else was faster with to the next look: by then it can be read whose the Lease is.
const AFTER_CONFLICT: Duration = Duration::from_millis(250);

/// Which Lease, and who wants it.
#[derive(Clone, Debug)]
pub struct LeaseOptions {
    /// Where the Lease is; None: the namespace of the operator's own pod, or of the kubeconfig's context.
    pub namespace: Option<String>,
    /// Its name: operators that share it take turns.
    pub name: String,
    /// Who this process is, for people; made unique by a random part.
    pub identity: String,
}

/// Why a process that led does not lead any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// Another process has it.
    #[error("\"{0}\" holds the Lease now")]
    Taken(String),
    /// It could not be renewed in time.
    #[error("the Lease was not renewed for {seconds} s: {0}", seconds = RENEW_DEADLINE.as_secs())]
    Expired(String),
}

/// A process that wants the Lease, or has it.
pub struct Candidate {
    api: Api<Lease>,
    namespace: String,
    name: String,
    identity: String,
    leadership: Leadership,
    /// The Lease as it was last read or written.
    lease: Option<Lease>,
    /// When its spec was first seen like that.
    since: Instant,
}

/// Why a request about the Lease came to nothing.
#[derive(Debug)]
enum Failure {
    /// Somebody else wrote or removed it first.
    Conflict,
    /// The API server may be asked again.
    Trouble(String),
}

impl Candidate {
    /// `client` must not be behind the barrier: the Lease is written before anything else may be.
    #[must_use]
    pub fn new(client: Client, options: LeaseOptions, leadership: Leadership) -> Self {
        let LeaseOptions { namespace, name, identity } = options;
        let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
        let api = Api::namespaced(client, &namespace);
        let identity = format!("{identity}_{}", uuid::Uuid::new_v4());
        Self { api, namespace, name, identity, leadership, lease: None, since: Instant::now() }
    }

    /// Who this process is in the Lease.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Waits until this process holds the Lease. `waiting` hears after every look in vain who holds it, or why that is
    /// not known.
    pub async fn acquire(&mut self, mut waiting: impl FnMut(Result<&str, &str>)) {
        let mut told = None;
        loop {
            let (result, pause) = match self.attempt().await {
                Ok(None) => {
                    tracing::info!(lease = self.name, identity = self.identity, "this process leads");
                    return;
                }
                Ok(Some(left)) => (Ok(self.holder().to_owned()), left.min(RETRY_PERIOD)),
                Err(Failure::Conflict) => {
                    tokio::time::sleep(jittered(AFTER_CONFLICT)).await;
                    continue;
                }
                Err(Failure::Trouble(message)) => (Err(message), RETRY_PERIOD),
            };
            waiting(result.as_deref().map_err(String::as_str));
            if told.as_ref() != Some(&result) {
                match &result {
                    Ok(holder) => {
                        tracing::info!(lease = self.name, holder, "another process leads; waiting");
                    }
                    Err(error) => {
                        tracing::warn!(lease = self.name, error, "the Lease cannot be had; waiting");
                    }
                }
                told = Some(result);
            }
            tokio::time::sleep(jittered(pause)).await;
        }
    }

    /// One try to take the Lease. None: it is ours. Else how long its holder has it for sure.
    async fn attempt(&mut self) -> Result<Option<Duration>, Failure> {
        let unchanged = self.look().await?;
        match evaluate(self.spec(), &self.identity, unchanged) {
            Decision::Wait(left) => Ok(Some(left)),
            Decision::Acquire | Decision::Renew => self.write().await.map(|()| None),
        }
    }

    /// Renews the Lease until it is lost. Dropped at any time, it may have renewed it once more.
    pub async fn keep(&mut self) -> Lost {
        let mut trouble = String::new();
        while let Some(until) = self.leadership.writes_until() {
            tokio::time::sleep_until(until.min(Instant::now() + RETRY_PERIOD)).await;
            match tokio::time::timeout_at(until, self.renew()).await {
                Ok(Ok(true)) => trouble.clear(),
                Ok(Ok(false)) => {
                    self.leadership.ended();
                    return Lost::Taken(self.holder().to_owned());
                }
                Ok(Err(message)) => {
                    if message != trouble {
                        tracing::warn!(
                            lease = self.name,
                            error = message,
                            "the Lease was not renewed; trying again"
                        );
                        trouble = message;
                    }
                }
                Err(_) => {}
            }
        }
        Lost::Expired(if trouble.is_empty() { "this process stood still".to_owned() } else { trouble })
    }

    /// Whether it is still ours, after one more renewal.
    async fn renew(&mut self) -> Result<bool, String> {
        match self.write().await {
            Ok(()) => return Ok(true),
            Err(Failure::Trouble(message)) => return Err(message),
            // Somebody changed it: perhaps only its labels, perhaps a renewal of ours came through without its answer.
            Err(Failure::Conflict) => {}
        }
        match self.attempt().await {
            Ok(taken) => Ok(taken.is_none()),
            Err(Failure::Conflict) => Err("somebody else writes it at the same time".to_owned()),
            Err(Failure::Trouble(message)) => Err(message),
        }
    }

    /// Gives the Lease back, if it is ours, so that nobody has to wait for its end. From now on this process does not
    /// write.
    pub async fn release(&mut self) {
        self.leadership.ended();
        // Twice, because the Lease may have changed between look and write.
        for _ in 0..2 {
            let Ok(_) = self.look().await else { return };
            let Some(before) = self.spec().filter(|_| self.holder() == self.identity) else { return };
            let spec = LeaseSpec {
                holder_identity: Some(String::new()),
                lease_duration_seconds: Some(1),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..before.clone()
            };
            if self.put(spec).await.is_ok() {
                tracing::info!(lease = self.name, "the Lease is given back");
                return;
            }
        }
    }

    fn spec(&self) -> Option<&LeaseSpec> {
        self.lease.as_ref().and_then(|lease| lease.spec.as_ref())
    }

    fn holder(&self) -> &str {
        self.spec().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
    }

    /// Reads the Lease; for how long it has been as it is.
    async fn look(&mut self) -> Result<Duration, Failure> {
        let lease = within(self.api.get_opt(&self.name), Failure::Conflict).await?;
        self.seen(lease);
        Ok(self.since.elapsed())
    }

    /// Writes the Lease as ours, counting from before the request.
    async fn write(&mut self) -> Result<(), Failure> {
        let spec = held(self.spec(), &self.identity, Timestamp::now());
        let sent = Instant::now();
        self.put(spec).await?;
        self.leadership.renewed(sent);
        Ok(())
    }

    /// Writes the Lease over the version that was read last, and over no other.
    async fn put(&mut self, spec: LeaseSpec) -> Result<(), Failure> {
        let metadata = match &self.lease {
            Some(lease) => lease.metadata.clone(),
            None => ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
        };
        let lease = Lease { metadata, spec: Some(spec) };
        let params = PostParams::default();
        let written = match &self.lease {
            Some(_) => within(self.api.replace(&self.name, &params, &lease), Failure::Conflict).await,
            None => within(self.api.create(&params, &lease), self.no_namespace()).await,
        };
        self.seen(Some(written?));
        Ok(())
    }

    /// What it means when a Lease cannot be made because something is not there.
    fn no_namespace(&self) -> Failure {
        Failure::Trouble(format!(
            "there is no namespace \"{}\" for the Lease: create it, or name another one with --lease-namespace",
            self.namespace
        ))
    }

    fn seen(&mut self, lease: Option<Lease>) {
        let spec = lease.as_ref().and_then(|lease| lease.spec.as_ref());
        if spec != self.spec() {
            self.since = Instant::now();
        }
        self.lease = lease;
    }
}

/// A tenth early or late, so that candidates do not always come together.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.9 + 0.2 * rand::random::<f64>())
}

/// One request within its deadline. `missing`: what an answer says that something is not there.
async fn within<T>(request: impl Future<Output = kube::Result<T>>, missing: Failure) -> Result<T, Failure> {
    match tokio::time::timeout(ATTEMPT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        // Written or made by somebody else: look again.
        Ok(Err(kube::Error::Api(status))) if status.is_conflict() || status.is_already_exists() => {
            Err(Failure::Conflict)
        }
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Err(missing),
        Ok(Err(error)) => Err(Failure::Trouble(error.to_string())),
        Err(_) => Err(Failure::Trouble(format!("no answer within {} s", ATTEMPT.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use kube::client::Body;
    use tower::service_fn;

    use super::*;

    /// A candidate for a Lease that is not there; how often it asked; a write is answered so.
    fn candidate(write: u16) -> (Candidate, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let counted = asked.clone();
        let service = service_fn(move |request: http::Request<Body>| {
            counted.fetch_add(1, Ordering::Relaxed);
            let code = if request.method() == http::Method::GET { 404 } else { write };
            let reason = if code == 409 { "AlreadyExists" } else { "NotFound" };
            let status = serde_json::json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, "message": "no",
            });
            let answer =
                http::Response::builder().status(code).body(Body::from(status.to_string().into_bytes()));
            std::future::ready(answer)
        });
        let options = LeaseOptions {
            namespace: Some("nowhere".to_owned()),
            name: "turns".to_owned(),
            identity: "a".to_owned(),
        };
        (Candidate::new(Client::new(service, "default"), options, Leadership::default()), asked)
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_that_is_not_there_is_told_with_the_flag_and_waited_for() {
        let (mut candidate, asked) = candidate(404);
        let mut told = Vec::new();
        let waiting = candidate.acquire(|seen| told.push(seen.unwrap_err().to_owned()));
        tokio::time::timeout(RETRY_PERIOD * 10, waiting).await.unwrap_err();
        assert!(told[0].contains("\"nowhere\"") && told[0].contains("--lease-namespace"), "{told:?}");
        assert!((9..=12).contains(&told.len()), "{told:?}");
        assert_eq!(asked.load(Ordering::Relaxed) as usize, told.len() * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_conflict_is_looked_at_again_after_a_pause() {
        let (mut candidate, asked) = candidate(409);
        let waiting = candidate.acquire(|seen| panic!("{seen:?}"));
        tokio::time::timeout(AFTER_CONFLICT * 10, waiting).await.unwrap_err();
        let asked = asked.load(Ordering::Relaxed);
        assert!((18..=24).contains(&asked), "{asked} requests");
    }
}
