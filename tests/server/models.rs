//! Several models: what each is asked for upstream, who answers for whom, and what a backend may put into an answer.

use chatservice::crd::MaxTokensField;
use chatservice::server::config::{ModelConfig, ServerConfig};
use serde_json::{Value, json};

use crate::http;
use crate::metrics;
use crate::mock_openai::{MockOpenAi, Script, plain_answer};
use crate::server::{TestServer, cache, openai};

/// `fast`, which has another name upstream, and `org/large`, for which `fast` answers when it cannot.
fn two_models(mock: &MockOpenAi) -> ServerConfig {
    let mut config = openai(&mock.base_url());
    "fast".clone_into(&mut config.dynamic.model);
    config.dynamic.models = vec![
        ModelConfig {
            upstream_model: Some("fast-2026".to_owned()),
            max_tokens_field: Some(MaxTokensField::MaxCompletionTokens),
            max_output_tokens: Some(50),
            omit: vec!["temperature".to_owned()],
            ..ModelConfig::named("fast")
        },
        ModelConfig { fallbacks: vec!["fast".to_owned()], ..ModelConfig::named("org/large") },
    ];
    config
}

fn failure() -> Script {
    Script::Status(500, Vec::new(), "{}".to_owned())
}

fn sent(mock: &MockOpenAi) -> Value {
    serde_json::from_slice(&mock.requests().last().unwrap().body).unwrap()
}

#[tokio::test]
async fn models_are_listed_and_shown_one_by_one() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(two_models(&mock)).await;
    let list = http::get(&server.at("/v1/models")).await.json();
    assert_eq!(list["data"].as_array().unwrap().len(), 2);
    for (path, id) in [("fast", "fast"), ("org/large", "org/large"), ("org%2Flarge", "org/large")] {
        let model = http::get(&server.at(&format!("/v1/models/{path}"))).await;
        assert_eq!((model.status.as_u16(), &model.json()["id"]), (200, &json!(id)), "{path}");
        assert_eq!(model.json()["object"], "model");
    }
    for path in ["fast-2026", "org", "org/large/more"] {
        let unknown = http::get(&server.at(&format!("/v1/models/{path}"))).await;
        assert_eq!(unknown.status, 404, "{path}");
        assert_eq!(unknown.json()["error"]["code"], "model_not_found", "{path}");
    }
}

#[tokio::test]
async fn each_model_is_asked_in_its_own_words_in_both_dialects() {
    let mock = crate::answering(2).await;
    let server = TestServer::start(two_models(&mock)).await;
    let ask = json!({"message": "hi", "max_tokens": 400});
    let answer = http::post(&server.at("/api/v1/chat"), &ask).await.json();
    assert_eq!(answer["model"], "fast");
    assert_eq!(sent(&mock)["model"], "fast-2026");
    assert_eq!(sent(&mock)["max_completion_tokens"], 50);
    assert!(sent(&mock).get("max_tokens").is_none() && sent(&mock).get("temperature").is_none());

    let ask = json!({"model": "org/large", "messages": [{"role": "user", "content": "hi"}], "temperature": 1, "max_completion_tokens": 7});
    http::post(&server.at("/v1/chat/completions"), &ask).await;
    let expected = json!({"model": "org/large", "messages": [{"role": "user", "content": "hi"}], "temperature": 1, "max_tokens": 7});
    assert_eq!(sent(&mock), expected);
}

#[tokio::test]
async fn an_output_cap_or_a_number_of_choices_that_is_none_is_refused_by_its_name() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(two_models(&mock)).await;
    for (field, value) in [
        ("max_tokens", json!(0)),
        ("max_completion_tokens", json!("9")),
        ("max_tokens", json!(1.5)),
        ("n", json!(0)),
        ("n", json!(-1)),
        ("n", json!(129)),
        ("n", json!(2.0)),
        ("n", json!("2")),
        ("n", json!(1e300)),
    ] {
        let mut ask = json!({"messages": [{"role": "user", "content": "hi"}]});
        ask[field] = value;
        let answer = http::post(&server.at("/v1/chat/completions"), &ask).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["param"]), (400, &json!(field)));
    }
    assert_eq!(mock.count(), 0);
    mock.always(Script::Words(1));
    for n in [json!(null), json!(1), json!(128)] {
        let ask = json!({"messages": [{"role": "user", "content": "hi"}], "n": n});
        assert_eq!(http::post(&server.at("/v1/chat/completions"), &ask).await.status, 200, "{n}");
    }
}

