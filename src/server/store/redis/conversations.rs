//! Conversations in Redis: a list with one turn per element. In and out: as [`ConversationStore`] says.

use futures::FutureExt;
use futures::future::BoxFuture;
use redis::Cmd;

use super::RedisStore;
use crate::server::store::{
    ConversationId, ConversationStore, Retention, Role, StoreError, StoredMessage, Turn,
};

/// Turns that are read at most, whatever a list holds: the most messages that a ChatService may ask for.
const MOST_TURNS: isize = 100;

impl RedisStore {
    fn conversation_key(&self, id: ConversationId) -> String {
        self.key(Some(&id.0.to_string()), "t1")
    }

    async fn append(&self, id: ConversationId, turn: Turn, retention: Retention) -> Result<bool, StoreError> {
        let messages = [
            StoredMessage { role: Role::User, content: turn.user },
            StoredMessage { role: Role::Assistant, content: turn.assistant },
        ];
        let turns = i64::from((retention.max_messages / 2).max(1));
        let element = serde_json::to_vec(&messages)
            .map_err(|_| StoreError::Failed("the turn cannot be written as JSON".to_owned()))?;
        let mut script = self.scripts.append_turn.key(self.conversation_key(id));
        script.arg(u8::from(turn.first)).arg(-turns).arg(self.life(retention.ttl)).arg(element);
        self.invoke(&script).await
    }

    async fn read_conversation(&self, id: ConversationId) -> Result<Option<Vec<StoredMessage>>, StoreError> {
        let turns: Vec<Vec<u8>> =
            self.query(&Cmd::lrange(self.conversation_key(id), -MOST_TURNS, -1)).await?;
        let mut messages = Vec::with_capacity(turns.len() * 2);
        for turn in &turns {
            let turn: Vec<StoredMessage> = serde_json::from_slice(turn)
                .map_err(|_| StoreError::Failed("a stored turn is not one of ours".to_owned()))?;
            messages.extend(turn);
        }
        Ok((!turns.is_empty()).then_some(messages))
    }
}

impl ConversationStore for RedisStore {
    fn conversation(
        &self,
        id: ConversationId,
    ) -> BoxFuture<'_, Result<Option<Vec<StoredMessage>>, StoreError>> {
        self.read_conversation(id).boxed()
    }

    fn append_turn(
        &self,
        id: ConversationId,
        turn: Turn,
        retention: Retention,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.append(id, turn, retention).boxed()
    }
}
