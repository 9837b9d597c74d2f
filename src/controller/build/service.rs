//! The two Services: the API, and the admin listeners for scraping.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{ValidatedChatService, metadata};
use crate::constants::port;
use crate::crd::ServiceType;

/// `<name>`: the API.
pub(super) fn api(service: &ValidatedChatService) -> Service {
    let type_ = match service.service_type {
        ServiceType::ClusterIP => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
    };
    Service {
        metadata: ObjectMeta {
            annotations: service.service_annotations.clone().filter(|annotations| !annotations.is_empty()),
            ..metadata(service, service.name.to_string())
        },
        spec: Some(ServiceSpec {
            type_: Some(type_.to_owned()),
            selector: Some(service.name.selector()),
            ports: Some(vec![named(port::HTTP_NAME, service.service_port)]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// `<name>-admin`: headless, and with pods that are not ready, because those have the most to tell.
pub(super) fn admin(service: &ValidatedChatService) -> Service {
    Service {
        metadata: metadata(service, service.name.admin()),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(service.name.selector()),
            ports: Some(vec![named(port::ADMIN_NAME, port::ADMIN)]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// A TCP port that leads to the container's port of the same name.
fn named(name: &str, number: u16) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(number),
        target_port: Some(IntOrString::String(name.to_owned())),
        // Said although it is the default: `protocol` is part of the key that server-side apply merges ports by.
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    }
}
