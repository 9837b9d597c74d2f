//! DATA PLANE: the chat server. In: a [`config::ServerConfig`] and the Secrets beside it. Out: answers.

pub mod backend;
pub mod cache;
pub mod completion;
pub mod config;
pub mod conversations;
pub mod edge;
pub mod error;
pub mod json;
pub mod limits;
pub mod metrics;
pub mod pricing;
pub mod secrets;
pub mod settlement;
pub mod sse;
pub mod store;
