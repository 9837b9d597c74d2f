//! What cannot be done: one clear line, exit code 1; a command line that is not understood: 2.

use std::net::TcpListener;

use crate::{chatservice, finish, run};

#[test]
fn a_file_that_is_not_there_is_named() {
    run(&["local", "-f", "nowhere.yaml"]).fails_with(&["cannot read nowhere.yaml", "No such file"]);
    run(&["serve", "--config", "nowhere.json"]).fails_with(&["cannot read the configuration nowhere.json"]);
}

#[test]
fn a_file_that_cannot_be_a_chat_service_is_refused_unread() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("big.yaml");
    std::fs::write(&path, "# ".repeat(600_000)).expect("written");
    run(&["local", "-f", path.to_str().expect("text")]).fails_with(&["is larger than 1048576 bytes"]);
}

#[test]
fn a_configuration_that_is_not_one_is_named() {
    run(&["serve", "--config", "Cargo.toml"]).fails_with(&["the configuration Cargo.toml is not valid"]);
}

#[test]
fn a_busy_port_names_the_flag_that_changes_it() {
    let held = TcpListener::bind("127.0.0.1:0").expect("a port");
    let busy = held.local_addr().expect("bound").to_string();
    run(&["local", "-f", "examples/quickstart.yaml", "--address", &busy]).fails_with(&[
        "cannot listen on",
        &busy,
        "--address",
    ]);
    run(&["local", "-f", "examples/quickstart.yaml", "--address", "127.0.0.1:0", "--admin-address", &busy])
        .fails_with(&["cannot listen on", &busy, "--admin-address"]);
    let serve = ["serve", "--address", &busy, "--admin-address", "127.0.0.1:0"];
    finish(chatservice().args(serve).env("OPENAI_API_KEY", "k")).fails_with(&[&busy, "--address"]);
}

#[test]
fn a_variable_that_is_missing_is_named() {
    run(&["serve"]).fails_with(&["OPENAI_API_KEY is not set", "OPENAI_BASE_URL"]);
    run(&["local", "-f", "examples/openai.yaml"]).fails_with(&["OPENAI_API_KEY is not set"]);
}

#[test]
fn a_variable_that_cannot_be_used_is_named_and_not_shown() {
    let bad = "http://user:secret@redis";
    let local = ["local", "-f", "examples/openai.yaml"];
    let ran = finish(chatservice().args(local).env("OPENAI_API_KEY", "k").env("REDIS_URL", bad));
    ran.fails_with(&["REDIS_URL cannot be used", "redis://", "export REDIS_URL="]);
    assert!(!ran.err.contains("secret"), "{}", ran.err);
    for (variable, value, says) in [
        (
            "REDIS_URL",
            bad,
            "REDIS_URL cannot be used: the Redis URL has a scheme that is not supported: write redis://",
        ),
        (
            "REDIS_URL",
            "redis://:secret@redis:0",
            "the Redis URL has a port that is not a number from 1 to 65535",
        ),
        ("OPENAI_API_KEY", "two secret words", "OPENAI_API_KEY is not one line of visible ASCII"),
    ] {
        let ran = finish(chatservice().arg("serve").env("OPENAI_API_KEY", "k").env(variable, value));
        ran.fails_with(&[says]);
        assert!(!ran.err.contains("secret"), "{}", ran.err);
    }
    finish(chatservice().arg("serve").env("OPENAI_API_KEY", "k").env("RATE_LIMIT_REQUESTS", "many"))
        .fails_with(&["RATE_LIMIT_REQUESTS is \"many\"", "from 1 to 1000000"]);
}

#[test]
fn local_shows_every_problem_of_its_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("bad.yaml");
    let text = crate::invalid_specs::document("demo", "{model: 1, backend: {}}");
    std::fs::write(&path, text).expect("written");
    let file = path.to_str().expect("text");
    let ran = run(&["local", "-f", file]);
    assert_eq!(ran.code, Some(1));
    let lines: Vec<&str> = ran.err.lines().collect();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(lines[0].starts_with(&format!("{file}:5:15: spec.model: must be a string")), "{}", lines[0]);
    assert!(
        lines[1].starts_with(&format!("{file}:5:18: spec.backend: set exactly one backend")),
        "{}",
        lines[1]
    );
    assert_eq!(lines[2], format!("error: {file} cannot be served: 2 problems"));
}

#[test]
fn local_says_that_it_reads_no_config_map() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("ca.yaml");
    let spec = "{model: m, backend: {openai: {caBundleConfigMapRef: {name: private-ca}}}}";
    std::fs::write(&path, crate::invalid_specs::document("demo", spec)).expect("written");
    run(&["local", "-f", path.to_str().expect("text")])
        .fails_with(&["caBundleConfigMapRef: no ConfigMap is read outside a cluster", "take it out"]);
}

#[test]
fn local_serves_one_chat_service() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("two.yaml");
    let one = crate::invalid_specs::document("a", "{model: m, backend: {echo: {}}}");
    std::fs::write(&path, format!("{one}---\n{one}")).expect("written");
    run(&["local", "-f", path.to_str().expect("text")]).fails_with(&["has 2 ChatServices"]);
}

#[test]
fn a_command_line_that_is_not_understood_is_no_failure_of_the_command() {
    for (arguments, says) in [
        (&["serve", "--adress", "1"][..], "--address"),
        (&["local", "-f", "examples/quickstart.yaml", "--address", "8080"][..], "write IP:PORT"),
        (&["frobnicate"][..], "unrecognized subcommand"),
        (&["validate"][..], "--filename"),
        (&["controller", "--log-level", "loud"][..], "possible values: error, warn, info, debug"),
    ] {
        let ran = run(arguments);
        assert_eq!(ran.code, Some(2), "{arguments:?}: {}", ran.err);
        assert!(ran.err.contains(says), "{arguments:?}: {}", ran.err);
    }
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let script = format!("'{}' crd | head -1", env!("CARGO_BIN_EXE_chatservice"));
    let ran = finish(std::process::Command::new("bash").args(["-o", "pipefail", "-c", &script]));
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
}
