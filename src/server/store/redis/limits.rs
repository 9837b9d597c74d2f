//! Limits in Redis, decided by scripts on Redis' own clock. In and out: as [`LimitStore`] says.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use redis::{Cmd, FromRedisValue, Value};
use tokio::sync::oneshot;

use super::script::{Script, ScriptCall};
use super::{Base, RedisStore, answers, lane, millis, read};
use crate::crd::BudgetPeriod;
use crate::server::limits::tokens::{self, Level};
use crate::server::limits::{self, Rate};
use crate::server::pricing::NanoUsd;
use crate::server::store::{
    Admit, Admitted, AnswerStore, BudgetDemand, BudgetState, CacheKey, CallerKey, Exhausted, LimitState,
    LimitStore, PodId, Refused, Released, Reserve, Settle, Share, SharerId, Standing, StoreError,
};

/// Shortest life of a limit's key. A Redis that evicts by `volatile-ttl` takes what expires first, so limits outlive
/// everything else: at least this, and twice the longest life that was given to anything.
const KEY_LIFE: Duration = Duration::from_hours(24);

/// The script is ours, so this Redis is none.
pub(super) const NOT_AN_ANSWER: &str = "a script was answered with something else";

/// How long a server is counted after its last heartbeat: three of those that come every 5 s.
const POD_LIFE: Duration = Duration::from_secs(15);

/// How many values `admit.lua` answers of a request.
const TOLD: usize = 9;

/// What `admit.lua` answers of a request: which limit refuses, when the bucket of requests is full, tokens, parts of the next
/// one, spent, reserved, the stored answer, who asks for one and with what two have failed.
type Decided = (u8, u64, i64, u64, u64, u64, Option<Vec<u8>>, Option<u8>, Option<Vec<u8>>);

/// A request that asks to go on.
pub(super) struct Asked {
    reserve: Reserve,
    lookup: Lookup,
    told: oneshot::Sender<Result<Admitted, StoreError>>,
}

/// What `admit.lua` is told of the cache.
enum Lookup {
    /// Nothing.
    None,
    /// Where to look.
    At(String),
    /// Where to look, and for who asks.
    Sharing(String, String, SharerId),
    /// It was found.
    Found,
}

impl Lookup {
    /// Where it is looked for.
    fn answer(&self) -> Option<&str> {
        match self {
            Self::At(key) | Self::Sharing(key, ..) => Some(key),
            Self::None | Self::Found => None,
        }
    }
}

impl Base {
    pub(super) fn limit_key(&self, kind: &str, caller: &CallerKey) -> String {
        // A caller may be an address or a name of any form: neither belongs into a key that operators list.
        let hash = blake3::hash(caller.0.as_bytes()).to_hex();
        let mut key = self.key(None, kind);
        // Writing to a String cannot fail.
        let _ = write!(key, ":{:.32}", hash.as_str());
        key
    }

