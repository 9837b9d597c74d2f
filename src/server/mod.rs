//! DATA PLANE: the chat server. In: a [`config::ServerConfig`] and the Secrets beside it. Out: answers.
//!
//! A request passes [`edge`] (connections), [`middleware`] (id, log, metrics), [`routes`] (its dialect), [`exchange`]
//! (limits, cache, conversation, backend) and, when streamed, [`stream`].

mod admission;
pub mod edge;
pub mod exchange;
pub mod middleware;
pub mod outcome;
pub mod routes;
pub mod stream;
mod tally;

pub mod backend;
pub mod completion;
mod held_body;
pub mod json;
#[cfg(test)]
mod json_properties;
pub mod sse;
#[cfg(test)]
mod sse_properties;

pub mod auth;
mod backlog;
pub mod cache;
mod call;
pub mod caller;
mod coalesce;
pub mod conversations;
pub mod denials;
pub mod estimate;
mod keeper;
pub mod limits;
pub mod pricing;
mod recent;
pub mod responses;
mod reuse;
pub mod settlement;
pub mod settler;
pub mod store;
pub mod store_failure;

pub mod assembler;
pub mod assembly;
pub mod config;
pub mod config_file;
pub mod error;
pub mod metrics;
pub mod models;
mod openapi;
pub mod operation;
pub mod overload;
mod pages;
pub mod reload;
pub mod secrets;
pub mod state;
pub mod terms;
pub mod trace;
pub mod upstream_body;

pub use assembly::{Listeners, ServeError, ServerOptions, bind, build_router, run};
