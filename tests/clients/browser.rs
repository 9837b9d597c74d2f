//! The pages for people in a headless Chromium: what is done by hand, by keyboard, on a phone, and what a screen reader and
//! the rules of axe-core find. In: a server, scripts of its backend. Out: nothing, when all is well. The cases are in
//! `browser/cases.mjs`.

use std::path::Path;
use std::process::Stdio;

use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use crate::Rig;
use crate::mock_openai::{End, Piece, Script, event, whole_stream};
use crate::programs::{NodeScripts, found};

/// Everything of a case, on a machine that does much else.
const DEADLINE: std::time::Duration = std::time::Duration::from_mins(3);

/// A service with what the page shows: two models and limits.
async fn rig() -> Rig {
    Rig::with(SPEC).await
}

const SPEC: &str = "models: [{name: gpt-4o-mini}, {name: gpt-4.1-nano}], retries: {maxAttempts: 1}, \
    rateLimits: {requestsPerMinute: 600, burst: 100, tokensPerMinute: 100000}";

/// Runs a case. A line "gate" of it opens the backend's.
async fn passes(case: &str, rig: &Rig) {
    let Some(scripts) = scripts() else { return };
    let mut command = scripts.command("cases.mjs");
    command.args([case, rig.url()]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut errors = child.stderr.take().unwrap();
    let wrong = tokio::time::timeout(DEADLINE, async {
        while let Some(line) = lines.next_line().await.unwrap() {
            assert_eq!(line, "gate", "a case says nothing else");
            rig.mock.open_gate();
        }
        let mut wrong = String::new();
        errors.read_to_string(&mut wrong).await.unwrap();
        wrong
    });
    let wrong = wrong.await.unwrap_or_else(|_| panic!("{case} did not end within {DEADLINE:?}"));
    assert!(child.wait().await.unwrap().success(), "{wrong}");
}

fn scripts() -> Option<NodeScripts> {
    let chromium = found(Path::new("/usr/bin/chromium").exists(), "chromium");
    NodeScripts::of("tests/clients/browser").filter(|_| chromium)
}

/// A stream that waits after two words.
fn halting() -> Script {
    let mut pieces: Vec<Piece> = whole_stream(3, true).into_iter().map(Piece::Send).collect();
    pieces.insert(3, Piece::Gate);
    Script::Events(pieces, End::Clean)
}

/// A stream of this text in one piece.
fn saying(text: &str) -> Script {
    let mut pieces: Vec<Bytes> = whole_stream(0, true);
    let chunk = json!({"id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "mock",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]});
    pieces.insert(1, event(&chunk.to_string()));
    Script::Events(pieces.into_iter().map(Piece::Send).collect(), End::Clean)
}

const CODE: &str = "\
Look:

```html
<b>not bold</b>
  indented
```

and `x < 1` <script>alert(1)</script>

## A heading

1. **strong** and *so so*
   - nested
2. second
> quoted

| a | b |
|---|---|
| 1 < 2 | snake_case * 2 |

[A link](https://a.invalid/x), [none](javascript:alert(1)) and ![a picture](https://a.invalid/p.png)";

/// Send, stream, figures, a cache hit, another conversation, a reload, deletion.
#[tokio::test]
async fn playground_converses() {
    let rig = Rig::with(&format!("{SPEC}, cache: {{ttl: 1h}}")).await;
    rig.mock.script(halting()).script(Script::Words(2));
    passes("converse", &rig).await;
}

#[tokio::test]
async fn playground_keeps_what_was_before_above_what_is_asked() {
    let rig = rig().await;
    for words in 1..=3 {
        rig.mock.script(Script::Words(words));
    }
    passes("history", &rig).await;
}

#[tokio::test]
async fn playground_goes_on_after_a_conversation_that_is_lost() {
    let rig = rig().await;
    rig.mock.script(Script::Words(1)).script(Script::Words(2));
    passes("lost", &rig).await;
}

#[tokio::test]
async fn playground_shows_text_as_text() {
    let rig = rig().await;
    rig.mock.script(saying(CODE));
    passes("text_is_text", &rig).await;
}

/// The page's button and key end the call to the backend.
#[tokio::test]
async fn playground_stops() {
    let rig = rig().await;
    rig.mock.script(halting()).script(halting());
    passes("stop", &rig).await;
    if scripts().is_some() {
        rig.mock.wait_disconnects(2).await;
    }
}

#[tokio::test]
async fn playground_tells_errors_in_words() {
    let rig = rig().await;
    rig.mock.script(Script::cut_stream(2, End::Cut));
    rig.mock.script(Script::Status(500, Vec::new(), "{}".to_owned()));
    let slow_down = r#"{"error":{"message":"slow down","type":"requests","code":"rate_limit_exceeded"}}"#;
    rig.mock.script(Script::Status(429, vec![("retry-after", "2".to_owned())], slow_down.to_owned()));
    rig.mock.script(Script::Words(1)).script(Script::Words(2));
    passes("errors", &rig).await;
}

/// A service that asks for a key: what it says without one, with one, and with a wrong one.
#[tokio::test]
async fn playground_sends_the_key() {
    let keys = ("CHATSERVICE_API_KEYS", "web=sk-web-0123456789abcdefghij");
    let rig =
        Rig::with_secrets(&format!("{SPEC}, auth: {{apiKeysSecretRef: {{name: keys}}}}"), &[keys]).await;
    rig.mock.script(Script::Words(2)).script(Script::Words(3));
    passes("key", &rig).await;
    if scripts().is_some() {
        assert_eq!(rig.mock.count(), 2, "who is not let in asks no backend");
    }
}

#[tokio::test]
async fn playground_is_used_by_keyboard_alone() {
    let rig = rig().await;
    rig.mock.script(Script::Words(1)).script(Script::Words(2));
    passes("keyboard", &rig).await;
}

#[tokio::test]
async fn playground_fits_a_phone() {
    let rig = rig().await;
    rig.mock.script(saying(CODE));
    passes("phone", &rig).await;
}

#[tokio::test]
async fn playground_breaks_no_rule_of_axe() {
    let rig = rig().await;
    for _ in 0..4 {
        rig.mock.script(saying(CODE)).script(Script::Status(500, Vec::new(), "{}".to_owned()));
    }
    passes("accessible", &rig).await;
}

#[tokio::test]
async fn docs_page_goes_on_from_what_was_asked() {
    let rig = rig().await;
    for _ in 0..4 {
        rig.mock.script(Script::Words(1));
    }
    passes("docs_ids", &rig).await;
    let requests = rig.mock.requests();
    let roles = |request: usize| {
        let asked: serde_json::Value = serde_json::from_slice(&requests[request].body).unwrap();
        asked["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["role"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    if !requests.is_empty() {
        assert_eq!([roles(1), roles(3)], [["user", "assistant", "user"]; 2], "what was before is known");
    }
}

#[tokio::test]
async fn docs_page_sends_what_it_shows() {
    let rig = rig().await;
    for _ in 0..4 {
        rig.mock.script(Script::Words(2));
    }
    rig.mock.script(Script::Status(500, Vec::new(), "{}".to_owned()));
    passes("docs", &rig).await;
}
