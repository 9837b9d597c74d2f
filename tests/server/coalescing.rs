//! Equal requests that are in flight at the same time, with the cache on.

use std::time::Duration;

use ::http::{Method, Response};
use bytes::Bytes;
use chatservice::server::config::ServerConfig;
use futures::future::join_all;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::http::{self, Answer, DEADLINE};
use crate::metrics;
use crate::mock_openai::{End, MockOpenAi, Piece, Script, event, whole_stream};
use crate::server::{TestServer, cache, openai};

pub const CHAT: &str = "/v1/chat/completions";

pub fn ask(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}]})
}

pub fn streamed(text: &str) -> Value {
    let mut ask = ask(text);
    ask["stream"] = json!(true);
    ask
}

pub fn config(mock: &MockOpenAi) -> ServerConfig {
    let mut config = openai(&mock.base_url());
    config.dynamic.cache = Some(cache());
    // One call each: what follows a failure is what those who wait make of it.
    config.dynamic.max_attempts = 1;
    config
}

/// A stream that stops in its middle until the gate is opened.
pub fn held(words: usize) -> Script {
    let mut pieces: Vec<Piece> = whole_stream(words, true).into_iter().map(Piece::Send).collect();
    pieces.insert(2, Piece::Gate);
    Script::Events(pieces, End::Clean)
}

async fn open(server: &TestServer, body: &Value) -> Response<Incoming> {
    let headers = [("content-type", "application/json")];
    let response = http::open(Method::POST, &server.at(CHAT), &headers, body.to_string().as_bytes()).await;
    assert_eq!(response.status(), 200);
    response
}

async fn rest(response: Response<Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = tokio::time::timeout(DEADLINE, body.collect()).await.unwrap().unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, body }
}

pub fn text_of(events: &[String]) -> String {
    let chunks = events.iter().filter_map(|data| serde_json::from_str::<Value>(data).ok());
    chunks.filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
}

pub fn count(answers: &[Answer], result: &str) -> usize {
    answers.iter().filter(|answer| answer.header("x-chat-cache") == result).count()
}

/// Sends equal requests; opens the gate once all are being answered and the backend has got the first.
async fn together(mock: &MockOpenAi, server: &TestServer, requests: Vec<Value>) -> Vec<Answer> {
    let url = server.at(CHAT);
    let count = requests.len();
    let answers = join_all(requests.iter().map(|request| http::post(&url, request)));
    let gate = async {
        mock.wait_requests(1).await;
        metrics::wait(server, &format!("chat_requests_in_flight {count}")).await;
        mock.open_gate();
    };
    tokio::join!(answers, gate).0
}

#[tokio::test]
async fn s14_equal_requests_of_a_pod_share_one_call_plain_and_streamed() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(config(&mock)).await;
    for (text, script) in [("plain first", Script::Words(3).gated()), ("stream first", held(3))] {
        let before = mock.requests().len();
        mock.script(script);
        let first = if text == "plain first" { ask(text) } else { streamed(text) };
        let url = server.at(CHAT);
        let first = http::post(&url, &first);
        let others = async {
            mock.wait_requests(before + 1).await;
            let others: Vec<_> =
                (0..60).map(|n| if n % 2 == 0 { ask(text) } else { streamed(text) }).collect();
            let gate = async {
                metrics::wait(&server, "chat_requests_in_flight 61").await;
                mock.open_gate();
            };
            tokio::join!(join_all(others.iter().map(|other| http::post(&url, other))), gate).0
        };
        let (first, others) = tokio::join!(first, others);
        assert_eq!(first.header("x-chat-cache"), "miss", "{text}");
        assert_eq!(first.status, 200);
        for answer in &others {
            assert_eq!(answer.status, 200);
            assert!(["coalesced", "hit"].contains(&answer.header("x-chat-cache")), "{answer:?}");
            let text = if answer.header("content-type") == "text/event-stream" {
                assert_eq!(answer.events().last().unwrap(), "[DONE]");
                text_of(&answer.events())
            } else {
                assert_eq!(answer.header("x-chat-cost-usd"), "0.000000000");
                answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
            };
            assert_eq!(text, "word0 word1 word2");
        }
        assert!(count(&others, "coalesced") > 0, "{text}");
        assert_eq!(mock.requests().len(), before + 1, "{text}");
    }
    metrics::wait(&server, "openai_api_calls_total{model=\"gpt-4o-mini\",status=\"ok\"} 2").await;
    metrics::wait(&server, "openai_tokens_used_total{model=\"gpt-4o-mini\"} 20").await;
}

#[tokio::test]
async fn s14_the_call_goes_on_for_those_who_wait_when_its_leader_leaves() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(config(&mock)).await;
    mock.script(held(3));
    let leader = open(&server, &streamed("leave")).await;
    let late = open(&server, &streamed("leave")).await;
    assert_eq!(late.headers()["x-chat-cache"], "coalesced");
    drop(leader);
    metrics::wait(&server, "chat_streams_active 1").await;
    mock.open_gate();
    let late = rest(late).await;
    assert_eq!(text_of(&late.events()), "word0 word1 word2", "from its start");
    assert_eq!(late.events().last().unwrap(), "[DONE]");
    assert_eq!(http::post(&server.at(CHAT), &ask("leave")).await.header("x-chat-cache"), "hit");
    assert_eq!(mock.requests().len(), 1);
    // Charged once, though who began it has left.
    metrics::wait(&server, "openai_tokens_used_total{model=\"gpt-4o-mini\"} 10").await;
}

