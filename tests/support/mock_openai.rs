//! A mock OpenAI API on a free loopback port. In: a queue of [`Script`]s, one taken by each request. Out: what a real
//! server could send, well-formed or not, and a record of what was asked.
//!
//! It writes HTTP by hand, because most of what it is for (cut chunks, resets, silence) no HTTP library lets one send.
//! Dropping it ends every connection.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

/// How long the `wait_*` methods wait before they fail the test.
const PATIENCE: Duration = Duration::from_secs(10);

// Every test binary uses some of these, none all.
const _: () = {
    let _ =
        (MockOpenAi::start, MockOpenAi::fast, MockOpenAi::base_url, MockOpenAi::address, MockOpenAi::script);
    let _ = (MockOpenAi::always, MockOpenAi::count);
    let _ = (MockOpenAi::open_gate, MockOpenAi::requests, MockOpenAi::connections);
    let _ = (MockOpenAi::wait_requests, MockOpenAi::wait_disconnects);
    let _ = (Script::Words, Script::WordsWithoutUsage, Script::Status, Script::Events, Script::Raw);
    let _ = (Script::After, plain_answer);
    let _ = (
        Script::silence,
        Script::gated,
        Script::cut_stream,
        Script::stream_with::<Bytes>,
        event,
        word_event,
        whole_stream,
    );
    let _ = (Piece::Send, Piece::Wait, Piece::Gate, End::Clean, End::Cut, End::Reset, End::Hang);
    let _ = |recorded: Recorded| (recorded.line, recorded.headers, recorded.body);
};

/// What is answered to one request.
#[derive(Clone, Debug)]
pub enum Script {
    /// A good answer of this many words (`word0 word1 …`), plain or streamed as the request says, with usage.
    Words(usize),
    /// The same without usage.
    WordsWithoutUsage(usize),
    /// A status with headers and a body.
    Status(u16, Vec<(&'static str, String)>, String),
    /// Status 200, an event stream of these pieces, each written by itself, and then this end.
    Events(Vec<Piece>, End),
    /// Nothing until [`MockOpenAi::open_gate`], then this.
    Gated(Box<Script>),
    /// Nothing for this long, then this.
    After(Duration, Box<Script>),
    /// These bytes in place of an HTTP response, and then this end.
    Raw(Vec<u8>, End),
}

/// A part of an event stream.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Bytes of the body.
    Send(Bytes),
    /// Nothing for this long.
    Wait(Duration),
    /// Nothing until [`MockOpenAi::open_gate`].
    Gate,
}

/// How an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As HTTP asks.
    Clean,
    /// The connection is closed (FIN), whatever is missing.
    Cut,
    /// The connection is reset (RST).
    Reset,
    /// Nothing more comes; the connection stays open until the client leaves.
    Hang,
}

impl Script {
    /// A stream of this many words, without finish reason and without `[DONE]`, and then this end.
    pub fn cut_stream(words: usize, end: End) -> Self {
        Self::Events((0..words).map(|word| Piece::Send(word_event(word))).collect(), end)
    }

    /// A stream of this many words, then these bytes and a proper end.
    pub fn stream_with<B: Into<Bytes>>(words: usize, tail: B) -> Self {
        let mut pieces: Vec<Piece> = (0..words).map(|word| Piece::Send(word_event(word))).collect();
        pieces.push(Piece::Send(tail.into()));
        Self::Events(pieces, End::Clean)
    }

    /// Waits for the gate.
    pub fn gated(self) -> Self {
        Self::Gated(Box::new(self))
    }

    /// Accepts the request and never answers.
    pub fn silence() -> Self {
        Self::Raw(Vec::new(), End::Hang)
    }
}

/// One event with this data.
pub fn event(data: &str) -> Bytes {
    format!("data: {data}\n\n").into()
}

/// The event of a chunk with one word.
pub fn word_event(word: usize) -> Bytes {
    let text = if word == 0 { "word0".to_owned() } else { format!(" word{word}") };
    event(&chunk(&json!({"index": 0, "delta": {"content": text}, "finish_reason": null})).to_string())
}

