//! What of OpenAI's API a request asks the backend for. In: an operation. Out: where it is called, what its answers are,
//! what it is called in traces and cache keys.

use serde::Deserialize;

use super::completion::{self, Answer, CompletionError};

/// An operation of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Operation {
    /// Chat completions: an answer, plain or streamed.
    #[default]
    Chat,
    /// Embeddings: vectors for texts, never streamed. They have no tokens of their own.
    Embeddings,
}

impl Operation {
    /// The path behind a backend's base URL.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/chat/completions",
            Self::Embeddings => "/embeddings",
        }
    }

    /// `gen_ai.operation.name`, as OpenTelemetry's conventions have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Embeddings => "embeddings",
        }
    }

    /// Whether a model writes an answer, token by token, which a cap can end.
    #[must_use]
    pub fn generates(self) -> bool {
        self == Self::Chat
    }

    /// Reads a plain answer.
    pub fn read(self, answer: &[u8]) -> Result<Answer, CompletionError> {
        match self {
            Self::Chat => completion::read(answer),
            Self::Embeddings => read_embeddings(answer),
        }
    }
}

fn read_embeddings(answer: &[u8]) -> Result<Answer, CompletionError> {
    #[derive(Deserialize)]
    struct List<'a> {
        data: Vec<Embedding<'a>>,
        #[serde(borrow)]
        usage: Option<&'a serde_json::value::RawValue>,
    }
    #[derive(Deserialize)]
    struct Embedding<'a> {
        #[serde(borrow, rename = "embedding")]
        _vector: &'a serde_json::value::RawValue,
    }
    let list: List<'_> =
        serde_json::from_slice(answer).map_err(|_| CompletionError::Not("list of embeddings"))?;
    let usage = list.usage.and_then(completion::usage);
    Ok(Answer { usage, complete: !list.data.is_empty(), ..Answer::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::settlement::Usage;

    #[test]
    fn a_list_of_embeddings_is_an_answer_with_a_usage_and_without_text() {
        let read = |answer: &str| Operation::Embeddings.read(answer.as_bytes());
        let whole = r#"{"object":"list","data":[{"embedding":[0.1],"index":0},{"embedding":"AAA="}],"usage":{"prompt_tokens":5,"total_tokens":5}}"#;
        let answer = read(whole).unwrap();
        assert_eq!(answer.usage, Some(Usage { prompt_tokens: 5, completion_tokens: 0 }));
        assert!(answer.complete && answer.text.is_empty() && answer.finish_reason.is_none());
        assert!(!read(r#"{"data":[]}"#).unwrap().complete, "nothing to keep");
        for other in ["{}", "[]", r#"{"data":[{"index":0}]}"#, r#"{"choices":[]}"#] {
            assert!(read(other).is_err(), "{other}");
        }
        assert!(Operation::Chat.read(whole.as_bytes()).is_err(), "another operation's answer is none");
    }
}
