//! Whether the cluster's CustomResourceDefinition has every field of this version. In: the schema that the API server
//! publishes under `/openapi/v3`, which every account may read. Out: the fields that it lacks, and the command that adds
//! them. An API server drops what its CRD does not know, without a word: settings would have no effect.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::Client;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::constants::{GROUP, KIND, VERSION};
use crate::crd::custom_resource_definition;

/// For one look.
const LOOK: Duration = Duration::from_secs(5);
/// Fields that are named; more than that say no more.
const NAMED: usize = 5;

/// What is known of the CRD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has every field of this version, and perhaps more.
    Current,
    /// It is not installed.
    Missing,
    /// It lacks these fields.
    Outdated(Vec<String>),
    /// It may not be read, so nothing is known.
    Hidden,
    /// The API server gave no usable answer.
    Unknown(String),
}

/// Asks the API server once.
pub async fn look(client: &Client) -> Verdict {
    let path = format!("/openapi/v3/apis/{GROUP}/{VERSION}");
    let Ok(request) = http::Request::get(path).body(Vec::new()) else {
        return Verdict::Unknown("the path of the schema is wrong".to_owned());
    };
    match tokio::time::timeout(LOOK, client.request::<Published>(request)).await {
        Ok(Ok(published)) => judge(&published),
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Verdict::Missing,
        Ok(Err(kube::Error::Api(status))) if status.is_forbidden() => Verdict::Hidden,
        Ok(Err(error)) => Verdict::Unknown(error.to_string()),
        Err(_) => Verdict::Unknown(format!("no answer within {} s", LOOK.as_secs())),
    }
}

/// What installs the CRD of this version, when `program` is what runs this program.
#[must_use]
pub fn fix(program: &str) -> String {
    format!("{program} crd | kubectl apply --server-side --force-conflicts -f -")
}

/// The fields by the names of the first few.
#[must_use]
pub fn named(fields: &[String]) -> String {
    let first = fields.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match fields.len().checked_sub(NAMED) {
        None | Some(0) => first,
        Some(more) => format!("{first} and {more} more"),
    }
}

/// The part of an OpenAPI document that is looked at.
#[derive(Debug, Deserialize)]
struct Published {
    components: Components,
}

#[derive(Debug, Deserialize)]
struct Components {
    schemas: BTreeMap<String, Node>,
}

/// The part of a schema that says which fields there are.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Node {
    properties: BTreeMap<String, Node>,
    items: Option<Box<Node>>,
    #[serde(deserialize_with = "of_values")]
    additional_properties: Option<Box<Node>>,
}

/// The schema of a map's values; `additionalProperties` may also say only whether there are any.
fn of_values<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<Node>>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    if !value.is_object() {
        return Ok(None);
    }
    serde_json::from_value(value).map(Some).map_err(D::Error::custom)
}

fn judge(published: &Published) -> Verdict {
    let name = format!("{}.{VERSION}.{KIND}", GROUP.rsplit('.').collect::<Vec<_>>().join("."));
    let Some(theirs) = published.components.schemas.get(&name) else { return Verdict::Missing };
    let mut lacks = Vec::new();
    compare(&ours(), theirs, "", &mut lacks);
    if lacks.is_empty() { Verdict::Current } else { Verdict::Outdated(lacks) }
}

/// The schema of this version.
fn ours() -> Node {
    let crd = custom_resource_definition();
    let schema = crd.spec.versions.into_iter().find_map(|version| version.schema?.open_api_v3_schema);
    let value = schema.and_then(|schema| serde_json::to_value(schema).ok()).unwrap_or_default();
    serde_json::from_value(value).unwrap_or_default()
}

/// Adds the paths of ours that theirs does not have; what is under a missing field is not named again.
fn compare(ours: &Node, theirs: &Node, path: &str, lacks: &mut Vec<String>) {
    for (name, node) in &ours.properties {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match theirs.properties.get(name) {
            Some(their) => compare(node, their, &path, lacks),
            None => lacks.push(path),
        }
    }
    if let (Some(ours), Some(theirs)) = (&ours.items, &theirs.items) {
        compare(ours, theirs, &format!("{path}[]"), lacks);
    }
    if let (Some(ours), Some(theirs)) = (&ours.additional_properties, &theirs.additional_properties) {
        compare(ours, theirs, &format!("{path}.*"), lacks);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn published(schema: &Value) -> Published {
        let name = "dev.chatservice.v1alpha1.ChatService";
        serde_json::from_value(json!({ "openapi": "3.0.0", "components": { "schemas": { name: schema } } }))
            .unwrap()
    }

    fn this_version() -> Value {
        let crd = serde_json::to_value(custom_resource_definition()).unwrap();
        crd.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap().clone()
    }

    #[test]
    fn the_same_schema_and_a_newer_one_are_current() {
        let mut schema = this_version();
        assert_eq!(judge(&published(&schema)), Verdict::Current);
        schema["properties"]["spec"]["properties"]["invented"] = json!({ "type": "string" });
        assert_eq!(judge(&published(&schema)), Verdict::Current);
    }

    #[test]
    fn what_an_older_schema_lacks_is_named_wherever_it_is() {
        let mut schema = this_version();
        for (parent, child) in [
            ("/properties/spec/properties", "cache"),
            ("/properties/spec/properties/models/items/properties", "fallbacks"),
            ("/properties/status/properties", "endpoint"),
        ] {
            schema.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(child).unwrap();
        }
        let expected = ["spec.cache", "spec.models[].fallbacks", "status.endpoint"].map(str::to_owned);
        assert_eq!(judge(&published(&schema)), Verdict::Outdated(expected.to_vec()));
        assert_eq!(
            judge(&published(&json!({}))),
            Verdict::Outdated(vec!["spec".to_owned(), "status".to_owned()])
        );
    }

    #[test]
    fn a_document_without_the_kind_means_that_it_is_missing() {
        let published: Published =
            serde_json::from_value(json!({ "components": { "schemas": {} } })).unwrap();
        assert_eq!(judge(&published), Verdict::Missing);
    }

    #[test]
    fn many_fields_are_named_in_part() {
        let fields: Vec<String> = (1..=7).map(|n| format!("f{n}")).collect();
        assert_eq!(named(&fields[..2]), "f1, f2");
        assert_eq!(named(&fields[..5]), "f1, f2, f3, f4, f5");
        assert_eq!(named(&fields), "f1, f2, f3, f4, f5 and 2 more");
    }
}
