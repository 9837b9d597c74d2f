//! What the caller calls what a backend names. In: the `param` of a backend's refusal, which speaks of the chat completion that
//! it was asked. Out: the member of the request that this was made of, or none: never a name that the caller has not sent.

use super::chat::Origin;
use crate::server::backend::BackendError;
use crate::server::error::ApiError;

/// Members of a chat completion and what they are made of.
const MEMBERS: [(&str, &str); 13] = [
    ("model", "model"),
    ("tools", "tools"),
    ("tool_choice", "tool_choice"),
    ("parallel_tool_calls", "parallel_tool_calls"),
    ("response_format", "text.format"),
    ("reasoning_effort", "reasoning.effort"),
    ("verbosity", "text.verbosity"),
    ("user", "user"),
    ("max_completion_tokens", "max_output_tokens"),
    // By its other name, which a model's `maxTokensField` may ask for.
    ("max_tokens", "max_output_tokens"),
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("stream", "stream"),
];

/// Where what a backend is sent comes from.
#[derive(Default)]
pub struct Names {
    /// Of each message, as the caller calls it.
    messages: Vec<Option<String>>,
    /// Members of the chat completion that were made of the caller's.
    sent: Vec<String>,
}

impl Names {
    /// Of messages of this origin, of which the first `before` items are those of earlier responses; `as_text`: the caller's
    /// input is a text, and so has no elements. `sent` are the members of the chat completion.
    #[must_use]
    pub fn new(origins: &[Origin], before: usize, as_text: bool, sent: Vec<String>) -> Self {
        let name = |origin: &Origin| match origin {
            Origin::Instructions => Some("instructions".to_owned()),
            Origin::Item(place) => Some(match place.checked_sub(before) {
                None => "previous_response_id".to_owned(),
                Some(_) if as_text => "input".to_owned(),
                Some(place) => format!("input[{place}]"),
            }),
            Origin::Service | Origin::Several => None,
        };
        Self { messages: origins.iter().map(name).collect(), sent }
    }

    /// The error as the caller is told it. The backend's words stay as they are.
    #[must_use]
    pub fn translate(&self, mut error: ApiError) -> ApiError {
        if let ApiError::Backend(BackendError::Rejected { param, .. }) = &mut error {
            *param = param.as_deref().and_then(|param| self.of(param));
        }
        error
    }

    fn has(&self, member: &str) -> bool {
        self.sent.iter().any(|sent| sent == member)
    }

    /// The caller's name of a path such as `messages[1].content[0].text`.
    fn of(&self, param: &str) -> Option<String> {
        let end = param.find(['.', '[']).unwrap_or(param.len());
        let (member, rest) = param.split_at(end);
        let index = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(index, _)| index);
        match (member, index) {
            ("messages", None) => Some("input".to_owned()),
            ("messages", Some(index)) => self.messages.get(index.parse::<usize>().ok()?)?.clone(),
            ("tools", Some(index)) if self.has("tools") => {
                index.parse::<usize>().ok().map(|index| format!("tools[{index}]"))
            }
            _ => {
                let (_, name) = MEMBERS.iter().find(|(known, _)| *known == member)?;
                let mut makers = MEMBERS.iter().filter(|(_, of)| of == name).map(|(known, _)| *known);
                makers.any(|known| self.has(known)).then(|| (*name).to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &Names, param: &str) -> Option<String> {
        let refused = BackendError::Rejected {
            status: 400,
            message: "no".to_owned(),
            kind: None,
            param: Some(param.to_owned()),
            code: None,
        };
        match names.translate(refused.into()) {
            ApiError::Backend(BackendError::Rejected { param, message, .. }) => {
                assert_eq!(message, "no");
                param
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn what_a_backend_names_is_told_by_the_name_that_the_caller_gave_it() {
        let origins =
            [Origin::Instructions, Origin::Item(0), Origin::Several, Origin::Item(2), Origin::Item(3)];
        let sent =
            ["model", "messages", "tools", "max_completion_tokens", "response_format"].map(str::to_owned);
        let names = Names::new(&origins, 2, false, sent.to_vec());
        for (param, name) in [
            ("messages", Some("input")),
            ("messages[0].content", Some("instructions")),
            ("messages[1]", Some("previous_response_id")),
            ("messages[2].tool_calls[0].function.name", None),
            ("messages[3].content[0].image_url", Some("input[0]")),
            ("messages[4].role", Some("input[1]")),
            ("messages[5]", None),
            ("messages[-1]", None),
            ("messages[", Some("input")),
            ("max_tokens", Some("max_output_tokens")),
            ("response_format.json_schema.schema", Some("text.format")),
            ("tools", Some("tools")),
            ("tools[1].function.parameters", Some("tools[1]")),
            ("tools[x]", None),
            // Nothing that the caller has sent.
            ("temperature", None),
            ("stream_options", None),
            ("what.ever", None),
            ("", None),
        ] {
            assert_eq!(named(&names, param).as_deref(), name, "{param}");
        }
        let text = Names::new(&[Origin::Service, Origin::Item(0)], 0, true, Vec::new());
        assert_eq!(named(&text, "messages[0]"), None, "the service's own prompt");
        assert_eq!(named(&text, "messages[1].content").as_deref(), Some("input"));
        for own in ["max_completion_tokens", "tools[0].type"] {
            assert_eq!(named(&text, own), None, "nobody sent {own}");
        }
    }
}
