//! What is said in a response, on either side: messages, calls of functions, and what these returned. In: an item as a
//! caller writes it or the store has it. Out: [`Item`], which is written in the API's full form.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::json;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::server::error::ApiError;
use crate::server::json::{self, Object};
use crate::server::routes::input::{Kind, invalid, unsupported};

/// One item.
#[derive(Clone, PartialEq, Eq)]
pub enum Item {
    /// Something that somebody says.
    Message {
        /// Its id.
        id: String,
        /// Who.
        role: Role,
        /// What, in order.
        content: Vec<Part>,
    },
    /// The model wants a function to be called.
    Call {
        /// Its id.
        id: String,
        /// What its result refers to.
        call_id: String,
        /// The function.
        name: String,
        /// JSON text.
        arguments: String,
    },
    /// What the function returned.
    Output {
        /// Its id.
        id: String,
        /// The call.
        call_id: String,
        /// What it returned.
        output: String,
    },
}

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The person.
    User,
    /// The model.
    Assistant,
    /// Whoever set up the conversation.
    System,
    /// The same by its newer name, which not every backend knows: it goes on as it was written.
    Developer,
}

/// A part of a message.
#[derive(Clone, PartialEq, Eq)]
pub enum Part {
    /// Text of a person or a developer.
    Text(String),
    /// A picture.
    Image {
        /// Where it is, or `data:…`.
        url: String,
        /// How closely it is looked at.
        detail: Option<String>,
    },
    /// Text of the model.
    Said(String),
    /// What the model says in place of an answer.
    Refusal(String),
}

/// A new id of an item.
#[must_use]
pub fn new_id(prefix: &str) -> String {
    format!("{prefix}_{}", Uuid::new_v4().simple())
}

impl Item {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Message { id, .. } | Self::Call { id, .. } | Self::Output { id, .. } => id,
        }
    }

    /// A message of one text.
    #[must_use]
    pub fn user(text: String) -> Self {
        Self::Message { id: new_id("msg"), role: Role::User, content: vec![Part::Text(text)] }
    }

    /// Whether it sets up the conversation.
    #[must_use]
    pub fn is_instruction(&self) -> bool {
        matches!(self, Self::Message { role: Role::System | Role::Developer, .. })
    }
}

impl Part {
    /// Its text, where it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Said(text) => Some(text),
            Self::Image { .. } | Self::Refusal(_) => None,
        }
    }
}

impl Serialize for Part {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => json!({ "type": "input_text", "text": text }),
            Self::Image { url, detail } => {
                json!({ "type": "input_image", "image_url": url, "detail": detail.as_deref().unwrap_or("auto") })
            }
            Self::Said(text) => json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] }),
            Self::Refusal(refusal) => json!({ "type": "refusal", "refusal": refusal }),
        }
        .serialize(serializer)
    }
}

impl Serialize for Item {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_status("completed", serializer)
    }
}

impl Item {
    /// The item, which has got this far.
    pub(super) fn with_status<S: Serializer>(&self, status: &str, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", self.id())?;
        match self {
            Self::Message { role, content, .. } => {
                map.serialize_entry("type", "message")?;
                map.serialize_entry("role", role)?;
                map.serialize_entry("content", content)?;
            }
            Self::Call { call_id, name, arguments, .. } => {
                map.serialize_entry("type", "function_call")?;
                map.serialize_entry("call_id", call_id)?;
                map.serialize_entry("name", name)?;
                map.serialize_entry("arguments", arguments)?;
            }
            Self::Output { call_id, output, .. } => {
                map.serialize_entry("type", "function_call_output")?;
                map.serialize_entry("call_id", call_id)?;
                map.serialize_entry("output", output)?;
            }
        }
        map.serialize_entry("status", status)?;
        map.end()
    }
}

/// An object with the path of its fields, for errors that name them.
struct Place<'a> {
    object: Object<'a>,
    path: &'a str,
}

impl<'a> Place<'a> {
    fn new(raw: &'a RawValue, path: &'a str, allowed: &str) -> Result<Self, ApiError> {
        let bytes = raw.get().as_bytes();
        let object =
            Some(bytes).filter(|bytes| Kind::Object.fits(bytes)).and_then(|bytes| json::object(bytes).ok());
        Ok(Self { object: object.ok_or_else(|| invalid(path, allowed))?, path })
    }

