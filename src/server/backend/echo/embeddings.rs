//! Vectors of the built-in backend. In: an embeddings request. Out: a vector of length 1 for each input, the same every
//! time, and the nearer to another's the more words both have in common: enough to try a search without a model.
//!
//! A token is a word, or a number where the caller sends tokens.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Usage, rejected};
use crate::server::backend::BackendError;
use crate::server::completion::{count_pieces, to_bytes};

/// Length of a vector where the request does not say.
const DIMENSIONS: usize = 256;
/// The longest that may be asked for: that of OpenAI's largest model.
const MOST_DIMENSIONS: usize = 3072;
/// Inputs of a request, tokens of an input and of a request, as at OpenAI.
const MOST_INPUTS: usize = 2048;
const MOST_TOKENS: usize = 8192;
const MOST_TOKENS_TOGETHER: usize = 300_000;
/// Bytes of all inputs together: more have more tokens than that.
const MOST_BYTES: usize = 4 << 20;
/// Numbers of all vectors of an answer together: some 12 MiB as text.
const MOST_NUMBERS: usize = 1 << 20;
/// Components that each word adds to.
const COMPONENTS: usize = 8;

#[derive(Deserialize)]
struct Request<'a> {
    model: String,
    #[serde(borrow)]
    input: &'a RawValue,
    dimensions: Option<usize>,
    encoding_format: Option<Format>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Float,
    Base64,
}

/// In one of the forms that the API has.
enum Input<'a> {
    Text(Cow<'a, str>),
    Texts(Vec<Cow<'a, str>>),
    Tokens(Vec<u32>),
    TokenLists(Vec<Vec<u32>>),
}

/// A text that is borrowed where it can be, also inside of a list.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Serialize)]
struct List {
    object: &'static str,
    data: Vec<Embedding>,
    model: String,
    usage: Usage,
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are OpenAI's")]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector {
    Floats(Vec<f32>),
    Base64(String),
}

/// Answers a request.
pub(super) fn answer(body: &[u8]) -> Result<bytes::Bytes, BackendError> {
    let request: Request<'_> = serde_json::from_slice(body).map_err(|_| unreadable(body))?;
    let dimensions = request.dimensions.unwrap_or(DIMENSIONS);
    if !(1..=MOST_DIMENSIONS).contains(&dimensions) {
        return Err(rejected("dimensions", "`dimensions` must be from 1 to 3072"));
    }
    if request.input.get().len() > MOST_BYTES {
        return Err(too_long());
    }
    let input = Input::read(request.input.get()).ok_or_else(|| no_input(request.input.get()))?;
    let counts = input.counts();
    let tokens = counts.iter().sum::<usize>();
    if counts.is_empty() || counts.contains(&0) {
        return Err(rejected("input", "there is nothing to embed: an input must not be empty"));
    }
    if counts.len() > MOST_INPUTS || counts.len() * dimensions > MOST_NUMBERS {
        return Err(rejected("input", "too many inputs at once: send fewer, or ask for fewer `dimensions`"));
    }
    if tokens > MOST_TOKENS_TOGETHER || counts.iter().any(|count| *count > MOST_TOKENS) {
        return Err(too_long());
    }
    let inputs = input.inputs();
    let vector = |words: &Vec<Vec<u8>>| {
        let floats = embed(words, dimensions);
        match request.encoding_format {
            Some(Format::Base64) => {
                let bytes: Vec<u8> = floats.iter().flat_map(|float| float.to_le_bytes()).collect();
                Vector::Base64(STANDARD.encode(bytes))
            }
            Some(Format::Float) | None => Vector::Floats(floats),
        }
    };
    let data = inputs
        .iter()
        .enumerate()
        .map(|(index, words)| Embedding { object: "embedding", index, embedding: vector(words) })
        .collect();
    let usage = Usage { prompt_tokens: tokens, completion_tokens: None, total_tokens: tokens };
    Ok(to_bytes(&List { object: "list", data, model: request.model, usage }))
}

/// The refusal of a request whose members are not what they must be, by the name of the first.
fn unreadable(body: &[u8]) -> BackendError {
    let read: Result<Request<'_>, _> =
        serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(body));
    let path = read.err().map(|error| error.path().to_string()).unwrap_or_default();
    let allowed = match path.as_str() {
        "model" => "a string",
        "dimensions" => "a whole number from 1 to 3072",
        "encoding_format" => "float or base64",
        _ => return rejected("input", "a request needs `model` and `input`"),
    };
    rejected(&path, &format!("`{path}` must be {allowed}"))
}

