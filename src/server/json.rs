//! One validating pass over the bytes of a JSON object. In: a body as it came. Out: its top-level members as raw slices
//! in order, and the same bytes with some of those members changed.
//!
//! Bodies are never rebuilt from a parsed tree: that would reorder keys, round long integers and keep the last of
//! duplicate keys, so what was checked and priced would not be what is forwarded. Hence also the strictness: whatever
//! two parsers could read differently (duplicate keys, lone surrogates, numbers beyond `f64`) is refused.

use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;

// Named, so that the fuzz target finds it too.
#[path = "json/scanner.rs"]
mod scanner;

use scanner::Scanner;

/// Deepest nesting of objects and arrays, the outermost counted.
pub const MAX_DEPTH: usize = 128;

/// Why a body was refused. Holds a place and a fixed sentence, never a piece of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at byte {offset}")]
pub struct JsonError {
    /// Bytes in front of the problem.
    pub offset: usize,
    problem: &'static str,
}

/// A member is there, with another type than asked for. Without detail: serde's own message quotes the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value has another type")]
pub struct WrongType;

/// One top-level member.
#[derive(Debug)]
struct Member<'a> {
    key: Cow<'a, str>,
    /// From after the `{` or `,` in front of it to the `,` or `}` behind it: white space included.
    outer: Range<usize>,
    /// From the key's quote to the end of the value.
    inner: Range<usize>,
    value: Range<usize>,
}

/// A valid JSON object.
#[derive(Debug)]
pub struct Object<'a> {
    body: &'a [u8],
    /// Offset after the `{`.
    open: usize,
    /// Offset of the `}`.
    close: usize,
    members: Vec<Member<'a>>,
}

/// One change of a top-level member.
#[derive(Clone, Copy, Debug)]
pub enum Edit<'e> {
    /// Replaces the value in place, or appends the member at the end.
    Set {
        /// The member, not escaped.
        key: &'e str,
        /// JSON text; written as it is.
        value: &'e [u8],
    },
    /// Takes the member out, if there is one.
    Remove {
        /// The member, not escaped.
        key: &'e str,
    },
}

impl<'e> Edit<'e> {
    fn key(&self) -> &'e str {
        match self {
            Self::Set { key, .. } | Self::Remove { key } => key,
        }
    }
}

/// Validates a body that must be one JSON object and nothing else.
pub fn object(body: &[u8]) -> Result<Object<'_>, JsonError> {
    let text = std::str::from_utf8(body)
        .map_err(|error| JsonError { offset: error.valid_up_to(), problem: "invalid UTF-8" })?;
    Scanner::new(text).document()
}

impl<'a> Object<'a> {
    /// Length of the body in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// The raw JSON text of a member.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'a [u8]> {
        let member = self.members.iter().find(|member| member.key == key)?;
        self.body.get(member.value.clone())
    }

    /// The raw text of a member that is there and not `null`.
    #[must_use]
    pub fn non_null(&self, key: &str) -> Option<&'a [u8]> {
        self.get(key).filter(|value| *value != b"null")
    }

    /// A member as a Rust value; None when it is not there.
    #[must_use]
    pub fn parse<T: Deserialize<'a>>(&self, key: &str) -> Option<Result<T, WrongType>> {
        self.get(key).map(|value| serde_json::from_slice(value).map_err(|_| WrongType))
    }

    /// Keys and raw values, in order.
    pub fn members(&self) -> impl Iterator<Item = (&str, &'a [u8])> {
        self.members
            .iter()
            .map(|member| (member.key.as_ref(), self.body.get(member.value.clone()).unwrap_or_default()))
    }

    /// The body with some members changed; every other byte stays as it is. Of several edits of one key the last counts.
    #[must_use]
    pub fn rewrite(&self, edits: &[Edit<'_>]) -> Vec<u8> {
        let last = |key: &str| edits.iter().rev().find(|edit| edit.key() == key);
        let grown: usize = edits
            .iter()
            .map(|edit| match edit {
                Edit::Set { key, value } => key.len() + value.len() + 8,
                Edit::Remove { .. } => 0,
            })
            .sum();
        let mut out = Vec::with_capacity(self.body.len() + grown);
        let slice = |range: Range<usize>| self.body.get(range).unwrap_or_default();

        out.extend_from_slice(slice(0..self.open));
        // White space behind the last value: what is appended goes in front of it.
        let mut trail = self.members.is_empty().then_some(self.open..self.close);
        let mut first = true;
        for member in &self.members {
            let edit = last(&member.key);
            if matches!(edit, Some(Edit::Remove { .. })) {
                continue;
            }
            if let Some(trail) = trail.replace(member.inner.end..member.outer.end) {
                out.extend_from_slice(slice(trail));
            }
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            match edit {
                Some(Edit::Set { value, .. }) => {
                    out.extend_from_slice(slice(member.outer.start..member.value.start));
                    out.extend_from_slice(value);
                }
                _ => out.extend_from_slice(slice(member.outer.start..member.inner.end)),
            }
        }
        for (position, edit) in edits.iter().enumerate() {
            let Edit::Set { key, value } = edit else { continue };
            let later = edits.iter().skip(position + 1).any(|other| other.key() == *key);
            if later || self.get(key).is_some() {
                continue;
            }
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            out.extend_from_slice(serde_json::Value::from(*key).to_string().as_bytes());
            out.push(b':');
            out.extend_from_slice(value);
        }
        out.extend_from_slice(slice(trail.unwrap_or(0..0)));
        out.extend_from_slice(slice(self.close..self.body.len()));
        out
    }
}

#[cfg(test)]
mod tests;
