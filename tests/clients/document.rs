//! The committed OpenAPI document, by a public validator. In: `docs/openapi.json`. Out: nothing, when it is OpenAPI 3.1.

use tokio::process::Command;

use crate::programs::{python, root, run};

#[tokio::test]
async fn the_openapi_document_is_valid() {
    let Some(python) = python() else { return };
    let mut command = Command::new(python);
    command.args(["-m", "openapi_spec_validator", "--schema", "3.1"]).arg(root().join("docs/openapi.json"));
    assert!(run(command).await.well().contains("OK"));
}
