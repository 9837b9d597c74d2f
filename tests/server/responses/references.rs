//! Items that are sent by their ids alone, as some frameworks send what was answered.

use ::http::Method;
use serde_json::{Value, json};

use super::{answered, calls, respond, sent, weather};
use crate::http;
use crate::mock_openai::{MockOpenAi, Script};
use crate::server::{TestServer, echo, openai};

fn reference(item: &Value) -> Value {
    json!({"type": "item_reference", "id": item["id"]})
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

async fn refused(server: &TestServer, input: &Value) -> (u16, Value) {
    let answer = respond(server, &json!({"input": input})).await;
    (answer.status.as_u16(), answer.json()["error"].clone())
}

#[tokio::test]
async fn an_item_is_as_good_as_its_id() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(openai(&mock.base_url())).await;
    mock.script(calls(Some("Let me see."), &[("call_1", "weather", "{}")]));
    mock.script(Script::Words(1)).script(Script::Words(2)).script(Script::Words(1));
    let first = answered(&server, &json!({"input": "How cold is it?", "tools": [weather()]})).await;
    let output = json!({"type": "function_call_output", "call_id": "call_1", "output": "-4"});
    let [text, call] = first["output"].as_array().unwrap().as_slice() else { panic!("{first}") };
    let mut said = vec![user("How cold is it?"), reference(text), reference(call), output];
    let second = answered(&server, &json!({"input": said, "tools": [weather()]})).await;
    let by_items = json!([user("How cold is it?"), text, call, said[3]]);
    answered(&server, &json!({"input": by_items, "tools": [weather()]})).await;
    assert_eq!(sent(&mock, 1)["messages"], sent(&mock, 2)["messages"]);

    // All that was answered so far, while only the last response is still there: it was given what came before. And by the id
    // alone.
    let gone = server.at(&format!("/v1/responses/{}", first["id"].as_str().unwrap()));
    assert_eq!(http::send(Method::DELETE, &gone, &[], b"").await.status, 200);
    said.extend([json!({"id": second["output"][0]["id"]}), user("And tomorrow?")]);
    answered(&server, &json!({"input": said, "tools": [weather()]})).await;
    let messages = sent(&mock, 3)["messages"].clone();
    assert_eq!(
        messages.as_array().unwrap()[1..],
        [
            sent(&mock, 1)["messages"][1].clone(),
            json!({"role": "tool", "content": "-4", "tool_call_id": "call_1"}),
            json!({"role": "assistant", "content": "word0"}),
            user("And tomorrow?"),
        ]
    );
}

#[tokio::test]
async fn items_of_the_input_have_ids_that_are_found_too() {
    let server = TestServer::start(echo()).await;
    let response = answered(&server, &json!({"input": [user("one"), user("two")]})).await;
    let items = format!("/v1/responses/{}/input_items?order=asc", response["id"].as_str().unwrap());
    let items = http::get(&server.at(&items)).await.json()["data"].clone();
    let again = answered(&server, &json!({"input": [reference(&items[0])]})).await;
    assert_eq!(super::text(&again), "one");
}

#[tokio::test]
async fn what_is_not_there_is_refused_by_its_id() {
    let server = TestServer::start(echo()).await;
    let forgotten = answered(&server, &json!({"input": "a", "store": false})).await;
    let kept = answered(&server, &json!({"input": "a"})).await;
    let mut other = kept["output"][0].clone();
    other["id"] = json!(format!("{}f", &other["id"].as_str().unwrap()[..39]));
    for missing in [
        forgotten["output"][0].clone(),
        other,
        json!({"id": "msg_1"}),
        json!({"id": "rs_9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a690000"}),
    ] {
        let (status, error) = refused(&server, &json!([user("b"), reference(&missing)])).await;
        assert_eq!(
            (status, &error["code"], &error["param"]),
            (404, &json!("item_not_found"), &json!("input"))
        );
        let begins = format!("Item with id {} not found: ", missing["id"].as_str().unwrap());
        assert!(error["message"].as_str().unwrap().starts_with(&begins), "{error}");
    }
    let twice = json!([reference(&kept["output"][0]), reference(&kept["output"][0])]);
    let (status, error) = refused(&server, &twice).await;
    assert_eq!((status, &error["param"]), (400, &json!("input")));
    assert!(error["message"].as_str().unwrap().starts_with("Duplicate item found with id msg_"), "{error}");
}

/// Each is a trip to the store.
#[tokio::test]
async fn references_to_very_many_responses_are_refused() {
    let server = TestServer::start(echo()).await;
    let mut input = vec![user("a")];
    for _ in 0..8 {
        let response = answered(&server, &json!({"input": "a"})).await;
        input.push(reference(&response["output"][0]));
    }
    answered(&server, &json!({"input": input})).await;
    input.push(reference(&answered(&server, &json!({"input": "a"})).await["output"][0]));
    let (status, error) = refused(&server, &json!(input)).await;
    assert_eq!((status, &error["code"], &error["param"]), (400, &json!("invalid_value"), &json!("input")));
    assert!(error["message"].as_str().unwrap().contains("at most 8 responses"), "{error}");

    let mut long = vec![user("a")];
    for _ in 0..4 {
        // With its answer, which is the same, 400 KiB.
        let response = answered(&server, &json!({"input": "x".repeat(200 << 10)})).await;
        long.push(reference(&response["output"][0]));
    }
    answered(&server, &json!({"input": long[..4]})).await;
    let (status, error) = refused(&server, &json!(long)).await;
    assert_eq!((status, &error["code"], &error["param"]), (400, &json!("invalid_value"), &json!("input")));
}
