//! What the built-in backend answers, plain and streamed.

use super::*;
use crate::server::backend::Deadline;
use crate::server::completion::{Assembler, read};
use async_openai::types::chat::{CreateChatCompletionResponse, CreateChatCompletionStreamResponse};
use serde_json::{Value, json};

fn request(body: &Value, stream: bool) -> UpstreamRequest {
    let deadline = Deadline::new(std::time::Instant::now(), std::time::Duration::from_mins(1));
    let marks = crate::server::backend::attempts::Marks::default();
    UpstreamRequest {
        operation: Operation::Chat,
        body: body.to_string().into(),
        stream,
        deadline,
        marks,
        trace_parent: None,
    }
}

async fn plain(body: Value) -> Result<Bytes, BackendError> {
    let request = request(&body, false);
    match Echo::new().call(request).await? {
        UpstreamAnswer::Complete { body, .. } => Ok(body),
        UpstreamAnswer::Stream { .. } => panic!("a stream for a plain request"),
    }
}

async fn streamed(body: Value) -> Vec<Bytes> {
    let request = request(&body, true);
    match Echo::new().call(request).await.unwrap() {
        UpstreamAnswer::Stream { events, .. } => events.map(Result::unwrap).collect().await,
        UpstreamAnswer::Complete { .. } => panic!("a plain answer for a stream"),
    }
}

fn user(text: &str) -> Value {
    json!({"model": "echo-1", "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": text}]})
}

#[tokio::test]
async fn the_last_user_message_comes_back_with_its_white_space() {
    for text in ["hello", " hello  big\n world ", "", "   ", "é 🦀\u{3000}ü"] {
        let body = plain(user(text)).await.unwrap();
        let answer: CreateChatCompletionResponse = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer.object, "chat.completion");
        assert_eq!(answer.choices[0].message.content.as_deref(), Some(text));
        let chunks = streamed(user(text)).await;
        let mut assembler = Assembler::new();
        for chunk in &chunks {
            let typed: CreateChatCompletionStreamResponse = serde_json::from_slice(chunk).unwrap();
            assert_eq!(typed.object, "chat.completion.chunk");
            assembler.push(chunk).unwrap();
        }
        assert_eq!(assembler.text(), text);
        assert!(assembler.is_complete() && assembler.is_faithful());
    }
}

#[tokio::test]
async fn every_word_is_a_token() {
    let answer = read(&plain(user("one two three")).await.unwrap()).unwrap();
    let usage = answer.usage.unwrap();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (5, 3));
    assert_eq!(answer.finish_reason.as_deref(), Some("stop"));
    // The role, a piece for each word, the reason.
    assert_eq!(streamed(user("one two three")).await.len(), 5);
}

#[tokio::test]
async fn an_answer_stops_at_the_longest_that_was_asked_for() {
    for (field, limit, text, reason) in [
        ("max_tokens", 2, "one two", "length"),
        ("max_completion_tokens", 1, "one", "length"),
        ("max_tokens", 3, "one two three", "stop"),
    ] {
        let mut body = user("one two three");
        body[field] = json!(limit);
        let answer = read(&plain(body.clone()).await.unwrap()).unwrap();
        assert_eq!((answer.text.as_str(), answer.finish_reason.as_deref()), (text, Some(reason)));
        let mut assembler = Assembler::new();
        for chunk in streamed(body).await {
            assembler.push(&chunk).unwrap();
        }
        assert_eq!((assembler.text(), assembler.finish_reason()), (text, Some(reason)));
    }
}

/// The text of each choice and why it ended, plain; a stream says the same.
async fn choices(body: Value) -> Vec<(String, String)> {
    let read = |completion: &[u8]| -> Vec<(String, String)> {
        let answer: CreateChatCompletionResponse = serde_json::from_slice(completion).unwrap();
        let choices = answer.choices.into_iter().enumerate().map(|(index, choice)| {
            assert_eq!(choice.index as usize, index);
            let reason = serde_json::to_value(choice.finish_reason).unwrap();
            (choice.message.content.unwrap(), reason.as_str().unwrap().to_owned())
        });
        choices.collect()
    };
    let plain = read(&plain(body.clone()).await.unwrap());
    let mut assembler = Assembler::new();
    for chunk in streamed(body).await {
        let _: CreateChatCompletionStreamResponse = serde_json::from_slice(&chunk).unwrap();
        assembler.push(&chunk).unwrap();
    }
    assert!(assembler.is_complete() && assembler.is_faithful());
    assert_eq!(read(&assembler.completion()), plain);
    plain
}

