//! The models that callers may ask for. In: the configuration. Out: [`Model`], with its price and its cap's name decided.

use std::sync::Arc;

use super::config::{BackendConfig, DynamicConfig, ModelConfig};
use super::pricing::{self, Price};
use crate::crd::MaxTokensField;

/// A model that callers may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// What callers call it; also its metric label.
    pub name: Arc<str>,
    /// What the backend calls it.
    pub upstream: Arc<str>,
    /// Its price, when known.
    pub price: Option<Price>,
    /// Most tokens of an answer, where it is known.
    pub max_output_tokens: Option<u32>,
    /// What is tried in this order when this model has no answer.
    pub fallbacks: Vec<Arc<str>>,
    /// What its output cap is called.
    pub max_tokens_field: MaxTokensField,
    /// Members of a request that it refuses.
    pub omit: Vec<String>,
}

impl Model {
    fn new(config: &ModelConfig, backend: &BackendConfig) -> Self {
        let upstream = config.upstream_model.as_deref().unwrap_or(&config.name);
        let given = config.price.as_ref().and_then(|price| {
            Price::per_million(&price.input_per_million_tokens, &price.output_per_million_tokens)
        });
        let price = given.or_else(|| match backend {
            BackendConfig::Echo {} => Some(Price::FREE),
            BackendConfig::OpenAi { .. } => pricing::price_of(upstream),
        });
        let usual = match backend {
            BackendConfig::OpenAi { base_url, .. } if base_url.starts_with("https://api.openai.com/") => {
                MaxTokensField::MaxCompletionTokens
            }
            _ => MaxTokensField::MaxTokens,
        };
        Self {
            name: Arc::from(config.name.as_str()),
            upstream: Arc::from(upstream),
            price,
            max_output_tokens: config.max_output_tokens,
            fallbacks: config.fallbacks.iter().map(|name| Arc::from(name.as_str())).collect(),
            max_tokens_field: config.max_tokens_field.unwrap_or(usual),
            omit: config.omit.clone(),
        }
    }
}

/// All of a service's, in the order of the spec.
#[derive(Clone, Debug)]
pub struct Models {
    all: Vec<Arc<Model>>,
    /// For each of them, in the same order, what is tried for it.
    chains: Vec<Arc<[Arc<Model>]>>,
    default: Arc<Model>,
}

impl Models {
    /// Decides every model. A default that is not among them, which the operator refuses, is added.
    #[must_use]
    pub fn new(config: &DynamicConfig) -> Self {
        let mut all: Vec<Arc<Model>> =
            config.models.iter().map(|model| Arc::new(Model::new(model, &config.backend))).collect();
        let default = all.iter().find(|model| *model.name == *config.model).cloned().unwrap_or_else(|| {
            let added = Arc::new(Model::new(&ModelConfig::named(&config.model), &config.backend));
            all.push(added.clone());
            added
        });
        let chains = all.iter().map(|model| chain(model, &all)).collect();
        Self { all, chains, default }
    }

    /// The model with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Model>> {
        self.all.iter().find(|model| *model.name == *name)
    }

    /// What is tried for a request for this model: itself, then its fallbacks and theirs, none twice.
    #[must_use]
    pub fn chain(&self, model: &Arc<Model>) -> Arc<[Arc<Model>]> {
        let position = self.all.iter().position(|other| Arc::ptr_eq(other, model));
        let chain = position.and_then(|position| self.chains.get(position)).cloned();
        chain.unwrap_or_else(|| Arc::from([model.clone()]))
    }

    /// What a request gets that names none.
    #[must_use]
    pub fn default(&self) -> &Arc<Model> {
        &self.default
    }

    /// All, in the order of the spec.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.all.iter()
    }
}

/// Depth first, in the order of the spec. A fallback that is not there, which the operator refuses, is left out.
fn chain(model: &Arc<Model>, all: &[Arc<Model>]) -> Arc<[Arc<Model>]> {
    let mut chain: Vec<Arc<Model>> = Vec::new();
    let mut next = vec![model.clone()];
    while let Some(model) = next.pop() {
        if chain.iter().any(|tried| tried.name == model.name) {
            continue;
        }
        let named = |name: &Arc<str>| all.iter().find(|other| other.name == *name).cloned();
        next.extend(model.fallbacks.iter().rev().filter_map(named));
        chain.push(model);
    }
    chain.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each model's name and its fallbacks.
    type Spec<'a> = &'a [(&'a str, &'a [&'a str])];

    fn models(spec: Spec) -> Models {
        let mut config = DynamicConfig::new("a", BackendConfig::Echo {});
        config.models = spec
            .iter()
            .map(|(name, fallbacks)| ModelConfig {
                fallbacks: fallbacks.iter().map(|name| (*name).to_owned()).collect(),
                ..ModelConfig::named(name)
            })
            .collect();
        Models::new(&config)
    }

    #[test]
    fn fallbacks_are_followed_in_order_and_none_is_tried_twice() {
        let cases: [(Spec, &[&str]); 5] = [
            (&[("a", &[])], &["a"]),
            (&[("a", &["b", "c"]), ("b", &[]), ("c", &[])], &["a", "b", "c"]),
            (&[("a", &["b", "c"]), ("b", &["d"]), ("c", &[]), ("d", &[])], &["a", "b", "d", "c"]),
            (&[("a", &["b"]), ("b", &["a"])], &["a", "b"]),
            (&[("a", &["gone", "b"]), ("b", &[])], &["a", "b"]),
        ];
        for (spec, expected) in cases {
            let models = models(spec);
            let chain = models.chain(models.default());
            let names: Vec<&str> = chain.iter().map(|model| &*model.name).collect();
            assert_eq!(names, expected, "{spec:?}");
        }
    }

    #[test]
    fn the_output_cap_is_named_as_the_backend_wants_it() {
        let field = |base_url: &str, given| {
            let backend = BackendConfig::OpenAi { base_url: base_url.to_owned(), proxy_url: None };
            let config = ModelConfig { max_tokens_field: given, ..ModelConfig::named("m") };
            Model::new(&config, &backend).max_tokens_field
        };
        let given = MaxTokensField::MaxTokens;
        assert_eq!(field("https://api.openai.com/v1", None), MaxTokensField::MaxCompletionTokens);
        assert_eq!(field("https://api.openai.com/v1", Some(given)), given);
        assert_eq!(field("https://llm.example/v1", None), MaxTokensField::MaxTokens);
    }
}
