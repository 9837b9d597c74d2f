//! The schemas of the OpenAPI document are true: every example in it, every answer of a server and what a server takes and
//! refuses fits them.

use serde_json::{Value, json};

use crate::http;
use crate::mock_openai::{MockOpenAi, Script};
use crate::server::{TestServer, openai};

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

/// The document as it is committed.
pub fn document() -> Value {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// What the `data` of the events of a path is.
pub fn event_schema(path: &str) -> Value {
    let name = match path {
        "/v1/chat/completions" => "ChatCompletionChunk",
        "/v1/responses" => "ResponseEvent",
        _ => "ChatEvent",
    };
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The JSON of each event of a text.
pub fn events(text: &str) -> Vec<Value> {
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter_map(|data| serde_json::from_str(data).ok()).collect()
}

/// The schemas of the document.
pub struct Schemas {
    components: Value,
}

impl Schemas {
    /// As they are.
    pub fn new() -> Self {
        Self { components: document()["components"].clone() }
    }

    /// With nothing allowed that they do not name: so that they name all that an answer has.
    pub fn closed() -> Self {
        let mut components = document()["components"].clone();
        let mut parts = Vec::new();
        referred_parts(&components, &mut parts);
        for (name, schema) in components["schemas"].as_object_mut().unwrap() {
            if !parts.contains(name) {
                close(schema);
            }
        }
        Self { components }
    }

    /// Why a value does not fit a schema; None: it does.
    pub fn misfit(&self, schema: &Value, value: &Value) -> Option<String> {
        assert!(schema.is_object(), "no schema for {value}");
        let whole = json!({ "components": self.components, "allOf": [schema] });
        let validator = jsonschema::draft202012::new(&whole).unwrap();
        let faults: Vec<_> = validator
            .iter_errors(value)
            .map(|error| format!("{} at {}", error, error.instance_path()))
            .collect();
        (!faults.is_empty()).then(|| format!("{}\n{value}", faults.join("\n")))
    }
}

/// Components of which others are made: on their own they cannot be closed.
fn referred_parts(schema: &Value, parts: &mut Vec<String>) {
    match schema {
        Value::Object(members) => {
            for part in members.get("allOf").and_then(Value::as_array).into_iter().flatten() {
                if let Some((_, name)) = part["$ref"].as_str().and_then(|path| path.rsplit_once('/')) {
                    parts.push(name.to_owned());
                }
            }
            members.values().for_each(|value| referred_parts(value, parts));
        }
        Value::Array(items) => items.iter().for_each(|item| referred_parts(item, parts)),
        _ => {}
    }
}

fn close(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            for (name, value) in members.iter_mut() {
                if name != "allOf" {
                    close(value);
                }
            }
            let whole =
                members.contains_key("allOf") || members.get("properties").is_some_and(Value::is_object);
            if whole && !members.contains_key("additionalProperties") {
                members.insert("unevaluatedProperties".to_owned(), json!(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// Every example under this value that stands in a schema, with the schema.
fn examples_in(schema: &Value, found: &mut Vec<(Value, Value)>) {
    match schema {
        Value::Object(members) => {
            if let Some(example) = members.get("example") {
                let mut bare = members.clone();
                bare.remove("example");
                found.push((Value::Object(bare), example.clone()));
            }
            members.values().for_each(|value| examples_in(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| examples_in(item, found)),
        _ => {}
    }
}

#[test]
fn every_example_fits_its_schema() {
    let (schemas, closed, document) = (Schemas::new(), Schemas::closed(), document());
    let (mut count, mut wrong) = (0, Vec::new());
    let mut hold = |place: String, schemas: &Schemas, schema: &Value, value: &Value| {
        count += 1;
        wrong.extend(schemas.misfit(schema, value).map(|misfit| format!("{place}: {misfit}")));
    };
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let body = &operation["requestBody"]["content"][JSON];
            for (name, example) in body["examples"].as_object().into_iter().flatten() {
                hold(format!("{method} {path} {name}"), &schemas, &body["schema"], &example["value"]);
            }
            for (status, response) in operation["responses"].as_object().unwrap() {
                for (media, content) in response["content"].as_object().into_iter().flatten() {
                    for (name, example) in content["examples"].as_object().into_iter().flatten() {
                        let (place, value) = (format!("{method} {path} {status} {name}"), &example["value"]);
                        hold(place.clone(), &closed, &content["schema"], value);
                        if media == EVENTS {
                            let told = events(value.as_str().unwrap());
                            assert!(!told.is_empty(), "{place}");
                            let schema = event_schema(path);
                            for event in &told {
                                hold(place.clone(), &closed, &schema, event);
                            }
                        }
                    }
                }
            }
        }
    }
    let mut in_schemas = Vec::new();
    examples_in(&document["components"]["schemas"], &mut in_schemas);
    for (schema, example) in in_schemas {
        hold(format!("the example of {schema}"), &schemas, &schema, &example);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 150, "{count}");
}

/// What a server takes, its schema takes; and what a server refuses for its form, its schema does not take.
#[tokio::test]
async fn the_schema_of_a_response_takes_what_the_server_takes() {
    let mock = MockOpenAi::start().await;
    mock.always(Script::Words(1));
    let server = TestServer::start(openai(&mock.base_url())).await;
    let schemas = Schemas::new();
    let schema = &document()["paths"]["/v1/responses"]["post"]["requestBody"]["content"][JSON]["schema"];
    let user = |content: Value| json!({"input": [{"role": "user", "content": content}]});
    let tool = json!({"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": null});
    let call = json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"});
    let output = json!({"type": "function_call_output", "call_id": "c", "output": "1"});
    for body in [
        json!({"input": "hi"}),
        json!({"input": "hi", "model": null, "instructions": null, "store": null, "tools": null, "tool_choice": null, "text": null,
            "reasoning": null, "max_output_tokens": null, "metadata": null, "stream_options": null}),
        user(json!("hi")),
        user(
            json!([{"type": "input_text", "text": "hi"}, {"type": "input_image", "image_url": "https://x.example/1.png"}]),
        ),
        json!({"input": [{"type": "message", "role": "developer", "content": "be kind", "id": null, "status": null}]}),
        // As an answer has them.
        json!({"input": [
            {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "phase": null,
                "content": [{"type": "output_text", "text": "hi", "annotations": [], "logprobs": []}, {"type": "refusal", "refusal": "no"}]},
            {"id": "fc_1", "type": "function_call", "status": "completed", "call_id": "c", "name": "f", "arguments": "{}", "caller": null},
            {"id": null, "type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "1"}]},
        ]}),
        json!({"input": [call, output]}),
        json!({"input": "hi", "tools": [tool], "tool_choice": "required", "parallel_tool_calls": false}),
        json!({"input": "hi", "tools": [tool], "tool_choice": {"type": "function", "name": "f"}}),
        json!({"input": "hi", "tools": [], "tool_choice": "none", "metadata": {"a": "b"}, "reasoning": {"effort": "low"}}),
        json!({"input": "hi", "text": {"format": {"type": "text"}, "verbosity": "low"}}),
        json!({"input": "hi", "text": {"format": {"type": "json_object"}}}),
        json!({"input": "hi", "text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": true, "description": null}}}),
        json!({"input": "hi", "stream": false, "stream_options": {"include_obfuscation": false}, "max_output_tokens": 9, "top_p": 1}),
    ] {
        let answer = http::post(&server.at("/v1/responses"), &body).await;
        assert_eq!(answer.status, 200, "{body}: {:?}", answer.body);
        assert_eq!(schemas.misfit(schema, &body), None);
    }
    // Whether there is such an item is another question.
    assert_eq!(schemas.misfit(schema, &json!({"input": [{"type": "item_reference", "id": "msg_1"}]})), None);
    for body in [
        json!({}),
        json!({"input": null}),
        json!({"input": 5}),
        json!({"input": {}}),
        json!({"input": ["hi"]}),
        json!({"input": "hi", "model": 5}),
        json!({"input": "hi", "background": true}),
        json!({"input": "hi", "max_output_tokens": 0}),
        json!({"input": "hi", "temperature": "hot"}),
        json!({"input": "hi", "metadata": {"a": 1}}),
        json!({"input": "hi", "tools": [{"type": "web_search"}]}),
        json!({"input": "hi", "tools": [{"type": "function"}]}),
        json!({"input": "hi", "tools": [{"type": "function", "name": "f", "defer_loading": true}]}),
        json!({"input": "hi", "tool_choice": "maybe"}),
        json!({"input": "hi", "tool_choice": {"type": "file_search"}}),
        json!({"input": "hi", "text": {"format": {"type": "grammar"}}}),
        json!({"input": "hi", "text": {"format": {"type": "json_schema", "name": "n"}}}),
        json!({"input": "hi", "reasoning": {"summary": "auto"}}),
        json!({"input": [{"content": "hi"}]}),
        json!({"input": [{"type": "item_reference", "id": 5}]}),
        json!({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}),
        user(json!(5)),
        user(json!([{"type": "input_file", "file_id": "f"}])),
        user(json!([{"type": "input_text"}])),
        user(json!([{"text": "hi"}])),
    ] {
        let answer = http::post(&server.at("/v1/responses"), &body).await;
        assert_eq!(answer.status, 400, "{body}: {:?}", answer.body);
        assert!(schemas.misfit(schema, &body).is_some(), "the schema takes {body}");
    }
}
