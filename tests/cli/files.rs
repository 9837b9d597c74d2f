//! `validate` and `render`: files without a cluster.

use std::io::Write;
use std::process::Stdio;

use chatservice::controller::dereference::References;
use chatservice::controller::validate;
use chatservice::document;
use serde_json::Value;

use crate::invalid_specs::{INVALID, VALID};
use crate::{chatservice, examples, invalid_specs, run};

#[test]
fn every_case_of_the_table_is_refused_with_its_sentence_and_place() {
    for case in INVALID {
        let error = match document::load("f.yaml", &case.document()) {
            Ok(_) => panic!("{}: accepted", case.name),
            Err(error) => error.to_string(),
        };
        assert_eq!(error.lines().count(), 1, "{}: one problem, one line: {error}", case.name);
        assert!(error.contains(case.says), "{}: {error}", case.name);
        // A rule has one sentence, here and in the cluster.
        assert!(!case.says.ends_with(": ") || error.contains(case.api_server), "{}: {error}", case.name);
        let line = if case.says.starts_with("metadata") { "f.yaml:4:9: " } else { "f.yaml:5:" };
        assert!(error.starts_with(line), "{}: {error}", case.name);
    }
}

#[test]
fn every_valid_case_of_the_table_is_accepted() {
    for (object, spec) in VALID {
        let services = document::load("f.yaml", &invalid_specs::document(object, spec))
            .unwrap_or_else(|error| panic!("{spec}: {error}"));
        assert_eq!(services[0].metadata.name.as_deref(), Some(*object));
        validate::server_config(&services[0])
            .unwrap_or_else(|problems| panic!("the operator refuses {spec}: {problems:?}"));
    }
}

#[test]
fn what_a_rule_refuses_the_operator_refuses_too() {
    let mut accepted = Vec::new();
    // What the API server checks again in the Deployment is left to it.
    let left = |case: &&invalid_specs::InvalidSpec| !case.says.starts_with("spec.resources");
    for case in INVALID.iter().filter(|case| case.says.ends_with(": ")).filter(left) {
        let service =
            serde_saphyr::from_str(&case.document()).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let image = "registry.example.com/chatservice:0.1.0".to_owned();
        let defaults = validate::Defaults { server_image: image, allowed_images: vec![], operator: None };
        let field = case.says.trim_end_matches(": ");
        match validate::validate(&service, &References::default(), &defaults) {
            Err(problems) if problems.iter().any(|problem| problem.field == field) => {}
            said => accepted.push(format!("{}: {:?}", case.name, said.err())),
        }
    }
    assert_eq!(accepted, Vec::<String>::new());
}

#[test]
fn defaults_are_applied_as_the_api_server_does() {
    let text = invalid_specs::document("demo", "{model: m, backend: {openai: {}}}");
    let service = document::load("f.yaml", &text).expect("valid").remove(0);
    assert_eq!(service.spec.replicas, 1);
    assert_eq!(service.spec.backend.openai.expect("openai").base_url, "https://api.openai.com/v1");
    assert_eq!(service.status.expect("a default").observed_generation, Some(-1));
}

#[test]
fn validate_names_file_line_and_column_of_everything_that_is_wrong() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("bad.yaml");
    let text = "apiVersion: chatservice.dev/v1alpha1\nkind: ChatService\nmetadata:\n  name: demo\nspec:\n  \
                modle: echo-1\n  backend:\n    echo: {}\n  cache:\n    ttl: 1d\n";
    std::fs::write(&path, text).expect("written");
    let file = path.to_str().expect("text");

    let ran = run(&["validate", "-f", file, "-f", "examples/quickstart.yaml"]);
    assert_eq!(ran.code, Some(1));
    let lines: Vec<&str> = ran.err.lines().collect();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert!(lines[0].starts_with(&format!("{file}:5:1: spec.model: is required.")), "{}", lines[0]);
    assert!(
        lines[1].starts_with(&format!("{file}:6:3: spec.modle: unknown field, did you mean model?")),
        "{}",
        lines[1]
    );
    assert!(
        lines[2].starts_with(&format!("{file}:10:10: spec.cache.ttl: must be a duration")),
        "{}",
        lines[2]
    );
    assert_eq!(lines[3], "error: 1 of 2 files cannot be applied");
    assert_eq!(ran.out, "examples/quickstart.yaml: ChatService demo is valid\n");
}

