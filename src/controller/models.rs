//! The models of a ChatService. In: `spec.model`, `spec.models`. Out: what servers are told of them, with every problem
//! pushed to [`Checks`]. Pure. The sentences are those of the schema's rules.

use std::collections::{HashMap, HashSet};

use super::check::{self, Checks};
use crate::crd::{ChatServiceSpec, Model, ModelPrice};
use crate::server::config::{BackendConfig, ModelConfig, PriceConfig};
use crate::server::pricing;
use crate::server::upstream_body::CAP_FIELDS;

const FIELD: &str = "spec.models";
/// Models at most.
const MODELS_MAX: usize = 64;
/// Fallbacks of a model at most, and models on a way along fallbacks.
const FALLBACKS_MAX: usize = 8;
/// Members left out at most.
const OMIT_MAX: usize = 16;
/// Without these a request is none, or costs more than was reserved.
const NEVER_OMITTED: [&str; 5] = ["model", "messages", "stream", CAP_FIELDS[0], CAP_FIELDS[1]];
const MODEL_NAME: &str = "must be a model name: 1 to 128 letters, digits or . _ : / @ -, beginning with a letter or digit, such as gpt-4o-mini";

/// Every model that callers may ask for: those of the spec, or `spec.model` alone.
pub(super) fn of(spec: &ChatServiceSpec, checks: &mut Checks) -> Vec<ModelConfig> {
    if !check::model_name(&spec.model) {
        checks.push("spec.model", MODEL_NAME);
    }
    let Some(models) = &spec.models else { return vec![ModelConfig::named(&spec.model)] };
    if models.is_empty() {
        checks.push(FIELD, "must not be empty: leave it out for spec.model alone");
        return Vec::new();
    }
    if models.len() > MODELS_MAX {
        checks.push(FIELD, format!("must have at most {MODELS_MAX} entries"));
    }
    if !models.iter().any(|model| model.name == spec.model) {
        checks.push("spec.model", "must be the name of one of models: add it there, or name one that is");
    }
    between(models, checks);
    models.iter().enumerate().map(|(index, model)| one(index, model, checks)).collect()
}

/// What a budget needs of every model: without it no worst case can be reserved.
pub(super) fn need_known_costs(models: &[ModelConfig], backend: &BackendConfig, checks: &mut Checks) {
    let quoted = |without: &dyn Fn(&ModelConfig) -> bool| {
        let names = models.iter().filter(|model| without(model)).map(|model| format!("\"{}\"", model.name));
        names.collect::<Vec<_>>().join(", ")
    };
    let uncapped = quoted(&|model| model.max_output_tokens.is_none());
    if !uncapped.is_empty() {
        checks.push(
            "spec.budget",
            format!(
                "needs models, each with maxOutputTokens: a request reserves what its longest answer would cost, and that of {uncapped} is not known"
            ),
        );
    }
    let listed = |model: &ModelConfig| match backend {
        BackendConfig::Echo {} => true,
        BackendConfig::OpenAi { .. } => {
            pricing::price_of(model.upstream_model.as_deref().unwrap_or(&model.name)).is_some()
        }
    };
    let unpriced = quoted(&|model| model.price.is_none() && !listed(model));
    if !unpriced.is_empty() {
        checks.push(
            "spec.budget",
            format!(
                "needs a price of every model, and no list price of {unpriced} is known: set models[].price"
            ),
        );
    }
}

/// What holds between models: names are unique, fallbacks exist and come to an end.
fn between(models: &[Model], checks: &mut Checks) {
    let names: HashSet<&str> = models.iter().map(|model| model.name.as_str()).collect();
    if names.len() < models.len() {
        checks.push(FIELD, "two models have the same name: give each its own");
    }
    if models.iter().flat_map(fallbacks).any(|name| !names.contains(name)) {
        checks.push(
            FIELD,
            "fallbacks must be names of models in this list: add the missing one, or take its name out",
        );
    }
    if !fallbacks_end(models) {
        checks.push(
            FIELD,
            "following fallbacks must end after at most 8 models and never come back to one that was tried: take one of them out",
        );
    }
}

fn fallbacks(model: &Model) -> impl Iterator<Item = &str> {
    model.fallbacks.iter().flatten().map(String::as_str)
}

