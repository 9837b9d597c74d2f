//! The CustomResourceDefinition. In: the schema that the types derive. Out: the one that is applied to a cluster.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use super::v1alpha1::ChatService;

/// The CustomResourceDefinition as committed in `crds/chatservices.yaml`.
///
/// What kube's derive cannot express:
/// - The default of `status`. Without one a new object has none, and tools that compare `observedGeneration` with
///   `generation` may take it for current.
/// - `nullable` is taken away: `backend: {echo: }` means null and would count as a backend for a rule and as none for
///   the operator. A null that is not allowed is dropped by the API server before anything looks at it.
/// - So is a `format` that the API server does not know (`uint32`): it would answer every change of the CRD with a
///   warning, and the range says more.
/// - The lines of a description are as long as this file is wide; a terminal has its own width.
#[must_use]
pub fn custom_resource_definition() -> CustomResourceDefinition {
    let mut crd = ChatService::crd();
    for version in &mut crd.spec.versions {
        let Some(root) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) else {
            continue;
        };
        refine(root);
        if let Some(status) = root.properties.as_mut().and_then(|properties| properties.get_mut("status")) {
            status.default = Some(JSON(serde_json::json!({ "observedGeneration": -1 })));
        }
    }
    crd
}

fn refine(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.description = schema.description.take().map(|text| text.replace('\n', " "));
    if schema.format.as_deref().is_some_and(|format| format.starts_with("uint")) {
        schema.format = None;
    }
    for property in schema.properties.iter_mut().flat_map(BTreeMap::values_mut) {
        refine(property);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        refine(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        refine(values);
    }
}
