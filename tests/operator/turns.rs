//! Whose turn it is while more ChatServices wait for a reconcile than run at a time.

use std::sync::{Arc, Mutex};

use chatservice::crd::ChatService;
use futures::StreamExt;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};

use crate::rig::{self, Rig, until_some};

/// ChatServices that change all the time: many more than are reconciled at once.
const CHANGING: usize = 24;
/// Who changes them, each its part.
const HANDS: usize = 2;
/// Reconciles at once.
const AT_ONCE: usize = 8;

/// Without pods, which nothing here is about.
fn echo(model: &str) -> Value {
    json!({ "model": model, "backend": { "echo": {} }, "replicas": 0 })
}

fn changing(number: usize) -> String {
    format!("changing-{number}")
}

/// The services whose Deployment was applied since the request with this number, in order: each reconcile does so once.
fn turns(rig: &Rig, since: usize) -> Vec<String> {
    let requests = rig.recorded.all();
    let applied = requests[since..].iter().filter_map(|line| {
        let (_, rest) = line.strip_prefix("PATCH ")?.split_once("/deployments/")?;
        let (service, query) = rest.split_once('?')?;
        // Its number of pods has a manager of its own.
        let whole = query.split('&').any(|part| part == "fieldManager=chatservice-controller");
        whole.then(|| service.to_owned())
    });
    applied.collect()
}

/// The most turns of others between two of this one, and before its first and after its last.
fn longest_wait(turns: &[String], service: &str) -> usize {
    turns.split(|turn| turn == service).map(<[String]>::len).max().unwrap()
}

#[tokio::test]
async fn nobody_waits_for_ever_while_everything_changes_all_the_time() {
    let Some(mut rig) = rig::start().await else { return };
    for number in 0..CHANGING {
        rig.create(&changing(number), &echo("m")).await;
    }
    until_some("all to be looked at", async || {
        let services = rig.api::<ChatService>().list(&ListParams::default()).await.unwrap();
        let seen = services.iter().filter(|cs| {
            let status = cs.status.as_ref();
            status.and_then(|status| status.observed_generation) == cs.metadata.generation
        });
        let seen = seen.count();
        if seen == CHANGING { Ok(()) } else { Err(seen.to_string()) }
    })
    .await;
    for hand in 0..HANDS {
        let services: Api<ChatService> = rig.api();
        rig.run(async move {
            for round in 0_u64.. {
                for number in (hand..CHANGING).step_by(HANDS) {
                    let changed =
                        json!({ "metadata": { "annotations": { "example.com/round": round.to_string() } } });
                    let params = PatchParams::default();
                    services.patch(&changing(number), &params, &Patch::Merge(changed)).await.unwrap();
                }
            }
        });
    }
    let since = rig.recorded.all().len();
    let turns = until_some("five turns for each", async || {
        let turns = turns(&rig, since);
        if turns.len() >= 5 * CHANGING { Ok(turns) } else { Err(turns.len().to_string()) }
    })
    .await;
    // One of each other, and some more for those that are asked for again before this one is.
    let longest = (0..CHANGING).map(|number| longest_wait(&turns, &changing(number))).max();
    assert!(longest.unwrap() < 3 * CHANGING, "{longest:?} turns of others: {turns:?}");
    rig.stop().await;
}

#[tokio::test]
async fn who_has_waited_is_looked_at_as_it_is_then() {
    let Some(mut rig) = rig::start().await else { return };
    rig.faults.hold(Some("/serviceaccounts/slow-"));
    for number in 0..AT_ONCE {
        rig.create(&format!("slow-{number}"), &echo("m")).await;
    }
    until_some("all places to be taken", async || {
        let taken = rig.recorded.count("GET", "/serviceaccounts/slow-");
        if taken == AT_ONCE { Ok(()) } else { Err(taken.to_string()) }
    })
    .await;
    let seen: Arc<Mutex<Vec<Option<i64>>>> = Arc::default();
    let (services, into): (Api<ChatService>, _) = (rig.api(), Arc::clone(&seen));
    rig.run(async move {
        let config = watcher::Config::default().fields("metadata.name=late");
        let mut versions = std::pin::pin!(watcher(services, config).default_backoff().applied_objects());
        while let Some(version) = versions.next().await {
            let status = version.unwrap().status;
            into.lock().unwrap().push(status.and_then(|status| status.observed_generation));
        }
    });
    rig.create("late", &echo("first")).await;
    rig.until_waiting(1).await;
    let second = rig.merge::<ChatService>("late", &json!({ "spec": { "model": "second" } })).await;
    // A watch tells in order: where this one is known, that change is.
    rig.create("last", &echo("m")).await;
    rig.until_waiting(2).await;
    rig.faults.hold(None);
    let generation = second.metadata.generation;
    until_some("the second generation", async || {
        let seen = seen.lock().unwrap().clone();
        if seen.contains(&generation) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    assert!(!seen.lock().unwrap().contains(&Some(1)), "the first generation was over: {seen:?}");
    rig.stop().await;
}
