//! Conversations. In: what a caller sent and what the store holds. Out: ids, the messages that go upstream, and how much
//! of a conversation is kept. Pure but for the random ids.

use std::time::Duration;

use serde::Serialize;
use uuid::{Uuid, Version};

use super::config::ConversationConfig;
use super::store::{ConversationId, Retention, Role, StoredMessage};

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
    history: &'a [StoredMessage],
    user: &'a str,
    retention: Retention,
) -> Vec<UpstreamMessage<'a>> {
    let system = system_prompt.map(|content| UpstreamMessage { role: "system", content });
    let history = trim(history, retention.max_messages)
        .iter()
        .map(|message| UpstreamMessage { role: message.role.as_str(), content: &message.content });
    let user = UpstreamMessage { role: "user", content: user };
    system.into_iter().chain(history).chain([user]).collect()
}

/// The latest whole turns that fit `max_messages`. A turn begins with a user's message; what comes before the first
/// one is half a turn and is left out.
#[must_use]
pub fn trim(messages: &[StoredMessage], max_messages: u32) -> &[StoredMessage] {
    let max = usize::try_from(max_messages).unwrap_or(usize::MAX);
    let starts = |index: &usize| messages.get(*index).is_some_and(|message| message.role == Role::User);
    let first = (messages.len().saturating_sub(max)..messages.len()).find(starts).unwrap_or(messages.len());
    messages.get(first..).unwrap_or_default()
}

impl From<&ConversationConfig> for Retention {
    fn from(config: &ConversationConfig) -> Self {
        Self { max_messages: config.max_messages, ttl: Duration::from_millis(config.ttl_ms) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(count: usize) -> Vec<StoredMessage> {
        (0..count)
            .flat_map(|turn| {
                [(Role::User, 'q'), (Role::Assistant, 'a')]
                    .map(|(role, letter)| StoredMessage { role, content: format!("{letter}{turn}") })
            })
            .collect()
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
    fn history_is_trimmed_turn_by_turn() {
        let all = turns(3);
        for (max, kept) in [(0, 0), (1, 0), (2, 2), (3, 2), (4, 4), (5, 4), (6, 6), (200, 6)] {
            assert_eq!(trim(&all, max), &all[6 - kept..], "max {max}");
        }
        assert_eq!(trim(&all[1..], 200), &all[2..], "half a turn is left out");
        assert_eq!(trim(&[], 20), &[]);
    }

    #[test]
    fn upstream_gets_system_history_and_the_new_message_in_this_order() {
        let retention =
            Retention::from(&ConversationConfig { ttl_ms: 1000, max_messages: 2, max_tokens: None });
        assert_eq!(retention.ttl, Duration::from_secs(1));
        let history = turns(2);
        let sent = messages(Some("be brief"), &history, "hello \"there\"", retention);
        assert_eq!(
            serde_json::to_string(&sent).unwrap(),
            r#"[{"role":"system","content":"be brief"},{"role":"user","content":"q1"},{"role":"assistant","content":"a1"},{"role":"user","content":"hello \"there\""}]"#
        );
        assert_eq!(messages(None, &[], "hi", retention).len(), 1);
    }
}