    fn at(&self, field: &str) -> String {
        format!("{}.{field}", self.path)
    }

    fn text(&self, field: &str) -> Result<Option<String>, ApiError> {
        let Some(raw) = self.object.non_null(field) else { return Ok(None) };
        serde_json::from_slice(raw).map(Some).map_err(|_| invalid(&self.at(field), "a string"))
    }

    fn required(&self, field: &str) -> Result<String, ApiError> {
        self.text(field)?.ok_or_else(|| invalid(&self.at(field), "a string"))
    }

    /// The elements of a member that is an array.
    fn array(&self, field: &str, allowed: &str) -> Result<Vec<&'a RawValue>, ApiError> {
        let raw = self.object.non_null(field).unwrap_or_default();
        serde_json::from_slice(raw).map_err(|_| invalid(&self.at(field), allowed))
    }

    fn is_text(&self, field: &str) -> bool {
        self.object.non_null(field).is_some_and(|raw| Kind::Text.fits(raw))
    }

    /// The id that it has, or a new one.
    fn id(&self, prefix: &str) -> Result<String, ApiError> {
        Ok(self.text("id")?.unwrap_or_else(|| new_id(prefix)))
    }
}

/// Reads an item; `path` names it in errors.
pub fn read(raw: &RawValue, path: &str) -> Result<Item, ApiError> {
    let place = Place::new(raw, path, "an object such as {\"role\": \"user\", \"content\": \"Hello\"}")?;
    let kind = place.text("type")?;
    match kind.as_deref() {
        None | Some("message") => message(&place),
        Some("function_call") => Ok(Item::Call {
            id: place.id("fc")?,
            call_id: place.required("call_id")?,
            name: place.required("name")?,
            arguments: place.required("arguments")?,
        }),
        Some("function_call_output") => Ok(Item::Output {
            id: place.id("fco")?,
            call_id: place.required("call_id")?,
            output: output(&place)?,
        }),
        Some(_) => {
            Err(unsupported(&place.at("type"), "items are messages, function_call and function_call_output"))
        }
    }
}

fn message(place: &Place<'_>) -> Result<Item, ApiError> {
    let allowed = "user, assistant, system or developer";
    let role = match place.text("role")?.as_deref() {
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some("system") => Role::System,
        Some("developer") => Role::Developer,
        _ => return Err(invalid(&place.at("role"), allowed)),
    };
    let text = |text| if role == Role::Assistant { Part::Said(text) } else { Part::Text(text) };
    let content = if place.is_text("content") {
        vec![text(place.required("content")?)]
    } else {
        let parts = place.array("content", "a string or an array of parts")?;
        let path = place.at("content");
        let part = |(index, raw): (usize, &&RawValue)| part(raw, &format!("{path}[{index}]"), role);
        parts.iter().enumerate().map(part).collect::<Result<_, _>>()?
    };
    Ok(Item::Message { id: place.id("msg")?, role, content })
}

fn part(raw: &RawValue, path: &str, role: Role) -> Result<Part, ApiError> {
    let place = Place::new(raw, path, "an object such as {\"type\": \"input_text\", \"text\": \"Hello\"}")?;
    let kind = place.required("type")?;
    match (kind.as_str(), role) {
        ("input_text", _) if role != Role::Assistant => Ok(Part::Text(place.required("text")?)),
        ("output_text" | "input_text", Role::Assistant) => Ok(Part::Said(place.required("text")?)),
        ("refusal", Role::Assistant) => Ok(Part::Refusal(place.required("refusal")?)),
        ("input_image", Role::User) => {
            if place.object.non_null("file_id").is_some() {
                return Err(unsupported(
                    &place.at("file_id"),
                    "send the picture as `image_url`, a URL or data:…",
                ));
            }
            Ok(Part::Image { url: place.required("image_url")?, detail: place.text("detail")? })
        }
        _ => Err(unsupported(
            &place.at("type"),
            "a user's message has parts input_text and input_image, the model's output_text and refusal, others input_text",
        )),
    }
}

