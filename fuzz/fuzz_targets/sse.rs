//! The parser of event streams. In: a seed that says where to split, and a stream. The properties are those of the unit
//! tests: the same events however it is split, and bounds that hold.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

// The files themselves, so that the target builds in seconds and not with the whole server.
#[path = "../../src/server/sse.rs"]
mod sse;
#[path = "../../src/server/sse_properties.rs"]
mod sse_properties;

fuzz_target!(|input: (u64, &[u8])| {
    sse_properties::hold(input.0, &Bytes::copy_from_slice(input.1));
});
