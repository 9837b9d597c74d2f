//! The built-in backend: answers with the last user message, word by word. In: a chat completion request. Out: the
//! same content every time, under a new id. For demos, tests and probes; it needs no network and no key. Vectors for
//! texts it has too.
//!
//! A token is a word. The answer stops after `max_completion_tokens` or `max_tokens` of them, as a model's would.

use std::borrow::Cow;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{Backend, BackendError, UpstreamAnswer, UpstreamRequest};
use crate::server::completion::{
    CHUNK, COMPLETION, DeltaOut, Envelope, Members, count_pieces, split_piece, to_bytes,
};
use crate::server::operation::Operation;

mod embeddings;

/// The built-in backend.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Echo {
    /// It has no settings.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl Backend for Echo {
    fn call(&self, request: UpstreamRequest) -> BoxFuture<'_, Result<UpstreamAnswer, BackendError>> {
        request.marks.written.set();
        let answered = match request.operation {
            Operation::Chat => answer(&request),
            Operation::Embeddings => embeddings::answer(&request.body)
                .map(|body| UpstreamAnswer::Complete { body, request_id: Some(request_id()) }),
        };
        Box::pin(std::future::ready(answered))
    }
}

/// What is read of a request; everything else is ignored, as the answer does not depend on it.
#[derive(Deserialize)]
struct ChatRequest {
    model: String,
    messages: Vec<Message>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    stream_options: Option<StreamOptions>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: Option<Content>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    text: Option<String>,
}

impl Message {
    fn text(&self) -> Cow<'_, str> {
        match &self.content {
            None => Cow::Borrowed(""),
            Some(Content::Text(text)) => Cow::Borrowed(text),
            Some(Content::Parts(parts)) => parts.iter().filter_map(|part| part.text.as_deref()).collect(),
        }
    }
}

/// What is answered, before it has a form.
struct Reply {
    id: String,
    created: u64,
    model: String,
    text: String,
    finish_reason: &'static str,
    usage: Usage,
}

#[derive(Clone, Copy, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are OpenAI's")]
struct Usage {
    prompt_tokens: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens: Option<usize>,
    total_tokens: usize,
}

fn answer(request: &UpstreamRequest) -> Result<UpstreamAnswer, BackendError> {
    let stream = request.stream;
    let request: ChatRequest = serde_json::from_slice(&request.body).map_err(|_| {
        rejected(
            "messages",
            "a request needs `model` and `messages`, each message a `role` and text or parts as `content`",
        )
    })?;
    let include_usage = request.stream_options.as_ref().is_some_and(|options| options.include_usage);
    let reply = reply(request)?;
    let request_id = Some(request_id());
    Ok(if stream {
        UpstreamAnswer::Stream {
            events: stream::iter(reply.chunks(include_usage)?.map(Ok)).boxed(),
            request_id,
        }
    } else {
        UpstreamAnswer::Complete { body: reply.plain(), request_id }
    })
}

fn request_id() -> String {
    format!("echo-{}", uuid::Uuid::new_v4().simple())
}

fn rejected(param: &str, message: &str) -> BackendError {
    BackendError::Rejected {
        status: 400,
        message: message.to_owned(),
        kind: Some("invalid_request_error".to_owned()),
        param: Some(param.to_owned()),
        code: None,
    }
}

fn reply(request: ChatRequest) -> Result<Reply, BackendError> {
    let (limit, param) = match request.max_completion_tokens {
        Some(limit) => (Some(limit), "max_completion_tokens"),
        None => (request.max_tokens, "max_tokens"),
    };
    if limit == Some(0) {
        return Err(rejected(param, "the longest answer must be at least 1 token"));
    }
    let Some(last) = request.messages.iter().rev().find(|message| message.role == "user") else {
        return Err(rejected("messages", "there is nothing to echo: add a message with the role `user`"));
    };
    let mut text = last.text().into_owned();
    let words = count_pieces(&text);
    let kept = limit.and_then(|limit| usize::try_from(limit).ok()).map_or(words, |limit| limit.min(words));
    if kept < words {
        let mut length = 0;
        for _ in 0..kept {
            length += split_piece(text.split_at(length).1).0.len();
        }
        text.truncate(length);
    }
    let prompt_tokens =
        request.messages.iter().map(|message| message.text().split_whitespace().count()).sum::<usize>();
    Ok(Reply {
        id: format!("chatcmpl-{}", uuid::Uuid::new_v4().simple()),
        created: u64::try_from(Timestamp::now().as_second()).unwrap_or_default(),
        model: request.model,
        text,
        finish_reason: if kept < words { "length" } else { "stop" },
        usage: Usage { prompt_tokens, completion_tokens: Some(kept), total_tokens: prompt_tokens + kept },
    })
}

impl Reply {
    fn plain(&self) -> Bytes {
        let mut message = Members::default();
        message.push("role", "assistant");
        message.push("content", &self.text);
        message.push("refusal", &());
        let mut choice = Members::default();
        choice.push("index", &0);
        choice.push("message", &message);
        choice.push("logprobs", &());
        choice.push("finish_reason", self.finish_reason);
        let mut out = Members::default();
        out.push("id", &self.id);
        out.push("object", COMPLETION);
        out.push("created", &self.created);
        out.push("model", &self.model);
        out.push("choices", &[choice]);
        out.push("usage", &self.usage);
        to_bytes(&out)
    }

    /// Made one by one as they are asked for: a long message has many.
    fn chunks(self, include_usage: bool) -> Result<impl Iterator<Item = Bytes> + Send, BackendError> {
        let usage: Box<RawValue> =
            to_raw_value(&self.usage).map_err(|error| BackendError::Broken(error.to_string()))?;
        let envelope = Envelope {
            id: Cow::Owned(self.id),
            object: CHUNK,
            created: self.created,
            model: Cow::Owned(self.model),
            service_tier: None,
            system_fingerprint: None,
        };
        let (text, finish_reason) = (self.text, self.finish_reason);
        let mut next = Some(Step::Role);
        Ok(std::iter::from_fn(move || {
            let mut delta = Members::default();
            let mut reason = None;
            let after_text = |at: usize| if at < text.len() { Step::Text(at) } else { Step::Finish };
            match next.take()? {
                Step::Role => {
                    delta.push("role", "assistant");
                    delta.push("content", "");
                    next = Some(after_text(0));
                }
                Step::Text(at) => {
                    let (piece, _) = split_piece(text.split_at(at).1);
                    delta.push("content", piece);
                    next = Some(after_text(at + piece.len()));
                }
                Step::Finish => {
                    reason = Some(Cow::Borrowed(finish_reason));
                    next = include_usage.then_some(Step::Usage);
                }
                Step::Usage => return Some(envelope.usage_chunk(&usage)),
            }
            Some(envelope.chunk(DeltaOut { index: 0, delta, logprobs: None, finish_reason: reason }))
        }))
    }
}

enum Step {
    Role,
    /// From this byte of the text.
    Text(usize),
    Finish,
    Usage,
}

#[cfg(test)]
mod tests {
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
        zero["max_tokens"] = json!(0);
        for (body, param) in [
            (json!({"model": "m", "messages": [{"role": "system", "content": "x"}]}), "messages"),
            (json!({"model": "m", "messages": "x"}), "messages"),
            (zero, "max_tokens"),
        ] {
            match plain(body).await {
                Err(BackendError::Rejected { status: 400, param: Some(found), .. }) => {
                    assert_eq!(found, param);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
