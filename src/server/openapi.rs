//! The OpenAPI document, from the handlers' own types. In: what the router collected. Out: the document of
//! `/openapi.json`.

use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;

use super::routes::chat::{ChatTotals, SimpleError};
use super::routes::completions::OpenAiError;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "ChatService",
        description = "Ask a model in one of two dialects: the simple one under /api/v1, which remembers conversations, and OpenAI's under /v1, which the official SDKs speak unchanged.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    tags(
        (name = "chat", description = "The simple dialect: send a message, get an answer, go on by its conversation_id."),
        (name = "openai", description = "OpenAI's dialect: set the SDK's base URL to this server's /v1."),
        (name = "service", description = "The server itself.")
    ),
    components(schemas(ChatTotals, SimpleError, OpenAiError))
)]
struct Base;

/// What does not come from a handler.
pub(super) fn base() -> OpenApi {
    Base::openapi()
}

/// The document as it is served: with relative URLs, so that it works behind any address.
pub(super) fn finish(mut document: OpenApi) -> OpenApi {
    document.servers = Some(vec![utoipa::openapi::Server::new("/")]);
    document
}
