//! What a caller is told when the backend refuses, fails or is not there.

use serde_json::{Value, json};

use crate::http;
use crate::mock_openai::{End, MockOpenAi, Script};
use crate::server::{TestServer, cache, openai};

fn ask(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}]})
}

fn upstream_error(code: &str) -> String {
    json!({"error": {"message": "upstream says no", "type": "invalid_request_error", "param": "messages", "code": code}}).to_string()
}

/// The backend's status and code; the caller's status, `code` in OpenAI's dialect, `error` in the simple one.
const TABLE: &[(u16, &str, u16, &str, &str)] = &[
    (400, "context_length_exceeded", 400, "context_length_exceeded", "backend_rejected"),
    (404, "model_not_found", 404, "model_not_found", "backend_rejected"),
    (422, "bad", 422, "bad", "backend_rejected"),
    (401, "invalid_api_key", 502, "backend_auth_failed", "backend_auth_failed"),
    (403, "denied", 502, "backend_auth_failed", "backend_auth_failed"),
    (429, "insufficient_quota", 503, "backend_quota_exhausted", "backend_quota_exhausted"),
    (429, "rate_limit_exceeded", 429, "rate_limit_exceeded", "backend_rate_limited"),
    (500, "server_error", 503, "backend_unavailable", "backend_unavailable"),
    (503, "overloaded", 503, "backend_unavailable", "backend_unavailable"),
];

#[tokio::test]
async fn every_refusal_of_the_backend_has_its_status_plain_and_streamed() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(openai(&mock.base_url())).await;
    for (upstream, code, status, openai_code, simple_code) in TABLE {
        for stream in [false, true] {
            let headers = vec![("retry-after", "7".to_owned())];
            mock.script(Script::Status(*upstream, headers.clone(), upstream_error(code)));
            let mut body = ask("refuse");
            body["stream"] = json!(stream);
            let answer = http::post(&server.at("/v1/chat/completions"), &body).await;
            assert_eq!(answer.status, *status, "{upstream} {code} stream={stream}");
            assert_eq!(answer.json()["error"]["code"], *openai_code, "{upstream} {code}");
            if *simple_code == "backend_rejected" {
                assert_eq!(answer.json()["error"]["message"], "upstream says no");
                assert_eq!(answer.json()["error"]["param"], "messages");
            }
            if *status == 429 {
                assert_eq!(answer.header("retry-after"), "7");
            }
            let no_retry = ["backend_auth_failed", "backend_quota_exhausted"].contains(simple_code);
            assert_eq!(answer.header("x-should-retry"), if no_retry { "false" } else { "" }, "{code}");
            mock.script(Script::Status(*upstream, headers, upstream_error(code)));
            let simple =
                http::post(&server.at("/api/v1/chat"), &json!({"message": "refuse", "stream": stream})).await;
            assert_eq!(simple.status, *status);
            assert_eq!(simple.json()["error"], *simple_code);
        }
    }
}

#[tokio::test]
async fn a_backend_that_is_not_there_is_unavailable() {
    let mock = MockOpenAi::start().await;
    let nobody = mock.base_url();
    drop(mock);
    let server = TestServer::start(openai(&nobody)).await;
    let answer = http::post(&server.at("/v1/chat/completions"), &ask("anyone?")).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["error"]["code"], "backend_unavailable");
}

#[tokio::test]
async fn an_answer_that_is_none_is_a_bad_gateway() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(openai(&mock.base_url())).await;
    for body in ["not json", "[]", "{}"] {
        mock.script(Script::Status(
            200,
            vec![("content-type", "application/json".to_owned())],
            body.to_owned(),
        ));
        let answer = http::post(&server.at("/v1/chat/completions"), &ask("garbage")).await;
        assert_eq!(answer.status, 502, "{body}");
        assert_eq!(answer.json()["error"]["code"], "backend_invalid_response");
    }
}

#[tokio::test]
async fn the_body_reaches_the_backend_byte_for_byte() {
    let mock = crate::answering(2).await;
    let server = TestServer::start(openai(&mock.base_url())).await;
    let body = "{ \"z\": 123456789012345678901, \"model\":\"gpt-4o-mini\",\n\"messages\" : [{\"role\":\"user\",\"content\":\"\\u00e9 \\/\"}], \"a\": 1.50, \"unknown\": {\"b\":1,\"a\":[ ]} }";
    let headers =
        [("content-type", "application/json"), ("authorization", "Bearer callers-own"), ("x-custom", "1")];
    let answer =
        http::send(::http::Method::POST, &server.at("/v1/chat/completions"), &headers, body.as_bytes()).await;
    assert_eq!(answer.status, 200);
    let sent = &mock.requests()[0];
    assert_eq!(std::str::from_utf8(&sent.body).unwrap(), body);
    assert!(
        sent.headers.iter().all(|(name, _)| name != "authorization" && name != "x-custom"),
        "{:?}",
        sent.headers
    );
    // A stream adds what asks for the usage, and nothing else.
    let streamed = body.replace(" }", ", \"stream\": true }");
    http::send(::http::Method::POST, &server.at("/v1/chat/completions"), &headers, streamed.as_bytes()).await;
    let sent = String::from_utf8(mock.requests()[1].body.to_vec()).unwrap();
    let without = sent.replace("\"stream_options\":{\"include_usage\":true}", "");
    assert_eq!(without.replace([' ', ',', '\n'], ""), streamed.replace([' ', ',', '\n'], ""));
}

#[tokio::test]
async fn what_is_broken_is_neither_cached_nor_stored() {
    let mock = MockOpenAi::start().await;
    let mut config = openai(&mock.base_url());
    config.dynamic.cache = Some(cache());
    let server = TestServer::start(config).await;
    mock.script(Script::cut_stream(2, End::Cut));
    let ask = json!({"message": "break", "stream": true});
    let broken = http::post(&server.at("/api/v1/chat"), &ask).await;
    let id = broken.header("x-conversation-id").to_owned();
    assert!(
        broken.events().last().unwrap().contains("\"error\":\"backend_invalid_response\""),
        "{:?}",
        broken.events()
    );
    mock.script(Script::Words(3));
    let again = http::post(&server.at("/api/v1/chat"), &json!({"message": "break"})).await;
    assert_eq!(again.header("x-chat-cache"), "miss");
    let gone =
        http::post(&server.at("/api/v1/chat"), &json!({"message": "go on", "conversation_id": id})).await;
    assert_eq!(gone.status, 404, "the broken turn began no conversation");
}
