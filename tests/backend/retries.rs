//! Tries, fallbacks and the breaker: how many calls a request makes, to which models, and what its caller is told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chatservice::server::backend::attempts::AttemptLog;
use chatservice::server::backend::openai::{OpenAi, OpenAiOptions};
use chatservice::server::backend::upstreams::{Called, UpstreamCall, Upstreams};
use chatservice::server::backend::{BackendError, Deadline};
use chatservice::server::config::{BackendConfig, DynamicConfig, ModelConfig};
use chatservice::server::metrics::ServerMetrics;
use chatservice::server::models::Models;
use chatservice::server::operation::Operation;
use chatservice::server::trace::RequestTrace;
use futures::future::join_all;
use prometheus::{Encoder, TextEncoder};
use serde_json::Value;

use crate::mock_openai::{End, MockOpenAi, Script};
use crate::options;

/// Nothing here takes longer.
const LIMIT: Duration = Duration::from_secs(30);

/// A service with a model `asked`, which `backup` stands in for where there is one.
struct Service {
    models: Models,
    upstreams: Upstreams,
    metrics: ServerMetrics,
}

impl Service {
    fn new(options: OpenAiOptions, attempts: u32, fallback: bool) -> Self {
        Self::reserving(options, attempts, fallback, false)
    }

    /// With limits for which each request reserves once, if it is `charged`.
    fn reserving(options: OpenAiOptions, attempts: u32, fallback: bool, charged: bool) -> Self {
        let backend = BackendConfig::OpenAi { base_url: options.base_url.clone(), proxy_url: None };
        let mut config = DynamicConfig::new("asked", backend);
        let asked =
            ModelConfig { upstream_model: Some("asked-up".to_owned()), ..ModelConfig::named("asked") };
        config.models = vec![asked];
        if fallback {
            config.models[0].fallbacks = vec!["backup".to_owned()];
            let backup = ModelConfig {
                upstream_model: Some("backup-up".to_owned()),
                max_output_tokens: Some(5),
                omit: vec!["temperature".to_owned()],
                ..ModelConfig::named("backup")
            };
            config.models.push(backup);
        }
        let backend = Arc::new(OpenAi::new(options).unwrap());
        Self {
            models: Models::new(&config),
            upstreams: Upstreams::new(backend, Arc::default(), attempts, false, charged),
            metrics: ServerMetrics::new().unwrap(),
        }
    }

    fn of(mock: &MockOpenAi, attempts: u32, fallback: bool) -> Self {
        Self::new(options(mock), attempts, fallback)
    }

    async fn ask_within(
        &self,
        limit: Duration,
        stream: bool,
        log: &AttemptLog,
    ) -> Result<Called, BackendError> {
        let body =
            format!(r#"{{"model":"asked","messages":[],"temperature":1,"max_tokens":9,"stream":{stream}}}"#);
        let call = UpstreamCall {
            chain: &self.models.chain(self.models.default()),
            operation: Operation::Chat,
            body: &Bytes::from(body),
            for_asked: None,
            stream,
            deadline: Deadline::new(Instant::now(), limit),
            metrics: &self.metrics,
            trace: &RequestTrace::default(),
        };
        self.upstreams.call(call, log).await
    }

    async fn ask(&self) -> Result<Called, BackendError> {
        self.ask_within(LIMIT, false, &AttemptLog::default()).await
    }

    fn shows(&self, line: &str) -> bool {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.metrics.registry().gather(), &mut text).unwrap();
        String::from_utf8(text).unwrap().lines().any(|shown| shown == line)
    }
}

