//! What each status of a backend, each refused connection and each answer that is none becomes.

use std::time::Duration;

use chatservice::server::backend::BackendError;
use chatservice::server::backend::openai::OpenAi;

use crate::mock_openai::{End, MockOpenAi, Script};
use crate::{KEY, backend, options, plain, stream};

fn error(message: &str, kind: &str, param: Option<&str>, code: Option<&str>) -> String {
    serde_json::json!({"error": {"message": message, "type": kind, "param": param, "code": code}}).to_string()
}

/// What both kinds of call get for a script.
async fn both(script: Script) -> [BackendError; 2] {
    let mock = MockOpenAi::start().await;
    mock.script(script.clone()).script(script);
    let backend = backend(&mock);
    let errors = [plain(&backend).await.unwrap_err(), stream(&backend).await.err().unwrap()];
    for error in &errors {
        assert!(!format!("{error} {error:?}").contains(KEY), "{error:?}");
    }
    assert_eq!(mock.requests().len(), 2, "one call is one attempt");
    errors
}

#[tokio::test]
async fn the_callers_fault_is_told_in_the_backends_words() {
    for status in [400, 404, 409, 413, 422] {
        let code = Some("context_length_exceeded");
        let body = error("the limit is 10 tokens", "invalid_request_error", Some("messages"), code);
        for error in both(Script::Status(status, vec![], body)).await {
            assert_eq!(
                error,
                BackendError::Rejected {
                    status,
                    message: "the limit is 10 tokens".into(),
                    kind: Some("invalid_request_error".into()),
                    param: Some("messages".into()),
                    code: Some("context_length_exceeded".into()),
                }
            );
        }
    }
}

#[tokio::test]
async fn other_refusals_count_as_a_bad_request() {
    for status in [405, 415, 418, 451] {
        for error in both(Script::Status(status, vec![], error("no", "t", None, None))).await {
            assert!(matches!(error, BackendError::Rejected { status: 400, .. }), "{status}: {error:?}");
        }
    }
}

#[tokio::test]
async fn a_refusal_without_a_reason_has_a_message_all_the_same() {
    for (body, content_type) in
        [("", "text/plain"), ("<html>no</html>", "text/html"), ("{\"error\":{}}", "application/json")]
    {
        let headers = vec![("content-type", content_type.to_owned())];
        for error in both(Script::Status(404, headers, body.into())).await {
            let BackendError::Rejected { status: 404, message, .. } = error else { panic!("{error:?}") };
            assert!(message.contains("404 Not Found without a reason"), "{message}");
        }
    }
}

#[tokio::test]
async fn our_key_is_taken_out_of_what_the_backend_says() {
    let body = error(&format!("bad key {KEY} in Bearer {KEY}"), KEY, Some(KEY), Some(KEY));
    for error in both(Script::Status(400, vec![], body)).await {
        let BackendError::Rejected { message, .. } = error else { panic!("{error:?}") };
        assert_eq!(message, "bad key [redacted] in Bearer [redacted]");
    }
}

#[tokio::test]
async fn a_long_error_body_is_not_read_whole() {
    for error in both(Script::Status(400, vec![], error(&"x".repeat(100_000), "t", None, None))).await {
        let BackendError::Rejected { message, .. } = error else { panic!("{error:?}") };
        assert!(message.contains("without a reason"), "{}", message.len());
    }
    for error in both(Script::Status(400, vec![], error(&"é".repeat(10_000), "t", None, None))).await {
        let BackendError::Rejected { message, .. } = error else { panic!("{error:?}") };
        assert_eq!(message.chars().count(), 2048);
    }
}

#[tokio::test]
async fn refused_credentials_are_ours_and_not_the_callers() {
    for status in [401, 403] {
        let message = format!("Incorrect API key provided: {KEY}");
        let body = error(&message, "t", None, Some("invalid_api_key"));
        assert_eq!(
            both(Script::Status(status, vec![], body)).await,
            [BackendError::Auth, BackendError::Auth]
        );
    }
}

