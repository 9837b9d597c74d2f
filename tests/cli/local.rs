//! `chatservice local` and `serve` from start to stop: what is printed works as printed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{chatservice, finish, run};

pub const DEADLINE: Duration = Duration::from_secs(20);

/// A server that runs; killed when the test ends without stopping it.
pub struct Local {
    child: Child,
    banner: String,
    log: BufReader<ChildStderr>,
}

impl Local {
    /// Starts it on a free port and reads what it prints until it says how to stop.
    pub fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = chatservice();
        command.args(["local", "--address", "127.0.0.1:0"]).args(arguments).envs(variables.iter().copied());
        let mut local = Self::spawn(&mut command);
        let lines = BufReader::new(local.child.stdout.take().expect("piped")).lines();
        for line in lines {
            let line = line.expect("text");
            local.banner.push_str(&line);
            local.banner.push('\n');
            if line.starts_with("Stop:") {
                return local;
            }
        }
        panic!("it ended without a word how to stop it: {}", local.banner);
    }

    /// Starts what prints nothing.
    pub fn spawn(command: &mut Command) -> Self {
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("the binary runs");
        let log = BufReader::new(child.stderr.take().expect("piped"));
        Self { child, banner: String::new(), log }
    }

    /// The log from where it was last read to the line with this word.
    pub fn log_until(&mut self, word: &str) -> String {
        let mut seen = String::new();
        while self.log.read_line(&mut seen).expect("text") > 0 {
            if seen.lines().last().is_some_and(|line| line.contains(word)) {
                return seen;
            }
        }
        panic!("it ended without a word of {word}: {seen}");
    }

    /// The addresses of the API and of the admin listener, from the line of the log that says "listening".
    pub fn addresses(&mut self) -> (String, String) {
        let seen = self.log_until("listening");
        let line = seen.lines().last().unwrap_or_default();
        let after = |name: &str| {
            let (_, rest) = line.split_once(name).unwrap_or_else(|| panic!("no {name} in {line}"));
            let rest = rest.trim_start_matches(['"', ':', '=']);
            rest.split(['"', ' ']).next().unwrap_or_default().to_owned()
        };
        (after("api.address"), after("admin.address"))
    }

    /// The rest of the line of the banner that begins like this.
    fn shown(&self, label: &str) -> &str {
        let line = self.banner.lines().find_map(|line| line.trim().strip_prefix(label));
        line.unwrap_or_else(|| panic!("no {label} in {}", self.banner)).trim()
    }

    /// The API as OpenAI's SDKs take it.
    pub fn base_url(&self) -> String {
        self.shown("Docs:").replace("/docs", "/v1")
    }

    /// Sends a signal by name and gives the exit code.
    fn stop(mut self, signal: &str) -> Option<i32> {
        let ran = finish(std::process::Command::new("kill").args([signal, &self.child.id().to_string()]));
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status.code();
            }
            assert!(Instant::now() < end, "still running long after {signal}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a request and gives status and body.
pub fn ask(method: &str, url: &str, headers: &[&str], body: &str) -> (u16, String) {
    let (host, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).expect("a URL");
    let mut stream = TcpStream::connect(host).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let headers: String = headers.iter().flat_map(|header| [header, "\r\n"]).collect();
    let length = body.len();
    let head = format!("{method} /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}");
    write!(stream, "{head}content-length: {length}\r\n\r\n{body}").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, body.to_owned())
}

pub fn wait_until_healthy(admin: &str) {
    let end = Instant::now() + DEADLINE;
    loop {
        let ran = run(&["healthcheck", "--address", admin]);
        if ran.code == Some(0) {
            return;
        }
        assert!(Instant::now() < end, "{}", ran.err);
    }
}

