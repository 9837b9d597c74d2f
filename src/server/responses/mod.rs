//! OpenAI's Responses over chat completions. In: a request of that API, and what the store holds of an earlier answer.
//! Out: the chat completion that means the same, and its answer as a response object or as events.
//!
//! `request.rs` reads and refuses (`tools.rs` functions, `form.rs` the text's form, `items/read.rs` what is said), `place.rs` names
//! what is wrong. `items.rs` is what is said on either side, `ids.rs` its ids, `references.rs` what is sent by its id alone,
//! `calls.rs` which result is that of which call. `chat.rs` makes the chat completion, `delta.rs` reads the answer, `assembly.rs` puts it
//! together in a `turn.rs`, `names.rs` puts the caller's names into a refusal, `events.rs` tells an answer as it comes, `object.rs` is the response as it is written and stored,
//! `schema.rs` describes the rest for the OpenAPI document. What a backend cannot be asked through a chat completion is
//! refused by name, never ignored.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::caller::Caller;
use super::completion::to_bytes;
use super::error::ApiError;
use super::state::{AppState, Live};

mod assembly;
mod calls;
pub mod chat;
mod delta;
mod events;
mod form;
mod ids;
pub mod items;
mod names;
pub mod object;
mod place;
mod references;
pub mod request;
pub mod schema;
mod tools;
pub mod turn;

use ids::{Ids, parse_id};
use items::Item;
pub use names::Names;
pub use references::resolve;
pub use turn::Turn;

/// Largest response that is stored, with everything that was said before: a larger one would keep Redis' one connection
/// busy past the deadline of others.
pub(super) const STORED_MAX: usize = 1 << 20;

/// A response as the store has it.
#[derive(Serialize, Deserialize)]
pub struct Stored {
    /// The response object.
    pub response: Box<RawValue>,
    /// What it answered: all items that the model was given, those of earlier responses too, so that one trip is enough to
    /// go on.
    pub input: Vec<Box<RawValue>>,
}

impl Stored {
    /// None for what we have not written: the store is not trusted.
    fn read(stored: &[u8]) -> Option<Self> {
        serde_json::from_slice(stored).ok()
    }

    /// Its length in bytes, nearly.
    fn length(&self) -> usize {
        self.response.get().len() + self.input.iter().map(|item| item.get().len()).sum::<usize>()
    }

    /// All that was said: what was given to the model, and what it answered.
    fn said(&self) -> Option<Vec<Item>> {
        #[derive(Deserialize)]
        struct Answered {
            output: Vec<Box<RawValue>>,
        }
        // Each has its own.
        let mut ids = Ids::new();
        let answered: Answered = serde_json::from_str(self.response.get()).ok()?;
        self.input
            .iter()
            .chain(&answered.output)
            .map(|item| items::item(item, "input", &mut ids).ok())
            .collect()
    }
}

/// A stored response of this caller; None: it has no such one.
pub async fn find(
    state: &AppState,
    live: &Live,
    caller: &Caller,
    id: &str,
    renew: bool,
) -> Result<Option<Stored>, ApiError> {
    match parse_id(id) {
        Some(id) => stored(state, live, caller, id, renew).await,
        None => Ok(None),
    }
}

async fn stored(
    state: &AppState,
    live: &Live,
    caller: &Caller,
    id: Uuid,
    renew: bool,
) -> Result<Option<Stored>, ApiError> {
    let renewed = renew.then(|| life(live));
    let stored = live.store.response(caller.owned(id), renewed).await;
    Ok(stored.map_err(|_| state.store_away("response"))?.and_then(|stored| Stored::read(&stored)))
}

/// Erases a stored response of this caller; false: it had no such one.
pub async fn erase(state: &AppState, live: &Live, caller: &Caller, id: &str) -> Result<bool, ApiError> {
    let Some(id) = parse_id(id) else { return Ok(false) };
    live.store.delete_response(caller.owned(id)).await.map_err(|_| state.store_away("delete_response"))
}

/// What was said until the response that a request goes on from. It begins a new life: it must not end while the model
/// answers.
pub async fn said_until(
    state: &AppState,
    live: &Live,
    caller: &Caller,
    previous: &str,
) -> Result<Vec<Item>, ApiError> {
    let stored = find(state, live, caller, previous, true).await?;
    stored.and_then(|stored| stored.said()).ok_or(ApiError::PreviousResponseNotFound)
}

/// Stores a response that has its answer, if it is to be and can be. The caller is told by its `store`.
pub async fn keep(state: &AppState, live: &Arc<Live>, caller: &Caller, turn: &mut Turn) {
    if !turn.wants_store() {
        return;
    }
    let stored: Bytes = to_bytes(&turn.stored());
    if stored.len() > STORED_MAX {
        return turn.not_stored();
    }
    if live.store.put_response(caller.owned(turn.id()), stored, life(live)).await.is_err() {
        state.metrics().store_error("put_response");
        turn.not_stored();
    }
}

/// As long as a conversation lives.
fn life(live: &Live) -> Duration {
    Duration::from_millis(live.config.dynamic.conversations.ttl_ms)
}
