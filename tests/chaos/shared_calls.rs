//! A thousand equal requests on a cold key, over three processes.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use crate::figures::Figures;
use crate::load::CHAT;
use crate::mock_openai::{End, MockOpenAi, Piece, Script, whole_stream};
use crate::redis_server::RedisServer;
use crate::servers::Servers;

const REQUESTS: usize = 1000;
const SPEC: &str = "  model: gpt-4o-mini\n  cache: { ttl: 1h }\n";

/// Asks so often at once while the backend says nothing, lets it answer, and counts its calls and the whole answers.
async fn ask_all(stream: bool) -> Option<(usize, usize)> {
    let redis = RedisServer::start().await?;
    let mock = MockOpenAi::start().await;
    let mut pieces: Vec<Piece> = whole_stream(3, true).into_iter().map(Piece::Send).collect();
    pieces.insert(1, Piece::Gate);
    let script = if stream { Script::Events(pieces, End::Clean) } else { Script::Words(3).gated() };
    for _ in 0..10 {
        mock.script(script.clone());
    }
    let servers = Servers::start(3, &redis.url(), &mock.base_url(), SPEC).await;
    let body = format!(r#"{{"messages":[{{"role":"user","content":"all the same"}}],"stream":{stream}}}"#);
    let mut asking = JoinSet::new();
    for number in 0..REQUESTS {
        let address = servers.url(number).strip_prefix("http://").unwrap().to_owned();
        let body = body.clone();
        asking.spawn(async move {
            let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
            let request = format!(
                "POST {CHAT} HTTP/1.1\r\nhost: chaos\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            client.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            tokio::io::AsyncReadExt::read_to_string(&mut client, &mut answer).await.unwrap();
            answer.starts_with("HTTP/1.1 200 OK")
                && if stream { answer.contains("data: [DONE]") } else { answer.contains("word0 word1 word2") }
        });
    }
    let deadline = Instant::now() + Duration::from_mins(1);
    while servers.sum("chat_requests_in_flight ").await < 1000.0 {
        assert!(Instant::now() < deadline, "not all have come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut whole = 0;
    let mut open = tokio::time::interval(Duration::from_millis(100));
    while !asking.is_empty() {
        tokio::select! {
            Some(told) = asking.join_next() => whole += usize::from(told.unwrap()),
            _ = open.tick() => mock.open_gate(),
        }
    }
    Some((mock.count(), whole))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make chaos"]
async fn s14_a_thousand_equal_plain_requests_are_one_call() {
    let Some((calls, whole)) = ask_all(false).await else { return };
    let mut figures = Figures::of("S14");
    figures.exactly("calls for 1,000 equal plain requests", calls, 1);
    figures.exactly("whole answers", whole, REQUESTS);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make chaos"]
async fn s14_a_thousand_equal_streams_are_one_call_a_server() {
    let Some((calls, whole)) = ask_all(true).await else { return };
    let mut figures = Figures::of("S14");
    figures.tell("calls for 1,000 equal streams", calls, "at most 3", calls <= 3);
    figures.exactly("whole streams", whole, REQUESTS);
}
