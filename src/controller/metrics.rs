//! The operator's metrics. In: what happened. Out: a registry for the admin listener. No label holds a name of an object.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::ObjectKey;
use super::error::Error;
use super::request::ApiRequest;
use crate::constants::{condition, metric};
use crate::crd::ChatServiceStatus;

const SECONDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// A gauge of how long ago something happened, as it is looked at; nothing until it has happened.
#[derive(Clone)]
struct Age {
    gauge: Gauge,
    since: Arc<Mutex<Option<Instant>>>,
}

impl Age {
    fn new(name: &str, help: &str) -> prometheus::Result<Self> {
        Ok(Self { gauge: Gauge::new(name, help)?, since: Arc::default() })
    }
}

impl Collector for Age {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(since) = since else { return Vec::new() };
        self.gauge.set(since.elapsed().as_secs_f64());
        self.gauge.collect()
    }
}

/// What two conditions of an object say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Conditions {
    ready: bool,
    /// `True`, `False` or `Unknown`; `Unknown` too where there is no `ConfigApplied`.
    config_applied: &'static str,
    /// Since when it has not been ready. None while it is.
    unready_since: Option<Timestamp>,
    /// Since when a ready object has lacked its configuration, or has not been known to have it. None where nothing is waited for, and
    /// where it is not ready: that says more.
    config_waits_since: Option<Timestamp>,
}

impl Conditions {
    fn of(status: &ChatServiceStatus) -> Self {
        let find = |type_: &str| status.conditions.iter().find(|condition| condition.type_ == type_);
        let since = |condition: &Condition| condition.last_transition_time.0;
        let (readiness, config) = (find(condition::READY), find(condition::CONFIG_APPLIED));
        let ready = readiness.is_some_and(|condition| condition.status == "True");
        let config_applied = match config.map(|condition| condition.status.as_str()) {
            Some("True") => "True",
            Some("False") => "False",
            _ => "Unknown",
        };
        Self {
            ready,
            config_applied,
            unready_since: readiness.filter(|_| !ready).map(since),
            config_waits_since: config.filter(|_| ready && config_applied != "True").map(since),
        }
    }
}

type Objects = Arc<Mutex<HashMap<ObjectKey, Conditions>>>;

/// A gauge of how long the object that waits longest for something has waited, as it is looked at; 0 when none waits.
#[derive(Clone)]
struct LongestWait {
    gauge: Gauge,
    objects: Objects,
    since: fn(&Conditions) -> Option<Timestamp>,
}

impl LongestWait {
    fn new(
        name: &str,
        help: &str,
        objects: &Objects,
        since: fn(&Conditions) -> Option<Timestamp>,
    ) -> prometheus::Result<Self> {
        Ok(Self { gauge: Gauge::new(name, help)?, objects: Arc::clone(objects), since })
    }
}

impl Collector for LongestWait {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let since = objects.values().filter_map(self.since).min();
        // Another machine's clock may have dated it.
        let seconds =
            since.map_or(0.0, |since| Timestamp::now().duration_since(since).as_secs_f64().max(0.0));
        self.gauge.set(seconds);
        self.gauge.collect()
    }
}

/// Handles to every metric of the operator. Cloning is cheap.
#[derive(Clone)]
pub struct ControllerMetrics {
    reconciles: IntCounterVec,
    duration: Histogram,
    errors: IntCounterVec,
    objects: IntGaugeVec,
    in_backoff: IntGauge,
    queue_depth: IntGauge,
    leader: IntGauge,
    api_requests: IntCounterVec,
    signing_keys: Age,
    conditions: Objects,
    due: Arc<Mutex<HashSet<ObjectKey>>>,
}

