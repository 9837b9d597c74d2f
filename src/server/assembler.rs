//! Makes what runs. In: a configuration and its secrets, each time one of them changes. Out: [`Live`] in its handle, or why
//! this configuration cannot run, in which case what ran goes on.

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::backend::Backend;
use super::backend::echo::Echo;
use super::backend::openai::{OpenAi, OpenAiOptions};
use super::backend::tls::Authorities;
use super::config::{BackendConfig, ServerConfig, TimeoutConfig};
use super::edge::Tls;
use super::secrets::{Credentials, Loaded};
use super::state::{Live, LiveHandle};
use super::store::Store;
use super::store::memory::MemoryStore;
use super::store::redis::{RedisAddress, RedisStore};
use crate::admin::Readiness;
use crate::constants::readiness;
use crate::telemetry::LevelHandle;

/// Makes the running state from a configuration and its secrets. What both share with what ran before is kept: the
/// store, the backend with its connections, the memory cache.
pub struct Assembler {
    live: LiveHandle,
    ready: Readiness,
    in_cluster: bool,
    /// The tasks of connections to backends.
    connections: TaskTracker,
    log_level: LevelHandle,
    /// The API listener's, where it is encrypted.
    tls: Option<Tls>,
    /// Kept here and not only in what runs: conversations in memory outlive a key that is revoked for a moment.
    store: Option<(Option<RedisAddress>, Arc<dyn Store>)>,
    /// What the last backend was made of, and it.
    backend: Option<(BackendParts, Arc<dyn Backend>)>,
}

/// Everything that a backend is made of.
#[derive(PartialEq)]
struct BackendParts {
    config: BackendConfig,
    timeouts: TimeoutConfig,
    credentials: Option<Credentials>,
    authorities: Option<Authorities>,
}

/// Why a configuration cannot run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A Secret that it names is missing or cannot be used for it.
    #[error("{0}")]
    Secrets(String),
    /// Its backend.
    #[error("spec.backend cannot be used: {0}")]
    Backend(String),
}

impl Assembler {
    /// Nothing runs yet. `live` is filled, `ready` is told. In a cluster loopback is the pod itself. `connections` are
    /// the tasks of connections to backends.
    #[must_use]
    pub fn new(live: LiveHandle, ready: Readiness, in_cluster: bool, connections: TaskTracker) -> Self {
        Self {
            live,
            ready,
            in_cluster,
            connections,
            log_level: LevelHandle::default(),
            tls: None,
            store: None,
            backend: None,
        }
    }

    /// Sets the level of the log to that of what runs.
    #[must_use]
    pub fn with_log_level(self, log_level: LevelHandle) -> Self {
        Self { log_level, ..self }
    }

    /// Gives the API listener the certificate of what runs.
    #[must_use]
    pub fn with_tls(self, tls: Option<Tls>) -> Self {
        Self { tls, ..self }
    }

    /// Lets a configuration run, if everything that it needs is there. If not, nothing changes.
    pub fn take(&mut self, config: &Arc<ServerConfig>, loaded: &Loaded) -> Result<(), Unfit> {
        let wants = &config.fixed;
        // Without a problem, what is absent is not needed: outside a cluster the memory store serves for Redis.
        if let Some(problem) = loaded.problems.first()
            && ((wants.credentials_secret.is_some() && loaded.credentials.is_none())
                || (wants.redis_secret.is_some() && loaded.redis.is_none())
                || (wants.ca_config_map.is_some() && loaded.authorities.is_none())
                || (wants.api_keys_secret.is_some() && loaded.api_keys.is_none())
                || (wants.tls_secret.is_some() && loaded.certificate.is_none()))
        {
            return Err(Unfit::Secrets(problem.message.clone()));
        }
        let backend = self.backend(config, loaded)?;
        let store = self.store(config, loaded);
        let previous = self.live.load_full();
        let live = Live::new(config.clone(), backend, store, loaded.api_keys.as_ref(), previous.as_deref());
        if let (Some(tls), Some(certificate)) = (&self.tls, &loaded.certificate) {
            tls.present(certificate);
        }
        self.live.store(Some(Arc::new(live)));
        self.log_level.set(config.dynamic.log_level);
        self.ready.done(readiness::CREDENTIALS);
        Ok(())
    }