    /// Life of a limit's key in ms, long enough for what `reserves` put into it.
    pub(super) fn key_life<'a>(&self, reserves: impl Iterator<Item = &'a Reserve>) -> u64 {
        let own = |reserve: &Reserve| {
            let bucket = reserve.requests.map_or(0, |limit| Rate::from(limit).bucket / 1000);
            // What is known of reservations is written to one key for two lives at most, and is remembered for two more.
            (bucket * 2).max(millis(reserve.life).saturating_mul(8))
        };
        let others = self.longest_life.load(Ordering::Relaxed).saturating_mul(2);
        reserves.map(own).max().unwrap_or_default().max(others).max(millis(KEY_LIFE))
    }

    /// A script about these reservations: with the life of keys, and the records of all ids, as `limits.lua` reads them.
    fn about<'a>(&self, script: &'a Script, reserves: &[&Reserve]) -> ScriptCall<'a> {
        let mut call = script.arg(self.key_life(reserves.iter().copied()));
        let of = |reserve: &Reserve| self.records.minute(reserve);
        let minutes: Vec<_> = reserves.chunk_by(|one, other| of(one) == of(other)).collect();
        call.arg(minutes.len());
        for minute in minutes {
            let Some(first) = minute.first() else { continue };
            call.key(self.record_key(&self.records.name(first))).arg(minute.len());
            for reserve in minute {
                call.arg(&reserve.id.0.to_be_bytes());
            }
        }
        call
    }

    /// Adds one request's keys and arguments, as `next_demand` of `limits.lua` reads them. Limits that are those of the
    /// request before it are not told again.
    fn demand(&self, script: &mut ScriptCall<'_>, before: Option<&Reserve>, reserve: &Reserve) {
        if before.is_some_and(|before| Self::same_limits(before, reserve)) {
            script.arg(0);
        } else {
            script.arg(1);
            self.limits(script, reserve);
        }
        if let Some(demand) = reserve.tokens {
            script.arg(tokens::taken(demand.tokens, tokens::size(demand.per_minute)));
        }
        if let Some(demand) = &reserve.budget {
            script.arg(exact(demand.worst.0));
        }
    }

    /// Whether two requests take of the same limits, in whatever measure.
    fn same_limits(one: &Reserve, other: &Reserve) -> bool {
        let bucket = |reserve: &Reserve| reserve.tokens.map(|demand| demand.per_minute);
        let budget = |reserve: &Reserve| reserve.budget.as_ref().map(|demand| demand.budget);
        let payer = |demand: &BudgetDemand| demand.caller.clone();
        one.caller == other.caller
            && one.requests == other.requests
            && bucket(one) == bucket(other)
            && one.concurrent == other.concurrent
            && budget(one) == budget(other)
            && one.budget.as_ref().map(payer) == other.budget.as_ref().map(payer)
            && (one.life, one.enforce) == (other.life, other.enforce)
    }

    fn limits(&self, script: &mut ScriptCall<'_>, reserve: &Reserve) {
        script.arg(micros(reserve.life));
        let rate = reserve.requests.map(Rate::from);
        script.arg(rate.map_or(0, |rate| rate.interval)).arg(rate.map_or(0, |rate| rate.bucket));
        script.arg(reserve.concurrent.map_or(0, |most| most.max(1)));
        script.arg(reserve.tokens.map_or(0, |demand| tokens::size(demand.per_minute)));
        if reserve.requests.is_some() || reserve.tokens.is_some() {
            script.key(self.limit_key("ra1", &reserve.caller));
        }
        if reserve.concurrent.is_some() {
            script.key(self.limit_key("cl1", &reserve.caller));
        }
        match &reserve.budget {
            None => script.arg(0).arg(0),
            Some(demand) => {
                let period = period_letter(demand.budget.period);
                script.key(self.limit_key(&format!("ba1:{period}"), &demand.caller));
                script.key(self.limit_key(&format!("bo1:{period}"), &demand.caller));
                script.arg(period).arg(exact(demand.budget.amount_nano_usd))
            }
        };
        script.arg(u8::from(reserve.enforce));
    }

    /// One trip for all of these; each is told its part.
    pub(super) async fn decide(&self, mut all: Vec<Asked>) {
        // Nobody waits for these any more, and nothing was sent for them.
        all.retain(|asked| !asked.told.is_closed());
        if all.is_empty() {
            return;
        }
        // Those of one caller stay in the order in which they came, and their limits are told once.
        all.sort_by(|one, other| one.reserve.caller.0.cmp(&other.reserve.caller.0));
        let reserves: Vec<_> = all.iter().map(|asked| &asked.reserve).collect();
        let mut script = self.about(&self.scripts.admit, &reserves);
        let looked_for = all.iter().filter_map(|asked| asked.lookup.answer());
        script.arg(answers::lease()).arg(looked_for.clone().count());
        for key in looked_for {
            script.key(key);
        }
        let mut before = None;
        for Asked { reserve, lookup, .. } in &all {
            self.records.asked(reserve);
            self.demand(&mut script, before.replace(reserve), reserve);
            match lookup {
                Lookup::None => script.arg(""),
                Lookup::At(_) => script.arg("look"),
                Lookup::Sharing(_, lock, id) => script.key(lock).arg("share").arg(answers::name(*id)),
                Lookup::Found => script.arg("hit"),
            };
        }
        let told = self.invoke::<Vec<Value>>(&script).await;
        let told = told.and_then(|told| {
            let whole = told.len() == 1 + all.len() * TOLD;
            let mut told = told.into_iter();
            let now = next(&mut told)?;
            whole.then_some((now, told)).ok_or_else(not_an_answer)
        });
        let (now, mut decided) = match told {
            Ok((now, decided)) => {
                self.clock.told(now);
                (now, decided)
            }
            Err(error) => {
                for asked in all {
                    // Whoever does not wait any more needs no answer.
                    let _ = asked.told.send(Err(error.clone()));
                }
                return;
            }
        };
        for Asked { reserve, told, .. } in all {
            let admitted = next_decided(&mut decided).and_then(|decided| admitted(&reserve, now, decided));
            if admitted.as_ref().is_ok_and(|admitted| !admitted.reserved(&reserve)) {
                self.records.ended(&reserve);
            }
            let _ = told.send(admitted);
        }
    }

    /// A look at the cache alone: an answer, or who asks for it.
    async fn look(
        &self,
        key: CacheKey,
        sharer: Option<SharerId>,
    ) -> Result<(Option<Bytes>, Option<Share>), StoreError> {
        let Some(id) = sharer else { return Ok((self.cached(key).await?, None)) };
        Ok(match self.share(key, id).await? {
            Share::Answer(answer) => (Some(answer), None),
            share => (None, Some(share)),
        })
    }

    /// Ends reservations, all of them in one trip.
    async fn settle_all(&self, settles: Vec<Settle>) -> Result<Exhausted, StoreError> {
        let mut settles: Vec<_> = settles.into_iter().filter(|settle| settle.reserve.limited()).collect();
        settles.sort_by(|one, other| one.reserve.caller.0.cmp(&other.reserve.caller.0));
        // Of several of one caller the last one tells how it stands.
        let mut states = HashMap::new();
        if !settles.is_empty() {
            self.settle_some(&settles, &mut states).await?;
        }
        Ok(states.into_iter().filter(|(_, state)| !state.retry_after.is_zero()).collect())
    }

    async fn settle_some(
        &self,
        settles: &[Settle],
        states: &mut HashMap<CallerKey, LimitState>,
    ) -> Result<(), StoreError> {
        let reserves: Vec<_> = settles.iter().map(|settle| &settle.reserve).collect();
        let mut script = self.about(&self.scripts.settle, &reserves);
        let mut before = None;
        for settle in settles {
            self.records.asked(&settle.reserve);
            self.demand(&mut script, before.replace(&settle.reserve), &settle.reserve);
            let unknown_too = !settle.reserved || !settle.reserve.forgotten();
            script.arg(u8::from(unknown_too)).arg(settle.requests);
            script.arg(exact(settle.tokens)).arg(exact(settle.cost.0));
        }
        let answer: Vec<u64> = self.invoke(&script).await?;
        let Some((now, full_at)) = answer.split_first().filter(|(_, full_at)| full_at.len() == settles.len())
        else {
            return Err(not_an_answer());
        };
        for settle in settles {
            self.records.settled(settle);
        }
        for (settle, full_at) in settles.iter().zip(full_at).filter(|(_, full_at)| **full_at > 0) {
            if let Some(limit) = settle.reserve.requests {
                let state = limits::state(*full_at, (*now).min(*full_at), limit.into(), false);
                states.insert(settle.reserve.caller.clone(), state);
            }
        }
        Ok(())
    }

    async fn count(&self, pod: PodId) -> Result<u32, StoreError> {
        let mut script = self.scripts.heartbeat.key(self.key(None, "pods1"));
        script.arg(&pod.0.to_be_bytes()).arg(micros(POD_LIFE)).arg(self.key_life(std::iter::empty()));
        self.invoke(&script).await
    }

    /// Drops the records that nobody needs any more. What it cannot be told of, Redis forgets by itself in the end.
    async fn forget(&self) {
        let over: Vec<_> = self.records.over().iter().map(|name| self.record_key(name)).collect();
        if !over.is_empty() {
            let _ = self.query::<()>(Cmd::unlink(over)).await;
        }
    }

    fn record_key(&self, name: &str) -> String {
        self.key(None, &format!("rr2:{name}"))
    }
}

