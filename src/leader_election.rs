//! One writer among the operator's processes. In: a Lease of `coordination.k8s.io`, which all of them try to hold. Out:
//! whether this process may write now, and a barrier under its client that refuses what it may not.
//!
//! The figures are client-go's: a Lease that was not renewed for 15 s may be taken, its holder renews it every 2 s, and
//! one that could not renew it for 10 s stops writing: 5 s before anybody else can begin. Clocks of different machines
//! are never compared: a candidate counts from when it saw the Lease change.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Method, Request};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;
use tower::{BoxError, Layer, Service};

/// After this long without a renewal another process may take the Lease.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// After this long without a renewal the holder writes nothing more, and ends.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks of a candidate, and two renewals of the holder.
pub const RETRY_PERIOD: Duration = Duration::from_secs(2);
/// One request about the Lease: several have to fit into [`RENEW_DEADLINE`].
const ATTEMPT: Duration = Duration::from_secs(3);
/// `leaseDurationSeconds` as Kubernetes has it.
const LEASE_SECONDS: i32 = 15;

/// What to do about a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nobody holds it, or its holder is gone: try to take it.
    Acquire,
    /// It is ours: renew it.
    Renew,
    /// Somebody holds it, for this long at least.
    Wait(Duration),
}

/// Decides about a Lease that has been as it is for `unchanged`, as far as `me` could see. None: there is none.
#[must_use]
pub fn evaluate(lease: Option<&LeaseSpec>, me: &str, unchanged: Duration) -> Decision {
    let holder = lease.and_then(|lease| lease.holder_identity.as_deref()).filter(|holder| !holder.is_empty());
    match holder {
        None => Decision::Acquire,
        Some(holder) if holder == me => Decision::Renew,
        Some(_) => {
            let seconds = lease.and_then(|lease| lease.lease_duration_seconds);
            let seconds =
                seconds.and_then(|seconds| u64::try_from(seconds).ok()).filter(|&seconds| seconds > 0);
            let lasts = seconds.map_or(LEASE_DURATION, Duration::from_secs);
            match lasts.checked_sub(unchanged).filter(|left| !left.is_zero()) {
                Some(left) => Decision::Wait(left),
                None => Decision::Acquire,
            }
        }
    }
}

/// The Lease as `me` holds it at `now`: a holder that changes is a transition.
fn held(before: Option<&LeaseSpec>, me: &str, now: Timestamp) -> LeaseSpec {
    let stays = before.is_some_and(|before| before.holder_identity.as_deref() == Some(me));
    let transitions = before.and_then(|before| before.lease_transitions);
    let since = before.filter(|_| stays).and_then(|before| before.acquire_time.clone());
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: Some(LEASE_SECONDS),
        acquire_time: Some(since.unwrap_or(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(match (before, stays) {
            (None, _) => 0,
            (Some(_), true) => transitions.unwrap_or(0),
            (Some(_), false) => transitions.unwrap_or(0).saturating_add(1),
        }),
        ..LeaseSpec::default()
    }
}

/// Whether this process leads, and how long it may write without another renewal. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Leadership(Arc<Mutex<Option<Instant>>>);

impl Leadership {
    /// Until when writes are allowed; None: they are not.
    #[must_use]
    pub fn writes_until(&self) -> Option<Instant> {
        let renewed = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        renewed.map(|renewed| renewed + RENEW_DEADLINE).filter(|&until| Instant::now() < until)
    }

    /// The Lease was renewed by a request that was sent at `sent`.
    fn renewed(&self, sent: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sent);
    }

    fn ended(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

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
    /// Somebody else wrote it first.
    Conflict,
    /// The API server may be asked again.
    Trouble(String),
}

impl Candidate {
    /// `client` must not be behind the barrier: the Lease is written before anything else may be.
    #[must_use]
    pub fn new(client: Client, options: LeaseOptions, leadership: Leadership) -> Self {
        let LeaseOptions { namespace, name, identity } = options;
        let api = match namespace {
            Some(namespace) => Api::namespaced(client, &namespace),
            None => Api::default_namespaced(client),
        };
        let identity = format!("{identity}_{}", uuid::Uuid::new_v4());
        Self { api, name, identity, leadership, lease: None, since: Instant::now() }
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
                Err(Failure::Conflict) => continue,
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
            // A tenth early or late, so that candidates do not always come together.
            tokio::time::sleep(pause.mul_f64(0.9 + 0.2 * rand::random::<f64>())).await;
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
        let lease = within(self.api.get_opt(&self.name)).await?;
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
            Some(_) => within(self.api.replace(&self.name, &params, &lease)).await,
            None => within(self.api.create(&params, &lease)).await,
        };
        self.seen(Some(written?));
        Ok(())
    }

    fn seen(&mut self, lease: Option<Lease>) {
        let spec = lease.as_ref().and_then(|lease| lease.spec.as_ref());
        if spec != self.spec() {
            self.since = Instant::now();
        }
        self.lease = lease;
    }
}

