//! The store that all pods share. In and out: as [`super::Store`] says; each method is one trip, bounded in time by
//! `link.rs`.
//!
//! Keys, all with a life that is set in the same call:
//! - `chatservice:{uid}:rl1:<hash of the caller>`: requests, the time at which the bucket is full;
//! - `…:tb1:<hash>`: the bucket of tokens, whole ones, parts of the next one, when;
//! - `…:cl1:<hash>`: requests under way, by when their reservations expire;
//! - `…:ba1:<period>:<hash>`: the account of a budget, first day of the period, spent, reserved;
//! - `…:bo1:<period>:<hash>`: reservations that are open in it, by when they expire;
//! - `…:rr1:a`, `…:rr1:b`: which reservations are known: each for two of its lives at least, four at most;
//! - `chatservice:{uid}:pods1`: the servers that share it, by the time of their last heartbeat;
//! - `chatservice:{uid:xx}:c1:<cache key>`: a cached answer, xx being its first byte;
//! - `chatservice:{uid:id}:t2`: a conversation.
//!
//! The number is the version of what is stored there. What is in braces decides the slot of a Redis Cluster: limits of one
//! service share one, so that a single script may use them all; answers and conversations are spread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::{Cmd, Script, ScriptInvocation};

use super::link::Link;
pub use super::redis_address::{RedisAddress, RedisAddressError, RedisCertificates};
use super::{Store, StoreError};
use crate::constants::REDIS_KEY_PREFIX;

mod answers;
mod conversations;
mod limits;

/// The store in Redis.
pub struct RedisStore {
    link: Link,
    uid: String,
    scripts: Scripts,
    /// ms of the longest life that this process gave to an answer or a conversation.
    longest_life: AtomicU64,
}

struct Scripts {
    admit: Script,
    settle: Script,
    heartbeat: Script,
    append_turn: Script,
    read_conversation: Script,
}

impl RedisStore {
    /// A store for the ChatService with this uid. Redis need not be there yet: it is connected to when it is first used.
    #[must_use]
    pub fn new(address: RedisAddress, uid: &str) -> Self {
        let scripts = Scripts {
            admit: Script::new(concat!(include_str!("../limits.lua"), include_str!("../admit.lua"))),
            settle: Script::new(concat!(include_str!("../limits.lua"), include_str!("../settle.lua"))),
            heartbeat: Script::new(include_str!("../heartbeat.lua")),
            append_turn: Script::new(include_str!("../append_turn.lua")),
            read_conversation: Script::new(include_str!("../read_conversation.lua")),
        };
        Self { link: Link::new(address), uid: uid.to_owned(), scripts, longest_life: AtomicU64::new(0) }
    }

    /// Whether what is in different slots needs a trip each.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        self.link.is_cluster()
    }

    /// A key in the slot of `{uid}` or, with a part, of `{uid:part}`.
    fn key(&self, part: Option<&str>, rest: &str) -> String {
        match part {
            None => format!("{REDIS_KEY_PREFIX}{{{}}}:{rest}", self.uid),
            Some(part) => format!("{REDIS_KEY_PREFIX}{{{}:{part}}}:{rest}", self.uid),
        }
    }

    /// ms of a life, remembered for [`Self::key_life`].
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
}

/// Whole ms, at least one: Redis refuses a life of zero.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

impl Store for RedisStore {
    fn shared(&self) -> bool {
        true
    }

    fn connected(&self) -> Option<bool> {
        self.link.connected()
    }
}
