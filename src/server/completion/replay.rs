//! From a plain answer to a stream. In: a `chat.completion`. Out: the data of the chunks that say the same.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{CHUNK, COMPLETION, CompletionError, DeltaOut, Envelope, Members, count_pieces, split_piece};
use crate::server::json::{self, Edit, Object};

/// Most chunks that a text is split into: each costs some 200 bytes on top of its text.
const MAX_PIECES: usize = 512;

/// A plain answer as a stream.
#[derive(Clone, PartialEq, Eq)]
pub struct Replay {
    /// Data of the chunks in order: the role first, `finish_reason` last.
    pub chunks: Vec<Bytes>,
    /// Data of the chunk with the usage, for callers that asked for it; None when the answer has no usage.
    pub usage: Option<Bytes>,
}

/// Lengths in place of the text: an answer is not for logs.
impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay")
            .field("chunks", &self.chunks.len())
            .field("usage", &self.usage.is_some())
            .finish()
    }
}

const NOT_ONE: CompletionError = CompletionError::Not(COMPLETION);

/// Splits a plain answer into chunks with this id and this time (seconds since 1970).
pub fn chunks(completion: &[u8], id: &str, created: u64) -> Result<Replay, CompletionError> {
    let object = json::object(completion).map_err(|_| NOT_ONE)?;
    let envelope = Envelope {
        id: Cow::Borrowed(id),
        object: CHUNK,
        created,
        model: Cow::Owned(parse(&object, "model")?.unwrap_or_default()),
        service_tier: parse::<&RawValue>(&object, "service_tier")?.map(Cow::Borrowed),
        system_fingerprint: parse::<&RawValue>(&object, "system_fingerprint")?.map(Cow::Borrowed),
    };
    let choices: Vec<&RawValue> = parse(&object, "choices")?.ok_or(NOT_ONE)?;
    let mut out = Vec::new();
    for choice in choices {
        for delta in choice_deltas(choice)? {
            out.push(envelope.chunk(delta));
        }
    }
    let usage = parse::<&RawValue>(&object, "usage")?.map(|usage| envelope.usage_chunk(usage));
    Ok(Replay { chunks: out, usage })
}

fn choice_deltas(raw: &RawValue) -> Result<Vec<DeltaOut<'_>>, CompletionError> {
    let choice = json::object(raw.get().as_bytes()).map_err(|_| NOT_ONE)?;
    let index = parse(&choice, "index")?.unwrap_or(0);
    let message = json::object(choice.get("message").ok_or(NOT_ONE)?).map_err(|_| NOT_ONE)?;
    let delta = |delta| DeltaOut { index, delta, logprobs: None, finish_reason: None };

    let mut role = Members::default();
    role.push("role", parse::<Cow<'_, str>>(&message, "role")?.as_deref().unwrap_or("assistant"));
    // Members that are not split go along with the role, as they are.
    for (key, value) in message.members() {
        if !["role", "content", "refusal", "tool_calls"].contains(&key) && value != b"null" {
            let value: &RawValue = serde_json::from_slice(value).map_err(|_| NOT_ONE)?;
            role.0.push((Cow::Owned(key.to_owned()), Cow::Borrowed(value)));
        }
    }
    let mut out = vec![delta(role)];

    // Probabilities belong to tokens: with them the text stays in one piece.
    let mut logprobs = parse::<&RawValue>(&choice, "logprobs")?.map(Cow::Borrowed);
    if let Some(content) = parse::<String>(&message, "content")? {
        let limit = if logprobs.is_some() { 1 } else { MAX_PIECES };
        for piece in grouped(&content, limit) {
            let mut part = Members::default();
            part.push("content", piece);
            out.push(DeltaOut { logprobs: logprobs.take(), ..delta(part) });
        }
    }
    if let Some(refusal) = parse::<String>(&message, "refusal")? {
        let mut part = Members::default();
        part.push("refusal", &refusal);
        out.push(delta(part));
    }
    let calls: Vec<&RawValue> = parse(&message, "tool_calls")?.unwrap_or_default();
    for (position, call) in calls.into_iter().enumerate() {
        let call = json::object(call.get().as_bytes()).map_err(|_| NOT_ONE)?;
        let call = call.rewrite(&[Edit::Set { key: "index", value: position.to_string().as_bytes() }]);
        let call: &RawValue = serde_json::from_slice(&call).map_err(|_| NOT_ONE)?;
        let mut part = Members::default();
        part.push("tool_calls", &[call]);
        out.push(delta(part));
    }
    let finish_reason = parse::<String>(&choice, "finish_reason")?.map(Cow::Owned);
    out.push(DeltaOut { logprobs, finish_reason, ..delta(Members::default()) });
    Ok(out)
}

/// A text in word pieces, or in runs of them when there would be more than `limit`. An empty text is one piece: it is
/// not the same as none.
fn grouped(text: &str, limit: usize) -> impl Iterator<Item = &str> {
    let words = count_pieces(text).div_ceil(limit);
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut length = 0;
        for _ in 0..words {
            length += split_piece(text.get(length..)?).0.len();
        }
        let (piece, after) = text.split_at(length);
        rest = (!after.is_empty()).then_some(after);
        Some(piece)
    })
}

/// A member of this type; None when it is not there or null.
fn parse<'a, T: Deserialize<'a>>(object: &Object<'a>, key: &str) -> Result<Option<T>, CompletionError> {
    object.non_null(key).map(|value| serde_json::from_slice(value).map_err(|_| NOT_ONE)).transpose()
}
