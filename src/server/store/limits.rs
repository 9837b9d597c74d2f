//! What limits and budgets ask of a store. In: what a request takes, and later what it really used. Out: whether it may go
//! on, and how every limit stands.
//!
//! A request reserves all it takes at once or nothing, and settles once, both under one [`ReservationId`]: a script that was
//! given up after its deadline still runs when a frozen Redis thaws, so either may be asked for twice and counts once.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{CacheKey, Share, SharerId, StoreError};
use crate::crd::BudgetPeriod;
use crate::server::config::{BudgetConfig, RequestLimit};
use crate::server::pricing::NanoUsd;

/// Whose limit: unique within a ChatService, no longer than 200 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CallerKey(pub Arc<str>);

/// Names what one request reserved: random, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReservationId(pub u128);

/// Names a server among those that share a store: random, made once a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PodId(pub u128);

/// What one request takes of every limit that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// Its name.
    pub id: ReservationId,
    /// When it was named. A store that does not know a reservation it once made has forgotten it if more than twice its
    /// life has passed since, and has lost its data if not: then what was used is charged all the same.
    pub since: Instant,
    /// Whose limits.
    pub caller: CallerKey,
    /// One request of this limit.
    pub requests: Option<RequestLimit>,
    /// Tokens of a bucket.
    pub tokens: Option<TokenDemand>,
    /// One of this many requests at the same time.
    pub concurrent: Option<u32>,
    /// Money of a budget.
    pub budget: Option<BudgetDemand>,
    /// How long the reservation holds if nobody settles it: money then counts as spent, a place among the concurrent
    /// requests is free again.
    pub life: Duration,
    /// Whether what is over a limit is refused; if not, it is charged and told all the same.
    pub enforce: bool,
}

impl Reserve {
    /// Whether there is a limit at all.
    #[must_use]
    pub fn limited(&self) -> bool {
        self.requests.is_some() || self.to_settle()
    }

    /// Whether it is so old that a store may have forgotten it.
    #[must_use]
    pub fn forgotten(&self) -> bool {
        self.since.elapsed() >= self.life * 2
    }

    /// Whether it reserves something that is settled later: a request that was charged stays charged.
    #[must_use]
    pub fn to_settle(&self) -> bool {
        self.tokens.is_some() || self.concurrent.is_some() || self.budget.is_some()
    }
}

/// Tokens that a request reserves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenDemand {
    /// The size of the bucket, which refills evenly in a minute.
    pub per_minute: u32,
    /// An estimate of what the request will use; more than the bucket holds counts as the whole bucket.
    pub tokens: u64,
}

/// Money that a request reserves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetDemand {
    /// Whose budget.
    pub caller: CallerKey,
    /// The budget.
    pub budget: BudgetConfig,
    /// The most that the request can cost.
    pub worst: NanoUsd,
}

/// What a request asks of the store before it may go on; all of it in one trip.
#[derive(Clone, Debug)]
pub struct Admit {
    /// Reserve this. A hit of the cache takes one request and nothing else.
    pub reserve: Option<Reserve>,
    /// And look for an answer. A request over its request limit is not given one; one over another limit is.
    pub cache_key: Option<CacheKey>,
    /// And, where there is none and nothing refuses, for who asks for it: this pod, or another one.
    pub sharer: Option<SharerId>,
}

/// What the store says to [`Admit`].
#[derive(Clone, PartialEq, Eq)]
pub struct Admitted {
    /// How the limits stand after this request; None when nothing was to be reserved.
    pub standing: Option<Standing>,
    /// The stored answer.
    pub cached: Option<Bytes>,
    /// Who asks for it; None where there is one, something refuses, or it was not to be told.
    pub share: Option<Share>,
    /// Whether the cache could not be asked, which the limits do not mind: it counts as if there were no answer.
    pub cache_failed: bool,
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cached = self.cached.as_ref().map(Bytes::len);
        f.debug_struct("Admitted")
            .field("standing", &self.standing)
            .field("cached", &cached)
            .field("share", &self.share)
            .field("cache_failed", &self.cache_failed)
            .finish()
    }
}

