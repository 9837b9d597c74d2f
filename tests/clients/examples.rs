//! Each program of `examples/clients` runs as it stands. In: a server and the two variables that a ConfigMap of the
//! operator sets. Out: what it prints.

use std::path::Path;

use serde_json::json;
use tokio::process::Command;

use crate::Rig;
use crate::chat::answer;
use crate::mock_openai::Script;
use crate::process::Process;
use crate::programs::{NodeScripts, python, root, run};

/// What is run below, in each language.
const PROGRAMS: [&str; 7] = ["chat", "embeddings", "errors", "keyless", "responses", "simple", "tools"];
const LANGUAGES: [(&str, &str); 3] = [("curl", "sh"), ("node", "mjs"), ("python", "py")];

/// A command that runs a program; None where the language is not there.
fn command(language: &str, program: &str) -> Option<(Command, Option<NodeScripts>)> {
    let file = |extension| root().join(format!("examples/clients/{language}/{program}.{extension}"));
    Some(match language {
        "python" => {
            let mut command = Command::new(python()?);
            command.arg(file("py"));
            (command, None)
        }
        "node" => {
            let scripts = NodeScripts::of("examples/clients/node")?;
            (scripts.command(&format!("{program}.mjs")), Some(scripts))
        }
        _ => {
            let mut command = Command::new("sh");
            command.arg(file("sh"));
            (command, None)
        }
    })
}

/// What a program prints about this server.
async fn prints(url: &str, language: &str, program: &str, token_file: Option<&Path>) -> Option<String> {
    let (mut command, _scripts) = command(language, program)?;
    command.env("OPENAI_BASE_URL", format!("{url}/v1"));
    match token_file {
        Some(file) => command.env_remove("OPENAI_API_KEY").env("TOKEN_FILE", file),
        None => command.env("OPENAI_API_KEY", "unused"),
    };
    Some(run(command).await.well())
}

