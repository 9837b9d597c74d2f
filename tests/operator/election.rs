//! Who may write, on real Leases.

use chatservice::leader_election::{
    Candidate, LEASE_DURATION, Leadership, LeaseOptions, Lost, RENEW_DEADLINE, RETRY_PERIOD,
};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::rig::{Rig, until};

const LEASE: &str = "turns";

fn candidate(rig: &Rig, identity: &str) -> (Candidate, Leadership) {
    let leadership = Leadership::default();
    let options = LeaseOptions {
        namespace: Some(rig.namespace.clone()),
        name: LEASE.to_owned(),
        identity: identity.to_owned(),
    };
    (Candidate::new(rig.admin.clone(), options, leadership.clone()), leadership)
}

async fn lease(rig: &Rig) -> Value {
    serde_json::to_value(rig.find::<Lease>(LEASE).await.unwrap()).unwrap()["spec"].clone()
}

/// Becomes the holder at its first look, or fails.
async fn lead(candidate: &mut Candidate) {
    timeout(LEASE_DURATION, candidate.acquire(|seen| panic!("{seen:?}"))).await.unwrap();
}

#[tokio::test]
async fn one_leads_and_the_other_follows_soon_after_it_gave_the_lease_back() {
    let Some(rig) = Rig::without_operator().await else { return };
    let ((mut a, may_a), (mut b, may_b)) = (candidate(&rig, "a"), candidate(&rig, "b"));
    assert!(may_a.writes_until().is_none());
    lead(&mut a).await;
    assert!(may_a.writes_until().is_some());
    let held = lease(&rig).await;
    assert_eq!(held["holderIdentity"], a.identity());
    assert_eq!((&held["leaseDurationSeconds"], &held["leaseTransitions"]), (&json!(15), &json!(0)));

    let holder = a.identity().to_owned();
    let (mut looks, mut given_back) = (0, None);
    let waiting = b.acquire(|seen| {
        assert_eq!(seen, Ok(holder.as_str()));
        looks += 1;
    });
    let leading = async {
        // Longer than the Lease lasts without a renewal.
        timeout(LEASE_DURATION + RETRY_PERIOD, a.keep()).await.unwrap_err();
        a.release().await;
        given_back = Some(Instant::now());
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = waiting => {}
        () = leading => unreachable!(),
    }
    assert!(looks > 1);
    assert!(given_back.unwrap().elapsed() < LEASE_DURATION, "{:?}", given_back.unwrap().elapsed());
    assert!(may_a.writes_until().is_none() && may_b.writes_until().is_some());
    let held = lease(&rig).await;
    assert_eq!((&held["holderIdentity"], &held["leaseTransitions"]), (&json!(b.identity()), &json!(1)));
}

#[tokio::test]
async fn a_holder_that_vanished_is_followed_when_it_may_not_write_any_more() {
    let Some(rig) = Rig::without_operator().await else { return };
    let ((mut a, may_a), (mut b, _)) = (candidate(&rig, "a"), candidate(&rig, "b"));
    lead(&mut a).await;
    let stopped = Instant::now();
    b.acquire(|_| {}).await;
    assert!(may_a.writes_until().is_none(), "its time to write ended before the other's began");
    let passed = stopped.elapsed();
    assert!(passed >= LEASE_DURATION, "{passed:?}");
    // It wakes up again, finds its time over, and asks nobody.
    let Lost::Expired(_) = a.keep().await else { panic!("it expired") };
    assert_eq!(lease(&rig).await["holderIdentity"], b.identity());
}

#[tokio::test]
async fn a_holder_that_somebody_replaced_stops_at_its_next_renewal() {
    let Some(rig) = Rig::without_operator().await else { return };
    let (mut a, may_a) = candidate(&rig, "a");
    lead(&mut a).await;
    rig.merge::<Lease>(LEASE, &json!({ "spec": { "holderIdentity": "somebody" } })).await;
    assert_eq!(timeout(RENEW_DEADLINE, a.keep()).await.unwrap(), Lost::Taken("somebody".to_owned()));
    assert!(may_a.writes_until().is_none());
    a.release().await;
    assert_eq!(lease(&rig).await["holderIdentity"], "somebody", "what is not ours is not given back");
}

#[tokio::test]
async fn a_lease_that_was_labelled_or_deleted_is_renewed_all_the_same() {
    let Some(rig) = Rig::without_operator().await else { return };
    let (mut a, _) = candidate(&rig, "a");
    lead(&mut a).await;
    let disturbing = async {
        let labels = json!({ "metadata": { "labels": { "example.com/theirs": "kept" } } });
        rig.api::<Lease>().patch(LEASE, &PatchParams::default(), &Patch::Merge(&labels)).await.unwrap();
        let before = lease(&rig).await["renewTime"].clone();
        until("a renewal", async || (lease(&rig).await["renewTime"] != before).then_some(())).await;
        let labels = rig.find::<Lease>(LEASE).await.unwrap().metadata.labels.unwrap();
        assert_eq!(labels["example.com/theirs"], "kept");
        rig.api::<Lease>().delete(LEASE, &DeleteParams::default()).await.unwrap();
        until("a new Lease", async || rig.find::<Lease>(LEASE).await.map(|_| ())).await;
    };
    tokio::select! {
        lost = a.keep() => panic!("{lost}"),
        () = disturbing => {}
    }
    assert_eq!(lease(&rig).await["holderIdentity"], a.identity());
}