#[tokio::test]
async fn s10_the_call_ends_when_the_last_that_waits_has_left() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(config(&mock)).await;
    for (gone, (text, script)) in [("plain", Script::silence()), ("stream", held(3))].into_iter().enumerate()
    {
        let before = mock.requests().len();
        mock.script(script);
        let request = if text == "plain" { ask(text) } else { streamed(text) };
        let url = server.at(CHAT);
        let waiting = join_all((0..3).map(|_| http::post(&url, &request)));
        let all_wait = async {
            mock.wait_requests(before + 1).await;
            metrics::wait(&server, "chat_requests_in_flight 3").await;
        };
        tokio::select! {
            _ = waiting => panic!("nothing is answered yet"),
            () = all_wait => {}
        }
        mock.wait_disconnects(gone + 1).await;
        metrics::wait(&server, "chat_requests_in_flight 0").await;
        assert_eq!(mock.requests().len(), before + 1, "{text}");
        // Nothing of it is left: the next request makes a call of its own.
        mock.script(Script::Words(1));
        assert_eq!(http::post(&url, &ask(text)).await.header("x-chat-cache"), "miss");
    }
}

#[tokio::test]
async fn s14_of_those_who_wait_for_a_call_that_fails_one_tries_once_more() {
    for streams in [false, true] {
        let mock = MockOpenAi::start().await;
        let server = TestServer::start(config(&mock)).await;
        let request = if streams { streamed("fail") } else { ask("fail") };
        let failure = Script::Status(500, vec![], "{}".to_owned());
        mock.script(failure.clone().gated()).script(Script::Words(2));
        let answers = together(&mock, &server, vec![request.clone(); 30]).await;
        let failed = answers.iter().filter(|answer| answer.status == 503).count();
        assert_eq!(failed, 1, "who led is told");
        assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 29);
        assert_eq!(mock.requests().len(), 2);

        let request = if streams { streamed("fail twice") } else { ask("fail twice") };
        mock.script(failure.clone().gated()).script(failure);
        let mock_before = mock.requests().len();
        let url = server.at(CHAT);
        let all = join_all((0..30).map(|_| http::post(&url, &request)));
        let gate = async {
            mock.wait_requests(mock_before + 1).await;
            metrics::wait(&server, "chat_requests_in_flight 30").await;
            mock.open_gate();
        };
        let (answers, ()) = tokio::join!(all, gate);
        assert!(answers.iter().all(|answer| answer.status == 503), "the rest gets what the second try got");
        assert_eq!(mock.requests().len(), mock_before + 2);

        mock.script(Script::Words(1));
        let next = http::post(&url, &request).await;
        assert_eq!(
            (next.status.as_u16(), next.header("x-chat-cache")),
            (200, "miss"),
            "an error is not kept"
        );
    }
}

#[tokio::test]
async fn s14_what_the_backend_refuses_is_not_asked_again() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(config(&mock)).await;
    let refusal = r#"{"error":{"message":"no such thing","type":"invalid_request_error"}}"#;
    mock.script(Script::Status(400, vec![], refusal.to_owned()).gated());
    let answers = together(&mock, &server, vec![ask("refused"); 10]).await;
    assert!(answers.iter().all(|answer| answer.status == 400));
    assert_eq!(mock.requests().len(), 1);
}

#[tokio::test]
async fn s9_a_shared_stream_that_is_cut_is_cut_for_all_and_kept_for_nobody() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(config(&mock)).await;
    for end in [End::Cut, End::Reset, End::Clean] {
        let before = mock.requests().len();
        let mut pieces: Vec<Piece> = whole_stream(3, true).into_iter().take(3).map(Piece::Send).collect();
        pieces.push(Piece::Gate);
        mock.script(Script::Events(pieces, end));
        let leader = open(&server, &streamed("cut")).await;
        let follower = open(&server, &streamed("cut")).await;
        assert_eq!(follower.headers()["x-chat-cache"], "coalesced");
        mock.open_gate();
        for stream in [leader, follower] {
            let events = rest(stream).await.events();
            assert_eq!(text_of(&events), "word0 word1");
            let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
            assert!(last["error"]["code"].is_string(), "{end:?}: {last}");
        }
        assert_eq!(mock.requests().len(), before + 1);
    }
    mock.script(Script::Words(1));
    assert_eq!(http::post(&server.at(CHAT), &ask("cut")).await.header("x-chat-cache"), "miss");
}

