//! What a backend's refusal means. In: its status, headers and error body, or an error object in place of an answer.
//! Out: the [`BackendError`] that callers are told. Its words are passed on only where the caller's request is at
//! fault; they may quote the request, so every other error has words of ours.

use std::time::Duration;

use http::{HeaderMap, HeaderName, StatusCode, header};
use jiff::Timestamp;
use serde_json::Value;

use super::BackendError;
use crate::constants::header::RETRY_AFTER_MS;
use crate::server::json;

/// Longest message that is passed on, in characters.
const MAX_MESSAGE: usize = 2048;
/// Longest `type`, `param` and `code` that is passed on, in characters.
const MAX_WORD: usize = 200;
/// A longer `Retry-After` is not believed.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(24);

/// The error member of OpenAI's error body, and what other servers send in its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ErrorObject {
    message: Option<String>,
    kind: Option<String>,
    param: Option<String>,
    code: Option<String>,
}

impl ErrorObject {
    /// Reads an error body: `{"error": {…}}`, `{"error": "text"}`, a bare `{"message": …}` or `{"detail": "text"}`.
    pub(super) fn of_body(body: &[u8]) -> Self {
        let Ok(object) = json::object(body) else { return Self::default() };
        let value = |key: &str| object.parse::<Value>(key).and_then(Result::ok);
        match value("error").or_else(|| value("detail")) {
            Some(error) => Self::of_value(&error),
            None => object_of(|key| value(key)),
        }
    }

    /// Reads the value of an `error` member.
    pub(super) fn of_value(error: &Value) -> Self {
        match error {
            Value::String(message) => Self { message: Some(message.clone()), ..Self::default() },
            _ => object_of(|key| error.get(key).cloned()),
        }
    }

    fn says(&self, words: &[&str]) -> bool {
        let said = [&self.code, &self.kind];
        said.iter().any(|word| word.as_deref().is_some_and(|word| words.contains(&word)))
    }

    fn rejected(self, status: StatusCode, clean: impl Fn(&str) -> String) -> BackendError {
        let word = |word: Option<String>| word.map(|word| cut(&clean(&word), MAX_WORD));
        BackendError::Rejected {
            status: status.as_u16(),
            message: self.message.filter(|message| !message.is_empty()).map_or_else(
                || format!("the backend answered {status} without a reason"),
                |message| cut(&clean(&message), MAX_MESSAGE),
            ),
            kind: word(self.kind),
            param: word(self.param),
            code: word(self.code),
        }
    }
}

