//! What both stores do with tokens, money and requests at the same time: reserve, refuse, settle, expire.

use std::time::{Duration, Instant};

use chatservice::crd::{BudgetPeriod, Per};
use chatservice::server::config::BudgetConfig;
use chatservice::server::pricing::NanoUsd;
use chatservice::server::store::{
    Admit, BudgetDemand, BudgetState, CallerKey, Refused, ReservationId, Reserve, Settle, Standing, Store,
    StoreError, TokenDemand,
};
use futures::future::join_all;

use crate::behaviour::{DEADLINE, in_time, limit, reserve};

pub const USD: u64 = 1_000_000_000;

/// Nothing of any limit.
pub fn nothing(caller: &str) -> Reserve {
    Reserve { requests: None, life: Duration::from_mins(11), ..reserve(caller, limit(1, 1, 1)) }
}

/// Tokens of a bucket.
pub fn tokens(caller: &str, per_minute: u32, tokens: u64) -> Reserve {
    Reserve { tokens: Some(TokenDemand { per_minute, tokens }), ..nothing(caller) }
}

/// One of so many at the same time.
pub fn place(caller: &str, concurrent: u32) -> Reserve {
    Reserve { concurrent: Some(concurrent), ..nothing(caller) }
}

/// Money of a month's budget.
pub fn money(caller: &str, amount_nano_usd: u64, worst: u64) -> Reserve {
    let budget = BudgetConfig { amount_nano_usd, period: BudgetPeriod::Month, per: Per::Caller };
    let caller_key = CallerKey(caller.into());
    let demand = BudgetDemand { caller: caller_key, budget, worst: NanoUsd(worst) };
    Reserve { budget: Some(demand), ..nothing(caller) }
}

/// The same again, as another request.
pub fn another(reserve: &Reserve) -> Reserve {
    Reserve { id: ReservationId(uuid::Uuid::new_v4().as_u128()), since: Instant::now(), ..reserve.clone() }
}

/// What a reserved request came to.
pub fn used(reserve: &Reserve, tokens: u64, cost: u64) -> Settle {
    Settle { reserve: reserve.clone(), reserved: true, requests: 1, tokens, cost: NanoUsd(cost) }
}

/// And one that the store was not heard to have reserved.
pub fn unheard(reserve: &Reserve, tokens: u64, cost: u64) -> Settle {
    Settle { reserved: false, ..used(reserve, tokens, cost) }
}

pub async fn ask(store: &dyn Store, reserve: &Reserve) -> Result<Standing, StoreError> {
    let admit = Admit { reserve: Some(reserve.clone()), cache_key: None, sharer: None };
    Ok(store.admit(admit).await?.standing.expect("a limit"))
}

fn remaining(standing: &Standing) -> u32 {
    standing.tokens.expect("a bucket").remaining
}

fn account(standing: &Standing) -> (u64, u64) {
    let BudgetState { spent, reserved } = standing.budget.expect("a budget");
    (spent.0, reserved.0)
}

pub async fn tokens_are_reserved_whole_and_settled_to_what_was_used(store: &dyn Store) {
    in_time(async |attempt| {
        // A token in 6 s: what is refilled meanwhile is less.
        let first = tokens(&format!("a-{attempt}"), 10, 4);
        let started = Instant::now();
        assert_eq!(remaining(&ask(store, &first).await?), 6);
        let second = another(&first);
        assert_eq!(remaining(&ask(store, &second).await?), 2);
        let refused = ask(store, &another(&first)).await?;
        assert_eq!(remaining(&refused), 2, "a refusal takes nothing");
        let Some(Refused::Tokens(wait)) = refused.refused else { panic!("{refused:?}") };
        assert!(wait > Duration::from_secs(5) && wait <= Duration::from_secs(12), "{wait:?}");

        store.settle(vec![used(&first, 1, 0), used(&second, 15, 0)]).await?;
        let below = ask(store, &another(&first)).await?;
        assert_eq!(remaining(&below), 0);
        let Some(Refused::Tokens(wait)) = below.refused else { panic!("{below:?}") };
        // 10 - 1 - 15 is 6 below empty, and 4 are asked for.
        assert!(wait > Duration::from_secs(50) && wait <= Duration::from_mins(1), "{wait:?}");
        assert!(started.elapsed() < Duration::from_secs(5), "too slow to tell");
        Ok(())
    })
    .await;
}