#[tokio::test]
async fn s13_a_slow_reader_holds_nobody_up_and_still_gets_everything() {
    // More than any socket between them holds.
    const EVENTS: usize = 256;
    let long = "x".repeat(32 << 10);
    let word = |n: usize| {
        let delta = json!({"index": 0, "delta": {"content": format!("{n}{long}")}, "finish_reason": null});
        event(&json!({"id": "c", "object": "chat.completion.chunk", "choices": [delta]}).to_string())
    };
    let finish = json!({"index": 0, "delta": {}, "finish_reason": "stop"});
    let finish = json!({"id": "c", "object": "chat.completion.chunk", "choices": [finish]}).to_string();
    let mut pieces: Vec<Piece> = (0..EVENTS).map(|n| Piece::Send(word(n))).collect();
    pieces.insert(1, Piece::Gate);
    pieces.push(Piece::Send(event(&finish)));
    pieces.push(Piece::Send(Bytes::from_static(b"data: [DONE]\n\n")));

    let mock = MockOpenAi::start().await;
    let server = TestServer::start(config(&mock)).await;
    mock.script(Script::Events(pieces, End::Clean));
    let slow = open(&server, &streamed("long")).await;
    let fast = open(&server, &streamed("long")).await;
    mock.open_gate();
    let fast = rest(fast).await;
    assert_eq!(fast.events().last().unwrap(), "[DONE]");
    let slow = rest(slow).await;
    assert_eq!(slow.events(), fast.events());
    assert_eq!(slow.events().len(), EVENTS + 2);
    assert_eq!(mock.requests().len(), 1);
}

#[tokio::test]
async fn a_stream_that_follows_a_plain_answer_which_is_none_as_a_stream_is_asked_for_by_itself() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(config(&mock)).await;
    let message = json!({"role": "assistant", "content": "x", "tool_calls": "none"});
    let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
    let odd = json!({"id": "c", "object": "chat.completion", "choices": [choice]}).to_string();
    let json = vec![("content-type", "application/json".to_owned())];
    mock.script(Script::Status(200, json, odd.clone()).gated()).script(Script::Words(2));
    let (url, request, stream) = (server.at(CHAT), ask("odd"), streamed("odd"));
    let plain = http::post(&url, &request);
    let stream = async {
        mock.wait_requests(1).await;
        let gate = async {
            metrics::wait(&server, "chat_requests_in_flight 2").await;
            mock.open_gate();
        };
        tokio::join!(http::post(&url, &stream), gate).0
    };
    let (plain, stream) = tokio::join!(plain, stream);
    assert_eq!((plain.status.as_u16(), &plain.body[..]), (200, odd.as_bytes()));
    assert_eq!((stream.status.as_u16(), stream.header("x-chat-cache")), (200, "miss"));
    assert_eq!(text_of(&stream.events()), "word0 word1");
    assert_eq!(mock.requests().len(), 2);
}

#[tokio::test]
async fn requests_that_want_nothing_of_the_cache_do_not_share() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(config(&mock)).await;
    for control in ["no-cache", "no-store"] {
        let before = mock.requests().len();
        mock.script(Script::Words(1).gated()).script(Script::Words(2));
        let headers = [("content-type", "application/json"), ("cache-control", control)];
        let body = ask(control).to_string();
        let url = server.at(CHAT);
        let first = http::send(Method::POST, &url, &headers, body.as_bytes());
        let second = async {
            mock.wait_requests(before + 1).await;
            let second = http::send(Method::POST, &url, &headers, body.as_bytes()).await;
            mock.open_gate();
            second
        };
        let (first, second) = tokio::join!(first, second);
        assert_eq!((first.header("x-chat-cache"), second.header("x-chat-cache")), ("bypass", "bypass"));
        assert_ne!(first.body, second.body);
    }
}

/// Each of them, and what it is in another request.
pub fn fields() -> Vec<(&'static str, Value)> {
    vec![
        ("model", json!("other")),
        ("messages", json!([{"role": "user", "content": "Same"}])),
        ("temperature", json!(0.1)),
        ("top_p", json!(0.1)),
        ("seed", json!(1)),
        ("n", json!(1)),
        ("max_tokens", json!(7)),
        ("stop", json!(["x"])),
        ("tools", json!([])),
        ("response_format", json!({"type": "text"})),
        ("user", json!("u")),
        ("unknown", json!(null)),
    ]
}

#[tokio::test]
async fn x2_a_request_that_differs_in_any_field_never_gets_the_answer_of_another_in_flight() {
    let mock = MockOpenAi::start().await;
    let mut config = config(&mock);
    config.dynamic.models =
        ["gpt-4o-mini", "other"].map(chatservice::server::config::ModelConfig::named).into();
    let server = TestServer::start(config).await;
    mock.script(Script::silence());
    let url = server.at(CHAT);
    let request = ask("same");
    let waiting = http::post(&url, &request);
    let others = async {
        mock.wait_requests(1).await;
        for (field, value) in fields() {
            mock.script(Script::Words(1));
            let mut other = ask("same");
            other[field] = value;
            let answer = tokio::time::timeout(Duration::from_secs(5), http::post(&url, &other)).await;
            assert_eq!(answer.expect("an answer").header("x-chat-cache"), "miss", "{field}");
        }
    };
    tokio::select! {
        _ = waiting => panic!("its call is never answered"),
        () = others => {}
    }
}