#[tokio::test]
async fn an_answer_ends_before_the_first_text_that_it_is_told_to_stop_at() {
    for (stop, text) in [
        (json!("three"), "one two "),
        (json!(["four", "two"]), "one "),
        (json!("wo"), "one t"),
        (json!("one"), ""),
        (json!(["nowhere", ""]), "one two three"),
        (json!([]), "one two three"),
        (json!(""), "one two three"),
        (json!(null), "one two three"),
    ] {
        let mut body = user("one two three");
        body["stop"] = stop.clone();
        assert_eq!(choices(body).await, [(text.to_owned(), "stop".to_owned())], "{stop}");
    }
    // Whichever comes first.
    for (stop, limit, ended) in [
        ("three", 3, ("one two ", "stop")),
        ("three", 2, ("one two", "length")),
        ("wo", 2, ("one t", "stop")),
    ] {
        let mut body = user("one two three");
        body["stop"] = json!(stop);
        body["max_tokens"] = json!(limit);
        assert_eq!(choices(body).await, [(ended.0.to_owned(), ended.1.to_owned())], "{stop} {limit}");
    }
}

#[tokio::test]
async fn there_are_as_many_choices_as_were_asked_for_and_each_of_them_is_paid() {
    let mut body = user("one two three");
    body["n"] = json!(3);
    body["max_tokens"] = json!(2);
    let each = ("one two".to_owned(), "length".to_owned());
    assert_eq!(choices(body.clone()).await, [each.clone(), each.clone(), each]);
    let usage = read(&plain(body.clone()).await.unwrap()).unwrap().usage.unwrap();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (5, 6));
    body["stream_options"] = json!({"include_usage": true});
    let chunks: Vec<Value> =
        streamed(body).await.iter().map(|chunk| serde_json::from_slice(chunk).unwrap()).collect();
    let indices: Vec<_> = chunks.iter().filter_map(|chunk| chunk["choices"][0]["index"].as_u64()).collect();
    assert_eq!(indices, [0, 1, 2].repeat(4), "the role, two words, the reason");
    assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], 6);

    let mut long = user(&"x".repeat(MOST_BYTES / 128 + 1));
    long["n"] = json!(128);
    let refused = plain(long).await;
    assert!(
        matches!(&refused, Err(BackendError::Rejected { status: 400, param: Some(param), .. }) if param == "n")
    );
}

#[tokio::test]
async fn usage_is_streamed_only_when_asked_for() {
    let mut body = user("one two");
    let last: Value = serde_json::from_slice(streamed(body.clone()).await.last().unwrap()).unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    body["stream_options"] = json!({"include_usage": true});
    let last: Value = serde_json::from_slice(streamed(body).await.last().unwrap()).unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"], json!({"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}));
}

#[tokio::test]
async fn text_parts_are_echoed_and_images_are_not() {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": [
        {"type": "text", "text": "look "}, {"type": "image_url", "image_url": {"url": "data:"}},
        {"type": "text", "text": "here"}]}, {"role": "assistant", "content": null}]});
    assert_eq!(read(&plain(body).await.unwrap()).unwrap().text, "look here");
}

#[tokio::test]
async fn the_content_is_the_same_every_time_and_the_id_is_not() {
    let ids = [plain(user("a")).await.unwrap(), plain(user("a")).await.unwrap()]
        .map(|body| serde_json::from_slice::<Value>(&body).unwrap()["id"].as_str().unwrap().to_owned());
    assert_ne!(ids[0], ids[1]);
    assert!(ids[0].starts_with("chatcmpl-"));
}

#[tokio::test]
async fn what_cannot_be_echoed_is_refused_with_what_to_do() {
    let mut zero = user("a");
    let part = |part: &Value| {
        let content = json!([{"type": "text", "text": "a"}, part]);
        json!({"model": "m", "messages": [{"role": "user", "content": content}]})
    };
    zero["max_tokens"] = json!(0);
    for (body, param) in [
        (json!({"model": "m", "messages": [{"role": "system", "content": "x"}]}), "messages"),
        (json!({"model": "m", "messages": "x"}), "messages"),
        (json!({"model": "m"}), "messages"),
        (json!({"model": 1, "messages": []}), "model"),
        (json!({"model": "m", "messages": [{"role": "user", "content": "a"}, "x"]}), "messages[1]"),
        (json!({"model": "m", "messages": [{"role": "user", "content": 5}]}), "messages[0].content"),
        (part(&json!("x")), "messages[0].content[1]"),
        (part(&json!({"type": "text", "text": 5})), "messages[0].content[1].text"),
        (zero, "max_tokens"),
    ] {
        match plain(body).await {
            Err(BackendError::Rejected { status: 400, param: Some(found), message, .. }) => {
                assert_eq!(found, param);
                let named = message.contains(&format!("`{param}` must be"));
                assert!(named || !param.contains('['), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
}
