//! What is said in a response, on either side: messages, calls of functions, and what these returned. In: what `items/read.rs`
//! has read. Out: [`Item`], which is written in the API's full form.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::json;
use utoipa::ToSchema;

use super::ids::Ids;

mod read;

pub(super) use read::{given, item};

/// What a caller gives as one item of its input.
pub enum Given {
    /// The item.
    Item(Item),
    /// The id of one that a stored response has.
    Reference(String),
}

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
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
    pub fn user(text: String, ids: &mut Ids) -> Self {
        Self::Message { id: ids.item("msg"), role: Role::User, content: vec![Part::Text(text)] }
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
