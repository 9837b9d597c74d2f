//! A request of the Responses API. In: its body. Out: [`Request`]; or the refusal that names the first member that is wrong,
//! or that a chat completion cannot be asked for.

use serde::Serialize;
use serde_json::value::RawValue;

use super::items::{self, Item};
use super::place::Place;
use crate::server::error::ApiError;
use crate::server::json::Object;
use crate::server::routes::input::{Kind, check_kinds, field, invalid, unsupported};

/// Members that are understood. What else is there and not `null` is refused.
const KNOWN: [&str; 17] = [
    "model",
    "input",
    "instructions",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "text",
    "reasoning",
    "max_output_tokens",
    "temperature",
    "top_p",
    "metadata",
    "previous_response_id",
    "store",
    "stream",
    "user",
    "stream_options",
];
const KINDS: &[(&str, Kind)] = &[
    ("temperature", Kind::Number),
    ("top_p", Kind::Number),
    ("text", Kind::Object),
    ("reasoning", Kind::Object),
    ("stream_options", Kind::Object),
    ("metadata", Kind::Object),
    ("tools", Kind::Array),
];
/// Bounds of `metadata`, as at OpenAI.
const METADATA: (usize, usize, usize) = (16, 64, 512);

/// A request that has been read and checked.
pub struct Request {
    /// The model that it names.
    pub model: Option<String>,
    /// What is said now.
    pub input: Vec<Item>,
    /// Whether that is a text, and not an array of items.
    pub as_text: bool,
    /// Whether the answer is told as events.
    pub stream: bool,
    /// The rest, which the response repeats.
    pub settings: Settings,
}

/// What a response repeats of its request.
pub struct Settings {
    /// What the model is told in front of everything; of this response alone.
    pub instructions: Option<String>,
    /// The response that this one goes on from.
    pub previous: Option<String>,
    /// Whether the response is to be stored.
    pub store: bool,
    /// Functions that the model may call, as they were given.
    pub tools: Vec<Tool>,
    /// Which of them, as it was given.
    pub tool_choice: Option<Box<RawValue>>,
    /// The function that must be called, where `tool_choice` names one.
    pub chosen: Option<String>,
    /// Whether several may be called at once.
    pub parallel_tool_calls: Option<bool>,
    /// The form of the text, as it was given.
    pub text: Option<Box<RawValue>>,
    /// The same as a chat completion has it.
    pub format: Option<ResponseFormat>,
    /// How long the text is.
    pub verbosity: Option<String>,
    /// How long the model thinks.
    pub effort: Option<String>,
    /// Most tokens of the answer.
    pub max_output_tokens: Option<u32>,
    /// As it was given.
    pub temperature: Option<Box<RawValue>>,
    /// As it was given.
    pub top_p: Option<Box<RawValue>>,
    /// The caller's own notes.
    pub metadata: Option<Box<RawValue>>,
    /// Who asks, for the backend.
    pub user: Option<String>,
}

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

/// Reads a request.
pub fn read(object: &Object<'_>) -> Result<Request, ApiError> {
    check_known(object)?;
    check_kinds(object, KINDS)?;
    let text = raw(object, "text");
    let (format, verbosity) = match &text {
        Some(text) => text_form(text)?,
        None => (None, None),
    };
    let tools = tools(object)?;
    let tool_choice = raw(object, "tool_choice");
    let chosen = tool_choice.as_deref().map(|choice| chosen(choice, &tools)).transpose()?.flatten();
    check_metadata(object)?;
    check_stream_options(object)?;
    let cap = "a whole number of tokens, at least 1";
    let max_output_tokens: Option<u32> = field(object, "max_output_tokens", cap)?;
    if max_output_tokens == Some(0) {
        return Err(invalid("max_output_tokens", cap));
    }
    Ok(Request {
        model: field(object, "model", "a string")?,
        input: input(object)?,
        as_text: object.non_null("input").is_some_and(|input| Kind::Text.fits(input)),
        stream: field(object, "stream", "true or false")?.unwrap_or(false),
        settings: Settings {
            instructions: field(object, "instructions", "a string")?,
            previous: field(object, "previous_response_id", "a string")?,
            store: field(object, "store", "true or false")?.unwrap_or(true),
            tools,
            tool_choice,
            chosen,
            parallel_tool_calls: field(object, "parallel_tool_calls", "true or false")?,
            text,
            format,
            verbosity,
            effort: effort(object)?,
            max_output_tokens,
            temperature: raw(object, "temperature"),
            top_p: raw(object, "top_p"),
            metadata: raw(object, "metadata"),
            user: field(object, "user", "a string")?,
        },
    })
}