/// One request within its deadline.
async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(ATTEMPT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        // Written by somebody else, made by somebody else, or gone: look again.
        Ok(Err(kube::Error::Api(status))) if status.is_conflict() || status.is_not_found() => {
            Err(Failure::Conflict)
        }
        Ok(Err(error)) => Err(Failure::Trouble(error.to_string())),
        Err(_) => Err(Failure::Trouble(format!("no answer within {} s", ATTEMPT.as_secs()))),
    }
}

/// Why a write was refused before it left the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this process does not hold the Lease, so it writes nothing")]
pub struct NotLeading;

/// Puts the barrier under a client: reads pass, writes only while [`Leadership::writes_until`] allows them.
#[derive(Clone, Debug)]
pub struct BarrierLayer(Leadership);

impl BarrierLayer {
    /// A barrier that `leadership` opens.
    #[must_use]
    pub fn new(leadership: Leadership) -> Self {
        Self(leadership)
    }
}

impl<S> Layer<S> for BarrierLayer {
    type Service = Barrier<S>;

    fn layer(&self, inner: S) -> Barrier<S> {
        Barrier { inner, leadership: self.0.clone() }
    }
}

/// What [`BarrierLayer`] makes.
#[derive(Clone, Debug)]
pub struct Barrier<S> {
    inner: S,
    leadership: Leadership,
}

