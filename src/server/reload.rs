//! Keeps what a server runs on current. In: its configuration file and a [`SecretSource`], read again and again. Out: what
//! runs, swapped as a whole by the [`Assembler`], and a [`Report`] for `/status`.
//!
//! The last good one stays: a configuration that is not one, that is for another pod, or that cannot be used with the
//! Secrets there are does not run, and the report says why; a key that was good stays in use when its Secret vanishes or
//! becomes unusable, because a pod that serves should not stop for it. Two changes take effect at once: a Secret whose
//! owner no longer allows the host, and a caller whose entry is taken out or emptied.
//!
//! Polling, because a mount changes by a replaced link, which a watch of a file does not see, and because one look at a
//! few small files in memory costs nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::assembler::{Assembler, Unfit};
use super::config::{BackendConfig, ServerConfig};
use super::config_file::{self, ConfigFile};
use super::metrics::ServerMetrics;
use super::secrets::{self, Loaded, SecretSource};
use crate::admin::{RejectedConfig, StatusProblem};
use crate::constants::reason;

/// Between two looks; the kubelet itself takes up to a minute to bring a new version.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest message in a report, in characters: the operator reads no more than 16 KiB of `/status`.
const MESSAGE: usize = 1024;

/// What `/status` says of configuration and Secrets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Name of the configuration that runs, or that is waited for as long as none runs.
    pub config_hash: String,
    /// Its generation.
    pub generation: i64,
    /// Its fields that have no effect.
    pub unknown_fields: Vec<String>,
    /// Why a newer one does not run.
    pub rejected: Option<RejectedConfig>,
    /// What is wrong with its Secrets.
    pub problems: Vec<StatusProblem>,
}

/// What [`Reloader`] watches.
pub struct Sources {
    /// The file that the configuration came from; None: it does not change.
    pub file: Option<PathBuf>,
    /// Where the Secrets are.
    pub secrets: SecretSource,
}

/// The watch itself.
pub struct Reloader {
    file: Option<PathBuf>,
    secrets: Arc<SecretSource>,
    assembler: Assembler,
    metrics: ServerMetrics,
    report: watch::Sender<Report>,
    /// What runs, or will as soon as it can.
    current: ConfigFile,
    /// What the assembler was last given of it, and what came of that.
    given: Option<(Loaded, Option<String>)>,
    /// The file as it was last read.
    text: Option<String>,
    /// A newer configuration that cannot run yet, and the Secrets it was last tried with.
    next: Option<(ConfigFile, Option<Loaded>)>,
}

impl Reloader {
    /// Looks once before it returns, so that a pod whose Secrets are there begins with them.
    pub async fn start(
        config: ServerConfig,
        sources: Sources,
        assembler: Assembler,
        metrics: ServerMetrics,
    ) -> (Self, watch::Receiver<Report>) {
        metrics.config_generation.set(config.identity.generation);
        let (report, receiver) = watch::channel(Report::default());
        let mut reloader = Self {
            file: sources.file,
            secrets: Arc::new(sources.secrets),
            assembler,
            metrics,
            report,
            current: ConfigFile::from(config),
            given: None,
            text: None,
            next: None,
        };
        reloader.look().await;
        (reloader, receiver)
    }

