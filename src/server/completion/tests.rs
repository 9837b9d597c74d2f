//! Tests of both conversions together: an answer survives the way to the other form and back.

use serde_json::{Value, json};

use super::*;

fn assemble(chunks: &[Bytes]) -> Assembler {
    let mut assembler = Assembler::new();
    for chunk in chunks {
        assembler.push(chunk).unwrap_or_else(|error| panic!("{error}: {chunk:?}"));
    }
    assembler
}

fn chunk(value: &Value) -> Bytes {
    value.to_string().into()
}

fn delta(index: u32, delta: &Value, finish_reason: &Value) -> Bytes {
    chunk(&json!({"id": "c-1", "object": CHUNK, "created": 7, "model": "m", "system_fingerprint": "fp",
        "choices": [{"index": index, "delta": delta, "logprobs": null, "finish_reason": finish_reason}], "usage": null}))
}

fn usage_chunk(usage: &Value) -> Bytes {
    chunk(&json!({"id": "c-1", "object": CHUNK, "created": 7, "model": "m", "choices": [], "usage": usage}))
}

fn plain(assembler: &Assembler) -> Value {
    serde_json::from_slice(&assembler.completion()).unwrap()
}

#[test]
fn a_stream_of_text_becomes_the_plain_answer() {
    let usage = json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "prompt_tokens_details": {"cached_tokens": 1}});
    let mut assembler = Assembler::new();
    let mut pushed = Vec::new();
    for data in [
        delta(0, &json!({"role": "assistant", "content": "", "refusal": null}), &Value::Null),
        delta(0, &json!({"content": "Hel"}), &Value::Null),
        delta(0, &json!({"content": "lo é"}), &Value::Null),
        delta(0, &json!({}), &json!("stop")),
    ] {
        pushed.push(assembler.push(&data).unwrap());
        assert_eq!(assembler.is_complete(), pushed.len() == 4);
    }
    let texts: Vec<&str> = pushed.iter().map(|chunk| chunk.text.as_str()).collect();
    assert_eq!(texts, ["", "Hel", "lo é", ""]);
    assert_eq!(pushed[3].finish_reason.as_deref(), Some("stop"));
    assert!(pushed.iter().all(|chunk| !chunk.usage_only));
    assert_eq!(assembler.usage(), None);
    assert!(assembler.push(&usage_chunk(&usage)).unwrap().usage_only);

    assert_eq!(
        (assembler.text(), assembler.finish_reason(), assembler.pieces()),
        ("Hello é", Some("stop"), 2)
    );
    assert_eq!(assembler.usage(), Some(Usage { prompt_tokens: 3, completion_tokens: 2 }));
    assert!(assembler.is_faithful());
    assert_eq!(
        plain(&assembler),
        json!({"id": "c-1", "object": "chat.completion", "created": 7, "model": "m", "system_fingerprint": "fp",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello é", "refusal": null},
                "logprobs": null, "finish_reason": "stop"}], "usage": usage})
    );
}

