//! A request's body as one model's call needs it. In: the body with the name that callers use for the model. Out: the
//! same bytes with what differs from model to model put right: its name, the name and size of the output cap, and
//! members that it refuses. Every other byte stays as it is, in its place.

use bytes::Bytes;

use super::json::{self, Edit, Object};
use super::models::Model;
use super::operation::Operation;

/// What callers may call the output cap; both are honoured.
pub const CAP_FIELDS: [&str; 2] = ["max_completion_tokens", "max_tokens"];

/// A member that must be a number of tokens and is none. Names the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotTokens(pub &'static str);

/// The most tokens that a request wants: the smaller of both members where both are there. None: it does not say.
pub fn output_cap(object: &Object<'_>) -> Result<Option<u32>, NotTokens> {
    let mut cap: Option<u32> = None;
    for field in CAP_FIELDS {
        if object.non_null(field).is_none() {
            continue;
        }
        let wanted = object.parse::<u32>(field).and_then(Result::ok).filter(|wanted| *wanted > 0);
        let wanted = wanted.ok_or(NotTokens(field))?;
        cap = Some(cap.map_or(wanted, |cap| cap.min(wanted)));
    }
    Ok(cap)
}

/// The cap that goes upstream: what the request wants within what the model can. A request that wants none has the
/// model's where money must be reserved for the worst case, which then has to be the worst case.
#[must_use]
pub fn effective_cap(wanted: Option<u32>, model: &Model, always: bool) -> Option<u32> {
    match (wanted, model.max_output_tokens) {
        (Some(wanted), Some(most)) => Some(wanted.min(most)),
        (Some(wanted), None) => Some(wanted),
        (None, most) => most.filter(|_| always),
    }
}

/// What a route has read of the body that it passes on, so that nobody need read it again.
#[derive(Clone, Debug)]
pub struct Known {
    /// The most tokens of one choice that it wants, if it says.
    pub cap: Option<u32>,
    /// Answers that it wants, if it says: `n`.
    pub choices: Option<u64>,
    /// The body for a call to the model that it asks for.
    pub for_asked: Bytes,
}

