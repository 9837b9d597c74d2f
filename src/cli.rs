//! The command line: one binary, a subcommand for each thing it does. In: arguments and environment. Out: what the
//! command does, or one line that says why not.
//!
//! Flags are for people and manifests: each has a default, a sentence of help and, where a pod would set it, a variable.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::ask::{Answer, AskError, AskOptions};
use crate::constants::{LEASE, env, mount, path};
use crate::controller::workload::OperatorPods;
use crate::controller::{self, ControllerOptions, Defaults};
use crate::crd::{LogFormat, LogLevel, custom_resource_definition};
use crate::doctor::DoctorOptions;
use crate::leader_election::LeaseOptions;
use crate::local::{self, LocalOptions};
use crate::server::config_file::{ConfigError, ConfigFile};
use crate::server::edge::EdgeOptions;
use crate::server::overload::LoadOptions;
use crate::server::secrets::{self, SecretSource};
use crate::server::{self, Listeners, ServeError, ServerOptions};
use crate::shutdown::{Shutdown, Signals};
use crate::{ask, doctor, environment, healthcheck, init_secret, offline, output, telemetry};

/// The image of this version, for those who build it under its plain name.
const SERVER_IMAGE: &str = concat!("chatservice:", env!("CARGO_PKG_VERSION"));

/// The program as a plugin of kubectl.
const PLUGIN: &str = "kubectl chatservice";

/// A Kubernetes operator for chat APIs, and the chat server that it runs.
#[derive(Debug, Parser)]
#[command(name = "chatservice", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator: make what the ChatServices of a cluster describe.
    Controller(ControllerArgs),
    /// Run a chat server, in a pod or anywhere.
    ///
    /// Without --config it is configured by OPENAI_API_KEY, OPENAI_BASE_URL (https://api.openai.com/v1), OPENAI_MODEL
    /// (gpt-4o-mini), REDIS_URL (unset: memory), RATE_LIMIT_REQUESTS (unset: no limit) and RATE_LIMIT_WINDOW (60
    /// seconds).
    Serve(ServeArgs),
    /// Serve a ChatService on this machine, without a cluster.
    ///
    /// The file is checked as a cluster would check it, and read once. Secrets come from the environment: OPENAI_API_KEY for
    /// credentialsSecretRef, REDIS_URL for redis.secretRef (unset: memory).
    Local(LocalArgs),
    /// Print the CustomResourceDefinition, as it is in crds/chatservices.yaml.
    Crd,
    /// Print the objects that the operator would apply for the ChatServices of a file.
    Render(RenderArgs),
    /// Check files as the API server would, without one: schema, unknown fields and rules, with file and line.
    Validate(ValidateArgs),
    /// Make the Secret that a Redis and its chat servers share, with a new password, unless it is there already.
    ///
    /// It holds where Redis is, the servers' user and password, and the file of users for Redis, with the password's hash. The
    /// chart runs it before it installs a Redis.
    InitSecret(InitSecretArgs),
    /// Look for what is wrong with an installation in a cluster, and print what to do.
    ///
    /// It reads with your permissions, by KUBECONFIG or from inside a pod: CRD, operator and its permissions, ChatServices and
    /// their pods, Redis, the metrics API. Exit code 0: nothing is wrong; 1: something is.
    Doctor(DoctorArgs),
    /// Ask a chat API one question as an app does, and say whether it was answered, or what to do.
    Ask(AskArgs),
    /// Ask a listener of this program whether it is well: exit code 0, or 1 and a line that says why not.
    Healthcheck(HealthcheckArgs),
}

