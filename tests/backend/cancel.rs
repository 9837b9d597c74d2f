//! S10: whoever stops waiting stops the backend too.

use std::time::{Duration, Instant};

use futures::StreamExt;

use crate::mock_openai::{End, MockOpenAi, Script};
use crate::{backend, plain, stream};

/// From the drop to the moment the backend has noticed: far below every deadline that would close the connection too, and
/// what a loaded machine holds. How fast it is otherwise is for benchmarks to say.
const NOTICED: Duration = Duration::from_secs(2);

#[tokio::test]
async fn dropping_a_call_before_its_answer_closes_the_connection() {
    let mock = MockOpenAi::start().await;
    let backend = backend(&mock);
    for round in 1..=10 {
        mock.script(Script::silence());
        let dropped = tokio::select! {
            _ = plain(&backend) => panic!("silence was answered"),
            () = mock.wait_requests(round) => Instant::now(),
        };
        mock.wait_disconnects(round).await;
        assert!(dropped.elapsed() < NOTICED, "{:?}", dropped.elapsed());
    }
}

#[tokio::test]
async fn dropping_a_call_inside_its_plain_answer_closes_the_connection() {
    let mock = MockOpenAi::start().await;
    let backend = backend(&mock);
    mock.script(Script::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".into(), End::Hang));
    let dropped = tokio::select! {
        _ = plain(&backend) => panic!("half an answer was taken for a whole one"),
        () = mock.wait_requests(1) => Instant::now(),
    };
    mock.wait_disconnects(1).await;
    assert!(dropped.elapsed() < NOTICED, "{:?}", dropped.elapsed());
}

#[tokio::test]
async fn dropping_a_stream_closes_the_connection() {
    let mock = MockOpenAi::start().await;
    let backend = backend(&mock);
    for round in 1..=10 {
        mock.script(Script::cut_stream(3, End::Hang));
        let mut events = stream(&backend).await.unwrap();
        events.next().await.unwrap().unwrap();
        let dropped = Instant::now();
        drop(events);
        mock.wait_disconnects(round).await;
        assert!(dropped.elapsed() < NOTICED, "{:?}", dropped.elapsed());
    }
}
