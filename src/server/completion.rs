//! Chat completions in both forms. In: a plain `chat.completion` or the chunks of a stream. Out: the same answer in the
//! other form, and what limits, cache, conversations and the simple dialect need to know of it.
//!
//! What comes from a backend is not trusted: everything is bounded, and token counts that cannot be are ignored.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::backend::BackendError;
use super::settlement::Usage;

mod assembler;
mod conform;
mod replay;

pub use assembler::{Assembler, Chunk};
pub use conform::Conformer;
pub use replay::{Replay, chunks};

/// Longest answer, plain or assembled from a stream, in bytes.
pub const MAX_BYTES: usize = 32 << 20;
/// Most choices in an answer, and most tool calls in a choice: OpenAI allows 128 of either.
const MAX_PARTS: usize = 128;
/// More tokens than this are no report of a single call: the longest context windows hold ten million.
const MAX_TOKENS: u64 = 100_000_000;

/// Value of `object` in a plain answer.
pub(crate) const COMPLETION: &str = "chat.completion";
/// Value of `object` in a chunk.
pub(crate) const CHUNK: &str = "chat.completion.chunk";

/// Why something from a backend is not a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompletionError {
    /// It is not what it should be.
    #[error("it is not a {0} object")]
    Not(&'static str),
    /// It is over [`MAX_BYTES`] or has too many parts.
    #[error("the answer is larger than 32 MiB or has more than 128 choices or tool calls")]
    TooLarge,
}

impl From<CompletionError> for BackendError {
    fn from(error: CompletionError) -> Self {
        Self::Broken(error.to_string())
    }
}

/// What is read of a plain completion.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Text of choice 0; empty when it has none.
    pub text: String,
    /// `finish_reason` of choice 0.
    pub finish_reason: Option<String>,
    /// What the backend reported, if it can be.
    pub usage: Option<Usage>,
    /// Whether every choice has a `finish_reason`, and there is one.
    pub complete: bool,
}

/// Lengths in place of the text: an answer is not for logs.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("text_bytes", &self.text.len())
            .field("finish_reason", &self.finish_reason)
            .field("usage", &self.usage)
            .field("complete", &self.complete)
            .finish()
    }
}

/// Reads a plain completion.
pub fn read(completion: &[u8]) -> Result<Answer, CompletionError> {
    #[derive(Deserialize)]
    struct Plain<'a> {
        choices: Vec<Choice>,
        #[serde(borrow)]
        usage: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Choice {
        #[serde(default)]
        index: u32,
        message: Message,
        finish_reason: Option<String>,
    }
    #[derive(Deserialize)]
    struct Message {
        content: Option<String>,
    }
    let plain: Plain<'_> =
        serde_json::from_slice(completion).map_err(|_| CompletionError::Not(COMPLETION))?;
    let complete =
        !plain.choices.is_empty() && plain.choices.iter().all(|choice| choice.finish_reason.is_some());
    let usage = plain.usage.and_then(usage);
    let first = plain.choices.into_iter().find(|choice| choice.index == 0);
    let (text, finish_reason) = first.map_or_else(Default::default, |choice| {
        (choice.message.content.unwrap_or_default(), choice.finish_reason)
    });
    Ok(Answer { text, finish_reason, usage, complete })
}

/// Negative, fractional or absurd counts are as good as none.
pub(super) fn usage(raw: &RawValue) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Reported {
        prompt_tokens: u64,
        #[serde(default)]
        completion_tokens: u64,
    }
    let reported: Reported = serde_json::from_str(raw.get()).ok()?;
    let credible = reported.prompt_tokens <= MAX_TOKENS && reported.completion_tokens <= MAX_TOKENS;
    credible.then_some(Usage {
        prompt_tokens: reported.prompt_tokens,
        completion_tokens: reported.completion_tokens,
    })
}

/// The next piece of a text and the rest: a word with the white space in front of it; the last piece also has what
/// white space follows. The pieces of a text, one after the other, are the text.
#[must_use]
pub(crate) fn split_piece(text: &str) -> (&str, &str) {
    let word = text.find(|c: char| !c.is_whitespace()).unwrap_or(text.len());
    let (_, from_word) = text.split_at(word);
    let length = from_word.find(char::is_whitespace).unwrap_or(from_word.len());
    let (piece, rest) = text.split_at(word + length);
    if rest.trim_start().is_empty() { (text, "") } else { (piece, rest) }
}

/// How many pieces [`split_piece`] makes of a text.
#[must_use]
pub(crate) fn count_pieces(text: &str) -> usize {
    if text.is_empty() { 0 } else { text.split_whitespace().count().max(1) }
}

/// A JSON object with its members in the order given.
#[derive(Clone, Default)]
pub(crate) struct Members<'a>(pub Vec<(Cow<'a, str>, Cow<'a, RawValue>)>);

impl<'a> Members<'a> {
    /// Appends a member.
    pub(crate) fn push(&mut self, key: &'a str, value: &(impl Serialize + ?Sized)) {
        if let Ok(value) = serde_json::value::to_raw_value(value) {
            self.0.push((Cow::Borrowed(key), Cow::Owned(value)));
        }
    }
}

impl Serialize for Members<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// What every chunk of a stream begins with; the optional members stand as they came.
#[derive(Clone, Serialize)]
pub(crate) struct Envelope<'a> {
    pub id: Cow<'a, str>,
    pub object: &'static str,
    pub created: u64,
    pub model: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<Cow<'a, RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_fingerprint: Option<Cow<'a, RawValue>>,
}

/// A chunk as it is written.
#[derive(Serialize)]
pub(crate) struct ChunkOut<'a> {
    #[serde(flatten)]
    pub envelope: &'a Envelope<'a>,
    pub choices: Vec<DeltaOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Cow<'a, RawValue>>,
}

/// A choice of a chunk as it is written.
#[derive(Serialize)]
pub(crate) struct DeltaOut<'a> {
    pub index: u32,
    pub delta: Members<'a>,
    pub logprobs: Option<Cow<'a, RawValue>>,
    pub finish_reason: Option<Cow<'a, str>>,
}

impl Envelope<'_> {
    /// Data of a chunk with one choice.
    pub(crate) fn chunk(&self, choice: DeltaOut<'_>) -> Bytes {
        to_bytes(&ChunkOut { envelope: self, choices: vec![choice], usage: None })
    }

    /// Data of the chunk that reports the usage.
    pub(crate) fn usage_chunk(&self, usage: &RawValue) -> Bytes {
        to_bytes(&ChunkOut { envelope: self, choices: Vec::new(), usage: Some(Cow::Borrowed(usage)) })
    }
}

/// JSON of a value whose serialisation cannot fail: no map of it has a key that is not a string.
pub(crate) fn to_bytes(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).map(Bytes::from).unwrap_or_default()
}

#[cfg(test)]
mod tests;
