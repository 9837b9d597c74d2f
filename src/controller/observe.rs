//! Step 5: the pods. In: a watch of our pods and their `/status` answers, both collected outside the reconcile. Out: what
//! was last seen, without a network call, and a reconcile of a ChatService whose picture changed.
//!
//! What a server says is believed when it was said twice in a row, and stands until it has been silent for two minutes: one
//! slow answer or one restart must not make the status flap. The clocks are here, none is in the status: that a pod was not
//! ready for too long is a fact from here too.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior};

use super::build::PROGRESS_DEADLINE_SECONDS;
use super::children::{Change, WatchErrors, ours, watch};
use super::metrics::ControllerMetrics;
use super::pods::{Observed, PodView, Report};
use super::probe::Prober;
use super::seen_pod::SeenPod;
use super::{ObjectKey, Scope, Watched};
use crate::constants::port;

/// ChatServices waiting to be reconciled because of their pods. A full queue is tried again at the next tick.
const QUEUE: usize = 1024;

/// Where the admin listener of the pod with an address is.
pub type PodAddress = Arc<dyn Fn(IpAddr) -> Option<SocketAddr> + Send + Sync>;

/// The pod's own address and the admin port.
#[must_use]
pub fn pod_address() -> PodAddress {
    Arc::new(|address| Some(SocketAddr::new(address, port::ADMIN)))
}

/// How often is looked at what nothing tells of: pods, and the keys of tokens.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Pods, while their ChatService is not settled, and until an answer was given twice.
    pub unsettled: Duration,
    /// Pods, otherwise.
    pub settled: Duration,
    /// A pod that has been silent for this long is unreachable.
    pub patience: Duration,
    /// A pod that has not been ready for this long is not on its way any more.
    pub overdue: Duration,
    /// The keys that ServiceAccount tokens are signed with, where a ChatService accepts such tokens.
    pub signing_keys: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            unsettled: Duration::from_secs(2),
            settled: Duration::from_mins(1),
            patience: Duration::from_mins(2),
            overdue: Duration::from_secs(PROGRESS_DEADLINE_SECONDS.into()),
            signing_keys: Duration::from_mins(2),
        }
    }
}

/// What asking takes; shared by all scopes, so that the bound on questions in flight holds for the process.
#[derive(Clone)]
pub struct Asking {
    /// How often.
    pub pace: Pace,
    /// Where.
    pub address: PodAddress,
    /// How many at once.
    pub in_flight: Arc<Semaphore>,
    /// How.
    pub prober: Prober,
}

/// What is known of the pods of one scope.
pub struct Observer {
    pods: Store<SeenPod>,
    asking: Asking,
    known: Mutex<Known>,
    queue: mpsc::Sender<ObjectRef<Watched>>,
    metrics: ControllerMetrics,
}

#[derive(Default)]
struct Known {
    /// By [`SeenPod::process`].
    answers: HashMap<Box<str>, Answers>,
    /// The pods that are not ready, by uid.
    unready: HashMap<Box<str>, Unready>,
    /// By ChatService.
    services: HashMap<ObjectKey, Seen>,
}

/// A pod that is not ready.
struct Unready {
    since: Instant,
    overdue: bool,
}

#[derive(Default)]
struct Seen {
    /// What the last reconcile was told.
    handed_out: Observed,
    /// What another reconcile was asked for since: once is enough.
    announced: Option<Observed>,
    settled: bool,
}

/// The answers of one server.
struct Answers {
    last: Option<Report>,
    believed: Option<Report>,
    /// Since when it has not answered.
    silent_since: Option<Instant>,
    unreachable: bool,
    next: Instant,
}

impl Answers {
    /// Nothing was asked yet.
    fn new(now: Instant) -> Self {
        Self { last: None, believed: None, silent_since: None, unreachable: false, next: now }
    }

    /// Takes an answer, or that there was none; whether it confirms the one before.
    fn take(&mut self, answer: Option<Report>, now: Instant, patience: Duration) -> bool {
        let Some(answer) = answer else {
            let since = *self.silent_since.get_or_insert(now);
            self.last = None;
            self.unreachable |= now.duration_since(since) >= patience;
            if self.unreachable {
                self.believed = None;
            }
            return self.unreachable;
        };
        self.silent_since = None;
        let confirmed = match &self.last {
            Some(last) => self.believed.get_or_insert_default().believe(last, &answer),
            None => false,
        };
        self.unreachable &= self.believed.is_none();
        self.last = Some(answer);
        confirmed
    }
}

