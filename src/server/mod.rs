//! DATA PLANE: the chat server. In: a [`config::ServerConfig`] and the Secrets beside it. Out: answers.

pub mod backend;
pub mod completion;
pub mod config;
pub mod edge;
pub mod error;
pub mod json;
pub mod metrics;
pub mod pricing;
pub mod secrets;
pub mod settlement;
pub mod store;
