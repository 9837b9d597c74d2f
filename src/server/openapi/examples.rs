//! Examples of what goes right. In: an operation. Out: requests, and under the same name what comes back. `tests/server/openapi.rs`
//! sends each request to a server and holds the answer beside the one that is written here.

use serde_json::{Value, json};
use utoipa::openapi::path::{HttpMethod, Operation};
use utoipa::openapi::{Content, RefOr};

use super::schemas::{EVENTS, JSON};
use super::{MODEL, put};

/// One exchange.
struct Exchange {
    /// By which a page of the docs puts it in order: the first is the one that it offers to try.
    name: &'static str,
    summary: &'static str,
    request: Option<Value>,
    /// An object; or a text, for events.
    answer: Value,
}

fn exchange(name: &'static str, summary: &'static str, request: Value, answer: Value) -> Exchange {
    Exchange { name, summary, request: Some(request), answer }
}

fn shown(summary: &'static str, answer: Value) -> Vec<Exchange> {
    vec![Exchange { name: "answer", summary, request: None, answer }]
}

/// Adds them.
pub(super) fn describe(path: &str, method: &HttpMethod, operation: &mut Operation) {
    for Exchange { name, summary, request, answer } in exchanges(path, method) {
        if let (Some(RefOr::T(body)), Some(request)) = (&mut operation.request_body, request)
            && let Some(RefOr::T(json)) = body.content.get_mut(JSON)
        {
            put(json, name, summary, request);
        }
        let media = if answer.is_string() { EVENTS } else { JSON };
        if let Some(RefOr::T(response)) = operation.responses.responses.get_mut("200") {
            let content = response.content.entry(media.to_owned());
            if let RefOr::T(content) = content.or_insert_with(|| RefOr::T(Content::new::<RefOr<_>>(None))) {
                put(content, name, summary, answer);
            }
        }
    }
}

fn exchanges(path: &str, method: &HttpMethod) -> Vec<Exchange> {
    match (method, path) {
        (HttpMethod::Get, "/") => shown(
            "What runs here",
            json!({"name": "chatservice", "version": env!("CARGO_PKG_VERSION"), "docs": "/docs", "playground": "/playground"}),
        ),
        (HttpMethod::Get, "/health") => {
            shown("It answers", json!({"status": "healthy", "timestamp": "2026-01-02T03:04:05Z"}))
        }
        (HttpMethod::Post, "/api/v1/chat") => chat(),
        (HttpMethod::Post, "/api/v1/chat/stream") => {
            vec![exchange("basic", "A question", json!({"message": "Hello, how are you?"}), events_of_chat())]
        }
        (HttpMethod::Get, "/api/v1/conversations/{id}") => shown(
            "A conversation of one turn",
            json!({
                "conversation_id": CONVERSATION,
                "messages": [
                    {"role": "user", "content": "Hello, how are you?"},
                    {"role": "assistant", "content": "Well, thank you."},
                ],
                "total_tokens": 18,
                "total_cost": 0.000_009,
                "updated_at": "2026-01-02T03:04:05Z",
            }),
        ),
        (HttpMethod::Get, "/v1/models") => shown("One model", json!({"object": "list", "data": [model()]})),
        (HttpMethod::Get, "/v1/models/{model}") => shown("A model", model()),
        (HttpMethod::Post, "/v1/chat/completions") => completions(),
        (HttpMethod::Post, "/v1/embeddings") => embeddings(),
        (HttpMethod::Post, "/v1/responses") => responses(),
        (HttpMethod::Get, "/v1/responses/{id}") => shown("A response", response()),
        (HttpMethod::Delete, "/v1/responses/{id}") => {
            shown("It is gone", json!({"id": RESPONSE, "object": "response", "deleted": true}))
        }
        (HttpMethod::Get, "/v1/responses/{id}/input_items") => shown(
            "What a response was made from",
            json!({
                "object": "list",
                "data": [{
                    "id": "msg_6f1d", "type": "message", "status": "completed", "role": "user",
                    "content": [{"type": "input_text", "text": "Hello, how are you?"}],
                }],
                "first_id": "msg_6f1d", "last_id": "msg_6f1d", "has_more": false,
            }),
        ),
        _ => Vec::new(),
    }
}

/// The id of a conversation that everybody can guess.
const CONVERSATION: &str = "9b2d3a52-4b8a-4b52-9d3e-2f6a1c8e7d10";

