//! The watch of ChatServices. In: its events. Out: their cache, and those that need a reconcile: not one whose status we have just
//! written ourselves.

use std::future::ready;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use kube::{Client, Resource};

use super::children::{CHATSERVICES, Change, WatchErrors, watch};
use super::metrics::ControllerMetrics;
use super::record::StatusWriter;
use super::{ObjectKey, Scope, Watched};
use crate::constants::annotation;

/// The cache of the ChatServices in `scope`, and those that changed.
pub(super) fn services(
    client: &Client,
    scope: &Scope,
    writer: &Arc<StatusWriter>,
    errors: &Arc<WatchErrors>,
    metrics: &ControllerMetrics,
) -> (Store<Watched>, impl Stream<Item = Result<Watched, watcher::Error>> + Send + 'static + use<>) {
    let all = scope.api::<Watched>(client);
    let (store, changes) = watch(all, CHATSERVICES, watcher::Config::default(), strip, errors);
    let (writer, metrics) = (Arc::clone(writer), metrics.clone());
    let triggers = changes.filter_map(move |change| {
        let key = ObjectKey::of(change.object.as_ref());
        let needs = needs_a_look(&change) || !writer.wrote(&key, change.object.meta());
        if needs {
            metrics.due(&key);
        }
        ready(needs.then(|| Ok(Watched::clone(&change.object))))
    });
    (store, triggers)
}

/// Takes off what nobody reads: `kubectl apply` keeps a second copy of the object in an annotation.
fn strip(mut object: Watched) -> Watched {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    let mut annotations = meta.annotations.take().unwrap_or_default();
    annotations.retain(|name, _| [annotation::PAUSED, annotation::RESTARTED_AT].contains(&name.as_str()));
    meta.annotations = (!annotations.is_empty()).then_some(annotations);
    object
}

/// Whether more of it than the status changed, or may have. What could not be read is looked at again when it can.
fn needs_a_look(change: &Change<Watched>) -> bool {
    let Some(before) = change.before.as_ref().filter(|_| !change.gone) else { return true };
    let (was, is) = (before.meta(), change.object.meta());
    before.0.is_err()
        || was.uid != is.uid
        || was.generation != is.generation
        || was.annotations != is.annotations
        || was.deletion_timestamp != is.deletion_timestamp
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(generation: i64, meta: &Value) -> Arc<Watched> {
        let mut whole = json!({ "name": "demo", "namespace": "chat", "uid": "u", "generation": generation });
        whole.as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
        let object = json!({
            "apiVersion": "chatservice.dev/v1alpha1", "kind": "ChatService", "metadata": whole,
            "spec": { "model": "m", "backend": { "echo": {} } },
        });
        Arc::new(strip(serde_json::from_value(object).unwrap()))
    }

    #[test]
    fn only_a_change_of_the_status_alone_may_be_our_own() {
        let applied = json!({ "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "{}" } });
        let before = || Some(service(1, &applied));
        let unreadable: Watched = serde_json::from_value(json!({
            "apiVersion": "chatservice.dev/v1alpha1", "kind": "ChatService", "metadata": before().unwrap().meta(), "spec": 7,
        }))
        .unwrap();
        let same = || service(1, &json!({}));
        let paused = json!({ "annotations": { "chatservice.dev/paused": "true" } });
        let going = json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" });
        for (case, before, object, gone, expected) in [
            ("its status", before(), same(), false, false),
            ("a new one", None, same(), false, true),
            ("it is gone", before(), same(), true, true),
            ("its spec", before(), service(2, &json!({})), false, true),
            ("it is paused", before(), service(1, &paused), false, true),
            ("made anew", before(), service(1, &json!({ "uid": "v" })), false, true),
            ("it goes", before(), service(1, &going), false, true),
            ("it can be read now", Some(Arc::new(unreadable)), same(), false, true),
        ] {
            assert_eq!(needs_a_look(&Change { before, object, gone }), expected, "{case}");
        }
    }
}