/// Whether every way along fallbacks has at most [`FALLBACKS_MAX`] models: then none is a circle.
fn fallbacks_end(models: &[Model]) -> bool {
    // Models on the longest way from each, found for one length after the other.
    let mut begins: HashMap<&str, usize> = models.iter().map(|model| (model.name.as_str(), 1)).collect();
    for length in 2..=FALLBACKS_MAX + 1 {
        let before = begins.clone();
        for model in models {
            if fallbacks(model).any(|name| before.get(name) == Some(&(length - 1))) {
                begins.insert(&model.name, length);
            }
        }
    }
    begins.values().all(|length| *length <= FALLBACKS_MAX)
}

fn one(index: usize, model: &Model, checks: &mut Checks) -> ModelConfig {
    let field = |name: &str| format!("{FIELD}[{index}].{name}");
    if !check::model_name(&model.name) {
        checks.push(&field("name"), MODEL_NAME);
    }
    if model.upstream_model.as_ref().is_some_and(|name| !check::model_name(name)) {
        checks.push(&field("upstreamModel"), MODEL_NAME);
    }
    if let Some(max) = model.max_output_tokens {
        checks.range(&field("maxOutputTokens"), max, 1..=10_000_000);
    }
    let fallbacks = model.fallbacks.clone().unwrap_or_default();
    if fallbacks.len() > FALLBACKS_MAX {
        checks.push(&field("fallbacks"), format!("must have at most {FALLBACKS_MAX} entries"));
    }
    if fallbacks.iter().collect::<HashSet<_>>().len() < fallbacks.len() {
        checks.push(&field("fallbacks"), "names a model twice: once is enough");
    }
    let omit = model.omit.clone().unwrap_or_default();
    omitted(&field("omit"), &omit, checks);
    ModelConfig {
        name: model.name.clone(),
        upstream_model: model.upstream_model.clone(),
        price: model.price.as_ref().map(|given| price(&field("price"), given, checks)),
        max_output_tokens: model.max_output_tokens,
        fallbacks,
        max_tokens_field: model.max_tokens_field,
        omit,
    }
}

fn omitted(field: &str, omit: &[String], checks: &mut Checks) {
    if omit.len() > OMIT_MAX {
        checks.push(field, format!("must have at most {OMIT_MAX} entries"));
    }
    if !omit.iter().all(|name| check::member(name)) {
        checks
            .push(field, "must be names of members of a request: letters, digits and _, such as temperature");
    }
    if omit.iter().any(|name| NEVER_OMITTED.contains(&name.as_str())) {
        checks.push(
            field,
            "must not name model, messages or stream, nor the output cap: maxTokensField says what that is called",
        );
    }
}

fn price(field: &str, given: &ModelPrice, checks: &mut Checks) -> PriceConfig {
    for (part, text) in [
        ("inputPerMillionTokens", &given.input_per_million_tokens),
        ("outputPerMillionTokens", &given.output_per_million_tokens),
    ] {
        if check::nano_usd(text).is_none() {
            checks.push(
                &format!("{field}.{part}"),
                "must be USD as a decimal in quotes with at most six decimals, such as \"0.15\"",
            );
        }
    }
    PriceConfig {
        input_per_million_tokens: given.input_per_million_tokens.clone(),
        output_per_million_tokens: given.output_per_million_tokens.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Models from `a > b c, b > c, c`.
    fn models(text: &str) -> Vec<Model> {
        text.split(',')
            .map(|model| {
                let (name, fallbacks) = model.split_once('>').unwrap_or((model, ""));
                let fallbacks: Vec<&str> = fallbacks.split_whitespace().collect();
                serde_json::from_value(serde_json::json!({ "name": name.trim(), "fallbacks": fallbacks }))
                    .unwrap()
            })
            .collect()
    }

    #[test]
    fn ways_along_fallbacks_end() {
        for (text, ends) in [
            ("a", true),
            ("a > b, b", true),
            ("b, a > b", true),
            ("a > b c, b > c, c", true),
            ("a > a", false),
            ("a > b, b > a", false),
            ("a > b, b > c, c > b", false),
            ("x, a > x b, b > c, c > a", false),
            ("1 > 2, 2 > 3, 3 > 4, 4 > 5, 5 > 6, 6 > 7, 7 > 8, 8", true),
            ("8, 7 > 8, 6 > 7, 5 > 6, 4 > 5, 3 > 4, 2 > 3, 1 > 2", true),
            ("1 > 2, 2 > 3, 3 > 4, 4 > 5, 5 > 6, 6 > 7, 7 > 8, 8 > 9, 9", false),
            ("a > missing", true),
        ] {
            assert_eq!(fallbacks_end(&models(text)), ends, "{text}");
        }
    }
}