fn chat() -> Vec<Exchange> {
    let answer = json!({
        "message": "Well, thank you.",
        "conversation_id": CONVERSATION,
        "tokens_used": 18,
        "model": MODEL,
        "timestamp": "2026-01-02T03:04:05Z",
        "cost_estimate": 0.000_009,
        "cached": false,
        "persisted": true,
        "finish_reason": "stop",
    });
    let follow_up = json!({"message": "And yesterday?", "conversation_id": CONVERSATION});
    let everything = json!({
        "message": "Hello, how are you?",
        "system_prompt": "Answer like a pirate.",
        "temperature": 1.2,
        "max_tokens": 200,
        "model": MODEL,
        "stream": false,
    });
    vec![
        exchange("basic", "A question", json!({"message": "Hello, how are you?"}), answer.clone()),
        exchange("follow_up", "Going on with a conversation", follow_up, answer.clone()),
        exchange("everything", "With every setting", everything, answer),
        exchange(
            "stream",
            "As events",
            json!({"message": "Hello, how are you?", "stream": true}),
            events_of_chat(),
        ),
    ]
}

fn events_of_chat() -> Value {
    let first =
        json!({"delta": "Well, ", "conversation_id": CONVERSATION, "finished": false, "tokens_used": null});
    let last = json!({
        "delta": "", "conversation_id": CONVERSATION, "finished": true, "tokens_used": 18, "model": MODEL,
        "cost_estimate": 0.000_009, "cached": false, "persisted": true, "finish_reason": "stop",
    });
    json!(format!("data: {first}\n\ndata: {last}\n\n"))
}

fn model() -> Value {
    json!({"id": MODEL, "object": "model", "created": 1_767_323_045, "owned_by": "demo"})
}

fn completion(message: &Value, finish_reason: &str) -> Value {
    json!({
        "id": "chatcmpl-8f1c", "object": "chat.completion", "created": 1_767_323_045, "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 6, "total_tokens": 18},
    })
}

fn chunk(choices: &Value, usage: &Value) -> Value {
    let mut chunk = json!({
        "id": "chatcmpl-8f1c", "object": "chat.completion.chunk", "created": 1_767_323_045, "model": MODEL, "choices": choices,
    });
    if !usage.is_null() {
        chunk["usage"] = usage.clone();
    }
    chunk
}

fn completions() -> Vec<Exchange> {
    let said = completion(&json!({"role": "assistant", "content": "Well, thank you."}), "stop");
    let question = json!([{"role": "user", "content": "Hello, how are you?"}]);
    let weather = json!([{"type": "function", "function": {
        "name": "weather", "description": "The temperature in a city, in degrees Celsius",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }}]);
    let called = completion(
        &json!({"role": "assistant", "content": null, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Oslo\"}"}},
        ]}),
        "tool_calls",
    );
    let schema = json!({"type": "json_schema", "json_schema": {"name": "city", "strict": true, "schema": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": false,
    }}});
    let picture = json!([{"role": "user", "content": [
        {"type": "text", "text": "What is on this picture?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}},
    ]}]);
    let chunks = [
        chunk(
            &json!([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]),
            &Value::Null,
        ),
        chunk(
            &json!([{"index": 0, "delta": {"content": "Well, thank you."}, "finish_reason": null}]),
            &Value::Null,
        ),
        chunk(&json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]), &Value::Null),
        chunk(
            &json!([]),
            &json!({"prompt_tokens": 12, "completion_tokens": 6, "total_tokens": 18, "cost_usd": 0.000_005_4}),
        ),
    ];
    let events = chunks.map(|chunk| format!("data: {chunk}\n\n")).concat();
    vec![
        exchange("basic", "A question", json!({"model": MODEL, "messages": question}), said.clone()),
        exchange(
            "stream",
            "As events, with the usage at the end",
            json!({"model": MODEL, "messages": question, "stream": true, "stream_options": {"include_usage": true}}),
            json!(events + "data: [DONE]\n\n"),
        ),
        exchange(
            "tools",
            "With a function that the model may call",
            json!({"model": MODEL, "messages": [{"role": "user", "content": "How cold is it in Oslo?"}], "tools": weather, "tool_choice": "auto"}),
            called,
        ),
        exchange(
            "json_schema",
            "An answer in the form of a schema",
            json!({"model": MODEL, "messages": [{"role": "user", "content": "A city in Norway?"}], "response_format": schema}),
            completion(&json!({"role": "assistant", "content": "{\"city\":\"Oslo\"}"}), "stop"),
        ),
        exchange(
            "picture",
            "With a picture",
            json!({"model": MODEL, "messages": picture, "max_completion_tokens": 300}),
            said,
        ),
    ]
}