/// Arguments of `controller`.
#[derive(Debug, Args)]
pub struct ControllerArgs {
    /// Namespaces whose ChatServices are looked after, separated by commas; none: all of the cluster.
    #[arg(
        long,
        alias = "watch-namespace",
        value_name = "NAMESPACE",
        env = env::WATCH_NAMESPACES,
        value_delimiter = ','
    )]
    pub watch_namespaces: Vec<String>,
    /// The image of chat servers whose ChatService names none.
    #[arg(long, value_name = "IMAGE", env = env::SERVER_IMAGE, default_value = SERVER_IMAGE)]
    pub server_image: String,
    /// Patterns of the images that a ChatService may name, separated by commas; * stands for anything. None: every tag
    /// and digest of the server image's repository.
    #[arg(long, value_name = "PATTERN", env = env::ALLOWED_IMAGES, value_delimiter = ',')]
    pub allowed_images: Vec<String>,
    /// How many ChatServices are rolled at a time after the server image has changed: those that name no image.
    #[arg(long, value_name = "NUMBER", env = env::MAX_CONCURRENT_ROLLOUTS, default_value_t = 5,
        value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub max_concurrent_rollouts: u16,
    /// Where the operator runs.
    #[command(flatten)]
    pub operator: OperatorArgs,
    /// Where /metrics, /livez and /readyz are served.
    #[arg(long, value_name = "ADDRESS", value_parser = address, default_value = "0.0.0.0:9090")]
    pub admin_address: SocketAddr,
    /// The Lease by which operators take turns: of those that share it one writes, the others wait.
    #[arg(long, value_name = "NAME", env = env::LEASE_NAME, default_value = LEASE)]
    pub lease_name: String,
    /// The namespace of the Lease; none: that of the operator's pod, or of the kubeconfig's context.
    #[arg(long, value_name = "NAMESPACE", env = env::POD_NAMESPACE)]
    pub lease_namespace: Option<String>,
    /// Who this process is in the Lease, to which something random is added; in a cluster the pod's name.
    #[arg(long, value_name = "NAME", env = env::POD_NAME, default_value = "chatservice")]
    pub identity: String,
    /// The least severe lines of the log.
    #[arg(long, value_name = "LEVEL", env = env::LOG_LEVEL, default_value = "info",
        value_parser = one_of::<LogLevel>(&["error", "warn", "info", "debug"]))]
    pub log_level: LogLevel,
    /// The form of a line of the log.
    #[arg(long, value_name = "FORMAT", env = env::LOG_FORMAT, default_value = "json",
        value_parser = one_of::<LogFormat>(&["json", "text"]))]
    pub log_format: LogFormat,
}

/// Where the operator runs: NetworkPolicies of servers let it in.
#[derive(Debug, Args)]
pub struct OperatorArgs {
    /// The namespace of the operator's own pod, for NetworkPolicies of servers, which it asks how they are.
    #[arg(long, value_name = "NAMESPACE", env = env::POD_NAMESPACE)]
    pub operator_namespace: Option<String>,
    /// Labels of the operator's own pod, as KEY=VALUE separated by commas.
    #[arg(long, value_name = "KEY=VALUE", env = env::OPERATOR_LABELS, value_delimiter = ',', value_parser = label)]
    pub operator_labels: Vec<(String, String)>,
}

impl From<OperatorArgs> for Option<OperatorPods> {
    fn from(args: OperatorArgs) -> Self {
        let labels: BTreeMap<String, String> = args.operator_labels.into_iter().collect();
        // Without labels every pod of the namespace would be let in.
        let namespace = args.operator_namespace.filter(|name| !name.is_empty() && !labels.is_empty())?;
        Some(OperatorPods { namespace, labels })
    }
}

impl From<ControllerArgs> for ControllerOptions {
    fn from(args: ControllerArgs) -> Self {
        Self {
            watch_namespaces: list(&args.watch_namespaces),
            defaults: Defaults {
                server_image: args.server_image,
                allowed_images: list(&args.allowed_images),
                operator: args.operator.into(),
            },
            max_concurrent_rollouts: usize::from(args.max_concurrent_rollouts),
            admin_address: args.admin_address,
            lease: LeaseOptions {
                namespace: args.lease_namespace.filter(|namespace| !namespace.is_empty()),
                name: args.lease_name,
                identity: args.identity,
            },
        }
    }
}

/// A list as it was meant: a variable that is set to nothing names nothing, and twice is once.
fn list(given: &[String]) -> Vec<String> {
    let mut meant: Vec<String> = Vec::with_capacity(given.len());
    for item in given.iter().map(|item| item.trim()).filter(|item| !item.is_empty()) {
        if !meant.iter().any(|known| known == item) {
            meant.push(item.to_owned());
        }
    }
    meant
}

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The configuration that the operator wrote, read again when it changes. None: the environment.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where what the configuration names is mounted: secrets/credentials, secrets/redis, secrets/api-keys, secrets/tls, ca.
    #[arg(long, value_name = "DIRECTORY", requires = "config", default_value = mount::DIR)]
    pub mounts: PathBuf,
    /// Where the API is served.
    #[arg(long, value_name = "ADDRESS", value_parser = address, default_value = "0.0.0.0:8080")]
    pub address: SocketAddr,
    /// Where /metrics, /livez, /readyz and /status are served.
    #[arg(long, value_name = "ADDRESS", value_parser = address, default_value = "0.0.0.0:9090")]
    pub admin_address: SocketAddr,
}