impl Observer {
    /// An observer of the pods in `scope`; the watch's changes, which [`Self::follow`] needs; and the ChatServices to
    /// reconcile.
    pub fn new(
        client: &Client,
        scope: &Scope,
        asking: Asking,
        errors: &Arc<WatchErrors>,
        metrics: &ControllerMetrics,
    ) -> (
        Arc<Self>,
        impl Stream<Item = Change<SeenPod>> + Send + 'static,
        impl Stream<Item = ObjectRef<Watched>> + Send + 'static,
    ) {
        let (pods, changes) =
            watch(scope.api::<Pod>(client), "pods", ours(), |pod| SeenPod::of(&pod), errors);
        let (queue, mut woken) = mpsc::channel(QUEUE);
        let observer =
            Arc::new(Self { pods, asking, known: Mutex::default(), queue, metrics: metrics.clone() });
        (observer, changes, stream::poll_fn(move |context| woken.poll_recv(context)))
    }

    /// Resolves when the first complete list of pods is there; false when it will never be.
    pub async fn initialised(&self) -> bool {
        self.pods.wait_until_ready().await.is_ok()
    }

    /// What is known of the pods of a ChatService now; None before the first complete list. Changes from here on lead
    /// to another reconcile. So does a failure of this one, its status write included, by the backoff: what it was told
    /// is told again, and no question to pods brings it back sooner.
    pub fn of(&self, key: &ObjectKey) -> Option<Observed> {
        self.pods.wait_until_ready().now_or_never()?.ok()?;
        let pods = self.pods_of(key);
        let mut known = self.known();
        let observed = known.picture(&pods);
        let seen = known.services.entry(key.clone()).or_default();
        seen.handed_out = observed.clone();
        seen.announced = None;
        Some(observed)
    }

    /// Asks for a reconcile. A full queue drops it: what has to come, comes with the next slow look.
    pub fn wake(&self, key: &ObjectKey) {
        if self.queue.try_send(key.reference()).is_err() {
            tracing::debug!(
                namespace = key.namespace,
                name = key.name,
                "too many reconciles wait for another"
            );
        }
    }

    /// What a pod was seen to be touched with last.
    pub fn touched(&self, namespace: &str, pod: &str) -> Option<String> {
        let pod = self.pods.get(&ObjectRef::new(pod).within(namespace))?;
        pod.touched.as_deref().map(str::to_owned)
    }

    /// Whether a ChatService is as it should be: its pods are then asked less often.
    pub fn settle(&self, key: &ObjectKey, settled: bool) {
        let mut known = self.known();
        let seen = known.services.entry(key.clone()).or_default();
        let wake = seen.settled && !settled;
        seen.settled = settled;
        if wake {
            let now = Instant::now();
            for pod in self.pods_of(key) {
                if let Some(answers) = known.answers.get_mut(&pod.process) {
                    answers.next = now;
                }
            }
        }
    }

    /// A ChatService is gone.
    pub fn forget(&self, key: &ObjectKey) {
        self.known().services.remove(key);
    }

    /// Follows the pods' watch. Never ends.
    pub async fn follow(self: Arc<Self>, changes: impl Stream<Item = Change<SeenPod>> + Send) {
        let mut changes = std::pin::pin!(changes);
        while let Some(change) = changes.next().await {
            if let Some(key) = &change.object.service {
                let pods = self.pods_of(key);
                let mut known = self.known();
                let picture = known.picture(&pods);
                if let Some(seen) = known.services.get_mut(key) {
                    self.announce(key, seen, picture);
                }
            }
        }
    }