impl Known {
    /// Of `body`, which is `object`, for a request of this operation that asks for `model`; `always_capped` as in
    /// [`effective_cap`].
    #[must_use]
    pub fn of(
        operation: Operation,
        (body, object): (&Bytes, &Object<'_>),
        model: &Model,
        always_capped: bool,
    ) -> Self {
        let cap = output_cap(object).unwrap_or_default();
        let choices = object.parse("n").and_then(Result::ok);
        Self { cap, choices, for_asked: edited(operation, (body, object), model, always_capped) }
    }
}

/// The body for a call to `model`; `always_capped` as in [`effective_cap`]. What is not a JSON object stays as it is.
#[must_use]
pub fn for_model(operation: Operation, body: &Bytes, model: &Model, always_capped: bool) -> Bytes {
    match json::object(body) {
        Ok(object) => edited(operation, (body, &object), model, always_capped),
        Err(_) => body.clone(),
    }
}

fn edited(
    operation: Operation,
    (body, object): (&Bytes, &Object<'_>),
    model: &Model,
    always_capped: bool,
) -> Bytes {
    let quoted = serde_json::Value::from(&*model.upstream).to_string();
    let mut edits = Vec::new();
    let named = object.get("model") == Some(quoted.as_bytes());
    if !named && object.parse::<String>("model") != Some(Ok(model.upstream.to_string())) {
        edits.push(Edit::Set { key: "model", value: quoted.as_bytes() });
    }
    let wanted = output_cap(object).unwrap_or_default();
    let cap = effective_cap(wanted, model, always_capped).filter(|_| operation.generates());
    let cap = cap.map(|cap| cap.to_string());
    let cap_field = model.max_tokens_field.as_str();
    if let Some(cap) = &cap {
        for other in CAP_FIELDS {
            if other != cap_field && object.get(other).is_some() {
                edits.push(Edit::Remove { key: other });
            }
        }
        if object.get(cap_field) != Some(cap.as_bytes()) {
            edits.push(Edit::Set { key: cap_field, value: cap.as_bytes() });
        }
    }
    for key in &model.omit {
        if object.get(key).is_some() {
            edits.push(Edit::Remove { key });
        }
    }
    if edits.is_empty() { body.clone() } else { Bytes::from(object.rewrite(&edits)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::MaxTokensField;
    use crate::server::config::{BackendConfig, DynamicConfig, ModelConfig};
    use crate::server::models::Models;

    /// `m`, called `m-large` upstream.
    fn model(field: MaxTokensField, most: Option<u32>, omit: &[&str]) -> Model {
        let mut config = DynamicConfig::new("m", BackendConfig::Echo {});
        config.models = vec![ModelConfig {
            upstream_model: Some("m-large".to_owned()),
            max_tokens_field: Some(field),
            max_output_tokens: most,
            omit: omit.iter().map(|key| (*key).to_owned()).collect(),
            ..ModelConfig::named("m")
        }];
        Model::clone(Models::new(&config).default())
    }

    fn rewritten(body: &str, model: &Model, always: bool) -> String {
        told(Operation::Chat, body, model, always)
    }

    fn told(operation: Operation, body: &str, model: &Model, always: bool) -> String {
        let body = Bytes::copy_from_slice(body.as_bytes());
        String::from_utf8(for_model(operation, &body, model, always).to_vec()).unwrap()
    }

    #[test]
    fn what_writes_no_answer_has_no_cap() {
        let model = model(MaxTokensField::MaxTokens, Some(100), &["dimensions"]);
        let told = |body| told(Operation::Embeddings, body, &model, true);
        assert_eq!(told(r#"{"input":"a","dimensions":8,"model":"m"}"#), r#"{"input":"a","model":"m-large"}"#);
        assert_eq!(told(r#"{"model":"m","max_tokens":7}"#), r#"{"model":"m-large","max_tokens":7}"#);
    }

    #[test]
    fn a_body_changes_where_the_model_differs_and_nowhere_else() {
        use MaxTokensField::{MaxCompletionTokens as New, MaxTokens as Old};
        let cases: [(&str, Model, &str); 13] = [
            (r#"{"model":"m","a":1.50}"#, model(Old, None, &[]), r#"{"model":"m-large","a":1.50}"#),
            (
                "{ \"z\" : 123456789012345678901 ,\"model\": \"m\",\n\"a\":\"\\u00e9\" } ",
                model(Old, None, &[]),
                "{ \"z\" : 123456789012345678901 ,\"model\": \"m-large\",\n\"a\":\"\\u00e9\" } ",
            ),
            (r#"{"model":"m-large"}"#, model(Old, None, &[]), r#"{"model":"m-large"}"#),
            (r#"{"model":"m\u002dlarge"}"#, model(Old, None, &[]), r#"{"model":"m\u002dlarge"}"#),
            (r#"{"a":1}"#, model(Old, None, &[]), r#"{"a":1,"model":"m-large"}"#),
            (
                r#"{"model":"m","max_tokens":7,"b":2}"#,
                model(Old, None, &[]),
                r#"{"model":"m-large","max_tokens":7,"b":2}"#,
            ),
            (
                r#"{"max_tokens":7,"model":"m","b":2}"#,
                model(New, None, &[]),
                r#"{"model":"m-large","b":2,"max_completion_tokens":7}"#,
            ),
            (
                r#"{"max_completion_tokens":7,"model":"m"}"#,
                model(Old, None, &[]),
                r#"{"model":"m-large","max_tokens":7}"#,
            ),
            (
                r#"{"max_completion_tokens":7,"max_tokens":5,"model":"m"}"#,
                model(New, None, &[]),
                r#"{"max_completion_tokens":5,"model":"m-large"}"#,
            ),
            (
                r#"{"max_tokens":null,"max_completion_tokens":5,"model":"m"}"#,
                model(Old, None, &[]),
                r#"{"max_tokens":5,"model":"m-large"}"#,
            ),
            (
                r#"{"max_tokens":900,"model":"m"}"#,
                model(Old, Some(100), &[]),
                r#"{"max_tokens":100,"model":"m-large"}"#,
            ),
            (
                r#"{"model":"m","temperature":1,"x":0,"logit_bias":{"temperature":2}}"#,
                model(Old, None, &["temperature", "seed"]),
                r#"{"model":"m-large","x":0,"logit_bias":{"temperature":2}}"#,
            ),
            ("not json", model(Old, None, &[]), "not json"),
        ];
        for (body, model, expected) in cases {
            assert_eq!(rewritten(body, &model, false), expected, "{body}");
        }
    }

    #[test]
    fn a_request_without_a_cap_gets_the_models_only_where_the_worst_case_must_be_known() {
        let capped = model(MaxTokensField::MaxTokens, Some(100), &[]);
        let unknown = model(MaxTokensField::MaxTokens, None, &[]);
        let body = r#"{"model":"m"}"#;
        assert_eq!(rewritten(body, &capped, true), r#"{"model":"m-large","max_tokens":100}"#);
        assert_eq!(rewritten(body, &capped, false), r#"{"model":"m-large"}"#);
        assert_eq!(rewritten(body, &unknown, true), r#"{"model":"m-large"}"#);
    }

    #[test]
    fn a_cap_is_a_positive_whole_number_and_the_smaller_of_two_counts() {
        let cap = |body: &str| output_cap(&json::object(body.as_bytes()).unwrap());
        for (body, expected) in [
            (r"{}", Ok(None)),
            (r#"{"max_tokens":null}"#, Ok(None)),
            (r#"{"max_tokens":5}"#, Ok(Some(5))),
            (r#"{"max_tokens":5,"max_completion_tokens":9}"#, Ok(Some(5))),
            (r#"{"max_tokens":0}"#, Err(NotTokens("max_tokens"))),
            (r#"{"max_tokens":-1}"#, Err(NotTokens("max_tokens"))),
            (r#"{"max_tokens":1.5}"#, Err(NotTokens("max_tokens"))),
            (r#"{"max_completion_tokens":"5"}"#, Err(NotTokens("max_completion_tokens"))),
            (r#"{"max_completion_tokens":4294967296}"#, Err(NotTokens("max_completion_tokens"))),
        ] {
            assert_eq!(cap(body), expected, "{body}");
        }
    }
}