/// The refusal of an input that has none of the forms, by its first element that does not fit.
fn no_input(json: &str) -> BackendError {
    const TOKEN: &str = "a token: a whole number from 0 to 4294967295";
    let first = json.strip_prefix('[').and_then(|elements| elements.trim_start().chars().next());
    let (path, allowed) = match first {
        Some('"') => (fault::<Vec<Text<'_>>>(json), "a text, as those in front of it"),
        Some('[') => match fault::<Vec<Vec<u32>>>(json) {
            path if path.contains("][") => (path, TOKEN),
            path => (path, "an array of tokens, as those in front of it"),
        },
        Some(_) => (fault::<Vec<u32>>(json), TOKEN),
        None => (String::new(), "a text, an array of texts, of tokens or of arrays of tokens"),
    };
    let name = format!("input{path}");
    rejected(&name, &format!("`{name}` must be {allowed}"))
}

/// Where a JSON text is not a `T`: the path of it, such as `[1][0]`.
fn fault<'a, T: Deserialize<'a>>(json: &'a str) -> String {
    let read: Result<T, _> = serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(json));
    read.err().map(|error| error.path().to_string()).unwrap_or_default()
}

fn too_long() -> BackendError {
    rejected("input", "an input may have 8192 tokens, all inputs of a request 300000")
}

impl<'a> Input<'a> {
    fn read(json: &'a str) -> Option<Self> {
        let texts = |texts: Vec<Text<'a>>| Self::Texts(texts.into_iter().map(|text| text.0).collect());
        let text = serde_json::from_str(json).map(|Text(text)| Self::Text(text));
        text.or_else(|_| serde_json::from_str(json).map(texts))
            .or_else(|_| serde_json::from_str(json).map(Self::Tokens))
            .or_else(|_| serde_json::from_str(json).map(Self::TokenLists))
            .ok()
    }

    /// Tokens of each input.
    fn counts(&self) -> Vec<usize> {
        match self {
            Self::Text(text) => vec![count_pieces(text)],
            Self::Texts(texts) => texts.iter().map(|text| count_pieces(text)).collect(),
            Self::Tokens(tokens) => vec![tokens.len()],
            Self::TokenLists(lists) => lists.iter().map(Vec::len).collect(),
        }
    }

    /// The words of each input, as bytes.
    fn inputs(&self) -> Vec<Vec<Vec<u8>>> {
        let numbers = |tokens: &Vec<u32>| tokens.iter().map(|token| token.to_le_bytes().to_vec()).collect();
        match self {
            Self::Text(text) => vec![words(text)],
            Self::Texts(texts) => texts.iter().map(|text| words(text)).collect(),
            Self::Tokens(tokens) => vec![numbers(tokens)],
            Self::TokenLists(lists) => lists.iter().map(numbers).collect(),
        }
    }
}

/// Lower case and without what is around them: "Hello," and "hello" are one word. A text without a word is one itself.
fn words(text: &str) -> Vec<Vec<u8>> {
    let bare = |word: &str| word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
    let words: Vec<_> = text
        .split_whitespace()
        .map(|word| {
            let bare = bare(word);
            if bare.is_empty() { word.as_bytes().to_vec() } else { bare.into_bytes() }
        })
        .collect();
    if words.is_empty() && !text.is_empty() { vec![text.as_bytes().to_vec()] } else { words }
}