pub async fn a_request_larger_than_the_bucket_is_admitted_when_it_is_full(store: &dyn Store) {
    in_time(async |attempt| {
        let huge = tokens(&format!("a-{attempt}"), 10, u64::MAX);
        let admitted = ask(store, &huge).await?;
        assert_eq!((admitted.refused, remaining(&admitted)), (None, 0));
        assert!(matches!(ask(store, &another(&huge)).await?.refused, Some(Refused::Tokens(_))));
        store.settle(vec![used(&huge, 0, 0)]).await?;
        assert_eq!(ask(store, &another(&huge)).await?.refused, None, "it used nothing");
        Ok(())
    })
    .await;
}

pub async fn absurd_usage_waits_an_hour_and_not_for_ever(store: &dyn Store) {
    in_time(async |attempt| {
        let small = tokens(&format!("a-{attempt}"), 150_000_000, 1);
        ask(store, &small).await?;
        store.settle(vec![used(&small, u64::MAX, u64::MAX)]).await?;
        let refused = ask(store, &another(&small)).await?;
        let Some(Refused::Tokens(wait)) = refused.refused else { panic!("{refused:?}") };
        assert!(wait <= Duration::from_secs(3601), "{wait:?}");
        Ok(())
    })
    .await;
}

pub async fn places_are_exact_and_given_back(store: &dyn Store) {
    in_time(async |attempt| {
        let first = place(&format!("a-{attempt}"), 3);
        let asked: Vec<_> = (0..20).map(|_| another(&first)).collect();
        let answers = join_all(asked.iter().map(|reserve| ask(store, reserve))).await;
        let answers: Vec<_> = answers.into_iter().collect::<Result<_, _>>()?;
        let held: Vec<_> = asked
            .iter()
            .zip(&answers)
            .filter(|(_, now)| now.refused.is_none())
            .map(|(asked, _)| asked)
            .collect();
        assert_eq!(held.len(), 3);
        let others =
            answers.iter().filter(|now| matches!(now.refused, Some(Refused::Concurrency(_)))).count();
        assert_eq!(others, 17);

        store.settle(vec![used(held[0], 0, 0), used(held[0], 0, 0)]).await?;
        assert_eq!(ask(store, &another(&first)).await?.refused, None);
        assert!(ask(store, &another(&first)).await?.refused.is_some(), "one place was given back");
        Ok(())
    })
    .await;
}

