//! A backend's event stream. In: its body and our deadlines. Out: the data of each event; `[DONE]` ends it, and whatever
//! else ends it is an error. The first is checked to be a JSON object without an error, while there still is a status to
//! tell; those behind it are parsed once, where they are read. Dropping it closes the connection.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::http1::Body;
use super::{BackendError, Deadline};
use crate::server::json;
use crate::server::sse::{Event, Parser};

/// How long the end of the body is waited for after `[DONE]`, so that the connection can be used again.
const LINGER: Duration = Duration::from_millis(20);

const DONE: &[u8] = b"[DONE]";

/// One event of interest.
pub(super) enum Piece {
    /// Data of an event that should be a chunk.
    Chunk(Bytes),
    /// Data of an event that holds an error.
    Error(Bytes),
    /// `[DONE]`.
    Done,
}

/// The stream of one call.
pub(super) struct Events {
    body: Body,
    parser: Parser,
    /// The end of the whole request.
    deadline: Deadline,
}

impl Events {
    /// What follows the head of a response.
    pub(super) fn new(body: Body, deadline: Deadline) -> Self {
        Self { body, parser: Parser::new(), deadline }
    }

    /// The first event, parsed.
    pub(super) async fn first(&mut self, limit: Duration) -> Result<Piece, BackendError> {
        let data = match self.next(limit).await? {
            Piece::Chunk(data) => data,
            other => return Ok(other),
        };
        let object = json::object(&data)
            .map_err(|_| BackendError::Broken("an event of the stream is not a JSON object".into()))?;
        let failed = object.non_null("error").is_some();
        Ok(if failed { Piece::Error(data) } else { Piece::Chunk(data) })
    }

    /// The next event, which must come within `limit` of waiting. After an error the stream is of no more use.
    pub(super) async fn next(&mut self, limit: Duration) -> Result<Piece, BackendError> {
        let mut until = Instant::now() + limit;
        loop {
            if let Some(event) = self.parser.next_event() {
                let event = event.map_err(|error| BackendError::Broken(error.to_string()))?;
                return Ok(piece(event));
            }
            let Some(bytes) = self.bytes(&mut until, limit).await? else {
                // Some servers leave out the blank line behind the last event.
                let last = std::mem::take(&mut self.parser).finish();
                return match last {
                    Some(event) if event.data == DONE => Ok(Piece::Done),
                    _ => Err(BackendError::Broken("the stream ended without [DONE]".into())),
                };
            };
            self.parser.push(&bytes);
        }
    }

    /// After `[DONE]`: reads the body's end, which servers send right behind it. An unread end costs the connection.
    pub(super) async fn leave(mut self) {
        let end = async { while let Some(Ok(_)) = self.body.frame().await {} };
        if tokio::time::timeout(LINGER, end).await.is_err() {
            tracing::debug!("the backend keeps a stream open after [DONE]: its connection is closed");
        }
    }

    /// The next bytes; None at the end of the body.
    async fn bytes(&mut self, until: &mut Instant, limit: Duration) -> Result<Option<Bytes>, BackendError> {
        loop {
            if Instant::now() >= self.deadline.at {
                return Err(self.deadline.passed());
            }
            let Ok(frame) = tokio::time::timeout_at(self.deadline.at.min(*until), self.body.frame()).await
            else {
                let idle = *until < self.deadline.at;
                return Err(if idle { BackendError::Timeout(limit) } else { self.deadline.passed() });
            };
            let now = Instant::now();
            if now > *until {
                // The time passed while nobody polled, or it would have been an error: the wait begins anew.
                *until = now + limit;
            }
            match frame {
                None => return Ok(None),
                Some(Err(_)) => return Err(BackendError::Broken("the stream was cut".into())),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }
}

fn piece(event: Event) -> Piece {
    match event {
        Event { data, .. } if data == DONE => Piece::Done,
        Event { event, data } if event == "error" => Piece::Error(data),
        Event { data, .. } => Piece::Chunk(data),
    }
}