/// Each word adds to or takes from a few components, which its hash decides; the sum is brought to length 1.
fn embed(words: &[Vec<u8>], dimensions: usize) -> Vec<f32> {
    let mut sum = vec![0_f32; dimensions];
    for word in words {
        let hash = *blake3::hash(word).as_bytes();
        for part in hash.as_chunks::<4>().0.iter().take(COMPONENTS) {
            let number = u32::from_le_bytes(*part);
            let index = usize::try_from(number >> 1).unwrap_or_default() % dimensions;
            if let Some(component) = sum.get_mut(index) {
                *component += if number & 1 == 0 { 1.0 } else { -1.0 };
            }
        }
    }
    let length = sum.iter().map(|component| component * component).sum::<f32>().sqrt();
    if length == 0.0 {
        // Words that cancel each other out.
        if let Some(first) = sum.first_mut() {
            *first = 1.0;
        }
        return sum;
    }
    sum.iter().map(|component| component / length).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn ask(body: &Value) -> Result<Value, BackendError> {
        answer(body.to_string().as_bytes()).map(|answer| serde_json::from_slice(&answer).unwrap())
    }

    fn vectors(body: &Value) -> Vec<Vec<f64>> {
        let answer = ask(body).unwrap();
        let data = answer["data"].as_array().unwrap();
        let numbers = |entry: &Value| {
            let vector = entry["embedding"].as_array().unwrap();
            vector.iter().map(|number| number.as_f64().unwrap()).collect()
        };
        data.iter().map(numbers).collect()
    }

    #[test]
    fn texts_with_more_words_in_common_are_nearer() {
        let input = ["a red apple on the table", "The red apple, on a table!", "an apple", "stock prices"];
        let found = vectors(&json!({"model": "m", "input": input}));
        let near = |other: usize| found[0].iter().zip(&found[other]).map(|(a, b)| a * b).sum::<f64>();
        assert!(found.iter().all(|vector| vector.len() == DIMENSIONS));
        assert!((near(0) - 1.0).abs() < 1e-5, "of length 1");
        assert!((near(1) - 1.0).abs() < 1e-5, "the same words: {}", near(1));
        assert!(near(1) > near(2) && near(2) > near(3), "{} {}", near(2), near(3));
    }

    #[test]
    fn every_form_of_input_has_its_vectors_and_its_tokens() {
        for (input, inputs, tokens) in [
            (json!("two words"), 1, 2),
            (json!(["one", "and two"]), 2, 3),
            (json!([1, 2, 3]), 1, 3),
            (json!([[1], [2, 3]]), 2, 3),
            (json!(" "), 1, 1),
        ] {
            let answer = ask(&json!({"model": "m", "input": input, "dimensions": 4})).unwrap();
            assert_eq!(answer["object"], "list");
            assert_eq!(answer["data"].as_array().unwrap().len(), inputs, "{input}");
            assert_eq!(answer["data"][0]["object"], "embedding");
            assert_eq!(answer["usage"], json!({"prompt_tokens": tokens, "total_tokens": tokens}), "{input}");
        }
    }

    #[test]
    fn base64_holds_the_same_numbers_in_little_endian() {
        let body =
            |format| json!({"model": "m", "input": "a b c", "dimensions": 8, "encoding_format": format});
        let floats = vectors(&body("float"));
        let answer = ask(&body("base64")).unwrap();
        let bytes = STANDARD.decode(answer["data"][0]["embedding"].as_str().unwrap()).unwrap();
        let decoded: Vec<f64> =
            bytes.as_chunks::<4>().0.iter().map(|four| f64::from(f32::from_le_bytes(*four))).collect();
        assert_eq!(decoded.len(), 8);
        assert!(decoded.iter().zip(&floats[0]).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn what_cannot_be_embedded_is_refused_with_what_to_do() {
        let long = "w ".repeat(MOST_TOKENS + 1);
        let many = vec!["w"; MOST_INPUTS + 1];
        for (body, expected) in [
            (json!({"model": "m", "input": ""}), "input"),
            (json!({"model": "m", "input": []}), "input"),
            (json!({"model": "m", "input": [""]}), "input"),
            (json!({"model": "m", "input": [[]]}), "input"),
            (json!({"model": "m", "input": {"a": 1}}), "input"),
            (json!({"model": "m", "input": [1.5]}), "input[0]"),
            (json!({"model": "m", "input": [1, 4_294_967_296_u64]}), "input[1]"),
            (json!({"model": "m", "input": [[1], [2, -1]]}), "input[1][1]"),
            (json!({"model": "m", "input": [[1], 2]}), "input[1]"),
            (json!({"model": "m", "input": ["a", 2]}), "input[1]"),
            (json!({"model": "m", "input": 5}), "input"),
            (json!({"model": "m"}), "input"),
            (json!({"model": 1, "input": "a"}), "model"),
            (json!({"model": "m", "input": "a", "dimensions": -1}), "dimensions"),
            (json!({"model": "m", "input": "a", "encoding_format": "hex"}), "encoding_format"),
            (json!({"model": "m", "input": long}), "input"),
            (json!({"model": "m", "input": many}), "input"),
            (json!({"model": "m", "input": vec!["w"; 1000], "dimensions": 3072}), "input"),
            (json!({"model": "m", "input": "a", "dimensions": 0}), "dimensions"),
            (json!({"model": "m", "input": "a", "dimensions": 3073}), "dimensions"),
        ] {
            match ask(&body) {
                Err(BackendError::Rejected { status: 400, param: Some(param), .. }) => {
                    assert_eq!(param, expected);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
