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
        Self { all, default }
    }

    /// The model with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Model>> {
        self.all.iter().find(|model| *model.name == *name)
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
