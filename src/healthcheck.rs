//! `chatservice healthcheck`: the question that a container runtime asks of a listener in the same container, without a
//! shell or curl in the image. In: an address and a path. Out: Ok, or one line that says what is wrong.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// From the first packet to the last byte of the answer.
const DEADLINE: Duration = Duration::from_secs(2);
/// Of the answer; the admin listener's are a line.
const ANSWER_BYTES: u64 = 16 * 1024;

/// Why a process is not healthy.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// Not within the deadline.
    #[error("{address} did not answer within {DEADLINE:?}")]
    Timeout {
        /// Who was asked.
        address: String,
    },
    /// Nobody listens, or the connection broke.
    #[error("cannot ask {address}: {source}")]
    Connection {
        /// Who was asked.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It answered, and it is not well.
    #[error("{address}{path} answered {answer}")]
    Unhealthy {
        /// Who was asked.
        address: String,
        /// What was asked for.
        path: String,
        /// The status, and the first line of the body.
        answer: String,
    },
}

/// Asks `http://<address><path>`; healthy is a 2xx within 2 s. `address` is `host:port`, the port of the admin listener.
pub async fn check(address: &str, path: &str) -> Result<(), HealthError> {
    let answer = match timeout(DEADLINE, ask(address, path)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(source)) => return Err(HealthError::Connection { address: address.to_owned(), source }),
        Err(_) => return Err(HealthError::Timeout { address: address.to_owned() }),
    };
    judge(&answer).map_err(|answer| HealthError::Unhealthy {
        address: address.to_owned(),
        path: path.to_owned(),
        answer,
    })
}

async fn ask(address: &str, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// Ok for a 2xx, else what was answered, in a line.
fn judge(answer: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let mut status_line = head.lines().next().unwrap_or_default().splitn(3, ' ');
    let (Some("HTTP/1.1" | "HTTP/1.0"), Some(Ok(status))) =
        (status_line.next(), status_line.next().map(str::parse::<u16>))
    else {
        return Err("something that is not HTTP/1.1".to_owned());
    };
    if (200..300).contains(&status) {
        return Ok(());
    }
    match body.lines().next() {
        Some(line) => Err(format!("{status}: {line}")),
        None => Err(status.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_2xx_is_healthy_and_the_rest_says_what_came() {
        let cases: [(&str, Result<(), &str>); 6] = [
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n", Ok(())),
            ("HTTP/1.1 204 No Content\r\n\r\n", Ok(())),
            (
                "HTTP/1.1 503 Service Unavailable\r\n\r\nnot ready: credentials\n",
                Err("503: not ready: credentials"),
            ),
            ("HTTP/1.1 404 Not Found\r\n\r\n", Err("404")),
            ("SSH-2.0-OpenSSH_9.2\r\n", Err("something that is not HTTP/1.1")),
            ("", Err("something that is not HTTP/1.1")),
        ];
        for (answer, expected) in cases {
            assert_eq!(judge(answer.as_bytes()), expected.map_err(str::to_owned), "{answer:?}");
        }
    }
}
