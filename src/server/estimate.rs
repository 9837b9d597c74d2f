//! How much a request may use, before anybody knows. In: its body, and what answers of its model have used lately.
//! Out: tokens to reserve of a bucket, and the most money that it can cost. Pure but for [`Learned`], which keeps what was
//! learned of every model.
//!
//! The prompt is counted twice. The estimate, for the bucket, takes four bytes for a token, the usual rule of thumb for
//! English; settling puts it right. The bound, for the budget, takes every byte for a token: no tokenizer makes more of
//! a text. Pictures are the exception: the bytes of one say nothing of its tokens, so each counts as
//! [`PICTURE_TOKENS`], and more than that is the error that a budget may be exceeded by.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::json;
use super::models::Model;
use super::operation::Operation;
use super::pricing::NanoUsd;
use super::settlement::Usage;
use super::upstream_body::{Known, effective_cap, output_cap};

/// Bytes of a text for one token.
pub const BYTES_A_TOKEN: u64 = 4;
/// What common models count for one large picture.
const PICTURE_TOKENS: u64 = 1500;
/// Tokens of an answer of a model that nothing is known of yet, where the request names no cap.
const USUAL_OUTPUT: u64 = 1000;
/// The most answers that one request may ask for, as at OpenAI.
pub const MOST_CHOICES: u64 = 128;

/// The prompt of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    text_bytes: u64,
    pictures: u64,
}

impl Prompt {
    /// Counts a body. A picture is a member `url`, `image_url` or `file_id` that is a text, wherever it stands; of a
    /// `"url": "data:…"` the text is the picture and does not count.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        let mut prompt = Self::default();
        let (mut key, mut between): (&[u8], &[u8]) = (b"", b"");
        // A quote inside of a string has a backslash in front, so no text can look like a key and its colon.
        for part in body.split(|byte| *byte == b'"') {
            let picture = between.trim_ascii() == b":" && names_picture(key);
            prompt.pictures += u64::from(picture);
            if !(picture && key == b"url" && part.starts_with(b"data:")) {
                prompt.text_bytes += part.len() as u64 + 1;
            }
            (key, between) = (between, part);
        }
        prompt
    }

    /// Tokens that it probably has.
    #[must_use]
    pub fn estimate(self) -> u64 {
        self.text_bytes.div_ceil(BYTES_A_TOKEN) + self.pictures * PICTURE_TOKENS
    }

    /// Tokens that it has at most.
    #[must_use]
    pub fn bound(self) -> u64 {
        self.text_bytes + self.pictures * PICTURE_TOKENS
    }
}

/// Whether this is the key of a picture, or might be: an escape can stand for any letter of it.
fn names_picture(key: &[u8]) -> bool {
    matches!(key, b"url" | b"image_url" | b"file_id") || key.contains(&b'\\')
}

/// What a request asks for, as far as limits and budgets care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Its prompt.
    pub prompt: Prompt,
    /// The most tokens of one choice that it wants, if it says.
    pub cap: Option<u32>,
    /// Answers that it wants: `n`.
    pub choices: u64,
}

impl Demand {
    /// Reads a body that has been validated, as far as it is not known.
    #[must_use]
    pub fn of(operation: Operation, body: &[u8], known: Option<&Known>) -> Self {
        let (cap, choices) = if let Some(known) = known {
            (known.cap, known.choices)
        } else {
            let object = json::object(body).ok();
            let cap = object.as_ref().and_then(|object| output_cap(object).ok()?);
            (cap, object.and_then(|object| object.parse("n")?.ok()))
        };
        let cap = if operation.generates() { cap } else { Some(0) };
        let choices = choices.unwrap_or(1).clamp(1, MOST_CHOICES);
        Self { prompt: Prompt::of(body), cap, choices }
    }

    /// Tokens to reserve: the prompt, and what 95 of 100 answers stay within (`usual`) unless the request's own cap is
    /// lower.
    #[must_use]
    pub fn tokens(&self, usual: Option<u64>) -> u64 {
        let usual = usual.unwrap_or(USUAL_OUTPUT);
        let cap = self.cap.map_or(usual, |cap| u64::from(cap) * self.choices);
        self.prompt.estimate() + cap.min(usual)
    }