#[test]
fn the_printed_curl_is_answered_as_printed() {
    let local = Local::start(&["-f", "examples/quickstart.yaml"], &[]);
    let (url, rest) = local.shown("curl ").split_once(' ').expect("a URL");
    let quoted: Vec<&str> = rest.split('\'').collect();
    let ["-H ", header, " -d ", body, ""] = quoted[..] else { panic!("{quoted:?}") };

    let (status, answer) = ask("POST", url, &[header], body);
    assert_eq!(status, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert!(answer["message"].as_str().is_some_and(|message| message.contains("Hello")), "{answer}");
    assert_eq!(answer["model"], "echo-1");
    assert_eq!(local.stop("-INT"), Some(0));
}

#[test]
fn the_printed_pages_are_there() {
    let local = Local::start(&["-f", "examples/quickstart.yaml"], &[]);
    let (status, page) = ask("GET", local.shown("Playground:"), &[], "");
    assert!(status == 200 && page.contains("<html"), "{status}: {page}");
    let docs = local.shown("Docs:");
    let (status, page) = ask("GET", docs, &[], "");
    // A page may live under its path with a slash.
    let (status, page) =
        if (300..400).contains(&status) { ask("GET", &format!("{docs}/"), &[], "") } else { (status, page) };
    assert!(status == 200 && page.to_lowercase().contains("<html"), "{status}: {page}");
}

#[test]
fn the_printed_base_url_is_that_of_openai_sdks() {
    let local = Local::start(&["-f", "examples/quickstart.yaml"], &[]);
    let variables = local.shown("OpenAI SDKs:");
    let base =
        variables.split(' ').find_map(|word| word.strip_prefix("OPENAI_BASE_URL=")).expect("a base URL");
    let body = r#"{"model": "echo-1", "messages": [{"role": "user", "content": "Hello"}]}"#;
    let headers = ["content-type: application/json", "authorization: Bearer unused"];
    let (status, answer) = ask("POST", &format!("{base}/chat/completions"), &headers, body);
    assert_eq!(status, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
    assert_eq!(local.stop("-TERM"), Some(0));
}

#[test]
fn without_redis_url_memory_serves_and_one_line_says_so() {
    let local = Local::start(&["-f", "examples/openai.yaml"], &[("OPENAI_API_KEY", "sk-local-test")]);
    let lines: Vec<&str> =
        local.banner.lines().filter(|line| line.contains("REDIS_URL is not set")).collect();
    assert_eq!(lines.len(), 1, "{}", local.banner);
    assert!(!local.banner.contains("sk-local-test"));
    let (status, answer) = ask("GET", &local.shown("Docs:").replace("/docs", "/v1/models"), &[], "");
    assert!(status == 200 && answer.contains("gpt-4o-mini"), "{status}: {answer}");
}

#[test]
fn nothing_is_said_of_redis_where_nobody_asked_for_it() {
    let local = Local::start(&["-f", "examples/quickstart.yaml"], &[]);
    assert!(!local.banner.contains("REDIS_URL"), "{}", local.banner);
}

#[test]
fn it_is_healthy_by_its_own_healthcheck() {
    let mut local = Local::start(&["-f", "examples/quickstart.yaml", "--admin-address", "127.0.0.1:0"], &[]);
    let (api, admin) = local.addresses();
    assert!(local.shown("curl ").starts_with(&format!("http://{api}/")), "{api}: {}", local.banner);
    wait_until_healthy(&admin);
    assert_eq!(local.stop("-INT"), Some(0));
}

#[test]
fn serve_takes_what_the_operator_would_write() {
    let rendered = run(&["render", "-f", "examples/quickstart.yaml"]);
    let objects: Vec<Value> = serde_saphyr::from_multiple(&rendered.out).expect("YAML");
    let config =
        objects.iter().find_map(|object| object["data"]["config.json"].as_str()).expect("a configuration");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("config.json");
    std::fs::write(&file, config).expect("written");
    let mut command = chatservice();
    command.args(["serve", "--config", file.to_str().expect("text")]);
    let mut server =
        Local::spawn(command.args(["--address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0"]));
    let (api, admin) = server.addresses();
    wait_until_healthy(&admin);
    let (status, answer) = ask("GET", &format!("http://{api}/v1/models"), &[], "");
    assert!(status == 200 && answer.contains("echo-1"), "{status}: {answer}");
    assert_eq!(server.stop("-TERM"), Some(0));
}
