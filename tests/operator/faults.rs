//! Rows O2 to O6: what goes wrong between the operator and the API server changes nothing of what is there in the end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use chatservice::crd::ChatService;
use futures::{FutureExt, StreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use kube::core::ObjectMeta;
use serde_json::{Value, json};

use crate::kinds;
use crate::rig::{End, Fault, Faults, Lists, Rig, until, until_gone, until_some};
use crate::workflows::{
    Acts, Disturbed, NAME, Workflow, one_crash_after_the_other, picture, side_by_side, undisturbed,
};

/// ChatServices, seven kinds of children, and pods.
const KINDS: usize = 9;
/// Namespaces with an operator each at the same time.
const AT_ONCE: usize = 3;
/// Crashes of one after the other in a namespace.
const CRASHES_AT_MOST: usize = 6;

/// Every point of a workflow with every fault; where it is a crash, with these times of the user's.
async fn every_point(workflow: Workflow, acts: &[Acts], faults: &[Fault], most: usize) -> Option<Disturbed> {
    let expected = undisturbed(workflow).await?;
    let points = (1..=expected.changes.len().min(most)).flat_map(|n| faults.iter().map(move |&f| (n, f)));
    let (crashes, others): (Vec<_>, Vec<_>) = points.partition(|(_, fault)| CRASHES.contains(fault));
    let mut runs = Vec::new();
    for acts in acts {
        for points in crashes.chunks(workflow.most().min(CRASHES_AT_MOST)) {
            runs.push(one_crash_after_the_other(workflow, *acts, points, &expected).boxed_local());
        }
    }
    for points in others.chunks(workflow.most()) {
        runs.push(side_by_side(workflow, points, &expected).boxed_local());
    }
    let mut all = Disturbed::default();
    let mut ended = stream::iter(runs).buffer_unordered(AT_ONCE);
    while let Some(disturbed) = ended.next().await {
        all.add(disturbed);
    }
    Some(all)
}

/// The same, where every fault is met and nothing goes wrong.
async fn all_met(workflow: Workflow, faults: &[Fault], most: usize) {
    let acts = [Acts::Before];
    let Some(Disturbed { points, missed, failures }) = every_point(workflow, &acts, faults, most).await
    else {
        return;
    };
    assert_eq!(failures, Vec::<String>::new());
    assert_eq!(missed, []);
    assert_eq!(points, most * faults.len());
}

const CRASHES: [Fault; 2] = [Fault::CrashBefore, Fault::CrashAfter];
const ANSWERS: [Fault; 4] =
    [Fault::Refused(409), Fault::Refused(503), Fault::Misreported(504), Fault::Refused(500)];

#[tokio::test]
async fn an_operator_that_dies_while_it_creates_is_followed_by_one_that_finishes() {
    // The first reconcile: every child and the status.
    all_met(Workflow::Create, &CRASHES, 9).await;
}

#[tokio::test]
async fn an_operator_that_dies_while_it_scales_down_deletes_the_budget_once() {
    all_met(Workflow::ScaleDown, &CRASHES, 9).await;
}

#[tokio::test]
async fn conflicts_while_it_scales_down_are_made_up_for() {
    all_met(Workflow::ScaleDown, &[Fault::Refused(409)], 9).await;
}

#[tokio::test]
async fn refusals_and_lost_answers_while_it_creates_are_made_up_for() {
    all_met(Workflow::Create, &ANSWERS, 8).await;
}

/// What is there with its versions: a write that changes nothing changes none.
async fn versions(rig: &Rig) -> Vec<String> {
    let line = |kind: &str, meta: &ObjectMeta| {
        let version = meta.resource_version.as_deref().unwrap();
        format!("{kind} {} {version}", meta.name.as_deref().unwrap())
    };
    let children = kinds::objects(rig, &ListParams::default()).await;
    let mut all: Vec<_> = children.iter().map(|(kind, object)| line(kind, &object.metadata)).collect();
    let services = rig.api::<ChatService>().list_metadata(&ListParams::default()).await.unwrap();
    all.extend(services.iter().map(|service| line("ChatService", &service.metadata)));
    all
}

/// Its pods end soon: a namespace that goes away waits for half of their grace before it looks again.
fn three() -> Value {
    json!({ "model": "m", "backend": { "echo": {} }, "replicas": 3, "pod": { "terminationGracePeriodSeconds": 15 } })
}

/// A service that is settled, and what the API server has of it.
async fn settled() -> Option<(Rig, Vec<String>)> {
    settled_with_lease_in(None).await
}

async fn settled_with_lease_in(namespace: Option<&str>) -> Option<(Rig, Vec<String>)> {
    let mut rig = Rig::without_operator().await?;
    rig.lease_namespace = namespace.map(str::to_owned);
    rig.answer_for_pods().await;
    // As long as it really is: on a busy machine an answer may come late, and that would be written.
    rig.patience = Duration::from_mins(2);
    rig.run_operator(None).await;
    rig.create(NAME, &three()).await;
    rig.until_settled(NAME).await;
    quiet(&rig, 2).await;
    let versions = versions(&rig).await;
    Some((rig, versions))
}

/// Waits until the pods were asked so often once more.
async fn quiet(rig: &Rig, rounds: usize) {
    for _ in 0..rounds {
        let enough = rig.asked.load(Ordering::SeqCst) + 3;
        let asked = async || (rig.asked.load(Ordering::SeqCst) >= enough).then_some(());
        until("the pods to be asked", asked).await;
    }
}

/// Row O6.
async fn nothing_is_written_for(rounds: usize) -> Option<()> {
    let (rig, before) = settled().await?;
    let changes = rig.faults.changes();
    quiet(&rig, rounds).await;
    assert_eq!(rig.faults.changes(), changes, "nothing changed, so nothing is written");
    assert_eq!(versions(&rig).await, before);
    rig.stop().await;
    Some(())
}

#[tokio::test]
async fn while_nothing_changes_nothing_is_written() {
    nothing_is_written_for(3).await;
}

#[tokio::test]
#[ignore = "a minute: make chaos"]
async fn while_nothing_changes_for_a_minute_nothing_is_written() {
    // The rig's pods are asked every 2 s.
    if nothing_is_written_for(30).await.is_some() {
        println!("O6: nothing changed for 60 s: 0 writes");
    }
}

/// Row O4: watches end as too old, again and again.
async fn watches_are_gone(times: u32, pause: Duration) -> Option<()> {
    let (rig, before) = settled().await?;
    let begun = || (rig.recorded.count("GET", "limit=500"), rig.recorded.count("GET", "watch=true"));
    for round in 0..times {
        let (lists, watches) = begun();
        let end = if round % 2 == 0 { End::Gone } else { End::Cut };
        rig.faults.end_watches(end);
        // What is gone is listed anew; what is cut goes on from where it was.
        let lists = if end == End::Gone { lists + KINDS } else { lists };
        until_some(&format!("new watches in round {round}"), async || {
            let now = begun();
            if now.0 >= lists && now.1 >= watches + KINDS {
                return Ok(());
            }
            Err(format!("{now:?} lists and watches, wanted {lists} and {}", watches + KINDS))
        })
        .await;
        tokio::time::sleep(pause).await;
    }
    assert_eq!(versions(&rig).await, before, "nothing healthy is deleted or rewritten");
    assert_eq!(rig.recorded.count("DELETE", ""), 0);
    // And it still hears of changes.
    rig.merge::<ChatService>(NAME, &json!({ "spec": { "replicas": 1 } })).await;
    rig.until_settled(NAME).await;
    rig.stop().await;
    Some(())
}

#[tokio::test]
async fn watches_that_are_gone_are_begun_anew_and_nothing_is_rewritten() {
    watches_are_gone(3, Duration::ZERO).await;
}

#[tokio::test]
#[ignore = "two minutes: make chaos"]
async fn watches_that_are_gone_every_five_seconds_for_two_minutes_rewrite_nothing() {
    if watches_are_gone(24, Duration::from_secs(5)).await.is_some() {
        println!("O4: 410 every 5 s for 2 min: 0 objects deleted, 0 rewritten");
    }
}

#[tokio::test]
async fn events_that_were_held_up_are_made_up_for() {
    let Some((rig, _)) = settled().await else { return };
    rig.faults.freeze_watches();
    rig.merge::<ChatService>(NAME, &json!({ "spec": { "replicas": 1 } })).await;
    rig.api::<Service>().delete(NAME, &DeleteParams::background()).await.unwrap();
    rig.faults.thaw_watches();
    rig.until_settled(NAME).await;
    until("the Service", async || rig.find::<Service>(NAME).await.map(|_| ())).await;
    rig.stop().await;
}

/// Row O4: an operator that has seen a part of what is there must not take the rest for absent.
#[tokio::test]
async fn before_all_lists_are_there_nothing_is_written() {
    let Some((mut rig, before)) = settled().await else { return };
    rig.kill_operator().await;
    rig.faults.hold(Some("/poddisruptionbudgets"));
    rig.begin_operator(None).await;
    // It gives up waiting after 10 s, to say so.
    until("a reconcile to end in vain", async || {
        let reason = "reconcile_errors_total{reason=\"NotInitialised\"}";
        rig.metrics().contains(reason).then_some(())
    })
    .await;
    assert_eq!(rig.faults.changes(), Vec::<String>::new());
    rig.faults.hold(None);
    let readiness = rig.readiness.clone();
    until("the operator's watches", async || readiness.is_ready().then_some(())).await;
    rig.until_settled(NAME).await;
    assert_eq!(versions(&rig).await, before);
    rig.stop().await;
}

/// Row O5: lists from before the children were there, and from before one of them was deleted.
#[tokio::test]
async fn stale_lists_after_a_restart_delete_nothing_and_make_nothing_twice() {
    let Some(mut rig) = Rig::without_operator().await else { return };
    rig.run_operator(None).await;
    let of_children = |faults: &Faults| -> Lists {
        faults.lists().into_iter().filter(|(path, _)| !path.contains("/chatservices")).collect()
    };
    let empty = of_children(&rig.faults);
    rig.create(NAME, &three()).await;
    rig.until_settled(NAME).await;
    rig.kill_operator().await;
    rig.run_operator(None).await;
    let with_budget = of_children(&rig.faults);
    rig.merge::<ChatService>(NAME, &json!({ "spec": { "replicas": 1 } })).await;
    rig.until_settled(NAME).await;
    // What the new operator does not know of the pods yet, its status does not say.
    let children = async |rig: &Rig| -> Vec<String> {
        versions(rig).await.into_iter().filter(|line| !line.starts_with("ChatService ")).collect()
    };
    let before = children(&rig).await;
    for stale in [empty, with_budget] {
        assert_eq!(stale.len(), KINDS - 1);
        rig.kill_operator().await;
        rig.faults.replay(stale);
        rig.run_operator(None).await;
        assert!(rig.faults.all_replayed());
        until("a reconcile", async || (rig.reconciles() > 0).then_some(())).await;
        rig.until_settled(NAME).await;
        assert_eq!(children(&rig).await, before);
    }
    rig.stop().await;
}

/// Row O11.
#[tokio::test]
async fn a_service_deleted_while_no_operator_runs_leaves_nothing() {
    let Some((mut rig, _)) = settled().await else { return };
    rig.kill_operator().await;
    rig.api::<ChatService>().delete(NAME, &DeleteParams::background()).await.unwrap();
    rig.run_operator(None).await;
    until("everything to go", async || {
        (picture(&rig).await.is_empty() && rig.pods(NAME).await.is_empty()).then_some(())
    })
    .await;
    assert_eq!(rig.faults.changes(), Vec::<String>::new());
    rig.stop().await;
}

/// Row O11.
#[tokio::test]
async fn a_namespace_that_goes_away_is_left_alone() {
    let Some((rig, _)) = settled_with_lease_in(Some("default")).await else { return };
    // The namespace stays, terminating, as long as these do.
    let hold = json!({ "metadata": { "finalizers": ["example.com/hold"] } });
    rig.merge::<ChatService>(NAME, &hold).await;
    let namespaces: Api<Namespace> = Api::all(rig.admin.clone());
    namespaces.delete(&rig.namespace, &DeleteParams::background()).await.unwrap();
    until("all but what is held to go", async || {
        let marked = rig.find::<ChatService>(NAME).await?.metadata.deletion_timestamp.is_some();
        (marked && picture(&rig).await.len() == 1).then_some(())
    })
    .await;
    let touch = async |round: u32| {
        let before = rig.reconciles();
        let touched = json!({ "metadata": { "annotations": { "example.com/touched": round.to_string() } } });
        rig.merge::<ChatService>(NAME, &touched).await;
        until("a reconcile", async || (rig.reconciles() > before).then_some(())).await;
    };
    // Two, so that one which began before the mark has ended.
    touch(0).await;
    touch(1).await;
    let (changes, failures) = (rig.faults.changes(), failures(&rig));
    for round in 2..5 {
        touch(round).await;
    }
    assert_eq!(rig.faults.changes(), changes, "nothing is written");
    assert_eq!(self::failures(&rig), failures, "and nothing fails");
    rig.merge::<ChatService>(NAME, &json!({ "metadata": { "finalizers": null } })).await;
    until_gone(&namespaces, &rig.namespace).await;
    rig.stop().await;
}

fn failures(rig: &Rig) -> Option<String> {
    let metrics = rig.metrics();
    metrics.lines().find(|line| line.contains("reconcile_total{outcome=\"failure\"}")).map(str::to_owned)
}

/// Rows O2 and O3 in full, for one workflow.
#[expect(clippy::print_stdout, reason = "figures are for people")]
async fn every_fault(workflow: Workflow) {
    let faults = [
        &CRASHES[..],
        &ANSWERS[..],
        &[Fault::Refused(429), Fault::Unanswered, Fault::Delayed(Duration::from_secs(2))],
    ];
    let begun = tokio::time::Instant::now();
    let acts = [Acts::Before, Acts::Meanwhile];
    let Some(disturbed) = every_point(workflow, &acts, &faults.concat(), usize::MAX).await else { return };
    let Disturbed { points, missed, mut failures } = disturbed;
    println!(
        "O2, O3: {workflow:?}: {points} points, {} met, {} did not converge or deleted too much ({} s)",
        points - missed.len(),
        failures.len(),
        begun.elapsed().as_secs()
    );
    // Whatever is acted on changes something at least once.
    let never = missed.into_iter().filter(|(number, _)| *number == 1);
    failures.extend(never.map(|(_, fault)| format!("{workflow:?}, {fault:?}: never met")));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

macro_rules! every_fault_at_every_change_of {
    ($($name:ident: $workflow:ident,)*) => {
        mod every_fault_at_every_change_of {
            use super::{Workflow, every_fault};

            $(
                #[tokio::test]
                #[ignore = "minutes: make chaos"]
                async fn $name() {
                    every_fault(Workflow::$workflow).await;
                }
            )*
        }
    };
}

every_fault_at_every_change_of! {
    create: Create,
    change_image: ChangeImage,
    scale_up: ScaleUp,
    scale_down: ScaleDown,
    autoscaling_on: AutoscalingOn,
    autoscaling_off: AutoscalingOff,
    rotate_secret: RotateSecret,
    delete: Delete,
    recreate: Recreate,
}