#[tokio::test]
async fn a_spent_quota_is_not_a_rate_limit() {
    for (status, kind, code) in [
        (429, "insufficient_quota", Some("insufficient_quota")),
        (429, "t", Some("insufficient_quota")),
        (429, "insufficient_quota", None),
        (402, "t", None),
    ] {
        let retry = vec![("retry-after", "5".to_owned())];
        for error in both(Script::Status(status, retry, error("spent", kind, None, code))).await {
            assert_eq!(error, BackendError::QuotaExhausted);
        }
    }
}

#[tokio::test]
async fn a_rate_limit_passes_its_wait_on() {
    for (headers, millis) in [
        (vec![], None),
        (vec![("retry-after", "7".to_owned())], Some(7000)),
        (vec![("retry-after", "7".to_owned()), ("retry-after-ms", "6500".to_owned())], Some(6500)),
        (vec![("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT".to_owned())], Some(0)),
        (vec![("retry-after", "-3".to_owned())], None),
        (vec![("retry-after", "9".repeat(40))], None),
    ] {
        let body = error("slow down", "requests", None, Some("rate_limit_exceeded"));
        for error in both(Script::Status(429, headers.clone(), body)).await {
            let retry_after = millis.map(Duration::from_millis);
            assert_eq!(error, BackendError::RateLimited { retry_after }, "{headers:?}");
        }
    }
}

#[tokio::test]
async fn a_backend_that_fails_is_unavailable() {
    for status in [500, 502, 503, 504, 529] {
        for error in both(Script::Status(status, vec![], error(KEY, "server_error", None, None))).await {
            assert!(matches!(error, BackendError::Unavailable(_)), "{status}: {error:?}");
        }
    }
    for script in [
        Script::Raw(vec![], End::Cut),
        Script::Raw(vec![], End::Reset),
        Script::Raw(b"HTTP/1.1 200 O".into(), End::Cut),
    ] {
        for error in both(script.clone()).await {
            assert!(matches!(error, BackendError::Unavailable(_)), "{script:?}: {error:?}");
        }
    }
}

#[tokio::test]
async fn a_refused_connection_is_unavailable() {
    let mock = MockOpenAi::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = options(&mock);
    options.base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let error = plain(&OpenAi::new(options).unwrap()).await.unwrap_err();
    let BackendError::Unavailable(why) = error else { panic!("{error:?}") };
    assert!(why.contains("cannot connect") && why.contains("refused"), "{why}");
}

#[tokio::test]
async fn redirects_are_never_followed() {
    let elsewhere = MockOpenAi::start().await;
    for status in [301, 302, 303, 307, 308] {
        let location = vec![("location", elsewhere.base_url() + "/chat/completions")];
        for error in both(Script::Status(status, location, String::new())).await {
            assert!(matches!(error, BackendError::Broken(_)), "{status}: {error:?}");
        }
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn what_is_not_an_answer_is_broken() {
    let ok = |body: &str| Script::Status(200, vec![], body.to_owned());
    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"choices\":[]}".to_vec();
    for script in [
        ok(""),
        ok("hello"),
        ok("[]"),
        ok("{\"a\":1"),
        ok("{\"a\":1,\"a\":2}"),
        Script::Raw(cut.clone(), End::Cut),
        Script::Raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".into(), End::Cut),
        Script::Status(204, vec![], String::new()),
    ] {
        for error in both(script.clone()).await {
            assert!(matches!(error, BackendError::Broken(_)), "{script:?}: {error:?}");
        }
    }
}

#[tokio::test]
async fn an_endless_answer_is_broken_before_it_fills_the_memory() {
    let mock = MockOpenAi::start().await;
    let body = format!("{{\"a\":\"{}\"}}", "x".repeat(33 << 20));
    mock.script(Script::Status(200, vec![], body));
    let error = plain(&backend(&mock)).await.unwrap_err();
    assert_eq!(error, BackendError::Broken("it is longer than 32 MiB".into()));
}

#[tokio::test]
async fn an_error_with_status_200_is_an_error() {
    for (body, expected) in [
        (error("x", "t", None, Some("insufficient_quota")), BackendError::QuotaExhausted),
        (error("x", "t", None, Some("rate_limit_exceeded")), BackendError::RateLimited { retry_after: None }),
        (error(KEY, "authentication_error", None, None), BackendError::Auth),
    ] {
        assert_eq!(both(Script::Status(200, vec![], body)).await, [expected.clone(), expected]);
    }
}