    /// The most that it costs at the dearest of these models. None where a price or an output cap is not known.
    #[must_use]
    pub fn worst<'a>(&self, models: impl IntoIterator<Item = &'a Model>) -> Option<NanoUsd> {
        let cost = |model: &Model| {
            let cap = effective_cap(self.cap, model, true)?;
            let completion_tokens = u64::from(cap) * self.choices;
            Some(model.price?.cost(Usage { prompt_tokens: self.prompt.bound(), completion_tokens }))
        };
        models.into_iter().map(cost).try_fold(NanoUsd(0), |most, cost| Some(most.max(cost?)))
    }
}

/// Buckets up to 2^40 tokens.
const BUCKETS: usize = 320;
/// Answers that are remembered: what is older counts half with every so many.
const MEMORY: u32 = 1024;
/// Fewer say nothing of 95 of 100.
const FEWEST: u32 = 20;

/// How many tokens the answers of a model had lately, to an eighth.
#[derive(Clone, Debug)]
pub struct Outputs {
    counts: [u16; BUCKETS],
    total: u32,
}

impl Default for Outputs {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], total: 0 }
    }
}

impl Outputs {
    /// Takes in an answer.
    pub fn learn(&mut self, tokens: u64) {
        if self.total >= MEMORY {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().map(|count| u32::from(*count)).sum();
        }
        if let Some(count) = self.counts.get_mut(bucket(tokens)) {
            *count += 1;
            self.total += 1;
        }
    }

    /// What 95 of 100 answers did not exceed, rounded up by an eighth at most. None until enough are known.
    #[must_use]
    pub fn p95(&self) -> Option<u64> {
        let wanted = (self.total * 95).div_ceil(100);
        let mut below = 0;
        let reached = |count: &u16| {
            below += u32::from(*count);
            below >= wanted
        };
        (self.total >= FEWEST).then(|| self.counts.iter().position(reached).map(largest))?
    }
}

/// Models that are remembered; a service has fewer.
const MODELS: usize = 1024;

/// What is known of the answers of each model. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    models: Arc<Mutex<HashMap<Arc<str>, Outputs>>>,
}

impl Learned {
    /// Takes in an answer of a model.
    pub fn learn(&self, model: &Arc<str>, tokens: u64) {
        let mut models = self.models();
        // Only other configurations' models can be so many.
        if models.len() >= MODELS {
            models.clear();
        }
        models.entry(model.clone()).or_default().learn(tokens);
    }

    /// What 95 of 100 of its answers did not exceed, as far as this server knows.
    #[must_use]
    pub fn p95(&self, model: &str) -> Option<u64> {
        self.models().get(model)?.p95()
    }

