//! Calls of functions and what these returned. In: all that is said. Out: which result belongs to which call; or the refusal of
//! what no backend could be asked, in the words that users of OpenAI's API know and with what is to be done.

use std::collections::{HashMap, HashSet, VecDeque};

use super::items::Item;
use crate::server::error::ApiError;

/// The place of each call's result, by the place of the call. Ids of calls need not be unique: there are backends that begin
/// anew with each answer, so a result is that of the first call in front of it that has none.
pub(super) fn results(said: &[Item]) -> Result<HashMap<usize, usize>, ApiError> {
    let mut open: HashMap<&str, VecDeque<usize>> = HashMap::new();
    let mut results = HashMap::new();
    for (place, item) in said.iter().enumerate() {
        match item {
            Item::Call { call_id, .. } => open.entry(call_id).or_default().push_back(place),
            Item::Output { call_id, .. } => {
                let calls = open.get_mut(call_id.as_str());
                let again = calls.is_some();
                match calls.and_then(VecDeque::pop_front) {
                    Some(call) => results.insert(call, place),
                    None if again => {
                        return Err(refusal("Several tool outputs found for function call", call_id, ONE));
                    }
                    None => {
                        return Err(refusal(
                            "No tool call found for function call output with call_id",
                            call_id,
                            CALL,
                        ));
                    }
                };
            }
            Item::Message { .. } => {}
        }
    }
    let first = open.values().filter_map(VecDeque::front).min();
    match first.and_then(|place| said.get(*place)) {
        Some(Item::Call { call_id, .. }) => {
            Err(refusal("No tool output found for function call", call_id, OUTPUT))
        }
        _ => Ok(results),
    }
}

const ONE: &str = "send one function_call_output for each function_call";
const CALL: &str = "send the function_call along, in front of its output, or the previous_response_id of the response that made it";
const OUTPUT: &str = "add {\"type\": \"function_call_output\", \"call_id\": …, \"output\": …} to the input, with what the function \
                      returned or why it did not";

/// Refuses items with the same id: the pages of `input_items` go by it.
pub(super) fn check_ids(said: &[Item]) -> Result<(), ApiError> {
    let mut ids = HashSet::new();
    match said.iter().find(|item| !ids.insert(item.id())) {
        None => Ok(()),
        Some(item) => Err(duplicate(item.id())),
    }
}

/// The refusal of a second item with this id.
pub(super) fn duplicate(id: &str) -> ApiError {
    let instead =
        "leave out of the input what previous_response_id brings along, and give no two items the same id";
    refusal("Duplicate item found with id", id, instead)
}

fn refusal(what: &str, id: &str, instead: &str) -> ApiError {
    let id: String = id.chars().take(64).collect();
    ApiError::InvalidField { field: "input".to_owned(), message: format!("{what} {id}: {instead}") }
}
