//! Durations and quantities as people write them in a ChatService. In: `1h30m`, `64Mi`. Out: numbers, or None.

use std::time::Duration;

/// A duration of `h`, `m`, `s` and `ms` parts, such as `1h30m`: the part of Go's form that the schema admits.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let (unit_millis, length) = match rest.as_bytes() {
            [b'm', b's', ..] => (1, 2),
            [b'h', ..] => (3_600_000, 1),
            [b'm', ..] => (60_000, 1),
            [b's', ..] => (1000, 1),
            _ => return None,
        };
        total = total.checked_add(Duration::from_millis(number.checked_mul(unit_millis)?))?;
        rest = rest.get(length..)?;
    }
    (!text.is_empty()).then_some(total)
}

/// A quantity of bytes in Kubernetes' form: a whole number with an optional suffix `k M G T Ki Mi Gi Ti`.
#[must_use]
pub fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text.get(..digits)?.parse().ok()?;
    let factor = match text.get(digits..)? {
        "" => 1,
        "k" => 1000,
        "M" => 1000_u64.pow(2),
        "G" => 1000_u64.pow(3),
        "T" => 1000_u64.pow(4),
        "Ki" => 1024,
        "Mi" => 1024_u64.pow(2),
        "Gi" => 1024_u64.pow(3),
        "Ti" => 1024_u64.pow(4),
        _ => return None,
    };
    number.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_sums_of_parts() {
        for (text, millis) in
            [("0s", 0), ("1h30m", 5_400_000), ("90s", 90_000), ("1s500ms", 1500), ("720h", 2_592_000_000)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "1", "h", "1d", "-1s", "1.5h", "1h ", "99999999999999999999h"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn quantities_are_whole_numbers_with_a_suffix() {
        for (text, bytes_expected) in [("64Mi", 64 << 20), ("1G", 1_000_000_000), ("12", 12), ("1Ki", 1024)] {
            assert_eq!(bytes(text), Some(bytes_expected), "{text}");
        }
        for text in ["", "Mi", "1.5Gi", "-1", "1m", "1e3", "999999999999Ti"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
