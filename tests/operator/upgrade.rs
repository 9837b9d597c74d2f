//! Another operator, with another default image: whose pods are replaced, how often, and how many at a time.

use std::collections::{BTreeMap, BTreeSet};

use chatservice::constants::{annotation, condition};
use chatservice::crd::ChatService;
use futures::{StreamExt, pin_mut};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::api::ListParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::rig::{self, IMAGE, Rig, claim, until, until_some};

const NEWER: &str = "registry.example.com/chatservice:0.2.0";
const SERVICES: usize = 6;
const AT_A_TIME: usize = 2;

async fn deployments(rig: &Rig) -> BTreeMap<String, Deployment> {
    let all = rig.api::<Deployment>().list(&ListParams::default()).await.unwrap();
    all.into_iter().map(|deployment| (deployment.name_any(), deployment)).collect()
}

fn image(template: &PodTemplateSpec) -> &str {
    template.spec.as_ref().unwrap().containers[0].image.as_deref().unwrap()
}

/// Whether pods of the newer image are on their way.
fn rolls(deployment: &Deployment) -> bool {
    rolls_to(deployment, NEWER)
}

/// Whether pods of this image are on their way.
fn rolls_to(deployment: &Deployment, wanted_image: &str) -> bool {
    let status = deployment.status.clone().unwrap_or_default();
    let wanted = deployment.spec.replicas;
    let current = status.observed_generation >= deployment.metadata.generation;
    let complete = current
        && status.updated_replicas == wanted
        && status.available_replicas == wanted
        && status.replicas == wanted;
    image(&deployment.spec.template) == wanted_image && !complete
}

#[tokio::test]
async fn o14_an_upgrade_replaces_pods_once_a_few_services_at_a_time_and_leaves_named_images_alone() {
    let Some(mut rig) = Rig::without_operator().await else { return };
    rig.max_concurrent_rollouts = AT_A_TIME;
    rig.run_operator(None).await;
    let spec = json!({ "model": "m", "backend": { "echo": {} }, "replicas": 2 });
    let names: Vec<String> = (0..SERVICES).map(|number| format!("s{number}")).collect();
    for name in &names {
        rig.create(name, &spec).await;
    }
    let mut pinned = spec.clone();
    pinned["image"] = json!(IMAGE);
    rig.create("pinned", &pinned).await;
    for name in names.iter().map(String::as_str).chain(["pinned"]) {
        rig.until_settled(name).await;
    }
    let before = deployments(&rig).await;

    let touched =
        watcher(rig.api::<Deployment>(), watcher::Config::default()).default_backoff().touched_objects();
    pin_mut!(touched);
    for _ in &before {
        touched.next().await.unwrap().unwrap();
    }
    rig.upgrade(NEWER).await;
    let watching = async {
        let (mut rolling, mut rolled, mut most) = (BTreeSet::new(), BTreeSet::new(), 0);
        while rolled.len() < SERVICES {
            let next = tokio::time::timeout(rig::PATIENCE, touched.next()).await;
            let Ok(next) = next else { panic!("rolling {rolling:?}, rolled {rolled:?}, then nothing") };
            let deployment = next.unwrap().unwrap();
            let name = deployment.name_any();
            if rolls(&deployment) {
                rolling.insert(name);
            } else if rolling.remove(&name) {
                rolled.insert(name);
            }
            most = most.max(rolling.len());
        }
        most
    };
    let waiting = until("one that waits for its turn", async || {
        for name in &names {
            let cs = rig.find::<ChatService>(name).await?;
            let told =
                claim(&cs, condition::RECONCILING).filter(|(_, _, m)| m.contains("waits for its turn"));
            if let Some((_, reason, _)) = told {
                let ready = claim(&cs, condition::READY).unwrap();
                return Some((reason, ready.0, cs.status?.image?));
            }
        }
        None
    });
    let (most, waiting) = tokio::join!(watching, waiting);
    assert_eq!(most, AT_A_TIME, "so many at a time, and no fewer");
    assert_eq!(waiting, ("RollingOut".to_owned(), "True".to_owned(), IMAGE.to_owned()));

    for name in &names {
        let status = rig.until_settled(name).await.status.unwrap();
        assert_eq!(status.image.as_deref(), Some(NEWER));
    }
    let after = deployments(&rig).await;
    for name in &names {
        let generation = |all: &BTreeMap<String, Deployment>| all[name].metadata.generation.unwrap();
        assert_eq!(generation(&after), generation(&before) + 1, "{name} was changed once");
        assert_eq!(image(&after[name].spec.template), NEWER);
    }
    assert_eq!(after["pinned"].spec, before["pinned"].spec);
    assert_eq!(after["pinned"].metadata.generation, before["pinned"].metadata.generation);
    rig.stop().await;
}

