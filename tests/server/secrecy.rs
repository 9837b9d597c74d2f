//! What people say and what opens doors never reaches a log, a metric, a trace or the status, whatever goes wrong, by whatever
//! route it comes.

use std::process::Stdio;

use ::http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use crate::http::{self, Answer};
use crate::mock_openai::{End, MockOpenAi, Piece, Script, event};
use crate::otlp::Otlp;

const KEY: &str = "sk-canary-key";
/// What callers prove themselves with: a good key, a wrong one, a token.
const CALLER_KEY: &str = "sk-canary-of-a-caller";
const WRONG_KEY: &str = "sk-canary-of-nobody";
const TOKEN: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImNhbmFyeSJ9.eyJzdWIiOiJjYW5hcnkifQ.Y2FuYXJ5";
const PROMPT: &str = "canary-prompt";
const ANSWER: &str = "canary-answer";

/// A server in a process of its own, with all that it tells.
struct Watched {
    address: String,
    admin: String,
    mock: MockOpenAi,
    otlp: Otlp,
    lines: Lines<BufReader<ChildStderr>>,
    log: Vec<String>,
    /// Requests that were sent and ended.
    asked: usize,
    _child: Child,
    _file: tempfile::NamedTempFile,
}

fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

impl Watched {
    async fn start() -> Self {
        let (mock, otlp) = (MockOpenAi::start().await, Otlp::start().await);
        let (address, admin) = (free_address(), free_address());
        let file = tempfile::NamedTempFile::new().unwrap();
        let service = json!({
            "apiVersion": "chatservice.dev/v1alpha1", "kind": "ChatService", "metadata": {"name": "canary"},
            "spec": {
                "model": "gpt-4o-mini", "logging": {"level": "debug"}, "retries": {"maxAttempts": 1}, "cache": {"ttl": "1h"},
                "auth": {"apiKeysSecretRef": {"name": "keys"}, "callers": [{"name": "app"}]},
                "backend": {"openai": {"baseURL": mock.base_url(), "credentialsSecretRef": {"name": "key"}}},
                "telemetry": {"otlpEndpoint": otlp.endpoint()},
            },
        });
        std::fs::write(file.path(), service.to_string()).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_chatservice"))
            .args(["local", "--address", &address, "--admin-address", &admin, "-f"])
            .arg(file.path())
            .env_clear()
            .env("OPENAI_API_KEY", KEY)
            .env("CHATSERVICE_API_KEYS", format!("app={CALLER_KEY}"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let deadline = tokio::time::Instant::now() + http::DEADLINE;
        while tokio::net::TcpStream::connect(&address).await.is_err() {
            assert!(tokio::time::Instant::now() < deadline, "the server does not listen");
            tokio::task::yield_now().await;
        }
        Self { address, admin, mock, otlp, lines, log: Vec::new(), asked: 0, _child: child, _file: file }
    }

    /// Takes in the log until it speaks of this request.
    async fn log_until(&mut self, id: &str) {
        loop {
            let next = tokio::time::timeout(http::DEADLINE, self.lines.next_line()).await;
            let next = next.unwrap_or_else(|_| panic!("{id} is not logged: {:?}", self.log));
            let line = next.unwrap().expect("a running server");
            let found = line.contains(id);
            self.log.push(line);
            if found {
                return;
            }
        }
    }

    /// Asks as this caller, and waits until that is logged.
    async fn ask(&mut self, path: &str, body: &str, credentials: &[&str]) -> Answer {
        self.asked += 1;
        let id = format!("request-{}-end", self.asked);
        let bearers: Vec<String> =
            credentials.iter().map(|credential| format!("Bearer {credential}")).collect();
        let mut headers = vec![("content-type", "application/json"), ("x-request-id", id.as_str())];
        headers.extend(bearers.iter().map(|bearer| ("authorization", bearer.as_str())));
        let url = format!("http://{}{path}", self.address);
        let answer = http::send(Method::POST, &url, &headers, body.as_bytes()).await;
        self.log_until(&id).await;
        answer
    }

    /// Everything that it has told: log, metrics, status, and the spans of all requests.
    async fn told(self) -> String {
        let mut told = self.log;
        for path in ["/metrics", "/status"] {
            let page = http::get(&format!("http://{}{path}", self.admin)).await;
            assert_eq!(page.status, 200);
            told.push(String::from_utf8_lossy(&page.body).into_owned());
        }
        let deadline = tokio::time::Instant::now() + http::DEADLINE;
        let served = |otlp: &Otlp| otlp.spans().iter().filter(|span| span.name.starts_with("POST ")).count();
        while served(&self.otlp) < self.asked {
            assert!(tokio::time::Instant::now() < deadline, "{} of {}", served(&self.otlp), self.asked);
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        told.push(format!("{:?} {:?}", self.otlp.resource(), self.otlp.spans()));
        told.join("\n")
    }
}

fn assert_silent(told: &str) {
    for canary in [KEY, CALLER_KEY, WRONG_KEY, TOKEN, PROMPT, ANSWER] {
        assert!(!told.contains(canary), "{canary} is in\n{told}");
    }
}

/// A route that takes text, with a request that has a canary wherever it takes one.
struct Route {
    path: &'static str,
    body: Value,
    stream: bool,
}

fn routes() -> Vec<Route> {
    let tool = json!({"type": "function", "function": {"name": "f", "description": PROMPT}});
    let chat = json!({"messages": [{"role": "system", "content": PROMPT}, {"role": "user", "content": [
        {"type": "text", "text": PROMPT}, {"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{PROMPT}")}}]}],
        "user": PROMPT, "metadata": {"note": PROMPT}, "stop": [PROMPT], "tools": [tool]});
    let simple = json!({"message": PROMPT, "system_prompt": PROMPT});
    let response = json!({"instructions": PROMPT, "metadata": {"note": PROMPT}, "user": PROMPT, "input": [
        {"role": "user", "content": PROMPT}, {"type": "function_call", "call_id": PROMPT, "name": PROMPT, "arguments": PROMPT},
        {"type": "function_call_output", "call_id": PROMPT, "output": PROMPT}]});
    let embedding = json!({"input": [PROMPT, PROMPT], "user": PROMPT});
    let mut routes = Vec::new();
    for (path, body) in
        [("/v1/chat/completions", chat), ("/api/v1/chat", simple.clone()), ("/v1/responses", response)]
    {
        for stream in [false, true] {
            let mut body = body.clone();
            body["stream"] = json!(stream);
            routes.push(Route { path, body, stream });
        }
    }
    routes.push(Route { path: "/api/v1/chat/stream", body: simple, stream: true });
    routes.push(Route { path: "/v1/embeddings", body: embedding, stream: false });
    routes
}

fn chunk(delta: &Value, finish_reason: Option<&str>) -> Piece {
    let choice = json!({"index": 0, "delta": delta, "finish_reason": finish_reason});
    Piece::Send(event(&json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}).to_string()))
}

