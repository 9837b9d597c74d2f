//! The store that all pods share. In and out: as [`super::Store`] says; each method is one trip, bounded in time by
//! `link.rs`.
//!
//! Keys, all with a life that is set in the same call:
//! - `chatservice:{uid}:ra1:<hash of the caller>`: its rates: the time at which the bucket of requests is full; the bucket of
//!   tokens, whole ones, parts of the next one, when;
//! - `…:cl1:<hash>`: requests under way, by when their reservations expire;
//! - `…:ba1:<period>:<hash>`: the account of a budget, first day of the period, spent, reserved;
//! - `…:bo1:<period>:<hash>`: reservations that are open in it, by when they expire;
//! - `…:rr2:<server>:<minute>`: which reservations of that minute are known, as `records.rs` says;
//! - `chatservice:{uid}:pods1`: the servers that share it, by the time of their last heartbeat;
//! - `chatservice:{uid:xx}:c1:<cache key>`: a cached answer, xx being its first byte;
//! - `chatservice:{uid:xx}:l2:<cache key>`: who asks for it, while it is not there;
//! - `chatservice:{uid:id}:t2`: a conversation;
//! - `chatservice:{uid:id}:r1`: a response with everything that was said.
//!
//! The number is the version of what is stored there. What is in braces decides the slot of a Redis Cluster: limits of one
//! service share one, so that a single script may use them all; answers and conversations are spread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::{Arg, Cmd, FromRedisValue, Value};

use super::link::Link;
use super::node::{OPERATION, Sent, Trip};
pub use super::redis_address::{RedisAddress, RedisAddressError, RedisCertificates};
use super::{Store, StoreError};
use crate::constants::REDIS_KEY_PREFIX;
use clock::Clock;
use lane::Lane;
use records::Records;
use script::{Script, ScriptCall};

mod answers;
mod budgets;
mod clock;
mod conversations;
mod lane;
mod limits;
mod records;
mod responses;
mod script;

/// What an answer may take on its way.
const ANSWER: Duration = Duration::from_millis(5);

/// Redis' code for a script that it does not have.
const NO_SCRIPT: &str = "NOSCRIPT";

/// The store in Redis.
pub struct RedisStore {
    base: Arc<Base>,
    /// Requests that ask to go on: those that come together share a trip.
    admissions: Lane,
}

/// What every trip needs.
struct Base {
    link: Link,
    uid: String,
    scripts: Scripts,
    records: Records,
    clock: Clock,
    /// ms of the longest life that this process gave to an answer, a conversation or a response.
    longest_life: AtomicU64,
}

struct Scripts {
    admit: Script,
    settle: Script,
    budgets: Script,
    heartbeat: Script,
    append_turn: Script,
    put_response: Script,
    read_conversation: Script,
    look: Script,
    renew: Script,
    release: Script,
}

impl RedisStore {
    /// A store for the ChatService with this uid. Redis need not be there yet: it is connected to when it is first used.
    #[must_use]
    pub fn new(address: RedisAddress, uid: &str) -> Self {
        let scripts = Scripts {
            admit: Script::new(concat!(
                include_str!("../limits.lua"),
                include_str!("../each.lua"),
                include_str!("../lock.lua"),
                include_str!("../share.lua"),
                include_str!("../admit.lua")
            )),
            settle: Script::new(concat!(
                include_str!("../limits.lua"),
                include_str!("../each.lua"),
                include_str!("../settle.lua")
            )),
            budgets: Script::new(concat!(
                include_str!("../limits.lua"),
                include_str!("../each.lua"),
                include_str!("../budgets.lua")
            )),
            heartbeat: Script::new(include_str!("../heartbeat.lua")),
            append_turn: Script::new(concat!(
                include_str!("../clock.lua"),
                include_str!("../append_turn.lua")
            )),
            put_response: Script::new(concat!(
                include_str!("../clock.lua"),
                include_str!("../put_response.lua")
            )),
            read_conversation: Script::new(concat!(
                include_str!("../clock.lua"),
                include_str!("../read_conversation.lua")
            )),
            look: Script::new(concat!(
                include_str!("../clock.lua"),
                include_str!("../lock.lua"),
                include_str!("../share.lua"),
                include_str!("../look.lua")
            )),
            renew: Script::new(concat!(include_str!("../lock.lua"), include_str!("../renew.lua"))),
            release: Script::new(concat!(include_str!("../lock.lua"), include_str!("../release.lua"))),
        };
        let base = Arc::new(Base {
            link: Link::new(address),
            uid: uid.to_owned(),
            scripts,
            records: Records::default(),
            clock: Clock::default(),
            longest_life: AtomicU64::new(0),
        });
        let admissions = Lane::new(base.clone());
        Self { base, admissions }
    }

