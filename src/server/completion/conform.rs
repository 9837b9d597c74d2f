//! What a caller may rely on in a stream, whatever the backend sends. In: its chunks. Out: the same bytes, or, where a
//! backend does not keep to OpenAI's form, bytes that do: one `id` and `created` for all, the role in the first delta,
//! usage only for who asked for it.
//!
//! What cannot be known is not made up: tool-call deltas without an index stay so, and no `finish_reason` is added.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::Chunk;
use crate::server::json::{self, Edit, Object};

/// The chunks of one stream on their way to one caller.
pub struct Conformer {
    /// Raw `id` and `created` of all chunks: the first that the backend told, or ours when it told none at first.
    head: Option<(Vec<u8>, Vec<u8>)>,
    include_usage: bool,
    usage_told: bool,
}

impl Conformer {
    /// For a caller that asked for the usage, or did not.
    #[must_use]
    pub fn new(include_usage: bool) -> Self {
        Self { head: None, include_usage, usage_told: false }
    }

    /// What the caller gets of a chunk, of which `chunk` was read: None when nothing.
    pub fn chunk<'d>(&mut self, data: &'d [u8], object: &Object<'_>, chunk: &Chunk) -> Option<Cow<'d, [u8]>> {
        if chunk.usage_only {
            if !self.include_usage {
                return None;
            }
            self.usage_told = true;
        }
        let told = |key, nothing: &[u8]| object.non_null(key).filter(|value| *value != nothing);
        let (id, created) = self.head.get_or_insert_with(|| {
            let id = told("id", b"\"\"").map(<[u8]>::to_vec);
            let created = told("created", b"0").map(<[u8]>::to_vec);
            (id.unwrap_or_else(new_id), created.unwrap_or_else(now))
        });
        let choices = with_roles(object, &chunk.roleless);
        let mut edits = Vec::new();
        for (key, value) in [("id", &*id), ("created", &*created)] {
            if object.get(key) != Some(value) {
                edits.push(Edit::Set { key, value });
            }
        }
        if let Some(value) = &choices {
            edits.push(Edit::Set { key: "choices", value });
        }
        // Even `null` is there only because we asked for it.
        if !self.include_usage && object.get("usage").is_some() {
            edits.push(Edit::Remove { key: "usage" });
        }
        Some(if edits.is_empty() { Cow::Borrowed(data) } else { Cow::Owned(object.rewrite(&edits)) })
    }

    /// Whether the caller asked for the usage and has had no chunk of it: some backends put it into another.
    #[must_use]
    pub fn owes_usage(&self) -> bool {
        self.include_usage && !self.usage_told
    }
}

/// The choices with the role in the delta of those that begin without one; None when all have it.
fn with_roles(object: &Object<'_>, roleless: &[u32]) -> Option<Vec<u8>> {
    if roleless.is_empty() {
        return None;
    }
    let choices: Vec<&RawValue> = serde_json::from_slice(object.get("choices")?).ok()?;
    let mut out = Vec::new();
    for raw in choices {
        out.push(if out.is_empty() { b'[' } else { b',' });
        let choice = json::object(raw.get().as_bytes()).ok()?;
        let index = choice.non_null("index").map_or(Some(0), |index| serde_json::from_slice(index).ok())?;
        if !roleless.contains(&index) {
            out.extend_from_slice(raw.get().as_bytes());
            continue;
        }
        let delta = json::object(choice.non_null("delta").unwrap_or(b"{}")).ok()?;
        let delta = delta.rewrite(&[Edit::Set { key: "role", value: b"\"assistant\"" }]);
        out.extend_from_slice(&choice.rewrite(&[Edit::Set { key: "delta", value: &delta }]));
    }
    out.push(b']');
    Some(out)
}

fn new_id() -> Vec<u8> {
    format!("\"chatcmpl-{}\"", uuid::Uuid::new_v4().simple()).into_bytes()
}

