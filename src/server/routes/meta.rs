//! `/` and `/health`: who is this, and does the listener answer.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::chat::now;
use crate::constants::path;
use crate::server::state::AppState;

/// Name and version.
#[derive(Serialize, ToSchema)]
pub struct Root {
    /// Always `chatservice`.
    #[schema(example = "chatservice")]
    name: &'static str,
    /// Version of the server.
    #[schema(example = "0.1.0")]
    version: &'static str,
    /// Where the API is described.
    #[schema(example = "/docs")]
    docs: &'static str,
    /// A chat page for people, where this service has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/playground")]
    playground: Option<&'static str>,
}

/// Name and version.
#[utoipa::path(get, path = "/", tag = "service", responses((status = 200, body = Root)))]
pub async fn root(State(state): State<AppState>) -> Json<Root> {
    let shown = state.live().is_ok_and(|live| live.config.dynamic.playground);
    Json(Root {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        docs: path::DOCS,
        playground: shown.then_some(path::PLAYGROUND),
    })
}

/// The listener answers.
#[derive(Serialize, ToSchema)]
pub struct Health {
    /// Always `healthy`; readiness is on the admin listener.
    #[schema(example = "healthy")]
    status: &'static str,
    /// RFC 3339, UTC.
    #[schema(example = "2026-01-02T03:04:05Z")]
    timestamp: String,
}

/// Whether the listener answers.
#[utoipa::path(get, path = "/health", tag = "service", responses((status = 200, body = Health)))]
pub async fn health() -> Json<Health> {
    Json(Health { status: "healthy", timestamp: now() })
}
