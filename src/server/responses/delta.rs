//! What a backend says in a chat completion. In: a whole one, or a chunk of one. Out: its first choice, and its usage as a
//! response has it.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::object::{InputTokens, OutputTokens, ResponseUsage};
use crate::server::completion;

/// A chunk, or a plain answer: `delta` and `message` have the same members.
#[derive(Deserialize)]
pub(super) struct Answer<'a> {
    #[serde(borrow)]
    pub(super) choices: Vec<Choice<'a>>,
    #[serde(borrow)]
    pub(super) usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub(super) struct Choice<'a> {
    #[serde(default)]
    pub(super) index: u32,
    #[serde(borrow, alias = "message")]
    pub(super) delta: Option<Delta<'a>>,
    #[serde(borrow)]
    pub(super) finish_reason: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
pub(super) struct Delta<'a> {
    #[serde(borrow)]
    pub(super) content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) refusal: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    pub(super) tool_calls: Option<Vec<Call<'a>>>,
}

#[derive(Deserialize)]
pub(super) struct Call<'a> {
    pub(super) index: Option<u32>,
    pub(super) id: Option<String>,
    #[serde(borrow)]
    pub(super) function: Option<Function<'a>>,
}

#[derive(Default, Deserialize)]
pub(super) struct Function<'a> {
    pub(super) name: Option<String>,
    #[serde(borrow)]
    pub(super) arguments: Option<Cow<'a, str>>,
}

/// What a usage says beyond its sums.
#[derive(Default, Deserialize)]
struct Details {
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct CompletionDetails {
    #[serde(default)]
    reasoning_tokens: Option<u64>,
}

/// None for what no call can have used.
pub(super) fn usage_of(raw: &RawValue) -> Option<ResponseUsage> {
    let usage = completion::usage(raw)?;
    let details: Details = serde_json::from_str(raw.get()).unwrap_or_default();
    let cached_tokens = details.prompt_tokens_details.and_then(|details| details.cached_tokens);
    let reasoning_tokens = details.completion_tokens_details.and_then(|details| details.reasoning_tokens);
    Some(ResponseUsage {
        input_tokens: usage.prompt_tokens,
        input_tokens_details: InputTokens {
            cached_tokens: cached_tokens.unwrap_or_default().min(usage.prompt_tokens),
        },
        output_tokens: usage.completion_tokens,
        output_tokens_details: OutputTokens {
            reasoning_tokens: reasoning_tokens.unwrap_or_default().min(usage.completion_tokens),
        },
        total_tokens: usage.total(),
        cost_usd: None,
    })
}