impl RedisStore {
    async fn reserve(&self, reserve: Reserve, lookup: Lookup) -> Result<Admitted, StoreError> {
        let (told, answer) = oneshot::channel();
        self.admissions.send(Asked { reserve, lookup, told }).await?;
        answer.await.unwrap_or_else(|_| Err(lane::gone()))
    }

    /// Limits and answers are in different slots of a Redis Cluster: there the answer is looked for first. Where the answer's
    /// slot is away the limits may yet be there, and decide.
    async fn reserve_after_look(
        &self,
        reserve: Reserve,
        key: CacheKey,
        sharer: Option<SharerId>,
    ) -> Result<Admitted, StoreError> {
        let looked = self.base.look(key, sharer).await;
        let mut cache_failed = looked.is_err();
        let (cached, share) = looked.unwrap_or_default();
        let lookup = if cached.is_some() { Lookup::Found } else { Lookup::None };
        let enforce = reserve.enforce;
        let admitted = self.reserve(reserve, lookup).await?;
        let refused = enforce && admitted.standing.is_some_and(|standing| standing.refused.is_some());
        if let (Some(id), Some(Share::Lead), true) = (sharer, &share, refused) {
            // Its lease would end by itself; until then others would wait.
            cache_failed = self.release(key, id, Released::Left).await.is_err();
        }
        let (cached, share) = if refused { (None, None) } else { (cached, share) };
        Ok(Admitted { cached, share, cache_failed, ..admitted })
    }
}

impl Admitted {
    /// Whether something was reserved that is to be settled.
    fn reserved(&self, reserve: &Reserve) -> bool {
        let refused = reserve.enforce && self.standing.is_some_and(|standing| standing.refused.is_some());
        reserve.to_settle() && self.cached.is_none() && !refused
    }
}

fn not_an_answer() -> StoreError {
    StoreError::Failed(NOT_AN_ANSWER.to_owned())
}

