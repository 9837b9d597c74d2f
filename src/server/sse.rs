//! Server-sent events, incrementally. In: the bytes of a stream, split anywhere. Out: its events, or the first thing
//! that is over a bound.
//!
//! As the HTML standard reads them: lines end with LF, CRLF or CR, a byte order mark in front is skipped, comments are
//! too, several `data` lines are one event, and a blank line ends it. `id` and `retry` mean nothing here.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

/// Longest line in bytes.
pub const MAX_LINE: usize = 1 << 20;
/// Longest data of one event in bytes.
pub const MAX_EVENT: usize = 1 << 20;
/// Longest stream in bytes, comments counted.
pub const MAX_STREAM: usize = 32 << 20;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// One event.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    /// Its type; empty when the stream named none.
    pub event: Bytes,
    /// Its data, the lines joined by LF. Not checked to be UTF-8.
    pub data: Bytes,
}

/// Lengths in place of the text: an answer is not for logs.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("event_bytes", &self.event.len())
            .field("data_bytes", &self.data.len())
            .finish()
    }
}

/// A bound was passed; the parser yields nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// [`MAX_LINE`].
    #[error("a line of the stream is longer than 1 MiB")]
    Line,
    /// [`MAX_EVENT`].
    #[error("an event of the stream is longer than 1 MiB")]
    Event,
    /// [`MAX_STREAM`].
    #[error("the stream is longer than 32 MiB")]
    Stream,
}

/// The state between two pieces of a stream. Holds at most what was pushed and not taken, and one event; what came in
/// one piece is never copied.
#[derive(Default)]
pub struct Parser {
    /// What was pushed and not looked at.
    rest: Bytes,
    /// The beginning of a line whose end was not pushed yet.
    line: BytesMut,
    /// The first line is over, and with it the byte order mark.
    started: bool,
    /// The last line ended with CR: a LF right after it belongs to it.
    after_cr: bool,
    event: Bytes,
    data: Option<Data>,
    received: usize,
    failed: Option<SseError>,
}

/// The usual event has one line, which is not copied.
enum Data {
    Line(Bytes),
    Lines(BytesMut),
}

impl Data {
    fn len(&self) -> usize {
        match self {
            Self::Line(line) => line.len(),
            Self::Lines(lines) => lines.len(),
        }
    }

    fn append(self, line: &[u8]) -> Self {
        let mut lines = match self {
            Self::Line(first) => BytesMut::from(first.as_ref()),
            Self::Lines(lines) => lines,
        };
        lines.extend_from_slice(b"\n");
        lines.extend_from_slice(line);
        Self::Lines(lines)
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Line(line) => line,
            Self::Lines(lines) => lines.freeze(),
        }
    }
}