impl Route {
    /// A good answer, which holds a canary but for vectors.
    fn good(&self) -> Script {
        if self.stream {
            let text = chunk(&json!({"role": "assistant", "content": ANSWER}), None);
            let pieces = vec![text, chunk(&json!({}), Some("stop")), Piece::Send(event("[DONE]"))];
            return Script::Events(pieces, End::Clean);
        }
        let answer = if self.path == "/v1/embeddings" {
            let data = json!([{"object": "embedding", "index": 0, "embedding": [0.5]}]);
            json!({"object": "list", "data": data, "model": ANSWER, "usage": {"prompt_tokens": 2, "total_tokens": 2}})
        } else {
            let message = json!({"role": "assistant", "content": ANSWER});
            json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
        };
        Script::Status(200, Vec::new(), answer.to_string())
    }

    /// Everything that goes wrong behind it. Between the faults all is well, or the breaker would open.
    fn scripts(&self) -> Vec<Script> {
        let quoting = json!({"error": {"message": format!("you said {PROMPT} with {KEY}"), "type": PROMPT, "code": PROMPT,
            "param": PROMPT}});
        let refused = |status| Script::Status(status, Vec::new(), quoting.to_string());
        let mut scripts = vec![
            self.good(),
            refused(400),
            refused(401),
            refused(409),
            refused(429),
            self.good(),
            refused(500),
        ];
        let object = json!({"error": {"message": ANSWER, "code": ANSWER}});
        if self.stream {
            let word = chunk(&json!({"content": ANSWER}), None);
            scripts.extend([
                Script::Events(vec![word.clone()], End::Cut),
                self.good(),
                Script::Events(vec![word, Piece::Send(event(&object.to_string()))], End::Clean),
                Script::stream_with(1, event(&format!("{{{ANSWER}"))),
                self.good(),
                Script::cut_stream(0, End::Reset),
            ]);
        } else {
            scripts.extend([
                Script::Status(200, Vec::new(), format!("not json {ANSWER}")),
                self.good(),
                Script::Status(200, Vec::new(), object.to_string()),
            ]);
        }
        scripts
    }

