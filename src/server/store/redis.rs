//! The store that all pods share. In and out: as [`super::Store`] says; each method is one trip, bounded in time by
//! `link.rs`.
//!
//! Keys, all with a life that is set in the same call:
//! - `chatservice:{uid}:rl1:<hash of the caller>`: the time at which the bucket is full;
//! - `chatservice:{uid}:c1:<cache key>`: a cached answer;
//! - `chatservice:{uid:id}:t1`: a conversation's turns.
//!
//! The number is the version of what is stored there. What is in braces decides the slot of a Redis Cluster: limits and
//! cache share one so that a single script may use both. That puts one service's answers into one slot, which a layout
//! for Cluster will have to change; conversations are spread already.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use redis::{Cmd, Script, ScriptInvocation};

use super::link::Link;
pub use super::redis_address::{RedisAddress, RedisAddressError};
use super::{
    Admit, Admitted, CacheKey, CallerKey, ConversationId, Exhausted, Retention, Role, Store, StoreError,
    StoredMessage, Turn,
};
use crate::constants::REDIS_KEY_PREFIX;
use crate::server::config::RequestLimit;
use crate::server::limits::{self, Rate};

/// Shortest life of a bucket's key. A Redis that evicts by `volatile-ttl` takes what expires first, so buckets outlive
/// everything else: at least this, and twice the longest life that was given to anything.
const BUCKET_LIFE: Duration = Duration::from_hours(24);
/// Turns that are read at most, whatever a list holds: the most messages that a ChatService may ask for.
const MOST_TURNS: isize = 100;

/// Redis' code for a command that does not fit what is stored.
const WRONG_TYPE: &str = "WRONGTYPE";

/// The store in Redis.
pub struct RedisStore {
    link: Link,
    uid: String,
    admit: Script,
    charge: Script,
    append_turn: Script,
    /// ms of the longest life that this process gave to an answer or a conversation.
    longest_life: AtomicU64,
}

impl RedisStore {
    /// A store for the ChatService with this uid. Redis need not be there yet: it is connected to when it is first used.
    #[must_use]
    pub fn new(address: RedisAddress, uid: &str) -> Self {
        Self {
            link: Link::new(address),
            uid: uid.to_owned(),
            admit: Script::new(include_str!("admit.lua")),
            charge: Script::new(include_str!("charge.lua")),
            append_turn: Script::new(include_str!("append_turn.lua")),
            longest_life: AtomicU64::new(0),
        }
    }

    fn bucket_key(&self, caller: &CallerKey) -> String {
        // A caller may be an address or a name of any form: neither belongs into a key that operators list.
        let hash = blake3::hash(caller.0.as_bytes()).to_hex();
        format!("{REDIS_KEY_PREFIX}{{{}}}:rl1:{:.32}", self.uid, hash.as_str())
    }

    fn cache_key(&self, key: CacheKey) -> String {
        format!("{REDIS_KEY_PREFIX}{{{}}}:c1:{}", self.uid, blake3::Hash::from_bytes(key.0).to_hex())
    }

    fn conversation_key(&self, id: ConversationId) -> String {
        format!("{REDIS_KEY_PREFIX}{{{}:{}}}:t1", self.uid, id.0)
    }

    /// Life of a bucket's key in ms.
    fn bucket_life(&self, longest_bucket: u64) -> u64 {
        millis(BUCKET_LIFE)
            .max(self.longest_life.load(Ordering::Relaxed).saturating_mul(2))
            .max(longest_bucket / 1000 * 2)
    }

    /// ms of a life, remembered for [`Self::bucket_life`].
    fn life(&self, life: Duration) -> u64 {
        let life = millis(life);
        self.longest_life.fetch_max(life, Ordering::Relaxed);
        life
    }

    /// Runs a script by its hash; Redis is sent its text once, and again when it has forgotten it.
    async fn invoke<T>(&self, script: &ScriptInvocation<'_>) -> Result<T, StoreError>
    where
        T: redis::FromRedisValue,
    {
        self.link.run(async |mut connection| script.invoke_async(&mut connection).await).await
    }

    async fn query<T: redis::FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        self.link.run(async |mut connection| command.query_async(&mut connection).await).await
    }

