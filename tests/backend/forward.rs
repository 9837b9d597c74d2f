//! What goes upstream, and what a good answer becomes.

use chatservice::server::backend::openai::OpenAi;
use chatservice::server::backend::{Backend, UpstreamAnswer};

use crate::mock_openai::{MockOpenAi, Script, plain_answer};
use crate::{KEY, backend, drain, options, plain, stream, text_of};

#[tokio::test]
async fn the_body_goes_upstream_byte_for_byte_with_our_headers_alone() {
    let mock = MockOpenAi::start().await;
    let body = " {\"z\" : 12345678901234567890,\n\"a\":1.50, \"text\":\"\\u00e9 é 🦀\\/\" }\r\n";
    for (stream, accept) in [(false, "application/json"), (true, "text/event-stream")] {
        mock.script(if stream { Script::stream_with(1, "data: [DONE]\n\n") } else { Script::Words(1) });
        backend(&mock).call(crate::request(body, stream)).await.unwrap();
        let request = mock.requests().pop().unwrap();
        assert_eq!(request.line, "POST /v1/chat/completions HTTP/1.1");
        assert_eq!(request.body, body.as_bytes());
        let mut headers = request.headers;
        headers.sort();
        let expected = [
            ("accept", accept.to_owned()),
            ("authorization", format!("Bearer {KEY}")),
            ("content-length", body.len().to_string()),
            ("content-type", "application/json".to_owned()),
            ("host", mock.address().to_string()),
            ("user-agent", format!("chatservice/{}", env!("CARGO_PKG_VERSION"))),
        ];
        assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value)));
    }
}

#[tokio::test]
async fn without_a_key_no_authorization_is_sent() {
    let mock = MockOpenAi::start().await;
    mock.script(Script::Words(1));
    let mut options = options(&mock);
    options.api_key = None;
    options.allowed_hosts.clear();
    plain(&OpenAi::new(options).unwrap()).await.unwrap();
    assert!(mock.requests()[0].headers.iter().all(|(name, _)| name != "authorization"));
}

#[tokio::test]
async fn a_plain_answer_comes_back_as_it_is_with_its_id() {
    let mock = MockOpenAi::start().await;
    for (script, usage) in [(Script::Words(3), true), (Script::WordsWithoutUsage(3), false)] {
        mock.script(script);
        let (body, request_id) = plain(&backend(&mock)).await.unwrap();
        assert_eq!(body, plain_answer(3, usage).as_bytes());
        assert_eq!(request_id.as_deref(), Some("req-mock"));
    }
}

#[tokio::test]
async fn a_stream_comes_back_event_by_event_and_ends_with_done() {
    let mock = MockOpenAi::start().await;
    mock.script(Script::Words(3));
    let request = crate::request(crate::STREAM, true);
    let UpstreamAnswer::Stream { events, request_id } = backend(&mock).call(request).await.unwrap() else {
        panic!("a plain answer for a stream")
    };
    assert_eq!(request_id.as_deref(), Some("req-mock"));
    let (chunks, error) = drain(events).await;
    assert_eq!(error, None);
    assert_eq!(text_of(&chunks), "word0 word1 word2");
    // The role, the words, the reason: `[DONE]` is no event.
    assert_eq!(chunks.len(), 5);
}

#[tokio::test]
async fn calls_after_one_another_share_a_connection() {
    let mock = MockOpenAi::fast(2).await;
    let backend = backend(&mock);
    for _ in 0..20 {
        plain(&backend).await.unwrap();
    }
    assert_eq!(mock.connections(), 1);
    for _ in 0..20 {
        assert_eq!(drain(stream(&backend).await.unwrap()).await.1, None);
    }
    // A busy machine may see the end of a stream too late, and then its connection is not used again.
    assert!(mock.connections() < 10, "{}", mock.connections());
    mock.wait_requests(40).await;
}

#[tokio::test]
async fn the_key_goes_to_allowed_hosts_only() {
    let mock = MockOpenAi::start().await;
    for allowed in [&[][..], &["api.openai.com"], &["127.0.0.10", "localhost"], &["127.0.0"], &[" "]] {
        let mut options = options(&mock);
        options.allowed_hosts = allowed.iter().map(|&host| host.into()).collect();
        let backend = OpenAi::new(options).unwrap();
        for error in [plain(&backend).await.unwrap_err(), stream(&backend).await.err().unwrap()] {
            let text = error.to_string();
            assert!(text.contains("adds 127.0.0.1 to the data key `allowed-hosts`"), "{text}");
            assert!(!text.contains(KEY), "{text}");
        }
    }
    assert_eq!(mock.connections(), 0);

    let mut options = options(&mock);
    options.allowed_hosts = vec!["api.openai.com".into(), " 127.0.0.1 ".into()];
    mock.script(Script::Words(1));
    plain(&OpenAi::new(options).unwrap()).await.unwrap();
}
