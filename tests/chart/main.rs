//! What the charts must share with the program: permissions, arguments, variables, ports, labels, versions. Rendered by the real
//! Helm without a cluster. What concerns the charts alone is in the Python files beside this one.

#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::BTreeSet;

use chatservice::cli::{Cli, Command, ControllerArgs};
use chatservice::constants::{GROUP, env, label, path, port, secret_key};
use chatservice::controller::rbac::{OWN_RULES, RULES, Rule};
use chatservice::crd::{LogFormat, LogLevel};
use clap::Parser;
use serde_json::{Value, json};

mod helm;

use helm::{REPOSITORY, chart_file, of_kind, the};

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
    let binding = the(&objects, "ClusterRoleBinding");
    let role = of_kind(&objects, "ClusterRole")
        .into_iter()
        .find(|role| role["metadata"]["name"] == binding["roleRef"]["name"])
        .unwrap();
    assert_eq!(permissions_of(role), permissions_needed());
    assert!(roles(&objects, "Role").is_empty());
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
fn people_get_chatservices_with_their_namespaces_and_the_operator_does_not() {
    let objects = helm::objects(DEFAULTS);
    for (role, writes) in [("view", false), ("edit", true), ("admin", true)] {
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{role}");
        let aggregated = |object: &&Value| object["metadata"]["labels"].get(&label).is_some();
        let found: Vec<_> = of_kind(&objects, "ClusterRole").into_iter().filter(aggregated).collect();
        assert_eq!(found.len(), 1, "{role}");
        let permissions = permissions_of(found[0]);
        assert!(permissions.iter().all(|(group, _, _)| group == GROUP), "{role}");
        let update = (GROUP.to_owned(), "chatservices".to_owned(), "update".to_owned());
        assert_eq!(permissions.contains(&update), writes, "{role}");
    }
    let without = helm::objects(&[DEFAULTS, &["--set", "rbac.aggregateClusterRoles=false"]].concat());
    assert_eq!(of_kind(&without, "ClusterRole").len(), 1);
}

#[test]
fn crd_of_the_chart_is_the_committed_one() {
    let committed =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/crds/chatservices.yaml")).unwrap();
    assert!(
        committed == chart_file(helm::OPERATOR, "files/chatservices.yaml"),
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
fn versions_are_those_of_the_package() {
    for chart in [helm::OPERATOR, helm::SERVICE] {
        let chart = helm::parse(&chart_file(chart, "Chart.yaml")).remove(0);
        assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
        assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    }
}

#[test]
fn pods_and_services_of_chat_servers_are_found_by_the_labels_that_they_have() {
    let objects = helm::objects(
        &[DEFAULTS, &["--set", "serviceMonitor.enabled=true,serviceMonitor.renderMode=alwaysRender"]]
            .concat(),
    );
    let servers = json!({label::NAME: label::NAME_VALUE, label::MANAGED_BY: label::MANAGED_BY_VALUE});
    let monitor = of_kind(&objects, "ServiceMonitor").remove(1);
    assert_eq!(monitor["spec"]["selector"]["matchLabels"], servers);
    assert_eq!(monitor["spec"]["endpoints"][0]["port"], port::ADMIN_NAME);
    assert_eq!(monitor["spec"]["endpoints"][0]["path"], path::METRICS);
    let egress = &the(&objects, "NetworkPolicy")["spec"]["egress"];
    assert_eq!(egress[2]["to"][0]["podSelector"]["matchLabels"], servers);
    assert_eq!(egress[2]["ports"], json!([{"port": port::ADMIN, "protocol": "TCP"}]));

    let objects =
        helm::service(&["--set", "serviceMonitor.enabled=true,serviceMonitor.renderMode=alwaysRender"]);
    let servers = json!({label::NAME: label::NAME_VALUE, label::INSTANCE: "test"});
    let peer = &the(&objects, "NetworkPolicy")["spec"]["ingress"][0]["from"][0];
    assert_eq!(peer["podSelector"]["matchLabels"], servers);
    let mut selector = the(&objects, "ServiceMonitor")["spec"]["selector"]["matchLabels"].clone();
    assert_eq!(
        selector.as_object_mut().unwrap().remove(label::MANAGED_BY),
        Some(json!(label::MANAGED_BY_VALUE))
    );
    assert_eq!(selector, servers);
}

#[test]
fn the_job_makes_the_secret_that_redis_and_the_servers_read() {
    let objects = helm::service(&[]);
    let job = &the(&objects, "Job")["spec"]["template"]["spec"]["containers"][0];
    let args: Vec<String> = serde_json::from_value(job["args"].clone()).unwrap();
    let line = std::iter::once("chatservice".to_owned()).chain(args);
    let Command::InitSecret(args) = Cli::try_parse_from(line).unwrap().command else { panic!("{job}") };
    assert_eq!(args.host, the(&objects, "Service")["metadata"]["name"]);
    let secret = chatservice::init_secret::new_secret(&args.name, &args.host).string_data.unwrap();
    let port = &the(&objects, "Service")["spec"]["ports"][0]["port"];
    assert_eq!(secret[secret_key::REDIS_PORT], port.to_string());

    let name = json!(args.name);
    assert_eq!(the(&objects, "ChatService")["spec"]["redis"]["secretRef"]["name"], name);
    let redis = &the(&objects, "StatefulSet")["spec"]["template"]["spec"];
    let users = &redis["volumes"][1]["secret"];
    assert_eq!(users["secretName"], name);
    assert_eq!(users["items"][0]["key"], secret_key::REDIS_USERS);
    let role = &the(&objects, "Role")["rules"];
    assert_eq!(
        *role,
        json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": [name], "verbs": ["get", "create", "patch"]}])
    );
    // The kubelet's pings are those of a user that is there.
    let ping: Vec<String> =
        serde_json::from_value(redis["containers"][0]["readinessProbe"]["exec"]["command"].clone()).unwrap();
    let user = &ping[ping.iter().position(|word| word == "--user").unwrap() + 1];
    assert!(secret[secret_key::REDIS_USERS].contains(&format!("user {user} on nopass ")));
}
