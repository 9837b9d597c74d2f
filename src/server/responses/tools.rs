//! Functions that the model may call. In: `tools` and `tool_choice` of a request. Out: the same as a chat completion has them; or
//! the refusal that names what is wrong, or what is no function of the caller's.

use serde::Serialize;
use serde_json::value::RawValue;

use super::place::Place;
use crate::server::error::ApiError;
use crate::server::json::Object;
use crate::server::routes::input::{Kind, invalid, unsupported};

/// A function that the model may call. Schemas stay as they were written: the order of their keys matters to models.
pub struct Tool {
    /// As it was given.
    pub raw: Box<RawValue>,
    /// For a chat completion.
    pub function: Function,
}

/// A function, as a chat completion has it.
#[derive(Serialize)]
pub struct Function {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Box<RawValue>>,
    /// As it was given. OpenAI's Responses take an absent one for true and rewrite the schema until it is strict; a chat
    /// completion takes it for false. We do as the latter: a schema goes on byte for byte, most schemas are refused as they
    /// stand when they must be strict, and many backends do not know the word.
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

/// Reads `tools`.
pub(super) fn tools(object: &Object<'_>) -> Result<Vec<Tool>, ApiError> {
    let Some(tools) = object.non_null("tools") else { return Ok(Vec::new()) };
    let tools: Vec<Box<RawValue>> =
        serde_json::from_slice(tools).map_err(|_| invalid("tools", "an array"))?;
    let tool = |(index, raw): (usize, Box<RawValue>)| {
        let allowed = "an object such as {\"type\": \"function\", \"name\": \"get_weather\"}";
        let path = format!("tools[{index}]");
        let place = Place::new(raw.get().as_bytes(), &path, allowed)?;
        if place.required_text("type")? != "function" {
            return Err(unsupported(
                &place.at("type"),
                "tools are functions, which the caller runs: {\"type\": \"function\", …}",
            ));
        }
        place.only(&["type", "name", "description", "parameters", "strict"])?;
        let name: String = place.required("name", "a string that is not empty")?;
        if name.is_empty() {
            return Err(invalid(&place.at("name"), "a string that is not empty"));
        }
        let function = Function {
            name,
            description: place.text("description")?,
            parameters: place.raw("parameters", Kind::Object)?,
            strict: place.get("strict", Kind::Bool.allowed())?,
        };
        drop(place);
        Ok(Tool { raw, function })
    };
    tools.into_iter().enumerate().map(tool).collect()
}

/// The function that a `tool_choice` names; None for the words. What must be called must be there: a backend would refuse
/// the choice in words of another API, or not see it, since without tools it is not told of any.
pub(super) fn chosen(choice: &RawValue, tools: &[Tool]) -> Result<Option<String>, ApiError> {
    let allowed =
        "none, auto, required or an object such as {\"type\": \"function\", \"name\": \"get_weather\"}";
    let value = choice.get().as_bytes();
    if Kind::Text.fits(value) {
        let word: String = serde_json::from_slice(value).map_err(|_| invalid("tool_choice", allowed))?;
        return match word.as_str() {
            "required" if tools.is_empty() => {
                Err(invalid("tool_choice", "auto or none where `tools` has no function that could be called"))
            }
            "none" | "auto" | "required" => Ok(None),
            _ => Err(invalid("tool_choice", allowed)),
        };
    }
    let place = Place::new(value, "tool_choice", allowed)?;
    if place.required_text("type")? != "function" {
        return Err(unsupported(&place.at("type"), "a tool that is chosen is a function"));
    }
    place.only(&["type", "name"])?;
    let name = place.required_text("name")?;
    if tools.iter().all(|tool| tool.function.name != name) {
        return Err(invalid(&place.at("name"), "the name of a function in `tools`"));
    }
    Ok(Some(name))
}