    fn models(&self) -> MutexGuard<'_, HashMap<Arc<str>, Outputs>> {
        // Nothing panics while it holds the lock, and the counts would be whole if it did.
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bucket of a number: its own below 16, then eight for each power of two.
fn bucket(tokens: u64) -> usize {
    let power = tokens.max(1).ilog2();
    let index = match power {
        0..=3 => tokens,
        _ => u64::from(power - 3) * 8 + (tokens >> (power - 3)),
    };
    usize::try_from(index).map_or(BUCKETS - 1, |index| index.min(BUCKETS - 1))
}

/// The largest number of a bucket.
fn largest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 16 { bucket } else { ((bucket % 8 + 9) << (bucket / 8 - 1)) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::config::{BackendConfig, DynamicConfig, ModelConfig, PriceConfig};
    use crate::server::models::Models;

    fn demand(body: &str, cap: Option<u32>) -> Demand {
        Demand { cap, ..Demand::of(Operation::Chat, body.as_bytes(), None) }
    }

    #[test]
    fn a_prompt_is_estimated_by_its_bytes_and_never_has_more_tokens_than_those() {
        let text = "x".repeat(4000);
        let prompt = Prompt::of(format!(r#"{{"messages":[{{"content":"{text}"}}]}}"#).as_bytes());
        assert!((1000..1020).contains(&prompt.estimate()), "{prompt:?}");
        assert!((4000..4040).contains(&prompt.bound()), "{prompt:?}");
        assert_eq!(Prompt::of("ü".repeat(10).as_bytes()).bound(), 21, "bytes, not characters");
    }

    #[test]
    fn a_picture_counts_as_one_however_long_it_is_and_a_text_cannot_pass_for_one() {
        let data = format!("data:image/png;base64,{}", "A".repeat(100_000));
        for (body, pictures) in [
            (format!(r#"{{"image_url":{{"url":"{data}"}}}}"#), 1),
            (format!(r#"{{"image_url":{{"url" : "{data}"}},"u":{{"url":"{data}"}}}}"#), 2),
            (format!(r#"{{"content":"{data}"}}"#), 0),
            (format!(r#"{{"content":"\"url\":\"{data}"}}"#), 0),
            (format!(r#"{{"content":["url","{data}"]}}"#), 0),
            (format!(r#"{{"u\u0072l":"{data}"}}"#), 1),
        ] {
            let prompt = Prompt::of(body.as_bytes());
            assert_eq!(prompt.pictures, pictures, "{}", &body[..40]);
            assert_eq!(prompt.text_bytes > 100_000, pictures == 0 || body.contains(r"\u0072"));
            assert!(prompt.estimate() >= pictures * PICTURE_TOKENS);
        }
    }

    #[test]
    fn a_picture_that_the_backend_fetches_counts_like_one_that_travels_with_the_request() {
        for (body, pictures) in [
            (r#"{"type":"image_url","image_url":{"url":"https://x.example/1.png"}}"#, 1),
            (r#"{"type":"image_url","image_url":{"url": "HTTPS://x.example/1.png"}}"#, 1),
            (r#"{"type":"image_url","image_url":"https://x.example/1.png"}"#, 1),
            (r#"{"type":"image_url","image_url":{"\u0075rl":"https\u003a//x.example/1.png"}}"#, 1),
            (r#"{"type":"file","file":{"file_id":"file-1"}}"#, 1),
            (r#"[{"image_url":{"url":"a"}},{"image_url":{"url":"b"}}]"#, 2),
            (r#"{"content":"see https://x.example/1.png, \"url\": \"x\""}"#, 0),
            (r#"{"parameters":{"properties":{"url":{"type":"string"}}}}"#, 0),
        ] {
            let prompt = Prompt::of(body.as_bytes());
            assert_eq!(prompt.pictures, pictures, "{body}");
            assert!(prompt.bound() >= pictures * PICTURE_TOKENS + body.len() as u64, "{body}");
        }
    }

    #[test]
    fn tokens_are_the_prompt_and_the_lower_of_the_cap_and_what_is_usual() {
        let body = r#"{"messages":[],"n":2}"#;
        let prompt = Prompt::of(body.as_bytes()).estimate();
        for (cap, usual, output) in [
            (None, None, USUAL_OUTPUT),
            (None, Some(70), 70),
            (Some(10), Some(70), 20),
            (Some(100), Some(70), 70),
            (Some(100), None, 200),
        ] {
            assert_eq!(demand(body, cap).tokens(usual), prompt + output, "{cap:?} {usual:?}");
        }
        for (body, cap) in [
            (r#"{"max_tokens":7}"#, Some(7)),
            (r#"{"max_completion_tokens":8}"#, Some(8)),
            (r#"{"max_tokens":"7"}"#, None),
            ("{}", None),
        ] {
            assert_eq!(Demand::of(Operation::Chat, body.as_bytes(), None).cap, cap, "{body}");
        }
        for (n, choices) in [("0", 1), ("null", 1), ("3", 3), ("9000000000", 128), ("-1", 1), ("1.5", 1)] {
            assert_eq!(demand(&format!(r#"{{"n":{n}}}"#), None).choices, choices, "{n}");
        }
    }

    #[test]
    fn what_writes_no_answer_is_its_prompt() {
        let body = r#"{"input":"some text","max_tokens":50}"#;
        let demand = Demand::of(Operation::Embeddings, body.as_bytes(), None);
        assert_eq!(demand.tokens(Some(1000)), Prompt::of(body.as_bytes()).estimate());
        let priced = ModelConfig {
            price: Some(PriceConfig {
                input_per_million_tokens: "1".to_owned(),
                output_per_million_tokens: "1000".to_owned(),
            }),
            ..ModelConfig::named("m")
        };
        let mut config = DynamicConfig::new("m", BackendConfig::Echo {});
        config.models = vec![priced];
        let models = Models::new(&config);
        let worst = demand.worst([models.default().as_ref()]);
        assert_eq!(worst, Some(NanoUsd(1000 * demand.prompt.bound())), "also without a cap");
    }

    #[test]
    fn the_worst_case_is_the_dearest_of_the_model_and_its_fallbacks() {
        let model = |name: &str, input: &str, output: &str, most| ModelConfig {
            price: Some(PriceConfig {
                input_per_million_tokens: input.to_owned(),
                output_per_million_tokens: output.to_owned(),
            }),
            max_output_tokens: most,
            ..ModelConfig::named(name)
        };
        let mut config = DynamicConfig::new("cheap", BackendConfig::Echo {});
        config.models = vec![
            model("cheap", "0", "1000", Some(50)),
            model("dear", "0", "2000", Some(10)),
            model("uncapped", "0", "1", None),
        ];
        let models = Models::new(&config);
        let worst = |cap, names: &[&str]| {
            let named = names.iter().map(|name| models.get(name).unwrap().as_ref());
            demand("{}", cap).worst(named).map(|worst| worst.0 / 1_000_000)
        };
        assert_eq!(worst(None, &["cheap"]), Some(50));
        assert_eq!(worst(None, &["cheap", "dear"]), Some(50));
        assert_eq!(worst(Some(30), &["cheap", "dear"]), Some(30));
        assert_eq!(worst(Some(5), &["cheap", "dear"]), Some(10));
        assert_eq!(worst(None, &["cheap", "uncapped"]), None);
        assert_eq!(worst(Some(5), &["uncapped"]), Some(0));
        config.models.push(ModelConfig::named("unpriced"));
        config.backend = BackendConfig::OpenAi { base_url: "https://x.example".to_owned(), proxy_url: None };
        let models = Models::new(&config);
        assert_eq!(demand("{}", Some(5)).worst([models.get("unpriced").unwrap().as_ref()]), None);
    }

    #[test]
    fn buckets_hold_every_number_once_and_are_at_most_an_eighth_wide() {
        for tokens in
            (0..5000).chain((13..40).flat_map(|power| [(1 << power) - 1, 1 << power, (1 << power) + 1]))
        {
            let edge = largest(bucket(tokens));
            assert!(edge >= tokens && edge - tokens <= tokens / 8, "{tokens}: {edge}");
            assert_eq!(bucket(edge), bucket(tokens));
            assert_eq!(bucket(edge + 1), bucket(tokens) + 1);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn what_95_of_100_answers_had_is_learned_and_forgotten() {
        let mut outputs = Outputs::default();
        (0..FEWEST - 1).for_each(|_| outputs.learn(10));
        assert_eq!(outputs.p95(), None, "too few");
        outputs.learn(10);
        assert_eq!(outputs.p95(), Some(10));
        for _ in 0..20 {
            (0..47).for_each(|_| outputs.learn(100));
            (0..3).for_each(|_| outputs.learn(2000));
        }
        assert_eq!(outputs.p95(), Some(2047), "3 of 50 are more than 5 of 100");
        (0..10 * MEMORY).for_each(|_| outputs.learn(100));
        assert_eq!(outputs.p95(), Some(103), "old answers are forgotten");
        (0..MEMORY).for_each(|_| outputs.learn(u64::MAX));
        assert!(outputs.p95().unwrap() > 1 << 39, "absurd answers are the last bucket");
    }
}