    /// Goes on until `token` is cancelled. What cannot change is not looked at again.
    pub async fn run(mut self, token: CancellationToken) {
        if self.file.is_none() && matches!(*self.secrets, SecretSource::Environment(_)) {
            return;
        }
        while token.run_until_cancelled(sleep(PAUSE)).await.is_some() {
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let mut report = self.report.borrow().clone();
        if let Some(rejected) = self.read().await {
            report.rejected = rejected;
        }
        if let Some(rejected) = self.advance().await {
            report.rejected = rejected;
        }
        report.problems = self.secrets_of_current().await.unwrap_or(report.problems);
        report.config_hash.clone_from(&self.current.hash);
        report.generation = self.current.config.identity.generation;
        report.unknown_fields.clone_from(&self.current.unknown);
        self.publish(report);
    }

    /// Reads the file; None when it is what it was, else what is wrong with it.
    async fn read(&mut self) -> Option<Option<RejectedConfig>> {
        let path = self.file.clone()?;
        let name = path.display().to_string();
        let read = spawn_blocking(move || config_file::text(&path)).await.ok()?;
        let (verdict, text) = match read {
            Ok(text) if self.text.as_ref() == Some(&text) => return None,
            Ok(text) => (decide(&self.current, &text, &name), Some(text)),
            Err(error) => (Verdict::Reject(rejected(None, &error.to_string())), None),
        };
        self.text = text;
        self.next = None;
        match verdict {
            Verdict::Reject(rejected) => return Some(Some(rejected)),
            // Also its unknown fields are known only now.
            Verdict::Same(file) => self.current = *file,
            Verdict::Run(file) => self.next = Some((*file, None)),
        }
        Some(None)
    }

    /// Lets the newer configuration run, if it can; None when nothing has changed.
    async fn advance(&mut self) -> Option<Option<RejectedConfig>> {
        let (file, tried) = self.next.take()?;
        let Some(found) = self.load(&file.config).await else {
            self.next = Some((file, tried));
            return None;
        };
        let loaded = merge(self.given.as_ref().map(|(loaded, _)| loaded), found, &file.config);
        if tried.as_ref() == Some(&loaded) {
            self.next = Some((file, tried));
            return None;
        }
        match self.assembler.take(&file.config, &loaded) {
            Err(unfit) if self.assembler.runs() => {
                let rejected = rejected(Some(file.hash.clone()), &unfit.to_string());
                self.next = Some((file, Some(loaded)));
                return Some(Some(rejected));
            }
            // Nothing runs: what is waited for is the newer one.
            Err(_) => self.given = None,
            Ok(()) => {
                log_secrets(self.given.as_ref().map(|(loaded, _)| loaded), &loaded);
                self.given = Some((loaded, None));
            }
        }
        self.metrics.config_reloads.with_label_values(&["applied"]).inc();
        self.metrics.config_generation.set(file.config.identity.generation);
        let generation = file.config.identity.generation;
        tracing::info!(
            config.hash = file.hash,
            config.generation = generation,
            "the configuration has changed"
        );
        self.current = file;
        Some(None)
    }

    /// Gives the assembler what the Secrets of the current configuration have become. Out: what is wrong with them.
    async fn secrets_of_current(&mut self) -> Option<Vec<StatusProblem>> {
        let found = self.load(&self.current.config).await?;
        let previous = self.given.as_ref().map(|(loaded, _)| loaded);
        let loaded = merge(previous, found, &self.current.config);
        if previous != Some(&loaded) {
            log_secrets(previous, &loaded);
            let unusable = match self.assembler.take(&self.current.config, &loaded) {
                Ok(()) => None,
                Err(Unfit::Secrets(_)) => {
                    // A key that may no longer be sent to this host must not go on being used.
                    self.assembler.stop();
                    None
                }
                Err(Unfit::Backend(message)) => {
                    tracing::error!(error = message, "the backend cannot be used");
                    Some(message)
                }
            };
            self.given = Some((loaded, unusable));
        }
        let (loaded, unusable) = self.given.as_ref()?;
        let unusable = unusable.clone().map(|message| StatusProblem {
            reason: reason::INVALID_SPEC.to_owned(),
            message: format!("spec.backend cannot be used: {message}"),
        });
        Some(loaded.problems.iter().cloned().chain(unusable).collect())
    }

    async fn load(&self, config: &Arc<ServerConfig>) -> Option<Loaded> {
        let (config, source) = (config.clone(), self.secrets.clone());
        spawn_blocking(move || secrets::load(&config, &source)).await.ok()
    }

    /// One line and one count per change.
    fn publish(&self, report: Report) {
        let previous = self.report.borrow().clone();
        if report == previous {
            return;
        }
        if report.unknown_fields != previous.unknown_fields && !report.unknown_fields.is_empty() {
            tracing::warn!(
                config.fields = report.unknown_fields.join(", "),
                "the configuration has fields that this version does not know and that have no effect"
            );
        }
        if let Some(rejected) =
            report.rejected.as_ref().filter(|now| Some(*now) != previous.rejected.as_ref())
        {
            self.metrics.config_reloads.with_label_values(&["rejected"]).inc();
            tracing::warn!(
                config.rejected_hash = rejected.hash,
                config.hash = report.config_hash,
                error = rejected.message,
                "the new configuration does not run: the last good one stays"
            );
        }
        self.report.send_replace(report);
    }
}

/// What is to be done with a file that has changed.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// It says what runs already.
    Same(Box<ConfigFile>),
    /// It is to run.
    Run(Box<ConfigFile>),
    /// It must not.
    Reject(RejectedConfig),
}

