//! Embeddings and Responses by the unchanged SDKs.

use serde_json::{Value, json};

use crate::mock_openai::{End, Script};
use crate::streams::{is_left, stream_of};
use crate::{Rig, with_both_sdks};

/// A choice of a chunk.
fn choice(delta: &Value, finish_reason: Option<&str>) -> Value {
    json!({"index": 0, "delta": delta, "finish_reason": finish_reason})
}

with_both_sdks! {
    /// The SDKs ask for base64 by themselves and unpack it; a service that asked the backend for something else would be noticed.
    async fn embeddings(sdk: Sdk) {
        let rig = Rig::start().await;
        // 0.5 and -1 as little-endian 32-bit floats.
        let data = json!([{"object": "embedding", "index": 0, "embedding": "AAAAPwAAgL8="}]);
        let list = json!({"object": "list", "data": data, "model": "mock", "usage": {"prompt_tokens": 2, "total_tokens": 2}});
        rig.mock.script(Script::Status(200, Vec::new(), list.to_string()));
        sdk.passes(rig.url()).await;
        let asked: Value = serde_json::from_slice(&rig.mock.requests()[0].body).unwrap();
        assert_eq!((&asked["encoding_format"], &asked["input"]), (&json!("base64"), &json!(["The quick brown fox"])));
    }

    /// A response, one that goes on from it, what is stored, and its end.
    async fn responses(sdk: Sdk) {
        let rig = Rig::start().await;
        rig.mock.script(Script::Words(2)).script(Script::Words(3));
        sdk.passes(rig.url()).await;
        let second: Value = serde_json::from_slice(&rig.mock.requests()[1].body).unwrap();
        let said: Vec<&Value> = second["messages"].as_array().unwrap().iter().map(|message| &message["role"]).collect();
        assert_eq!(said, [&json!("user"), &json!("assistant"), &json!("user")]);
    }

    /// Events with rising numbers, from which the SDK puts the whole together.
    async fn responses_as_events(sdk: Sdk) {
        let rig = Rig::start().await;
        rig.mock.script(Script::Words(3));
        sdk.passes(rig.url()).await;
    }

    /// What came is there, and then the SDK raises; nothing is stored.
    async fn responses_stream_that_breaks(sdk: Sdk) {
        let rig = Rig::start().await;
        for _ in 0..2 {
            rig.mock.script(Script::cut_stream(2, End::Cut));
        }
        sdk.passes(rig.url()).await;
        assert_eq!(rig.mock.count(), 2, "nobody tried again");
    }

    /// The cap ends the answer: it is told and stored as incomplete, with the reason, and can be gone on from.
    async fn responses_stream_that_ends_incomplete(sdk: Sdk) {
        let rig = Rig::start().await;
        let word = |text: &str| choice(&json!({"content": text}), None);
        let cut = choice(&json!({}), Some("length"));
        rig.mock.script(stream_of(&[word("one"), word(" two"), cut]));
        rig.mock.script(Script::Words(1));
        sdk.passes(rig.url()).await;
        let requests = rig.mock.requests();
        let asked: Vec<Value> = requests.iter().map(|request| serde_json::from_slice(&request.body).unwrap()).collect();
        assert_eq!(asked[0]["max_tokens"], 2);
        assert_eq!(asked[1]["messages"][1], json!({"role": "assistant", "content": "one two"}));
    }

    /// Who stops reading ends the call to the backend too.
    async fn responses_stream_that_is_left(sdk: Sdk) {
        is_left(sdk).await;
    }

    /// A function is called, and what it returned goes on: with all that the SDK was given sent back, by the ids of its items, and by the response's id.
    async fn responses_functions(sdk: Sdk) {
        let rig = Rig::start().await;
        let call = json!({"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Oslo\"}"}});
        let message = json!({"role": "assistant", "content": "Let me see.", "tool_calls": [call]});
        let answer = json!({"id": "c", "object": "chat.completion", "created": 1, "model": "mock",
            "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]});
        rig.mock.script(Script::Status(200, Vec::new(), answer.to_string()));
        for _ in 0..4 {
            rig.mock.script(Script::Words(1));
        }
        sdk.passes(rig.url()).await;
        let requests = rig.mock.requests();
        assert_eq!(requests.len(), 5);
        for request in &requests[1..] {
            let sent: Value = serde_json::from_slice(&request.body).unwrap();
            assert_eq!(
                sent["messages"],
                json!([
                    {"role": "user", "content": "How cold is it in Oslo?"}, message,
                    {"role": "tool", "content": "-4", "tool_call_id": "call_1"},
                ])
            );
        }
    }
}
