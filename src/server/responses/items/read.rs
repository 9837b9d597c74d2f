//! Items as they are read. In: an item as a caller writes it or the store has it. Out: [`Item`], or the id of one; or the error
//! that names what is wrong, or what a chat completion cannot be told.

use serde_json::value::RawValue;

use super::{Given, Item, Part, Role};
use crate::server::error::ApiError;
use crate::server::responses::ids::Ids;
use crate::server::responses::place::Place;
use crate::server::routes::input::{Kind, invalid, unsupported};

/// Ends the sentence "`path` must be …".
const ALLOWED: &str = "an object such as {\"role\": \"user\", \"content\": \"Hello\"}";

/// Reads what a caller gives: an item, or the id of one.
pub fn given(raw: &RawValue, path: &str, ids: &mut Ids) -> Result<Given, ApiError> {
    let place = Place::new(raw.get().as_bytes(), path, ALLOWED)?;
    let kind = place.text("type")?;
    // Its `type` may be left out, as that of a message may.
    let bare = kind.is_none() && place.has("id") && !place.has("role") && !place.has("content");
    if bare || kind.as_deref() == Some("item_reference") {
        place.only(&["type", "id"])?;
        let id = place.required_text("id")?;
        return Ok(Given::Reference(id));
    }
    item(raw, path, ids).map(Given::Item)
}

/// Reads an item; `path` names it in errors.
///
/// Answers come back as input: SDKs and their users send on what they were given. So what an answer has and a chat completion
/// cannot be told is taken and left out where it says nothing to a model: `status`, `annotations`, `logprobs`, and what SDKs
/// add of their own, `parsed` and `parsed_arguments`.
pub fn item(raw: &RawValue, path: &str, ids: &mut Ids) -> Result<Item, ApiError> {
    let place = Place::new(raw.get().as_bytes(), path, ALLOWED)?;
    let kind = place.text("type")?;
    match kind.as_deref() {
        None | Some("message") => message(&place, ids),
        Some("function_call") => {
            place.only(&["type", "id", "status", "call_id", "name", "arguments", "parsed_arguments"])?;
            check_status(&place)?;
            Ok(Item::Call {
                id: id(&place, "fc", ids)?,
                call_id: place.required_text("call_id")?,
                name: place.required_text("name")?,
                arguments: place.required_text("arguments")?,
            })
        }
        Some("function_call_output") => {
            place.only(&["type", "id", "status", "call_id", "output"])?;
            check_status(&place)?;
            Ok(Item::Output {
                id: id(&place, "fco", ids)?,
                call_id: place.required_text("call_id")?,
                output: output(&place)?,
            })
        }
        Some(_) => Err(unsupported(
            &place.at("type"),
            "items are messages, function_call, function_call_output and item_reference",
        )),
    }
}

/// The id that it has, or a new one.
fn id(place: &Place<'_>, prefix: &str, ids: &mut Ids) -> Result<String, ApiError> {
    let id = place.text("id")?;
    if id.as_ref().is_some_and(String::is_empty) {
        return Err(invalid(&place.at("id"), "a string that is not empty"));
    }
    Ok(id.unwrap_or_else(|| ids.item(prefix)))
}

fn check_status(place: &Place<'_>) -> Result<(), ApiError> {
    let status = place.text("status")?;
    let known = |status: &str| ["completed", "incomplete", "in_progress"].contains(&status);
    if status.as_deref().is_none_or(known) {
        return Ok(());
    }
    Err(invalid(&place.at("status"), "completed, incomplete or in_progress"))
}

fn message(place: &Place<'_>, ids: &mut Ids) -> Result<Item, ApiError> {
    let allowed = "user, assistant, system or developer; what a function returned is an item of the type function_call_output";
    let role = match place.get::<String>("role", allowed)?.as_deref() {
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some("system") => Role::System,
        Some("developer") => Role::Developer,
        _ => return Err(invalid(&place.at("role"), allowed)),
    };
    place.only(&["type", "id", "status", "role", "content"])?;
    check_status(place)?;
    let text = |text| if role == Role::Assistant { Part::Said(text) } else { Part::Text(text) };
    let content = if place.is_text("content") {
        vec![text(place.required_text("content")?)]
    } else {
        let parts = place.array("content", "a string or an array of parts")?;
        let path = place.at("content");
        let part = |(index, raw): (usize, &&RawValue)| part(raw, &format!("{path}[{index}]"), role);
        parts.iter().enumerate().map(part).collect::<Result<_, _>>()?
    };
    Ok(Item::Message { id: id(place, "msg", ids)?, role, content })
}