    async fn admit_limited(
        &self,
        caller: CallerKey,
        limit: RequestLimit,
        cache_key: Option<CacheKey>,
    ) -> Result<Admitted, StoreError> {
        let rate = Rate::from(limit);
        let mut script = self.admit.key(self.bucket_key(&caller));
        if let Some(key) = cache_key {
            script.key(self.cache_key(key));
        }
        script.arg(rate.interval).arg(rate.bucket).arg(self.bucket_life(rate.bucket));
        let (allowed, full_at, now, cached): (bool, u64, u64, Option<Vec<u8>>) = self.invoke(&script).await?;
        Ok(Admitted {
            limit: Some(limits::state(full_at, now, rate, allowed)),
            cached: cached.map(Bytes::from),
        })
    }

    /// The answer alone. A value of another type is a miss, as it is in the script.
    async fn cached(&self, key: CacheKey) -> Result<Option<Bytes>, StoreError> {
        let get = Cmd::get(self.cache_key(key));
        let found = self
            .link
            .run(async |mut connection| match get.query_async::<Option<Vec<u8>>>(&mut connection).await {
                Err(error) if error.code() == Some(WRONG_TYPE) => Ok(None),
                found => found,
            })
            .await?;
        Ok(found.map(Bytes::from))
    }

    async fn charge_all(&self, charges: Vec<(CallerKey, RequestLimit)>) -> Result<Exhausted, StoreError> {
        let mut counts: HashMap<_, u64> = HashMap::new();
        for charge in charges {
            *counts.entry(charge).or_default() += 1;
        }
        let longest = counts.keys().map(|(_, limit)| Rate::from(*limit).bucket).max().unwrap_or_default();
        let mut script = self.charge.arg(self.bucket_life(longest));
        for ((caller, limit), count) in &counts {
            let rate = Rate::from(*limit);
            script.key(self.bucket_key(caller)).arg(rate.interval).arg(rate.bucket).arg(*count);
        }
        let answer: Vec<u64> = self.invoke(&script).await?;
        let Some((now, full_at)) = answer.split_first().filter(|(_, full_at)| full_at.len() == counts.len())
        else {
            return Err(StoreError::Failed("the charge was answered with something else".to_owned()));
        };
        let states = counts.into_keys().zip(full_at).map(|((caller, limit), &full_at)| {
            // Buckets never are below empty by more than one; what is not is not ours.
            (caller, limits::state(full_at, (*now).min(full_at), limit.into(), false))
        });
        Ok(states.filter(|(_, state)| !state.retry_after.is_zero()).collect())
    }

    async fn append(&self, id: ConversationId, turn: Turn, retention: Retention) -> Result<bool, StoreError> {
        let messages = [
            StoredMessage { role: Role::User, content: turn.user },
            StoredMessage { role: Role::Assistant, content: turn.assistant },
        ];
        let turns = i64::from((retention.max_messages / 2).max(1));
        let element = serde_json::to_vec(&messages)
            .map_err(|_| StoreError::Failed("the turn cannot be written as JSON".to_owned()))?;
        let mut script = self.append_turn.key(self.conversation_key(id));
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

/// Whole ms, at least one: Redis refuses a life of zero.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

impl Store for RedisStore {
    fn admit(&self, admit: Admit) -> BoxFuture<'_, Result<Admitted, StoreError>> {
        async move {
            match (admit.limit, admit.cache_key) {
                (Some((caller, limit)), cache_key) => self.admit_limited(caller, limit, cache_key).await,
                (None, Some(key)) => Ok(Admitted { limit: None, cached: self.cached(key).await? }),
                (None, None) => Ok(Admitted { limit: None, cached: None }),
            }
        }
        .boxed()
    }

    fn charge(
        &self,
        charges: Vec<(CallerKey, RequestLimit)>,
    ) -> BoxFuture<'_, Result<Exhausted, StoreError>> {
        self.charge_all(charges).boxed()
    }

    fn cache_put(
        &self,
        key: CacheKey,
        answer: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            let mut set = redis::cmd("SET");
            set.arg(self.cache_key(key)).arg(answer.as_ref()).arg("PX").arg(self.life(ttl));
            self.query(&set).await
        }
        .boxed()
    }

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

    fn shared(&self) -> bool {
        true
    }

    fn connected(&self) -> Option<bool> {
        self.link.connected()
    }
}
