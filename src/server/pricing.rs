//! What an answer costs. In: a model's name and its tokens. Out: USD, exact, in integer billionths.
//!
//! Prices are the vendors' list prices in `prices.json`, each row with its source and the day it was known from. They
//! leave discounts (cached input, batches) out, so a cost is an upper estimate.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Deserialize;

use super::settlement::Usage;

/// USD in billionths: exact, and below 2^53 for any amount of interest here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NanoUsd(pub u64);

impl NanoUsd {
    /// The largest amount: every number in JSON, in Lua and in a metric is exact up to it. Nine million dollars.
    pub const MAX: Self = Self((1 << 53) - 1);

    /// As USD, for counters and JSON.
    #[must_use]
    pub fn usd(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "exact below 2^53, which is nine million dollars")]
        let nanos = self.0 as f64;
        nanos / 1e9
    }
}

/// The price of a model's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// Trillionths of a USD for a token of the prompt: a price per million tokens with six decimals is exact.
    input: u64,
    /// And for a token of the answer.
    output: u64,
}

impl Price {
    /// Of what costs nothing: the echo backend's models.
    pub const FREE: Self = Self { input: 0, output: 0 };

    /// From decimals of USD for a million tokens, with six decimals at most. None for anything else.
    #[must_use]
    pub fn per_million(input: &str, output: &str) -> Option<Self> {
        Some(Self { input: pico_usd(input)?, output: pico_usd(output)? })
    }

    /// What the tokens cost, rounded up to a billionth. What a backend reports is not trusted: an absurd count costs
    /// [`NanoUsd::MAX`].
    #[must_use]
    pub fn cost(self, usage: Usage) -> NanoUsd {
        // Products of two u64 fit a u128, and so does the sum of two of them but for the last bit: saturate.
        let pico = (u128::from(usage.prompt_tokens) * u128::from(self.input))
            .saturating_add(u128::from(usage.completion_tokens) * u128::from(self.output));
        NanoUsd(u64::try_from(pico.div_ceil(1000)).unwrap_or(u64::MAX).min(NanoUsd::MAX.0))
    }
}

/// What is needed of a row of `prices.json`; its source and date are for people.
#[derive(Deserialize)]
struct Row {
    model: String,
    /// USD for a million tokens of the prompt, as a decimal.
    input: String,
    /// USD for a million tokens of the answer.
    output: String,
}

static PRICES: LazyLock<HashMap<String, Price>> = LazyLock::new(|| {
    // The file is part of the binary and a test reads every row of it, so nothing is lost here.
    let rows: Vec<Row> = serde_json::from_str(include_str!("prices.json")).unwrap_or_default();
    rows.into_iter()
        .filter_map(|row| Some((row.model, Price::per_million(&row.input, &row.output)?)))
        .collect()
});

/// The list price of a model, also of a dated name (`gpt-4o-2024-08-06` is a `gpt-4o` unless it has its own row).
/// None where it is not known: then no cost is told, rather than a wrong one.
#[must_use]
pub fn price_of(model: &str) -> Option<Price> {
    PRICES.get(model).or_else(|| PRICES.get(undated(model)?)).copied()
}

/// `gpt-4o` for `gpt-4o-2024-08-06`.
fn undated(model: &str) -> Option<&str> {
    const FORM: &[u8] = b"-0000-00-00";
    let (name, date) = model.split_at_checked(model.len().checked_sub(FORM.len())?)?;
    let dated = date.bytes().zip(FORM).all(|(byte, form)| match form {
        b'0' => byte.is_ascii_digit(),
        separator => byte == *separator,
    });
    dated.then_some(name)
}

/// A decimal of USD for a million tokens, as trillionths of a USD for one: the same digits, six places on.
fn pico_usd(decimal: &str) -> Option<u64> {
    let (whole, fraction) = decimal.split_once('.').unwrap_or((decimal, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || fraction.len() > 6 || !digits(whole) || !digits(fraction) {
        return None;
    }
    format!("{whole}{fraction:0<6}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(prompt_tokens: u64, completion_tokens: u64) -> Usage {
        Usage { prompt_tokens, completion_tokens }
    }

    #[test]
    fn every_row_is_read_and_says_where_and_when_it_is_from() {
        let rows: Vec<HashMap<String, String>> = serde_json::from_str(include_str!("prices.json")).unwrap();
        assert_eq!(rows.len(), PRICES.len(), "no row twice, none unreadable");
        for row in rows {
            let model = &row["model"];
            assert!(row["source"].starts_with("https://"), "{model}");
            row["known"].parse::<jiff::civil::Date>().unwrap();
            assert!(price_of(model).unwrap().input > 0, "{model}");
            assert_eq!(row.len(), 5, "{model}");
        }
    }

    #[test]
    fn costs_are_exact() {
        for (model, prompt, completion, nanos) in [
            ("gpt-4o", 1_000_000, 0, 2_500_000_000),
            ("gpt-4o", 1, 1, 12_500),
            ("gpt-4o-mini", 3, 7, 4_650),
            ("gpt-5-nano", 1, 0, 50),
            ("text-embedding-3-small", 1, 0, 20),
        ] {
            assert_eq!(price_of(model).unwrap().cost(usage(prompt, completion)), NanoUsd(nanos), "{model}");
        }
        assert_eq!(Price { input: 37_500, output: 0 }.cost(usage(1, 0)), NanoUsd(38), "rounded up");
        assert_eq!(Price::FREE.cost(usage(u64::MAX, u64::MAX)), NanoUsd(0));
    }

    #[test]
    fn absurd_usage_costs_the_largest_amount() {
        let price = price_of("gpt-4o").unwrap();
        assert_eq!(price.cost(usage(10_u64.pow(18), 10_u64.pow(18))), NanoUsd::MAX);
        let dearest = Price { input: u64::MAX, output: u64::MAX };
        assert_eq!(dearest.cost(usage(u64::MAX, u64::MAX)), NanoUsd::MAX);
    }

    #[test]
    fn dated_names_have_the_price_of_their_model_or_their_own() {
        assert_eq!(price_of("gpt-4o-2024-08-06"), price_of("gpt-4o"));
        assert_eq!(price_of("gpt-4o-mini-2024-07-18"), price_of("gpt-4o-mini"));
        assert_ne!(price_of("gpt-4o-2024-05-13"), price_of("gpt-4o"));
        for unknown in [
            "",
            "gpt-4o-",
            "gpt-4o-audio-preview",
            "gpt-4o-2024-8-6",
            "gpt-4o-20240806",
            "-2024-08-06",
            "ä-2024-08-06",
        ] {
            assert_eq!(price_of(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn decimals_are_read_without_rounding() {
        for (text, pico) in [("2.50", 2_500_000), ("0.02", 20_000), ("15", 15_000_000), ("0.000001", 1)] {
            assert_eq!(pico_usd(text), Some(pico), "{text}");
        }
        for text in ["", ".", "-1", "1e3", "0.0000001", "1.2.3", " 1", "99999999999999999999"] {
            assert_eq!(pico_usd(text), None, "{text}");
        }
    }
}
