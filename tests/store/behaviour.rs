//! What both stores do, through the trait alone. In: an empty store. A store may miss its deadline on a machine that is
//! busy, and nobody knows then whether the operation was done; so what counts operations is done again from the start.

use std::time::{Duration, Instant};

use chatservice::server::config::RequestLimit;
use chatservice::server::conversations::new_id;
use chatservice::server::pricing::NanoUsd;
use chatservice::server::store::{
    Admit, CallerKey, ConversationId, LimitState, PodId, ReservationId, Reserve, Retention, Role, Settle,
    Store, StoreError, Turn,
};
use futures::future::{join_all, try_join_all};

/// How long anything may take in the end.
pub const DEADLINE: Duration = Duration::from_secs(20);

const RETENTION: Retention = Retention { max_messages: 20, ttl: Duration::from_hours(1) };

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

pub fn limit(requests: u32, period_seconds: u32, burst: u32) -> RequestLimit {
    RequestLimit { requests, period_seconds, burst }
}

/// One request of a limit and nothing else.
pub fn reserve(caller: &str, limit: RequestLimit) -> Reserve {
    Reserve {
        id: ReservationId(uuid::Uuid::new_v4().as_u128()),
        since: Instant::now(),
        caller: CallerKey(caller.to_owned()),
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
    Admit { reserve: Some(reserve(caller, limit)), cache_key: None }
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

pub fn turn(number: u32, first: bool) -> Turn {
    Turn { user: format!("question {number}"), assistant: format!("answer \"{number}\" ü\n"), first }
}

async fn contents(store: &dyn Store, id: ConversationId) -> Option<Vec<String>> {
    let messages = answered(|| store.conversation(id)).await?;
    for pair in messages.chunks(2) {
        assert_eq!(
            pair.iter().map(|message| message.role).collect::<Vec<_>>(),
            [Role::User, Role::Assistant]
        );
    }
    Some(messages.into_iter().map(|message| message.content).collect())
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
        let charge = |name: &str, times: usize| vec![late(&caller(name), limit); times];
        let told_as_one = Settle { requests: 3, ..late(&caller("b"), limit) };
        store.settle([charge("a", 2), charge("b", 2), vec![told_as_one]].concat()).await?;
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
    let admitted = store.admit(Admit { reserve: None, cache_key: None }).await.unwrap();
    assert_eq!((admitted.standing, admitted.cached), (None, None));
}

pub async fn a_conversation_is_read_back_in_order_and_trimmed_by_whole_turns(store: &dyn Store) {
    let retention = Retention { max_messages: 5, ..RETENTION };
    let id = in_time(async |_| {
        let id = new_id();
        assert_eq!(store.conversation(id).await?, None);
        for number in 1..=4 {
            assert!(store.append_turn(id, turn(number, number == 1), retention).await?);
        }
        Ok(id)
    })
    .await;
    let all = contents(store, id).await.unwrap();
    let expected: Vec<_> = [3, 4]
        .into_iter()
        .flat_map(|number| [turn(number, false).user, turn(number, false).assistant])
        .collect();
    assert_eq!(all, expected, "five messages are two whole turns");
    assert_eq!(contents(store, new_id()).await, None, "another conversation");
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
    assert_eq!(all.len(), 20);
    for pair in all.chunks(2) {
        assert_eq!(pair[0].split(' ').nth(1), pair[1].split('"').nth(1), "{pair:?}");
    }
}

pub async fn a_conversation_that_is_gone_is_not_brought_back(store: &dyn Store) {
    let id = new_id();
    let append = async |turn: &Turn| answered(|| store.append_turn(id, turn.clone(), RETENTION)).await;
    assert!(!append(&turn(2, false)).await);
    assert_eq!(contents(store, id).await, None);
    assert!(append(&turn(1, true)).await);
    assert!(append(&turn(2, false)).await);
}

pub async fn a_conversation_expires_and_a_turn_renews_its_life(store: &dyn Store) {
    let short = Retention { ttl: Duration::from_secs(1), ..RETENTION };
    let (renewed, expiring) = in_time(async |_| {
        let (renewed, expiring) = (new_id(), new_id());
        store.append_turn(renewed, turn(1, true), short).await?;
        assert!(store.append_turn(renewed, turn(2, false), RETENTION).await?);
        store.append_turn(expiring, turn(1, true), short).await?;
        Ok((renewed, expiring))
    })
    .await;
    let deadline = Instant::now() + DEADLINE;
    while contents(store, expiring).await.is_some() {
        assert!(Instant::now() < deadline, "it does not expire");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!answered(|| store.append_turn(expiring, turn(2, false), RETENTION)).await);
    assert!(contents(store, renewed).await.is_some());
}
