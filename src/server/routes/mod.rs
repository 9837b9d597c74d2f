//! Path → handler, and nothing else: what a path does is in the file of its area.

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use super::error::{ApiError, Dialect};
use super::openapi;
use super::state::AppState;
use crate::constants::path;

pub mod chat;
pub mod completions;
mod input;
pub mod meta;
pub mod models;

/// Every path of the API listener, and the document that describes them.
pub fn router(state: AppState) -> (Router, OpenApi) {
    let (router, document) = OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(meta::root))
        .routes(routes!(meta::health))
        .routes(routes!(chat::chat))
        .routes(routes!(chat::chat_stream))
        .routes(routes!(completions::chat_completions))
        .routes(routes!(models::list_models))
        .split_for_parts();
    let document = openapi::finish(document);
    let router = router
        .with_state(state)
        .merge(SwaggerUi::new(path::DOCS).url(path::OPENAPI, document.clone()))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed);
    (router, document)
}

async fn not_found(request: Request) -> Response {
    ApiError::NotFound.into_response(Dialect::of(request.uri().path()))
}

/// axum adds the `Allow` header of the path to whatever this answers.
async fn method_not_allowed(request: Request) -> Response {
    ApiError::MethodNotAllowed.into_response(Dialect::of(request.uri().path()))
}
