//! ChatService: a Kubernetes operator for chat APIs, and the chat server that it runs.
//!
//! Read it in this order: what a user may say ([`crd`]), how the operator makes it true
//! ([`controller`]), what it tells a server ([`server::config`]), how a request is answered ([`server`]).

pub mod cli;
pub mod constants;
pub mod controller;
pub mod crd;
pub mod doctor;
pub mod document;
pub mod environment;
pub mod leader_election;
pub mod local;
pub mod offline;
pub mod server;

pub mod admin;
pub mod ask;
pub mod healthcheck;
pub mod init_secret;
pub mod output;
pub mod shutdown;
pub mod telemetry;
pub mod units;