/// Arguments of `local`.
#[derive(Debug, Args)]
pub struct LocalArgs {
    /// A file with one ChatService, or - for standard input.
    #[arg(short, long, value_name = "FILE")]
    pub filename: PathBuf,
    /// Where the API is served.
    #[arg(long, value_name = "ADDRESS", value_parser = address, default_value = "127.0.0.1:8080")]
    pub address: SocketAddr,
    /// Where /metrics, /livez, /readyz and /status are served; none: nowhere.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub admin_address: Option<SocketAddr>,
}

/// Arguments of `render`.
#[derive(Debug, Args)]
pub struct RenderArgs {
    /// A file with ChatServices, or - for standard input; may be given several times.
    #[arg(short, long, value_name = "FILE", required = true)]
    pub filename: Vec<PathBuf>,
    /// The image of chat servers whose ChatService names none.
    #[arg(long, value_name = "IMAGE", env = env::SERVER_IMAGE, default_value = SERVER_IMAGE)]
    pub server_image: String,
    /// The namespace of ChatServices that name none.
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// Where the operator runs.
    #[command(flatten)]
    pub operator: OperatorArgs,
}

/// Arguments of `validate`.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// A file with ChatServices, or - for standard input; may be given several times.
    #[arg(short, long, value_name = "FILE", required = true)]
    pub filename: Vec<PathBuf>,
}

/// Arguments of `init-secret`.
#[derive(Debug, Args)]
pub struct InitSecretArgs {
    /// Name of the Secret.
    pub name: String,
    /// Name or address of the Redis.
    #[arg(long, value_name = "HOST")]
    pub host: String,
    /// Where the Secret is; none: the pod's own namespace, or that of the kubeconfig.
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Print a Secret instead, password included, and ask no API server.
    #[arg(long)]
    pub print: bool,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Whose ChatServices are looked at; none: those of all namespaces.
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

/// Arguments of `ask`.
#[derive(Debug, Args)]
pub struct AskArgs {
    /// The API as the OpenAI SDK takes it and `kubectl get chat` shows it, such as http://demo.chat.svc:8080/v1.
    pub url: String,
    /// The question.
    #[arg(long, value_name = "TEXT", default_value = "Are you there? Answer with one word.")]
    pub message: String,
    /// What the answer must hold.
    #[arg(long, value_name = "TEXT")]
    pub expect: Option<String>,
    /// A file with the key to send, or a directory of such, as a Secret is mounted: its first that is no hash is sent.
    #[arg(long, value_name = "PATH")]
    pub keys: Option<PathBuf>,
    /// A file with certificates in PEM to trust beside the public ones, or a directory of such.
    #[arg(long, value_name = "PATH")]
    pub authorities: Option<PathBuf>,
    /// Seconds until it gives up; before that it tries again while nobody can be reached.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..=600))]
    pub timeout: u16,
}

/// Arguments of `healthcheck`.
#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    /// Whom to ask: the admin listener.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    pub address: String,
    /// What to ask for.
    #[arg(long, value_name = "PATH", default_value = path::READYZ)]
    pub path: String,
}

