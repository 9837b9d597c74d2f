//! `chatservice crd` and the committed file.

use serde_json::{Value, json};

use crate::run;

const COMMITTED: &str = include_str!("../../crds/chatservices.yaml");

fn printed() -> Value {
    let ran = run(&["crd"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    serde_saphyr::from_str(&ran.out).expect("YAML")
}

#[test]
fn the_committed_crd_is_what_the_binary_prints() {
    let ran = run(&["crd"]);
    assert!(
        ran.out == COMMITTED,
        "crds/chatservices.yaml is not what the types say. Run: cargo run -- crd > crds/chatservices.yaml"
    );
}

#[test]
fn the_crd_stays_far_below_what_an_annotation_can_hold() {
    assert!(COMMITTED.len() < 200 * 1024, "{} bytes", COMMITTED.len());
}

#[test]
fn a_new_object_is_never_taken_for_current() {
    let status = &printed()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"];
    assert_eq!(status["default"], json!({ "observedGeneration": -1 }));
}

#[test]
fn it_can_be_scaled_and_its_status_written_apart() {
    let subresources = &printed()["spec"]["versions"][0]["subresources"];
    assert_eq!(subresources["status"], json!({}));
    assert_eq!(
        subresources["scale"],
        json!({
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        })
    );
}

#[test]
fn kubectl_get_shows_what_matters_first() {
    let crd = printed();
    let columns = crd["spec"]["versions"][0]["additionalPrinterColumns"].as_array().expect("columns");
    let names = |wide: bool| -> Vec<&str> {
        let chosen = columns.iter().filter(|column| (column["priority"] == json!(1)) == wide);
        chosen.filter_map(|column| column["name"].as_str()).collect()
    };
    assert_eq!(
        names(false),
        ["Ready", "Reason", "Pods", "Up-To-Date", "Config", "Backend", "Endpoint", "Age"]
    );
    assert_eq!(names(true), ["Message", "Autoscaling", "Redis", "Image"]);
}

#[test]
fn every_field_of_the_spec_is_explained() {
    fn undocumented(node: &Value, path: &str, found: &mut Vec<String>) {
        for (name, child) in node["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            let text = child["description"].as_str().unwrap_or_default();
            if text.len() < 15 || text.contains('\n') {
                found.push(path.clone());
            }
            undocumented(child, &path, found);
        }
    }
    let crd = printed();
    let mut found = Vec::new();
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    undocumented(spec, "spec", &mut found);
    assert_eq!(found, Vec::<String>::new(), "kubectl explain has one line of text for every field");
}