fn next<T: FromRedisValue>(told: &mut impl Iterator<Item = Value>) -> Result<T, StoreError> {
    told.next().ok_or_else(not_an_answer).and_then(read)
}

/// The next [`TOLD`] values, all of them whatever they are.
fn next_decided(told: &mut impl Iterator<Item = Value>) -> Result<Decided, StoreError> {
    let mut values: [Option<Value>; TOLD] = std::array::from_fn(|_| told.next());
    let mut values = values.iter_mut().map_while(Option::take);
    Ok((
        next(&mut values)?,
        next(&mut values)?,
        next(&mut values)?,
        next(&mut values)?,
        next(&mut values)?,
        next(&mut values)?,
        next(&mut values)?,
        next(&mut values)?,
        next(&mut values)?,
    ))
}

/// What the script answered to a request.
fn admitted(reserve: &Reserve, now: u64, decided: Decided) -> Result<Admitted, StoreError> {
    let standing = Some(standing(reserve, now, &decided));
    let share = decided.7.map(|told| answers::shared((told, decided.8))).transpose()?;
    Ok(Admitted { standing, cached: decided.6.map(Bytes::from), share, cache_failed: false })
}

/// How limits stand by what the script answered.
fn standing(reserve: &Reserve, now: u64, decided: &Decided) -> Standing {
    let &(refused, full_at, whole, part, spent, reserved, ..) = decided;
    let requests = reserve.requests.map(|limit| limits::state(full_at, now, limit.into(), refused != 1));
    let level = Level { tokens: whole, part, at: now };
    let bucket = reserve.tokens.map(|demand| (tokens::size(demand.per_minute), demand.tokens));
    let refused = match refused {
        0 => None,
        1 => Some(Refused::Requests(requests.map_or(Duration::ZERO, |state| state.retry_after))),
        2 => Some(Refused::Concurrency(limits::PLACE_WAIT)),
        3 => Some(Refused::Tokens(
            bucket.map_or(Duration::ZERO, |(size, demand)| level.until(tokens::taken(demand, size), size)),
        )),
        4 => Some(Refused::Budget),
        _ => Some(Refused::BudgetReserved),
    };
    let budget = BudgetState { spent: NanoUsd(spent), reserved: NanoUsd(reserved) };
    Standing {
        refused,
        requests,
        tokens: bucket.map(|(size, _)| level.state(size)),
        budget: reserve.budget.as_ref().map(|_| budget),
    }
}

/// How keys and scripts call a period.
pub(super) fn period_letter(period: BudgetPeriod) -> &'static str {
    match period {
        BudgetPeriod::Day => "D",
        BudgetPeriod::Week => "W",
        BudgetPeriod::Month => "M",
    }
}

/// Up to where Lua's numbers are exact.
fn exact(number: u64) -> u64 {
    number.min(NanoUsd::MAX.0)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).clamp(1, limits::LONGEST)
}

impl LimitStore for RedisStore {
    fn admit(&self, admit: Admit) -> BoxFuture<'_, Result<Admitted, StoreError>> {
        let reserve = admit.reserve.filter(Reserve::limited);
        // Each way is a future of its own: the usual one is small, and the others would be made room for.
        match (reserve, admit.cache_key) {
            (Some(reserve), None) => self.reserve(reserve, Lookup::None).boxed(),
            (Some(reserve), Some(key)) if self.is_cluster() => {
                self.reserve_after_look(reserve, key, admit.sharer).boxed()
            }
            (Some(reserve), Some(key)) => {
                let (answer, lock) = (self.base.cache_key(key), self.base.lock_key(key));
                let lookup = match admit.sharer {
                    Some(id) => Lookup::Sharing(answer, lock, id),
                    None => Lookup::At(answer),
                };
                self.reserve(reserve, lookup).boxed()
            }
            (None, Some(key)) => async move {
                let (cached, share) = self.base.look(key, admit.sharer).await?;
                Ok(Admitted { standing: None, cached, share, cache_failed: false })
            }
            .boxed(),
            (None, None) => {
                let nothing = Admitted { standing: None, cached: None, share: None, cache_failed: false };
                ready(Ok(nothing)).boxed()
            }
        }
    }

    fn settle(&self, settles: Vec<Settle>) -> BoxFuture<'_, Result<Exhausted, StoreError>> {
        self.base.settle_all(settles).boxed()
    }

    fn budgets(
        &self,
        of: Vec<(CallerKey, BudgetPeriod)>,
    ) -> BoxFuture<'_, Result<Vec<BudgetState>, StoreError>> {
        self.base.budgets(of).boxed()
    }

    fn heartbeat(&self, pod: PodId) -> BoxFuture<'_, Result<u32, StoreError>> {
        self.base.count(pod).boxed()
    }

    fn forget(&self) -> BoxFuture<'_, ()> {
        self.base.forget().boxed()
    }
}