/// Why a command failed: what is shown after `error: `.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A file is not as it must be.
    #[error(transparent)]
    Offline(#[from] offline::OfflineError),
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
    /// The process cannot start its threads or catch signals.
    #[error("cannot start: {0}")]
    Start(std::io::Error),
    /// The log cannot be set up.
    #[error(transparent)]
    Log(#[from] telemetry::AlreadyInitialized),
    /// The operator ended.
    #[error(transparent)]
    Controller(#[from] controller::Error),
    /// The server's configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A variable cannot be used.
    #[error(transparent)]
    Secret(#[from] secrets::Unusable),
    /// The server cannot run.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The ChatService cannot be served here.
    #[error(transparent)]
    Local(#[from] local::LocalError),
    /// There is no usable Secret.
    #[error(transparent)]
    InitSecret(#[from] init_secret::InitSecretError),
    /// Something is wrong in the cluster, or it cannot be asked.
    #[error(transparent)]
    Doctor(#[from] doctor::DoctorError),
    /// Not answered.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// Not healthy.
    #[error(transparent)]
    Health(#[from] healthcheck::HealthError),
}

/// The command line as `arguments`, the program's own name first. Called as `kubectl-chatservice`, which is how kubectl calls
/// its plugins, the program is `kubectl chatservice` to whoever reads its help.
///
/// # Errors
/// A command line that is not understood, or one that asks for help.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut command = Cli::command();
    if is_plugin(arguments.first().map(OsString::as_os_str)) {
        command = command.bin_name(PLUGIN);
    }
    Cli::from_arg_matches(&command.try_get_matches_from(arguments)?)
}

fn is_plugin(program: Option<&OsStr>) -> bool {
    let name = program.and_then(|program| Path::new(program).file_name()).and_then(OsStr::to_str);
    name.is_some_and(|name| name.starts_with("kubectl-"))
}

/// What somebody types to run this program.
fn program() -> String {
    let called = std::env::args_os().next();
    if is_plugin(called.as_deref()) {
        return PLUGIN.to_owned();
    }
    called.map_or_else(|| "chatservice".to_owned(), |called| called.to_string_lossy().into_owned())
}

/// Does what was asked.
pub fn run(cli: Cli) -> Result<(), CliError> {
    match cli.command {
        Command::Controller(args) => until_done(controller(args)),
        Command::Serve(args) => until_done(serve(args)),
        Command::Local(args) => until_done(local(args)),
        Command::Crd => Ok(output::print(&crd_text()?)?),
        Command::Render(args) => {
            // What images the operator of a cluster allows is not known here, so any is rendered.
            let defaults = Defaults {
                server_image: args.server_image,
                allowed_images: vec!["*".to_owned()],
                operator: args.operator.into(),
            };
            Ok(output::print(&offline::render(&args.filename, &defaults, &args.namespace)?)?)
        }
        Command::Validate(args) => Ok(offline::validate(&args.filename)?),
        Command::InitSecret(args) if args.print => {
            let mut secret = init_secret::new_secret(&args.name, &args.host);
            secret.metadata.namespace = args.namespace;
            Ok(output::print(&offline::yaml(&secret)?)?)
        }
        Command::InitSecret(args) => until_done(init_secret(args)),
        Command::Doctor(args) => until_done(async move {
            telemetry::init(LogFormat::Text, LogLevel::Error)?;
            let options = DoctorOptions { namespace: args.namespace, program: program() };
            Ok(doctor::run(options).await?)
        }),
        Command::Ask(args) => until_done(ask(args)),
        Command::Healthcheck(args) => {
            until_done(async move { Ok(healthcheck::check(&args.address, &args.path).await?) })
        }
    }
}

/// Runs to the end on as many threads as there are processors.
fn until_done(work: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CliError::Start)?;
    runtime.block_on(Box::pin(work))
}

/// Signals end what `work` starts, from before it listens.
async fn until_signal<E, F>(work: impl FnOnce(Shutdown) -> F) -> Result<(), CliError>
where
    F: Future<Output = Result<(), E>>,
    CliError: From<E>,
{
    let signals = Signals::install().map_err(CliError::Start)?;
    let shutdown = Shutdown::new();
    let mut watching = tokio::task::JoinSet::new();
    watching.spawn(signals.watch(shutdown.clone()));
    Ok(Box::pin(work(shutdown)).await?)
}

async fn controller(args: ControllerArgs) -> Result<(), CliError> {
    telemetry::init(args.log_format, args.log_level)?;
    let options = ControllerOptions::from(args);
    until_signal(|shutdown| async move { controller::run(options, shutdown.draining().clone()).await }).await
}

async fn serve(args: ServeArgs) -> Result<(), CliError> {
    let (config, secrets) = if let Some(path) = &args.config {
        (Arc::unwrap_or_clone(ConfigFile::read(path)?.config), SecretSource::mounted_in(&args.mounts))
    } else {
        let variables = environment::variables()?;
        let config = environment::server_config(&variables)?;
        let source = SecretSource::Environment(variables);
        secrets::check(&config, &source)?;
        (config, source)
    };
    let log_level = telemetry::init(config.fixed.log_format, config.dynamic.log_level)?;
    let edge = EdgeOptions::with_grace(config.fixed.grace_seconds);
    until_signal(|shutdown| async move {
        let api = server::bind(args.address, "--address").await?;
        let admin = Some(server::bind(args.admin_address, "--admin-address").await?);
        let options = ServerOptions {
            config,
            config_file: args.config,
            secrets,
            edge,
            load: LoadOptions::here(),
            log_level,
        };
        server::run(Listeners { api, admin }, options, shutdown).await
    })
    .await
}

async fn local(args: LocalArgs) -> Result<(), CliError> {
    let LocalArgs { filename, address, admin_address } = args;
    let prepared = local::prepare(&filename, environment::variables()?)?;
    telemetry::init(prepared.log_format, prepared.config.dynamic.log_level)?;
    until_signal(|shutdown| local::run(prepared, LocalOptions { address, admin_address }, shutdown)).await
}

async fn init_secret(args: InitSecretArgs) -> Result<(), CliError> {
    let InitSecretArgs { name, host, namespace, .. } = args;
    let options = init_secret::InitSecretOptions { name, namespace, host };
    let secret = options.name.clone();
    let said = match init_secret::init_secret(options).await? {
        init_secret::Outcome::Made => "is made",
        init_secret::Outcome::Kept => "is there and stays as it is",
    };
    Ok(output::print(&format!("Secret {secret} {said}\n"))?)
}

async fn ask(args: AskArgs) -> Result<(), CliError> {
    let AskArgs { url, message, expect, keys, authorities, timeout } = args;
    let patience = Duration::from_secs(u64::from(timeout));
    let options = AskOptions { url, message, expect, keys, authorities, patience };
    let Answer { model, characters } = ask::ask(&options).await?;
    Ok(output::print(&format!("{} answered: {characters} characters of {model}\n", options.url))?)
}

/// The text of `crds/chatservices.yaml`.
fn crd_text() -> Result<String, CliError> {
    Ok(format!(
        "# Made by `chatservice crd`, do not edit.\n{}",
        offline::yaml(&custom_resource_definition())?
    ))
}

/// Accepts what a listener can be bound to.
fn address(text: &str) -> Result<SocketAddr, String> {
    let literal = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    literal.parse().map_err(|_| "write IP:PORT, such as 127.0.0.1:8080 or [::1]:8080".to_owned())
}

/// Accepts a label.
fn label(text: &str) -> Result<(String, String), String> {
    let pair = text.trim().split_once('=').filter(|(key, _)| !key.is_empty());
    pair.map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| "write KEY=VALUE, such as app.kubernetes.io/name=chatservice-operator".to_owned())
}

/// Accepts the names of an enum of the API.
fn one_of<T>(names: &[&'static str]) -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names).try_map(|name| serde_json::from_value::<T>(Value::String(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_a_plugin_of_kubectl_it_helps_under_that_name() {
        let help = |program: &str| {
            let line = [program, "doctor", "--help"].map(OsString::from);
            parse(line).unwrap_err().to_string()
        };
        assert!(help("/usr/local/bin/kubectl-chatservice").contains("Usage: kubectl chatservice doctor"));
        assert!(help("/chatservice").contains("Usage: chatservice doctor"));
        let line = ["kubectl-chatservice", "doctor", "-n", "chat"].map(OsString::from);
        let Ok(Cli { command: Command::Doctor(args) }) = parse(line) else { panic!("it is refused") };
        assert_eq!(args.namespace.as_deref(), Some("chat"));
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_flag_has_help() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name} has no help");
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{name} {} has no help", argument.get_id());
            }
        }
    }

    #[test]
    fn lists_are_separated_by_commas() {
        let line = ["chatservice", "controller", "--watch-namespaces=a,b", "--allowed-images=x/*"];
        let Ok(Cli { command: Command::Controller(args) }) = Cli::try_parse_from(line) else {
            panic!("{line:?} is refused");
        };
        assert_eq!(args.watch_namespaces, ["a", "b"]);
        assert_eq!(args.allowed_images, ["x/*"]);
        assert_eq!((args.log_level, args.log_format), (LogLevel::Info, LogFormat::Json));
    }

    #[test]
    fn an_empty_list_is_none_and_twice_is_once() {
        for (given, meant) in
            [("", vec![]), (",", vec![]), ("b,a,b", vec!["b", "a"]), ("a, b ,,", vec!["a", "b"])]
        {
            let (namespaces, images) =
                (format!("--watch-namespaces={given}"), format!("--allowed-images={given}"));
            let Ok(Cli { command: Command::Controller(args) }) =
                Cli::try_parse_from(["chatservice", "controller", &namespaces, &images])
            else {
                panic!("{given:?} is refused");
            };
            let options = ControllerOptions::from(args);
            assert_eq!(options.watch_namespaces, meant, "{given:?}");
            assert_eq!(options.defaults.allowed_images, meant, "{given:?}");
        }
    }
}
