//! Items that a caller names in place of sending them. In: what it gives. Out: the items; or the refusal of an id that no stored
//! response of this caller has.

use std::collections::HashMap;

use super::calls::duplicate;
use super::ids::response_of;
use super::items::{Given, Item};
use super::{STORED_MAX, Stored, stored};
use crate::server::caller::Caller;
use crate::server::error::ApiError;
use crate::server::routes::input::invalid;
use crate::server::state::{AppState, Live};

/// Responses that are looked into for one request: each is a trip to the store.
const MOST: usize = 8;

/// Puts the items in the place of their ids. It begins at the last: the response of that one was, as a rule, given all the
/// ones in front of it, so that one trip finds them all. Each response that is looked into begins a new life.
pub async fn resolve(
    state: &AppState,
    live: &Live,
    caller: &Caller,
    given: Vec<Given>,
) -> Result<Vec<Item>, ApiError> {
    let mut found: HashMap<String, Item> = HashMap::new();
    let (mut responses, mut bytes) = (0, 0);
    for given in given.iter().rev() {
        let Given::Reference(id) = given else { continue };
        if found.contains_key(id) {
            continue;
        }
        let response = response_of(id).ok_or_else(|| missing(id))?;
        // What one response may hold is enough for one request: a small one must not fetch many times its own size.
        if responses == MOST || bytes > STORED_MAX {
            let allowed = format!(
                "of items of at most {MOST} responses, of {} MiB together, where it refers to them: send the others as they are",
                STORED_MAX >> 20
            );
            return Err(invalid("input", &allowed));
        }
        let stored = stored(state, live, caller, response, true).await?;
        responses += 1;
        bytes += stored.as_ref().map_or(0, Stored::length);
        let said = stored.and_then(|stored| stored.said());
        for item in said.unwrap_or_default() {
            found.entry(item.id().to_owned()).or_insert(item);
        }
        if !found.contains_key(id) {
            return Err(missing(id));
        }
    }
    // Each once: a long item that is named very often would fill the memory.
    let item = |given| match given {
        Given::Item(item) => Ok(item),
        Given::Reference(id) => found.remove(&id).ok_or_else(|| duplicate(&id)),
    };
    given.into_iter().map(item).collect()
}

fn missing(id: &str) -> ApiError {
    ApiError::ItemNotFound { id: id.chars().take(64).collect() }
}
