//! The `ChatService` API: types, schema, validation rules, printer columns. No behaviour.
//! In: nothing. Out: the types both planes read, and the CustomResourceDefinition that `chatservice crd` prints.

mod rules;
pub mod v1alpha1;

pub use v1alpha1::*;
