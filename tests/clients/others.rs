//! Embeddings and Responses by the unchanged SDKs.

use serde_json::{Value, json};

use crate::mock_openai::Script;
use crate::{Rig, with_both_sdks};

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

    /// A function is called, and what it returned goes on: with all that the SDK was given sent back, and by the response's id.
    async fn responses_functions(sdk: Sdk) {
        let rig = Rig::start().await;
        let call = json!({"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Oslo\"}"}});
        let message = json!({"role": "assistant", "content": "Let me see.", "tool_calls": [call]});
        let answer = json!({"id": "c", "object": "chat.completion", "created": 1, "model": "mock",
            "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]});
        rig.mock.script(Script::Status(200, Vec::new(), answer.to_string()));
        rig.mock.script(Script::Words(1)).script(Script::Words(1)).script(Script::Words(1));
        sdk.passes(rig.url()).await;
        let requests = rig.mock.requests();
        assert_eq!(requests.len(), 4);
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
