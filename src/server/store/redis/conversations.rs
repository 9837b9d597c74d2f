//! Conversations in Redis: a hash each, as `append_turn.lua` describes it. In and out: as [`ConversationStore`] says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use redis::Cmd;

use super::{Base, RedisStore};
use crate::server::pricing::NanoUsd;
use crate::server::store::{
    Conversation, ConversationStore, OwnedId, Retention, Said, StoreError, StoredTurn, Turn,
};

impl Base {
    fn conversation_key(&self, id: OwnedId) -> String {
        self.key(Some(&id.to_string()), "t2")
    }

    async fn append(&self, id: OwnedId, turn: Turn, retention: Retention) -> Result<bool, StoreError> {
        let said = serde_json::to_vec(&turn.said)
            .map_err(|_| StoreError::Failed("the turn cannot be written as JSON".to_owned()))?;
        let outcome = self.invoke_in_time(|| {
            let mut script = self.scripts.append_turn.key(self.conversation_key(id));
            script.arg(u8::from(turn.first));
            script.arg(retention.max_turns()).arg(retention.max_tokens.map_or(-1, i64::from));
            script.arg(self.life(retention.ttl));
            script.arg(said.as_slice()).arg(turn.tokens);
            script.arg(turn.used).arg(turn.cost.map_or_else(String::new, |cost| cost.0.to_string()));
            script
        });
        Ok(outcome.await? == 1)
    }

    async fn read(&self, id: OwnedId, renew: Option<Duration>) -> Result<Option<Conversation>, StoreError> {
        let mut script = self.scripts.read_conversation.key(self.conversation_key(id));
        script.arg(renew.map_or(0, |life| self.life(life)));
        let (now, fields): (u64, HashMap<String, Vec<u8>>) = self.invoke(&script).await?;
        self.clock.told(now);
        if fields.is_empty() {
            return Ok(None);
        }
        decode(&fields)
            .map(Some)
            .ok_or_else(|| StoreError::Failed("a stored conversation is not one of ours".to_owned()))
    }

    async fn delete(&self, id: OwnedId) -> Result<bool, StoreError> {
        self.query(Cmd::unlink(self.conversation_key(id))).await
    }
}

/// None for what we have not written.
fn decode(fields: &HashMap<String, Vec<u8>>) -> Option<Conversation> {
    let text = |name: &str| fields.get(name).map(|value| std::str::from_utf8(value));
    let total_cost = match text("cost") {
        Some(cost) => Some(NanoUsd(cost.ok()?.parse().ok()?)),
        None => None,
    };
    let mut turns: Vec<(u64, Arc<StoredTurn>)> = Vec::new();
    for (name, value) in fields {
        if let Ok(number) = name.parse() {
            turns.push((number, Arc::new(turn(value)?)));
        }
    }
    turns.sort_unstable_by_key(|(number, _)| *number);
    Some(Conversation {
        turns: turns.into_iter().map(|(_, turn)| turn).collect(),
        total_tokens: text("tokens")?.ok()?.parse().ok()?,
        total_cost,
        updated_at: text("at")?.ok()?.parse().ok()?,
    })
}

/// Its tokens, a blank, and what was said as JSON.
fn turn(stored: &[u8]) -> Option<StoredTurn> {
    let blank = stored.iter().position(|byte| *byte == b' ')?;
    let (tokens, said) = stored.split_at(blank);
    let said: Said = serde_json::from_slice(said).ok()?;
    Some(StoredTurn { said, tokens: std::str::from_utf8(tokens).ok()?.parse().ok()? })
}

impl ConversationStore for RedisStore {
    fn conversation(
        &self,
        id: OwnedId,
        renew: Option<Duration>,
    ) -> BoxFuture<'_, Result<Option<Conversation>, StoreError>> {
        self.base.read(id, renew).boxed()
    }

    fn append_turn(
        &self,
        id: OwnedId,
        turn: Turn,
        retention: Retention,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.base.append(id, turn, retention).boxed()
    }

    fn delete_conversation(&self, id: OwnedId) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.base.delete(id).boxed()
    }
}
