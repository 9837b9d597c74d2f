//! S9: a stream that breaks ends with an error, wherever and however it breaks, and never as if it were whole. What is
//! inside its events is for who reads them: `tests/server/cuts.rs`.

use bytes::Bytes;
use chatservice::server::backend::BackendError;

use crate::mock_openai::{End, MockOpenAi, Piece, Script, event, plain_answer, whole_stream, word_event};
use crate::{KEY, backend, drain, stream, text_of};

fn in_band(message: &str) -> Bytes {
    event(
        &serde_json::json!({"error": {"message": message, "type": "server_error", "code": null}}).to_string(),
    )
}

#[tokio::test]
async fn s9_a_stream_that_breaks_ends_with_one_error() {
    let long = event(&format!("{{\"a\":\"{}\"}}", "x".repeat(2 << 20)));
    let many = Bytes::from("data: {}\n".repeat(600_000));
    for script in [
        Script::cut_stream(3, End::Clean),
        Script::cut_stream(3, End::Cut),
        Script::stream_with(3, "data: [DONE"),
        Script::stream_with(3, "event: error\ndata: {\"message\":\"x\"}\n\n"),
        Script::stream_with(3, long),
        Script::stream_with(3, many),
        Script::stream_with(3, vec![b'x'; 2 << 20]),
    ] {
        let mock = MockOpenAi::start().await;
        mock.script(script.clone());
        let (chunks, error) = drain(stream(&backend(&mock)).await.unwrap()).await;
        assert_eq!(text_of(&chunks), "word0 word1 word2");
        let Some(BackendError::Broken(why)) = error else { panic!("{error:?}") };
        assert!(!why.contains(KEY), "{why}");
    }
}

#[tokio::test]
async fn a_reset_stream_ends_with_an_error() {
    let mock = MockOpenAi::start().await;
    let pieces = vec![Piece::Send(word_event(0)), Piece::Gate];
    mock.script(Script::Events(pieces, End::Reset));
    let events = stream(&backend(&mock)).await.unwrap();
    mock.open_gate();
    let (chunks, error) = drain(events).await;
    assert_eq!(text_of(&chunks), "word0");
    assert!(matches!(error, Some(BackendError::Broken(_))), "{error:?}");
}

#[tokio::test]
async fn s9_a_stream_cut_at_any_byte_ends_with_an_error() {
    let whole = whole_stream(3, true).concat();
    let mock = MockOpenAi::start().await;
    let backend = backend(&mock);
    let mut cuts = 0;
    for end in [End::Cut, End::Clean, End::Reset] {
        // Without its last line ends `[DONE]` is still whole.
        for at in 0..whole.len() - 2 {
            let piece = Piece::Send(Bytes::copy_from_slice(&whole[..at]));
            mock.script(Script::Events(vec![piece], end));
            let error = match stream(&backend).await {
                Ok(events) => drain(events).await.1,
                Err(error) => Some(error),
            };
            assert!(error.is_some(), "cut at {at} by {end:?}");
            cuts += 1;
        }
    }
    assert!(cuts > 1000, "{cuts}");
}

#[tokio::test]
async fn a_stream_that_breaks_before_its_first_event_has_a_real_status() {
    let limited = event(r#"{"error":{"code":"rate_limit_exceeded"}}"#);
    let missing = event(r#"{"error":{"message":"no such model","code":404}}"#);
    for (script, expected) in [
        (Script::cut_stream(0, End::Clean), "broken"),
        (Script::cut_stream(0, End::Cut), "broken"),
        (Script::stream_with(0, "data: [DONE]\n\n"), "broken"),
        (Script::stream_with(0, "data: hello\n\n"), "broken"),
        (Script::stream_with(0, ": comment\n\n"), "broken"),
        (Script::stream_with(0, in_band(KEY)), "not available"),
        (Script::stream_with(0, limited), "limits this service's requests"),
        (Script::stream_with(0, missing), "refused the request with 404"),
        (Script::Status(200, vec![], plain_answer(3, true)), "broken"),
    ] {
        let mock = MockOpenAi::start().await;
        mock.script(script.clone());
        let error = stream(&backend(&mock)).await.err().unwrap().to_string();
        assert!(error.contains(expected) && !error.contains(KEY), "{script:?}: {error}");
    }
}

#[tokio::test]
async fn characters_and_events_split_between_reads_are_put_together() {
    let chunk = "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"é€🦀\"}}]}";
    let events = format!("\u{FEFF}: hi\r\n\r\ndata: {chunk}\r\n\r\ndata: {chunk}\r\rdata: [DONE]\n\n");
    let pieces = events.bytes().map(|byte| Piece::Send(Bytes::copy_from_slice(&[byte]))).collect();
    let mock = MockOpenAi::start().await;
    mock.script(Script::Events(pieces, End::Clean));
    let (chunks, error) = drain(stream(&backend(&mock)).await.unwrap()).await;
    assert_eq!((text_of(&chunks).as_str(), error), ("é€🦀é€🦀", None));
}

#[tokio::test]
async fn an_error_that_is_null_is_none() {
    let mock = MockOpenAi::start().await;
    mock.script(Script::stream_with(0, "data: {\"choices\":[],\"error\":null}\n\ndata: [DONE]\n\n"));
    let (chunks, error) = drain(stream(&backend(&mock)).await.unwrap()).await;
    assert_eq!((chunks.len(), error), (1, None));
}

#[tokio::test]
async fn done_ends_the_stream_though_more_could_follow() {
    let mock = MockOpenAi::start().await;
    let pieces = [word_event(0), event("[DONE]"), word_event(1)].map(Piece::Send).to_vec();
    mock.script(Script::Events(pieces, End::Hang));
    let (chunks, error) = drain(stream(&backend(&mock)).await.unwrap()).await;
    assert_eq!((text_of(&chunks).as_str(), error), ("word0", None));
    mock.wait_disconnects(1).await;
}
