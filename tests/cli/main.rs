//! The real binary, as a person or a script runs it: what it prints, where, and its exit code.

#![expect(clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

mod ask;
mod crd;
mod failures;
mod files;
mod healthcheck;
mod local;
mod reload;

#[path = "../support/config_mount.rs"]
mod config_mount;
#[path = "../support/invalid_specs.rs"]
mod invalid_specs;

/// What a run left behind.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

/// The binary, in the root of the package, with none of the variables that it reads.
fn chatservice() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chatservice"));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if ["OPENAI_", "REDIS_", "RATE_LIMIT_", "CHATSERVICE_"]
            .iter()
            .any(|prefix| name_text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
    command
}

fn run(arguments: &[&str]) -> Ran {
    finish(chatservice().args(arguments))
}

fn finish(command: &mut Command) -> Ran {
    let Output { status, stdout, stderr } = command.output().expect("the binary runs");
    Ran {
        code: status.code(),
        out: String::from_utf8(stdout).expect("text"),
        err: String::from_utf8(stderr).expect("text"),
    }
}

impl Ran {
    /// It failed as a command should: exit code 1, nothing on standard output, one line that says why.
    fn fails_with(&self, words: &[&str]) {
        assert_eq!(self.code, Some(1), "{}{}", self.out, self.err);
        assert_eq!(self.err.lines().count(), 1, "one line: {}", self.err);
        assert!(self.err.starts_with("error: "), "{}", self.err);
        for word in words {
            assert!(self.err.contains(word), "{word} is missing in: {}", self.err);
        }
        assert_eq!(self.out, "");
    }
}

/// Every file of examples/, in the order of their names.
fn examples() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let entries = std::fs::read_dir(directory).expect("examples/ is there");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let mut files: Vec<PathBuf> = paths.filter(|path| path.is_file()).collect();
    files.sort();
    assert!(files.len() >= 3, "{files:?}");
    files
}
