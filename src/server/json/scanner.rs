//! The scanner behind [`super::object`]. In: text. Out: the places of its top-level members, or the first problem.

use std::borrow::Cow;
use std::collections::HashSet;

use super::{JsonError, MAX_DEPTH, Member, Object};

/// Most keys of one object: each costs some 150 bytes until the request is answered.
const MAX_KEYS: usize = 4096;

/// Up to here an object's keys are compared one by one, which is faster than any set of few.
const FEW: usize = 16;

/// What is open around the scanner.
enum Frame<'a> {
    Array,
    Object(Keys<'a>),
}

/// The keys of one object.
#[derive(Default)]
struct Keys<'a> {
    few: Vec<Cow<'a, str>>,
    many: HashSet<Cow<'a, str>>,
}

impl<'a> Keys<'a> {
    fn len(&self) -> usize {
        self.few.len() + self.many.len()
    }

    /// False where it is there already.
    fn insert(&mut self, key: Cow<'a, str>) -> bool {
        if self.few.contains(&key) {
            return false;
        }
        if self.few.len() < FEW {
            self.few.push(key);
            return true;
        }
        self.many.insert(key)
    }
}

/// Walks over the bytes once.
pub(super) struct Scanner<'a> {
    text: &'a str,
    body: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    /// At the start of a text.
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, body: text.as_bytes(), at: 0 }
    }

    /// The whole text: one object.
    pub(super) fn document(mut self) -> Result<Object<'a>, JsonError> {
        if self.body.starts_with(b"\xEF\xBB\xBF") {
            return self.refuse("a byte order mark is not allowed");
        }
        self.white_space();
        if self.peek() != Some(b'{') {
            return self.refuse("expected a JSON object");
        }
        self.at += 1;
        let open = self.at;
        let mut members: Vec<Member<'a>> = Vec::new();
        let mut seen = Keys::default();
        self.white_space();
        if self.peek() != Some(b'}') {
            let mut outer = open;
            loop {
                self.white_space();
                let inner = self.at;
                let key = self.key(&mut seen)?;
                self.white_space();
                let start = self.at;
                self.value()?;
                let end = self.at;
                self.white_space();
                members.push(Member { key, outer: outer..self.at, inner: inner..end, value: start..end });
                match self.peek() {
                    Some(b',') => self.at += 1,
                    Some(b'}') => break,
                    _ => return self.refuse("expected `,` or `}`"),
                }
                outer = self.at;
            }
        }
        let close = self.at;
        self.at += 1;
        self.white_space();
        if self.at < self.body.len() {
            return self.refuse("expected nothing after the object");
        }
        Ok(Object { body: self.body, open, close, members })
    }

    /// One value. Not recursive: what is open is on a stack of bounded height.
    fn value(&mut self) -> Result<(), JsonError> {
        let mut stack: Vec<Frame<'a>> = Vec::new();
        loop {
            self.white_space();
            let closed = match self.peek() {
                Some(b'{') => self.open(&mut stack, Frame::Object(Keys::default()))?,
                Some(b'[') => self.open(&mut stack, Frame::Array)?,
                Some(b'"') => self.string().map(|_| true)?,
                Some(b'-' | b'0'..=b'9') => self.number().map(|()| true)?,
                _ => self.literal().map(|()| true)?,
            };
            // After an opening bracket the next round reads the first element.
            if closed && !self.next_element(&mut stack)? {
                return Ok(());
            }
        }
    }

    /// Enters an object or array; true when it is empty and so already closed.
    fn open(&mut self, stack: &mut Vec<Frame<'a>>, mut frame: Frame<'a>) -> Result<bool, JsonError> {
        // The top-level object is not on the stack.
        if stack.len() + 2 > MAX_DEPTH {
            return self.refuse("nested deeper than 128 levels");
        }
        self.at += 1;
        self.white_space();
        let end = if matches!(frame, Frame::Array) { b']' } else { b'}' };
        if self.peek() == Some(end) {
            self.at += 1;
            return Ok(true);
        }
        if let Frame::Object(seen) = &mut frame {
            self.key(seen)?;
        }
        stack.push(frame);
        Ok(false)
    }

    /// After a value: closes what ends here and steps to the next element; false when nothing is open any more.
    fn next_element(&mut self, stack: &mut Vec<Frame<'a>>) -> Result<bool, JsonError> {
        while let Some(frame) = stack.last_mut() {
            self.white_space();
            match (self.peek(), frame) {
                (Some(b','), Frame::Array) => {
                    self.at += 1;
                    return Ok(true);
                }
                (Some(b','), Frame::Object(seen)) => {
                    self.at += 1;
                    self.white_space();
                    self.key(seen)?;
                    return Ok(true);
                }
                (Some(b']'), Frame::Array) | (Some(b'}'), Frame::Object(_)) => {
                    self.at += 1;
                    stack.pop();
                }
                (_, Frame::Array) => return self.refuse("expected `,` or `]`"),
                (_, Frame::Object(_)) => return self.refuse("expected `,` or `}`"),
            }
        }
        Ok(false)
    }

    /// A key and its colon. Keys are compared after unescaping.
    fn key(&mut self, seen: &mut Keys<'a>) -> Result<Cow<'a, str>, JsonError> {
        let start = self.at;
        if self.peek() != Some(b'"') {
            return self.refuse("expected a key in double quotes");
        }
        let escaped = self.string()?;
        let raw = self.text.get(start..self.at).unwrap_or_default();
        let key = if escaped {
            let unescaped: String = serde_json::from_str(raw)
                .map_err(|_| JsonError { offset: start, problem: "invalid string" })?;
            Cow::Owned(unescaped)
        } else {
            Cow::Borrowed(raw.get(1..raw.len() - 1).unwrap_or_default())
        };
        if seen.len() == MAX_KEYS {
            return Err(JsonError { offset: start, problem: "more than 4096 keys in one object" });
        }
        if !seen.insert(key.clone()) {
            return Err(JsonError { offset: start, problem: "duplicate key" });
        }
        self.white_space();
        if self.peek() != Some(b':') {
            return self.refuse("expected `:`");
        }
        self.at += 1;
        Ok(key)
    }

    /// A string; true when it holds an escape.
    fn string(&mut self) -> Result<bool, JsonError> {
        self.at += 1;
        let mut escaped = false;
        loop {
            let rest = self.body.get(self.at..).unwrap_or_default();
            let plain = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1F));
            self.at += plain.unwrap_or(rest.len());
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return self.refuse("control character in a string"),
                None => return self.refuse("unterminated string"),
            }
        }
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        match self.body.get(start + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => match self.hex(start + 2)? {
                0xD800..=0xDBFF => {
                    let pair = self.body.get(start + 6..start + 8) == Some(b"\\u")
                        && matches!(self.hex(start + 8)?, 0xDC00..=0xDFFF);
                    self.at = start + 12;
                    if pair { Ok(()) } else { lone_surrogate(start) }
                }
                0xDC00..=0xDFFF => lone_surrogate(start),
                _ => {
                    self.at = start + 6;
                    Ok(())
                }
            },
            _ => self.refuse("invalid escape"),
        }
    }

    fn hex(&self, at: usize) -> Result<u32, JsonError> {
        let digits = self.body.get(at..at + 4).unwrap_or_default();
        let mut number = 0;
        for digit in digits {
            let digit = char::from(*digit)
                .to_digit(16)
                .ok_or(JsonError { offset: at, problem: "expected four hex digits" })?;
            number = number * 16 + digit;
        }
        if digits.is_empty() {
            return Err(JsonError { offset: at, problem: "expected four hex digits" });
        }
        Ok(number)
    }

    fn number(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let leading_zero = self.peek() == Some(b'0');
        let digits = self.digits();
        if digits == 0 || (leading_zero && digits > 1) {
            return Err(JsonError { offset: start, problem: "invalid number" });
        }
        let mut plain = true;
        if self.peek() == Some(b'.') {
            self.at += 1;
            plain = false;
            if self.digits() == 0 {
                return Err(JsonError { offset: start, problem: "invalid number" });
            }
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            plain = false;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            if self.digits() == 0 {
                return Err(JsonError { offset: start, problem: "invalid number" });
            }
        }
        // Up to 300 digits cannot overflow: 10^308 still fits.
        let finite = (plain && digits <= 300)
            || self
                .text
                .get(start..self.at)
                .and_then(|text| text.parse::<f64>().ok())
                .is_some_and(f64::is_finite);
        if finite { Ok(()) } else { Err(JsonError { offset: start, problem: "number out of range" }) }
    }

    fn digits(&mut self) -> usize {
        let rest = self.body.get(self.at..).unwrap_or_default();
        let count = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        self.at += count;
        count
    }

    fn literal(&mut self) -> Result<(), JsonError> {
        let rest = self.body.get(self.at..).unwrap_or_default();
        for literal in [b"true".as_slice(), b"false", b"null"] {
            if rest.starts_with(literal) {
                self.at += literal.len();
                return Ok(());
            }
        }
        self.refuse("expected a value")
    }

    fn white_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn refuse<T>(&self, problem: &'static str) -> Result<T, JsonError> {
        Err(JsonError { offset: self.at, problem })
    }
}

fn lone_surrogate(offset: usize) -> Result<(), JsonError> {
    Err(JsonError { offset, problem: "lone surrogate in an escape" })
}