/// What is neither understood nor as good as absent is refused by its name.
fn check_known(object: &Object<'_>) -> Result<(), ApiError> {
    for (name, value) in object.members() {
        // What an SDK sends for nothing, and what we do anyway.
        let nothing = match name {
            "background" => value == b"false",
            "include" => {
                serde_json::from_slice::<Vec<&RawValue>>(value).is_ok_and(|include| include.is_empty())
            }
            "truncation" => value == b"\"disabled\"",
            "service_tier" => value == b"\"auto\"",
            "top_logprobs" => value == b"0",
            _ => false,
        };
        if !KNOWN.contains(&name) && value != b"null" && !nothing {
            let field: String = name.chars().take(64).collect();
            return Err(unsupported(&field, "leave it out; what is supported is described at /docs"));
        }
    }
    Ok(())
}

fn raw(object: &Object<'_>, name: &str) -> Option<Box<RawValue>> {
    serde_json::from_slice(object.non_null(name)?).ok()
}

fn input(object: &Object<'_>) -> Result<Vec<Item>, ApiError> {
    let allowed = "a string, or an array of at least one item";
    let raw = object.non_null("input").ok_or_else(|| invalid("input", allowed))?;
    if Kind::Text.fits(raw) {
        let text: String = serde_json::from_slice(raw).map_err(|_| invalid("input", allowed))?;
        return Ok(vec![Item::user(text)]);
    }
    let items: Vec<&RawValue> = serde_json::from_slice(raw).map_err(|_| invalid("input", allowed))?;
    if items.is_empty() {
        return Err(invalid("input", allowed));
    }
    items.iter().enumerate().map(|(index, raw)| items::read(raw, &format!("input[{index}]"))).collect()
}

