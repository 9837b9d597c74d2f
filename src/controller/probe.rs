//! One question to one pod. In: an address. Out: what its server says of itself, or None. Never follows a redirect,
//! never takes longer than its deadline or more than its bound.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::admin::ServerStatus;
use crate::constants::path;

/// For the whole exchange.
const DEADLINE: Duration = Duration::from_millis(500);
/// Longest answer that is read.
const LONGEST: usize = 16 * 1024;

/// Asks servers for their `/status`. Cloning is cheap.
#[derive(Clone)]
pub struct Prober(Client<HttpConnector, Empty<Bytes>>);

impl Default for Prober {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(DEADLINE));
        // A connection kept for a minute is mostly one to a pod that is gone.
        Self(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector))
    }
}

impl Prober {
    /// What the server at `address` says, or None when it does not answer as one.
    pub async fn ask(&self, address: SocketAddr) -> Option<ServerStatus> {
        tokio::time::timeout(DEADLINE, self.exchange(address)).await.ok().flatten()
    }

    async fn exchange(&self, address: SocketAddr) -> Option<ServerStatus> {
        let request = Request::get(format!("http://{address}{}", path::STATUS)).body(Empty::new()).ok()?;
        let response = self.0.request(request).await.ok()?;
        if response.status() != StatusCode::OK {
            return None;
        }
        let body = Limited::new(response.into_body(), LONGEST).collect().await.ok()?.to_bytes();
        serde_json::from_slice(&body).ok()
    }
}