#[test]
fn tool_calls_are_put_together_by_their_index() {
    let call = |value: Value| delta(0, &json!({"tool_calls": [value]}), &Value::Null);
    let assembler = assemble(&[
        delta(0, &json!({"role": "assistant", "content": null}), &Value::Null),
        call(json!({"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}})),
        call(json!({"index": 0, "function": {"arguments": "{\"x\":"}})),
        call(
            json!({"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}),
        ),
        call(json!({"index": 0, "function": {"arguments": "1}"}})),
        delta(0, &json!({}), &json!("tool_calls")),
    ]);
    assert!(assembler.is_faithful() && assembler.is_complete());
    assert_eq!(
        plain(&assembler)["choices"][0]["message"],
        json!({"role": "assistant", "content": null, "refusal": null, "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}]})
    );
}

#[test]
fn an_answer_is_complete_when_every_choice_is() {
    let mut assembler = assemble(&[
        delta(0, &json!({"content": "a"}), &json!("stop")),
        delta(1, &json!({"content": "b"}), &Value::Null),
    ]);
    assert!(!assembler.is_complete());
    assert_eq!(assembler.text(), "a");
    assembler.push(&delta(1, &json!({}), &json!("length"))).unwrap();
    assert!(assembler.is_complete());
    assert!(!Assembler::new().is_complete());
}

#[test]
fn what_cannot_be_put_together_is_told() {
    let choice = |choice: Value| chunk(&json!({"id": "c", "choices": [choice]}));
    for (data, faithful) in [
        (delta(0, &json!({"content": "a", "reasoning_content": null}), &Value::Null), true),
        (delta(0, &json!({"content": "a", "reasoning_content": "hm"}), &Value::Null), false),
        (delta(0, &json!({"audio": {"id": "x"}}), &Value::Null), false),
        (delta(0, &json!({"function_call": {"name": "x"}}), &Value::Null), false),
        (delta(0, &json!({"tool_calls": [{"id": "a", "function": {"name": "f"}}]}), &Value::Null), false),
        (
            delta(0, &json!({"tool_calls": [{"index": 0, "type": "custom", "custom": {}}]}), &Value::Null),
            false,
        ),
        (choice(json!({"index": 0, "delta": {"content": "a"}, "logprobs": {"content": []}})), false),
        (chunk(&json!({"choices": [], "citations": ["x"]})), false),
        (chunk(&json!({"choices": [], "obfuscation": "xx", "object": CHUNK, "service_tier": null})), true),
    ] {
        assert_eq!(assemble(std::slice::from_ref(&data)).is_faithful(), faithful, "{data:?}");
    }
}

#[test]
fn hostile_chunks_are_refused() {
    for data in [
        "",
        "[]",
        "{}",
        "{\"choices\":{}}",
        "{\"choices\":[1]}",
        "{\"choices\":[{\"delta\":{\"content\":1}}]}",
        "{\"choices\":[{\"index\":-1,\"delta\":{}}]}",
        "{\"choices\":[],\"choices\":[]}",
    ] {
        assert_eq!(Assembler::new().push(data.as_bytes()), Err(CompletionError::Not(CHUNK)), "{data}");
    }
    let mut assembler = Assembler::new();
    for index in 0..128 {
        assembler.push(&delta(index, &json!({}), &Value::Null)).unwrap();
    }
    assert_eq!(assembler.push(&delta(128, &json!({}), &Value::Null)), Err(CompletionError::TooLarge));

    let big = delta(0, &json!({"content": "x".repeat(1 << 20)}), &Value::Null);
    let mut assembler = Assembler::new();
    let failed = (0..40).find_map(|_| assembler.push(&big).err());
    assert_eq!(failed, Some(CompletionError::TooLarge));
    assert!(assembler.text().len() <= MAX_BYTES);
}

#[test]
fn a_plain_answer_survives_the_way_to_a_stream_and_back() {
    let message =
        |message: Value| json!({"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"});
    let text = "a few words,\n and more ".repeat(300);
    for choices in [
        json!([message(json!({"role": "assistant", "content": "Hello big world ", "refusal": null}))]),
        json!([message(json!({"role": "assistant", "content": text, "refusal": null}))]),
        json!([message(json!({"role": "assistant", "content": "", "refusal": null}))]),
        json!([message(json!({"role": "assistant", "content": null, "refusal": "I will not"}))]),
        json!([message(json!({"role": "assistant", "content": null, "refusal": null, "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}]}))]),
        json!([message(json!({"role": "assistant", "content": "one two", "refusal": null})),
            {"index": 1, "message": {"role": "assistant", "content": "x", "refusal": null}, "logprobs": null, "finish_reason": "length"}]),
    ] {
        let mut completion = json!({"id": "old", "object": "chat.completion", "created": 1, "model": "m", "system_fingerprint": "fp",
            "choices": choices, "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}});
        let replay = chunks(completion.to_string().as_bytes(), "new", 9).unwrap();
        assert!(replay.chunks.len() < 600);
        let mut all = replay.chunks;
        all.extend(replay.usage);
        let assembler = assemble(&all);
        assert!(assembler.is_faithful() && assembler.is_complete());
        completion["id"] = json!("new");
        completion["created"] = json!(9);
        assert_eq!(plain(&assembler), completion);
    }
}

#[test]
fn a_replay_begins_with_the_role_and_ends_with_the_reason() {
    let completion = json!({"id": "old", "model": "m", "choices": [{"index": 0, "message": {"role": "assistant",
        "content": "one two three", "annotations": [{"type": "url_citation"}]}, "finish_reason": "length"}]});
    let replay = chunks(completion.to_string().as_bytes(), "new", 9).unwrap();
    assert_eq!(replay.usage, None);
    let choices: Vec<Value> = replay
        .chunks
        .iter()
        .map(|data| serde_json::from_slice::<Value>(data).unwrap()["choices"][0].take())
        .collect();
    let deltas: Vec<&Value> = choices.iter().map(|choice| &choice["delta"]).collect();
    assert_eq!(deltas[0], &json!({"role": "assistant", "annotations": [{"type": "url_citation"}]}));
    assert_eq!(
        deltas[1..],
        [&json!({"content": "one"}), &json!({"content": " two"}), &json!({"content": " three"}), &json!({})]
    );
    let reasons: Vec<&Value> = choices.iter().map(|choice| &choice["finish_reason"]).collect();
    assert_eq!(reasons.iter().filter(|reason| !reason.is_null()).count(), 1);
    assert_eq!(reasons[4], "length");
}

#[test]
fn probabilities_stay_with_their_text() {
    let logprobs = json!({"content": [{"token": "one", "logprob": -0.1}], "refusal": null});
    let completion = json!({"id": "old", "model": "m", "choices": [{"index": 0, "message": {"content": "one two"},
        "logprobs": logprobs, "finish_reason": "stop"}]});
    let replay = chunks(completion.to_string().as_bytes(), "new", 9).unwrap();
    let second: Value = serde_json::from_slice(&replay.chunks[1]).unwrap();
    assert_eq!(
        second["choices"][0],
        json!({"index": 0, "delta": {"content": "one two"}, "logprobs": logprobs, "finish_reason": null})
    );
}

#[test]
fn what_is_not_an_answer_is_not_replayed() {
    for body in ["", "{}", "{\"choices\":[{}]}", "{\"choices\":[{\"message\":1}]}", "{\"choices\":1}"] {
        assert_eq!(chunks(body.as_bytes(), "new", 9), Err(CompletionError::Not(COMPLETION)), "{body}");
    }
}

#[test]
fn pieces_are_words_and_together_the_text() {
    for (text, expected) in [
        ("", vec![]),
        ("one", vec!["one"]),
        (" one  two\n", vec![" one", "  two\n"]),
        ("  ", vec!["  "]),
        ("a b c", vec!["a", " b", " c"]),
        ("é\u{3000}ü", vec!["é", "\u{3000}ü"]),
    ] {
        let mut rest = text;
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let (piece, after) = split_piece(rest);
            pieces.push(piece);
            rest = after;
        }
        assert_eq!(pieces, expected, "{text:?}");
        assert_eq!(count_pieces(text), expected.len(), "{text:?}");
    }
}

#[test]
fn usage_that_cannot_be_is_no_usage() {
    for (usage, expected) in [
        (r#"{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}"#, Some((3, 4))),
        (r#"{"prompt_tokens":3}"#, Some((3, 0))),
        (r#"{"prompt_tokens":-3,"completion_tokens":4}"#, None),
        (r#"{"prompt_tokens":3,"completion_tokens":1000000000000000000}"#, None),
        (r#"{"prompt_tokens":3,"completion_tokens":99999999999999999999999}"#, None),
        (r#"{"prompt_tokens":3.5,"completion_tokens":1}"#, None),
        (r#"{"prompt_tokens":"3"}"#, None),
        ("null", None),
        ("[]", None),
    ] {
        let expected =
            expected.map(|(prompt_tokens, completion_tokens)| Usage { prompt_tokens, completion_tokens });
        assert_eq!(
            read(format!(r#"{{"choices":[],"usage":{usage}}}"#).as_bytes()).unwrap().usage,
            expected,
            "{usage}"
        );
    }
}

#[test]
fn a_plain_answer_is_read() {
    let body = br#"{"choices":[{"index":0,"message":{"role":"assistant","content":"hi \u00e9"},"finish_reason":"stop"}],
        "usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
    let answer = read(body).unwrap();
    assert_eq!(answer.text, "hi é");
    assert_eq!(answer.finish_reason.as_deref(), Some("stop"));
    assert_eq!(answer.usage, Some(Usage { prompt_tokens: 1, completion_tokens: 2 }));
    assert!(answer.complete);
}

#[test]
fn an_answer_without_finish_reason_is_not_complete() {
    let without = br#"{"choices":[{"index":0,"message":{"content":null},"finish_reason":null}]}"#;
    assert!(!read(without).unwrap().complete);
    assert!(!read(br#"{"choices":[]}"#).unwrap().complete);
    assert_eq!(read(br#"{"object":"list"}"#), Err(CompletionError::Not(COMPLETION)));
}

#[test]
fn no_debug_text_holds_what_was_said() {
    let plain = br#"{"object":"chat.completion","choices":[{"message":{"content":"s3cret"},"finish_reason":"stop"}]}"#;
    let chunk = br#"{"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"s3cret"}}]}"#;
    let answer = read(plain).unwrap();
    let piece = Assembler::new().push(chunk).unwrap();
    assert_eq!((answer.text.as_str(), piece.text.as_str()), ("s3cret", "s3cret"));
    let event = crate::server::sse::Event { event: Bytes::new(), data: Bytes::from_static(b"s3cret") };
    let cached = crate::server::cache::CachedAnswer { completion: Bytes::from_static(plain) };
    let shown = format!("{answer:?} {piece:?} {:?} {event:?} {cached:?}", chunks(plain, "id", 1).unwrap());
    assert!(!shown.contains("s3cret") && !shown.contains("115"), "{shown}");
    assert!(shown.contains("text_bytes: 6"), "{shown}");
}
