//! Keeps secrets current. In: the configuration and a [`SecretSource`], read again and again. Out: [`Loaded`] on a
//! channel whenever it changes.
//!
//! A key that was good stays in use when its Secret vanishes or becomes unusable, because a pod that serves should not
//! stop for it; the problem is reported. One change takes effect at once: a Secret whose owner no longer allows the
//! host. Polling, because a mount changes by a replaced link, which a watch of a file does not see, and because one
//! look at a few small files in memory costs nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Loaded, SecretSource, load};
use crate::constants::reason;
use crate::server::config::ServerConfig;

/// Until everything was there once.
const SOON: Duration = Duration::from_secs(1);
/// After that; the kubelet itself takes up to a minute to bring a new version of a Secret.
const LATER: Duration = Duration::from_secs(5);

/// Where the latest [`Loaded`] is.
pub type SecretsReceiver = watch::Receiver<Arc<Loaded>>;

/// Reads once before it returns, so that a pod whose Secrets are there begins with them. The future goes on until
/// `token` is cancelled; a task owns it. The environment does not change, so there it ends at once.
pub async fn watch(
    config: Arc<ServerConfig>,
    source: SecretSource,
    token: CancellationToken,
) -> (SecretsReceiver, impl Future<Output = ()> + Send + 'static) {
    let watcher = Watcher { config, source: Arc::new(source) };
    let (sender, receiver) = watch::channel(Arc::new(Loaded::default()));
    let complete = watcher.look(&sender).await;
    (receiver, async move {
        let fixed = matches!(*watcher.source, SecretSource::Environment(_));
        if !fixed {
            token.run_until_cancelled(watcher.run(sender, complete)).await;
        }
    })
}

struct Watcher {
    config: Arc<ServerConfig>,
    source: Arc<SecretSource>,
}

impl Watcher {
    async fn run(&self, sender: watch::Sender<Arc<Loaded>>, mut complete: bool) {
        loop {
            sleep(if complete { LATER } else { SOON }).await;
            complete |= self.look(&sender).await;
        }
    }

    /// Reads and publishes; whether everything was there.
    async fn look(&self, sender: &watch::Sender<Arc<Loaded>>) -> bool {
        let (config, source) = (self.config.clone(), self.source.clone());
        let Ok(found) = spawn_blocking(move || load(&config, &source)).await else { return false };
        let complete = found.problems.is_empty();
        let previous = sender.borrow().clone();
        let current = merge(&previous, found);
        if current != *previous {
            log(&previous, &current);
            sender.send_replace(Arc::new(current));
        }
        complete
    }
}

/// What is used after `found` was found while `previous` was in use.
fn merge(previous: &Loaded, found: Loaded) -> Loaded {
    let revoked = found.problems.iter().any(|problem| problem.reason == reason::CREDENTIAL_HOST_MISMATCH);
    let kept = if revoked { None } else { previous.credentials.clone() };
    Loaded {
        credentials: found.credentials.or(kept),
        redis: found.redis.or_else(|| previous.redis.clone()),
        problems: found.problems,
    }
}

/// One line per transition.
fn log(previous: &Loaded, current: &Loaded) {
    for problem in &current.problems {
        if !previous.problems.contains(problem) {
            tracing::warn!(problem.reason = problem.reason, "{}", problem.message);
        }
    }
    if current.problems.is_empty() && !previous.problems.is_empty() {
        tracing::info!("every Secret that the configuration names is there");
    } else if current.problems.is_empty() && *previous != Loaded::default() {
        tracing::info!("a Secret has changed: the new version is in use");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::StatusProblem;
    use crate::server::secrets::Credentials;
    use crate::server::store::redis::RedisAddress;

    fn loaded(key: Option<&str>, redis: Option<&str>, reason: Option<&str>) -> Loaded {
        Loaded {
            credentials: key
                .map(|key| Credentials { api_key: key.into(), allowed_hosts: vec!["api.openai.com".into()] }),
            redis: redis.map(|url| RedisAddress::from_url(url).unwrap()),
            problems: reason
                .map(|reason| StatusProblem { reason: reason.into(), message: "m".into() })
                .into_iter()
                .collect(),
        }
    }

    #[test]
    fn the_last_good_secret_stays_in_use_unless_its_host_is_no_longer_allowed() {
        let good = loaded(Some("k1"), Some("redis://a"), None);
        let rotated = loaded(Some("k2"), Some("redis://b"), None);
        assert!(merge(&good, rotated.clone()) == rotated);

        for reason in [reason::SECRET_NOT_FOUND, reason::SECRET_KEY_MISSING] {
            let kept = merge(&good, loaded(None, None, Some(reason)));
            assert!(kept == loaded(Some("k1"), Some("redis://a"), Some(reason)), "{reason}");
        }
        let revoked = merge(&good, loaded(None, Some("redis://a"), Some(reason::CREDENTIAL_HOST_MISMATCH)));
        assert!(revoked == loaded(None, Some("redis://a"), Some(reason::CREDENTIAL_HOST_MISMATCH)));
    }
}