#[tokio::test]
async fn a_fallbacks_answer_says_whose_it_is_and_is_not_kept() {
    for path in ["/api/v1/chat", "/api/v1/chat/stream"] {
        let mock = MockOpenAi::start().await;
        let mut config = two_models(&mock);
        config.dynamic.cache = Some(cache());
        let server = TestServer::start(config).await;
        let ask = json!({"message": "hi", "model": "org/large"});
        let model = |answer: &http::Answer| match path {
            "/api/v1/chat" => answer.json()["model"].clone(),
            _ => serde_json::from_str::<Value>(answer.events().last().unwrap()).unwrap()["model"].clone(),
        };
        mock.script(failure()).script(failure()).script(Script::Words(2));
        let answer = http::post(&server.at(path), &ask).await;
        assert_eq!((answer.status.as_u16(), model(&answer)), (200, json!("fast")), "{path}");
        mock.script(Script::Words(2));
        let again = http::post(&server.at(path), &ask).await;
        assert_eq!((again.header("x-chat-cache"), model(&again)), ("miss", json!("org/large")), "{path}");
        let kept = http::post(&server.at(path), &ask).await;
        assert_eq!((kept.header("x-chat-cache"), model(&kept)), ("hit", json!("org/large")), "{path}");
        assert_eq!(mock.count(), 4, "{path}");
    }
}

/// X13: of a backend's headers callers get its id of the call, when that is one, and nothing else.
#[tokio::test]
async fn x13_no_header_of_a_backend_reaches_a_caller() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(openai(&mock.base_url())).await;
    let hostile: Vec<(&'static str, String)> = [
        ("set-cookie", "session=1"),
        ("content-encoding", "gzip"),
        ("location", "https://evil.example"),
        ("access-control-allow-origin", "*"),
        ("x-chat-cache", "hit"),
        ("x-chat-cost-usd", "0"),
        ("x-ratelimit-remaining-requests", "999"),
        ("strict-transport-security", "max-age=0"),
        ("connection", "keep-alive, x-evil"),
        ("x-evil", "1"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into();
    let ask = json!({"messages": [{"role": "user", "content": "hi"}]});
    for status in [200, 400] {
        mock.script(Script::Status(status, hostile.clone(), plain_answer(1, true)));
        let answer = http::post(&server.at("/v1/chat/completions"), &ask).await;
        assert_eq!(answer.status, status);
        for (name, value) in &hostile {
            let told = answer.headers.get_all(*name).iter().any(|told| told == value.as_str());
            assert!(!told, "{name} of {:?}", answer.headers);
        }
        let id = if status == 200 { "req-mock" } else { "" };
        assert_eq!(answer.header("x-upstream-request-id"), id);
    }
    // What is no id, and headers beyond what is read of them.
    let giant = vec![("x-giant", "x".repeat(100_000))];
    mock.script(Script::Status(200, giant.clone(), plain_answer(1, true)));
    mock.always(Script::Status(200, giant, plain_answer(1, true)));
    let answer = http::post(&server.at("/v1/chat/completions"), &ask).await;
    assert!([502, 503].contains(&answer.status.as_u16()), "{}", answer.status);
    let long = format!(
        "HTTP/1.1 200 OK\r\nx-request-id: {}\r\ncontent-length: {}\r\n\r\n{}",
        "i".repeat(500),
        plain_answer(1, true).len(),
        plain_answer(1, true)
    );
    mock.script(Script::Raw(long.into_bytes(), crate::mock_openai::End::Clean));
    let answer = http::post(&server.at("/v1/chat/completions"), &ask).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-upstream-request-id")), (200, ""));
}

/// S8: deadlines of the configuration fire, plain and streamed, before headers and after chunks, and nothing stays.
#[tokio::test]
async fn s8_a_backend_that_hangs_costs_its_callers_their_deadline_and_leaves_nothing() {
    const EACH: usize = 30;
    let mock = MockOpenAi::start().await;
    let mut config = openai(&mock.base_url());
    config.dynamic.timeouts.request_ms = 2000;
    config.dynamic.timeouts.first_token_ms = 300;
    config.dynamic.timeouts.idle_ms = 300;
    let server = TestServer::start(config).await;
    let url = server.at("/v1/chat/completions");
    let ask = |stream: bool| json!({"messages": [{"role": "user", "content": "hi"}], "stream": stream});
    for (script, stream, status) in [
        (Script::silence(), false, 504),
        (Script::silence(), true, 504),
        (Script::cut_stream(3, crate::mock_openai::End::Hang), true, 200),
    ] {
        mock.always(script);
        let body = ask(stream);
        let asked = futures::future::join_all((0..EACH).map(|_| http::post(&url, &body))).await;
        for answer in asked {
            let told = if status == 200 { answer.events().concat() } else { answer.json().to_string() };
            let breaker = answer.status == 503;
            assert!(answer.status == status || breaker, "{} {told}", answer.status);
            assert!(told.contains("backend_timeout") || breaker, "{told}");
        }
        // The next kind begins with a breaker that is closed again.
        mock.always(Script::Words(1));
        let until = tokio::time::Instant::now() + http::DEADLINE;
        while http::post(&url, &ask(false)).await.status != 200 {
            assert!(tokio::time::Instant::now() < until, "the backend is well and is not used");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    mock.wait_disconnects(2 * EACH).await;
    metrics::wait(&server, "chat_requests_in_flight 0").await;
    metrics::wait(&server, "chat_streams_active 0").await;
}
