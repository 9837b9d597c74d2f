//! Path → handler, and nothing else: what a path does is in the file of its area.

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::{any, get};
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, Dialect};
use super::middleware::{authenticate, load};
use super::openapi;
use super::overload::Overload;
use super::pages;
use super::state::AppState;

mod charged;
pub mod chat;
pub mod completions;
pub mod conversations;
pub mod embeddings;
pub(super) mod input;
pub mod meta;
pub mod models;
pub mod responses;

/// Every path of the API listener, and the document that describes them.
pub fn router(state: AppState, overload: Overload) -> (Router, OpenApi) {
    let admitted = load::admit(state.clone(), overload);
    let authenticated = axum::middleware::from_fn_with_state(state.clone(), authenticate::authenticate);
    // What is somebody's, or costs something; the rest is for everybody.
    let asked = OpenApiRouter::new()
        .routes(routes!(chat::chat))
        .routes(routes!(chat::chat_stream))
        .routes(routes!(completions::chat_completions))
        .routes(routes!(embeddings::embeddings))
        .routes(routes!(responses::create_response))
        .routes(routes!(responses::get_response, responses::delete_response))
        .routes(routes!(responses::input_items))
        .routes(routes!(conversations::get_conversation, conversations::delete_conversation))
        .route_layer(admitted);
    let known = OpenApiRouter::new()
        .routes(routes!(models::list_models))
        .routes(routes!(models::model))
        .route("/v1/models/{model}/{*rest}", get(models::model_with_slashes))
        .route_layer(authenticated);
    let (router, document) = OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(meta::root))
        .routes(routes!(meta::health))
        .merge(asked)
        .merge(known)
        .split_for_parts();
    let document = openapi::finish(document);
    let router = router
        .merge(pages::playground())
        .merge(pages::docs(&document))
        // OpenAI's own, which are not here; without this they would be an id with the wrong method.
        .route("/v1/responses/compact", any(not_found))
        .route("/v1/responses/input_tokens", any(not_found))
        .with_state(state)
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
