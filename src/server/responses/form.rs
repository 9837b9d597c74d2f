//! The form of the text. In: `text` of a request. Out: the same as a chat completion has it; or the refusal that names what is
//! wrong, or what a chat completion cannot be asked for.

use serde::Serialize;
use serde_json::value::RawValue;

use super::place::Place;
use crate::server::error::ApiError;
use crate::server::routes::input::{Kind, invalid, unsupported};

/// The form of the text, as a chat completion has it.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseFormat {
    /// Any JSON object.
    JsonObject,
    /// What fits a schema.
    JsonSchema {
        /// The schema and its name.
        json_schema: Schema,
    },
}

/// A schema with its name.
#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are OpenAI's")]
pub struct Schema {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    schema: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

/// `text.format` and `text.verbosity`.
pub(super) fn text_form(text: &RawValue) -> Result<(Option<ResponseFormat>, Option<String>), ApiError> {
    let place = Place::new(text.get().as_bytes(), "text", "an object")?;
    place.only(&["format", "verbosity"])?;
    let verbosity = place.text("verbosity")?;
    let Some(format) = place.raw("format", Kind::Object)? else { return Ok((None, verbosity)) };
    let format = Place::new(format.get().as_bytes(), "text.format", "an object")?;
    let format = match format.required_text("type")?.as_str() {
        "text" => {
            format.only(&["type"])?;
            None
        }
        "json_object" => {
            format.only(&["type"])?;
            Some(ResponseFormat::JsonObject)
        }
        "json_schema" => {
            format.only(&["type", "name", "description", "schema", "strict"])?;
            let schema = format.raw("schema", Kind::Object)?;
            let json_schema = Schema {
                name: format.required_text("name")?,
                description: format.text("description")?,
                schema: schema.ok_or_else(|| invalid("text.format.schema", "an object"))?,
                strict: format.get("strict", Kind::Bool.allowed())?,
            };
            Some(ResponseFormat::JsonSchema { json_schema })
        }
        _ => return Err(unsupported("text.format.type", "it is text, json_object or json_schema")),
    };
    Ok((format, verbosity))
}
