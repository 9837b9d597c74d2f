//! `chatservice doctor`: what is wrong with an installation, and what to do. In: a cluster, with the permissions of
//! whoever asks. Out: a line for each thing that was looked at, then numbered problems with their fixes. Only reads.
//!
//! What pods and Redis have to say is taken from where the operator put it, the status of the ChatServices: from here
//! neither may be reachable.

mod cluster;
mod operators;
mod permissions;
mod services;

use std::fmt::Write as _;
use std::future::Future;
use std::time::Duration;

use kube::{Client, Config};

/// For one request.
const DEADLINE: Duration = Duration::from_secs(5);
/// Objects of one list that are looked at; a page.
const PAGE: u32 = 500;
/// What `doctor` is told.
#[derive(Clone, Debug, Default)]
pub struct DoctorOptions {
    /// Whose ChatServices are looked at; None: those of all namespaces.
    pub namespace: Option<String>,
    /// What runs this program, for the commands that are printed.
    pub program: String,
}

/// How a thing that was looked at is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Well.
    Well,
    /// It could not be found out, or does not matter here.
    Unknown,
    /// Something is wrong with it.
    Ill,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name.
    pub what: &'static str,
    /// How it is.
    pub state: State,
    /// The same in words.
    pub says: String,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What, and where.
    pub what: String,
    /// More about it; may be empty.
    pub details: String,
    /// What to do.
    pub fix: String,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// The cluster, and who asked.
    pub title: String,
    /// In the order in which it was looked at.
    pub checks: Vec<Check>,
    /// The most basic first.
    pub problems: Vec<Problem>,
}

impl Diagnosis {
    fn check(&mut self, what: &'static str, state: State, says: impl Into<String>) {
        self.checks.push(Check { what, state, says: says.into() });
    }

    fn problem(&mut self, what: impl Into<String>, details: impl Into<String>, fix: impl Into<String>) {
        let problem = Problem { what: what.into(), details: details.into(), fix: fix.into() };
        // The same cause may be met twice, for instance as Ready and as Stalled.
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// As people read it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{}\n\n", self.title);
        let width = self.checks.iter().map(|check| check.what.len()).max().unwrap_or(0);
        for Check { what, state, says } in &self.checks {
            let state = match state {
                State::Well => "ok",
                State::Unknown => "-",
                State::Ill => "FAIL",
            };
            let _ = writeln!(text, "  {state:<4}  {what:<width$}  {says}");
        }
        if self.problems.is_empty() {
            text.push_str("\nNothing is wrong.\n");
        }
        for (number, Problem { what, details, fix }) in self.problems.iter().enumerate() {
            let _ = writeln!(text, "\n{}. {what}", number + 1);
            for line in details.lines().filter(|line| !line.trim().is_empty()) {
                let _ = writeln!(text, "   {line}");
            }
            let _ = writeln!(text, "   Fix: {fix}");
        }
        text
    }
}

/// Why nothing could be looked at, or that something is wrong.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// There is no cluster to ask.
    #[error(
        "cannot find out how to reach the API server: {0}. Run it in a cluster, or set KUBECONFIG to a readable file"
    )]
    Configuration(Box<dyn std::error::Error + Send + Sync>),
    /// The sum of a diagnosis that was shown.
    #[error("{0}")]
    Problems(String),
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
}

/// Looks at everything and shows what was found.
///
/// # Errors
/// There is no cluster to ask, or something is wrong in it.
pub async fn run(options: DoctorOptions) -> Result<(), DoctorError> {
    let config = Config::infer().await.map_err(|error| DoctorError::Configuration(Box::new(error)))?;
    let diagnosis = diagnose(config, &options).await?;
    crate::output::print(&diagnosis.text())?;
    match diagnosis.problems.len() {
        0 => Ok(()),
        1 => Err(DoctorError::Problems("1 problem was found".to_owned())),
        many => Err(DoctorError::Problems(format!("{many} problems were found"))),
    }
}

/// Looks at everything.
///
/// # Errors
/// The configuration cannot be used.
pub async fn diagnose(mut config: Config, options: &DoctorOptions) -> Result<Diagnosis, DoctorError> {
    config.connect_timeout = Some(DEADLINE);
    config.default_retry = false;
    let client = Client::try_from(config.clone());
    let client = client.map_err(|error| DoctorError::Configuration(Box::new(error)))?;
    let mut found = Diagnosis::default();
    if !cluster::api_server(&client, &config, &mut found).await {
        return Ok(found);
    }
    let installed = cluster::definition(&client, options, &mut found).await;
    let operators = operators::look(&client, &mut found).await;
    permissions::look(&client, &config, &operators, &mut found).await;
    if installed {
        let services = services::look(&client, options, &mut found).await;
        services::redis(&services, &mut found);
        cluster::metrics_api(&client, &services, &mut found).await;
    }
    Ok(found)
}

/// One request within its deadline; why there is no answer, in words.
async fn ask<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, kube::Error> {
    let timed_out = || kube::Error::Service(format!("no answer within {} s", DEADLINE.as_secs()).into());
    tokio::time::timeout(DEADLINE, request).await.unwrap_or_else(|_| Err(timed_out()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnosis_is_aligned_and_numbered_and_ends_each_problem_with_its_fix() {
        let mut found = Diagnosis { title: "ChatService looks".into(), ..Diagnosis::default() };
        found.check("CRD", State::Well, "has every field");
        found.check("metrics API", State::Unknown, "not needed");
        found.check("ChatServices", State::Ill, "0 of 1 are Ready");
        found.problem("It is ill.", "It says so.\n\nTwice.", "make it well");
        found.problem("It is ill.", "It says so.\n\nTwice.", "make it well");
        found.problem("Another is ill.", "", "make it well too");
        let expected = "\
ChatService looks

  ok    CRD           has every field
  -     metrics API   not needed
  FAIL  ChatServices  0 of 1 are Ready

1. It is ill.
   It says so.
   Twice.
   Fix: make it well

2. Another is ill.
   Fix: make it well too
";
        assert_eq!(found.text(), expected);
        found.problems.clear();
        assert!(found.text().ends_with("\nNothing is wrong.\n"));
    }
}
