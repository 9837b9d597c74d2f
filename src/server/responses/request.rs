//! A request of the Responses API. In: its body. Out: [`Request`]; or the refusal that names the first member that is wrong,
//! or that a chat completion cannot be asked for.

use serde_json::value::RawValue;

use super::form::{ResponseFormat, text_form};
use super::ids::Ids;
use super::items::{self, Given, Item};
use super::place::Place;
use super::tools::{Tool, chosen, tools};
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
    /// The id of its response, and of the items that have none.
    pub ids: Ids,
    /// The model that it names.
    pub model: Option<String>,
    /// What is said now.
    pub input: Vec<Given>,
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
    let mut ids = Ids::new();
    let input = input(object, &mut ids)?;
    Ok(Request {
        ids,
        model: field(object, "model", "a string")?,
        input,
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

fn input(object: &Object<'_>, ids: &mut Ids) -> Result<Vec<Given>, ApiError> {
    let allowed = "a string, or an array of at least one item";
    let raw = object.non_null("input").ok_or_else(|| invalid("input", allowed))?;
    if Kind::Text.fits(raw) {
        let text: String = serde_json::from_slice(raw).map_err(|_| invalid("input", allowed))?;
        return Ok(vec![Given::Item(Item::user(text, ids))]);
    }
    let items: Vec<&RawValue> = serde_json::from_slice(raw).map_err(|_| invalid("input", allowed))?;
    if items.is_empty() {
        return Err(invalid("input", allowed));
    }
    let read = |(index, raw): (usize, &&RawValue)| items::given(raw, &format!("input[{index}]"), ids);
    items.iter().enumerate().map(read).collect()
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