fn embeddings() -> Vec<Exchange> {
    let list = |vectors: usize| {
        let data: Vec<Value> = (0..vectors)
            .map(|index| json!({"object": "embedding", "index": index, "embedding": [0.25, -0.5, 0.125]}))
            .collect();
        json!({"object": "list", "data": data, "model": "text-embedding-3-small", "usage": {"prompt_tokens": 4, "total_tokens": 4}})
    };
    let mut packed = list(1);
    packed["data"][0]["embedding"] = json!("AACAPgAAAL8AAAA+");
    vec![
        exchange("text", "One text", json!({"model": MODEL, "input": "The quick brown fox"}), list(1)),
        exchange(
            "texts",
            "Several, with shorter vectors",
            json!({"model": MODEL, "input": ["The quick brown fox", "The lazy dog"], "dimensions": 3, "encoding_format": "float"}),
            list(2),
        ),
        exchange(
            "text_as_base64",
            "With the numbers as one text",
            json!({"model": MODEL, "input": "The quick brown fox", "encoding_format": "base64"}),
            packed,
        ),
    ]
}

/// The id of a response that everybody can guess.
const RESPONSE: &str = "resp_9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a69";

fn response() -> Value {
    json!({
        "id": RESPONSE,
        "object": "response",
        "created_at": 1_767_323_045,
        "status": "completed",
        "background": false,
        "completed_at": 1_767_323_046,
        "error": null,
        "incomplete_details": null,
        "instructions": null,
        "max_output_tokens": null,
        "max_tool_calls": null,
        "model": MODEL,
        "output": [{
            "id": "msg_7a2e", "type": "message", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "Well, thank you.", "annotations": [], "logprobs": []}],
        }],
        "parallel_tool_calls": true,
        "previous_response_id": null,
        "reasoning": {"effort": null, "summary": null},
        "store": true,
        "temperature": null,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": null,
        "truncation": "disabled",
        "usage": {
            "input_tokens": 12, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 6,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 18,
        },
        "user": null,
        "metadata": {},
    })
}

fn responses() -> Vec<Exchange> {
    let question = json!({"model": MODEL, "input": "Hello, how are you?"});
    let mut streamed = question.clone();
    streamed["stream"] = json!(true);
    let delta = json!({"type": "response.output_text.delta", "item_id": "msg_7a2e", "output_index": 0, "content_index": 0, "delta": "Well, ", "logprobs": [], "sequence_number": 4});
    let events = format!("event: response.output_text.delta\ndata: {delta}\n\n");
    let tool = json!({
        "type": "function", "name": "weather", "description": "The temperature in a city, in degrees Celsius",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    });
    let asked = json!({"role": "user", "content": "How cold is it in Oslo?"});
    let call = json!({"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{\"city\":\"Oslo\"}"});
    let mut called = response();
    called["tools"] = json!([tool]);
    called["output"] = json!([call]);
    called["output"][0]["id"] = json!("fc_3c5d");
    called["output"][0]["status"] = json!("completed");
    let mut told = response();
    told["tools"] = json!([tool]);
    let returned = json!({"type": "function_call_output", "call_id": "call_1", "output": "-4"});
    let form = json!({"format": {"type": "json_schema", "name": "city", "strict": true, "schema": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": false,
    }}});
    let mut formed = response();
    formed["output"][0]["content"][0]["text"] = json!("{\"city\":\"Oslo\"}");
    formed["text"] = form.clone();
    let picture = json!([{"role": "user", "content": [
        {"type": "input_text", "text": "What is on this picture?"},
        {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"},
    ]}]);
    vec![
        exchange("basic", "A question", question, response()),
        exchange(
            "follow_up",
            "Going on from a response",
            json!({"model": MODEL, "input": "And yesterday?", "previous_response_id": RESPONSE}),
            response(),
        ),
        exchange(
            "tools",
            "With a function that the model may call",
            json!({"model": MODEL, "input": [asked], "tools": [tool]}),
            called,
        ),
        exchange(
            "tool_output",
            "With what the function returned; or with this alone, and the previous_response_id",
            json!({"model": MODEL, "input": [asked, call, returned], "tools": [tool]}),
            told,
        ),
        exchange(
            "json_schema",
            "An answer in the form of a schema",
            json!({"model": MODEL, "input": "A city in Norway?", "text": form}),
            formed,
        ),
        exchange("picture", "With a picture", json!({"model": MODEL, "input": picture}), response()),
        exchange("stream", "As events: one of them", streamed, json!(events)),
    ]
}