/// How limits stand after a request was charged or refused. Refusing writes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The limit that refuses the request, or would if it were enforced: the first in the order of the variants.
    pub refused: Option<Refused>,
    /// The request limit.
    pub requests: Option<LimitState>,
    /// The bucket of tokens.
    pub tokens: Option<TokenState>,
    /// The budget.
    pub budget: Option<BudgetState>,
}

/// Which limit refuses a request, and when it is worth trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The request limit.
    Requests(Duration),
    /// Too many at the same time.
    Concurrency(Duration),
    /// The bucket of tokens.
    Tokens(Duration),
    /// What is spent plus this request's worst case is over the budget.
    Budget,
    /// Only what others have reserved and may not spend stands in the way.
    BudgetReserved,
}

/// State of a request limit, after the request was charged or refused. Refusing writes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitState {
    /// Whether the request may go on.
    pub allowed: bool,
    /// Requests that would be admitted now.
    pub remaining: u32,
    /// Until the bucket is full again.
    pub reset_after: Duration,
    /// Until the next request would be admitted; zero while one would be.
    pub retry_after: Duration,
}

/// State of a bucket of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenState {
    /// Tokens that could be reserved now.
    pub remaining: u32,
    /// Until the bucket is full again.
    pub reset_after: Duration,
}

/// State of a budget in its present period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetState {
    /// What is spent, expired reservations counted.
    pub spent: NanoUsd,
    /// What open reservations hold.
    pub reserved: NanoUsd,
}

/// What a request really used, told once it has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settle {
    /// What was asked for.
    pub reserve: Reserve,
    /// Whether the store answered that it is reserved. If not (a hit of the memory cache, a store that was away), all is
    /// charged now, and may take limits below empty; a store that did reserve it, though nobody heard so, corrects its
    /// reservation instead.
    pub reserved: bool,
    /// Requests that are charged where nothing was reserved: 1, or more where several are told as one. Only those are
    /// told as one that the store was never asked about: one whose admission failed so that it
    /// [may be done](StoreError::may_be_done) may yet
    /// be reserved, and is told under its own id.
    pub requests: u32,
    /// Tokens of all attempts.
    pub tokens: u64,
    /// Cost of all attempts; what is not known costs nothing.
    pub cost: NanoUsd,
}

impl Settle {
    /// Whether the store's word on its admission was heard, so that nothing of that admission is still to come.
    #[must_use]
    pub fn heard(&self) -> bool {
        self.reserved && self.requests > 0
    }
}

/// Callers whose next request would be refused by the request limit, and how it stands.
pub type Exhausted = Vec<(CallerKey, LimitState)>;

/// Settlements in one trip: Redis does nothing else meanwhile, about 3 ms.
pub const SETTLED_TOGETHER: usize = 64;

/// The limits of a store.
pub trait LimitStore: Send + Sync {
    /// Reserves everything or nothing and looks for a cached answer.
    fn admit(&self, admit: Admit) -> BoxFuture<'_, Result<Admitted, StoreError>>;

    /// Ends reservations, at most [`SETTLED_TOGETHER`], in one trip: all of them, or as far as is known none. Each counts once,
    /// however often it is told until [`Self::forget`].
    fn settle(&self, settles: Vec<Settle>) -> BoxFuture<'_, Result<Exhausted, StoreError>>;

    /// How these budgets stand, each by whose it is and its period, in order. Nothing is taken of them.
    fn budgets(
        &self,
        of: Vec<(CallerKey, BudgetPeriod)>,
    ) -> BoxFuture<'_, Result<Vec<BudgetState>, StoreError>>;

    /// Says that this server is there. Out: how many share the store, those that said so in the last 15 s; at least 1.
    fn heartbeat(&self, pod: PodId) -> BoxFuture<'_, Result<u32, StoreError>>;

    /// Everything that was told of was told with success: what the store remembers only to know again what is told twice may
    /// be dropped.
    fn forget(&self) -> BoxFuture<'_, ()> {
        futures::future::ready(()).boxed()
    }
}
