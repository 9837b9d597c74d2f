//! `chatservice local`: a ChatService on this machine. In: a file and the environment. Out: a few lines that say what
//! to do with it, and answers until Ctrl-C.
//!
//! The file is read as a cluster would read it, and the operator's own function makes the server's configuration.
//! Secrets are the environment's: one person sets both the key and the URL that it goes to.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::constants::{env, path};
use crate::controller::validate::server_config;
use crate::crd::LogFormat;
use crate::document::{self, DocumentError};
use crate::environment::Variables;
use crate::output;
use crate::server::config::ServerConfig;
use crate::server::edge::EdgeOptions;
use crate::server::overload::LoadOptions;
use crate::server::secrets::{self, SecretSource};
use crate::server::{self, Listeners, ServeError, ServerOptions};
use crate::shutdown::Shutdown;
use crate::telemetry::LevelHandle;

/// Where to listen.
#[derive(Clone, Copy, Debug)]
pub struct LocalOptions {
    /// The API.
    pub address: SocketAddr,
    /// The admin listener; None: none.
    pub admin_address: Option<SocketAddr>,
}

/// A ChatService that can be served.
pub struct Prepared {
    /// What the operator would write for it.
    pub config: ServerConfig,
    /// What the file says of the log; text for people where it says nothing.
    pub log_format: LogFormat,
    secrets: SecretSource,
    /// What is otherwise than it would be in a cluster.
    notes: Vec<String>,
}

/// Why a ChatService cannot be served here.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The file.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// What is wrong with it has been shown, one problem a line; this is the sum.
    #[error("{file} cannot be served: {count} problem{}", if *count == 1 { "" } else { "s" })]
    Problems {
        /// The file.
        file: String,
        /// How many.
        count: usize,
    },
    /// More than one to serve.
    #[error("{file} has {count} ChatServices: local serves one, so keep each in a file of its own")]
    Several {
        /// The file.
        file: String,
        /// How many.
        count: usize,
    },
    /// What the schema does not know.
    #[error("{file}: {problem}")]
    Invalid {
        /// The file.
        file: String,
        /// The first thing that is wrong.
        problem: String,
    },
    /// A variable is missing or cannot be used.
    #[error(transparent)]
    Secret(#[from] secrets::Unusable),
    /// The server.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// Standard output.
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
}

/// Reads the file and finds its secrets, so that whatever is wrong is said before anything listens.
pub fn prepare(file: &Path, variables: Variables) -> Result<Prepared, LocalError> {
    let name = file.display().to_string();
    let mut services = match document::read(file) {
        Err(DocumentError::Invalid(problems)) => {
            for problem in &problems {
                output::complain(&problem.to_string());
            }
            return Err(LocalError::Problems { file: name, count: problems.len() });
        }
        result => result?,
    };
    let file = name;
    let service = match (services.pop(), services.len()) {
        (Some(service), 0) => service,
        (_, others) => return Err(LocalError::Several { file, count: others + 1 }),
    };
    let config = server_config(&service).map_err(|problems| {
        let problem = problems.first().map(ToString::to_string).unwrap_or_default();
        LocalError::Invalid { file: file.clone(), problem }
    })?;
    if config.fixed.ca_config_map.is_some() {
        let problem = "spec.backend.openai.caBundleConfigMapRef: no ConfigMap is read outside a cluster, where only public authorities are trusted: take it out, or serve this file in a cluster";
        return Err(LocalError::Invalid { file, problem: problem.to_owned() });
    }
    if config.dynamic.auth.is_some() && config.fixed.api_keys_secret.is_none() {
        let problem = "spec.auth.serviceAccounts: tokens of ServiceAccounts are made and checked in a cluster, so nobody could ask here: add apiKeysSecretRef, or serve this file in a cluster";
        return Err(LocalError::Invalid { file, problem: problem.to_owned() });
    }
    let without_redis = config.fixed.redis_secret.is_some() && !variables.contains_key(env::REDIS_URL);
    let without_redis = without_redis.then(|| {
        format!("{} is not set: what spec.redis would keep stays in this process's memory.", env::REDIS_URL)
    });
    let without_tls = config
        .fixed
        .tls_secret
        .as_ref()
        .map(|_| "spec.service.tls needs its Secret: this is plain HTTP.".to_owned());
    let notes = without_redis.into_iter().chain(without_tls).collect();
    let secrets = SecretSource::Environment(variables);
    secrets::check(&config, &secrets)?;
    let log_format = service.spec.logging.and_then(|logging| logging.format).unwrap_or(LogFormat::Text);
    Ok(Prepared { config, log_format, secrets, notes })
}

/// Serves until `shutdown` begins and the drain is over.
pub async fn run(prepared: Prepared, options: LocalOptions, shutdown: Shutdown) -> Result<(), LocalError> {
    let api = server::bind(options.address, "--address").await?;
    let admin = match options.admin_address {
        Some(address) => Some(server::bind(address, "--admin-address").await?),
        None => None,
    };
    output::print(&banner(&prepared, api.local_addr()?))?;
    let Prepared { config, secrets, .. } = prepared;
    let server = ServerOptions {
        config,
        config_file: None,
        secrets,
        edge: EdgeOptions::local(),
        load: LoadOptions::here(),
        // The file is not read again.
        log_level: LevelHandle::default(),
    };
    Ok(Box::pin(server::run(Listeners { api, admin }, server, shutdown)).await?)
}

/// What to do now. The curl works as it stands, in every shell.
fn banner(prepared: &Prepared, address: SocketAddr) -> String {
    let config = &prepared.config;
    let base = format!("http://{}", reachable(address));
    let mut text = format!(
        "ChatService {}: model {}, backend {}\n",
        config.identity.name,
        config.dynamic.model,
        config.dynamic.backend.name()
    );
    for note in &prepared.notes {
        text.push_str(note);
        text.push('\n');
    }
    let playground = config.dynamic.playground.then(|| format!("Playground:  {base}{}\n", path::PLAYGROUND));
    let playground = playground.unwrap_or_default();
    let closed = config.dynamic.auth.is_some();
    if closed {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "Callers send an API key: KEY is one of those in {}.", env::API_KEYS);
    }
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "\n  curl {base}{chat}{key} -H 'content-type: application/json' -d '{{\"message\": \"Hello\"}}'\n\n\
         {playground}Docs:        {base}{docs}\n\
         OpenAI SDKs: OPENAI_BASE_URL={base}/v1 OPENAI_API_KEY={sdk_key}\n\
         Stop:        Ctrl-C\n\n",
        chat = path::CHAT,
        key = if closed { " -H 'authorization: Bearer KEY'" } else { "" },
        sdk_key = if closed { "KEY" } else { "unused" },
        docs = path::DOCS,
    );
    text
}

/// The address with which this machine reaches a listener: loopback where it listens everywhere.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_everywhere_is_reached_through_loopback() {
        for (listens, reached) in [
            ("0.0.0.0:8080", "127.0.0.1:8080"),
            ("[::]:8080", "[::1]:8080"),
            ("192.168.1.5:80", "192.168.1.5:80"),
        ] {
            assert_eq!(reachable(listens.parse().unwrap()).to_string(), reached);
        }
    }
}
