//! The command line: one binary, a subcommand for each thing it does. In: arguments and environment. Out: what the
//! command does, or one line that says why not.
//!
//! Flags are for people and manifests: each has a default, a sentence of help and, where a pod would set it, a variable.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::controller::validate::server_config;
use crate::crd::custom_resource_definition;
use crate::{document, output};

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
    /// Print the CustomResourceDefinition, as it is in crds/chatservices.yaml.
    Crd,
    /// Check files as the API server would, without one: schema, unknown fields and rules, with file and line.
    Validate(ValidateArgs),
}

/// Arguments of `validate`.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// A file with ChatServices, or - for standard input; may be given several times.
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    pub filename: Vec<PathBuf>,
}

/// Why a command failed: what is shown after `error: `.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command has said everything itself, line by line; this is the sum.
    #[error("{0}")]
    Failed(String),
    /// A file that is not as it must be.
    #[error(transparent)]
    Document(#[from] document::DocumentError),
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
}

/// Does what was asked.
pub fn run(cli: Cli) -> Result<(), CliError> {
    match cli.command {
        Command::Crd => crd(),
        Command::Validate(args) => validate(&args),
    }
}

fn crd() -> Result<(), CliError> {
    Ok(output::print(&crd_text()?)?)
}

/// The text of `crds/chatservices.yaml`.
fn crd_text() -> Result<String, CliError> {
    // Without folded scalars a rule stays on one line, where it can be found and compared.
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let yaml = serde_saphyr::to_string_with_options(&custom_resource_definition(), options)
        .map_err(std::io::Error::other)?;
    Ok(format!("# Made by `chatservice crd`, do not edit.\n{yaml}"))
}

fn validate(args: &ValidateArgs) -> Result<(), CliError> {
    let mut bad = 0;
    for path in &args.filename {
        let services = match document::read(path) {
            Ok(services) => services,
            Err(error) => {
                output::complain(&error.to_string());
                bad += 1;
                continue;
            }
        };
        for service in services {
            let name = service.metadata.name.as_deref().unwrap_or_default();
            match server_config(&service) {
                Ok(_) => output::print(&format!("{}: ChatService {name} is valid\n", path.display()))?,
                Err(problems) => {
                    for problem in problems {
                        output::complain(&format!("{}: {problem}", path.display()));
                    }
                    bad += 1;
                }
            }
        }
    }
    let files = args.filename.len();
    if bad == 0 { Ok(()) } else { Err(CliError::Failed(format!("{bad} of {files} files cannot be applied"))) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_help() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{} {} has no help",
                    command.get_name(),
                    argument.get_id()
                );
            }
        }
    }
}
