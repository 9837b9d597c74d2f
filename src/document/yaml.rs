//! YAML with positions. In: text. Out: for each document its JSON value, as `kubectl` would send it, and where each
//! key and value stands; or the first syntax error.
//!
//! Every bound of the parser is far above any real ChatService and far below what could hurt: a bomb of aliases ends
//! with an error, not with the machine's memory.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Location, MessageFormatter, Spanned, UserMessageFormatter};

use super::join;

/// Deepest nesting; the recursion below is bounded by it.
const DEPTH_MAX: usize = 64;
const NODES_MAX: usize = 20_000;
const ALIASES_MAX: usize = 100;
const REPLAYED_EVENTS_MAX: usize = 20_000;

/// One document of a file.
pub(super) struct Document {
    /// What it says.
    pub value: Value,
    positions: HashMap<String, Position>,
}

/// Of what a position is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The field's name.
    Key,
    /// What stands there; of a mapping or list its name too, because that is where a reader looks for it.
    Value,
}

#[derive(Clone, Copy)]
struct Position {
    key: (u64, u64),
    value: (u64, u64),
}

/// The text is not YAML as we accept it.
pub(super) struct SyntaxError {
    pub line: u64,
    pub column: u64,
    pub message: String,
}

impl Document {
    /// Line and column of the field at a JSON pointer, or of its nearest ancestor that exists.
    pub fn position(&self, pointer: &str, part: Part) -> (u64, u64) {
        let mut nearest = pointer;
        loop {
            if let Some(position) = self.positions.get(nearest) {
                return if part == Part::Key || nearest != pointer { position.key } else { position.value };
            }
            let Some(slash) = nearest.rfind('/') else { return (1, 1) };
            nearest = &nearest[..slash];
        }
    }
}

/// All documents of a text that are not empty.
pub(super) fn parse(text: &str) -> Result<Vec<Document>, SyntaxError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_aliases: ALIASES_MAX,
            max_documents: ALIASES_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: REPLAYED_EVENTS_MAX },
        with_snippet: false,
    };
    let nodes: Vec<Spanned<Node>> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
            let (line, column) = error.location().map_or((1, 1), place);
            let message = UserMessageFormatter.format_message(&error).into_owned();
            SyntaxError { line, column, message: format!("not valid YAML: {message}") }
        })?;
    let mut documents = Vec::new();
    for node in nodes {
        let mut positions = HashMap::new();
        let start = place(node.referenced);
        let value = node.value.into_value("", Position { key: start, value: start }, &mut positions);
        if !value.is_null() {
            documents.push(Document { value, positions });
        }
    }
    Ok(documents)
}

fn place(location: Location) -> (u64, u64) {
    (location.line().max(1), location.column().max(1))
}

/// YAML's untyped tree; keys keep their order and their place.
enum Node {
    Null,
    Bool(bool),
    Number(Number),
    /// Infinite or not a number: JSON has no such thing, so the text stands for it and is refused by its type.
    Text(String),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl Node {
    fn into_value(self, pointer: &str, at: Position, positions: &mut HashMap<String, Position>) -> Value {
        positions.insert(pointer.to_owned(), at);
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(value),
            Self::Number(value) => Value::Number(value),
            Self::Text(value) => Value::String(value),
            Self::List(items) => {
                let items = items.into_iter().enumerate().map(|(index, item)| {
                    let start = place(item.referenced);
                    let pointer = join(pointer, &index.to_string());
                    item.value.into_value(&pointer, Position { key: start, value: start }, positions)
                });
                Value::Array(items.collect())
            }
            Self::Map(entries) => {
                let mut map = Map::new();
                for (key, node) in entries {
                    let name = place(key.referenced);
                    let scalar = !matches!(node.value, Self::List(_) | Self::Map(_) | Self::Null);
                    let value = if scalar { place(node.referenced) } else { name };
                    let at = Position { key: name, value };
                    let child = node.value.into_value(&join(pointer, &key.value), at, positions);
                    map.insert(key.value, child);
                }
                Value::Object(map)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON knows")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    /// As Go writes JSON, `3.0` is `3`: an integer to the API server.
    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53, so exact")]
        let whole = (value.fract() == 0.0 && value.abs() < 9e15).then_some(value as i64);
        Ok(match (whole, Number::from_f64(value)) {
            (Some(whole), _) => Node::Number(whole.into()),
            (None, Some(number)) => Node::Number(number),
            (None, None) => Node::Text(value.to_string()),
        })
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Node::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn one(text: &str) -> Document {
        let mut documents = parse(text).unwrap_or_else(|error| panic!("{}", error.message));
        assert_eq!(documents.len(), 1);
        documents.remove(0)
    }

    #[test]
    fn values_become_what_kubectl_would_send() {
        let text = "{a: 1, b: 1.5, c: 3.0, d: '1', e: true, f: on, g: null, h: , i: [x, 2], j: 0x10, k: -4}";
        assert_eq!(
            one(text).value,
            json!({"a": 1, "b": 1.5, "c": 3, "d": "1", "e": true, "f": true, "g": null, "h": null,
                   "i": ["x", 2], "j": 16, "k": -4})
        );
    }

    #[test]
    fn every_field_has_its_place() {
        let document = one("a:\n  b: 1\n  c:\n  - x: y\n  - z\n");
        for (pointer, part, place) in [
            ("/a", Part::Key, (1, 1)),
            ("/a/b", Part::Key, (2, 3)),
            ("/a/b", Part::Value, (2, 6)),
            ("/a/c", Part::Value, (3, 3)),
            ("/a/c/0/x", Part::Value, (4, 8)),
            ("/a/c/1", Part::Value, (5, 5)),
            ("/a/c/1/not/there", Part::Value, (5, 5)),
            ("/nothing", Part::Value, (1, 1)),
        ] {
            assert_eq!(document.position(pointer, part), place, "{pointer} {part:?}");
        }
    }

    #[test]
    fn empty_documents_are_skipped() {
        let documents = parse("---\n# nothing\n---\na: 1\n---\n---\nb: 2\n").unwrap_or_else(|_| panic!());
        assert_eq!(documents.len(), 2);
        assert_eq!(documents[1].position("/b", Part::Value), (7, 4));
    }

    #[test]
    fn what_is_not_yaml_is_an_error_with_its_place() {
        let bomb = (0..12).fold("a0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned(), |text, i| {
            let alias = format!("*a{i}");
            text + &format!("a{}: &a{} [{}]\n", i + 1, i + 1, vec![alias; 8].join(", "))
        });
        let deep = "[".repeat(200);
        for (text, line, words) in [
            ("a: 1\na: 2\n", 2, "duplicate"),
            ("a:\n\tb: 1\n", 2, "tab"),
            ("a: [1\nb: 2\n", 2, ""),
            ("a: *nowhere\n", 1, "unknown"),
            (bomb.as_str(), 3, "complex"),
            (deep.as_str(), 1, ""),
        ] {
            let error = parse(text).err().unwrap_or_else(|| panic!("accepted: {text}"));
            let shown = format!("{}:{}: {}", error.line, error.column, error.message);
            assert!(!shown.contains("Options"), "names no settings of the parser: {shown}");
            assert!(error.line >= line && error.message.to_lowercase().contains(words), "{shown}");
        }
    }
}
