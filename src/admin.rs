//! The second listener of both planes: `/metrics`, `/livez`, `/readyz`, and `/status` of a server. In: a registry and
//! what is known of the process. Out: text for Prometheus and the kubelet, JSON for the operator.

use serde::{Deserialize, Serialize};

/// What a server says of itself on `/status`. The operator's poller reads it; unknown fields are ignored.
/// Never a secret, a prompt or an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerStatus {
    /// The server's version.
    pub version: String,
    /// Same as `/readyz`.
    pub ready: bool,
    /// [`crate::server::config::ServerConfig::hash`] of what runs.
    pub config_hash: String,
    /// The generation of the ChatService that it was made from.
    pub generation: i64,
    /// What keeps the server from being ready, or would after a restart.
    #[serde(default)]
    pub problems: Vec<StatusProblem>,
    /// Whether Redis answered last; None without Redis or before it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_connected: Option<bool>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusProblem {
    /// One of `constants::reason`.
    pub reason: String,
    /// What, where and the command that fixes it.
    pub message: String,
}
