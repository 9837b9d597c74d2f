//! A chat server outside a cluster and without a file: its configuration from the environment. In: variables that other
//! OpenAI tools read too. Out: a [`ServerConfig`], or which variable is wrong and what it may be. Pure, but for
//! [`variables`].
//!
//! The variables become a ChatService, and the operator's own function makes the configuration of it, so that what is
//! refused there is refused here.

use std::collections::BTreeMap;

use crate::constants::env;
use crate::controller::validate::{Problem, server_config as of_chat_service};
use crate::crd::{Auth, Backend, ChatService, ChatServiceSpec, OpenAiBackend, Redis, SecretRef};
use crate::server::config::{RequestLimit, ServerConfig};
use crate::server::config_file::ConfigError;

/// What is asked when [`env::OPENAI_BASE_URL`] is not set.
const DEFAULT_BASE_URL: &str = "https://api.openai.com/v1";
/// What is asked for when [`env::OPENAI_MODEL`] is not set.
pub const DEFAULT_MODEL: &str = "gpt-4o-mini";
/// Seconds, when [`env::RATE_LIMIT_WINDOW`] is not set.
const DEFAULT_WINDOW: u32 = 60;
/// A day.
const WINDOW_MAX: u32 = 86_400;
/// As `spec.rateLimits.requestsPerMinute`.
const REQUESTS_MAX: u32 = 1_000_000;

/// Everything that is read. Other variables, `HTTP_PROXY` among them, change nothing.
const NAMES: [&str; 7] = [
    env::API_KEYS,
    env::OPENAI_API_KEY,
    env::OPENAI_BASE_URL,
    env::OPENAI_MODEL,
    env::REDIS_URL,
    env::RATE_LIMIT_REQUESTS,
    env::RATE_LIMIT_WINDOW,
];

/// Variables by name, keys among them: never logged.
pub type Variables = BTreeMap<String, String>;

/// The process's own. An empty one counts as not set, because that is what Compose files make of it.
pub fn variables() -> Result<Variables, ConfigError> {
    let mut variables = Variables::new();
    for name in NAMES {
        match std::env::var(name) {
            Ok(value) if value.is_empty() => {}
            Ok(value) => {
                variables.insert(name.to_owned(), value);
            }
            Err(std::env::VarError::NotPresent) => {}
            Err(std::env::VarError::NotUnicode(_)) => return Err(wrong(name, "is not UTF-8 text")),
        }
    }
    Ok(variables)
}

/// The configuration that `variables` ask for: one model of one OpenAI-compatible API, one limit, no cache.
pub fn server_config(variables: &Variables) -> Result<ServerConfig, ConfigError> {
    let get = |name: &str| variables.get(name).map(String::as_str);
    if get(env::OPENAI_API_KEY).is_none() && get(env::OPENAI_BASE_URL).is_none() {
        return Err(wrong(
            env::OPENAI_API_KEY,
            "is not set: set it, or set OPENAI_BASE_URL to a model server that wants no key, or name a file with \
             --config. Without any key, chatservice local -f FILE serves a ChatService whose backend is echo",
        ));
    }
    // The names of the variables stand for the Secrets that hold the same in a cluster.
    let secret = |name: &str| get(name).map(|_| SecretRef { name: name.to_lowercase().replace('_', "-") });
    let backend = Backend {
        echo: None,
        openai: Some(OpenAiBackend {
            base_url: get(env::OPENAI_BASE_URL).unwrap_or(DEFAULT_BASE_URL).to_owned(),
            credentials_secret_ref: secret(env::OPENAI_API_KEY),
            proxy_url: None,
            ca_bundle_config_map_ref: None,
        }),
    };
    let spec = ChatServiceSpec {
        auth: secret(env::API_KEYS)
            .map(|secret| Auth { api_keys_secret_ref: Some(secret), ..Auth::default() }),
        redis: secret(env::REDIS_URL).map(|secret_ref| Redis { secret_ref }),
        ..ChatServiceSpec::new(get(env::OPENAI_MODEL).unwrap_or(DEFAULT_MODEL), backend)
    };
    let service = ChatService::new("serve", spec);
    let mut config = of_chat_service(&service).map_err(|problems| of_problems(&problems))?;
    config.dynamic.limits.requests = request_limit(variables)?;
    Ok(config)
}

fn request_limit(variables: &Variables) -> Result<Option<RequestLimit>, ConfigError> {
    let requests = whole(variables, env::RATE_LIMIT_REQUESTS, REQUESTS_MAX, "requests")?;
    let window = whole(variables, env::RATE_LIMIT_WINDOW, WINDOW_MAX, "seconds")?;
    match (requests, window) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(wrong(
            env::RATE_LIMIT_WINDOW,
            "has no meaning without RATE_LIMIT_REQUESTS: set both, or neither for no limit",
        )),
        (Some(requests), window) => Ok(Some(RequestLimit {
            requests,
            period_seconds: window.unwrap_or(DEFAULT_WINDOW),
            burst: requests,
        })),
    }
}

