//! The scanner of request bodies. In: bytes. The properties are those of the unit tests: what it accepts other parsers read
//! alike, its slices are the members, and what it rewrites is valid and otherwise unchanged.

#![no_main]

use libfuzzer_sys::fuzz_target;

// The files themselves, so that the target builds in seconds and not with the whole server.
#[path = "../../src/server/json.rs"]
#[expect(dead_code, reason = "the target needs a part of it")]
mod json;
#[path = "../../src/server/json_properties.rs"]
mod json_properties;

fuzz_target!(|body: &[u8]| json_properties::hold(body));
