//! The second listener of both planes: `/metrics`, `/livez`, `/readyz`, and `/status` of a server. In: a registry and
//! what is known of the process. Out: text for Prometheus and the kubelet, JSON for the operator.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{StatusCode, header};
use prometheus::{Registry, TextEncoder};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::constants::path;
use crate::server::edge::{self, EdgeOptions};
use crate::shutdown::Shutdown;

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
    /// Why a newer configuration does not run; None when the newest runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<RejectedConfig>,
    /// Fields of the running configuration that this version does not know and that have no effect, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown_fields: Vec<String>,
    /// What keeps the server from being ready, or would after a restart.
    #[serde(default)]
    pub problems: Vec<StatusProblem>,
    /// Whether calls to the backend are answered: false while the breakers of all models that were called are open; None
    /// before the first call came to something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_reachable: Option<bool>,
    /// Whether Redis answered last; None without Redis or before it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_connected: Option<bool>,
    /// How limits are kept; None while nothing runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_mode: Option<StoreMode>,
}

/// How limits are kept: the label `mode` of `chat_store_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreMode {
    /// In Redis, for all pods.
    Shared,
    /// By each pod: there is no Redis, or it is away.
    Local,
    /// Not at all, while Redis is away.
    Open,
    /// Everything limited is refused, while Redis is away.
    Closed,
    /// One that this version does not know.
    #[serde(other)]
    Other,
}

impl StoreMode {
    /// All that a server can be in.
    pub const ALL: [Self; 4] = [Self::Shared, Self::Local, Self::Open, Self::Closed];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Local => "local",
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Other => "other",
        }
    }
}

/// A configuration that was read and does not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RejectedConfig {
    /// Its [`crate::server::config::ServerConfig::hash`]; None where it is not even JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Why not, and what to do.
    pub message: String,
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

/// What a process still waits for before it can serve. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Readiness {
    state: Arc<Mutex<Waiting>>,
    shutdown: Shutdown,
}

#[derive(Debug, Default)]
struct Waiting {
    pending: BTreeSet<&'static str>,
    /// What a ready process says beside `ok`.
    note: Option<String>,
}

impl Readiness {
    /// Not ready until each of `waits_for` (one of `constants::readiness`) is
    /// [`done`](Self::done), and again not from the moment `shutdown` begins.
    #[must_use]
    pub fn new(shutdown: Shutdown, waits_for: &[&'static str]) -> Self {
        let state = Waiting { pending: waits_for.iter().copied().collect(), note: None };
        Self { state: Arc::new(Mutex::new(state)), shutdown }
    }

    /// `what` is there.
    pub fn done(&self, what: &str) {
        self.state().pending.remove(what);
    }

    /// `what` is not there, or not any more. Not for a server: what fails later is reported, but must not empty a Service
    /// of its pods.
    pub fn wait_for(&self, what: &'static str) {
        self.state().pending.insert(what);
    }

    /// What `/readyz` says beside `ok` from now on.
    pub fn say(&self, note: Option<String>) {
        self.state().note = note;
    }

    fn state(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is pending, in alphabetical order, or `draining`. Empty: ready.
    #[must_use]
    pub fn reasons(&self) -> Vec<&'static str> {
        if self.shutdown.is_draining() {
            return vec!["draining"];
        }
        self.state().pending.iter().copied().collect()
    }

    /// Whether nothing is pending.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.reasons().is_empty()
    }
}

/// Makes the answer of `/status`.
pub type StatusSource = Arc<dyn Fn() -> ServerStatus + Send + Sync>;

/// What the admin listener shows.
#[derive(Clone)]
pub struct AdminState {
    /// For `/metrics`.
    pub registry: Registry,
    /// For `/readyz`.
    pub readiness: Readiness,
    /// For `/status`; None in the control plane, where the path does not exist.
    pub status: Option<StatusSource>,
}

