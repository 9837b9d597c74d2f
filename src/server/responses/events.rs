//! A response as events, with rising numbers, as the SDKs read them. In: the chunks of a chat completion, one by one. Out: the
//! bytes of the events that tell them.

use bytes::Bytes;
use serde::Serialize;
use serde_json::json;

use super::object::{ResponseFault, ResponseObject, Status};
use super::turn::Turn;
use crate::server::completion::{CompletionError, to_bytes};
use crate::server::error::{ApiError, Dialect};
use crate::server::pricing::NanoUsd;
use crate::server::stream::sse;

/// Events that have been told, and not yet been taken.
#[derive(Default)]
pub(super) struct Told {
    bytes: Vec<u8>,
    /// The number of the next event.
    next: u64,
    /// The answer is plain: nothing is told.
    silent: bool,
}

/// What every event has, and the rest of it.
#[derive(Serialize)]
struct Event<'a, T> {
    #[serde(rename = "type")]
    kind: &'a str,
    sequence_number: u64,
    #[serde(flatten)]
    rest: &'a T,
}

/// The rest of an event that holds the whole response.
#[derive(Serialize)]
struct Whole<'a> {
    response: ResponseObject<'a>,
}

impl Told {
    pub(super) fn silent() -> Self {
        Self { silent: true, ..Self::default() }
    }

    /// Adds an event. Its name is its type: SDKs read either.
    pub(super) fn event(&mut self, kind: &str, rest: &impl Serialize) {
        if self.silent {
            return;
        }
        let data = to_bytes(&Event { kind, sequence_number: self.next, rest });
        self.next += 1;
        self.bytes.extend_from_slice(b"event: ");
        self.bytes.extend_from_slice(kind.as_bytes());
        self.bytes.push(b'\n');
        self.bytes.extend_from_slice(&sse(&data));
    }

    fn take(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.bytes))
    }
}

impl Turn {
    /// What a stream begins with; None once that was told.
    pub fn begin(&mut self) -> Option<Bytes> {
        if self.told.next > 0 {
            return None;
        }
        self.whole("response.created");
        self.whole("response.in_progress");
        Some(self.told.take())
    }

    /// Takes in a chunk; None where nothing is told of it.
    pub fn chunk(&mut self, data: &[u8]) -> Result<Option<Bytes>, CompletionError> {
        self.take(data)?;
        let told = self.told.take();
        Ok((!told.is_empty()).then_some(told))
    }

    /// The answer is complete: what ends its items. [`Self::finish`] follows, once it is stored.
    pub fn close(&mut self, cost: Option<NanoUsd>) -> Bytes {
        self.end(cost);
        self.told.take()
    }

    /// The last event of an answer.
    pub fn finish(&mut self) -> Bytes {
        let incomplete = self.status == Status::Incomplete;
        self.whole(if incomplete { "response.incomplete" } else { "response.completed" });
        self.told.take()
    }

    /// The last events of a stream that cannot be completed. The `error` event has its members twice: as OpenAI's reference
    /// describes it, and under `error` as OpenAI's servers send it, which is what makes the SDKs raise their exception.
    pub fn fail(&mut self, error: &ApiError) -> Bytes {
        let begun = self.begin().unwrap_or_default();
        let body = error.body(Dialect::OpenAi);
        let error = &body["error"];
        let text = |name: &str| error[name].as_str().map(str::to_owned);
        let message = text("message").unwrap_or_default();
        self.settings.store = false;
        self.status = Status::Failed;
        self.told.event(
            "error",
            &json!({ "code": error["code"], "message": message, "param": error["param"], "error": error }),
        );
        let code = text("code").unwrap_or_else(|| "server_error".to_owned());
        self.fault = Some(ResponseFault { code, message });
        self.whole("response.failed");
        [begun, self.told.take()].concat().into()
    }

    fn whole(&mut self, kind: &str) {
        let mut told = std::mem::take(&mut self.told);
        told.event(kind, &Whole { response: self.object() });
        self.told = told;
    }
}
