//! The operator's chart, rendered by the real Helm without a cluster.

#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::BTreeSet;

use chatservice::cli::{Cli, Command, ControllerArgs};
use chatservice::constants::{env, path, port};
use chatservice::controller::rbac::{OWN_RULES, RULES, Rule};
use chatservice::crd::{LogFormat, LogLevel};
use clap::Parser;
use serde_json::{Value, json};

mod helm;

use helm::{CHART, REPOSITORY, chart_file, of_kind, the};

const DEFAULTS: &[&str] = &["--set", REPOSITORY];
const TWO_NAMESPACES: &[&str] =
    &["--set", REPOSITORY, "--set", "watchNamespaces={chat,shop}", "--set", "allowedImages={a/b:*,a/c:*}"];

/// Every single permission that rules give: group, resource, verb.
type Permissions = BTreeSet<(String, String, String)>;

fn permissions_of(role: &Value) -> Permissions {
    let strings = |value: &Value| -> Vec<String> { serde_json::from_value(value.clone()).unwrap() };
    let mut permissions = Permissions::new();
    for rule in role["rules"].as_array().unwrap() {
        let members: Vec<&str> = rule.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members, ["apiGroups", "resources", "verbs"], "{rule}");
        for group in strings(&rule["apiGroups"]) {
            for resource in strings(&rule["resources"]) {
                for verb in strings(&rule["verbs"]) {
                    permissions.insert((group.clone(), resource.clone(), verb));
                }
            }
        }
    }
    permissions
}

fn permissions_needed() -> Permissions {
    permissions_in(RULES)
}

fn permissions_in(rules: &[Rule]) -> Permissions {
    let mut permissions = Permissions::new();
    for rule in rules {
        for resource in rule.resources {
            for verb in rule.verbs {
                permissions.insert((rule.group.into(), (*resource).into(), (*verb).into()));
            }
        }
    }
    permissions
}

/// The Roles or RoleBindings of the watched namespaces: all but the Lease's.
fn roles<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    let lease = |object: &&Value| !object["metadata"]["name"].as_str().unwrap().ends_with("-lease");
    of_kind(objects, kind).into_iter().filter(lease).collect()
}

#[test]
fn the_lease_alone_may_be_kept_and_only_in_the_operators_own_namespace() {
    for values in [DEFAULTS, TWO_NAMESPACES] {
        let objects = helm::objects(values);
        let find = |kind: &str| {
            let found = of_kind(&objects, kind);
            let lease = |object: &&Value| object["metadata"]["name"].as_str().unwrap().ends_with("-lease");
            found.into_iter().find(lease).unwrap()
        };
        let (role, binding) = (find("Role"), find("RoleBinding"));
        assert_eq!(role["metadata"]["namespace"], "system");
        assert_eq!(binding["metadata"]["namespace"], "system");
        assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
        let mut given = Permissions::new();
        for rule in role["rules"].as_array().unwrap() {
            let verbs: Vec<String> = serde_json::from_value(rule["verbs"].clone()).unwrap();
            // A name cannot be asked for when the object is made.
            let name =
                if verbs == ["create"] { Value::Null } else { json!([arguments(&objects).lease_name]) };
            assert_eq!(rule["resourceNames"], name);
            for verb in verbs {
                let text = |value: &Value| value[0].as_str().unwrap().to_owned();
                given.insert((text(&rule["apiGroups"]), text(&rule["resources"]), verb));
            }
        }
        assert_eq!(given, permissions_in(OWN_RULES));
    }
}

fn container(objects: &[Value]) -> &Value {
    let containers = &the(objects, "Deployment")["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers.as_array().unwrap().len(), 1);
    &containers[0]
}

#[test]
fn cluster_role_holds_exactly_what_the_operator_needs() {
    let objects = helm::objects(DEFAULTS);
    assert_eq!(permissions_of(the(&objects, "ClusterRole")), permissions_needed());
    assert!(roles(&objects, "Role").is_empty());

    let binding = the(&objects, "ClusterRoleBinding");
    assert_eq!(binding["roleRef"]["name"], the(&objects, "ClusterRole")["metadata"]["name"]);
    let account = the(&objects, "ServiceAccount");
    assert_eq!(
        binding["subjects"],
        json!([{"kind": "ServiceAccount", "name": account["metadata"]["name"], "namespace": "system"}])
    );
}

#[test]
fn watched_namespaces_get_a_role_each_and_no_cluster_role() {
    let objects = helm::objects(TWO_NAMESPACES);
    assert!(
        of_kind(&objects, "ClusterRole").is_empty() && of_kind(&objects, "ClusterRoleBinding").is_empty()
    );
    let (bindings, roles) = (roles(&objects, "RoleBinding"), roles(&objects, "Role"));
    for (role, namespace) in roles.iter().zip(["chat", "shop"]) {
        assert_eq!(role["metadata"]["namespace"], namespace);
        assert_eq!(permissions_of(role), permissions_needed());
    }
    for (binding, namespace) in bindings.iter().zip(["chat", "shop"]) {
        assert_eq!(binding["metadata"]["namespace"], namespace);
        assert_eq!(binding["roleRef"]["kind"], "Role");
        assert_eq!(binding["subjects"][0]["namespace"], "system");
    }
    assert_eq!((roles.len(), bindings.len()), (2, 2));
}

#[test]
fn no_roles_are_made_when_somebody_else_makes_them() {
    let objects = helm::objects(&[DEFAULTS, &["--set", "rbac.create=false"]].concat());
    for kind in ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"] {
        assert!(of_kind(&objects, kind).is_empty(), "{kind}");
    }
}