/// How many of `names` are rolled to `image` at a time, at most, until all of them were.
async fn most_at_a_time(deployments: Api<Deployment>, names: &[String], image: &str) -> usize {
    let touched = watcher(deployments, watcher::Config::default()).default_backoff().touched_objects();
    pin_mut!(touched);
    let (mut rolling, mut rolled, mut most) = (BTreeSet::new(), BTreeSet::new(), 0);
    while rolled.len() < names.len() {
        let deployment = touched.next().await.unwrap().unwrap();
        let name = deployment.name_any();
        if rolls_to(&deployment, image) {
            rolling.insert(name);
        } else if rolling.remove(&name) {
            rolled.insert(name);
        }
        most = most.max(rolling.len());
    }
    most
}

/// Row O14 in full, there and back.
#[tokio::test]
#[ignore = "minutes: make chaos"]
async fn fifty_services_are_upgraded_and_downgraded_once_and_five_at_a_time() {
    let Some(mut rig) = Rig::without_operator().await else { return };
    rig.run_operator(None).await;
    let spec = json!({ "model": "m", "backend": { "echo": {} }, "replicas": 2 });
    let mut pinned = spec.clone();
    pinned["image"] = json!("registry.example.com/chatservice:0.0.9");
    let names: Vec<String> = (0..50).map(|number| format!("s{number}")).collect();
    for name in &names {
        rig.create(name, &spec).await;
    }
    rig.create("pinned", &pinned).await;
    for name in names.iter().map(String::as_str).chain(["pinned"]) {
        rig.until_settled(name).await;
    }
    for (direction, image) in [("upgrade", NEWER), ("downgrade", IMAGE)] {
        let before = deployments(&rig).await;
        let watching = most_at_a_time(rig.api(), &names, image);
        let (most, ()) = tokio::join!(watching, rig.upgrade(image));
        for name in &names {
            rig.until_settled(name).await;
        }
        let after = deployments(&rig).await;
        let generation =
            |all: &BTreeMap<String, Deployment>, name: &str| all[name].metadata.generation.unwrap();
        let once =
            names.iter().filter(|name| generation(&after, name) == generation(&before, name) + 1).count();
        println!("O14: {direction}: {once} of 50 services changed exactly once, at most {most} at a time");
        assert_eq!((once, most), (names.len(), rig.max_concurrent_rollouts));
        let template =
            |all: &BTreeMap<String, Deployment>| serde_json::to_string(&all["pinned"].spec.template).unwrap();
        assert_eq!(template(&after), template(&before), "a named image stays");
    }
    rig.clear().await;
}

#[tokio::test]
async fn another_restart_annotation_replaces_the_pods() {
    let Some(rig) = rig::start().await else { return };
    rig.create("demo", &json!({ "model": "m", "backend": { "echo": {} } })).await;
    rig.until_settled("demo").await;
    let pod = rig.pods("demo").await[0].name_any();
    let now = json!({ "metadata": { "annotations": { annotation::RESTARTED_AT: "2026-11-26T07:00:00Z" } } });
    rig.merge::<ChatService>("demo", &now).await;
    until_some("a new pod", async || {
        let pods: Vec<String> = rig.pods("demo").await.iter().map(ResourceExt::name_any).collect();
        if pods.len() == 1 && pods[0] != pod { Ok(()) } else { Err(format!("{pods:?}")) }
    })
    .await;
    rig.until_settled("demo").await;
    rig.stop().await;
}