    /// Lets nothing run: requests are told to come back.
    pub fn stop(&mut self) {
        self.live.store(None);
        self.backend = None;
    }

    /// Whether a configuration runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.live.load().is_some()
    }

    /// The store that there is, unless another Redis is to be used.
    fn store(&mut self, config: &ServerConfig, loaded: &Loaded) -> Arc<dyn Store> {
        if let Some((address, store)) = &self.store
            && *address == loaded.redis
        {
            return store.clone();
        }
        let store: Arc<dyn Store> = match &loaded.redis {
            Some(address) => Arc::new(RedisStore::new(address.clone(), &config.identity.uid)),
            None => Arc::new(MemoryStore::new()),
        };
        self.store = Some((loaded.redis.clone(), store.clone()));
        store
    }

    /// The backend that there is, with its open connections, unless something that it is made of has changed.
    fn backend(&mut self, config: &ServerConfig, loaded: &Loaded) -> Result<Arc<dyn Backend>, Unfit> {
        let dynamic = &config.dynamic;
        let parts = BackendParts {
            config: dynamic.backend.clone(),
            timeouts: dynamic.timeouts,
            credentials: loaded.credentials.clone(),
            authorities: loaded.authorities.clone(),
        };
        if let Some((made_of, backend)) = &self.backend
            && *made_of == parts
        {
            return Ok(backend.clone());
        }
        let backend: Arc<dyn Backend> = match &dynamic.backend {
            BackendConfig::Echo {} => Arc::new(Echo::new()),
            BackendConfig::OpenAi { base_url, proxy_url } => {
                Arc::new(self.openai(base_url, proxy_url.as_ref(), &parts)?)
            }
        };
        self.backend = Some((parts, backend.clone()));
        Ok(backend)
    }

    fn openai(
        &self,
        base_url: &str,
        proxy_url: Option<&String>,
        parts: &BackendParts,
    ) -> Result<OpenAi, Unfit> {
        let credentials = parts.credentials.as_ref();
        let options = OpenAiOptions {
            base_url: base_url.to_owned(),
            api_key: credentials.map(|credentials| credentials.api_key.clone()),
            allowed_hosts: credentials
                .map(|credentials| credentials.allowed_hosts.clone())
                .unwrap_or_default(),
            proxy_url: proxy_url.cloned(),
            authorities: parts.authorities.clone(),
            timeouts: parts.timeouts.into(),
            in_cluster: self.in_cluster,
            connections: self.connections.clone(),
        };
        OpenAi::new(options).map_err(|error| Unfit::Backend(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::StatusProblem;
    use crate::constants::reason;
    use crate::crd::CacheScope;
    use crate::server::config::CacheConfig;
    use crate::shutdown::Shutdown;

    fn assembler() -> Assembler {
        let ready = Readiness::new(Shutdown::new(), &[readiness::CREDENTIALS]);
        Assembler::new(LiveHandle::default(), ready, true, TaskTracker::new())
    }

    /// For a ChatService with a key; where its Redis is, if it names one, comes with the secrets.
    fn config(redis: bool) -> Arc<ServerConfig> {
        let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut variables =
            [text("OPENAI_API_KEY", "k")].into_iter().collect::<crate::environment::Variables>();
        variables.extend(redis.then(|| text("REDIS_URL", "redis://r")));
        Arc::new(crate::environment::server_config(&variables).unwrap())
    }

    fn loaded(key: bool, redis: Option<&str>, problem: bool) -> Loaded {
        let credentials =
            Credentials { api_key: "k".into(), allowed_hosts: vec!["api.openai.com".to_owned()] };
        let problem = problem.then(|| StatusProblem {
            reason: reason::CREDENTIAL_HOST_MISMATCH.to_owned(),
            message: "m".to_owned(),
        });
        Loaded {
            credentials: key.then_some(credentials),
            redis: redis.map(|url| RedisAddress::from_url(url).unwrap()),
            authorities: None,
            api_keys: None,
            certificate: None,
            problems: problem.into_iter().collect(),
        }
    }

    fn store(assembler: &Assembler) -> Option<Arc<dyn Store>> {
        assembler.live.load().as_ref().map(|live| live.store.clone())
    }

    #[tokio::test]
    async fn ready_is_said_once_something_runs_and_not_before() {
        let (mut assembler, config) = (assembler(), config(false));
        let refused = assembler.take(&config, &loaded(false, None, true));
        assert_eq!(refused, Err(Unfit::Secrets("m".to_owned())));
        assert!(!assembler.runs() && !assembler.ready.is_ready());
        assembler.take(&config, &loaded(true, None, false)).unwrap();
        assert!(assembler.runs() && assembler.ready.is_ready());
        assembler.stop();
        assert!(!assembler.runs() && assembler.ready.is_ready());
    }

    #[tokio::test]
    async fn the_memory_store_outlives_a_key_that_is_revoked_for_a_moment() {
        let (mut assembler, config) = (assembler(), config(false));
        assembler.take(&config, &loaded(true, None, false)).unwrap();
        let before = store(&assembler).unwrap();
        assembler.stop();
        assembler.take(&config, &loaded(true, None, false)).unwrap();
        assert!(Arc::ptr_eq(&before, &store(&assembler).unwrap()));
    }

    #[tokio::test]
    async fn only_another_redis_is_another_store() {
        let (mut assembler, config) = (assembler(), config(true));
        assembler.take(&config, &loaded(true, None, true)).unwrap_err();
        assembler.take(&config, &loaded(true, Some("redis://a"), false)).unwrap();
        let first = store(&assembler).unwrap();
        assembler.take(&config, &loaded(true, Some("redis://a:6379"), false)).unwrap();
        assert!(Arc::ptr_eq(&first, &store(&assembler).unwrap()));
        assembler.take(&config, &loaded(true, Some("redis://b"), false)).unwrap();
        assert!(!Arc::ptr_eq(&first, &store(&assembler).unwrap()));
    }

    #[tokio::test]
    async fn what_a_change_does_not_touch_is_kept() {
        let (mut assembler, mut config) = (assembler(), config(false));
        let loaded = loaded(true, None, false);
        let mut run = |edit: &dyn Fn(&mut ServerConfig)| {
            edit(Arc::make_mut(&mut config));
            assembler.take(&config, &loaded).unwrap();
            let live = assembler.live.load_full().unwrap();
            (assembler.backend.as_ref().unwrap().1.clone(), live.store.clone(), live.cache.clone())
        };
        let cache = |bytes| {
            move |config: &mut ServerConfig| {
                config.dynamic.cache =
                    Some(CacheConfig { ttl_ms: 1000, memory_bytes: bytes, scope: CacheScope::default() });
            }
        };
        let first = run(&cache(1 << 20));
        let second = run(&|config| config.dynamic.defaults.max_tokens = 7);
        assert!(Arc::ptr_eq(&first.0, &second.0) && Arc::ptr_eq(&first.1, &second.1));
        assert!(Arc::ptr_eq(first.2.as_ref().unwrap(), second.2.as_ref().unwrap()));
        let third = run(&cache(2 << 20));
        assert!(!Arc::ptr_eq(first.2.as_ref().unwrap(), third.2.as_ref().unwrap()));
        let fourth = run(&|config| config.dynamic.timeouts.connect_ms = 2000);
        assert!(Arc::ptr_eq(&first.1, &fourth.1) && !Arc::ptr_eq(&first.0, &fourth.0));
    }

    #[tokio::test]
    async fn a_backend_that_cannot_be_called_leaves_the_last_one_running() {
        let (mut assembler, mut config) = (assembler(), config(false));
        let loaded = loaded(true, None, false);
        assembler.take(&config, &loaded).unwrap();
        let before = assembler.live.load_full().unwrap();
        Arc::make_mut(&mut config).dynamic.backend =
            BackendConfig::OpenAi { base_url: "ftp://x".to_owned(), proxy_url: None };
        assert!(matches!(assembler.take(&config, &loaded), Err(Unfit::Backend(_))));
        assert!(Arc::ptr_eq(&before, &assembler.live.load_full().unwrap()));
    }
}
