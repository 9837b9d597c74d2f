//! Programs in other languages, run against a server. In: a script and its arguments. Out: what it printed; a script that
//! fails fails the test with all that it said.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// An SDK starts slowly on a busy machine.
const DEADLINE: Duration = Duration::from_secs(90);

/// What a program said.
pub struct Said {
    pub out: String,
    pub err: String,
    pub code: Option<i32>,
}

/// Runs a program to its end.
pub async fn run(mut command: Command) -> Said {
    let command = command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(DEADLINE, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("{command:?} did not end within {DEADLINE:?}")).unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Said { out: text(output.stdout), err: text(output.stderr), code: output.status.code() }
}

impl Said {
    /// What it printed, when it ended well.
    pub fn well(self) -> String {
        assert_eq!(self.code, Some(0), "{}\n{}", self.out, self.err);
        self.out
    }
}

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where `tests/tools.sh` puts things.
fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    base.unwrap_or_else(home).join("chatservice")
}

/// A Python that has the packages of `tests/requirements.txt`.
pub fn python() -> Option<OsString> {
    let python = cache().join("venv/bin/python");
    found(python.exists(), "the Python environment").then(|| python.into())
}

/// Where the packages of `tests/package.json` are.
pub fn node_modules() -> Option<PathBuf> {
    let modules = cache().join("node/node_modules");
    found(modules.join("openai").exists(), "the packages from npm").then_some(modules)
}

pub fn found(is_there: bool, what: &str) -> bool {
    assert!(is_there || std::env::var_os("CI").is_none(), "{what} must be there in CI: run make tools");
    if !is_there {
        println!("skipped: {what} is not installed (make tools)");
    }
    is_there
}

/// A directory of scripts from which the packages of npm are found.
pub struct NodeScripts(tempfile::TempDir);

impl NodeScripts {
    /// With the files of this directory of the repository.
    pub fn of(directory: &str) -> Option<Self> {
        let modules = node_modules()?;
        let place = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(modules, place.path().join("node_modules")).unwrap();
        for entry in std::fs::read_dir(root().join(directory)).unwrap() {
            let entry = entry.unwrap();
            if entry.path().extension().is_some_and(|extension| extension == "mjs") {
                std::fs::copy(entry.path(), place.path().join(entry.file_name())).unwrap();
            }
        }
        Some(Self(place))
    }

    /// Runs one of them.
    pub fn command(&self, script: &str) -> Command {
        let mut command = Command::new("node");
        command.arg(self.0.path().join(script)).env_remove("NODE_OPTIONS");
        command
    }
}

/// One case of an SDK.
pub struct Sdk {
    case: &'static str,
    language: Language,
}

enum Language {
    Python(OsString),
    Node(NodeScripts),
}

impl Sdk {
    pub fn python(case: &'static str) -> Option<Self> {
        Some(Self { case, language: Language::Python(python()?) })
    }

    pub fn node(case: &'static str) -> Option<Self> {
        Some(Self { case, language: Language::Node(NodeScripts::of("tests/clients/sdk")?) })
    }

    /// Runs the case against this server.
    pub async fn passes(&self, url: &str) {
        self.passes_with(url, &[]).await;
    }

    /// The same with more for it to know.
    pub async fn passes_with(&self, url: &str, arguments: &[&str]) {
        let mut command = match &self.language {
            Language::Python(python) => {
                let mut command = Command::new(python);
                command.arg(root().join("tests/clients/sdk/cases.py"));
                command
            }
            Language::Node(scripts) => scripts.command("cases.mjs"),
        };
        command.arg(self.case).arg(format!("{url}/v1")).args(arguments);
        // Nothing of this machine's own accounts.
        for name in [
            "OPENAI_API_KEY",
            "OPENAI_BASE_URL",
            "OPENAI_ORG_ID",
            "OPENAI_PROJECT_ID",
            "http_proxy",
            "HTTP_PROXY",
        ] {
            command.env_remove(name);
        }
        run(command).await.well();
    }
}
