//! Traces: what an OTLP receiver gets of requests and of the calls made for them.

use ::http::Method;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::{Value, json};

use crate::http;
use crate::mock_openai::{MockOpenAi, Script};
use crate::otlp::{Otlp, Span};
use crate::server::{TestServer, echo, openai};

/// A trace that a caller is in.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
/// In prompts and answers: in no span.
const CANARY: &str = "canary-prompt";

struct Traced {
    otlp: Otlp,
    mock: MockOpenAi,
    server: TestServer,
}

impl Traced {
    async fn start(scripts: &[Script]) -> Self {
        let (otlp, mock) = (Otlp::start().await, MockOpenAi::start().await);
        for script in scripts {
            mock.script(script.clone());
        }
        let mut config = openai(&mock.base_url());
        config.fixed.otlp_endpoint = Some(otlp.endpoint());
        config.dynamic.max_attempts = 2;
        let server = TestServer::start(config).await;
        Self { otlp, mock, server }
    }

    async fn ask(&self, stream: bool, headers: &[(&str, &str)]) -> http::Answer {
        let body =
            json!({ "stream": stream, "messages": [{ "role": "user", "content": CANARY }] }).to_string();
        let headers = [&[("content-type", "application/json")], headers].concat();
        http::send(Method::POST, &self.server.at("/v1/chat/completions"), &headers, body.as_bytes()).await
    }
}

fn of_kind(spans: &[Span], kind: SpanKind) -> Vec<&Span> {
    spans.iter().filter(|span| span.kind == kind).collect()
}

#[track_caller]
fn assert_has(span: &Span, attributes: &[(&str, &str)]) {
    for (name, value) in attributes {
        assert_eq!(span.attributes.get(*name).map(String::as_str), Some(*value), "{name} of {span:#?}");
    }
}

const ANSWERED: [(&str, &str); 6] = [
    ("gen_ai.operation.name", "chat"),
    ("gen_ai.provider.name", "openai"),
    ("gen_ai.request.model", "gpt-4o-mini"),
    ("gen_ai.response.model", "gpt-4o-mini"),
    ("gen_ai.usage.output_tokens", "3"),
    ("gen_ai.response.finish_reasons", "stop"),
];

#[tokio::test]
async fn a_request_and_its_call_are_spans_of_the_callers_trace() {
    for stream in [false, true] {
        let traced = Traced::start(&[Script::Words(3)]).await;
        let parent = format!("00-{TRACE}-{PARENT}-01");
        assert_eq!(traced.ask(stream, &[("traceparent", &parent)]).await.status, 200);
        let spans = traced.otlp.trace_of(2).await;
        let (server, client) = (of_kind(&spans, SpanKind::Server)[0], of_kind(&spans, SpanKind::Client)[0]);
        assert_eq!(
            (server.name.as_str(), client.name.as_str()),
            ("POST /v1/chat/completions", "chat gpt-4o-mini")
        );
        assert_eq!((server.trace.as_str(), server.parent.as_str()), (TRACE, PARENT));
        assert_eq!((client.trace.as_str(), &client.parent), (TRACE, &server.id));
        assert_has(
            server,
            &[
                ("http.request.method", "POST"),
                ("http.route", "/v1/chat/completions"),
                ("http.response.status_code", "200"),
            ],
        );
        for span in [server, client] {
            assert_has(span, &ANSWERED);
            assert!(!span.failed && !span.attributes.contains_key("error.type"), "{span:#?}");
        }
        let sent = traced.mock.requests()[0].headers.clone();
        let sent = sent.iter().find(|(name, _)| name.eq_ignore_ascii_case("traceparent"));
        assert_eq!(
            sent.map(|(_, value)| value.as_str()),
            Some(format!("00-{TRACE}-{}-01", client.id).as_str())
        );
        let resource = traced.otlp.resource();
        assert_eq!(
            (resource["service.name"].as_str(), resource["service.namespace"].as_str()),
            ("demo", "test")
        );
        let all = format!("{:?}", traced.otlp.spans());
        assert!(!all.contains(CANARY) && !all.contains("word0"), "{all}");
    }
}

#[tokio::test]
async fn each_failed_try_is_a_span_with_its_error() {
    let refused = || Script::Status(500, vec![], json!({ "error": { "message": CANARY } }).to_string());
    let traced = Traced::start(&[refused(), refused()]).await;
    assert_eq!(traced.ask(false, &[]).await.status, 503);
    let spans = traced.otlp.trace_of(3).await;
    let (servers, clients) = (of_kind(&spans, SpanKind::Server), of_kind(&spans, SpanKind::Client));
    assert_eq!((servers.len(), clients.len()), (1, 2));
    assert_has(servers[0], &[("http.response.status_code", "503"), ("gen_ai.request.model", "gpt-4o-mini")]);
    assert!(servers[0].parent.is_empty(), "a trace of its own");
    for span in &spans {
        assert!(span.failed && span.attributes.contains_key("error.type"), "{span:#?}");
    }
    assert!(!format!("{spans:?}").contains(CANARY));
}

#[tokio::test]
async fn a_callers_mistake_and_an_unsampled_trace() {
    let traced = Traced::start(&[Script::Words(1)]).await;
    // Not sampled by who began it: nothing is exported, and the backend is told the same.
    let parent = format!("00-{TRACE}-{PARENT}-00");
    assert_eq!(traced.ask(false, &[("traceparent", &parent)]).await.status, 200);
    let sent = traced.mock.requests()[0].headers.clone();
    let sent = sent.iter().find(|(name, _)| name.eq_ignore_ascii_case("traceparent")).unwrap();
    assert!(sent.1.starts_with(&format!("00-{TRACE}-")) && sent.1.ends_with("-00"), "{sent:?}");
    let nonsense: Value = json!({ "messages": 1 });
    assert_eq!(http::post(&traced.server.at("/v1/chat/completions"), &nonsense).await.status, 400);
    let spans = traced.otlp.trace_of(1).await;
    assert_has(&spans[0], &[("http.response.status_code", "400")]);
    assert!(!spans[0].failed && spans[0].attributes.contains_key("error.type"), "{spans:#?}");
    assert_eq!(traced.otlp.spans().len(), 1);
}

#[tokio::test]
async fn what_waits_is_delivered_at_the_end() {
    let otlp = Otlp::start().await;
    let mut config = echo();
    config.fixed.otlp_endpoint = Some(otlp.endpoint());
    let server = TestServer::start(config).await;
    assert_eq!(http::post(&server.at("/api/v1/chat"), &json!({ "message": "Hello" })).await.status, 200);
    server.stop().await;
    let spans = otlp.spans();
    assert_eq!(spans.len(), 2, "{spans:#?}");
    assert!(spans.iter().all(|span| span.attributes["gen_ai.provider.name"] == "echo"), "{spans:#?}");
}

#[tokio::test]
async fn a_receiver_that_never_answers_slows_nothing_down() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = echo();
    config.fixed.otlp_endpoint = Some(format!("http://{}", silent.local_addr().unwrap()));
    let server = TestServer::start(config).await;
    // More than the queue holds: what does not fit is dropped.
    for _ in 0..2100 {
        let answer = http::get(&server.at("/health")).await;
        assert_eq!(answer.status, 200);
    }
    server.stop().await;
}