    /// Whether what is in different slots needs a trip each.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        self.base.link.is_cluster()
    }
}

impl Base {
    /// A key in the slot of `{uid}` or, with a part, of `{uid:part}`.
    fn key(&self, part: Option<&str>, rest: &str) -> String {
        let parts = [REDIS_KEY_PREFIX, "{", &self.uid];
        let end = part.map_or(["", "", "}:", rest], |part| [":", part, "}:", rest]);
        let length = parts.iter().chain(&end).map(|text| text.len()).sum::<usize>();
        // Most are followed by a hash.
        let mut key = String::with_capacity(length + 2 * blake3::OUT_LEN);
        parts.iter().chain(&end).for_each(|text| key.push_str(text));
        key
    }

    /// ms of a life, remembered for [`Self::key_life`].
    fn life(&self, life: Duration) -> u64 {
        let life = millis(life);
        self.longest_life.fetch_max(life, Ordering::Relaxed);
        life
    }

    /// Runs a script by its hash, and by its text where Redis does not have it: a new one, or one that was restarted.
    async fn invoke<T: FromRedisValue>(&self, call: &ScriptCall<'_>) -> Result<T, StoreError> {
        let mut trip = Trip::new();
        let key = call.first_key();
        let answer = match self.link.run(key, &Sent::One(call.by_hash()), &mut trip).await {
            Err(StoreError::Failed(reason)) if reason == NO_SCRIPT => {
                self.link.run(key, &Sent::One(call.by_text()), &mut trip).await
            }
            answer => answer,
        };
        read(answer?)
    }

    /// Runs a script that does nothing, and says 2, once its answer would not be heard any more, or a little before: the time on
    /// Redis' clock is its last argument. What it says besides the time: less than 2.
    async fn invoke_in_time<'a>(&self, call: impl Fn() -> ScriptCall<'a>) -> Result<u8, StoreError> {
        for _ in 0..2 {
            let mut call = call();
            call.arg(self.clock.in_time(OPERATION.saturating_sub(ANSWER)));
            let (now, outcome): (u64, u8) = self.invoke(&call).await?;
            self.clock.told(now);
            // Else its clock was not known, or is another node's; now it is.
            if outcome < 2 {
                return Ok(outcome);
            }
        }
        Err(StoreError::Timeout(OPERATION))
    }

    /// Runs a command whose first argument is its key.
    async fn query<T: FromRedisValue>(&self, command: Cmd) -> Result<T, StoreError> {
        let key = match command.args_iter().nth(1) {
            Some(Arg::Simple(key)) => key.to_vec(),
            _ => Vec::new(),
        };
        read(self.link.run(&key, &Sent::One(command), &mut Trip::new()).await?)
    }
}

/// What is not of the form that we store is an error that quotes nothing of it.
fn read<T: FromRedisValue>(answer: Value) -> Result<T, StoreError> {
    redis::from_redis_value(answer).map_err(|_| StoreError::Failed("what is stored is not ours".to_owned()))
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
        self.base.link.connected()
    }

    fn look(&self) {
        self.base.link.look();
    }
}
