//! What belongs to a whole process: signals and panics. Each test runs itself again in a process of its own.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use axum::Router;
use axum::routing::get;
use chatservice::crd::{LogFormat, LogLevel};
use chatservice::server::edge::{EdgeOptions, serve};
use chatservice::shutdown::{Shutdown, Signals};
use chatservice::telemetry;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::support::{Client, SHORT, within};

/// Set in the second process.
const CHILD: &str = "CHATSERVICE_TEST_CHILD";

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// This test again, in a process of its own.
fn again(test: &str) -> Child {
    spawn(Command::new(std::env::current_exe().unwrap()), test)
}

fn spawn(mut command: Command, test: &str) -> Child {
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn the_first_signal_drains_and_the_second_one_forces() {
    if is_child() {
        let shutdown = Shutdown::new();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(Signals::install().unwrap().watch(shutdown.clone()));
        println!("\nlistening");
        shutdown.draining().cancelled().await;
        println!("draining, forced: {}", shutdown.now().is_cancelled());
        shutdown.now().cancelled().await;
        println!("forced");
        return;
    }
    for (first, second) in [("-TERM", "-TERM"), ("-INT", "-TERM")] {
        let mut child = again("process::the_first_signal_drains_and_the_second_one_forces");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut line = |wanted: &str| assert!(lines.any(|line| line == wanted), "{wanted:?} never came");
        line("listening");
        signal(&child, first);
        line("draining, forced: false");
        signal(&child, second);
        line("forced");
        assert!(child.wait().unwrap().success());
    }
}

#[tokio::test]
async fn a_listener_out_of_file_descriptors_answers_again_when_there_are_some() {
    if is_child() {
        telemetry::init(LogFormat::Json, LogLevel::Info).unwrap();
        let shutdown = Shutdown::new();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(Signals::install().unwrap().watch(shutdown.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("\nlistening on {}", listener.local_addr().unwrap());
        let app = Router::new().route("/", get(async || "hello"));
        serve(listener, app, EdgeOptions::local(), shutdown).await;
        return;
    }
    let test = "process::a_listener_out_of_file_descriptors_answers_again_when_there_are_some";
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 32 && exec \"$0\" \"$@\""]).arg(std::env::current_exe().unwrap());
    let mut child = spawn(command, test);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let address = lines.find_map(|line| line.strip_prefix("listening on ").map(str::to_owned)).unwrap();
    let connect = async || Client(TcpStream::connect(&address).await.unwrap());

    let mut crowd = Vec::new();
    for _ in 0..64 {
        crowd.push(connect().await);
    }
    let mut waiting = connect().await;
    waiting.get("/").await;
    assert!(timeout(SHORT, waiting.answer()).await.is_err(), "there are descriptors left");
    drop(crowd);
    assert!(waiting.answer().await.ends_with("hello"));

    drop(waiting);
    signal(&child, "-TERM");
    let output = child.wait_with_output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{log}");
    assert_eq!(log.matches("cannot accept connections").count(), 1, "one line, not one per attempt: {log}");
}

#[tokio::test]
async fn a_panic_is_one_line_of_json_with_its_place_and_without_its_text() {
    if is_child() {
        telemetry::init(LogFormat::Json, LogLevel::Info).unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async { panic!("a prompt") });
        assert!(within(tasks.join_next()).await.unwrap().is_err());
        return;
    }
    let test = "process::a_panic_is_one_line_of_json_with_its_place_and_without_its_text";
    let output = again(test).wait_with_output().unwrap();
    assert!(output.status.success());
    let log = String::from_utf8(output.stderr).unwrap();
    let value: serde_json::Value = serde_json::from_str(log.trim_end()).unwrap();
    assert_eq!(value["level"], "ERROR");
    assert_eq!(value["panic.file"], file!());
    assert!(value["panic.line"].as_u64().is_some_and(|line| line > 0), "{log}");
    assert!(!log.contains("a prompt"), "{log}");
}