fn now() -> Vec<u8> {
    jiff::Timestamp::now().as_second().to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::server::completion::Assembler;

    /// What a caller gets of these chunks, and whether it is still owed the usage.
    fn told(include_usage: bool, chunks: &[&str]) -> (Vec<String>, bool) {
        let (mut assembler, mut conformer) = (Assembler::new(), Conformer::new(include_usage));
        let mut out = Vec::new();
        for data in chunks {
            let object = json::object(data.as_bytes()).unwrap();
            let chunk = assembler.add(&object).unwrap();
            let told = conformer.chunk(data.as_bytes(), &object, &chunk);
            out.extend(told.map(|data| String::from_utf8(data.into_owned()).unwrap()));
        }
        (out, conformer.owes_usage())
    }

    const ROLE: &str = r#"{"id":"a","created":1, "choices":[{"index":0,"delta":{"role":"assistant"}}]}"#;
    const WORD: &str = r#"{"id":"a","created":1,"choices":[{"delta":{"content":"x"}, "index":0}],"b":1.50}"#;
    const USAGE: &str = r#"{"id":"a","created":1,"choices":[],"usage":{"prompt_tokens":1}}"#;

    #[test]
    fn what_keeps_to_the_form_stays_as_it_came() {
        assert_eq!(told(true, &[ROLE, WORD, USAGE]).0, [ROLE, WORD, USAGE]);
        assert_eq!(told(false, &[ROLE, WORD, USAGE]).0, [ROLE, WORD]);
    }

    #[test]
    fn all_chunks_have_the_id_and_the_time_of_the_first() {
        let other = WORD.replace("\"a\"", "\"b\"").replace("\"created\":1", "\"created\":2");
        assert_eq!(told(true, &[ROLE, &other]).0, [ROLE, WORD]);
        let absent = r#"{"choices":[{"index":0,"delta":{"role":"assistant"}}]}"#;
        let empty = r#"{"id":"","created":0,"choices":[{"index":0,"delta":{"role":"assistant"}}]}"#;
        for first in [absent, empty] {
            let (chunks, _) = told(true, &[first, WORD]);
            let [first, second] = [&chunks[0], &chunks[1]].map(|c| serde_json::from_str::<Value>(c).unwrap());
            assert!(first["id"].as_str().unwrap().starts_with("chatcmpl-"), "{first}");
            assert!(first["created"].as_u64().unwrap() > 1_700_000_000, "{first}");
            assert_eq!((&first["id"], &first["created"]), (&second["id"], &second["created"]));
        }
    }

    #[test]
    fn the_first_delta_of_every_choice_has_the_role() {
        let both = r#"{"id":"a","created":1,"choices":[{"index":1,"delta":{"role":"assistant","content":"y"}},{"index":2,"delta":null}]}"#;
        let (chunks, _) = told(true, &[WORD, both, WORD]);
        let role = |chunk: usize, choice: usize| {
            serde_json::from_str::<Value>(&chunks[chunk]).unwrap()["choices"][choice]["delta"]["role"].clone()
        };
        assert_eq!(role(0, 0), "assistant");
        assert_eq!((role(1, 0), role(1, 1)), (json!("assistant"), json!("assistant")));
        assert_eq!(chunks[2], WORD, "only the first");
        let expected = r#"[{"delta":{"content":"x","role":"assistant"}, "index":0}],"b":1.50}"#;
        assert!(chunks[0].ends_with(expected), "the rest is as it came: {}", chunks[0]);
    }

    #[test]
    fn usage_is_for_who_asked_and_is_owed_when_it_came_with_a_choice() {
        let null = ROLE.replace("]}", "],\"usage\":null}");
        let within = WORD.replace("\"b\":1.50", "\"usage\":{\"prompt_tokens\":1}");
        let (chunks, owed) = told(false, &[&null, &within, USAGE]);
        assert_eq!((chunks.len(), owed), (2, false));
        assert!(chunks.iter().all(|chunk| !chunk.contains("usage")), "{chunks:?}");
        assert_eq!(told(true, &[&null, &within]), (vec![null.clone(), within], true));
        assert!(!told(true, &[&null, USAGE]).1);
    }
}
