//! The operator's metrics. In: what happened. Out: a registry for the admin listener. No label holds a name of an object.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::ObjectKey;
use super::error::Error;
use crate::constants::metric;

const SECONDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Handles to every metric of the operator. Cloning is cheap.
#[derive(Clone)]
pub struct ControllerMetrics {
    reconciles: IntCounterVec,
    duration: Histogram,
    errors: IntCounterVec,
    objects: IntGaugeVec,
    in_backoff: IntGauge,
    ready: Arc<Mutex<HashMap<ObjectKey, bool>>>,
}

impl ControllerMetrics {
    /// Registers everything in `registry`.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter =
            |name: &str, help: &str, label: &str| IntCounterVec::new(Opts::new(name, help), &[label]);
        let metrics = Self {
            reconciles: counter(metric::RECONCILES, "Reconciles of a ChatService.", "outcome")?,
            duration: Histogram::with_opts(
                HistogramOpts::new(metric::RECONCILE_DURATION, "Seconds of a reconcile.")
                    .buckets(SECONDS.to_vec()),
            )?,
            errors: counter(metric::RECONCILE_ERRORS, "Reconciles that failed.", "reason")?,
            objects: IntGaugeVec::new(
                Opts::new(metric::OBJECTS, "ChatServices by their Ready condition."),
                &["ready"],
            )?,
            in_backoff: IntGauge::new(metric::IN_BACKOFF, "ChatServices that wait after a failure.")?,
            ready: Arc::default(),
        };
        let build_info =
            IntGaugeVec::new(Opts::new(metric::BUILD_INFO, "The version, always 1."), &["version"])?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let all: [Box<dyn Collector>; 6] = [
            Box::new(metrics.reconciles.clone()),
            Box::new(metrics.duration.clone()),
            Box::new(metrics.errors.clone()),
            Box::new(metrics.objects.clone()),
            Box::new(metrics.in_backoff.clone()),
            Box::new(build_info),
        ];
        for collector in all {
            registry.register(collector)?;
        }
        metrics.count_objects(&HashMap::new());
        Ok(metrics)
    }

    /// A reconcile ended.
    pub fn reconciled(&self, duration: Duration, error: Option<&Error>) {
        self.duration.observe(duration.as_secs_f64());
        self.reconciles.with_label_values(&[if error.is_some() { "failure" } else { "success" }]).inc();
        if let Some(error) = error {
            self.errors.with_label_values(&[error.reason()]).inc();
        }
    }

    /// What an object's Ready condition says now.
    pub fn object(&self, key: &ObjectKey, ready: bool) {
        let mut objects = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        objects.insert(key.clone(), ready);
        self.count_objects(&objects);
    }

    /// An object is gone.
    pub fn forget(&self, key: &ObjectKey) {
        let mut objects = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        objects.remove(key);
        self.count_objects(&objects);
    }

    /// Objects that wait after a failure.
    pub fn in_backoff(&self, objects: usize) {
        self.in_backoff.set(i64::try_from(objects).unwrap_or(i64::MAX));
    }

    fn count_objects(&self, objects: &HashMap<ObjectKey, bool>) {
        for (label, value) in [("True", true), ("False", false)] {
            let count = objects.values().filter(|&&ready| ready == value).count();
            self.objects.with_label_values(&[label]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}