/// What a function returned: a text, or parts that are texts.
fn output(place: &Place<'_>) -> Result<String, ApiError> {
    if place.is_text("output") {
        return place.required("output");
    }
    let parts = place.array("output", "a string or an array of input_text parts")?;
    let path = place.at("output");
    let text = |(index, raw): (usize, &&RawValue)| {
        let path = format!("{path}[{index}]");
        match part(raw, &path, Role::User)? {
            Part::Text(text) => Ok(text),
            _ => Err(unsupported(&path, "what a function returns is text")),
        }
    };
    parts.iter().enumerate().map(text).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn raw(value: &Value) -> Box<RawValue> {
        serde_json::value::to_raw_value(value).unwrap()
    }

    fn written(value: &Value) -> Value {
        serde_json::to_value(read(&raw(value), "input[0]").ok().unwrap()).unwrap()
    }

    #[test]
    fn an_item_is_written_in_full_and_read_again_as_the_same() {
        for item in [
            json!({"role": "user", "content": "hi"}),
            json!({"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "be brief"}]}),
            json!({"role": "user", "content": [{"type": "input_text", "text": "what is it?"},
                {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"}]}),
            json!({"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "phase": null,
                "content": [{"type": "output_text", "text": "a cat", "annotations": []}, {"type": "refusal", "refusal": "no"}]}),
            json!({"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{\"a\":1}", "id": "fc_1"}),
            json!({"type": "function_call_output", "call_id": "c1", "output": "42"}),
        ] {
            let full = written(&item);
            assert_eq!(written(&full), full, "{item}");
            assert!(full["id"].as_str().unwrap().contains('_') && full["type"].is_string(), "{full}");
        }
        let parts = json!({"type": "function_call_output", "call_id": "c1",
            "output": [{"type": "input_text", "text": "4"}, {"type": "input_text", "text": "2"}]});
        assert_eq!(written(&parts)["output"], "42");
        assert_eq!(
            written(&json!({"role": "assistant", "content": "yes"}))["content"][0]["type"],
            "output_text"
        );
    }

    #[test]
    fn what_cannot_be_asked_or_is_wrong_is_named() {
        for (item, code, field) in [
            (json!("hi"), "invalid_value", "input[0]"),
            (json!(["user", "hi"]), "invalid_value", "input[0]"),
            (json!({"role": "robot", "content": "hi"}), "invalid_value", "input[0].role"),
            (json!({"content": "hi"}), "invalid_value", "input[0].role"),
            (json!({"role": "user"}), "invalid_value", "input[0].content"),
            (json!({"role": "user", "content": 5}), "invalid_value", "input[0].content"),
            (json!({"role": "user", "content": ["a"]}), "invalid_value", "input[0].content[0]"),
            (
                json!({"role": "user", "content": [{"text": "a"}]}),
                "invalid_value",
                "input[0].content[0].type",
            ),
            (
                json!({"role": "user", "content": [{"type": "input_text"}]}),
                "invalid_value",
                "input[0].content[0].text",
            ),
            (
                json!({"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}),
                "unsupported_parameter",
                "input[0].content[0].type",
            ),
            (
                json!({"role": "user", "content": [{"type": "output_text", "text": "a"}]}),
                "unsupported_parameter",
                "input[0].content[0].type",
            ),
            (
                json!({"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}),
                "unsupported_parameter",
                "input[0].content[0].file_id",
            ),
            (json!({"type": "item_reference", "id": "msg_1"}), "unsupported_parameter", "input[0].type"),
            (json!({"type": "reasoning", "summary": []}), "unsupported_parameter", "input[0].type"),
            (json!({"type": 5}), "invalid_value", "input[0].type"),
            (
                json!({"type": "function_call", "call_id": "c", "name": "f"}),
                "invalid_value",
                "input[0].arguments",
            ),
            (json!({"type": "function_call_output", "call_id": "c"}), "invalid_value", "input[0].output"),
            (json!({"type": "function_call_output", "output": "c"}), "invalid_value", "input[0].call_id"),
            (
                json!({"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": "u"}]}),
                "unsupported_parameter",
                "input[0].output[0]",
            ),
        ] {
            let error =
                read(&raw(&item), "input[0]").err().unwrap().body(crate::server::error::Dialect::OpenAi);
            assert_eq!(
                (&error["error"]["code"], &error["error"]["param"]),
                (&json!(code), &json!(field)),
                "{item}"
            );
        }
    }
}
