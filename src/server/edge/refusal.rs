//! What is no request, told in the dialect of its path. hyper answers it by itself, with a status and nothing else, before any
//! handler is asked; SDKs read an error's body. In: what hyper is about to write, and how the request began. Out: the same
//! answer with a body.

use bytes::Bytes;
use http::StatusCode;

use crate::constants::header::REQUEST_ID;
use crate::server::error::{ApiError, Dialect};
use crate::server::middleware::observe::new_request_id;

/// Bytes of a request that tell its dialect: a method, and how the path begins.
const BEGIN: usize = 64;
/// hyper's own answers are shorter.
const LONGEST: usize = 256;
const NO_BODY: &str = "content-length: 0\r\n";

/// How a request began.
#[derive(Default)]
pub(super) struct Begin(Vec<u8>);

impl Begin {
    /// Another request begins.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Bytes of its head.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let more = BEGIN.saturating_sub(self.0.len()).min(bytes.len());
        self.0.extend_from_slice(bytes.get(..more).unwrap_or_default());
    }

    fn dialect(&self) -> Dialect {
        let path = self.0.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        Dialect::of(&String::from_utf8_lossy(path))
    }
}

/// The answer to write instead; None where this is none of hyper's own.
pub(super) fn with_body(answer: &[u8], begin: &Begin) -> Option<Bytes> {
    let head = std::str::from_utf8(answer).ok().filter(|head| head.len() <= LONGEST)?;
    let (line, rest) = head.split_once("\r\n")?;
    let status =
        line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 "))?.split(' ').next()?;
    let (before, after) = rest.split_once(NO_BODY)?;
    if !after.ends_with("\r\n") || format!("\r\n{after}").matches("\r\n\r\n").count() != 1 {
        return None;
    }
    let (status, message) = match status {
        "400" => (StatusCode::BAD_REQUEST, "this is not an HTTP request as it is accepted here"),
        "414" => (StatusCode::URI_TOO_LONG, "the URL is too long"),
        "431" => (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the head of the request is larger than 32 KiB or has more than 100 headers: send fewer and shorter ones",
        ),
        _ => return None,
    };
    let body = ApiError::BadHead { status, message }.body(begin.dialect()).to_string();
    let id = new_request_id();
    let id = id.to_str().unwrap_or_default();
    Some(Bytes::from(format!(
        "{line}\r\n{before}content-type: application/json\r\ncontent-length: {}\r\n{REQUEST_ID}: {id}\r\n{after}{body}",
        body.len()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(parts: &[&str]) -> Begin {
        let mut begin = Begin::default();
        for part in parts {
            begin.push(part.as_bytes());
        }
        begin
    }

    #[test]
    fn only_answers_that_are_hypers_own_get_a_body() {
        let own = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\ndate: Thu, 26 Nov 2026 07:00:00 GMT\r\n\r\n";
        let told = with_body(own.as_bytes(), &begin(&["GET /v", "1/models HTTP/1.1\r\n"])).unwrap();
        let told = String::from_utf8(told.to_vec()).unwrap();
        let (head, body) = told.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 431 ")
                && head.contains("\r\ndate: ")
                && head.contains("\r\nx-request-id: req_")
        );
        assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", body.len())) && !head.contains(NO_BODY));
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"]["code"], "headers_too_large");
        for other in [
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n",
            "400",
            "",
        ] {
            assert!(with_body(other.as_bytes(), &begin(&["GET /v1/a"])).is_none(), "{other:?}");
        }
    }

    #[test]
    fn the_dialect_is_that_of_the_path_as_far_as_it_has_come() {
        for (parts, dialect) in [
            (&["POST /v1/responses HTTP/1.1\r\n"][..], Dialect::OpenAi),
            (&["P", "OST ", "/v", "1/x"], Dialect::OpenAi),
            (&["POST /api/v1/chat HTTP/1.1"], Dialect::Simple),
            (&["\u{16}\u{3}\u{1}"], Dialect::Simple),
            (&[], Dialect::Simple),
        ] {
            assert_eq!(begin(parts).dialect(), dialect, "{parts:?}");
        }
    }
}
