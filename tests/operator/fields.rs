//! Every field of a ChatService changes something: in a child, or in what a server is told. A field without an effect here does
//! not pass, so whoever adds one says where it shows.

use std::collections::BTreeSet;

use chatservice::controller::{Defaults, render};
use chatservice::crd::custom_resource_definition;
use serde_json::{Value, json};

/// Fields that hold a type of Kubernetes: what is in them is handed on as it is, so one effect shows for all of it.
const HANDED_ON: &[&str] = &[
    "spec.autoscaling.metrics",
    "spec.autoscaling.behavior",
    "spec.pod.affinity",
    "spec.pod.tolerations",
    "spec.pod.topologySpreadConstraints",
];
/// The same, wherever it is.
const SELECTORS: &[&str] = &["namespaceSelector", "podSelector"];

/// The table.
const EFFECTS: &str = include_str!("fields.yaml");

/// What one field changes.
#[derive(serde::Deserialize)]
struct Effect {
    field: String,
    /// What is said beside a model and a backend.
    spec: Value,
    /// The kind of the child where it shows; `config` for what the servers read.
    #[serde(rename = "in")]
    kind: String,
    /// The JSON pointer in it.
    at: String,
    /// What is there.
    is: Value,
}

/// The paths of the fields that hold a value.
fn leaves(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    let name = path.rsplit('.').next().unwrap_or_default();
    let handed_on = HANDED_ON.contains(&path) || SELECTORS.contains(&name);
    let (fields, items) = (&schema["properties"], &schema["items"]["properties"]);
    match (handed_on, fields.as_object(), items.is_object()) {
        (false, Some(fields), _) => {
            for (name, field) in fields {
                leaves(field, &format!("{path}.{name}"), found);
            }
        }
        (false, None, true) => leaves(&schema["items"], &format!("{path}[]"), found),
        _ => {
            found.insert(path.to_owned());
        }
    }
}

/// The place in what is made of a spec; None where there is no such child or no such member, or the spec is refused.
fn shown(spec: &Value, kind: &str, pointer: &str) -> Result<Option<Value>, String> {
    let cs = json!({
        "apiVersion": "chatservice.dev/v1alpha1", "kind": "ChatService",
        "metadata": { "name": "demo", "namespace": "chat" }, "spec": spec,
    });
    let cs = serde_json::from_value(cs).map_err(|error| error.to_string())?;
    let defaults =
        Defaults { server_image: "i:1".to_owned(), allowed_images: vec!["*".to_owned()], operator: None };
    let children = render(&cs, &defaults).map_err(|problems| format!("{problems:?}"))?;
    let config = children.iter().find_map(|child| child["data"]["config.json"].as_str());
    let config: Value = serde_json::from_str(config.unwrap()).unwrap();
    let child = match kind {
        "config" => Some(&config),
        kind => children.iter().find(|child| child["kind"] == kind),
    };
    Ok(child.and_then(|child| child.pointer(pointer)).cloned())
}

/// Takes a field out of a spec, in every item where it is one of a list's; whether it was there.
fn take(spec: &mut Value, path: &[&str]) -> bool {
    let [first, rest @ ..] = path else { return false };
    if let Some(list) = first.strip_suffix("[]") {
        let items = spec[list].as_array_mut().map(|items| items.iter_mut());
        let mut found = false;
        for item in items.into_iter().flatten() {
            found |= take(item, rest);
        }
        return found;
    }
    if rest.is_empty() {
        return spec.as_object_mut().is_some_and(|fields| fields.remove(*first).is_some());
    }
    spec.get_mut(*first).is_some_and(|field| take(field, rest))
}

#[test]
fn every_field_changes_something() {
    let mut crd = custom_resource_definition();
    let schema = crd.spec.versions.remove(0).schema.unwrap().open_api_v3_schema.unwrap();
    let schema = serde_json::to_value(schema).unwrap();
    let mut fields = BTreeSet::new();
    leaves(&schema["properties"]["spec"], "spec", &mut fields);
    let effects: Vec<Effect> = serde_saphyr::from_str(EFFECTS).unwrap();
    let mut wrong = Vec::new();
    for Effect { field, spec, kind, at, is } in &effects {
        let base = json!({ "model": "m", "backend": { "echo": {} } });
        let mut with = base.clone();
        for (name, given) in spec.as_object().unwrap() {
            with[name] = given.clone();
        }
        let path: Vec<&str> = field.split('.').skip(1).collect();
        let mut without = with.clone();
        if !take(&mut without, &path) {
            wrong.push(format!("{field}: is not in {spec}"));
        }
        let there = shown(&with, kind, at);
        if there.as_ref() != Ok(&Some(is.clone())) {
            wrong.push(format!("{field}: {kind} {at} is {there:?} and not {is}"));
        }
        // One that cannot be left out is compared with a spec that says as little as can be.
        let other = shown(&without, kind, at).or_else(|_| shown(&base, kind, at));
        if other == there && field != "spec.backend.echo" {
            wrong.push(format!("{field}: without it {kind} {at} is the same"));
        }
    }
    let shown: BTreeSet<String> = effects.iter().map(|effect| effect.field.clone()).collect();
    wrong.extend(fields.difference(&shown).map(|field| {
        format!(
            "{field}: has no effect here. Add a row to tests/operator/fields.yaml that says what it changes"
        )
    }));
    wrong.extend(shown.difference(&fields).map(|field| format!("{field}: is no field")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