#[test]
fn crd_of_the_chart_is_the_committed_one() {
    let committed =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/crds/chatservices.yaml")).unwrap();
    assert!(
        committed == chart_file("files/chatservices.yaml"),
        "crds/chatservices.yaml and the chart's files/chatservices.yaml differ. Fix: make crd"
    );
    let committed = helm::parse(&committed).remove(0);

    let mut rendered = the(&helm::objects(DEFAULTS), "CustomResourceDefinition").clone();
    let metadata = rendered["metadata"].as_object_mut().unwrap();
    assert_eq!(metadata.remove("annotations"), Some(json!({"helm.sh/resource-policy": "keep"})));
    assert!(metadata.remove("labels").is_some());
    assert_eq!(rendered, committed);
}

#[test]
fn crd_is_kept_or_left_out_on_request() {
    let removed = helm::objects(&[DEFAULTS, &["--set", "crds.keep=false"]].concat());
    assert!(the(&removed, "CustomResourceDefinition")["metadata"].get("annotations").is_none());
    let absent = helm::objects(&[DEFAULTS, &["--set", "crds.enabled=false"]].concat());
    assert!(of_kind(&absent, "CustomResourceDefinition").is_empty());
}

#[test]
fn servers_run_the_image_of_the_operator() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let version = env!("CARGO_PKG_VERSION");
    for (values, image) in [
        (vec![], format!("localhost/chatservice:{version}")),
        (vec!["image.tag=1.2.3".to_owned()], "localhost/chatservice:1.2.3".to_owned()),
        (
            vec!["image.registry=r.example.com:5000".to_owned()],
            format!("r.example.com:5000/localhost/chatservice:{version}"),
        ),
        (
            vec!["image.tag=1.2.3".to_owned(), format!("image.digest={digest}")],
            format!("localhost/chatservice@{digest}"),
        ),
    ] {
        let mut args = DEFAULTS.to_vec();
        for value in &values {
            args.extend(["--set", value]);
        }
        let objects = helm::objects(&args);
        let container = container(&objects);
        assert_eq!(container["image"], image);
        let variables = container["env"].as_array().unwrap();
        let server = variables.iter().find(|variable| variable["name"] == env::SERVER_IMAGE).unwrap();
        assert_eq!(server["value"], image);
    }
}

#[test]
fn the_operator_knows_its_pod() {
    let objects = helm::objects(DEFAULTS);
    let field = |name: &str| {
        let variables = container(&objects)["env"].as_array().unwrap();
        let variable = variables.iter().find(|variable| variable["name"] == name).unwrap();
        variable["valueFrom"]["fieldRef"]["fieldPath"].clone()
    };
    assert_eq!(field(env::POD_NAME), "metadata.name");
    assert_eq!(field(env::POD_NAMESPACE), "metadata.namespace");
}

/// The operator's arguments as it reads them itself.
fn arguments(objects: &[Value]) -> ControllerArgs {
    let args: Vec<String> = serde_json::from_value(container(objects)["args"].clone()).unwrap();
    let line = std::iter::once("chatservice".to_owned()).chain(args);
    match Cli::try_parse_from(line).unwrap().command {
        Command::Controller(args) => args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn operator_is_started_with_arguments_that_it_understands() {
    let defaults = arguments(&helm::objects(DEFAULTS));
    assert!(defaults.watch_namespaces.is_empty() && defaults.allowed_images.is_empty());
    assert_eq!(defaults.admin_address.port(), port::ADMIN);

    let logging = ["--set", "logging.level=debug", "--set", "logging.format=text"];
    let chosen = arguments(&helm::objects(&[TWO_NAMESPACES, &logging].concat()));
    assert_eq!(chosen.watch_namespaces, ["chat", "shop"]);
    assert_eq!(chosen.allowed_images, ["a/b:*", "a/c:*"]);
    assert_eq!((chosen.log_level, chosen.log_format), (LogLevel::Debug, LogFormat::Text));
}

#[test]
fn probes_ask_the_admin_listener() {
    let objects = helm::objects(DEFAULTS);
    let container = container(&objects);
    assert_eq!(
        container["ports"],
        json!([{"name": port::ADMIN_NAME, "containerPort": port::ADMIN, "protocol": "TCP"}])
    );
    for (probe, path) in [("livenessProbe", path::LIVEZ), ("readinessProbe", path::READYZ)] {
        assert_eq!(container[probe]["httpGet"], json!({"path": path, "port": port::ADMIN_NAME}));
    }
}

#[test]
fn pod_fits_the_restricted_security_standard() {
    let objects = helm::objects(DEFAULTS);
    let pod = &the(&objects, "Deployment")["spec"]["template"]["spec"];
    assert_eq!(
        pod["securityContext"],
        json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}})
    );
    assert_eq!(
        container(&objects)["securityContext"],
        json!({
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        })
    );
    for forbidden in ["hostNetwork", "hostPID", "hostIPC", "volumes"] {
        assert!(pod.get(forbidden).is_none(), "{forbidden}");
    }
}