impl<S, B> Service<Request<B>> for Barrier<S>
where
    S: Service<Request<B>, Error: Into<BoxError>>,
    S::Future: Send + 'static,
    S::Response: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
            let sending = self.inner.call(request);
            return Box::pin(async move { sending.await.map_err(Into::into) });
        }
        if self.leadership.writes_until().is_none() {
            return Box::pin(std::future::ready(Err(NotLeading.into())));
        }
        let sending = self.inner.call(request);
        let leadership = self.leadership.clone();
        Box::pin(async move {
            let mut sending = std::pin::pin!(sending);
            // A renewal while it is under way gives it more time.
            while let Some(until) = leadership.writes_until() {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(until) => {}
                    answer = &mut sending => return answer.map_err(Into::into),
                }
            }
            Err(NotLeading.into())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tower::ServiceExt;

    use super::*;

    fn lease(holder: Option<&str>, seconds: Option<i32>) -> LeaseSpec {
        LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: seconds,
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn who_may_take_the_lease_and_when() {
        let seconds = Duration::from_secs;
        for (lease, unchanged, expected) in [
            (None, 0, Decision::Acquire),
            (Some(lease(None, None)), 0, Decision::Acquire),
            (Some(lease(Some(""), Some(1))), 0, Decision::Acquire),
            (Some(lease(Some("me"), Some(15))), 0, Decision::Renew),
            (Some(lease(Some("me"), Some(15))), 99, Decision::Renew),
            (Some(lease(Some("other"), Some(15))), 0, Decision::Wait(seconds(15))),
            (Some(lease(Some("other"), Some(15))), 14, Decision::Wait(seconds(1))),
            (Some(lease(Some("other"), Some(15))), 15, Decision::Acquire),
            (Some(lease(Some("other"), Some(15))), 99, Decision::Acquire),
            (Some(lease(Some("other"), Some(30))), 20, Decision::Wait(seconds(10))),
            (Some(lease(Some("other"), None)), 14, Decision::Wait(seconds(1))),
            (Some(lease(Some("other"), Some(0))), 15, Decision::Acquire),
            (Some(lease(Some("other"), Some(-1))), 1, Decision::Wait(seconds(14))),
        ] {
            assert_eq!(evaluate(lease.as_ref(), "me", seconds(unchanged)), expected, "{lease:?} {unchanged}");
        }
    }

    #[test]
    fn a_change_of_holder_is_a_transition_and_a_renewal_is_none() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = held(None, "a", at(100));
        assert_eq!(
            (first.lease_transitions, first.acquire_time.clone()),
            (Some(0), Some(MicroTime(at(100))))
        );
        let renewed = held(Some(&first), "a", at(102));
        assert_eq!(renewed.acquire_time, first.acquire_time);
        assert_eq!(
            (renewed.lease_transitions, renewed.renew_time.clone()),
            (Some(0), Some(MicroTime(at(102))))
        );
        let taken = held(Some(&renewed), "b", at(120));
        assert_eq!((taken.lease_transitions, taken.acquire_time), (Some(1), Some(MicroTime(at(120)))));
        assert_eq!(taken.holder_identity.as_deref(), Some("b"));
    }

    /// A client's bottom that counts what reaches it and answers after `delay`.
    fn wire(
        leadership: &Leadership,
        delay: Duration,
    ) -> (Arc<AtomicUsize>, impl Service<Request<()>, Response = (), Error = BoxError, Future: Send> + Clone)
    {
        let arrived = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&arrived);
        let bottom = tower::service_fn(move |_: Request<()>| {
            let counter = Arc::clone(&counter);
            async move {
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(delay).await;
                Ok::<_, Infallible>(())
            }
        });
        (arrived, BarrierLayer::new(leadership.clone()).layer(bottom))
    }

    fn request(method: Method) -> Request<()> {
        Request::builder().method(method).body(()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_barrier_lets_writes_pass_only_while_the_lease_is_fresh() {
        let leadership = Leadership::default();
        let (arrived, service) = wire(&leadership, Duration::ZERO);
        let ask = async |method: Method| service.clone().oneshot(request(method)).await;
        for method in [Method::POST, Method::PATCH, Method::PUT, Method::DELETE] {
            assert!(ask(method).await.unwrap_err().is::<NotLeading>(), "nobody leads yet");
        }
        ask(Method::GET).await.unwrap();
        assert_eq!(arrived.load(Ordering::SeqCst), 1, "nothing but the read was sent");
        leadership.renewed(Instant::now());
        ask(Method::PATCH).await.unwrap();
        tokio::time::advance(RENEW_DEADLINE.checked_sub(Duration::from_millis(1)).unwrap()).await;
        ask(Method::PATCH).await.unwrap();
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(ask(Method::DELETE).await.unwrap_err().is::<NotLeading>());
        ask(Method::GET).await.unwrap();
        leadership.renewed(Instant::now());
        ask(Method::DELETE).await.unwrap();
        leadership.ended();
        assert!(ask(Method::PATCH).await.unwrap_err().is::<NotLeading>());
        assert_eq!(arrived.load(Ordering::SeqCst), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_under_way_is_given_up_when_the_lease_ends_and_not_when_it_is_renewed() {
        let leadership = Leadership::default();
        leadership.renewed(Instant::now());
        let (_, service) = wire(&leadership, RENEW_DEADLINE + RENEW_DEADLINE);
        let begun = Instant::now();
        let error = service.clone().oneshot(request(Method::PATCH)).await.unwrap_err();
        assert!(error.is::<NotLeading>());
        assert_eq!(begun.elapsed().as_secs(), RENEW_DEADLINE.as_secs());

        leadership.renewed(Instant::now());
        let renewing = async {
            loop {
                tokio::time::sleep(RETRY_PERIOD).await;
                leadership.renewed(Instant::now());
            }
        };
        tokio::select! {
            answer = service.oneshot(request(Method::PATCH)) => answer.unwrap(),
            () = renewing => unreachable!(),
        }
    }
}
