//! Ids of responses and of their items. In: an id as a caller has it. Out: new ones; and the response that one belongs to.
//!
//! The id of an item holds that of its response: so an item is found by its id alone, in its owner's place, and nothing is
//! stored beside the response.

use uuid::{Uuid, Version};

/// Begins the id of a response.
const PREFIX: &str = "resp_";
/// Length of a UUID in hex digits.
const HEX: usize = 32;

/// An id as callers have it.
#[must_use]
pub fn id_text(id: Uuid) -> String {
    format!("{PREFIX}{}", id.simple())
}

/// The id in a request. None for what we cannot have given out.
#[must_use]
pub fn parse_id(text: &str) -> Option<Uuid> {
    parse(text.strip_prefix(PREFIX)?)
}

/// The response whose item has this id. None for what we cannot have given out.
#[must_use]
pub fn response_of(item: &str) -> Option<Uuid> {
    let (_, digits) = item.split_once('_')?;
    let (response, number) = digits.split_at_checked(HEX)?;
    // As `Ids::item` writes it.
    let written = u32::from_str_radix(number, 16).is_ok_and(|value| format!("{value:04x}") == number);
    parse(response).filter(|_| written)
}

fn parse(hex: &str) -> Option<Uuid> {
    let id = Uuid::try_parse(hex).ok()?;
    (id.get_version() == Some(Version::Random) && id.simple().to_string() == hex).then_some(id)
}

/// The ids of one response and its items. Its 122 random bits are what keeps others from it where callers are not known.
pub struct Ids {
    response: Uuid,
    /// Items that have got one.
    items: u32,
}

impl Ids {
    /// Of a new response.
    #[must_use]
    pub fn new() -> Self {
        Self { response: Uuid::new_v4(), items: 0 }
    }

    /// The response's.
    #[must_use]
    pub fn response(&self) -> Uuid {
        self.response
    }

    /// A new item's, which begins with `prefix`.
    pub fn item(&mut self, prefix: &str) -> String {
        let id = format!("{prefix}_{}{:04x}", self.response.simple(), self.items);
        self.items = self.items.saturating_add(1);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_what_we_gave_out_and_nothing_else() {
        let mut ids = Ids::new();
        assert_eq!(parse_id(&id_text(ids.response())), Some(ids.response()));
        ids.items = 0xfffe;
        for prefix in ["msg", "fc", "fco"] {
            assert_eq!(response_of(&ids.item(prefix)), Some(ids.response()));
        }
        assert_ne!(ids.item("msg"), ids.item("msg"));
        for text in [
            "",
            "resp_",
            "resp_1",
            "9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a69",
            "resp_9b2c7f0e-5d3a-4c1b-8a6e-1f2d3c4b5a69",
            "resp_9B2C7F0E5D3A4C1B8A6E1F2D3C4B5A69",
            "resp_c232ab00941411ecb3c89f6bdeced846",
            "resp_00000000000000000000000000000000",
            "resp_9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a69/input_items",
        ] {
            assert_eq!(parse_id(text), None, "{text}");
        }
        for text in [
            "",
            "msg_1",
            "9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a690000",
            "msg_9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a69",
            "msg_9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a69001",
            "msg_9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a6900001",
            "msg_9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a69+001",
            "msg_9B2C7F0E5D3A4C1B8A6E1F2D3C4B5A690000",
            "msg_c232ab00941411ecb3c89f6bdeced8460000",
            "msg_\u{e9}b2c7f0e5d3a4c1b8a6e1f2d3c4b5a\u{e9}0000",
        ] {
            assert_eq!(response_of(text), None, "{text}");
        }
    }
}