fn whole(
    variables: &Variables,
    name: &'static str,
    max: u32,
    what: &str,
) -> Result<Option<u32>, ConfigError> {
    let Some(text) = variables.get(name) else { return Ok(None) };
    match text.parse::<u32>() {
        Ok(number) if (1..=max).contains(&number) => Ok(Some(number)),
        _ => Err(wrong(name, &format!("is \"{text}\": it must be a whole number of {what} from 1 to {max}"))),
    }
}

/// What the operator would say of a field, said of the variable that it came from.
fn of_problems(problems: &[Problem]) -> ConfigError {
    let Some(problem) = problems.first() else { return wrong(env::OPENAI_BASE_URL, "is refused") };
    let variable =
        if problem.field.starts_with("spec.model") { env::OPENAI_MODEL } else { env::OPENAI_BASE_URL };
    wrong(variable, &problem.message)
}

fn wrong(variable: &'static str, message: &str) -> ConfigError {
    ConfigError::Environment { variable, message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::config::BackendConfig;

    fn of(pairs: &[(&str, &str)]) -> Result<ServerConfig, String> {
        let variables = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        server_config(&variables).map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_alone_is_enough() {
        let config = of(&[("OPENAI_API_KEY", "sk-1")]).unwrap();
        let base_url = DEFAULT_BASE_URL.to_owned();
        assert_eq!(config.dynamic.backend, BackendConfig::OpenAi { base_url, proxy_url: None });
        assert_eq!(config.dynamic.model, DEFAULT_MODEL);
        assert_eq!(config.fixed.credentials_secret.as_deref(), Some("openai-api-key"));
        assert_eq!(config.fixed.redis_secret, None);
        assert_eq!(config.dynamic.limits.requests, None);
        assert!(!config.to_text().contains("sk-1"), "a configuration holds no secret");
    }

    #[test]
    fn every_variable_is_heeded() {
        let config = of(&[
            ("OPENAI_BASE_URL", "http://localhost:11434/v1/"),
            ("OPENAI_MODEL", "llama3.2:3b"),
            ("REDIS_URL", "redis://127.0.0.1"),
            ("RATE_LIMIT_REQUESTS", "100"),
            ("RATE_LIMIT_WINDOW", "3600"),
        ])
        .unwrap();
        let base_url = "http://localhost:11434/v1".to_owned();
        assert_eq!(config.dynamic.backend, BackendConfig::OpenAi { base_url, proxy_url: None });
        assert_eq!(config.dynamic.model, "llama3.2:3b");
        assert_eq!(config.fixed.credentials_secret, None, "no key is sent that was not given");
        assert_eq!(config.fixed.redis_secret.as_deref(), Some("redis-url"));
        let limit = RequestLimit { requests: 100, period_seconds: 3600, burst: 100 };
        assert_eq!(config.dynamic.limits.requests, Some(limit));
    }

    #[test]
    fn what_is_wrong_is_said_of_the_variable() {
        let key = ("OPENAI_API_KEY", "sk-1");
        let cases: [(&[(&str, &str)], &str); 9] = [
            (&[], "OPENAI_API_KEY is not set: set it, or set OPENAI_BASE_URL"),
            (&[key, ("OPENAI_BASE_URL", "api.openai.com")], "OPENAI_BASE_URL must be http(s)://host"),
            (
                &[key, ("OPENAI_BASE_URL", "http://example.com/v1")],
                "OPENAI_BASE_URL plain http is only allowed",
            ),
            (&[key, ("OPENAI_MODEL", "gpt 4")], "OPENAI_MODEL must be a model name"),
            (
                &[key, ("RATE_LIMIT_REQUESTS", "0")],
                "RATE_LIMIT_REQUESTS is \"0\": it must be a whole number of requests from 1 to 1000000",
            ),
            (&[key, ("RATE_LIMIT_REQUESTS", "ten")], "RATE_LIMIT_REQUESTS is \"ten\""),
            (
                &[key, ("RATE_LIMIT_WINDOW", "60")],
                "RATE_LIMIT_WINDOW has no meaning without RATE_LIMIT_REQUESTS",
            ),
            (
                &[key, ("RATE_LIMIT_REQUESTS", "1"), ("RATE_LIMIT_WINDOW", "1m")],
                "RATE_LIMIT_WINDOW is \"1m\": it must be a whole number of seconds",
            ),
            (&[key, ("RATE_LIMIT_REQUESTS", "1"), ("RATE_LIMIT_WINDOW", "86401")], "from 1 to 86400"),
        ];
        for (pairs, words) in cases {
            let message = of(pairs).unwrap_err();
            assert!(message.contains(words), "{pairs:?}: {message}");
            assert!(!message.contains("sk-1"), "{message}");
        }
    }
}