fn status(status: u16, headers: &[(&'static str, &str)]) -> Script {
    let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Script::Status(status, headers, r#"{"error":{"message":"no","code":"x"}}"#.to_owned())
}

fn sent(mock: &MockOpenAi) -> Vec<String> {
    let body =
        |body: &Bytes| serde_json::from_slice::<Value>(body).unwrap()["model"].as_str().unwrap().to_owned();
    mock.requests().iter().map(|request| body(&request.body)).collect()
}

#[tokio::test]
async fn what_another_try_can_help_is_tried_again() {
    let in_band = r#"{"error":{"message":"x","code":"rate_limit_exceeded"}}"#.to_owned();
    for (fault, reason) in [
        (status(500, &[]), "unavailable"),
        (status(503, &[("retry-after", "0")]), "unavailable"),
        (status(429, &[("retry-after", "0")]), "rate_limited"),
        (Script::Raw(Vec::new(), End::Reset), "unavailable"),
        (Script::Status(200, vec![], in_band), "rate_limited"),
    ] {
        for stream in [false, true] {
            let mock = MockOpenAi::start().await;
            mock.script(fault.clone()).script(Script::Words(1));
            let (service, log) = (Service::of(&mock, 3, false), AttemptLog::default());
            let called = service.ask_within(LIMIT, stream, &log).await.unwrap();
            assert_eq!(&*called.model.name, "asked");
            assert_eq!(sent(&mock), ["asked-up", "asked-up"], "{fault:?}");
            let attempts = log.attempts();
            assert!(attempts.len() == 2 && attempts.iter().all(|attempt| attempt.written), "{fault:?}");
            let line = format!("chat_backend_retries_total{{reason=\"{reason}\"}} 1");
            assert!(service.shows(&line), "{line}");
        }
    }
}

#[tokio::test]
async fn what_another_try_cannot_help_is_not_tried_again_nor_asked_of_a_fallback() {
    let quota = r#"{"error":{"message":"x","code":"insufficient_quota"}}"#.to_owned();
    let plain = |code| status(code, &[]);
    for fault in [
        plain(400),
        plain(401),
        plain(403),
        plain(404),
        plain(422),
        Script::Status(429, vec![], quota),
        Script::Status(200, vec![], "not an answer".to_owned()),
    ] {
        let mock = MockOpenAi::start().await;
        mock.script(fault.clone());
        Service::of(&mock, 3, true).ask().await.err().unwrap();
        assert_eq!(mock.count(), 1, "{fault:?}");
    }
}

#[tokio::test]
async fn a_timeout_after_the_request_was_written_is_not_tried_again() {
    let mock = MockOpenAi::start().await;
    mock.script(Script::silence());
    let (service, log) = (Service::of(&mock, 3, true), AttemptLog::default());
    let limit = Duration::from_millis(300);
    let error = service.ask_within(limit, false, &log).await.err();
    assert_eq!(error, Some(BackendError::Timeout(limit)));
    assert_eq!(mock.count(), 1);
    assert!(log.attempts()[0].written && !log.attempts()[0].refused);
}

#[tokio::test]
async fn a_plain_call_that_may_have_to_be_paid_is_the_last_where_one_was_reserved_for() {
    let reset = || Script::Raw(Vec::new(), End::Reset);
    for (stream, charged, calls) in [(false, true, 2), (false, false, 3), (true, true, 3)] {
        let mock = MockOpenAi::start().await;
        mock.script(status(500, &[])).script(reset()).script(Script::Words(1));
        let service = Service::reserving(options(&mock), 3, false, charged);
        let log = AttemptLog::default();
        let answered = service.ask_within(LIMIT, stream, &log).await.is_ok();
        assert_eq!((mock.count(), answered), (calls, calls == 3), "stream={stream} charged={charged}");
        let refused: Vec<_> = log.attempts().iter().map(|attempt| attempt.refused).collect();
        assert_eq!(refused[..2], [true, false], "a status is an answer, a reset is none");
    }
}

#[tokio::test]
async fn whatever_status_the_backend_answers_with_it_is_a_refusal_and_so_is_an_error_in_place_of_an_answer() {
    let in_band = r#"{"error":{"message":"x","code":502}}"#.to_owned();
    let cut = || Script::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_vec(), End::Cut);
    for (fault, refused) in [
        (status(302, &[]), true),
        (status(400, &[]), true),
        (status(408, &[]), true),
        (status(500, &[]), true),
        (status(503, &[("retry-after", "9")]), true),
        (Script::Status(200, vec![], in_band), true),
        (Script::Status(200, vec![], "not an answer".to_owned()), false),
        (cut(), false),
    ] {
        for stream in [false, true] {
            let mock = MockOpenAi::start().await;
            mock.script(fault.clone());
            let (service, log) = (Service::of(&mock, 1, false), AttemptLog::default());
            service.ask_within(LIMIT, stream, &log).await.err().unwrap();
            let seen: Vec<_> = log.attempts().iter().map(|seen| (seen.written, seen.refused)).collect();
            assert_eq!(seen, [(true, refused)], "{fault:?} stream={stream}");
        }
    }
}

#[tokio::test]
async fn a_refused_connection_is_tried_again_and_nothing_was_written() {
    let mock = MockOpenAi::start().await;
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = options(&mock);
    options.base_url = format!("http://{}/v1", nobody.local_addr().unwrap());
    drop(nobody);
    let (service, log) = (Service::new(options, 3, false), AttemptLog::default());
    let error = service.ask_within(LIMIT, false, &log).await.err().unwrap();
    assert!(matches!(error, BackendError::Unavailable(_)), "{error:?}");
    assert_eq!(log.attempts().iter().map(|attempt| attempt.written).collect::<Vec<_>>(), [false; 3]);
    assert!(service.shows("chat_backend_retries_total{reason=\"connect\"} 2"));
}

#[tokio::test]
async fn a_call_that_is_dropped_has_its_attempt_in_the_log() {
    let mock = MockOpenAi::start().await;
    mock.script(Script::silence());
    let (service, log) = (Service::of(&mock, 3, false), AttemptLog::default());
    tokio::select! {
        _ = service.ask_within(LIMIT, false, &log) => panic!("silence was answered"),
        () = mock.wait_requests(1) => {}
    }
    assert!(log.attempts().len() == 1 && log.attempts()[0].written);
    assert!(service.shows("openai_api_calls_total{model=\"asked\",status=\"cancelled\"} 1"));
}

#[tokio::test]
async fn a_wait_that_does_not_fit_is_not_waited() {
    for (retry_after, limit) in [("60", LIMIT), ("2", Duration::from_secs(1))] {
        let mock = MockOpenAi::start().await;
        mock.script(status(429, &[("retry-after", retry_after)]));
        let service = Service::of(&mock, 3, false);
        let error = service.ask_within(limit, false, &AttemptLog::default()).await.err();
        let after = Duration::from_secs(retry_after.parse().unwrap());
        assert_eq!(error, Some(BackendError::RateLimited { retry_after: Some(after) }));
        assert_eq!(mock.count(), 1);
    }
}

#[tokio::test]
async fn a_fallback_is_asked_in_its_own_words_after_the_tries_of_the_asked_model() {
    let mock = MockOpenAi::start().await;
    mock.script(status(500, &[])).script(status(500, &[])).script(Script::Words(1));
    let service = Service::of(&mock, 3, true);
    let called = service.ask().await.unwrap();
    assert_eq!(&*called.model.name, "backup");
    assert_eq!(sent(&mock), ["asked-up", "asked-up", "backup-up"]);
    let last = mock.requests().pop().unwrap();
    assert_eq!(
        std::str::from_utf8(&last.body).unwrap(),
        r#"{"model":"backup-up","messages":[],"max_tokens":5,"stream":false}"#
    );
    drop(called);
    assert!(service.shows("openai_api_calls_total{model=\"asked\",status=\"backend_unavailable\"} 2"));
    assert!(service.shows("openai_api_calls_total{model=\"backup\",status=\"cancelled\"} 1"));
}

#[tokio::test]
async fn when_nothing_helps_the_asked_models_last_error_is_told() {
    let mock = MockOpenAi::start().await;
    mock.script(status(500, &[])).script(status(502, &[])).script(status(404, &[]));
    let error = Service::of(&mock, 3, true).ask().await.err().unwrap();
    assert_eq!(error, BackendError::Unavailable("it answered with status 502".to_owned()));
    assert_eq!(sent(&mock), ["asked-up", "asked-up", "backup-up"]);
}

#[tokio::test]
async fn a_model_that_limits_requests_is_passed_over_while_it_does() {
    let mock = MockOpenAi::start().await;
    mock.script(status(429, &[("retry-after", "20")])).script(Script::Words(1)).script(Script::Words(1));
    let service = Service::of(&mock, 3, true);
    for _ in 0..2 {
        assert_eq!(&*service.ask().await.unwrap().model.name, "backup");
    }
    assert_eq!(sent(&mock), ["asked-up", "backup-up", "backup-up"]);
}

#[tokio::test]
async fn s7_a_model_that_fails_is_left_alone_and_its_fallback_is_asked_at_once() {
    let mock = MockOpenAi::start().await;
    let service = Service::of(&mock, 1, true);
    for _ in 0..5 {
        mock.script(status(500, &[]));
        service.ask().await.err().unwrap();
    }
    assert!(service.shows("chat_backend_breaker_state{model=\"asked\"} 2"));
    mock.script(Script::Words(1));
    assert_eq!(&*service.ask().await.unwrap().model.name, "backup");
    assert_eq!(sent(&mock).last().unwrap(), "backup-up");
    assert!(!service.shows("chat_backend_retries_total{reason=\"unavailable\"} 1"));
}

/// Calls at most 1.2 × requests, whatever the backend answers all of them with, and used again when it is well.
#[tokio::test]
async fn s7_an_outage_is_not_answered_with_more_calls() {
    const AT_ONCE: usize = 50;
    const ROUNDS: usize = 6;
    for fault in [status(500, &[]), status(503, &[]), status(429, &[("retry-after", "1")])] {
        let mock = MockOpenAi::start().await;
        mock.always(fault.clone());
        let service = Service::of(&mock, 3, false);
        for _ in 0..ROUNDS {
            let asked = join_all((0..AT_ONCE).map(|_| service.ask())).await;
            assert!(asked.iter().all(Result::is_err));
        }
        let (calls, requests) = (mock.count(), AT_ONCE * ROUNDS);
        assert!(calls * 10 <= requests * 12, "{fault:?}: {calls} calls for {requests} requests");

        mock.always(Script::Words(1));
        let well = Instant::now();
        while service.ask().await.is_err() {
            assert!(well.elapsed() < LIMIT, "{fault:?}: the backend is well and is not used");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
