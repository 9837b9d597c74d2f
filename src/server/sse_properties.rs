//! What holds for every stream of bytes. In: a stream, and a seed for where it is split. Out: nothing, or a panic that
//! says what does not hold. The unit tests call it with generated streams, the fuzz target with what libFuzzer finds.

use bytes::Bytes;

use super::sse::{Event, MAX_EVENT, Parser, SseError};

/// Parsed whole and in pieces it says the same, every event is within its bounds, and after an error there is nothing.
pub fn hold(seed: u64, stream: &Bytes) {
    let whole = parse([stream.clone()]);
    let mut state = seed;
    let mut rest = stream.clone();
    let pieces = std::iter::from_fn(|| {
        // SplitMix64: any sequence will do, and the fuzz target has no other.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let length = usize::try_from((mixed ^ (mixed >> 27)) % 17).unwrap_or_default();
        (!rest.is_empty()).then(|| rest.split_to(length.min(rest.len())))
    });
    assert_eq!(parse(pieces), whole, "seed {seed}: the split changed what was read");
    for event in &whole.0 {
        assert!(event.data.len() <= MAX_EVENT, "an event of {} bytes", event.data.len());
        assert!(!event.data.contains(&b'\r'), "a line end inside an event");
    }
    let read: usize = whole.0.iter().map(|event| event.data.len() + event.event.len()).sum();
    assert!(read <= stream.len(), "{read} bytes were read out of {}", stream.len());
}

type Read = (Vec<Event>, Option<Event>, Option<SseError>);

/// The events, what lacked only its blank line, and the error.
fn parse(pieces: impl IntoIterator<Item = Bytes>) -> Read {
    let mut parser = Parser::new();
    let mut events = Vec::new();
    for piece in pieces {
        parser.push(&piece);
        while let Some(event) = parser.next_event() {
            match event {
                Ok(event) => events.push(event),
                Err(error) => {
                    assert_eq!(parser.next_event(), Some(Err(error)), "an error is final");
                    return (events, None, Some(error));
                }
            }
        }
    }
    (events, parser.finish(), None)
}