impl Parser {
    /// At the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &Bytes) {
        self.received = self.received.saturating_add(bytes.len());
        if self.received > MAX_STREAM {
            self.failed = Some(SseError::Stream);
        }
        if self.failed.is_none() {
            self.rest = if self.rest.is_empty() {
                bytes.clone()
            } else {
                // Not the usual order: what was pushed is taken before more is.
                Bytes::from([self.rest.as_ref(), bytes.as_ref()].concat())
            };
        }
    }

    /// The next event that is complete; None until more is pushed. After an error the same error again.
    pub fn next_event(&mut self) -> Option<Result<Event, SseError>> {
        let found = self.advance();
        if let Err(error) = found {
            *self = Self { failed: Some(error), ..Self::default() };
        }
        found.transpose()
    }

    /// At the end of the stream: an event that lacks only its blank line. The standard drops it, because it may be
    /// cut; a caller that knows it to be whole by its content may use it.
    #[must_use]
    pub fn finish(mut self) -> Option<Event> {
        self.failed.is_none().then_some(())?;
        self.push(&Bytes::from_static(b"\n\n"));
        self.next_event()?.ok()
    }

    fn advance(&mut self) -> Result<Option<Event>, SseError> {
        self.failed.map_or(Ok(()), Err)?;
        while let Some(line) = self.line()? {
            if !line.is_empty() {
                self.field(&line)?;
                continue;
            }
            let event = std::mem::take(&mut self.event);
            if let Some(data) = self.data.take() {
                return Ok(Some(Event { event, data: data.into_bytes() }));
            }
        }
        Ok(None)
    }

    /// The next whole line, without its end.
    fn line(&mut self) -> Result<Option<Bytes>, SseError> {
        if self.after_cr && !self.rest.is_empty() {
            self.after_cr = false;
            if self.rest.first() == Some(&b'\n') {
                self.rest.advance(1);
            }
        }
        let end = self.rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let part = self.rest.split_to(end.unwrap_or(self.rest.len()));
        if self.line.len() + part.len() > MAX_LINE {
            return Err(SseError::Line);
        }
        if end.is_none() {
            self.line.extend_from_slice(&part);
            return Ok(None);
        }
        self.after_cr = self.rest.first() == Some(&b'\r');
        self.rest.advance(1);
        let mut line = if self.line.is_empty() {
            part
        } else {
            self.line.extend_from_slice(&part);
            std::mem::take(&mut self.line).freeze()
        };
        if !std::mem::replace(&mut self.started, true) && line.starts_with(BOM) {
            line.advance(BOM.len());
        }
        Ok(Some(line))
    }

    fn field(&mut self, line: &Bytes) -> Result<(), SseError> {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" => {
                let before = self.data.as_ref().map_or(0, |data| data.len() + 1);
                if before + value.len() > MAX_EVENT {
                    return Err(SseError::Event);
                }
                self.data = Some(match self.data.take() {
                    None => Data::Line(line.slice_ref(value)),
                    Some(data) => data.append(value),
                });
            }
            b"event" => self.event = line.slice_ref(value),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    fn events(pieces: impl IntoIterator<Item = Bytes>) -> (Vec<(String, String)>, Option<SseError>) {
        let mut parser = Parser::new();
        let mut out = Vec::new();
        for piece in pieces {
            parser.push(&piece);
            while let Some(event) = parser.next_event() {
                match event {
                    Ok(event) => out.push((
                        String::from_utf8_lossy(&event.event).into_owned(),
                        String::from_utf8_lossy(&event.data).into_owned(),
                    )),
                    Err(error) => return (out, Some(error)),
                }
            }
        }
        (out, None)
    }

    fn data_of(stream: &str) -> Vec<String> {
        events([Bytes::copy_from_slice(stream.as_bytes())]).0.into_iter().map(|(_, data)| data).collect()
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        for (stream, expected) in [
            ("data: a\n\ndata: b\n\n", vec!["a", "b"]),
            ("data: a\r\n\r\ndata: b\r\n\r\n", vec!["a", "b"]),
            ("data: a\r\rdata: b\r\r", vec!["a", "b"]),
            ("data: a\r\n\ndata: b\n\r\n", vec!["a", "b"]),
            ("\u{FEFF}data: a\n\n", vec!["a"]),
            (": comment\n\ndata: a\n: another\n\n", vec!["a"]),
            ("data: a\ndata: b\n\n", vec!["a\nb"]),
            ("data:a\ndata:  b\ndata\n\n", vec!["a\n b\n"]),
            ("data\n\n", vec![""]),
            ("\n\n\ndata: a\n\n\n", vec!["a"]),
            ("event: x\n\ndata: a\n\n", vec!["a"]),
            ("id: 1\nretry: 5\nunknown: x\ndata: a\n\n", vec!["a"]),
            ("data: a\n", vec![]),
            ("data: é€🦀\n\n", vec!["é€🦀"]),
        ] {
            assert_eq!(data_of(stream), expected, "{stream:?}");
        }
    }

    #[test]
    fn the_type_belongs_to_one_event() {
        let (events, _) = events([Bytes::from_static(b"event: error\ndata: a\n\ndata: b\n\n")]);
        assert_eq!(events, [("error".into(), "a".into()), (String::new(), "b".into())]);
    }

    #[test]
    fn any_split_of_the_same_bytes_gives_the_same_events() {
        let stream = Bytes::from(
            "\u{FEFF}: hi\r\ndata: {\"a\":\"é€🦀\"}\r\n\r\ndata: one\rdata: two\r\revent: error\ndata: x\n\n\
             data:\n\n: ping\n\ndata: [DONE]\n\n",
        );
        let whole = events([stream.clone()]);
        assert_eq!(whole.0.len(), 5, "{whole:?}");
        for at in 0..=stream.len() {
            let split = [stream.slice(..at), stream.slice(at..)];
            assert_eq!(events(split), whole, "split at {at}");
        }
        let bytewise = stream.iter().map(|byte| Bytes::copy_from_slice(&[*byte]));
        assert_eq!(events(bytewise), whole);
        for seed in 0..500 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut rest = stream.clone();
            let mut pieces = Vec::new();
            while !rest.is_empty() {
                pieces.push(rest.split_to(random.random_range(0..=rest.len().min(9))));
            }
            assert_eq!(events(pieces), whole, "seed {seed}");
        }
    }

    /// Random streams of what matters to the parser: line ends, field names, colons, parts of characters.
    #[test]
    fn s9_whatever_the_bytes_a_split_changes_nothing_and_bounds_hold() {
        let words: &[&[u8]] = &[
            b"\n",
            b"\r",
            b"\r\n",
            b"\n\n",
            b":",
            b" ",
            b"data",
            b"data:",
            b"data: {}",
            b"event: error",
            b"id: 1",
            b"[DONE]",
            b"\xEF\xBB\xBF",
            b"\xEF\xBB",
            "\u{1F980}".as_bytes(),
            b"\xF0\x9F",
            b"\0",
            b"\xFF",
        ];
        for seed in 0..2000 {
            let mut random = StdRng::seed_from_u64(seed);
            let length = random.random_range(0..60);
            let stream: Vec<u8> =
                (0..length).flat_map(|_| words[random.random_range(0..words.len())]).copied().collect();
            crate::server::sse_properties::hold(seed, &Bytes::from(stream));
        }
    }

    #[test]
    fn what_is_over_a_bound_is_refused_without_being_kept() {
        let piece = Bytes::from(vec![b'x'; 64 << 10]);
        let endless =
            std::iter::once(Bytes::from_static(b"data: ")).chain(std::iter::repeat_n(piece.clone(), 1600));
        assert_eq!(events(endless).1, Some(SseError::Line));

        let mut line = BytesMut::from(&b"data: "[..]);
        line.extend_from_slice(&piece);
        line.extend_from_slice(b"\n");
        assert_eq!(events(std::iter::repeat_n(line.clone().freeze(), 17)).1, Some(SseError::Event));

        line.extend_from_slice(b"\n");
        let (seen, error) = events(std::iter::repeat_n(line.freeze(), 600));
        assert_eq!(error, Some(SseError::Stream));
        assert_eq!(seen.len(), 511);

        let mut parser = Parser::new();
        parser.push(&Bytes::from(vec![b'x'; MAX_LINE + 1]));
        assert_eq!(parser.next_event(), Some(Err(SseError::Line)));
        parser.push(&Bytes::from_static(b"\n\ndata: a\n\n"));
        assert_eq!(parser.next_event(), Some(Err(SseError::Line)));
        assert_eq!((parser.rest.len(), parser.line.len()), (0, 0));
    }

    #[test]
    fn what_lacks_only_its_blank_line_is_told_at_the_end() {
        for (stream, expected) in [
            ("data: [DONE]", Some("[DONE]")),
            ("data: [DONE]\n", Some("[DONE]")),
            ("", None),
            ("data: a\n\n", None),
        ] {
            let mut parser = Parser::new();
            parser.push(&Bytes::copy_from_slice(stream.as_bytes()));
            while parser.next_event().is_some() {}
            let last = parser.finish().map(|event| String::from_utf8_lossy(&event.data).into_owned());
            assert_eq!(last.as_deref(), expected, "{stream:?}");
        }
    }
}
