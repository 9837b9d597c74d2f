//! What both stores do, through the trait alone. In: an empty store. A store may miss its deadline on a machine that is
//! busy, and nobody knows then whether the operation was done; so what counts operations is done again from the start.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::new_id;
use chatservice::server::config::RequestLimit;
use chatservice::server::pricing::NanoUsd;
use chatservice::server::store::{
    Admit, CacheKey, CallerKey, Conversation, Kept, LimitState, OwnedId, PodId, ReservationId, Reserve,
    Retention, Said, Settle, Store, StoreError, Turn,
};
use futures::future::{join_all, try_join_all};

/// How long anything may take in the end.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub const RETENTION: Retention =
    Retention { max_messages: 20, max_tokens: None, ttl: Duration::from_hours(1) };

/// Runs what may be repeated until the store answers all of it in time. The number of the attempt makes names unique.
pub async fn in_time<T>(scenario: impl AsyncFn(u32) -> Result<T, StoreError>) -> T {
    let deadline = Instant::now() + DEADLINE;
    for attempt in 0.. {
        match scenario(attempt).await {
            Ok(value) => return value,
            Err(StoreError::Failed(reason)) => panic!("the store refuses: {reason}"),
            Err(error) => assert!(Instant::now() < deadline, "no answer in the end: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    unreachable!("attempts do not run out")
}

/// One operation that may be repeated.
pub async fn answered<T, F>(operation: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, StoreError>>,
{
    in_time(async |_| operation().await).await
}

/// Keeps an answer.
pub async fn keep(store: &impl Store, key: CacheKey, answer: &str, life: Duration) -> Result<(), StoreError> {
    kept(store, Kept { key, answer: answer.to_owned().into(), life, led: false }).await
}

/// The same, of a pod that may have led.
pub async fn kept(store: &impl Store, answer: Kept) -> Result<(), StoreError> {
    store.keep(vec![answer]).await.pop().map_or(Ok(()), |(_, error)| Err(error))
}

pub fn limit(requests: u32, period_seconds: u32, burst: u32) -> RequestLimit {
    RequestLimit { requests, period_seconds, burst }
}

/// One request of a limit and nothing else.
pub fn reserve(caller: &str, limit: RequestLimit) -> Reserve {
    Reserve {
        id: ReservationId(uuid::Uuid::new_v4().as_u128()),
        since: Instant::now(),
        caller: CallerKey(caller.into()),
        requests: Some(limit),
        tokens: None,
        concurrent: None,
        budget: None,
        life: Duration::from_mins(1),
        enforce: true,
    }
}

/// One request that the store was not asked about.
pub fn late(caller: &str, limit: RequestLimit) -> Settle {
    Settle { reserve: reserve(caller, limit), reserved: false, requests: 1, tokens: 0, cost: NanoUsd(0) }
}

pub fn ask(caller: &str, limit: RequestLimit) -> Admit {
    Admit { reserve: Some(reserve(caller, limit)), cache_key: None, sharer: None }
}

pub async fn try_admit(
    store: &dyn Store,
    caller: &str,
    limit: RequestLimit,
) -> Result<LimitState, StoreError> {
    Ok(store
        .admit(ask(caller, limit))
        .await?
        .standing
        .and_then(|now| now.requests)
        .expect("the state of the limit"))
}

/// For where a request that was charged twice makes no difference.
pub async fn admit(store: &dyn Store, caller: &str, limit: RequestLimit) -> LimitState {
    answered(|| try_admit(store, caller, limit)).await
}

/// Of 10 tokens, for which 100 were used at a price of 7.
pub fn turn(number: u32, first: bool) -> Turn {
    let said = Said { user: format!("question {number}"), assistant: format!("answer \"{number}\" ü\n") };
    Turn { said, first, tokens: 10, used: 100, cost: Some(NanoUsd(7)) }
}

fn said(numbers: &[u32]) -> Vec<Said> {
    numbers.iter().map(|number| turn(*number, false).said).collect()
}

async fn read(store: &dyn Store, id: OwnedId) -> Option<Conversation> {
    answered(|| store.conversation(id, None)).await
}

async fn contents(store: &dyn Store, id: OwnedId) -> Option<Vec<Said>> {
    Some(read(store, id).await?.turns.iter().map(|turn| turn.said.clone()).collect())
}

pub async fn a_burst_is_admitted_exactly_however_many_come_at_once(store: &dyn Store) {
    let limit = limit(1, 3600, 20);
    in_time(async |attempt| {
        let caller = format!("caller-{attempt}");
        // Connects and sends the script, so that the hundred below have only themselves to wait for.
        try_admit(store, "somebody-else", limit).await?;
        let states = join_all((0..100).map(|_| try_admit(store, &caller, limit))).await;
        let admitted = states.iter().flatten().filter(|state| state.allowed).count();
        assert!(admitted <= 20, "{admitted} admitted");
        let states: Vec<_> = states.into_iter().collect::<Result<_, _>>()?;
        assert_eq!(admitted, 20);
        let mut remaining: Vec<_> =
            states.iter().filter(|state| state.allowed).map(|state| state.remaining).collect();
        remaining.sort_unstable();
        assert_eq!(remaining, (0..20).collect::<Vec<_>>(), "each was told another rest");
        Ok(())
    })
    .await;
}

pub async fn a_refusal_changes_nothing(store: &dyn Store) {
    let limit = limit(1, 3600, 1);
    while admit(store, "a", limit).await.allowed {}
    let first = admit(store, "a", limit).await;
    for _ in 0..50 {
        let next = admit(store, "a", limit).await;
        assert!(!next.allowed);
        assert_eq!(next.remaining, 0);
        assert!(next.retry_after <= first.retry_after, "{next:?} after {first:?}");
        assert!(next.reset_after <= first.reset_after, "{next:?} after {first:?}");
    }
}

pub async fn a_refused_caller_is_admitted_at_the_told_time_and_not_before(store: &dyn Store) {
    let limit = limit(4, 1, 1);
    for round in 0..3 {
        in_time(async |attempt| {
            let caller = format!("caller-{round}-{attempt}");
            let (mut refused, mut before, mut after);
            loop {
                before = Instant::now();
                refused = try_admit(store, &caller, limit).await?;
                after = Instant::now();
                if !refused.allowed {
                    break;
                }
            }
            assert!(
                refused.retry_after > Duration::ZERO && refused.retry_after <= Duration::from_millis(250)
            );
            loop {
                let started = Instant::now();
                if try_admit(store, &caller, limit).await?.allowed {
                    // A millisecond for the difference of two clocks.
                    let waited = before.elapsed() + Duration::from_millis(1);
                    assert!(waited >= refused.retry_after, "admitted too early");
                    return Ok(());
                }
                let told = after + refused.retry_after + Duration::from_millis(1);
                assert!(started < told, "not admitted when told");
            }
        })
        .await;
    }
}

pub async fn callers_have_their_own_buckets(store: &dyn Store) {
    let limit = limit(1, 3600, 2);
    while admit(store, "a", limit).await.allowed {}
    in_time(async |attempt| {
        let other = try_admit(store, &format!("b-{attempt}"), limit).await?;
        assert!(other.allowed);
        assert_eq!(other.remaining, 1);
        Ok(())
    })
    .await;
}

pub async fn requests_charged_after_the_fact_count(store: &dyn Store) {
    let limit = limit(1, 3600, 3);
    in_time(async |attempt| {
        let caller = |name: &str| format!("{name}-{attempt}");
        let charge =
            |name: &str, times: u32| (0..times).map(|_| late(&caller(name), limit)).collect::<Vec<_>>();
        store.settle([charge("a", 2), charge("b", 5)].concat()).await?;
        let a = try_admit(store, &caller("a"), limit).await?;
        assert_eq!((a.allowed, a.remaining), (true, 0), "two of three were charged");
        let b = try_admit(store, &caller("b"), limit).await?;
        assert!(!b.allowed);
        assert!(b.retry_after > Duration::from_hours(2), "below empty: {b:?}");
        Ok(())
    })
    .await;
}

pub async fn a_store_counts_the_servers_that_share_it(store: &dyn Store) {
    let pods = [PodId(1), PodId(2), PodId(2)];
    for (index, pod) in pods.into_iter().enumerate() {
        let count = answered(|| store.heartbeat(pod)).await;
        let expected = if store.shared() { [1, 2, 2][index] } else { 1 };
        assert_eq!(count, expected, "{pod:?}");
    }
}

pub async fn nothing_is_asked_of_the_store_for_a_request_without_limit_and_cache(store: &dyn Store) {
    let admitted = store.admit(Admit { reserve: None, cache_key: None, sharer: None }).await.unwrap();
    assert_eq!((admitted.standing, admitted.cached), (None, None));
}

/// A conversation of these turns, appended one after the other.
async fn conversation(store: &dyn Store, turns: &[Turn], retention: Retention) -> OwnedId {
    in_time(async |_| {
        let id = new_id();
        assert_eq!(store.conversation(id, None).await?, None);
        for (index, turn) in turns.iter().enumerate() {
            let turn = Turn { first: index == 0, ..turn.clone() };
            assert!(store.append_turn(id, turn, retention).await?);
        }
        Ok(id)
    })
    .await
}

pub async fn a_conversation_is_read_back_in_order_and_trimmed_by_whole_turns(store: &dyn Store) {
    let turns: Vec<Turn> = (1..=4).map(|number| turn(number, false)).collect();
    let retention = Retention { max_messages: 5, ..RETENTION };
    let id = conversation(store, &turns, retention).await;
    assert_eq!(contents(store, id).await.unwrap(), said(&[3, 4]), "five messages are two whole turns");
    assert_eq!(contents(store, new_id()).await, None, "another conversation");
}

pub async fn a_conversation_keeps_the_turns_whose_tokens_fit(store: &dyn Store) {
    let turns: Vec<Turn> = (1..=12).map(|number| turn(number, false)).collect();
    let retention = |max_tokens| Retention { max_tokens: Some(max_tokens), ..RETENTION };
    for (max_tokens, kept) in
        [(100, &[3, 4, 5, 6, 7, 8, 9, 10, 11, 12][..]), (29, &[11, 12]), (10, &[12]), (9, &[])]
    {
        let id = conversation(store, &turns, retention(max_tokens)).await;
        let found = read(store, id).await.expect("a conversation goes on though none of its turns fits");
        let found: Vec<Said> = found.turns.iter().map(|turn| turn.said.clone()).collect();
        assert_eq!(found, said(kept), "{max_tokens} tokens");
    }
    // One turn that is larger than all that may be kept makes room for nothing.
    let large = Turn { tokens: 50, ..turn(2, false) };
    let id = conversation(store, &[turn(1, true), large, turn(3, false)], retention(40)).await;
    assert_eq!(contents(store, id).await.unwrap(), said(&[3]));
}

pub async fn a_conversation_adds_up_what_all_its_turns_used(store: &dyn Store) {
    let before = jiff::Timestamp::now().as_second() - 60;
    let free = Turn { cost: None, ..turn(1, true) };
    let id = conversation(store, std::slice::from_ref(&free), RETENTION).await;
    let found = read(store, id).await.unwrap();
    assert_eq!((found.total_tokens, found.total_cost, found.turns[0].tokens), (100, None, 10));
    let retention = Retention { max_messages: 2, ..RETENTION };
    let id = conversation(store, &[free, turn(2, false), turn(3, false)], retention).await;
    let found = read(store, id).await.unwrap();
    assert_eq!(
        (found.total_tokens, found.total_cost),
        (300, Some(NanoUsd(14))),
        "also what is no longer kept"
    );
    assert!((before..before + 3600).contains(&found.updated_at), "{}", found.updated_at);
}

pub async fn turns_that_come_at_once_stay_whole(store: &dyn Store) {
    let id = in_time(async |_| {
        let id = new_id();
        store.append_turn(id, turn(0, true), RETENTION).await?;
        let turns = (1..=30).map(|number| store.append_turn(id, turn(number, false), RETENTION));
        let appended = try_join_all(turns).await?;
        assert!(appended.into_iter().all(|appended| appended));
        Ok(id)
    })
    .await;
    let all = contents(store, id).await.unwrap();
    assert_eq!(all.len(), 10);
    for said in all {
        assert_eq!(said.user.split(' ').nth(1), said.assistant.split('"').nth(1), "{said:?}");
    }
}

pub async fn a_conversation_that_is_gone_is_not_brought_back(store: &dyn Store) {
    let id = new_id();
    let append = async |turn: &Turn| answered(|| store.append_turn(id, turn.clone(), RETENTION)).await;
    assert!(!append(&turn(2, false)).await);
    assert_eq!(contents(store, id).await, None);
    assert!(append(&turn(1, true)).await);
    assert!(append(&turn(2, false)).await);
    answered(|| store.delete_conversation(id)).await;
    assert_eq!(contents(store, id).await, None);
    assert!(!append(&turn(3, false)).await, "a turn in flight does not bring it back");
    assert!(!answered(|| store.delete_conversation(id)).await, "nothing is left to erase");
}

pub async fn a_conversation_expires_and_every_use_renews_its_life(store: &dyn Store) {
    let short = Retention { ttl: Duration::from_secs(1), ..RETENTION };
    let (appended, read, expiring) = in_time(async |_| {
        let ids = (new_id(), new_id(), new_id());
        for id in [ids.0, ids.1, ids.2] {
            store.append_turn(id, turn(1, true), short).await?;
        }
        assert!(store.append_turn(ids.0, turn(2, false), RETENTION).await?);
        assert!(store.conversation(ids.1, Some(RETENTION.ttl)).await?.is_some());
        Ok(ids)
    })
    .await;
    let deadline = Instant::now() + DEADLINE;
    // Looking is no use of it.
    while contents(store, expiring).await.is_some() {
        assert!(Instant::now() < deadline, "it does not expire");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!answered(|| store.append_turn(expiring, turn(2, false), RETENTION)).await);
    assert!(contents(store, appended).await.is_some());
    assert!(contents(store, read).await.is_some());
}

pub async fn a_response_is_kept_as_it_is_replaced_and_erased(store: &dyn Store) {
    let (id, other) = (new_id(), new_id());
    let read = |id| answered(move || store.response(id, None));
    assert_eq!(read(id).await, None);
    for stored in [&b"{\"a\":1}"[..], b"", b"\xff\0"] {
        answered(|| store.put_response(id, Bytes::copy_from_slice(stored), RETENTION.ttl)).await;
        assert_eq!(read(id).await.as_deref(), Some(stored));
    }
    assert_eq!(read(other).await, None, "another response");
    answered(|| store.append_turn(other, turn(1, true), RETENTION)).await;
    assert_eq!(read(other).await, None, "a conversation is no response");
    answered(|| store.delete_response(id)).await;
    assert_eq!(read(id).await, None);
    assert!(!answered(|| store.delete_response(id)).await, "nothing is left to erase");
}

pub async fn a_response_expires_and_going_on_from_it_renews_its_life(store: &dyn Store) {
    let stored = Bytes::from_static(b"{}");
    let (renewed, expiring) = in_time(async |_| {
        let ids = (new_id(), new_id());
        for id in [ids.0, ids.1] {
            store.put_response(id, stored.clone(), Duration::from_secs(1)).await?;
        }
        assert!(store.response(ids.0, Some(RETENTION.ttl)).await?.is_some());
        assert_eq!(store.response(new_id(), Some(RETENTION.ttl)).await?, None);
        Ok(ids)
    })
    .await;
    let deadline = Instant::now() + DEADLINE;
    // Looking is no use of it.
    while answered(|| store.response(expiring, None)).await.is_some() {
        assert!(Instant::now() < deadline, "it does not expire");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(answered(|| store.response(expiring, Some(RETENTION.ttl))).await, None);
    assert!(answered(|| store.response(renewed, None)).await.is_some());
}
