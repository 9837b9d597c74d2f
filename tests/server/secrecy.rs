//! What people say and what opens doors never reaches a log, a metric or the status, whatever goes wrong.

use std::process::Stdio;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{ChildStderr, Command};

use crate::http;
use crate::mock_openai::{End, MockOpenAi, Script, event};

const KEY: &str = "sk-canary-key";
/// What callers prove themselves with: a good key, a wrong one, a token.
const CALLER_KEY: &str = "sk-canary-of-a-caller";
const WRONG_KEY: &str = "sk-canary-of-nobody";
const TOKEN: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImNhbmFyeSJ9.eyJzdWIiOiJjYW5hcnkifQ.Y2FuYXJ5";
const PROMPT: &str = "canary-prompt";
const ANSWER: &str = "canary-answer";

/// The lines of the log until one holds `word`.
async fn log_until(lines: &mut Lines<BufReader<ChildStderr>>, word: &str) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let next = tokio::time::timeout(http::DEADLINE, lines.next_line()).await;
        let line = next
            .unwrap_or_else(|_| panic!("{word} is not logged: {seen:?}"))
            .unwrap()
            .expect("a running server");
        let found = line.contains(word);
        seen.push(line);
        if found {
            return seen;
        }
    }
}

fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn canaries_reach_neither_log_nor_metrics_nor_status() {
    let mock = MockOpenAi::start().await;
    let (address, admin) = (free_address(), free_address());
    let file = tempfile::NamedTempFile::new().unwrap();
    let service = format!(
        "apiVersion: chatservice.dev/v1alpha1\nkind: ChatService\nmetadata: {{name: canary}}\nspec:\n  model: gpt-4o-mini\n  \
         logging: {{level: debug}}\n  auth: {{apiKeysSecretRef: {{name: keys}}, callers: [{{name: app}}]}}\n  backend: {{openai: {{baseURL: '{}', credentialsSecretRef: {{name: key}}}}}}\n",
        mock.base_url()
    );
    std::fs::write(file.path(), service).unwrap();
    let mut server = Command::new(env!("CARGO_BIN_EXE_chatservice"))
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
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
    let deadline = tokio::time::Instant::now() + http::DEADLINE;
    while tokio::net::TcpStream::connect(&address).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the server does not listen");
        tokio::task::yield_now().await;
    }
    let quoting = json!({"error": {"message": format!("you said {PROMPT} with {KEY}"), "type": "invalid_request_error"}});
    let word =
        json!({"choices": [{"index": 0, "delta": {"content": ANSWER}, "finish_reason": null}]}).to_string();
    let scripts = [
        Script::Words(3),
        Script::Status(400, Vec::new(), quoting.to_string()),
        Script::Status(401, Vec::new(), quoting.to_string()),
        Script::Status(500, Vec::new(), quoting.to_string()),
        Script::Status(200, Vec::new(), format!("not json {ANSWER}")),
        Script::Events(vec![crate::mock_openai::Piece::Send(event(&word))], End::Cut),
        Script::stream_with(1, event(&format!("{{{ANSWER}"))),
        Script::cut_stream(0, End::Reset),
    ];
    let mut log = Vec::new();
    for (index, script) in scripts.into_iter().enumerate() {
        let stream = matches!(script, Script::Events(..));
        mock.script(script);
        let url = format!("http://{address}/v1/chat/completions");
        let body = json!({"messages": [{"role": "user", "content": PROMPT}], "stream": stream}).to_string();
        let id = format!("request-{index}");
        let bearer = format!("Bearer {CALLER_KEY}");
        let headers = [
            ("content-type", "application/json"),
            ("x-request-id", id.as_str()),
            ("authorization", bearer.as_str()),
        ];
        let answer = http::send(::http::Method::POST, &url, &headers, body.as_bytes()).await;
        assert!(!String::from_utf8_lossy(&answer.body).contains(KEY), "the caller sees the key: {answer:?}");
        log.extend(log_until(&mut lines, &id).await);
    }
    for broken in [format!("{{\"{PROMPT}"), format!("{{\"messages\": \"{PROMPT}\"}}")] {
        let bearer = format!("Bearer {CALLER_KEY}");
        let headers =
            [("content-type", "application/json"), ("x-request-id", "bad-input"), ("authorization", &bearer)];
        let url = format!("http://{address}/v1/chat/completions");
        http::send(::http::Method::POST, &url, &headers, broken.as_bytes()).await;
        log.extend(log_until(&mut lines, "bad-input").await);
    }
    for (credential, id) in [(WRONG_KEY, "wrong-key"), (TOKEN, "forged-token"), (CALLER_KEY, "two-keys")] {
        let bearer = format!("Bearer {credential}");
        let mut headers =
            vec![("content-type", "application/json"), ("x-request-id", id), ("authorization", &bearer)];
        if credential == CALLER_KEY {
            headers.push(("authorization", &bearer));
        }
        let url = format!("http://{address}/v1/chat/completions?api_key={CALLER_KEY}&token={TOKEN}");
        let refused = http::send(::http::Method::POST, &url, &headers, b"{}").await;
        assert_eq!(refused.status, 401, "{id}");
        log.push(String::from_utf8_lossy(&refused.body).into_owned());
        log.extend(log_until(&mut lines, id).await);
    }
    for path in ["/metrics", "/status"] {
        let page = http::get(&format!("http://{admin}{path}")).await;
        assert_eq!(page.status, 200);
        log.push(String::from_utf8_lossy(&page.body).into_owned());
    }
    let all = log.join("\n");
    for canary in [KEY, CALLER_KEY, WRONG_KEY, TOKEN, PROMPT, ANSWER] {
        assert!(!all.contains(canary), "{canary} is in\n{all}");
    }
}