/// Answers on `listener` until `token` is cancelled. Its owner cancels it last, so that `/readyz` says `draining` and
/// the last metrics can be scraped while the other listener drains.
pub async fn serve_admin(listener: TcpListener, state: AdminState, token: CancellationToken) {
    let shutdown = Shutdown::new();
    let serve = edge::serve(listener, router(state), EdgeOptions::admin(), shutdown.clone());
    tokio::pin!(serve);
    tokio::select! {
        _ = &mut serve => {}
        () = token.cancelled() => {
            shutdown.begin();
            serve.await;
        }
    }
}

/// The admin listener's paths.
fn router(state: AdminState) -> Router {
    let mut router = Router::new()
        .route(path::METRICS, get(metrics))
        .route(path::LIVEZ, get(async || "ok\n"))
        .route(path::READYZ, get(readyz));
    if let Some(status) = state.status.clone() {
        router = router.route(path::STATUS, get(async move || Json(status())));
    }
    router.with_state(state)
}

async fn metrics(State(state): State<AdminState>) -> Response {
    match TextEncoder::new().encode_to_string(&state.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(error = %error, "the metrics cannot be written as text");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn readyz(State(state): State<AdminState>) -> Response {
    let reasons = state.readiness.reasons();
    if reasons.is_empty() {
        let note = state.readiness.state().note.clone();
        return note.map_or_else(|| "ok\n".to_owned(), |note| format!("ok: {note}\n")).into_response();
    }
    let text = format!("not ready: {}\n", reasons.join(", "));
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use http::Request;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    fn state(readiness: &Readiness, status: Option<StatusSource>) -> AdminState {
        let registry = Registry::new();
        let counter = prometheus::IntCounter::new("things_total", "Things.").unwrap();
        counter.inc_by(3);
        registry.register(Box::new(counter)).unwrap();
        AdminState { registry, readiness: readiness.clone(), status }
    }

    async fn ask(state: AdminState, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router(state).oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readyz_lists_what_is_pending_until_all_is_done_and_then_says_draining() {
        let shutdown = Shutdown::new();
        let readiness = Readiness::new(shutdown.clone(), &["listener", "credentials"]);
        let expected = (503, "not ready: credentials, listener\n".to_owned());
        assert_eq!(ask(state(&readiness, None), path::READYZ).await, expected);
        readiness.done("listener");
        assert_eq!(readiness.reasons(), ["credentials"]);
        readiness.done("credentials");
        assert_eq!(ask(state(&readiness, None), path::READYZ).await, (200, "ok\n".to_owned()));
        readiness.say(Some("waiting, another leads".to_owned()));
        let expected = (200, "ok: waiting, another leads\n".to_owned());
        assert_eq!(ask(state(&readiness, None), path::READYZ).await, expected);
        readiness.wait_for("listener");
        let expected = (503, "not ready: listener\n".to_owned());
        assert_eq!(ask(state(&readiness, None), path::READYZ).await, expected);
        shutdown.begin();
        assert!(!readiness.is_ready());
        let expected = (503, "not ready: draining\n".to_owned());
        assert_eq!(ask(state(&readiness, None), path::READYZ).await, expected);
        assert_eq!(ask(state(&readiness, None), path::LIVEZ).await, (200, "ok\n".to_owned()));
    }

    #[tokio::test]
    async fn metrics_are_prometheus_text() {
        let readiness = Readiness::new(Shutdown::new(), &[]);
        let (status, text) = ask(state(&readiness, None), path::METRICS).await;
        assert_eq!(status, 200);
        assert_eq!(text, "# HELP things_total Things.\n# TYPE things_total counter\nthings_total 3\n");
    }

    #[tokio::test]
    async fn status_is_json_of_a_server_and_absent_elsewhere() {
        let readiness = Readiness::new(Shutdown::new(), &[]);
        assert_eq!(ask(state(&readiness, None), path::STATUS).await.0, 404);
        let expected = ServerStatus { version: "1.2.3".into(), generation: 7, ..ServerStatus::default() };
        let source: StatusSource = {
            let status = expected.clone();
            Arc::new(move || status.clone())
        };
        let (status, text) = ask(state(&readiness, Some(source)), path::STATUS).await;
        assert_eq!(status, 200);
        assert_eq!(serde_json::from_str::<ServerStatus>(&text).unwrap(), expected);
    }
}
