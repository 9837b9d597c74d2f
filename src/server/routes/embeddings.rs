//! The OpenAI dialect's `POST /v1/embeddings`. In: texts or tokens, in a body that is forwarded byte for byte but for a
//! missing model. Out: the backend's vectors.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::completions;
use super::input::{From, Kind, cache_control, check_kinds, field, invalid, read_json};
use crate::server::error::{ApiError, Dialect};
use crate::server::exchange::{self, Ask, Form, Keep};
use crate::server::json::{self, Object};
use crate::server::operation::Operation;
use crate::server::state::{AppState, Live};

/// An embeddings request. Fields that are not listed go to the backend unchanged.
#[derive(ToSchema)]
#[schema(example = json!({"model": "gpt-4o-mini", "input": "The quick brown fox"}))]
#[expect(dead_code, reason = "the body is forwarded as bytes; this is its description")]
pub struct EmbeddingRequest {
    /// A model of this service. Default: the service's.
    model: Option<String>,
    /// A text, an array of texts, an array of tokens, or an array of arrays of tokens. Not empty.
    input: EmbeddingInput,
    /// How the numbers are written. Default: float.
    encoding_format: Option<EncodingFormat>,
    /// Numbers of a vector, where the model can have fewer than its own.
    #[schema(minimum = 1)]
    dimensions: Option<u32>,
    /// Who asks, for the backend.
    user: Option<String>,
}

/// How the numbers of a vector are written.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EncodingFormat {
    /// As JSON numbers.
    Float,
    /// As one text: base64 of little-endian 32-bit floats.
    Base64,
}

/// What is embedded.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum EmbeddingInput {
    /// One text.
    Text(String),
    /// Several.
    Texts(Vec<String>),
    /// The tokens of one.
    Tokens(Vec<u64>),
    /// The tokens of several.
    TokenLists(Vec<Vec<u64>>),
}

/// Vectors, one for each input and in their order.
#[derive(Serialize, ToSchema)]
pub struct EmbeddingList {
    /// Always `list`.
    #[schema(example = "list")]
    object: String,
    /// The vectors.
    data: Vec<Embedding>,
    /// The model that made them.
    model: String,
    /// What they took.
    usage: EmbeddingUsage,
}

/// The vector of one input.
#[derive(Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the names are OpenAI's")]
pub struct Embedding {
    /// Always `embedding`.
    #[schema(example = "embedding")]
    object: String,
    /// Which input.
    index: u32,
    /// Its numbers.
    embedding: EmbeddingVector,
}

/// The numbers of a vector.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum EmbeddingVector {
    /// As numbers.
    Numbers(Vec<f32>),
    /// As base64 of little-endian 32-bit floats, where that was asked for.
    Base64(String),
}

/// Tokens of a request.
#[derive(Serialize, ToSchema)]
pub struct EmbeddingUsage {
    /// Of all inputs.
    prompt_tokens: u64,
    /// The same.
    total_tokens: u64,
}

/// Turn texts into vectors.
#[utoipa::path(post, path = "/v1/embeddings", tag = "openai", request_body = EmbeddingRequest,
    responses((status = 200, description = "A vector for each input", body = EmbeddingList)))]
pub async fn embeddings(
    State(state): State<AppState>,
    from: From,
    headers: HeaderMap,
    body: Body,
) -> Response {
    match prepare(&state, from, &headers, body).await {
        Ok((ask, live)) => completions::respond(exchange::answer(&state, &live, ask).await),
        Err(error) => error.into_response(Dialect::OpenAi),
    }
}

async fn prepare(
    state: &AppState,
    from: From,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Ask, Arc<Live>), ApiError> {
    let started = Instant::now();
    let live = state.live()?;
    let (body, room) = read_json(state, headers, body).await?;
    let object = json::object(&body).map_err(|error| ApiError::BadJson(error.to_string()))?;
    let model = live.model(field::<String>(&object, "model", "a string")?.as_deref())?;
    check(&object)?;
    let cache = cache_control(headers);
    let keep = Keep::new(&live, &from.caller, cache, (Operation::Embeddings, &model), object.members());
    let upstream = completions::with_model(&body, &object, &model, &[])?;
    let known = completions::known(&live, Operation::Embeddings, (&body, &object), &model, &upstream);
    let ask = Ask {
        caller: from.caller,
        id: from.id,
        trace: from.trace,
        room,
        operation: Operation::Embeddings,
        body: upstream,
        known,
        form: Form::Chunks,
        stream: false,
        include_usage: false,
        cache,
        keep,
        conversation: None,
        model,
        started,
    };
    Ok((ask, live))
}

fn check(object: &Object<'_>) -> Result<(), ApiError> {
    const KINDS: &[(&str, Kind)] = &[("user", Kind::Text)];
    let allowed =
        "a text, an array of texts, an array of tokens or an array of arrays of tokens, and not empty";
    field::<Input>(object, "input", allowed)?.ok_or_else(|| invalid("input", allowed))?;
    let allowed = "float or base64";
    let format: Option<String> = field(object, "encoding_format", allowed)?;
    if format.is_some_and(|format| !["float", "base64"].contains(&format.as_str())) {
        return Err(invalid("encoding_format", allowed));
    }
    let allowed = "a whole number, at least 1";
    if field::<u32>(object, "dimensions", allowed)? == Some(0) {
        return Err(invalid("dimensions", allowed));
    }
    // Neither changes what is embedded, and neither is part of the cache's key: a backend that knew them is asked for none.
    for stream in ["stream", "stream_options"] {
        if object.non_null(stream).is_some_and(|value| value != b"false") {
            let message = format!("`{stream}` is not for embeddings: leave it out");
            return Err(ApiError::InvalidField { field: stream.to_owned(), message });
        }
    }
    check_kinds(object, KINDS)
}

/// An `input` of an allowed form. Read without keeping any of it: a body holds millions of tokens.
enum Input {
    Text,
    Token,
    Tokens,
    Texts,
    TokenLists,
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_any(InputVisitor)? {
            Self::Token => Err(D::Error::custom("a token alone")),
            input => Ok(input),
        }
    }
}

/// What stands in an array: like an input, but a single token too.
struct Element(Input);

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputVisitor).map(Self)
    }
}

struct InputVisitor;

impl<'de> Visitor<'de> for InputVisitor {
    type Value = Input;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("texts or tokens")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Input, E> {
        if text.is_empty() { Err(E::custom("empty")) } else { Ok(Input::Text) }
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Input, E> {
        Ok(Input::Token)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Input, A::Error> {
        let mut form = None;
        while let Some(Element(element)) = array.next_element()? {
            form = Some(match (form, element) {
                (None | Some(Input::Texts), Input::Text) => Input::Texts,
                (None | Some(Input::Tokens), Input::Token) => Input::Tokens,
                (None | Some(Input::TokenLists), Input::Tokens) => Input::TokenLists,
                _ => return Err(A::Error::custom("mixed")),
            });
        }
        form.ok_or_else(|| A::Error::custom("empty"))
    }
}