impl ControllerMetrics {
    /// Registers everything in `registry`.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter =
            |name: &str, help: &str, label: &str| IntCounterVec::new(Opts::new(name, help), &[label]);
        let conditions = Objects::default();
        let unready = LongestWait::new(
            metric::UNREADY,
            "Seconds that the ChatService that has been unready longest has been so.",
            &conditions,
            |object| object.unready_since,
        )?;
        let config_waiting = LongestWait::new(
            metric::CONFIG_WAITING,
            "Seconds that the ready ChatService that waits longest for its configuration has waited.",
            &conditions,
            |object| object.config_waits_since,
        )?;
        let metrics = Self {
            reconciles: counter(metric::RECONCILES, "Reconciles of a ChatService.", "outcome")?,
            duration: Histogram::with_opts(
                HistogramOpts::new(metric::RECONCILE_DURATION, "Seconds of a reconcile.")
                    .buckets(SECONDS.to_vec()),
            )?,
            errors: counter(metric::RECONCILE_ERRORS, "Reconciles that failed.", "reason")?,
            objects: IntGaugeVec::new(
                Opts::new(metric::OBJECTS, "ChatServices by their conditions Ready and ConfigApplied."),
                &["ready", "config_applied"],
            )?,
            in_backoff: IntGauge::new(metric::IN_BACKOFF, "ChatServices that wait after a failure.")?,
            queue_depth: IntGauge::new(
                metric::QUEUE_DEPTH,
                "ChatServices that changed and whose reconcile has not begun.",
            )?,
            leader: IntGauge::new(metric::LEADER, "1 while this process holds the Lease.")?,
            api_requests: IntCounterVec::new(
                Opts::new(metric::API_REQUESTS, "Requests to the API server."),
                &["verb", "resource", "code"],
            )?,
            signing_keys: Age::new(
                metric::JWKS_AGE,
                "Seconds since the keys of ServiceAccount tokens were read.",
            )?,
            conditions,
            due: Arc::default(),
        };
        let build_info =
            IntGaugeVec::new(Opts::new(metric::BUILD_INFO, "The version, always 1."), &["version"])?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let all: [Box<dyn Collector>; 12] = [
            Box::new(metrics.reconciles.clone()),
            Box::new(metrics.duration.clone()),
            Box::new(metrics.errors.clone()),
            Box::new(metrics.objects.clone()),
            Box::new(metrics.in_backoff.clone()),
            Box::new(metrics.queue_depth.clone()),
            Box::new(metrics.leader.clone()),
            Box::new(metrics.api_requests.clone()),
            Box::new(metrics.signing_keys.clone()),
            Box::new(unready),
            Box::new(config_waiting),
            Box::new(build_info),
        ];
        for collector in all {
            registry.register(collector)?;
        }
        metrics.count_objects(&HashMap::new());
        Ok(metrics)
    }

    /// The keys of ServiceAccount tokens were read.
    pub fn signing_keys_read(&self) {
        *self.signing_keys.since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// A reconcile ended.
    pub fn reconciled(&self, duration: Duration, error: Option<&Error>) {
        self.duration.observe(duration.as_secs_f64());
        self.reconciles.with_label_values(&[if error.is_some() { "failure" } else { "success" }]).inc();
        if let Some(error) = error {
            self.errors.with_label_values(&[error.reason()]).inc();
        }
    }

    /// What an object's conditions say now.
    pub fn object(&self, key: &ObjectKey, status: &ChatServiceStatus) {
        let mut objects = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        objects.insert(key.clone(), Conditions::of(status));
        self.count_objects(&objects);
    }

    /// Something about an object changed, so it waits for a reconcile.
    pub fn due(&self, key: &ObjectKey) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        // Mostly it waits already.
        if !due.contains(key) {
            due.insert(key.clone());
            self.queue_depth.set(i64::try_from(due.len()).unwrap_or(i64::MAX));
        }
    }

    /// An object waits no more: its reconcile begins, or it is gone.
    pub fn begun(&self, key: &ObjectKey) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        if due.remove(key) {
            self.queue_depth.set(i64::try_from(due.len()).unwrap_or(i64::MAX));
        }
    }

    /// An object is gone.
    pub fn forget(&self, key: &ObjectKey) {
        self.begun(key);
        let mut objects = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        objects.remove(key);
        self.count_objects(&objects);
    }

    /// Objects that wait after a failure.
    pub fn in_backoff(&self, objects: usize) {
        self.in_backoff.set(i64::try_from(objects).unwrap_or(i64::MAX));
    }

    /// Whether this process leads.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// A request to the API server was answered with `code`, or not at all. The kinds that we ask about are few, so the
    /// label is one of few.
    pub fn asked(&self, request: &ApiRequest, code: Option<u16>) {
        let code = code.map_or_else(|| "none".to_owned(), |code| code.to_string());
        self.api_requests.with_label_values(&[request.verb, &request.qualified(), &code]).inc();
    }

    fn count_objects(&self, objects: &HashMap<ObjectKey, Conditions>) {
        let mut counts: HashMap<(bool, &str), i64> = HashMap::new();
        for object in objects.values() {
            *counts.entry((object.ready, object.config_applied)).or_default() += 1;
        }
        for (label, ready) in [("True", true), ("False", false)] {
            for config_applied in ["True", "False", "Unknown"] {
                let count = counts.get(&(ready, config_applied)).copied().unwrap_or(0);
                self.objects.with_label_values(&[label, config_applied]).set(count);
            }
        }
    }
}