fn object_of(member: impl Fn(&str) -> Option<Value>) -> ErrorObject {
    let text = |key: &str| match member(key)? {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    ErrorObject { message: text("message"), kind: text("type"), param: text("param"), code: text("code") }
}

fn cut(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}

/// What an answer with a status other than 200 means. `clean` takes our key out of a text.
pub(super) fn of_status(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
    clean: impl Fn(&str) -> String,
) -> BackendError {
    match status.as_u16() {
        400 | 404 | 409 | 413 | 422 => ErrorObject::of_body(body).rejected(status, clean),
        401 | 403 => BackendError::Auth,
        402 => BackendError::QuotaExhausted,
        408 => BackendError::Unavailable("it gave up waiting for the request (status 408)".into()),
        429 if ErrorObject::of_body(body).says(&["insufficient_quota"]) => BackendError::QuotaExhausted,
        429 => BackendError::RateLimited { retry_after: retry_after(headers, now) },
        400..500 => ErrorObject::of_body(body).rejected(StatusCode::BAD_REQUEST, clean),
        300..400 => BackendError::Broken(format!(
            "a redirect (status {}), which is never followed: set the base URL to where it leads",
            status.as_u16()
        )),
        500.. => {
            let why = format!("it answered with status {}", status.as_u16());
            match retry_after(headers, now) {
                Some(retry_after) => BackendError::Overloaded { why, retry_after },
                None => BackendError::Unavailable(why),
            }
        }
        _ => BackendError::Broken(format!("status {} where 200 was expected", status.as_u16())),
    }
}

/// What an error object in place of an answer means. Some servers put the status into `code`.
pub(super) fn of_object(error: ErrorObject, clean: impl Fn(&str) -> String) -> BackendError {
    let status = error.code.as_deref().and_then(|code| code.parse::<u16>().ok());
    if error.says(&["insufficient_quota", "402"]) {
        BackendError::QuotaExhausted
    } else if error.says(&["rate_limit_exceeded", "rate_limit_error", "requests", "tokens", "429"]) {
        BackendError::RateLimited { retry_after: None }
    } else if error.says(&["invalid_api_key", "authentication_error", "permission_error", "401", "403"]) {
        BackendError::Auth
    } else if error.says(&["model_not_found", "not_found_error", "404"]) {
        error.rejected(StatusCode::NOT_FOUND, clean)
    } else if error.says(&["invalid_request_error", "context_length_exceeded", "BadRequestError"])
        || status.is_some_and(|status| (400..500).contains(&status))
    {
        error.rejected(StatusCode::BAD_REQUEST, clean)
    } else {
        BackendError::Unavailable("it answered with an error".into())
    }
}

/// The wait that `retry-after-ms` or `Retry-After` (seconds or a date) asks for. What is absurd is no wish.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    let number = |text: &str, unit: f64| Duration::try_from_secs_f64(text.parse::<f64>().ok()? * unit).ok();
    let date = |text: &str| {
        let then = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
        Some(Duration::try_from(then.duration_since(now)).unwrap_or_default())
    };
    let wait = text(RETRY_AFTER_MS).and_then(|text| number(text, 0.001)).or_else(|| {
        let text = text(header::RETRY_AFTER)?;
        number(text, 1.0).or_else(|| date(text))
    });
    wait.filter(|wait| *wait <= MAX_RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(json: &str) -> ErrorObject {
        ErrorObject::of_body(json.as_bytes())
    }

    fn after(name: &'static str, value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        retry_after(&headers, "2026-11-23T08:00:00Z".parse().unwrap())
    }

    #[test]
    fn retry_after_is_seconds_milliseconds_or_a_date() {
        for (name, value, millis) in [
            ("retry-after", "7", Some(7000)),
            ("retry-after", "1.5", Some(1500)),
            ("retry-after-ms", "250", Some(250)),
            ("retry-after", "Mon, 23 Nov 2026 08:00:30 GMT", Some(30_000)),
            ("retry-after", "Mon, 23 Nov 2026 07:00:00 GMT", Some(0)),
            ("retry-after", "Fri, 23 Nov 2096 08:00:00 GMT", None),
            ("retry-after", "-1", None),
            ("retry-after", "soon", None),
            ("retry-after", "NaN", None),
            ("retry-after", "1e300", None),
            ("retry-after", "99999999", None),
        ] {
            assert_eq!(after(name, value), millis.map(Duration::from_millis), "{name}: {value}");
        }
    }

    #[test]
    fn error_bodies_of_several_servers_are_read() {
        for (body, message) in [
            (r#"{"error":{"message":"no","type":"t","param":null,"code":404}}"#, Some("no")),
            (r#"{"error":"no"}"#, Some("no")),
            (r#"{"object":"error","message":"no","code":400}"#, Some("no")),
            (r#"{"detail":"no"}"#, Some("no")),
            (r#"{"detail":[{"loc":["body"]}]}"#, None),
            ("<html>", None),
            ("", None),
        ] {
            assert_eq!(error(body).message.as_deref(), message, "{body}");
        }
        assert_eq!(error(r#"{"error":{"code":404}}"#).code.as_deref(), Some("404"));
    }

    #[test]
    fn an_error_object_is_mapped_like_the_status_it_stands_for() {
        let of = |json: &str| {
            of_object(ErrorObject::of_value(&serde_json::from_str(json).unwrap()), str::to_owned)
        };
        assert_eq!(of(r#"{"code":"insufficient_quota"}"#), BackendError::QuotaExhausted);
        assert_eq!(of(r#"{"code":429}"#), BackendError::RateLimited { retry_after: None });
        assert_eq!(of(r#"{"type":"authentication_error"}"#), BackendError::Auth);
        assert!(matches!(of(r#"{"code":"model_not_found"}"#), BackendError::Rejected { status: 404, .. }));
        assert!(matches!(
            of(r#"{"type":"invalid_request_error"}"#),
            BackendError::Rejected { status: 400, .. }
        ));
        assert!(matches!(of(r#"{"code":502,"message":"x"}"#), BackendError::Unavailable(_)));
        assert!(matches!(of(r#""overloaded""#), BackendError::Unavailable(_)));
    }
}