fn part(raw: &RawValue, path: &str, role: Role) -> Result<Part, ApiError> {
    let allowed = "an object such as {\"type\": \"input_text\", \"text\": \"Hello\"}";
    let place = Place::new(raw.get().as_bytes(), path, allowed)?;
    let kind = place.required_text("type")?;
    match (kind.as_str(), role) {
        ("input_text", _) => {
            place.only(&["type", "text"])?;
            let text = place.required_text("text")?;
            Ok(if role == Role::Assistant { Part::Said(text) } else { Part::Text(text) })
        }
        ("output_text", Role::Assistant) => {
            place.only(&["type", "text", "annotations", "logprobs", "parsed"])?;
            place.raw("annotations", Kind::Array)?;
            place.raw("logprobs", Kind::Array)?;
            Ok(Part::Said(place.required_text("text")?))
        }
        ("refusal", Role::Assistant) => {
            place.only(&["type", "refusal", "parsed"])?;
            Ok(Part::Refusal(place.required_text("refusal")?))
        }
        ("input_image", Role::User) => {
            if place.has("file_id") {
                let instead = "send the picture as `image_url`, a URL or data:…";
                return Err(unsupported(&place.at("file_id"), instead));
            }
            place.only(&["type", "image_url", "detail"])?;
            Ok(Part::Image { url: place.required_text("image_url")?, detail: place.text("detail")? })
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
        return place.required_text("output");
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
    use serde_json::{Value, json};

    use super::*;

    fn raw(value: &Value) -> Box<RawValue> {
        serde_json::value::to_raw_value(value).unwrap()
    }

    fn written(value: &Value) -> Value {
        serde_json::to_value(item(&raw(value), "input[0]", &mut Ids::new()).ok().unwrap()).unwrap()
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
            json!({"id": "msg_1", "type": "message", "role": "assistant", "status": "incomplete",
                "content": [{"type": "output_text", "text": "a", "annotations": [{"type": "file_path"}], "logprobs": null, "parsed": {"a": 1}}]}),
            json!({"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{\"a\":1}", "id": "fc_1"}),
            json!({"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}", "id": "fc_1", "status": "completed",
                "parsed_arguments": {}, "async": null, "caller": null, "namespace": null, "created_by": null}),
            json!({"type": "function_call_output", "call_id": "c1", "output": "42"}),
            json!({"type": "function_call_output", "call_id": "c1", "output": "42", "id": null, "status": null, "caller": null}),
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

    /// Holds each item's refusal to its code and the field it names.
    fn refused(code: &str, items: &[(Value, &str)]) {
        for (item, field) in items {
            let error = given(&raw(item), "input[0]", &mut Ids::new()).err().unwrap();
            let error = error.body(crate::server::error::Dialect::OpenAi);
            assert_eq!(
                (&error["error"]["code"], &error["error"]["param"]),
                (&json!(code), &json!(format!("input[0]{field}"))),
                "{item}"
            );
        }
    }

    fn said(role: &str, part: &Value) -> Value {
        json!({"role": role, "content": [part]})
    }

    #[test]
    fn what_is_wrong_is_named() {
        refused(
            "invalid_value",
            &[
                (json!("hi"), ""),
                (json!(["user", "hi"]), ""),
                (json!({"type": 5}), ".type"),
                (json!({"type": "item_reference"}), ".id"),
                (json!({"type": "item_reference", "id": 5}), ".id"),
                (json!({"id": 5}), ".id"),
                (json!({"role": "robot", "content": "hi"}), ".role"),
                (json!({"role": "tool", "content": "hi", "tool_call_id": "c"}), ".role"),
                (json!({"content": "hi"}), ".role"),
                (json!({"role": "user", "content": "hi", "id": ""}), ".id"),
                (json!({"role": "user", "content": "hi", "status": "done"}), ".status"),
                (json!({"role": "user"}), ".content"),
                (json!({"role": "user", "content": 5}), ".content"),
                (said("user", &json!("a")), ".content[0]"),
                (said("user", &json!({"text": "a"})), ".content[0].type"),
                (said("user", &json!({"type": "input_text"})), ".content[0].text"),
                (
                    said("assistant", &json!({"type": "output_text", "text": "a", "annotations": 1})),
                    ".content[0].annotations",
                ),
                (json!({"type": "function_call", "call_id": "c", "name": "f"}), ".arguments"),
                (json!({"type": "function_call_output", "call_id": "c"}), ".output"),
                (json!({"type": "function_call_output", "output": "c"}), ".call_id"),
            ],
        );
    }

    #[test]
    fn what_a_chat_completion_cannot_be_asked_is_named() {
        let output = |part: &Value| json!({"type": "function_call_output", "call_id": "c", "output": [part]});
        refused(
            "unsupported_parameter",
            &[
                (json!({"type": "item_reference", "id": "msg_1", "role": "user"}), ".role"),
                (json!({"id": "msg_1", "text": "hi"}), ".text"),
                (json!({"type": "reasoning", "summary": []}), ".type"),
                (said("user", &json!({"type": "input_file", "file_id": "f"})), ".content[0].type"),
                (said("user", &json!({"type": "output_text", "text": "a"})), ".content[0].type"),
                (said("user", &json!({"type": "input_image", "file_id": "f"})), ".content[0].file_id"),
                (output(&json!({"type": "input_image", "image_url": "u"})), ".output[0]"),
                // Members that nobody reads.
                (json!({"role": "user", "content": "hi", "name": "Ada"}), ".name"),
                (json!({"role": "assistant", "content": "hi", "phase": "commentary"}), ".phase"),
                (
                    said("user", &json!({"type": "input_text", "text": "a", "cache": true})),
                    ".content[0].cache",
                ),
                (
                    said("user", &json!({"type": "input_image", "image_url": "u", "size": 1})),
                    ".content[0].size",
                ),
                (
                    said("assistant", &json!({"type": "output_text", "text": "a", "voice": 1})),
                    ".content[0].voice",
                ),
                (
                    said("assistant", &json!({"type": "refusal", "refusal": "a", "text": "b"})),
                    ".content[0].text",
                ),
                (
                    json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "", "namespace": "n"}),
                    ".namespace",
                ),
                (
                    json!({"type": "function_call_output", "call_id": "c", "output": "", "caller": {}}),
                    ".caller",
                ),
                (output(&json!({"type": "input_text", "text": "a", "x": 1})), ".output[0].x"),
            ],
        );
    }
}