    /// Requests that are refused before anybody is asked: broken, with a canary as a name, and as a value of a wrong type.
    fn broken(&self) -> Vec<String> {
        let mut named = self.body.clone();
        named[PROMPT] = json!({"type": PROMPT});
        named["model"] = json!([PROMPT]);
        let text = ["messages", "message", "input"].into_iter().find(|text| self.body.get(*text).is_some());
        let mut typed = self.body.clone();
        typed[text.unwrap()] = json!({"content": PROMPT});
        vec![
            format!("{{\"{PROMPT}"),
            format!("{{\"{PROMPT}\": 1, \"{PROMPT}\": 2}}"),
            named.to_string(),
            typed.to_string(),
        ]
    }
}

#[tokio::test]
async fn canaries_reach_neither_log_nor_metrics_nor_traces_nor_status_by_any_route() {
    for route in routes() {
        let mut watched = Watched::start().await;
        let scripts = route.scripts();
        for (index, script) in scripts.iter().enumerate() {
            watched.mock.script(script.clone());
            // Each another question, or the cache would answer it.
            let mut body = route.body.clone();
            body["temperature"] = json!(f64::from(u32::try_from(index).unwrap()) / 100.0);
            let answer = watched.ask(route.path, &body.to_string(), &[CALLER_KEY]).await;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(!text.contains(KEY), "the caller sees the key: {text}");
            if index == 0 {
                assert_eq!(answer.status, 200, "{} {text}", route.path);
                assert!(text.contains(ANSWER), "{}: {text}", route.path);
            }
        }
        assert_eq!(watched.mock.count(), scripts.len(), "{}: every fault was met", route.path);
        assert!(String::from_utf8_lossy(&watched.mock.requests()[0].body).contains(PROMPT), "{}", route.path);
        for broken in route.broken() {
            let answer = watched.ask(route.path, &broken, &[CALLER_KEY]).await;
            assert!([400, 422].contains(&answer.status.as_u16()), "{} {broken}: {answer:?}", route.path);
        }
        assert_silent(&watched.told().await);
    }
}

#[tokio::test]
async fn what_callers_prove_themselves_with_is_told_nowhere() {
    let mut watched = Watched::start().await;
    let path = format!("/v1/chat/completions?api_key={CALLER_KEY}&token={TOKEN}");
    for credentials in [&[WRONG_KEY][..], &[TOKEN], &[CALLER_KEY, CALLER_KEY]] {
        let refused = watched.ask(&path, "{}", credentials).await;
        assert_eq!(refused.status, 401, "{credentials:?}");
        watched.log.push(String::from_utf8_lossy(&refused.body).into_owned());
    }
    assert_silent(&watched.told().await);
}
