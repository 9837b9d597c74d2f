//! That callers share neither calls nor kept answers: in flight in one pod, in the memory of a pod, in Redis. In: equal
//! requests of two callers. Out: what each of them gets.

use std::collections::BTreeMap;
use std::time::Duration;

use ::http::Method;
use chatservice::crd::CacheScope;
use chatservice::server::config::{AuthConfig, CacheConfig, ServerConfig};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::http::{self, Answer, DEADLINE};
use crate::mock_openai::{MockOpenAi, Script};
use crate::redis_server::RedisServer;
use crate::server::{TestServer, cache, openai};
use crate::{coalescing, metrics};

const CHAT: &str = coalescing::CHAT;
const MOBILE: &str = "sk-mobile-0123456789abcdef";
const WEB: &str = "sk-web-0123456789abcdefghij";

fn config(mock: &MockOpenAi, scope: CacheScope) -> ServerConfig {
    let mut config = openai(&mock.base_url());
    config.fixed.api_keys_secret = Some("keys".to_owned());
    config.dynamic.auth = Some(AuthConfig::default());
    config.dynamic.cache = Some(CacheConfig { scope, ..cache() });
    config
}

fn environment() -> BTreeMap<String, String> {
    [("CHATSERVICE_API_KEYS".to_owned(), format!("mobile={MOBILE},web={WEB}"))].into()
}

/// With another header of the cache, or "".
async fn ask(url: &str, key: &str, control: &str, body: &Value) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers =
        [("content-type", "application/json"), ("authorization", &bearer), ("cache-control", control)];
    http::send(
        Method::POST,
        url,
        &headers[..if control.is_empty() { 2 } else { 3 }],
        body.to_string().as_bytes(),
    )
    .await
}

/// The words of an answer, plain or streamed.
fn words(answer: &Answer) -> usize {
    assert_eq!(answer.status, 200, "{answer:?}");
    let text = if answer.header("content-type") == "text/event-stream" {
        coalescing::text_of(&answer.events())
    } else {
        answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    };
    text.split_whitespace().count()
}

/// Two requests of each caller, one after the other, all in flight at once. Out: words and what the cache did, in order.
async fn four_at_once(
    mock: &MockOpenAi,
    server: &TestServer,
    calls: usize,
    body: &Value,
) -> Vec<(usize, String)> {
    let before = mock.requests().len();
    let mut asked = JoinSet::new();
    for (n, (key, calls)) in
        [(MOBILE, 1), (WEB, calls), (MOBILE, calls), (WEB, calls)].into_iter().enumerate()
    {
        let (url, body) = (server.at(CHAT), body.clone());
        asked.spawn(async move { (n, ask(&url, key, "", &body).await) });
        metrics::wait(server, &format!("chat_requests_in_flight {}", n + 1)).await;
        mock.wait_requests(before + calls).await;
    }
    // Each gate lets one call pass, and with it those that wait for it.
    let mut answers = Vec::new();
    for _ in 0..calls {
        mock.open_gate();
        for _ in 0..4 / calls {
            answers.push(asked.join_next().await.unwrap().unwrap());
        }
    }
    assert_eq!(mock.requests().len(), before + calls, "calls");
    answers.sort_by_key(|(n, _)| *n);
    answers.iter().map(|(_, answer)| (words(answer), answer.header("x-chat-cache").to_owned())).collect()
}

#[tokio::test]
async fn x2_equal_requests_in_flight_share_a_call_with_those_of_their_caller_alone() {
    let mock = MockOpenAi::start().await;
    let own = TestServer::start_with(config(&mock, CacheScope::Caller), environment()).await;
    let shared = TestServer::start_with(config(&mock, CacheScope::Service), environment()).await;
    let told = |answers: &[(usize, &str)]| {
        answers.iter().map(|(words, cache)| (*words, (*cache).to_owned())).collect::<Vec<_>>()
    };
    for stream in [false, true] {
        let mut body = coalescing::ask("the same");
        body["stream"] = json!(stream);
        body["seed"] = json!(u8::from(stream));
        let script = |words| if stream { coalescing::held(words) } else { Script::Words(words).gated() };
        mock.script(script(2)).script(script(5));
        let answers = four_at_once(&mock, &own, 2, &body).await;
        assert_eq!(
            answers,
            told(&[(2, "miss"), (5, "miss"), (2, "coalesced"), (5, "coalesced")]),
            "{stream}"
        );
        // What each has got is kept for it.
        for (key, count) in [(MOBILE, 2), (WEB, 5)] {
            let again = ask(&own.at(CHAT), key, "", &body).await;
            assert_eq!((words(&again), again.header("x-chat-cache")), (count, "hit"), "{stream}");
        }
        // Where the spec says that the service is one scope, they do share.
        mock.script(script(3));
        let answers = four_at_once(&mock, &shared, 1, &body).await;
        assert_eq!(answers[1..], told(&[(3, "coalesced"), (3, "coalesced"), (3, "coalesced")]), "{stream}");
    }
}

#[tokio::test]
async fn x2_pods_keep_the_answers_of_callers_apart_in_the_redis_that_they_share() {
    let Some(redis) = RedisServer::start().await else { return };
    let mock = MockOpenAi::start().await;
    let mut config = config(&mock, CacheScope::Caller);
    config.fixed.redis_secret = Some("redis".to_owned());
    let mut variables = environment();
    variables.insert("REDIS_URL".to_owned(), redis.url());
    let one = TestServer::start_with(config.clone(), variables.clone()).await;
    let other = TestServer::start_with(config, variables).await;
    let body = coalescing::ask("the same");
    // In flight at the same time, so that one pod could wait for the other.
    mock.script(Script::Words(2).gated()).script(Script::Words(5));
    let url = one.at(CHAT);
    let (mobile, web) = tokio::join!(ask(&url, MOBILE, "", &body), async {
        mock.wait_requests(1).await;
        let web = ask(&other.at(CHAT), WEB, "", &body).await;
        mock.open_gate();
        web
    });
    assert_eq!((words(&mobile), words(&web), mock.requests().len()), (2, 5, 2));
    // Each finds its own answer in the other pod once it is stored, and nobody else's.
    let deadline = tokio::time::Instant::now() + DEADLINE;
    for (server, key, count) in [(&other, MOBILE, 2), (&one, WEB, 5)] {
        let found = loop {
            let found = ask(&server.at(CHAT), key, "only-if-cached", &body).await;
            if found.status == 200 {
                break found;
            }
            assert_eq!(found.status, 504, "{found:?}");
            assert!(tokio::time::Instant::now() < deadline, "it was not stored");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert_eq!((words(&found), found.header("x-chat-cache")), (count, "hit"));
    }
    assert_eq!(mock.requests().len(), 2);
}
