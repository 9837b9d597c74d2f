//! A chat server in this process, on free loopback ports. In: a configuration. Out: its address; stopped when dropped.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use chatservice::crd::{CacheScope, LogFormat};
use chatservice::server::config::{
    BackendConfig, CacheConfig, DynamicConfig, FORMAT_VERSION, Identity, ServerConfig, StaticConfig,
};
use chatservice::server::edge::EdgeOptions;
use chatservice::server::overload::LoadOptions;
use chatservice::server::secrets::SecretSource;
use chatservice::server::{self, Listeners, ServerOptions};
use chatservice::shutdown::Shutdown;
use chatservice::telemetry::LevelHandle;
use tokio::task::JoinSet;

// Every test binary uses some of these, none all.
const _: () = {
    let _ = (echo, openai, cache);
    let _ = (TestServer::start, TestServer::start_on_redis, TestServer::start_with, TestServer::start_from);
    let _ = (TestServer::at, TestServer::stop);
};

/// A configuration that answers `echo-1` by itself, without limits and cache.
pub fn echo() -> ServerConfig {
    config("echo-1", BackendConfig::Echo {})
}

/// A configuration that asks an OpenAI-compatible server for `gpt-4o-mini`.
pub fn openai(base_url: &str) -> ServerConfig {
    config("gpt-4o-mini", BackendConfig::OpenAi { base_url: base_url.to_owned(), proxy_url: None })
}

fn config(model: &str, backend: BackendConfig) -> ServerConfig {
    ServerConfig {
        format_version: FORMAT_VERSION,
        identity: Identity {
            namespace: "test".to_owned(),
            name: "demo".to_owned(),
            uid: uuid::Uuid::new_v4().to_string(),
            generation: 7,
        },
        fixed: StaticConfig { log_format: LogFormat::Json, ..StaticConfig::default() },
        dynamic: DynamicConfig::new(model, backend),
    }
}

/// An hour, and 16 MiB.
pub fn cache() -> CacheConfig {
    CacheConfig { ttl_ms: 3_600_000, memory_bytes: 16 << 20, scope: CacheScope::default() }
}

/// A running server.
pub struct TestServer {
    pub url: String,
    pub admin: String,
    pub shutdown: Shutdown,
    task: JoinSet<()>,
}

impl TestServer {
    /// With the memory store.
    pub async fn start(config: ServerConfig) -> Self {
        Self::start_with(config, BTreeMap::new()).await
    }

    /// With Redis.
    pub async fn start_on_redis(mut config: ServerConfig, redis_url: &str) -> Self {
        config.fixed.redis_secret = Some("redis".to_owned());
        Self::start_with(config, BTreeMap::from([("REDIS_URL".to_owned(), redis_url.to_owned())])).await
    }

    /// With these environment variables.
    pub async fn start_with(config: ServerConfig, environment: BTreeMap<String, String>) -> Self {
        Self::start_as(config, |options| options.secrets = SecretSource::Environment(environment)).await
    }

    /// That reads its configuration again when this file changes.
    pub async fn start_from(config: ServerConfig, file: PathBuf) -> Self {
        Self::start_as(config, |options| options.config_file = Some(file)).await
    }

    /// With other options.
    pub async fn start_as(config: ServerConfig, change: impl FnOnce(&mut ServerOptions)) -> Self {
        let mut options = ServerOptions {
            config,
            config_file: None,
            secrets: SecretSource::Environment(BTreeMap::new()),
            edge: EdgeOptions { grace: Duration::from_secs(10), ..EdgeOptions::local() },
            load: LoadOptions::default(),
            log_level: LevelHandle::default(),
        };
        change(&mut options);
        let _ = rustls::crypto::ring::default_provider().install_default();
        let local = "127.0.0.1:0".parse().unwrap();
        let listeners = Listeners {
            api: server::bind(local, "--address").await.unwrap(),
            admin: Some(server::bind(local, "--admin-address").await.unwrap()),
        };
        let url = format!("http://{}", listeners.api.local_addr().unwrap());
        let admin = format!("http://{}", listeners.admin.as_ref().unwrap().local_addr().unwrap());
        let shutdown = Shutdown::new();
        let mut task = JoinSet::new();
        let stop = shutdown.clone();
        task.spawn(async move { server::run(listeners, options, stop).await.unwrap() });
        let server = Self { url, admin, shutdown, task };
        server.ready().await;
        server
    }

    async fn ready(&self) {
        let deadline = tokio::time::Instant::now() + super::http::DEADLINE;
        while super::http::get(&format!("{}/readyz", self.admin)).await.status != 200 {
            assert!(tokio::time::Instant::now() < deadline, "the server did not become ready");
            tokio::task::yield_now().await;
        }
    }

    /// A URL of this server.
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// Ends it as SIGTERM does and waits until it has.
    pub async fn stop(mut self) {
        self.shutdown.begin();
        tokio::time::timeout(super::http::DEADLINE, self.task.join_next())
            .await
            .expect("an end in time")
            .unwrap()
            .unwrap();
    }
}
