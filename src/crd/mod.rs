//! The `ChatService` API: types, schema, validation rules, printer columns. No behaviour.
//! In: nothing. Out: the types both planes read, and the CustomResourceDefinition that `chatservice crd` prints.

mod callers;
mod definition;
mod engine;
mod rules;
mod status;
mod v1alpha1;
mod workload;

pub use callers::*;
pub use definition::custom_resource_definition;
pub use engine::*;
pub use status::{ChatServiceStatus, ConfigStatus};
pub use v1alpha1::*;
pub use workload::{Autoscaling, Destination, IpBlock, NetworkRules, Peer, Pod, ServiceTls};