/// The events of a whole good stream.
pub fn whole_stream(words: usize, usage: bool) -> Vec<Bytes> {
    let role = json!({"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null});
    let finish = json!({"index": 0, "delta": {}, "finish_reason": "stop"});
    let mut events = vec![event(&chunk(&role).to_string())];
    events.extend((0..words).map(word_event));
    events.push(event(&chunk(&finish).to_string()));
    if usage {
        let mut last = chunk(&Value::Null);
        last["choices"] = json!([]);
        last["usage"] = usage_of(words);
        events.push(event(&last.to_string()));
    }
    events.push(event("[DONE]"));
    events
}

fn chunk(choice: &Value) -> Value {
    json!({"id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "mock", "choices": [choice]})
}

fn usage_of(words: usize) -> Value {
    json!({"prompt_tokens": 7, "completion_tokens": words, "total_tokens": words + 7})
}

/// The body of a good plain answer.
pub fn plain_answer(words: usize, usage: bool) -> String {
    let text = (0..words).map(|word| format!("word{word}")).collect::<Vec<_>>().join(" ");
    let mut answer = json!({"id": "chatcmpl-mock", "object": "chat.completion", "created": 1_700_000_000, "model": "mock",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]});
    if usage {
        answer["usage"] = usage_of(words);
    }
    answer.to_string()
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Such as `POST /v1/chat/completions HTTP/1.1`.
    pub line: String,
    /// Names in lower case, in order.
    pub headers: Vec<(String, String)>,
    /// Byte for byte.
    pub body: Bytes,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    connections: usize,
    requests: usize,
    disconnects: usize,
}

struct Shared {
    scripts: Mutex<VecDeque<Script>>,
    /// What is answered when nothing is queued.
    fast: Mutex<Option<Script>>,
    requests: Mutex<Vec<Recorded>>,
    counts: watch::Sender<Counts>,
    gate: Notify,
}

/// The server.
pub struct MockOpenAi {
    address: SocketAddr,
    shared: Arc<Shared>,
    _accepting: JoinSet<()>,
}

impl MockOpenAi {
    /// Answers what is queued; a request for which nothing is queued gets a 500.
    pub async fn start() -> Self {
        Self::run(None).await
    }

    /// Answers every request for which nothing is queued with this many words; keeps no record of requests.
    pub async fn fast(words: usize) -> Self {
        Self::run(Some(Script::Words(words))).await
    }

    async fn run(fast: Option<Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            scripts: Mutex::default(),
            fast: Mutex::new(fast),
            requests: Mutex::default(),
            counts: watch::Sender::new(Counts::default()),
            gate: Notify::new(),
        });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, _accepting: accepting }
    }

    /// The base URL for SDKs and ChatServices.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Queues what the next request that finds nothing in front of it gets.
    pub fn script(&self, script: Script) -> &Self {
        self.shared.scripts.lock().unwrap().push_back(script);
        self
    }

    /// From now on, what every request gets that finds nothing queued; no record of requests is kept.
    pub fn always(&self, script: Script) {
        *self.shared.fast.lock().unwrap() = Some(script);
    }

    /// Requests so far, recorded or not.
    pub fn count(&self) -> usize {
        self.shared.counts.borrow().requests
    }

    /// Lets one [`Piece::Gate`] pass, now or when it is reached.
    pub fn open_gate(&self) {
        self.shared.gate.notify_one();
    }

    /// The requests so far, each recorded when its body was whole.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.counts.borrow().connections
    }

    /// Waits until this many requests have come.
    pub async fn wait_requests(&self, count: usize) {
        self.wait(|counts| counts.requests >= count, "requests").await;
    }

    /// Waits until this many clients have left before their answer was whole.
    pub async fn wait_disconnects(&self, count: usize) {
        self.wait(|counts| counts.disconnects >= count, "disconnects").await;
    }

    async fn wait(&self, reached: impl Fn(&Counts) -> bool, what: &str) {
        let mut counts = self.shared.counts.subscribe();
        let waited = tokio::time::timeout(PATIENCE, counts.wait_for(|counts| reached(counts))).await;
        assert!(waited.is_ok(), "not enough {what} after {PATIENCE:?}: {:?}", *self.shared.counts.borrow());
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        shared.counts.send_modify(|counts| counts.connections += 1);
        connections.spawn(serve(stream, Arc::clone(&shared)));
    }
}

