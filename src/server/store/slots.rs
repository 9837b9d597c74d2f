//! Which slot a key is in, and which server of a Redis Cluster has the slot. In: a key, or what CLUSTER SLOTS answers. Out: a
//! number, or ranges of slots with their masters. Pure.

use redis::Value;

use super::redis_address::Server;

/// Slots of a Cluster.
pub const SLOTS: u16 = 16384;

/// Slots, both ends included, and their master. An empty host is the host that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRange {
    pub first: u16,
    pub last: u16,
    pub master: Server,
}

/// The slot of a key: that of what is between its first pair of braces, if there is something.
#[must_use]
pub fn slot_of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

/// What CLUSTER SLOTS answers: `[[first, last, [host, port, ...], replica...], ...]`. What is not of that form is left out.
#[must_use]
pub fn parse_slots(answer: &Value) -> Vec<SlotRange> {
    let Value::Array(ranges) = answer else { return Vec::new() };
    ranges.iter().filter_map(parse_range).collect()
}

fn parse_range(range: &Value) -> Option<SlotRange> {
    let Value::Array(parts) = range else { return None };
    let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = parts.as_slice() else {
        return None;
    };
    let slot = |number: i64| u16::try_from(number).ok().filter(|slot| *slot < SLOTS);
    let (first, last) = (slot(*first)?, slot(*last)?);
    let [host, Value::Int(port), ..] = master.as_slice() else { return None };
    let host = match host {
        Value::Nil => "",
        Value::BulkString(host) => std::str::from_utf8(host).ok()?,
        Value::SimpleString(host) => host,
        _ => return None,
    };
    let master = Server::told(host, u16::try_from(*port).ok()?)?;
    (first <= last).then_some(SlotRange { first, last, master })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_that_redis_computes() {
        // From `CLUSTER KEYSLOT`.
        for (key, slot) in [
            ("123456789", 12739),
            ("foo", 12182),
            ("bar", 5061),
            ("", 0),
            ("{foo}bar", 12182),
            ("x{foo}{bar}", 12182),
            ("foo{}{bar}", 8363),
            ("foo{{bar}}zap", 4015),
            ("{foo", 13308),
        ] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
    }

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn range(first: i64, last: i64, master: Vec<Value>) -> Value {
        let replica = Value::Array(vec![text("10.0.0.9"), Value::Int(6379), text("id")]);
        Value::Array(vec![Value::Int(first), Value::Int(last), Value::Array(master), replica])
    }

    #[test]
    fn the_masters_of_slots_are_read() {
        let answer = Value::Array(vec![
            range(0, 5460, vec![text("10.0.0.1"), Value::Int(7000), text("id"), Value::Array(vec![])]),
            range(5461, 5461, vec![text("redis-2.chat.svc"), Value::Int(7001), text("id")]),
            range(5462, 16383, vec![Value::Nil, Value::Int(7002), text("id")]),
        ]);
        let server = |host: &str, port| Server { host: host.to_owned(), port };
        assert_eq!(
            parse_slots(&answer),
            [
                SlotRange { first: 0, last: 5460, master: server("10.0.0.1", 7000) },
                SlotRange { first: 5461, last: 5461, master: server("redis-2.chat.svc", 7001) },
                SlotRange { first: 5462, last: 16383, master: server("", 7002) },
            ]
        );
    }

    #[test]
    fn what_is_no_range_of_slots_is_left_out() {
        let master = || vec![text("10.0.0.1"), Value::Int(7000)];
        for range in [
            Value::Nil,
            Value::Array(vec![]),
            range(0, 16384, master()),
            range(-1, 5, master()),
            range(6, 5, master()),
            range(0, 5, vec![]),
            range(0, 5, vec![text("?"), Value::Int(7000)]),
            range(0, 5, vec![text("a b"), Value::Int(7000)]),
            range(0, 5, vec![text("a"), Value::Int(0)]),
            range(0, 5, vec![text("a"), Value::Int(65536)]),
        ] {
            assert_eq!(parse_slots(&Value::Array(vec![range.clone()])), [], "{range:?}");
        }
        assert_eq!(parse_slots(&text("x")), []);
    }
}
