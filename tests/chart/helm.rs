//! The real Helm, offline. In: values. Out: the objects that the chart renders, or what Helm says against it.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// The operator's chart.
pub const OPERATOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/chatservice-operator");
/// The chart of one ChatService and its Redis.
pub const SERVICE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/chatservice");
/// The one value that has no default.
pub const REPOSITORY: &str = "image.repository=localhost/chatservice";

/// A file of a chart.
pub fn chart_file(chart: &str, name: &str) -> String {
    let path = PathBuf::from(chart).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Helm from `PATH`, or where `make tools` puts it.
fn program() -> PathBuf {
    let built = || {
        let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
        let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
        cache.join("chatservice/cluster/bin/helm")
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("helm")).find(|file| file.is_file());
    let program = found.unwrap_or_else(built);
    assert!(program.is_file(), "no helm in PATH and none at {}: run `make tools`", program.display());
    program
}

/// `helm template` of a release `test` in namespace `system`, as text.
fn render(chart: &str, args: &[&str]) -> String {
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(program())
        .args(["template", "test", chart, "--namespace", "system"])
        .args(args)
        // Neither a user's settings nor a cluster.
        .envs(["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"].map(|name| (name, home.path())))
        .env("KUBECONFIG", home.path().join("none"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What the operator's chart renders.
pub fn objects(args: &[&str]) -> Vec<Value> {
    parse(&render(OPERATOR, args))
}

/// What the chart of a ChatService renders.
pub fn service(args: &[&str]) -> Vec<Value> {
    parse(&render(SERVICE, &[&["--set", REPOSITORY], args].concat()))
}

/// The documents of a YAML text that are not empty.
pub fn parse(yaml: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

/// The objects of a kind.
pub fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// The only object of a kind.
pub fn the<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let found = of_kind(objects, kind);
    assert_eq!(found.len(), 1, "{kind}: {found:#?}");
    found[0]
}