fn tools(object: &Object<'_>) -> Result<Vec<Tool>, ApiError> {
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
fn chosen(choice: &RawValue, tools: &[Tool]) -> Result<Option<String>, ApiError> {
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

/// `text.format` and `text.verbosity`.
fn text_form(text: &RawValue) -> Result<(Option<ResponseFormat>, Option<String>), ApiError> {
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

fn effort(object: &Object<'_>) -> Result<Option<String>, ApiError> {
    let Some(reasoning) = object.non_null("reasoning") else { return Ok(None) };
    let place = Place::new(reasoning, "reasoning", "an object")?;
    place.only(&["effort"])?;
    place.text("effort")
}

fn check_stream_options(object: &Object<'_>) -> Result<(), ApiError> {
    let Some(options) = object.non_null("stream_options") else { return Ok(()) };
    let place = Place::new(options, "stream_options", "an object")?;
    place.only(&["include_obfuscation"])?;
    if place.get("include_obfuscation", Kind::Bool.allowed())? == Some(true) {
        return Err(unsupported("stream_options.include_obfuscation", "events are not padded"));
    }
    Ok(())
}

fn check_metadata(object: &Object<'_>) -> Result<(), ApiError> {
    let (most, key, value) = METADATA;
    let allowed =
        format!("an object of at most {most} strings of at most {value} characters, keys at most {key}");
    let Some(metadata) = object.non_null("metadata") else { return Ok(()) };
    let pairs: std::collections::BTreeMap<String, String> =
        serde_json::from_slice(metadata).map_err(|_| invalid("metadata", &allowed))?;
    let long = |(name, text): (&String, &String)| name.chars().count() > key || text.chars().count() > value;
    if pairs.len() > most || pairs.iter().any(long) {
        return Err(invalid("metadata", &allowed));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::server::error::Dialect;
    use crate::server::json;

    fn refused(body: &Value) -> Value {
        let text = body.to_string();
        let error = read(&json::object(text.as_bytes()).unwrap()).err().unwrap_or_else(|| panic!("{body}"));
        error.body(Dialect::OpenAi)["error"].clone()
    }

    #[test]
    fn everything_that_is_not_done_is_refused_by_its_name() {
        for (member, value, param) in [
            ("background", json!(true), "background"),
            ("include", json!(["reasoning.encrypted_content"]), "include"),
            ("conversation", json!("conv_1"), "conversation"),
            ("prompt", json!({"id": "p"}), "prompt"),
            ("truncation", json!("auto"), "truncation"),
            ("max_tool_calls", json!(3), "max_tool_calls"),
            ("service_tier", json!("priority"), "service_tier"),
            ("top_logprobs", json!(5), "top_logprobs"),
            ("prompt_cache_key", json!("k"), "prompt_cache_key"),
            ("safety_identifier", json!("k"), "safety_identifier"),
            ("messages", json!([]), "messages"),
            ("reasoning", json!({"effort": "low", "summary": "auto"}), "reasoning.summary"),
            ("text", json!({"format": {"type": "grammar"}}), "text.format.type"),
            ("text", json!({"format": {"type": "text", "name": "n"}}), "text.format.name"),
            ("text", json!({"format": {"type": "json_object", "schema": {}}}), "text.format.schema"),
            (
                "text",
                json!({"format": {"type": "json_schema", "name": "n", "schema": {}, "syntax": "x"}}),
                "text.format.syntax",
            ),
            ("text", json!({"style": "x"}), "text.style"),
            ("input", json!([{"role": "user", "content": "hi", "cache": 1}]), "input[0].cache"),
            ("tools", json!([{"type": "web_search"}]), "tools[0].type"),
            ("tools", json!([{"type": "function", "name": "f"}, {"type": "mcp"}]), "tools[1].type"),
            (
                "tools",
                json!([{"type": "function", "name": "f", "defer_loading": true}]),
                "tools[0].defer_loading",
            ),
            ("tool_choice", json!({"type": "file_search"}), "tool_choice.type"),
            (
                "tool_choice",
                json!({"type": "allowed_tools", "mode": "auto", "tools": []}),
                "tool_choice.type",
            ),
            ("stream_options", json!({"include_obfuscation": true}), "stream_options.include_obfuscation"),
            ("stream_options", json!({"include_usage": true}), "stream_options.include_usage"),
        ] {
            let mut body = json!({"input": "hi"});
            body[member] = value;
            let error = refused(&body);
            assert_eq!(
                (&error["code"], &error["param"]),
                (&json!("unsupported_parameter"), &json!(param)),
                "{body}"
            );
            assert_eq!(error["type"], "invalid_request_error");
        }
    }

    #[test]
    fn every_field_of_a_wrong_type_is_named() {
        for (member, value, param) in [
            ("model", json!(1), "model"),
            ("input", json!(null), "input"),
            ("input", json!([]), "input"),
            ("input", json!({}), "input"),
            ("instructions", json!([]), "instructions"),
            ("previous_response_id", json!(1), "previous_response_id"),
            ("store", json!("yes"), "store"),
            ("stream", json!(1), "stream"),
            ("stream_options", json!([]), "stream_options"),
            ("temperature", json!("hot"), "temperature"),
            ("top_p", json!(true), "top_p"),
            ("max_output_tokens", json!(0), "max_output_tokens"),
            ("max_output_tokens", json!("9"), "max_output_tokens"),
            ("metadata", json!({"a": 1}), "metadata"),
            ("metadata", json!({"a": "x".repeat(513)}), "metadata"),
            ("metadata", json!([]), "metadata"),
            ("user", json!(1), "user"),
            ("parallel_tool_calls", json!(1), "parallel_tool_calls"),
            ("reasoning", json!("low"), "reasoning"),
            ("reasoning", json!({"effort": 1}), "reasoning.effort"),
            ("text", json!("a"), "text"),
            ("text", json!({"format": "json"}), "text.format"),
            ("text", json!({"format": {"type": "json_schema", "name": "n"}}), "text.format.schema"),
            ("text", json!({"format": {"type": "json_schema", "schema": {}}}), "text.format.name"),
            ("text", json!({"verbosity": 1}), "text.verbosity"),
            ("tools", json!({}), "tools"),
            ("tools", json!(["f"]), "tools[0]"),
            ("tools", json!([{"name": "f"}]), "tools[0].type"),
            ("tools", json!([{"type": "function"}]), "tools[0].name"),
            ("tools", json!([{"type": "function", "name": ""}]), "tools[0].name"),
            ("tools", json!([{"type": "function", "name": "f", "parameters": 1}]), "tools[0].parameters"),
            ("tools", json!([{"type": "function", "name": "f", "strict": 1}]), "tools[0].strict"),
            ("tool_choice", json!("maybe"), "tool_choice"),
            ("tool_choice", json!(1), "tool_choice"),
            ("tool_choice", json!({"type": "function"}), "tool_choice.name"),
            ("tool_choice", json!({"type": "function", "name": "f"}), "tool_choice.name"),
            ("tool_choice", json!("required"), "tool_choice"),
        ] {
            let mut body = json!({"input": "hi"});
            body[member] = value;
            let error = refused(&body);
            assert_eq!((&error["code"], &error["param"]), (&json!("invalid_value"), &json!(param)), "{body}");
        }
    }

    #[test]
    fn what_stands_for_nothing_is_accepted() {
        let body = json!({"input": "hi", "background": false, "include": [], "truncation": "disabled", "service_tier": "auto",
            "conversation": null, "prompt": null, "max_tool_calls": null, "reasoning": {"effort": null, "summary": null},
            "text": {"format": {"type": "text"}}, "tools": [], "stream_options": {"include_obfuscation": false}, "top_logprobs": 0});
        let text = body.to_string();
        let request = read(&json::object(text.as_bytes()).unwrap()).ok().unwrap();
        assert!(request.settings.store && !request.stream && request.settings.format.is_none());
        assert_eq!(request.input.len(), 1);
    }
}
