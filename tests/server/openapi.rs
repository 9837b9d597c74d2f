//! The OpenAPI document is true: every request in it is accepted, every answer and every error in it is what comes.

use std::time::Duration;

use ::http::Method;
use chatservice::crd::BudgetPeriod;
use chatservice::server::config::{AuthConfig, BudgetConfig, RequestLimit, ServerConfig};
use chatservice::server::overload::LoadOptions;
use serde_json::{Value, json};

use crate::http::{self, Answer};
use crate::mock_openai::{MockOpenAi, Script};
use crate::openapi_schemas::{Schemas, document, event_schema, events};
use crate::redis_server::RedisServer;
use crate::server::{TestServer, echo, openai};
use crate::tokens::{Signer, accepting, claims};

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
/// Ids in the document, which a server has never given.
const CONVERSATION: &str = "9b2d3a52-4b8a-4b52-9d3e-2f6a1c8e7d10";
const RESPONSE: &str = "resp_9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a69";

/// One operation of the document.
struct Operation {
    method: Method,
    path: String,
    value: Value,
}

fn operations(document: &Value) -> Vec<Operation> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().iter().map(|(method, value)| Operation {
                method: method.to_uppercase().parse().unwrap(),
                path: path.clone(),
                value: value.clone(),
            })
        })
        .collect()
}

impl Operation {
    /// Examples of the request by name.
    fn requests(&self) -> Vec<(String, Value)> {
        examples(&self.value["requestBody"]["content"][JSON])
    }

    /// Errors: status, code, body.
    fn errors(&self) -> Vec<(u16, String, Value)> {
        let responses = self.value["responses"].as_object().unwrap().iter();
        let errors = responses.filter(|(status, _)| !status.starts_with('2'));
        errors
            .flat_map(|(status, response)| {
                let found = examples(&response["content"][JSON]);
                assert!(!found.is_empty(), "{} {}: no example of {status}", self.method, self.path);
                let status: u16 = status.parse().unwrap();
                found.into_iter().map(move |(code, body)| (status, code, body))
            })
            .collect()
    }

    /// The example of a good answer under this name.
    fn answer(&self, name: &str) -> Value {
        let content = &self.value["responses"]["200"]["content"];
        let of = |media: &str| examples(&content[media]).into_iter().find(|(found, _)| found == name);
        let found = of(JSON).or_else(|| of(EVENTS));
        found.unwrap_or_else(|| panic!("{} {}: no answer to {name}", self.method, self.path)).1
    }

    /// Why an answer does not fit its schema.
    fn misfit(&self, schemas: &Schemas, answer: &Answer) -> Option<String> {
        let content = &self.value["responses"][answer.status.as_str()]["content"];
        if answer.header("content-type") == EVENTS {
            let schema = event_schema(&self.path);
            let told = events(std::str::from_utf8(&answer.body).unwrap());
            return told.iter().find_map(|event| schemas.misfit(&schema, event));
        }
        schemas.misfit(&content[JSON]["schema"], &answer.json())
    }

    async fn send(&self, server: &TestServer, path: &str, body: &str, media: &str) -> Answer {
        self.send_as(server, path, body, media, "Bearer unused").await
    }

    async fn send_as(&self, server: &TestServer, path: &str, body: &str, media: &str, who: &str) -> Answer {
        let headers = [("content-type", media), ("authorization", who)];
        http::send(self.method.clone(), &server.at(path), &headers, body.as_bytes()).await
    }

    /// A body that is good on every server, where one is wanted.
    fn good_body(&self) -> String {
        let elsewhere = |body: &String| [CONVERSATION, RESPONSE].iter().any(|id| body.contains(id));
        let mut bodies = self.requests().into_iter().map(|(_, body)| body.to_string());
        bodies.find(|body| !elsewhere(body)).unwrap_or_default()
    }
}

fn examples(content: &Value) -> Vec<(String, Value)> {
    let examples = content["examples"].as_object().into_iter().flatten();
    examples.map(|(name, example)| (name.clone(), example["value"].clone())).collect()
}

/// What is the same in two values that differ in their texts and numbers: keys and types. Null may stand for anything.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), shape(value))).collect(),
        Value::Array(items) => Value::Array(items.first().map(shape).into_iter().collect()),
        Value::String(_) => json!("text"),
        Value::Number(_) => json!("number"),
        other => other.clone(),
    }
}