/// Whether the text of a file may take the place of what runs. `path` is for messages.
fn decide(current: &ConfigFile, text: &str, path: &str) -> Verdict {
    let reject = |message: &str| Verdict::Reject(rejected(config_file::hash_of_text(text), message));
    let file = match ConfigFile::parse(text, path) {
        Ok(file) => file,
        Err(error) => return reject(&error.to_string()),
    };
    let (ours, theirs) = (&current.config.identity, &file.config.identity);
    if (&ours.namespace, &ours.name, &ours.uid) != (&theirs.namespace, &theirs.name, &theirs.uid) {
        let message = format!("it is of another ChatService, {}/{}", theirs.namespace, theirs.name);
        return reject(&message);
    }
    if current.config.fixed != file.config.fixed {
        return reject(
            "it changes what a pod is made for (its mounts, the form of its log, where traces go): a new pod runs it, this \
             one goes on as it is until it is replaced",
        );
    }
    if current.config == file.config { Verdict::Same(Box::new(file)) } else { Verdict::Run(Box::new(file)) }
}

fn rejected(hash: Option<String>, message: &str) -> RejectedConfig {
    RejectedConfig { hash, message: message.chars().take(MESSAGE).collect() }
}

/// What is used after `found` was found while `previous` was in use.
fn merge(previous: Option<&Loaded>, found: Loaded, config: &ServerConfig) -> Loaded {
    let revoked = found.problems.iter().any(|problem| problem.reason == reason::CREDENTIAL_HOST_MISMATCH);
    let host = match &config.dynamic.backend {
        BackendConfig::OpenAi { base_url, .. } => secrets::host_of(base_url),
        BackendConfig::Echo {} => None,
    };
    let kept = previous
        .and_then(|previous| previous.credentials.clone())
        .filter(|kept| !revoked && host.is_some_and(|host| kept.allowed_hosts.contains(&host)));
    Loaded {
        credentials: found.credentials.or(kept),
        redis: found.redis.or_else(|| previous.and_then(|previous| previous.redis.clone())),
        authorities: found.authorities.or_else(|| previous.and_then(|previous| previous.authorities.clone())),
        api_keys: match found.api_keys {
            Some(keys) => {
                let before = previous.and_then(|previous| previous.api_keys.as_ref());
                let keys = keys.or_previous(before);
                // The first ones have to be good for somebody, unless they say that nobody is to be let in.
                (before.is_some() || !keys.is_empty() || keys.revokes_all()).then_some(keys)
            }
            None => previous.and_then(|previous| previous.api_keys.clone()),
        },
        certificate: found.certificate.or_else(|| previous.and_then(|previous| previous.certificate.clone())),
        problems: found.problems,
    }
}

/// One line per transition.
fn log_secrets(previous: Option<&Loaded>, current: &Loaded) {
    let before = previous.map_or(&[][..], |previous| &previous.problems);
    for problem in &current.problems {
        if !before.contains(problem) {
            tracing::warn!(problem.reason = problem.reason, "{}", problem.message);
        }
    }
    if current.problems.is_empty() && !before.is_empty() {
        tracing::info!("every Secret that the configuration names is there");
    } else if current.problems.is_empty() && previous.is_some_and(|previous| previous != current) {
        tracing::info!("a Secret has changed: the new version is in use");
    }
}

#[cfg(test)]
mod tests;
