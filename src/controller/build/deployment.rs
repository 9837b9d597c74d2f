//! The Deployment of chat servers. Its `spec.replicas` is never set here: another field manager owns it.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, HTTPGetAction, LocalObjectReference,
    PodSecurityContext, PodSpec, PodTemplateSpec, Probe, SeccompProfile, SecretVolumeSource, SecurityContext,
    TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{CONTAINER, ValidatedChatService, metadata};
use crate::constants::{annotation, mount, path, port};
use crate::crd::Pod;

/// Without progress for this long the rollout counts as failed.
pub const PROGRESS_DEADLINE_SECONDS: u16 = 600;

pub(super) fn build(service: &ValidatedChatService) -> Deployment {
    Deployment {
        metadata: metadata(service, service.name.to_string()),
        spec: DeploymentSpec {
            selector: LabelSelector {
                match_labels: Some(service.name.selector()),
                ..LabelSelector::default()
            },
            // A new pod is ready before an old one goes.
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            progress_deadline_seconds: Some(i32::from(PROGRESS_DEADLINE_SECONDS)),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(joined(service.pod.labels.as_ref(), service.name.labels())),
                    annotations: Some(joined(service.pod.annotations.as_ref(), annotations(service))),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(service)),
            },
            ..DeploymentSpec::default()
        },
        ..Deployment::default()
    }
}

/// What people want and what we set, which wins.
fn joined(
    theirs: Option<&BTreeMap<String, String>>,
    ours: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut all = theirs.cloned().unwrap_or_default();
    all.extend(ours);
    all
}

fn annotations(service: &ValidatedChatService) -> BTreeMap<String, String> {
    let hash = (annotation::CONFIG_HASH.to_owned(), service.config.static_hash());
    let restarted = service.restarted_at.clone().map(|at| (annotation::RESTARTED_AT.to_owned(), at));
    [hash].into_iter().chain(restarted).collect()
}

/// Fits the `restricted` pod security standard. No `runAsUser`: the image's own numeric user serves, and OpenShift
/// assigns one of its own.
fn pod(service: &ValidatedChatService) -> PodSpec {
    let mounts = mounts(service);
    let Pod {
        annotations: _,
        labels: _,
        node_selector,
        tolerations,
        affinity,
        topology_spread_constraints: _,
        priority_class_name,
        image_pull_secrets,
        termination_grace_period_seconds: _,
    } = service.pod.clone();
    let pull_secrets = image_pull_secrets.into_iter().flatten();
    PodSpec {
        service_account_name: Some(service.name.to_string()),
        automount_service_account_token: Some(false),
        // Otherwise every Service of the namespace becomes environment variables.
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(i64::from(service.config.fixed.grace_seconds)),
        node_selector: node_selector.filter(|labels| !labels.is_empty()),
        tolerations: tolerations.filter(|tolerations| !tolerations.is_empty()),
        affinity,
        topology_spread_constraints: spread(service),
        priority_class_name: priority_class_name.filter(|name| !name.is_empty()),
        image_pull_secrets: not_empty(pull_secrets.map(|secret| LocalObjectReference { name: secret.name })),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        containers: vec![container(service, &mounts)],
        volumes: Some(mounts.into_iter().map(|(volume, _)| volume).collect()),
        ..PodSpec::default()
    }
}

/// The spread that is asked for. A constraint that selects no pods does nothing, so without a selector it means ours.
fn spread(service: &ValidatedChatService) -> Option<Vec<TopologySpreadConstraint>> {
    let constraints = service.pod.topology_spread_constraints.iter().flatten().cloned();
    not_empty(constraints.map(|mut constraint| {
        constraint.label_selector.get_or_insert_with(|| LabelSelector {
            match_labels: Some(service.name.selector()),
            ..LabelSelector::default()
        });
        constraint
    }))
}

fn not_empty<T>(items: impl Iterator<Item = T>) -> Option<Vec<T>> {
    let items: Vec<T> = items.collect();
    (!items.is_empty()).then_some(items)
}

fn container(service: &ValidatedChatService, mounts: &[(Volume, &str)]) -> Container {
    let exposed = |name: &str, number: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        // Part of the key that server-side apply merges ports by.
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    Container {
        name: CONTAINER.to_owned(),
        image: Some(service.image.clone()),
        args: Some(vec![
            "serve".to_owned(),
            "--config".to_owned(),
            format!("{}/{}", mount::CONFIG_DIR, mount::CONFIG_FILE),
        ]),
        ports: Some(vec![exposed(port::HTTP_NAME, port::HTTP), exposed(port::ADMIN_NAME, port::ADMIN)]),
        // A start takes well under a second; half a minute is for a starved node.
        startup_probe: Some(probe(path::LIVEZ, 1, 30)),
        liveness_probe: Some(probe(path::LIVEZ, 10, 3)),
        readiness_probe: Some(probe(path::READYZ, 2, 2)),
        resources: Some(service.resources.clone()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..Capabilities::default()
            }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(
            mounts
                .iter()
                .map(|(volume, path)| VolumeMount {
                    name: volume.name.clone(),
                    mount_path: (*path).to_owned(),
                    read_only: Some(true),
                    ..VolumeMount::default()
                })
                .collect(),
        ),
        ..Container::default()
    }
}

fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(port::ADMIN_NAME.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(2),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}

/// The volumes and where they go. What a user makes is mounted whole and optional: a missing one is then something that
/// the server reports, not a pod that hangs in ContainerCreating, and the kubelet updates the files when it appears
/// (with `subPath` it would not).
fn mounts(service: &ValidatedChatService) -> Vec<(Volume, &'static str)> {
    let secret = |volume: &str, secret: &str| Volume {
        name: volume.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.to_owned()),
            optional: Some(true),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    let config_map = |volume: &str, name: String, optional: Option<bool>| Volume {
        name: volume.to_owned(),
        config_map: Some(ConfigMapVolumeSource { name, optional, ..ConfigMapVolumeSource::default() }),
        ..Volume::default()
    };
    let fixed = &service.config.fixed;
    let mut mounts = vec![(config_map("config", service.name.config(), None), mount::CONFIG_DIR)];
    mounts.extend(
        fixed.credentials_secret.iter().map(|name| (secret("credentials", name), mount::CREDENTIALS_DIR)),
    );
    mounts.extend(fixed.api_keys_secret.iter().map(|name| (secret("api-keys", name), mount::API_KEYS_DIR)));
    mounts.extend(fixed.redis_secret.iter().map(|name| (secret("redis", name), mount::REDIS_DIR)));
    mounts.extend(fixed.tls_secret.iter().map(|name| (secret("tls", name), mount::TLS_DIR)));
    mounts.extend(
        fixed.ca_config_map.iter().map(|name| (config_map("ca", name.clone(), Some(true)), mount::CA_DIR)),
    );
    mounts
}
