//! The built-in backend: answers with the last user message, word by word. In: a chat completion request. Out: the
//! same content every time, under a new id. For demos, tests and probes; it needs no network and no key. Vectors for
//! texts it has too.
//!
//! A token is a word. As a model's would, an answer stops after `max_completion_tokens` or `max_tokens` of them and before
//! the first of the texts in `stop`, and there are `n` of it: all the same, since this model has no other ideas.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{Backend, BackendError, UpstreamAnswer, UpstreamRequest};
use crate::server::completion::{
    CHUNK, COMPLETION, DeltaOut, Envelope, Members, count_pieces, split_piece, to_bytes,
};
use crate::server::operation::Operation;

mod embeddings;

/// Bytes of all choices of an answer together.
const MOST_BYTES: usize = 16 << 20;

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
    n: Option<u32>,
    stop: Option<Stop>,
    stream_options: Option<StreamOptions>,
}

/// What an answer ends before.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Several(Vec<String>),
}

impl Stop {
    /// Where a text is to end. An empty one would end every answer before it begins, which nobody means.
    fn find(&self, text: &str) -> Option<usize> {
        let ends = match self {
            Self::One(end) => std::slice::from_ref(end),
            Self::Several(ends) => ends,
        };
        let ends = ends.iter().filter(|end| !end.is_empty());
        ends.filter_map(|end| text.find(end.as_str())).min()
    }
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

enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// By hand, so that an error in a part has the whole path of what is wrong.
impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContentVisitor;

        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of parts")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, parts: A) -> Result<Content, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(parts)).map(Content::Parts)
            }
        }

        deserializer.deserialize_any(ContentVisitor)
    }
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
    /// Of each choice.
    text: String,
    choices: u32,
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
    let request: ChatRequest =
        serde_json::from_slice(&request.body).map_err(|_| unreadable(&request.body))?;
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

/// The refusal of a request that is not in the form that was expected, by the path of what is not.
fn unreadable(body: &[u8]) -> BackendError {
    let read: Result<ChatRequest, _> =
        serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(body));
    let path = read.err().map(|error| error.path().to_string()).unwrap_or_default();
    let allowed = match path.rsplit('.').next().unwrap_or_default() {
        "model" | "role" | "text" => "a string",
        "content" => "a string or an array of parts",
        "messages" => "an array of at least one message object, each with a `role`",
        "max_tokens" | "max_completion_tokens" | "n" => "a whole number, at least 1",
        "stop" => "a string or an array of strings",
        element if element.ends_with(']') => "an object",
        _ => return rejected("messages", "a request needs `model` and `messages`, each message a `role`"),
    };
    rejected(&path, &format!("`{path}` must be {allowed}"))
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
    let mut finish_reason = "stop";
    if kept < words {
        let mut length = 0;
        for _ in 0..kept {
            length += split_piece(text.split_at(length).1).0.len();
        }
        text.truncate(length);
        finish_reason = "length";
    }
    if let Some(end) = request.stop.as_ref().and_then(|stop| stop.find(&text)) {
        text.truncate(end);
        finish_reason = "stop";
    }
    let choices = request.n.unwrap_or(1).max(1);
    let each = usize::try_from(choices).unwrap_or(usize::MAX);
    if text.len().saturating_mul(each) > MOST_BYTES && choices > 1 {
        return Err(rejected(
            "n",
            "so many choices of so long a message are too much: `n` times its length must be at most 16 MiB",
        ));
    }
    let prompt_tokens =
        request.messages.iter().map(|message| message.text().split_whitespace().count()).sum::<usize>();
    let completion_tokens = count_pieces(&text) * each;
    Ok(Reply {
        id: format!("chatcmpl-{}", uuid::Uuid::new_v4().simple()),
        created: u64::try_from(Timestamp::now().as_second()).unwrap_or_default(),
        model: request.model,
        text,
        choices,
        finish_reason,
        usage: Usage {
            prompt_tokens,
            completion_tokens: Some(completion_tokens),
            total_tokens: prompt_tokens + completion_tokens,
        },
    })
}

impl Reply {
    fn plain(&self) -> Bytes {
        let mut message = Members::default();
        message.push("role", "assistant");
        message.push("content", &self.text);
        message.push("refusal", &());
        let choice = |index: u32| {
            let mut choice = Members::default();
            choice.push("index", &index);
            choice.push("message", &message);
            choice.push("logprobs", &());
            choice.push("finish_reason", self.finish_reason);
            choice
        };
        let choices: Vec<_> = (0..self.choices).map(choice).collect();
        let mut out = Members::default();
        out.push("id", &self.id);
        out.push("object", COMPLETION);
        out.push("created", &self.created);
        out.push("model", &self.model);
        out.push("choices", &choices);
        out.push("usage", &self.usage);
        to_bytes(&out)
    }

    /// Made one by one as they are asked for: a long message has many. The choices come word by word in turn.
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
        let (text, choices, finish_reason) = (self.text, self.choices, self.finish_reason);
        let mut next = Some((Step::Role, 0));
        Ok(std::iter::from_fn(move || {
            let mut delta = Members::default();
            let mut reason = None;
            let after_text = |at: usize| if at < text.len() { Step::Text(at) } else { Step::Finish };
            let (step, index) = next.take()?;
            let after = match step {
                Step::Role => {
                    delta.push("role", "assistant");
                    delta.push("content", "");
                    Some(after_text(0))
                }
                Step::Text(at) => {
                    let (piece, _) = split_piece(text.split_at(at).1);
                    delta.push("content", piece);
                    Some(after_text(at + piece.len()))
                }
                Step::Finish => {
                    reason = Some(Cow::Borrowed(finish_reason));
                    include_usage.then_some(Step::Usage)
                }
                Step::Usage => return Some(envelope.usage_chunk(&usage)),
            };
            next = if index + 1 < choices { Some((step, index + 1)) } else { after.map(|step| (step, 0)) };
            Some(envelope.chunk(DeltaOut { index, delta, logprobs: None, finish_reason: reason }))
        }))
    }
}

/// What the next chunk is, of each choice in turn.
#[derive(Clone, Copy)]
enum Step {
    Role,
    /// From this byte of the text.
    Text(usize),
    Finish,
    /// Of all choices.
    Usage,
}

#[cfg(test)]
mod tests;