/// Answers the requests of one connection.
async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = BytesMut::new();
    loop {
        let (mut read, mut write) = stream.split();
        let Some(request) = receive(&mut read, &mut buffer).await else { return };
        let fast = shared.fast.lock().unwrap().clone();
        let recorded = fast.is_none();
        let script = shared.scripts.lock().unwrap().pop_front().or(fast);
        let unscripted =
            || Script::Status(500, vec![], r#"{"error":{"message":"nothing is scripted"}}"#.into());
        let script = script.unwrap_or_else(unscripted);
        let answer = Answer { body: request.body.clone(), gate: &shared.gate };
        if recorded {
            shared.requests.lock().unwrap().push(request);
        }
        shared.counts.send_modify(|counts| counts.requests += 1);
        let end = tokio::select! {
            end = answer.write(&mut write, script) => end,
            () = gone(&mut read, &mut buffer) => None,
        };
        match end {
            Some(End::Clean) => {}
            Some(End::Cut) => return,
            Some(End::Reset) => return stream.set_zero_linger().unwrap(),
            Some(End::Hang) => {
                gone(&mut read, &mut buffer).await;
                return shared.counts.send_modify(|counts| counts.disconnects += 1);
            }
            None => return shared.counts.send_modify(|counts| counts.disconnects += 1),
        }
    }
}

/// Returns when the client has closed its side or reset the connection.
async fn gone(read: &mut ReadHalf<'_>, buffer: &mut BytesMut) {
    while read.read_buf(buffer).await.is_ok_and(|count| count > 0) {}
}

async fn receive(read: &mut ReadHalf<'_>, buffer: &mut BytesMut) -> Option<Recorded> {
    let head = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break buffer.split_to(end + 4);
        }
        if read.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.trim_end().split("\r\n");
    let line = lines.next()?.to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.map_or(0, |(_, value)| value.parse().unwrap());
    while buffer.len() < length {
        if read.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    Some(Recorded { line, headers, body: buffer.split_to(length).freeze() })
}

struct Answer<'a> {
    body: Bytes,
    gate: &'a Notify,
}

impl Answer<'_> {
    /// How the answer is to end; None when the client has left.
    async fn write(self, write: &mut WriteHalf<'_>, mut script: Script) -> Option<End> {
        loop {
            match script {
                Script::Gated(inner) => {
                    self.gate.notified().await;
                    script = *inner;
                }
                Script::After(pause, inner) => {
                    tokio::time::sleep(pause).await;
                    script = *inner;
                }
                _ => break,
            }
        }
        match script {
            Script::Gated(_) | Script::After(..) => unreachable!("the gates are open"),
            Script::Words(words) => self.words(write, words, true).await,
            Script::WordsWithoutUsage(words) => self.words(write, words, false).await,
            Script::Status(status, headers, body) => plain(write, status, &headers, &body).await,
            Script::Events(pieces, end) => self.events(write, pieces, end).await,
            Script::Raw(bytes, end) => {
                write.write_all(&bytes).await.ok()?;
                Some(end)
            }
        }
    }

    async fn words(self, write: &mut WriteHalf<'_>, words: usize, usage: bool) -> Option<End> {
        let request: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        if request["stream"] != json!(true) {
            return plain(write, 200, &[], &plain_answer(words, usage)).await;
        }
        let usage = usage && request["stream_options"]["include_usage"] == json!(true);
        let pieces = whole_stream(words, usage).into_iter().map(Piece::Send).collect();
        self.events(write, pieces, End::Clean).await
    }

    async fn events(self, write: &mut WriteHalf<'_>, pieces: Vec<Piece>, end: End) -> Option<End> {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nx-request-id: req-mock\r\n\r\n";
        write.write_all(head.as_bytes()).await.ok()?;
        for piece in pieces {
            match piece {
                Piece::Send(bytes) if bytes.is_empty() => {}
                Piece::Send(bytes) => {
                    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
                    chunk.extend_from_slice(&bytes);
                    chunk.extend_from_slice(b"\r\n");
                    write.write_all(&chunk).await.ok()?;
                }
                Piece::Wait(duration) => tokio::time::sleep(duration).await,
                Piece::Gate => self.gate.notified().await,
            }
        }
        if end == End::Clean {
            write.write_all(b"0\r\n\r\n").await.ok()?;
        }
        Some(end)
    }
}

async fn plain(
    write: &mut WriteHalf<'_>,
    status: u16,
    headers: &[(&'static str, String)],
    body: &str,
) -> Option<End> {
    let mut out =
        format!("HTTP/1.1 {status} Mock\r\ncontent-length: {}\r\nx-request-id: req-mock\r\n", body.len());
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
        out.push_str("content-type: application/json\r\n");
    }
    for (name, value) in headers {
        out.push_str(&[name, ": ", value, "\r\n"].concat());
    }
    out.push_str("\r\n");
    out.push_str(body);
    write.write_all(out.as_bytes()).await.ok()?;
    Some(End::Clean)
}
