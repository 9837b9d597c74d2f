//! S8: whatever a backend does not do, the call ends in time.

use std::time::Duration;

use chatservice::server::backend::BackendError;
use chatservice::server::backend::openai::{OpenAi, Timeouts};
use futures::StreamExt;

use crate::mock_openai::{End, MockOpenAi, Piece, Script, event, word_event};
use crate::{PLAIN, STREAM, answered, backend, drain, options, stream, streamed, text_of, within};

const SHORT: Duration = Duration::from_millis(150);

fn with(mock: &MockOpenAi, change: impl FnOnce(&mut Timeouts)) -> OpenAi {
    let mut options = options(mock);
    change(&mut options.timeouts);
    OpenAi::new(options).unwrap()
}

#[tokio::test]
async fn silence_ends_a_plain_call_at_its_deadline() {
    let mock = MockOpenAi::start().await;
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_vec();
    for script in [Script::silence(), Script::Raw(half, End::Hang)] {
        mock.script(script);
        let error = answered(&backend(&mock), within(SHORT, PLAIN, false)).await.unwrap_err();
        assert_eq!(error, BackendError::Timeout(SHORT));
    }
    mock.wait_disconnects(2).await;
}

#[tokio::test]
async fn a_stream_without_a_first_event_ends_at_its_deadline() {
    let mock = MockOpenAi::start().await;
    for script in [
        Script::silence(),
        Script::cut_stream(0, End::Hang),
        Script::Events(vec![Piece::Send(": still thinking\n\ndata: {".into())], End::Hang),
    ] {
        mock.script(script);
        let error = stream(&with(&mock, |timeouts| timeouts.first_token = SHORT)).await.err();
        assert_eq!(error, Some(BackendError::Timeout(SHORT)));
    }
    mock.wait_disconnects(3).await;
}

#[tokio::test]
async fn a_stream_that_falls_silent_ends_with_a_timeout() {
    let mock = MockOpenAi::start().await;
    mock.script(Script::cut_stream(2, End::Hang));
    let events = stream(&with(&mock, |timeouts| timeouts.idle = SHORT)).await.unwrap();
    let (chunks, error) = drain(events).await;
    assert_eq!((text_of(&chunks).as_str(), error), ("word0 word1", Some(BackendError::Timeout(SHORT))));
    mock.wait_disconnects(1).await;
}

#[tokio::test]
async fn comments_do_not_keep_a_silent_stream_alive() {
    let mock = MockOpenAi::start().await;
    let ping = [Piece::Send(": ping\n\n".into()), Piece::Wait(SHORT / 5)];
    let pings = ping.into_iter().cycle().take(2000);
    let pieces = std::iter::once(Piece::Send(word_event(0))).chain(pings).collect();
    mock.script(Script::Events(pieces, End::Hang));
    let events = stream(&with(&mock, |timeouts| timeouts.idle = SHORT)).await.unwrap();
    assert_eq!(drain(events).await.1, Some(BackendError::Timeout(SHORT)));
}

#[tokio::test]
async fn a_stream_that_drips_ends_with_the_whole_call() {
    let mock = MockOpenAi::start().await;
    let drip = (0..2000).flat_map(|word| [Piece::Send(word_event(word)), Piece::Wait(SHORT / 10)]);
    mock.script(Script::Events(drip.collect(), End::Hang));
    let events = streamed(&backend(&mock), within(SHORT * 4, STREAM, true)).await.unwrap();
    let (chunks, error) = drain(events).await;
    assert!(chunks.len() > 1);
    assert_eq!(error, Some(BackendError::Timeout(SHORT * 4)));
    mock.wait_disconnects(1).await;
}

#[tokio::test]
async fn a_reader_that_pauses_is_not_a_silent_backend() {
    let mock = MockOpenAi::start().await;
    let pieces = vec![
        Piece::Send(word_event(0)),
        Piece::Gate,
        Piece::Send(word_event(1)),
        Piece::Send(event("[DONE]")),
    ];
    mock.script(Script::Events(pieces, End::Clean));
    let idle = Duration::from_mins(1);
    let backend = with(&mock, |timeouts| timeouts.idle = idle);
    let mut events = streamed(&backend, within(idle * 100, STREAM, true)).await.unwrap();
    events.next().await.unwrap().unwrap();
    pass(idle * 2).await;
    assert!(futures::poll!(events.next()).is_pending(), "the wait begins when somebody waits");
    mock.open_gate();
    let (chunks, error) = drain(events).await;
    assert_eq!((text_of(&chunks).as_str(), error), (" word1", None));
}

#[tokio::test]
async fn the_whole_calls_deadline_also_ends_a_stream_that_is_read_late() {
    let mock = MockOpenAi::start().await;
    mock.script(Script::cut_stream(500, End::Hang));
    let request = Duration::from_mins(10);
    let events = streamed(&backend(&mock), within(request, STREAM, true)).await.unwrap();
    pass(request).await;
    assert_eq!(drain(events).await.1, Some(BackendError::Timeout(request)));
}

/// Lets time pass at once.
pub async fn pass(duration: Duration) {
    tokio::time::pause();
    tokio::time::advance(duration).await;
    tokio::time::resume();
}