async fn chat(language: &str) {
    let rig = Rig::start().await;
    rig.mock.script(Script::Words(2)).script(Script::Words(3));
    let Some(out) = prints(rig.url(), language, "chat", None).await else { return };
    assert!(out.contains("word0 word1"), "{out}");
    // Three words and a prompt of seven: the usage that was asked for.
    assert!(out.contains("10 tokens") || out.contains(r#""total_tokens":10"#), "{out}");
}

async fn tools(language: &str) {
    let rig = Rig::start().await;
    let call = json!({"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Oslo\"}"}});
    rig.mock
        .script(answer(&json!({"role": "assistant", "content": null, "tool_calls": [call]}), "tool_calls"));
    rig.mock.script(answer(&json!({"role": "assistant", "content": "Wear a coat."}), "stop"));
    let Some(out) = prints(rig.url(), language, "tools", None).await else { return };
    assert_eq!(out.trim(), "The model asks for the weather in Oslo\nWear a coat.");
    let second: serde_json::Value = serde_json::from_slice(&rig.mock.requests()[1].body).unwrap();
    assert_eq!(second["messages"][2], json!({"role": "tool", "tool_call_id": "call_1", "content": "-3"}));
}

/// Against the built-in backend, which a newcomer meets first.
async fn embeddings(language: &str) {
    let (place, quick) = (tempfile::tempdir().unwrap(), root().join("examples/quickstart.yaml"));
    let file = place.path().join("service.yaml");
    std::fs::write(&file, std::fs::read_to_string(quick).unwrap() + "  logging: {format: json}\n").unwrap();
    let server = Process::local(&file, &[]).await;
    let Some(out) = prints(&server.url, language, "embeddings", None).await else { return };
    assert_eq!(out.trim(), "A cat sleeps sixteen hours a day\n256 dimensions, 27 tokens");
}

async fn responses(language: &str) {
    let rig = Rig::start().await;
    rig.mock.script(Script::Words(2)).script(Script::Words(3));
    let Some(out) = prints(rig.url(), language, "responses", None).await else { return };
    let said = "word0 word1 (9 tokens)\nword0 word1 word2 (10 tokens)\n3 items led to it";
    assert_eq!(out.trim(), said);
    let second: serde_json::Value = serde_json::from_slice(&rig.mock.requests()[1].body).unwrap();
    assert_eq!(second["messages"][0]["content"], "My name is Ada", "the server remembers");
    assert_eq!(rig.succeeded("DELETE", "/v1/responses/{id}").await, 2, "both are erased");
}

async fn simple(language: &str) {
    let rig = Rig::start().await;
    rig.mock.script(Script::Words(2)).script(Script::Words(3));
    let Some(out) = prints(rig.url(), language, "simple", None).await else { return };
    for part in ["word0 word1 (9 tokens", "word0 word1 word2\n", "4 messages, 19 tokens"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let second: serde_json::Value = serde_json::from_slice(&rig.mock.requests()[1].body).unwrap();
    assert_eq!(second["messages"][0]["content"], "My name is Ada", "the server remembers");
}

/// The backend is away for a moment, which is waited for; a mistake is not tried again.
async fn errors(language: &str) {
    let rig = Rig::start().await;
    let slow_down = r#"{"error":{"message":"slow down","type":"requests","code":"rate_limit_exceeded"}}"#;
    rig.mock.script(Script::Status(429, vec![("retry-after", "1".to_owned())], slow_down.to_owned()));
    rig.mock.script(Script::Words(2));
    let Some(out) = prints(rig.url(), language, "errors", None).await else { return };
    assert!(out.contains("word0 word1"), "{out}");
    let wrong = out.lines().last().unwrap();
    assert!(wrong.contains("must be"), "the mistake is named: {out}");
    assert_eq!((rig.mock.count(), rig.answered(400).await), (2, 1));
}

/// Against a server that lets in nobody but this ServiceAccount.
async fn keyless(language: &str) {
    let (server, token) = crate::callers::keyless("shop", "web").await;
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("token");
    std::fs::write(&file, token + "\n").unwrap();
    let Some(out) = prints(&server.url, language, "keyless", Some(&file)).await else { return };
    assert!(out.contains("Who am I?"), "the echo of the question: {out}");
}

macro_rules! in_each_language {
    ($($program:ident),*) => {$(
        mod $program {
            #[tokio::test]
            async fn curl() {
                super::$program("curl").await;
            }

            #[tokio::test]
            async fn node() {
                super::$program("node").await;
            }

            #[tokio::test]
            async fn python() {
                super::$program("python").await;
            }
        }
    )*};
}

in_each_language!(chat, embeddings, errors, keyless, responses, simple, tools);

/// The pod of `keyless.yaml` has its token where the programs and the docs look for it. On a real API server it is applied by
/// the tests of the operator.
#[test]
fn the_token_of_the_pod_is_where_the_programs_look_for_it() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let pod: serde_json::Value = serde_saphyr::from_str(&read("examples/clients/keyless.yaml")).unwrap();
    let mount = pod["spec"]["containers"][0]["volumeMounts"][0]["mountPath"].as_str().unwrap();
    let source = &pod["spec"]["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"];
    let file = format!("{mount}/{}", source["path"].as_str().unwrap());
    for (language, extension) in LANGUAGES {
        let program = read(&format!("examples/clients/{language}/keyless.{extension}"));
        assert!(program.contains(&file), "{language}: {file} in {program}");
    }
    let docs = read("docs/callers.md");
    assert!(
        docs.contains(&file) && docs.contains(&format!("mountPath: {mount},")),
        "{file} in docs/callers.md"
    );
    let audience = source["audience"].as_str().unwrap();
    assert!(docs.contains(&format!("audience: {audience},")), "{audience} in docs/callers.md");
}

#[test]
fn every_program_is_run() {
    for (language, extension) in LANGUAGES {
        let directory = root().join("examples/clients").join(language);
        let mut there: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        there.sort();
        assert_eq!(there, PROGRAMS.map(|program| format!("{program}.{extension}")));
    }
}
