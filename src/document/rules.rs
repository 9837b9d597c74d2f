//! The CEL rules of the CRD, evaluated without an API server. In: the schema and a document. Out: the sentences of the
//! rules that it breaks.

use kube::core::cel::{ErrorKind, Validator};
use serde_json::Value;

use super::yaml::Part;
use super::{Issue, join};

/// What breaks a rule. A field that already has a problem in `structural`, in itself or below, is not judged: a rule
/// says nothing sensible about a value of the wrong type.
pub(super) fn check(schema: &Value, document: &Value, structural: &[Issue]) -> Vec<Issue> {
    let Err(errors) = Validator::new().validate(schema, document, None) else { return Vec::new() };
    let mut issues = Vec::new();
    for error in errors {
        let root = error.field_path.is_empty();
        let pointer = pointer(&error.field_path);
        if structural.iter().any(|issue| issue.pointer.starts_with(&pointer)) && !root {
            continue;
        }
        // The only rule at the root is about the name; without one there is a structural problem already.
        if root && document["metadata"]["name"].as_str().is_none() {
            continue;
        }
        let pointer = if root { "/metadata/name".to_owned() } else { pointer };
        let message = match error.kind {
            // The sentence of the root's rule names the field itself, because the API server cannot.
            ErrorKind::ValidationFailure => {
                error.message.strip_prefix("metadata.name ").unwrap_or(&error.message).to_owned()
            }
            _ => format!("the rule `{}` cannot be evaluated: {}", error.rule, error.message),
        };
        issues.push(Issue { pointer, part: Part::Value, message });
    }
    issues
}

/// `spec.models[0].name` as `/spec/models/0/name`. Names of our fields have no dots and no brackets.
fn pointer(path: &str) -> String {
    path.split(['.', '[', ']'])
        .filter(|segment| !segment.is_empty())
        .fold(String::new(), |path, segment| join(&path, segment))
}
