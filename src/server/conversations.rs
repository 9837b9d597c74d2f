//! Conversations. In: what a caller sent and what the store holds. Out: ids, the messages that go upstream, and how much
//! of a conversation is kept. Pure but for the random ids.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use uuid::{Uuid, Version};

use super::config::ConversationConfig;
use super::pricing::NanoUsd;
use super::settlement::Usage;
use super::store::{ConversationId, Retention, Said, StoredTurn, Turn};

/// A message as a backend is sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct UpstreamMessage<'a> {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// The text, as it was written.
    pub content: &'a str,
}

/// A new id. Its 122 random bits are what keeps others out of a conversation.
#[must_use]
pub fn new_id() -> ConversationId {
    ConversationId(Uuid::new_v4())
}

/// The id in a request: a UUID v4 in its usual form of 36 characters. None for what we cannot have given out.
#[must_use]
pub fn parse_id(text: &str) -> Option<ConversationId> {
    // The other forms that the parser knows (braces, no hyphens, urn:) are not what we give out.
    let id = (text.len() == 36).then(|| Uuid::try_parse(text).ok())??;
    (id.get_version() == Some(Version::Random)).then_some(ConversationId(id))
}

/// What goes upstream: the system prompt, the latest whole turns of the history, and what the caller wrote now.
#[must_use]
pub fn messages<'a>(
    system_prompt: Option<&'a str>,
    history: &'a [Arc<StoredTurn>],
    user: &'a str,
    retention: Retention,
) -> Vec<UpstreamMessage<'a>> {
    let system = system_prompt.map(|content| UpstreamMessage { role: "system", content });
    let history = fitting(history, retention).iter().flat_map(|turn| {
        [
            UpstreamMessage { role: "user", content: &turn.said.user },
            UpstreamMessage { role: "assistant", content: &turn.said.assistant },
        ]
    });
    let user = UpstreamMessage { role: "user", content: user };
    system.into_iter().chain(history).chain([user]).collect()
}

/// The latest whole turns whose messages and tokens fit (`store/append_turn.lua` is the same rule inside Redis). None
/// where the last one does not.
#[must_use]
pub fn fitting(turns: &[Arc<StoredTurn>], retention: Retention) -> &[Arc<StoredTurn>] {
    let most = usize::try_from(retention.max_turns()).unwrap_or(usize::MAX);
    let mut tokens = 0_u64;
    let latest = turns.iter().rev().take(most).take_while(|turn| {
        tokens += u64::from(turn.tokens);
        retention.max_tokens.is_none_or(|max| tokens <= u64::from(max))
    });
    let first = turns.len() - latest.count();
    turns.get(first..).unwrap_or_default()
}

/// A turn as it is stored. Its own tokens are what the backend reported for the answer, and an estimate of the question,
/// because what is reported for a prompt is that of the whole history. `usage` and `cost` are what the caller is told.
#[must_use]
pub fn turn(said: Said, first: bool, usage: Option<Usage>, cost: Option<NanoUsd>) -> Turn {
    let answer = usage.map_or_else(|| estimate(&said.assistant), |usage| usage.completion_tokens);
    let tokens = clamped(estimate(&said.user).saturating_add(answer));
    let used = usage.map_or(tokens, |usage| clamped(usage.total()));
    Turn { said, first, tokens, used, cost }
}

/// Tokens of a text, by the usual rule of thumb of four bytes each.
fn estimate(text: &str) -> u64 {
    text.len().div_ceil(4) as u64
}

fn clamped(tokens: u64) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

impl From<&ConversationConfig> for Retention {
    fn from(config: &ConversationConfig) -> Self {
        Self {
            max_messages: config.max_messages,
            max_tokens: config.max_tokens,
            ttl: Duration::from_millis(config.ttl_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A turn for each number of tokens.
    fn turns(tokens: &[u32]) -> Vec<Arc<StoredTurn>> {
        let said = |turn| Said { user: format!("q{turn}"), assistant: format!("a{turn}") };
        let turns = tokens.iter().enumerate();
        turns.map(|(turn, &tokens)| Arc::new(StoredTurn { said: said(turn), tokens })).collect()
    }

    fn retention(max_messages: u32, max_tokens: Option<u32>) -> Retention {
        Retention { max_messages, max_tokens, ttl: Duration::from_hours(1) }
    }

    #[test]
    fn ids_are_version_4_in_the_usual_form() {
        let id = new_id();
        assert_eq!(parse_id(&id.0.to_string()), Some(id));
        for text in [
            "",
            "1",
            "c232ab00-9414-11ec-b3c8-9f6bdeced846",
            "00000000-0000-0000-0000-000000000000",
            "9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a69",
            "{9b2c7f0e-5d3a-4c1b-8a6e-1f2d3c4b5a69}",
            "9b2c7f0e-5d3a-4c1b-8a6e-1f2d3c4b5a6g",
        ] {
            assert_eq!(parse_id(text), None, "{text}");
        }
    }

    #[test]
    fn history_is_trimmed_turn_by_turn_until_messages_and_tokens_fit() {
        let all = turns(&[10, 20, 5]);
        for (messages, tokens, kept) in [
            (0, None, 0),
            (1, None, 0),
            (2, None, 1),
            (3, None, 1),
            (5, None, 2),
            (200, None, 3),
            (200, Some(35), 3),
            (200, Some(34), 2),
            (200, Some(25), 2),
            (200, Some(24), 1),
            (200, Some(4), 0),
            (2, Some(35), 1),
        ] {
            let fitting = fitting(&all, retention(messages, tokens));
            assert_eq!(fitting, &all[3 - kept..], "{messages} messages, {tokens:?} tokens");
        }
        assert_eq!(fitting(&[], retention(20, None)), &[]);
    }

    #[test]
    fn a_turn_counts_what_is_reported_and_estimates_the_rest() {
        let said = || Said { user: "12345".to_owned(), assistant: "123456789".to_owned() };
        let usage = |prompt_tokens, completion_tokens| Some(Usage { prompt_tokens, completion_tokens });
        for (usage, tokens, used) in
            [(None, 2 + 3, 5), (usage(100, 7), 2 + 7, 107), (usage(u64::MAX, u64::MAX), u32::MAX, u32::MAX)]
        {
            let turn = turn(said(), true, usage, Some(NanoUsd(9)));
            assert_eq!((turn.tokens, turn.used, turn.cost), (tokens, used, Some(NanoUsd(9))), "{usage:?}");
        }
    }

    #[test]
    fn upstream_gets_system_history_and_the_new_message_in_this_order() {
        let config = ConversationConfig { ttl_ms: 1000, max_messages: 2, max_tokens: Some(100) };
        let retention = Retention::from(&config);
        assert_eq!((retention.ttl, retention.max_tokens), (Duration::from_secs(1), Some(100)));
        let history = turns(&[1, 1]);
        let sent = messages(Some("be brief"), &history, "hello \"there\"", retention);
        assert_eq!(
            serde_json::to_string(&sent).unwrap(),
            r#"[{"role":"system","content":"be brief"},{"role":"user","content":"q1"},{"role":"assistant","content":"a1"},{"role":"user","content":"hello \"there\""}]"#
        );
        assert_eq!(messages(None, &[], "hi", retention).len(), 1);
    }
}
