//! The metrics of a server under test. In: a server and a line. Out: when the line is there.

use crate::http::{DEADLINE, get};
use crate::server::TestServer;

/// All of them.
pub async fn text(server: &TestServer) -> String {
    let answer = get(&format!("{}/metrics", server.admin)).await;
    String::from_utf8(answer.body.to_vec()).unwrap()
}

/// Waits until a line is there.
pub async fn wait(server: &TestServer, line: &str) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let text = text(server).await;
        if text.lines().any(|shown| shown == line) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{line} is not in\n{text}");
        tokio::task::yield_now().await;
    }
}

/// The value of a series of whole numbers, 0 when it is not there.
pub async fn value(server: &TestServer, series: &str) -> usize {
    let text = text(server).await;
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(0, |value| value.trim().parse().unwrap())
}
