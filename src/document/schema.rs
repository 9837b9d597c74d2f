//! The structural schema of the CRD, checked as strictly as the API server does for `kubectl apply`. In: a document.
//! Out: what does not fit, in sentences that say what to write.

use jsonschema::error::ValidationErrorKind as Kind;
use serde_json::{Map, Value, json};

use super::yaml::Part;
use super::{Issue, dotted, join};
use crate::constants::{GROUP, KIND, VERSION};
use crate::crd::custom_resource_definition;

/// The schema of the CRD's only version, as the API server has it.
pub(super) fn of_crd() -> Value {
    let mut crd = custom_resource_definition();
    let version = crd.spec.versions.pop().and_then(|version| version.schema);
    let schema = version.and_then(|validation| validation.open_api_v3_schema);
    serde_json::to_value(schema).unwrap_or_default()
}

/// Without the nulls that the API server drops before it looks: those of fields that may not be null, which are all of
/// ours. `image:` with nothing behind it is the same as no image.
pub(super) fn without_nulls(schema: &Value, value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let child = |name: &str| at_property(schema, name);
            let kept = fields.iter().filter(|(name, value)| !value.is_null() || child(name).is_null());
            Value::Object(
                kept.map(|(name, value)| (name.clone(), without_nulls(child(name), value))).collect(),
            )
        }
        Value::Array(items) => items.iter().map(|item| without_nulls(&schema["items"], item)).collect(),
        other => other.clone(),
    }
}

/// What in `document` does not fit `schema`.
pub(super) fn check(schema: &Value, document: &Value) -> Vec<Issue> {
    let complete = with_envelope(schema);
    let mut strict = complete.clone();
    close(&mut strict);
    match jsonschema::validator_for(&strict) {
        Ok(validator) => {
            let mut found: Vec<Issue> = validator
                .iter_errors(document)
                .flat_map(|error| issues(&complete, document, &error))
                .collect();
            found.dedup();
            found
        }
        Err(error) => {
            let message = format!("the schema of {KIND} cannot be used: {error}");
            vec![Issue { pointer: String::new(), part: Part::Value, message }]
        }
    }
}

/// Adds what every object has and no CRD says: apiVersion, kind, metadata.
fn with_envelope(schema: &Value) -> Value {
    let mut schema = schema.clone();
    let text = json!({ "type": "string" });
    let texts = json!({ "type": "object", "additionalProperties": text });
    let mut metadata = json!({
        "name": { "type": "string", "description": "The name of the ChatService, such as demo." },
        "namespace": text, "generateName": text, "labels": texts, "annotations": texts,
    });
    // What `kubectl get -o yaml` adds. The API server owns these: any value is read and none matters here.
    for owned in [
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    ] {
        metadata[owned] = json!({ "x-kubernetes-preserve-unknown-fields": true });
    }
    let properties = &mut schema["properties"];
    properties["apiVersion"] = json!({ "type": "string", "enum": [format!("{GROUP}/{VERSION}")],
        "description": format!("Write apiVersion: {GROUP}/{VERSION}.") });
    properties["kind"] = json!({ "type": "string", "enum": [KIND],
        "description": format!("Write kind: {KIND}.") });
    properties["metadata"] = json!({ "type": "object", "required": ["name"], "properties": metadata,
        "description": "Write metadata: {name: demo}." });
    schema["required"] = json!(["apiVersion", "kind", "metadata", "spec"]);
    schema
}

/// Refuses unknown fields, and says in JSON Schema's words what Kubernetes says in its own.
fn close(schema: &mut Value) {
    let Value::Object(node) = schema else { return };
    if node.remove("x-kubernetes-int-or-string").is_some() {
        node.insert("type".to_owned(), json!(["integer", "string"]));
    }
    let open = node.contains_key("additionalProperties")
        || node.contains_key("x-kubernetes-preserve-unknown-fields")
        || node.get("type") != Some(&json!("object"));
    if !open {
        node.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    for child in
        node.get_mut("properties").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut)
    {
        close(child);
    }
    for key in ["items", "additionalProperties"] {
        node.get_mut(key).into_iter().for_each(close);
    }
}

fn issues(schema: &Value, document: &Value, error: &jsonschema::ValidationError<'_>) -> Vec<Issue> {
    let pointer = error.instance_path().as_str();
    let value = document.pointer(pointer).unwrap_or(&Value::Null);
    let node = at(schema, pointer);
    let here = |message: String| vec![Issue { pointer: pointer.to_owned(), part: Part::Value, message }];
    match error.kind() {
        Kind::AdditionalProperties { unexpected } => {
            unexpected.iter().map(|name| unknown_at(schema, node, pointer, name)).collect()
        }
        // The same, where nothing at all is allowed.
        Kind::FalseSchema => {
            let fields = value.as_object().into_iter().flat_map(Map::keys);
            fields.map(|name| unknown_at(schema, node, pointer, name)).collect()
        }
        Kind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            let about = description(&node["properties"][name]);
            let message = format!("is required. {about}");
            vec![Issue { pointer: join(pointer, name), part: Part::Key, message }]
        }
        Kind::Type { .. } => here(wrong_type(node, value)),
        Kind::Enum { .. } => here(not_one_of(node, value)),
        Kind::Minimum { .. } | Kind::Maximum { .. } => here(out_of_range(node, value)),
        Kind::MaxLength { limit } => {
            let length = value.as_str().map_or(0, |text| text.chars().count());
            here(format!("must have at most {limit} characters, not {length}"))
        }
        Kind::MinItems { .. } => here("must not be empty: leave it out instead".to_owned()),
        Kind::MaxItems { limit } | Kind::MaxProperties { limit } => {
            here(format!("must have at most {limit} entries"))
        }
        _ => here(error.to_string()),
    }
}

