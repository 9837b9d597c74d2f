//! Chat completions by the unchanged SDKs: plain, with tools, with what the server does not look at.

use serde_json::{Value, json};

use crate::mock_openai::Script;
use crate::{Rig, with_both_sdks};

/// A plain answer with this message.
pub fn answer(message: &Value, finish_reason: &str) -> Script {
    let body = json!({
        "id": "chatcmpl-mock", "object": "chat.completion", "created": 1_700_000_000, "model": "mock",
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    });
    Script::Status(200, Vec::new(), body.to_string())
}

/// What the backend was asked, as JSON.
fn asked(rig: &Rig, request: usize) -> Value {
    serde_json::from_slice(&rig.mock.requests()[request].body).unwrap()
}

with_both_sdks! {
    /// Content, finish reason, usage, and the id that the SDK shows of a request.
    async fn plain(sdk: Sdk) {
        let rig = Rig::start().await;
        rig.mock.script(Script::Words(3));
        sdk.passes(rig.url()).await;
    }

    async fn models(sdk: Sdk) {
        let rig = Rig::start().await;
        sdk.passes(rig.url()).await;
    }

    /// A tool is called, and its result is answered.
    async fn tools(sdk: Sdk) {
        let rig = Rig::start().await;
        let call = json!({"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Oslo\"}"}});
        rig.mock.script(answer(&json!({"role": "assistant", "content": null, "tool_calls": [call]}), "tool_calls"));
        rig.mock.script(answer(&json!({"role": "assistant", "content": "Snow."}), "stop"));
        sdk.passes(rig.url()).await;
        assert_eq!(asked(&rig, 0)["tools"][0]["function"]["name"], "weather");
        let second = asked(&rig, 1);
        assert_eq!(second["messages"][1]["tool_calls"][0]["id"], "call_1");
        assert_eq!(second["messages"][2], json!({"role": "tool", "tool_call_id": "call_1", "content": "-3"}));
    }

    /// An answer in the form of a JSON schema, read by the SDK's own parser where it has one.
    async fn json_schema(sdk: Sdk) {
        let rig = Rig::start().await;
        rig.mock.script(answer(&json!({"role": "assistant", "content": "{\"city\":\"Oslo\",\"degrees\":-3}"}), "stop"));
        sdk.passes(rig.url()).await;
        let format = &asked(&rig, 0)["response_format"];
        assert_eq!((&format["type"], &format["json_schema"]["strict"]), (&json!("json_schema"), &json!(true)));
    }

    /// Pictures, sound, seed, stop, logprobs and fields that no SDK knows reach the backend as they were sent.
    async fn everything_else(sdk: Sdk) {
        let rig = Rig::start().await;
        rig.mock.script(Script::Words(2));
        sdk.passes(rig.url()).await;
        let asked = asked(&rig, 0);
        for (field, value) in [
            ("seed", json!(7)),
            ("stop", json!(["END"])),
            ("logprobs", json!(true)),
            ("top_logprobs", json!(2)),
            // By the name that a backend which is not OpenAI knows.
            ("max_tokens", json!(50)),
            ("a_field_of_tomorrow", json!({"deep": [1, 2]})),
        ] {
            assert_eq!(asked[field], value, "{field}");
        }
        let parts = &asked["messages"][0]["content"];
        assert_eq!((&parts[1]["type"], &parts[2]["type"]), (&json!("image_url"), &json!("input_audio")));
    }
}
