//! The OpenAPI document, from the handlers' own types. In: what the router collected. Out: the document of
//! `/openapi.json`: with the errors of each operation, as the one table of errors has them, and with examples that a test
//! sends to a real server.

use std::borrow::Cow;

use utoipa::OpenApi as _;
use utoipa::openapi::example::Example;
use utoipa::openapi::path::{HttpMethod, Operation};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, PathItem, RefOr};

use super::routes::chat::{ChatEvent, SimpleError};
use super::routes::completions::OpenAiError;

mod errors;
mod examples;
pub(super) mod schemas;

/// The model of the examples, until [`naming`] puts in one that is served; no other text of the document says it.
pub(super) const MODEL: &str = "gpt-4o-mini";

/// The name of the only way to say who asks.
const BEARER: &str = "bearer";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "ChatService",
        description = "Ask a model in one of two dialects over the same limits, cache and accounts.\n\n\
            **OpenAI's**, under `/v1`: give an official SDK this server's address with `/v1` behind it as its base URL, and nothing else changes.\n\n\
            **The simple one**, under `/api/v1`: send a message, get an answer, go on by its `conversation_id`; the server remembers the rest.\n\n\
            Every answer has `x-request-id`; where there are limits, `x-ratelimit-limit-*`, `-remaining-*` and `-reset-*` for requests and tokens; \
            answers of a model also `x-chat-cache` and, where the price is known, `x-chat-cost-usd`. Errors say what is wrong, what is allowed and what \
            to do. `Retry-After` comes with what another try can mend; `x-should-retry: false` with what it cannot.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    tags(
        (name = "chat", description = "The simple dialect: send a message, get an answer, go on by its conversation_id."),
        (name = "openai", description = "OpenAI's dialect: set the SDK's base URL to this server's /v1."),
        (name = "service", description = "The server itself. No limits, no key.")
    ),
    components(schemas(ChatEvent, SimpleError, OpenAiError, schemas::ChatCompletionChunk, schemas::ResponseEvent))
)]
struct Base;

/// What does not come from a handler.
pub(super) fn base() -> OpenApi {
    Base::openapi()
}

/// The document as it is served: with relative URLs, so that it works behind any address.
pub(super) fn finish(mut document: OpenApi) -> OpenApi {
    document.servers = Some(vec![utoipa::openapi::Server::new("/")]);
    let mut bearer = Http::new(HttpAuthScheme::Bearer);
    bearer.description = Some(
        "An API key, or the token of a Kubernetes ServiceAccount. Only where the service asks who calls (`spec.auth`); elsewhere it is not looked at."
            .to_owned(),
    );
    let components = document.components.get_or_insert_default();
    components.security_schemes.insert(BEARER.to_owned(), SecurityScheme::Http(bearer).into());
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            let kind = errors::Kind::of(path, &method);
            if kind != errors::Kind::Service {
                // Also without: a service may be open.
                let with: [&str; 0] = [];
                operation.security =
                    Some(vec![SecurityRequirement::default(), SecurityRequirement::new(BEARER, with)]);
            }
            schemas::describe(path, operation);
            errors::describe(path, kind, operation);
            examples::describe(path, &method, operation);
            // OpenAPI wants a word on every answer.
            for response in operation.responses.responses.values_mut() {
                if let RefOr::T(response) = response
                    && response.description.is_empty()
                {
                    "The answer".clone_into(&mut response.description);
                }
            }
        }
    }
    document
}

/// The document's text with this model in its examples, so that who tries one as it stands gets an answer. A name that JSON
/// writes otherwise than it is, which the operator refuses, is not put in.
pub(super) fn naming<'a>(document: &'a str, model: &str) -> Cow<'a, str> {
    let plain = model.chars().all(|letter| !letter.is_control() && !matches!(letter, '"' | '\\'));
    if model == MODEL || !plain {
        Cow::Borrowed(document)
    } else {
        Cow::Owned(document.replace(MODEL, model))
    }
}

/// The operations of a path, as far as this API has methods.
fn operations(item: &mut PathItem) -> impl Iterator<Item = (HttpMethod, &mut Operation)> {
    let PathItem { get, post, delete, .. } = item;
    let all = [(HttpMethod::Get, get), (HttpMethod::Post, post), (HttpMethod::Delete, delete)];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// Adds an example to a body under a name.
fn put(content: &mut Content, name: &str, summary: &str, value: serde_json::Value) {
    let mut example = Example::new();
    summary.clone_into(&mut example.summary);
    example.value = Some(value);
    content.examples.insert(name.to_owned(), RefOr::T(example));
}
