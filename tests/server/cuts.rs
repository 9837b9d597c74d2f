//! S9: a stream that the backend does not bring to its end is an error, is not kept, and is paid for.

use ::http::Method;
use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::http;
use crate::metrics;
use crate::mock_openai::{End, MockOpenAi, Piece, Script, event, whole_stream};
use crate::server::{TestServer, cache, openai};

/// What comes after the first words, and how the connection ends then.
fn cuts() -> Vec<(Bytes, End)> {
    let stream = whole_stream(6, true);
    let rest = stream[BEFORE..].concat();
    // The line ends behind `[DONE]` may be missing: it is whole all the same.
    let places = (0..rest.len() - 2).step_by(3).map(|at| Bytes::copy_from_slice(&rest[..at]));
    let mut cuts: Vec<_> =
        places.flat_map(|sent| [End::Cut, End::Reset, End::Clean].map(|end| (sent.clone(), end))).collect();
    let in_band = json!({"error": {"message": "overloaded", "type": "server_error", "code": null}});
    for tail in [
        event(&in_band.to_string()),
        Bytes::from_static(b"event: error\ndata: {\"message\": \"x\"}\n\n"),
        Bytes::from_static(b"data: {{{\n\n"),
        Bytes::from_static(b"data: hello\n\n"),
        Bytes::from_static(b"data: []\n\n"),
        Bytes::from_static(b"data: [done]\n\n"),
        Bytes::from_static(b"data: {\"\\u0065rror\": {\"message\": \"x\"}, \"choices\": []}\n\n"),
        Bytes::from_static(b"data: {\"choices\": 1}\n\n"),
        Bytes::from_static(b"data: {\"a\": \"\xFF\"}\n\n"),
        Bytes::from_static(b"<html>502 Bad Gateway</html>\n\n"),
        event(&"x".repeat(100 << 20)),
        Bytes::from("data: x\n".repeat(1 << 20)),
    ] {
        cuts.extend([End::Cut, End::Reset, End::Clean].map(|end| (tail.clone(), end)));
    }
    cuts
}

/// Events in front of a cut: the role and a word, so that either dialect has begun.
const BEFORE: usize = 2;

#[tokio::test]
async fn s9_a_thousand_cuts_are_a_thousand_error_events() {
    let mock = MockOpenAi::start().await;
    let mut config = openai(&mock.base_url());
    config.dynamic.cache = Some(cache());
    let server = TestServer::start(config).await;
    let cuts = cuts();
    assert!(cuts.len() >= 1000, "{}", cuts.len());
    for (number, (sent, end)) in cuts.iter().enumerate() {
        let mut pieces: Vec<Piece> =
            whole_stream(6, true).into_iter().take(BEFORE).map(Piece::Send).collect();
        // Until the caller has the first word: a reset would take back what has not been read.
        pieces.extend([Piece::Gate, Piece::Send(sent.clone())]);
        mock.script(Script::Events(pieces, *end));
        let (path, body) = if number % 2 == 0 {
            (
                "/v1/chat/completions",
                json!({"messages": [{"role": "user", "content": "cut"}], "stream": true}),
            )
        } else {
            ("/api/v1/chat/stream", json!({"message": "cut"}))
        };
        let what = format!("{path}, {} bytes, {end:?}", sent.len());
        let headers = [("content-type", "application/json")];
        let mut response =
            http::open(Method::POST, &server.at(path), &headers, body.to_string().as_bytes()).await;
        assert_eq!(
            (response.status().as_u16(), response.headers()["x-chat-cache"].to_str().unwrap()),
            (200, "miss")
        );
        let conversation = response.headers().get("x-conversation-id").cloned();
        let mut text = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap().to_vec();
        mock.open_gate();
        text.extend(response.into_body().collect().await.unwrap().to_bytes());
        ends_with_one_error(&String::from_utf8(text).unwrap(), &what);
        if let Some(id) = conversation {
            let go_on = json!({"message": "go on", "conversation_id": id.to_str().unwrap()});
            assert_eq!(http::post(&server.at("/api/v1/chat"), &go_on).await.status, 404, "{what}: stored");
        }
    }
    let count = cuts.len();
    let model = "model=\"gpt-4o-mini\"";
    let broken = format!("openai_api_calls_total{{{model},status=\"backend_invalid_response\"}} {count}");
    for line in ["chat_requests_in_flight 0", "chat_streams_active 0", &broken] {
        metrics::wait(&server, line).await;
    }
    assert_eq!(mock.requests().len(), count, "one call each");
    // Each has paid for at least its prompt and the word that it delivered.
    let paid = metrics::value(&server, &format!("openai_tokens_used_total{{{model}}}")).await;
    assert!(paid >= 2 * count, "{paid} tokens for {count} streams");
}

fn ends_with_one_error(text: &str, what: &str) {
    let events: Vec<Value> = text
        .split_terminator("\n\n")
        .map(|event| {
            serde_json::from_str(event.strip_prefix("data: ").unwrap())
                .unwrap_or_else(|_| panic!("{what}: {event}"))
        })
        .collect();
    let errors = events.iter().filter(|event| event.get("error").is_some()).count();
    assert_eq!(errors, 1, "{what}: {text}");
    assert!(events.last().unwrap().get("error").is_some(), "{what}: {text}");
    assert!(events.iter().all(|event| event["finished"] != json!(true)), "{what}: {text}");
}