/// The schema of the field at a JSON pointer; null where there is none.
fn at<'a>(schema: &'a Value, pointer: &str) -> &'a Value {
    pointer.split('/').skip(1).fold(schema, |node, segment| match &node["items"] {
        Value::Null => at_property(node, &segment.replace("~1", "/").replace("~0", "~")),
        items => items,
    })
}

/// The schema of a field of an object; null where there is none.
fn at_property<'a>(node: &'a Value, name: &str) -> &'a Value {
    match &node["properties"][name] {
        Value::Null => &node["additionalProperties"],
        property => property,
    }
}

fn description(node: &Value) -> String {
    node["description"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn unknown_at(schema: &Value, node: &Value, pointer: &str, name: &str) -> Issue {
    Issue { pointer: join(pointer, name), part: Part::Key, message: unknown(schema, node, name) }
}

fn unknown(schema: &Value, node: &Value, name: &str) -> String {
    let allowed: Vec<&str> = names(node).collect();
    let hint = if let Some(near) = nearest(name, &allowed) {
        format!(", did you mean {near}?")
    } else if let Some(home) = home(schema, "", name) {
        format!(", it belongs in {home}.")
    } else {
        ".".to_owned()
    };
    if allowed.is_empty() {
        format!("unknown field{hint} Nothing is allowed here: write {{}}")
    } else {
        format!("unknown field{hint} Allowed here: {}", allowed.join(", "))
    }
}

fn names(node: &Value) -> impl Iterator<Item = &str> {
    node["properties"].as_object().into_iter().flat_map(Map::keys).map(String::as_str)
}

/// The field of the spec that has a field of this name.
fn home(node: &Value, pointer: &str, name: &str) -> Option<String> {
    if pointer.starts_with("/spec") && names(node).any(|known| known == name) {
        return Some(dotted(pointer));
    }
    let properties = node["properties"].as_object()?;
    properties.iter().find_map(|(key, child)| {
        let below = join(pointer, key);
        below.starts_with("/spec").then(|| home(child, &below, name)).flatten()
    })
}

fn wrong_type(node: &Value, value: &Value) -> String {
    let want = match node["type"].as_str() {
        Some("string") => "a string",
        Some("integer") => "a whole number",
        Some("number") => "a number",
        Some("boolean") => "true or false",
        Some("array") => "a list",
        Some("object") if names(node).next().is_none() && node["additionalProperties"].is_null() => {
            "an empty mapping, {}"
        }
        Some("object") => "a mapping of fields",
        _ => "a whole number or a string",
    };
    match (value, node["type"].as_str()) {
        (Value::Number(number), Some("string")) => {
            format!("must be a string, not a number: put it in quotes, \"{number}\"")
        }
        (Value::Bool(_), Some("string")) => {
            "must be a string, not true or false (which on, off, yes and no also mean): put it in quotes"
                .to_owned()
        }
        (Value::String(text), Some("integer" | "number")) if text.parse::<f64>().is_ok() => {
            format!("must be {want}, not a string: write {text} without quotes")
        }
        (Value::Number(number), Some("integer")) => format!("must be {want}, not {number}"),
        _ => format!("must be {want}, not {}", kind_of(value)),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

fn not_one_of(node: &Value, value: &Value) -> String {
    let allowed: Vec<&str> =
        node["enum"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let given = value.as_str().unwrap_or_default();
    let hint = nearest(given, &allowed).map(|near| format!(": did you mean {near}?")).unwrap_or_default();
    let one_of = if allowed.len() == 1 { "" } else { "one of " };
    format!("must be {one_of}{}{hint}", allowed.join(", "))
}

fn out_of_range(node: &Value, value: &Value) -> String {
    match (node["minimum"].as_f64(), node["maximum"].as_f64()) {
        (Some(min), Some(max)) => format!("must be from {min} to {max}, not {value}"),
        (Some(min), None) => format!("must be at least {min}, not {value}"),
        (None, max) => format!("must be at most {}, not {value}", max.unwrap_or_default()),
    }
}

/// The name that was most likely meant: equal but for case, or at most a third of its letters away.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let distance = |candidate: &str| edits(&lower, &candidate.to_lowercase());
    let best = known.iter().min_by_key(|candidate| distance(candidate))?;
    (distance(best) <= (best.len() / 3).min(3)).then_some(*best)
}

/// Letters to add, drop, change or swap with their neighbour (Damerau and Levenshtein, neighbours swapped once).
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut next = vec![i + 1];
        for j in 0..b.len() {
            let mut cost = (row[j] + usize::from(a[i] != b[j])).min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                cost = cost.min(before[j - 1] + 1);
            }
            next.push(cost);
        }
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typos_find_the_name_that_was_meant() {
        let known = ["rateLimits", "baseURL", "model", "image", "redis"];
        for (typo, meant) in [
            ("rateLimit", Some("rateLimits")),
            ("ratelimits", Some("rateLimits")),
            ("baseUrl", Some("baseURL")),
            ("modell", Some("model")),
            ("mdoel", Some("model")),
            ("apiKey", None),
            ("", None),
        ] {
            assert_eq!(nearest(typo, &known), meant, "{typo}");
        }
    }

    #[test]
    fn a_name_that_belongs_elsewhere_is_found() {
        let schema = of_crd();
        assert_eq!(home(&schema, "", "burst").as_deref(), Some("spec.rateLimits"));
        assert_eq!(home(&schema, "", "baseURL").as_deref(), Some("spec.backend.openai"));
        assert_eq!(home(&schema, "", "observedGeneration"), None);
    }
}