    /// Asks the pods. Never ends.
    pub async fn poll(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.asking.pace.unsettled);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let due = self.due();
            stream::iter(due).for_each_concurrent(None, |pod| self.ask(pod)).await;
            self.announce_all();
        }
    }

    async fn ask(&self, pod: Arc<SeenPod>) {
        let answer = match pod.address.and_then(|address| (self.asking.address)(address)) {
            Some(address) => {
                let Ok(_permit) = self.asking.in_flight.acquire().await else { return };
                self.asking.prober.ask(address).await.map(Report::from)
            }
            None => None,
        };
        let mut known = self.known();
        let service = pod.service.as_ref().and_then(|key| known.services.get(key));
        let settled = service.is_some_and(|seen| seen.settled);
        let (now, pace) = (Instant::now(), self.asking.pace);
        let answers = known.answers.entry(pod.process.clone()).or_insert_with(|| Answers::new(now));
        let confirmed = answers.take(answer, now, pace.patience);
        // Half a tick early, or a tick that comes a moment too soon would cost a whole one.
        let pause = if settled && confirmed { pace.settled } else { pace.unsettled / 2 };
        answers.next = now + pause;
    }

    /// The running pods whose time has come. What is known of pods that are gone is dropped here.
    fn due(&self) -> Vec<Arc<SeenPod>> {
        let pods = self.pods.state();
        let now = Instant::now();
        let mut known = self.known();
        let processes: HashSet<&str> = pods.iter().map(|pod| &*pod.process).collect();
        known.answers.retain(|process, _| processes.contains(&**process));
        known.note_unready(&pods, now, self.asking.pace.overdue);
        pods.into_iter()
            .filter(|pod| pod.runs)
            .filter(|pod| known.answers.get(&pod.process).is_none_or(|answers| answers.next <= now))
            .collect()
    }

    /// One pass over the pods: looking for those of each ChatService anew would cost the product of both.
    fn announce_all(&self) {
        let mut pods: HashMap<ObjectKey, Vec<Arc<SeenPod>>> = HashMap::new();
        for pod in self.pods.state() {
            if let Some(key) = &pod.service {
                pods.entry(key.clone()).or_default().push(pod);
            }
        }
        let mut known = self.known();
        // Taken out, because a picture needs the rest.
        let mut services = std::mem::take(&mut known.services);
        for (key, seen) in &mut services {
            let pods = pods.get(key).map(Vec::as_slice).unwrap_or_default();
            self.announce(key, seen, known.picture(pods));
        }
        known.services = services;
    }

    /// Asks for a reconcile, once, if the picture is not the one that the last reconcile was given.
    fn announce(&self, key: &ObjectKey, seen: &mut Seen, picture: Observed) {
        if picture == seen.handed_out || seen.announced.as_ref() == Some(&picture) {
            return;
        }
        // A full queue is not lost: the next tick compares again.
        if self.queue.try_send(key.reference()).is_ok() {
            seen.announced = Some(picture);
            self.metrics.due(key);
        }
    }

    fn pods_of(&self, key: &ObjectKey) -> Vec<Arc<SeenPod>> {
        self.pods.state_filter(|pod| pod.service.as_ref() == Some(key))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Notes since when pods are not ready, and forgets those that are, or are gone.
    fn note_unready(&mut self, pods: &[Arc<SeenPod>], now: Instant, patience: Duration) {
        let mut before = std::mem::take(&mut self.unready);
        for pod in pods.iter().filter(|pod| !pod.view.ready) {
            let since = before.remove(&pod.uid).map_or(now, |unready| unready.since);
            let overdue = now.duration_since(since) >= patience;
            self.unready.insert(pod.uid.clone(), Unready { since, overdue });
        }
    }

    /// What the pods of a ChatService show.
    fn picture(&self, pods: &[Arc<SeenPod>]) -> Observed {
        let shown = pods.iter().filter(|pod| pod.counts).map(|pod| {
            let answers = self.answers.get(&pod.process);
            PodView {
                unreachable: answers.is_some_and(|answers| answers.unreachable),
                overdue: self.unready.get(&pod.uid).is_some_and(|unready| unready.overdue),
                server: answers.and_then(|answers| answers.believed.clone()),
                ..pod.view.clone()
            }
        });
        let mut pods: Vec<_> = shown.collect();
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        Observed { pods }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(hash: &str, redis: bool) -> Report {
        Report { config_hash: hash.into(), redis: Some(redis), ..Report::default() }
    }

    #[test]
    fn a_fact_is_believed_when_it_was_said_twice_and_until_the_server_was_silent_for_too_long() {
        let start = Instant::now();
        let patience = Duration::from_secs(100);
        let said = |hash: &str, redis: bool| Some(report(hash, redis));
        let mut answers = Answers::new(start);
        for (second, answer, confirmed, believed, unreachable) in [
            (0, None, false, None, false),
            (1, said("1", true), false, None, false),
            (2, said("1", true), true, said("1", true), false),
            (3, said("2", true), false, said("1", true), false),
            // The hash is said twice, while Redis comes and goes.
            (4, said("2", false), false, said("2", true), false),
            (5, said("2", true), false, said("2", true), false),
            (6, None, false, said("2", true), false),
            // Twice means twice in a row.
            (7, said("3", true), false, said("2", true), false),
            (8, None, false, said("2", true), false),
            (107, None, false, said("2", true), false),
            (108, None, true, None, true),
            (109, said("3", true), false, None, true),
            (110, said("3", true), true, said("3", true), false),
        ] {
            let now = start + Duration::from_secs(second);
            assert_eq!(answers.take(answer, now, patience), confirmed, "{second}");
            assert_eq!(answers.believed, believed, "{second}");
            assert_eq!(answers.unreachable, unreachable, "{second}");
        }
    }

    #[test]
    fn a_pod_is_overdue_when_it_was_not_ready_for_too_long_without_a_break() {
        let pod = |ready: bool| {
            let view = PodView { ready, ..PodView::default() };
            Arc::new(SeenPod { uid: "u".into(), counts: true, view, ..SeenPod::default() })
        };
        let start = Instant::now();
        let mut known = Known::default();
        for (second, pods, overdue) in [
            (0, vec![pod(false)], false),
            (9, vec![pod(false)], false),
            (10, vec![pod(false)], true),
            (11, vec![pod(true)], false),
            (12, vec![pod(false)], false),
            (22, vec![pod(false)], true),
        ] {
            known.note_unready(&pods, start + Duration::from_secs(second), Duration::from_secs(10));
            assert_eq!(known.picture(&pods).pods[0].overdue, overdue, "{second}");
        }
        known.note_unready(&[], start, Duration::from_secs(10));
        assert!(known.unready.is_empty(), "what is gone is forgotten");
    }
}