pub async fn s6_places_of_a_server_that_died_are_free_when_their_reservations_expire(store: &dyn Store) {
    in_time(async |attempt| {
        let short = Reserve { life: Duration::from_millis(300), ..place(&format!("a-{attempt}"), 2) };
        for _ in 0..2 {
            ask(store, &another(&short)).await?;
        }
        let deadline = Instant::now() + DEADLINE;
        while ask(store, &another(&short)).await?.refused.is_some() {
            assert!(Instant::now() < deadline, "the place is lost");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    })
    .await;
}

pub async fn spending_is_told_from_what_others_have_reserved(store: &dyn Store) {
    in_time(async |attempt| {
        let first = money(&format!("a-{attempt}"), 100, 40);
        assert_eq!(account(&ask(store, &first).await?), (0, 40));
        let second = another(&first);
        assert_eq!(account(&ask(store, &second).await?), (0, 80));
        let third = ask(store, &another(&first)).await?;
        assert_eq!((third.refused, account(&third)), (Some(Refused::BudgetReserved), (0, 80)));
        assert_eq!(
            ask(store, &money(&format!("a-{attempt}"), 100, 101)).await?.refused,
            Some(Refused::Budget)
        );

        store.settle(vec![used(&first, 0, 5), used(&second, 0, 70)]).await?;
        let over = ask(store, &another(&first)).await?;
        assert_eq!((over.refused, account(&over)), (Some(Refused::Budget), (75, 0)));
        let small = money(&format!("a-{attempt}"), 100, 25);
        assert_eq!(account(&ask(store, &small).await?), (75, 25));
        Ok(())
    })
    .await;
}

pub async fn what_expires_counts_as_spent_and_is_corrected_when_it_settles_late(store: &dyn Store) {
    in_time(async |attempt| {
        let lost = Reserve { life: Duration::from_millis(300), ..money(&format!("a-{attempt}"), 100, 60) };
        assert_eq!(account(&ask(store, &lost).await?), (0, 60));
        let wanted = money(&format!("a-{attempt}"), 100, 60);
        let deadline = Instant::now() + DEADLINE;
        loop {
            let standing = ask(store, &wanted).await?;
            if standing.refused == Some(Refused::Budget) {
                assert_eq!(account(&standing), (60, 0));
                break;
            }
            assert_eq!(standing.refused, Some(Refused::BudgetReserved));
            assert!(Instant::now() < deadline, "it does not expire");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        store.settle(vec![used(&lost, 0, 10)]).await?;
        assert_eq!(account(&ask(store, &wanted).await?), (10, 60));
        Ok(())
    })
    .await;
}

pub async fn a_budget_is_seen_without_taking_of_it(store: &dyn Store) {
    in_time(async |attempt| {
        let open = money(&format!("a-{attempt}"), 100, 30);
        let lost = Reserve { life: Duration::from_millis(300), ..another(&open) };
        let settled = Reserve { id: another(&open).id, ..open.clone() };
        for reserve in [&open, &lost, &settled] {
            assert_eq!(ask(store, reserve).await?.refused, None);
        }
        store.settle(vec![used(&settled, 0, 7)]).await?;
        // Many, so that several trips are made; the last one is nobody's.
        let month = |caller: &str| (CallerKey(caller.into()), BudgetPeriod::Month);
        let mut of = vec![month(&format!("a-{attempt}")); 200];
        of.extend([month("nobody"), (CallerKey(format!("a-{attempt}").into()), BudgetPeriod::Week)]);
        let deadline = Instant::now() + DEADLINE;
        loop {
            let seen: Vec<_> =
                store.budgets(of.clone()).await?.iter().map(|now| (now.spent.0, now.reserved.0)).collect();
            assert_eq!((seen.len(), &seen[200..]), (202, &[(0, 0), (0, 0)][..]));
            // What has expired meanwhile counts as spent.
            if seen[199] == (37, 30) {
                break;
            }
            assert!(seen[..200].iter().all(|now| [(7, 60), (37, 30)].contains(now)), "{seen:?}");
            assert!(Instant::now() < deadline, "it does not expire");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        store.settle(vec![used(&lost, 0, 10), used(&open, 0, 1)]).await?;
        let now = store.budgets(of).await?;
        assert_eq!((now[0].spent, now[0].reserved), (NanoUsd(18), NanoUsd(0)), "each counts once");
        Ok(())
    })
    .await;
}

/// Of every limit something.
pub fn everything(caller: &str) -> Reserve {
    Reserve {
        requests: Some(limit(1, 3600, 5)),
        tokens: Some(TokenDemand { per_minute: 10, tokens: 4 }),
        concurrent: Some(3),
        ..money(caller, 100, 30)
    }
}

/// What is left of requests and tokens, what is spent and reserved. Asked by a request that never is admitted.
pub async fn left(store: &dyn Store, reserve: &Reserve) -> Result<(u32, u32, (u64, u64)), StoreError> {
    let mut probe = another(reserve);
    if let Some(demand) = &mut probe.budget {
        demand.worst = NanoUsd(u64::MAX);
    }
    let now = ask(store, &probe).await?;
    assert!(now.refused.is_some());
    Ok((now.requests.unwrap().remaining, remaining(&now), account(&now)))
}

pub async fn a_refusal_by_one_limit_takes_nothing_of_the_others(store: &dyn Store) {
    in_time(async |attempt| {
        let first = everything(&format!("a-{attempt}"));
        assert_eq!(ask(store, &first).await?.refused, None);
        let before = left(store, &first).await?;
        assert_eq!(before, (4, 6, (0, 30)));
        let demand = |tokens| Some(TokenDemand { per_minute: 10, tokens });
        for refused in [
            Reserve { concurrent: Some(1), ..another(&first) },
            Reserve { tokens: demand(9), ..another(&first) },
            Reserve { budget: money(&first.caller.0, 100, 80).budget, ..another(&first) },
            Reserve { budget: money(&first.caller.0, 100, 101).budget, ..another(&first) },
        ] {
            assert!(ask(store, &refused).await?.refused.is_some(), "{refused:?}");
            assert_eq!(left(store, &first).await?, before, "{refused:?}");
        }
        Ok(())
    })
    .await;
}

pub async fn what_is_not_enforced_is_charged_and_told(store: &dyn Store) {
    in_time(async |attempt| {
        let shadow = Reserve { enforce: false, ..everything(&format!("a-{attempt}")) };
        let mut told = Vec::new();
        for _ in 0..6 {
            told.push(ask(store, &another(&shadow)).await?.refused);
        }
        let is = |n: usize, f: fn(&Refused) -> bool| told[n].as_ref().is_some_and(f);
        assert_eq!(told[..2], [None, None]);
        assert!(is(2, |told| matches!(told, Refused::Tokens(_))), "{told:?}");
        assert!(is(3, |told| matches!(told, Refused::Concurrency(_))), "{told:?}");
        assert!(is(5, |told| matches!(told, Refused::Requests(_))), "{told:?}");
        assert_eq!(left(store, &Reserve { enforce: true, ..shadow }).await?, (0, 0, (0, 180)));
        Ok(())
    })
    .await;
}

pub async fn reservations_and_settlements_count_once_however_often_they_are_told(store: &dyn Store) {
    in_time(async |attempt| {
        let request = everything(&format!("a-{attempt}"));
        for _ in 0..3 {
            assert_eq!(ask(store, &request).await?.refused, None);
        }
        assert_eq!(left(store, &request).await?, (4, 6, (0, 30)));
        for _ in 0..3 {
            let again = vec![used(&request, 5, 20), used(&request, 5, 20), unheard(&request, 5, 20)];
            store.settle(again).await?;
            assert_eq!(left(store, &request).await?, (4, 5, (20, 0)));
        }
        // The reservation was executed last, when the store thawed.
        assert_eq!(ask(store, &request).await?.refused, None);
        assert_eq!(left(store, &request).await?, (4, 5, (20, 0)));
        Ok(())
    })
    .await;
}

pub async fn a_request_that_was_reserved_unheard_is_charged_once_in_every_order(store: &dyn Store) {
    in_time(async |attempt| {
        let after = (4, 5, (20, 0));
        let reserved_first = everything(&format!("a-{attempt}"));
        ask(store, &reserved_first).await?;
        store.settle(vec![unheard(&reserved_first, 5, 20)]).await?;
        assert_eq!(left(store, &reserved_first).await?, after);

        let settled_first = everything(&format!("b-{attempt}"));
        store.settle(vec![unheard(&settled_first, 5, 20)]).await?;
        assert_eq!(ask(store, &settled_first).await?.refused, None);
        store.settle(vec![unheard(&settled_first, 5, 20)]).await?;
        assert_eq!(left(store, &settled_first).await?, after);

        let never_reserved = everything(&format!("c-{attempt}"));
        store.settle(vec![unheard(&never_reserved, 5, 20)]).await?;
        assert_eq!(left(store, &never_reserved).await?, after);

        let only_requests = reserve(&format!("d-{attempt}"), limit(1, 3600, 5));
        ask(store, &only_requests).await?;
        store.settle(vec![unheard(&only_requests, 5, 20)]).await?;
        let now = ask(store, &another(&only_requests)).await?;
        assert_eq!(now.requests.unwrap().remaining, 3, "one before, and this one");
        Ok(())
    })
    .await;
}

pub async fn a_store_that_lost_a_reservation_is_told_what_was_used(store: &dyn Store) {
    in_time(async |attempt| {
        let lost = everything(&format!("a-{attempt}"));
        store.settle(vec![used(&lost, 5, 20)]).await?;
        assert_eq!(left(store, &lost).await?, (4, 5, (20, 0)));
        // One that is older than its life is not lost but forgotten.
        let forgotten = Reserve { life: Duration::ZERO, ..everything(&format!("b-{attempt}")) };
        store.settle(vec![used(&forgotten, 5, 20)]).await?;
        assert_eq!(left(store, &forgotten).await?, (5, 10, (0, 0)));
        Ok(())
    })
    .await;
}

pub async fn s15_a_budget_is_never_exceeded_and_nobody_is_locked_out_while_money_is_left(store: &dyn Store) {
    in_time(async |attempt| {
        let first = money(&format!("a-{attempt}"), USD, USD / 20);
        let mut done = 0;
        for round in 0.. {
            let asked: Vec<_> = (0..50).map(|_| another(&first)).collect();
            let answers = join_all(asked.iter().map(|reserve| ask(store, reserve))).await;
            let answers: Vec<_> = answers.into_iter().collect::<Result<_, _>>()?;
            for now in &answers {
                let (spent, reserved) = account(now);
                assert!(spent + reserved <= USD, "{now:?}");
            }
            let admitted: Vec<_> =
                asked.iter().zip(&answers).filter(|(_, now)| now.refused.is_none()).collect();
            if round == 0 {
                assert_eq!(admitted.len(), 20, "as many as could all cost the most");
                assert!(
                    answers.iter().all(|now| now.refused != Some(Refused::Budget)),
                    "nothing is spent yet"
                );
            }
            if admitted.is_empty() {
                assert!(answers.iter().all(|now| now.refused == Some(Refused::Budget)));
                let (spent, reserved) = account(&answers[0]);
                assert!(spent > USD - USD / 20 && spent <= USD && reserved == 0, "{spent} {reserved}");
                assert!(done > 50, "{done} requests of a third of their worst case");
                return Ok(());
            }
            done += admitted.len();
            let settles = admitted.iter().map(|(reserve, _)| used(reserve, 10, USD / 60)).collect();
            store.settle(settles).await?;
        }
        unreachable!("rounds do not run out")
    })
    .await;
}