#[test]
fn validate_reads_standard_input() {
    let mut child = chatservice()
        .args(["validate", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let text = "kind: ChatService\n";
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("it ends");
    let err = String::from_utf8(output.stderr).expect("text");
    assert!(
        err.contains("<stdin>:1:1: apiVersion: is required. Write apiVersion: chatservice.dev/v1alpha1."),
        "{err}"
    );
}

#[test]
fn objects_of_other_kinds_are_left_alone_but_not_all_of_them() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n";
    let both = format!("{secret}---\n{}", invalid_specs::document("demo", "{model: m, backend: {echo: {}}}"));
    assert_eq!(document::load("f.yaml", &both).expect("valid").len(), 1);
    let error = document::load("f.yaml", secret).expect_err("no ChatService").to_string();
    assert!(error.contains("begin it with apiVersion: chatservice.dev/v1alpha1"), "{error}");
}

#[test]
fn a_typo_in_kind_or_version_is_no_other_kind() {
    for (version, kind, says) in [
        ("chatservice.dev/v1alpha1", "ChatServce", "kind: must be ChatService"),
        ("chatservice.dev/v1", "ChatService", "apiVersion: must be chatservice.dev/v1alpha1"),
        ("chatservices.dev/v1alpha1", "ChatService", "apiVersion: must be chatservice.dev/v1alpha1"),
    ] {
        let text = format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{model: m, backend: {{echo: {{}}}}}}\n"
        );
        let error = document::load("f.yaml", &text).expect_err(says).to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn every_example_is_valid() {
    for file in examples() {
        let ran = run(&["validate", "-f", file.to_str().expect("text")]);
        assert_eq!(ran.code, Some(0), "{}", ran.err);
    }
}

#[test]
fn every_example_renders_to_all_its_objects() {
    for file in examples() {
        let file = file.to_str().expect("text");
        let name = document::read(file.as_ref()).expect("valid")[0].metadata.name.clone().expect("a name");
        let ran = run(&[
            "render",
            "-f",
            file,
            "--server-image",
            "registry.example.com/chatservice:9",
            "-n",
            "chat",
        ]);
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let objects: Vec<Value> = serde_saphyr::from_multiple(&ran.out).expect("YAML");
        let mut rendered: Vec<(String, String)> = objects
            .iter()
            .map(|object| {
                assert_eq!(object["metadata"]["namespace"], "chat");
                let text = |value: &Value| value.as_str().expect("text").to_owned();
                (text(&object["kind"]), text(&object["metadata"]["name"]))
            })
            .collect();
        // What a spec may ask for and need not.
        let optional = ["PodDisruptionBudget", "NetworkPolicy", "HorizontalPodAutoscaler"];
        let asked: Vec<String> = rendered
            .extract_if(.., |(kind, _)| optional.contains(&kind.as_str()))
            .map(|(kind, _)| kind)
            .collect();
        if file.ends_with("production.yaml") {
            assert_eq!(asked, ["NetworkPolicy", "PodDisruptionBudget", "HorizontalPodAutoscaler"]);
        }
        let expected = [
            ("ServiceAccount", name.clone()),
            ("ConfigMap", format!("{name}-config")),
            ("ConfigMap", format!("{name}-connection")),
            ("Service", name.clone()),
            ("Service", format!("{name}-admin")),
            ("Deployment", name.clone()),
        ];
        let expected = expected.map(|(kind, name)| (kind.to_owned(), name));
        assert_eq!(rendered, expected, "{file}");
        let deployment = objects.iter().find(|object| object["kind"] == "Deployment").expect("a Deployment");
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["image"], "registry.example.com/chatservice:9");
    }
}

#[test]
fn what_is_rendered_is_what_the_server_reads() {
    let ran = run(&["render", "-f", "examples/openai.yaml"]);
    let objects: Vec<Value> = serde_saphyr::from_multiple(&ran.out).expect("YAML");
    let config =
        objects.iter().find_map(|object| object["data"]["config.json"].as_str()).expect("a configuration");
    let parsed =
        chatservice::server::config_file::ConfigFile::parse(config, "config.json").expect("readable").config;
    assert_eq!(parsed.dynamic.model, "gpt-4o-mini");
    assert_eq!(parsed.fixed.credentials_secret.as_deref(), Some("openai"));
}

#[test]
fn render_shows_nothing_of_a_file_that_is_wrong() {
    let ran = run(&["render", "-f", "examples/quickstart.yaml", "-f", "Cargo.toml"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    assert!(ran.err.starts_with("Cargo.toml:"), "{}", ran.err);
}