fn same_shape(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Null, _) | (_, Value::Null) | (Value::Bool(_), Value::Bool(_)) => true,
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(name, value)| other.get(name).is_some_and(|other| same_shape(value, other)))
        }
        (Value::Array(one), Value::Array(other)) => {
            one.iter().zip(other).all(|(one, other)| same_shape(one, other))
        }
        _ => shape(one) == shape(other),
    }
}

/// A backend's answer to an example.
fn scripted(operation: &Operation, name: &str) -> Script {
    match operation.path.as_str() {
        // What a backend answers is passed on as it is, so only its outer form is ours to show.
        "/v1/embeddings" => Script::Status(200, Vec::new(), operation.answer(name).to_string()),
        "/v1/chat/completions" if name != "stream" => {
            let mut answer = operation.answer(name);
            answer["id"] = json!("chatcmpl-mock");
            Script::Status(200, Vec::new(), answer.to_string())
        }
        "/v1/responses" if name == "tools" => {
            let call = json!({"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Oslo\"}"}});
            let message = json!({"role": "assistant", "content": null, "tool_calls": [call]});
            let usage = json!({"prompt_tokens": 12, "completion_tokens": 6, "total_tokens": 18});
            let answer = json!({"id": "c", "object": "chat.completion", "created": 1, "model": "mock", "usage": usage,
                "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]});
            Script::Status(200, Vec::new(), answer.to_string())
        }
        _ => Script::Words(3),
    }
}

/// Puts ids that this server has given in the place of those in the document.
async fn ids_of(server: &TestServer) -> impl Fn(&str) -> String {
    let begun = http::post(&server.at("/api/v1/chat"), &json!({"message": "Begin"})).await.json();
    let first = http::post(&server.at("/v1/responses"), &json!({"input": "Begin"})).await.json();
    move |text| {
        let text = text.replace(CONVERSATION, begun["conversation_id"].as_str().unwrap());
        text.replace(RESPONSE, first["id"].as_str().unwrap())
    }
}

#[tokio::test]
async fn a_server_accepts_every_request_of_the_document_that_it_serves() {
    let server = TestServer::start(echo()).await;
    let document = http::get(&server.at("/openapi.json")).await.json();
    let known = ids_of(&server).await;
    let (mut sent, mut wrong) = (0, Vec::new());
    for operation in operations(&document) {
        for (name, request) in operation.requests() {
            let body = known(&request.to_string());
            let answer = operation.send(&server, &operation.path, &body, JSON).await;
            sent += 1;
            if answer.status != 200 {
                wrong.push(format!("{} {name}: {} {:?}", operation.path, answer.status, answer.body));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(sent > 15, "{sent}");
}

#[tokio::test]
async fn every_request_of_the_document_is_accepted_and_answered_as_it_shows() {
    let mock = MockOpenAi::start().await;
    let server = TestServer::start(openai(&mock.base_url())).await;
    mock.script(Script::Words(3)).script(Script::Words(3));
    let known = ids_of(&server).await;
    let schemas = Schemas::closed();
    let (mut sent, mut wrong) = (0, Vec::new());
    for operation in operations(&document()) {
        let (method, path) = (&operation.method, &operation.path);
        if method == Method::DELETE {
            continue;
        }
        let id = if path.starts_with("/v1") { RESPONSE } else { CONVERSATION };
        let place = known(&path.replace("{id}", id).replace("{model}", "gpt-4o-mini"));
        let requests = match method.as_str() {
            "GET" => vec![("answer".to_owned(), Value::Null)],
            _ => operation.requests(),
        };
        assert!(!requests.is_empty(), "{method} {path} shows no request");
        for (name, request) in requests {
            let body = if request.is_null() { String::new() } else { known(&request.to_string()) };
            if method == Method::POST {
                mock.script(scripted(&operation, &name));
            }
            let answer = operation.send(&server, &place, &body, JSON).await;
            sent += 1;
            if answer.status != 200 {
                wrong.push(format!("{method} {path} {name}: {:?}", answer.body));
                continue;
            }
            let misfit = operation.misfit(&schemas, &answer);
            wrong.extend(misfit.map(|misfit| format!("{method} {path} {name} does not fit: {misfit}")));
            let shown = operation.answer(&name);
            if let Some(text) = shown.as_str() {
                assert_eq!(answer.header("content-type"), EVENTS);
                let (came, shown) = (events(std::str::from_utf8(&answer.body).unwrap()), events(text));
                let strange = shown.iter().filter(|shown| !came.iter().any(|came| same_shape(shown, came)));
                wrong.extend(strange.map(|event| format!("{path} {name}: {event} is not among {came:?}")));
            } else if !same_shape(&answer.json(), &shown) {
                wrong.push(format!("{method} {path} {name}\ncame:  {}\nshown: {shown}", answer.json()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(sent > 15, "{sent}");
    for operation in operations(&document()).iter().filter(|operation| operation.method == Method::DELETE) {
        let id = if operation.path.starts_with("/v1") { RESPONSE } else { CONVERSATION };
        let answer = operation.send(&server, &known(&operation.path.replace("{id}", id)), "", JSON).await;
        match answer.status.as_u16() {
            204 => assert!(operation.value["responses"]["204"].is_object()),
            status => {
                assert_eq!(status, 200);
                assert!(same_shape(&answer.json(), &operation.answer("answer")), "{}", answer.json());
                assert_eq!(operation.misfit(&schemas, &answer), None);
            }
        }
    }
}

/// Servers on which things go wrong, each made once.
struct Faults {
    mock: MockOpenAi,
    plain: TestServer,
    limited: TestServer,
    spent: TestServer,
    full: TestServer,
    impatient: TestServer,
    /// That lets in one ServiceAccount.
    closed: TestServer,
    /// The token of another.
    stranger: String,
    /// With a store that is away; None where there is no Redis.
    bereft: Option<TestServer>,
}

impl Faults {
    async fn start() -> Self {
        let mock = MockOpenAi::start().await;
        let with = |change: fn(&mut ServerConfig)| {
            let mut config = openai(&mock.base_url());
            config.dynamic.max_attempts = 1;
            change(&mut config);
            config
        };
        let plain = TestServer::start(with(|_| {})).await;
        let limited = with(|config| {
            config.dynamic.limits.requests =
                Some(RequestLimit { requests: 1, period_seconds: 3600, burst: 1 });
        });
        let limited = TestServer::start(limited).await;
        mock.script(Script::Words(1));
        assert_eq!(
            http::post(&limited.at("/api/v1/chat"), &json!({"message": "The only one"})).await.status,
            200
        );
        let spent = TestServer::start(with(|config| {
            config.dynamic.models[0].max_output_tokens = Some(16384);
            config.dynamic.budget = Some(BudgetConfig {
                amount_nano_usd: 1,
                period: BudgetPeriod::Month,
                per: chatservice::crd::Per::Service,
            });
        }));
        let full = TestServer::start_as(with(|_| {}), |options| {
            options.load = LoadOptions { permits: 0, wait: Duration::ZERO, ..options.load };
        });
        let impatient = TestServer::start(with(|config| {
            config.dynamic.timeouts.request_ms = 300;
            config.dynamic.timeouts.first_token_ms = 300;
        }));
        let signer = Signer::new("ES256");
        let stranger = signer.token("k1", &claims("shop", "web"));
        let mut closed = with(|_| {});
        let accounts = accepting(&["shop/app"], vec![signer.public("k1")]);
        closed.dynamic.auth = Some(AuthConfig { service_accounts: Some(accounts), callers: Vec::new() });
        let closed = TestServer::start(closed).await;
        let bereft = match RedisServer::start().await {
            Some(mut redis) => {
                let server = TestServer::start_on_redis(with(|_| {}), &redis.url()).await;
                redis.kill();
                Some(server)
            }
            None => None,
        };
        let (spent, full, impatient) = (spent.await, full.await, impatient.await);
        Self { mock, plain, limited, spent, full, impatient, closed, stranger, bereft }
    }

    /// Makes this error happen; None where this machine cannot.
    async fn provoke(&self, operation: &Operation, code: &str) -> Option<Answer> {
        let good = operation.good_body();
        let path = operation.path.replace("{id}", "nobody-s").replace("{model}", "no-such-model");
        let refused = |status, code: &str| {
            self.mock.script(Script::Status(
                status,
                Vec::new(),
                json!({"error": {"message": "m", "code": code}}).to_string(),
            ));
        };
        let with = |name: &str, value: &str| {
            let mut body: Value = serde_json::from_str(&good).unwrap();
            body[name] = json!(value);
            body.to_string()
        };
        let (mut server, mut body, mut media, mut place) = (&self.plain, good.clone(), JSON, path.clone());
        match code {
            "invalid_json" => body = String::from("{"),
            "validation_error" | "invalid_value" if operation.method == Method::POST => {
                body = String::from("{}");
            }
            "invalid_value" => place = path + "?limit=0",
            "unsupported_parameter" => body = with("background", "yes"),
            "model_not_found" if operation.method == Method::POST => body = with("model", "no-such-model"),
            "conversation_not_found" if operation.method == Method::POST => {
                body = with("conversation_id", CONVERSATION);
            }
            "model_not_found" | "response_not_found" | "conversation_not_found" => {}
            "previous_response_not_found" => body = with("previous_response_id", RESPONSE),
            "item_not_found" => {
                let item =
                    json!({"type": "item_reference", "id": "msg_9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a690001"});
                body = json!({"input": [item]}).to_string();
            }
            "invalid_api_key" => {
                let headers = [("content-type", JSON)];
                let url = self.closed.at(&path);
                return Some(http::send(operation.method.clone(), &url, &headers, good.as_bytes()).await);
            }
            "caller_not_allowed" => {
                let token = format!("Bearer {}", self.stranger);
                return Some(operation.send_as(&self.closed, &path, &good, JSON, &token).await);
            }
            "payload_too_large" => body = " ".repeat((16 << 20) + 1),
            "unsupported_media_type" => media = "text/plain",
            "rate_limit_exceeded" => server = &self.limited,
            "insufficient_quota" => server = &self.spent,
            "overloaded" => server = &self.full,
            "store_unavailable" => {
                server = self.bereft.as_ref()?;
                place = operation
                    .path
                    .replace("{id}", if operation.path.starts_with("/v1") { RESPONSE } else { CONVERSATION });
            }
            // The same table; but a server that is not ready yet cannot be waited for.
            "not_ready" => return None,
            "conflict" | "backend_rejected" => {
                let error = json!({"message": "another request is at work on this", "type": "invalid_request_error", "param": null,
                    "code": "conflict"});
                self.mock.script(Script::Status(409, Vec::new(), json!({"error": error}).to_string()));
            }
            "backend_auth_failed" => refused(401, "invalid_api_key"),
            "backend_quota_exhausted" => refused(429, "insufficient_quota"),
            "backend_unavailable" => refused(500, "none"),
            "backend_invalid_response" => {
                self.mock.script(Script::Status(200, Vec::new(), "[]".to_owned()));
            }
            "backend_timeout" => {
                self.mock.script(Script::silence());
                server = &self.impatient;
            }
            other => panic!("{} {}: nobody knows how to provoke {other}", operation.method, operation.path),
        }
        Some(operation.send(server, &place, &body, media).await)
    }
}

/// Parts of messages that are of the moment: seconds, amounts, the deadline.
const OF_THE_MOMENT: [&str; 5] = [
    "rate_limit_exceeded",
    "insufficient_quota",
    "overloaded",
    "backend_timeout",
    "backend_invalid_response",
];

#[tokio::test]
async fn every_error_of_the_document_is_what_comes() {
    let faults = Box::pin(Faults::start()).await;
    let schemas = Schemas::closed();
    let (mut met, mut wrong) = (0, Vec::new());
    for operation in operations(&document()) {
        for (status, code, shown) in operation.errors() {
            let Some(answer) = faults.provoke(&operation, &code).await else { continue };
            let came = answer.json();
            let code_of =
                |body: &Value| body["error"]["code"].as_str().or(body["error"].as_str()).map(str::to_owned);
            let alike = || same_shape(&came, &shown) && code_of(&came) == code_of(&shown);
            let right = if OF_THE_MOMENT.contains(&code.as_str()) { alike() } else { came == shown };
            if answer.status != status || !right {
                let (method, path) = (&operation.method, &operation.path);
                wrong.push(format!(
                    "{method} {path} {code}: {}\ncame:  {came}\nshown: {shown}",
                    answer.status
                ));
            }
            let misfit = operation.misfit(&schemas, &answer);
            wrong.extend(misfit.map(|misfit| format!("{} {code} does not fit: {misfit}", operation.path)));
            met += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(met > 40, "{met}");
}

#[test]
fn the_page_of_errors_has_every_error_of_the_document() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md")).unwrap();
    for operation in operations(&document()) {
        for (status, code, _) in operation.errors() {
            // A backend's own words have no row each.
            let row = if ["conflict", "backend_rejected"].contains(&code.as_str()) {
                page.lines().any(|line| line.starts_with("| 400, 404, 409, 413, 422 | the same status"))
            } else {
                let (status, code) = (status.to_string(), format!("`{code}`"));
                page.lines()
                    .any(|line| line.starts_with('|') && line.contains(&status) && line.contains(&code))
            };
            assert!(row, "docs/errors.md has no row of {status} {code}");
        }
    }
}
