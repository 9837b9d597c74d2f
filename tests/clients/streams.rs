//! Streams by the unchanged SDKs: whole ones, ones that break, ones that are left.

use serde_json::{Value, json};

use crate::mock_openai::{End, Piece, Script, event, whole_stream, word_event};
use crate::programs::Sdk;
use crate::{Rig, with_both_sdks};

/// A stream of these choices, with usage at the end.
pub fn stream_of(choices: &[Value]) -> Script {
    let chunk = |choices: Value| json!({"id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "mock", "choices": choices});
    let mut pieces: Vec<Piece> =
        choices.iter().map(|choice| Piece::Send(event(&chunk(json!([choice])).to_string()))).collect();
    let mut last = chunk(json!([]));
    last["usage"] = json!({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10});
    pieces.extend([last.to_string().as_str(), "[DONE]"].map(|data| Piece::Send(event(data))));
    Script::Events(pieces, End::Clean)
}

with_both_sdks! {
    /// One id, the role first, the reason to finish last, and no usage that nobody asked for.
    async fn stream(sdk: Sdk) {
        let rig = Rig::start().await;
        rig.mock.script(Script::Words(5));
        sdk.passes(rig.url()).await;
    }

    async fn stream_with_usage(sdk: Sdk) {
        let rig = Rig::start().await;
        rig.mock.script(Script::Words(5));
        sdk.passes(rig.url()).await;
    }

    /// The SDK's own assembler puts the calls together by their index.
    async fn stream_of_tool_calls(sdk: Sdk) {
        let rig = Rig::start().await;
        let delta = |calls: Value| json!({"index": 0, "delta": {"tool_calls": calls}, "finish_reason": null});
        rig.mock.script(stream_of(&[
            json!({"index": 0, "delta": {"role": "assistant", "content": null}, "finish_reason": null}),
            delta(json!([{"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}])),
            delta(json!([{"index": 1, "id": "call_2", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":"}}])),
            delta(json!([{"index": 0, "function": {"arguments": "{\"city\":\"Oslo\"}"}}])),
            delta(json!([{"index": 1, "function": {"arguments": "\"Rome\"}"}}])),
            json!({"index": 0, "delta": {}, "finish_reason": "tool_calls"}),
        ]));
        sdk.passes(rig.url()).await;
    }

    /// What came is there, and then the SDK raises: a cut answer is never taken for a whole one.
    async fn stream_that_breaks(sdk: Sdk) {
        let rig = Rig::start().await;
        rig.mock.script(Script::cut_stream(2, End::Cut));
        sdk.passes(rig.url()).await;
    }

    /// An error before the first word is a status, and so the exception of that status.
    async fn stream_that_never_begins(sdk: Sdk) {
        let rig = Rig::start().await;
        rig.mock.script(Script::Status(429, vec![("retry-after", "7".to_owned())], r#"{"error":{"message":"slow down","type":"requests","code":"rate_limit_exceeded"}}"#.to_owned()));
        sdk.passes(rig.url()).await;
    }

    /// Who stops reading ends the call to the backend too.
    async fn stream_that_is_left(sdk: Sdk) {
        is_left(sdk).await;
    }
}

/// A case in which the SDK stops reading after the first word: that ends the call to the backend.
pub async fn is_left(sdk: Sdk) {
    let rig = Rig::start().await;
    let mut pieces: Vec<Piece> = whole_stream(1, false).into_iter().take(2).map(Piece::Send).collect();
    pieces.push(Piece::Gate);
    pieces.push(Piece::Send(word_event(2)));
    rig.mock.script(Script::Events(pieces, End::Clean));
    sdk.passes(rig.url()).await;
    rig.mock.wait_disconnects(1).await;
}
