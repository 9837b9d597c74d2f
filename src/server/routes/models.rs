//! `GET /v1/models`: what a caller may ask for.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::server::error::Dialect;
use crate::server::routes::completions::OpenAiError;
use crate::server::state::AppState;

/// The models of this service.
#[derive(Serialize, ToSchema)]
pub struct ModelList {
    /// Always `list`.
    #[schema(example = "list")]
    object: &'static str,
    /// One entry a model.
    data: Vec<Model>,
}

/// One model.
#[derive(Serialize, ToSchema)]
pub struct Model {
    /// What to put into `model`.
    #[schema(example = "gpt-4o-mini")]
    id: String,
    /// Always `model`.
    #[schema(example = "model")]
    object: &'static str,
    /// Seconds since 1970 when this server began to offer it.
    created: i64,
    /// The name of the ChatService.
    #[schema(example = "demo")]
    owned_by: String,
}

/// The models that a caller may name.
#[utoipa::path(get, path = "/v1/models", tag = "openai",
    responses((status = 200, body = ModelList), (status = 503, description = "Not ready yet", body = OpenAiError)))]
pub async fn list_models(State(state): State<AppState>) -> axum::response::Response {
    use axum::response::IntoResponse;
    match state.live() {
        Ok(live) => {
            let config = &live.config;
            let model = |model: &crate::server::models::Model| Model {
                id: model.name.to_string(),
                object: "model",
                created: state.started_at(),
                owned_by: config.identity.name.clone(),
            };
            let data = live.models.iter().map(|named| model(named)).collect();
            Json(ModelList { object: "list", data }).into_response()
        }
        Err(error) => error.into_response(Dialect::OpenAi),
    }
}