#[test]
fn selector_is_part_of_the_pods_labels() {
    let objects = helm::objects(DEFAULTS);
    let spec = &the(&objects, "Deployment")["spec"];
    let labels = spec["template"]["metadata"]["labels"].as_object().unwrap();
    for (key, value) in spec["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(labels.get(key), Some(value), "{key}");
    }
}

#[test]
fn versions_are_those_of_the_package() {
    let chart = helm::parse(&chart_file("Chart.yaml")).remove(0);
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn mistakes_in_values_are_refused_with_a_sentence() {
    for (value, sentence) in [
        ("image.tag=x", "image.repository is needed: the name under which the image was pushed"),
        ("watchNamespace=chat", "additional properties 'watchNamespace' not allowed"),
        ("image.repo=x", "additional properties 'repo' not allowed"),
        ("image.digest=abc", "does not match pattern"),
        ("image.tag=latest", "'not' failed"),
        ("watchNamespaces={Chat}", "does not match pattern"),
        ("image.pullPolicy=Sometimes", "value must be one of"),
    ] {
        let said = helm::refusal(&["--set", value]);
        assert!(said.contains(sentence), "{value}: {said}");
    }
    let said = helm::refusal(&[DEFAULTS, &["--set", "serviceAccount.create=false"]].concat());
    assert!(said.contains("serviceAccount.name is needed"), "{said}");
}

#[test]
fn two_renders_are_the_same_bytes() {
    assert_eq!(helm::render("test", TWO_NAMESPACES), helm::render("test", TWO_NAMESPACES));
}

#[test]
fn names_fit_when_the_release_has_the_longest_one() {
    let release = "r".repeat(53);
    for object in helm::parse(&helm::render(&release, TWO_NAMESPACES)) {
        let name = object["metadata"]["name"].as_str().unwrap();
        assert!(name.len() <= 63 && !name.ends_with('-'), "{name}");
        for (key, value) in object["metadata"]["labels"].as_object().unwrap() {
            assert!(value.as_str().unwrap().len() <= 63, "{key}: {value}");
        }
    }
}

#[test]
fn example_values_pass_the_linter() {
    let mut files = 0;
    for file in std::fs::read_dir(format!("{CHART}/ci")).unwrap() {
        let file = file.unwrap().path();
        let output = helm::helm(&["lint", "--strict", CHART, "--values", file.to_str().unwrap()]);
        assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stdout));
        files += 1;
    }
    assert!(files > 0);
}

/// The dotted names of all values; objects without fixed members count as one.
fn names(values: &Value, schema: &Value, prefix: &str, into: &mut BTreeSet<String>) {
    for (key, value) in values.as_object().unwrap() {
        let name = format!("{prefix}{key}");
        let described = &schema["properties"][key];
        assert!(described.is_object(), "{name} is missing from values.schema.json");
        if described["properties"].is_object() && name != "resources" {
            assert_eq!(
                described["additionalProperties"], false,
                "{name} is not closed in values.schema.json"
            );
            names(value, described, &format!("{name}."), into);
        } else {
            into.insert(name);
        }
    }
}

#[test]
fn every_value_is_in_the_schema_and_in_the_readme_and_is_used() {
    let values = helm::parse(&chart_file("values.yaml")).remove(0);
    let schema: Value = serde_json::from_str(&chart_file("values.schema.json")).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    let mut all = BTreeSet::new();
    names(&values, &schema, "", &mut all);

    let in_schema: BTreeSet<&str> =
        schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
    let in_values: BTreeSet<&str> = values.as_object().unwrap().keys().map(String::as_str).collect();
    let parents_may_set = BTreeSet::from(["enabled", "global"]);
    assert_eq!(in_schema, &in_values | &parents_may_set);

    let readme = chart_file("README.md");
    let templates: String = std::fs::read_dir(format!("{CHART}/templates"))
        .unwrap()
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    for name in all {
        assert!(readme.contains(&format!("`{name}`")), "{name} is missing from the chart's README");
        assert!(templates.contains(&format!(".Values.{name}")), "no template reads {name}");
    }
}
