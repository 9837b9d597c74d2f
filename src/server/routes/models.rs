//! `GET /v1/models` and `GET /v1/models/{model}`: what a caller may ask for.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::server::error::{ApiError, Dialect};
use crate::server::models;
use crate::server::routes::completions::OpenAiError;
use crate::server::state::{AppState, Live};

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
pub async fn list_models(State(state): State<AppState>) -> Response {
    let list = |live: &Live| {
        let data = live.models.iter().map(|model| describe(&state, live, model)).collect();
        Json(ModelList { object: "list", data })
    };
    match state.live() {
        Ok(live) => list(&live).into_response(),
        Err(error) => error.into_response(Dialect::OpenAi),
    }
}

/// One of them.
#[utoipa::path(get, path = "/v1/models/{model}", tag = "openai",
    params(("model" = String, Path, description = "Its name; a name with a slash as it is")),
    responses((status = 200, body = Model),
        (status = 404, description = "No such model", body = OpenAiError),
        (status = 503, description = "Not ready yet", body = OpenAiError)))]
pub async fn model(State(state): State<AppState>, Path(name): Path<String>) -> Response {
    one(&state, &name)
}

/// The same for a name with slashes, which `{model}` does not match.
pub async fn model_with_slashes(
    State(state): State<AppState>,
    Path((owner, rest)): Path<(String, String)>,
) -> Response {
    one(&state, &format!("{owner}/{rest}"))
}

fn one(state: &AppState, name: &str) -> Response {
    let found = || -> Result<Model, ApiError> {
        let live = state.live()?;
        let model = live.model(Some(name))?;
        Ok(describe(state, &live, &model))
    };
    match found() {
        Ok(model) => Json(model).into_response(),
        Err(error) => error.into_response(Dialect::OpenAi),
    }
}

fn describe(state: &AppState, live: &Live, model: &models::Model) -> Model {
    Model {
        id: model.name.to_string(),
        object: "model",
        created: state.started_at(),
        owned_by: live.config.identity.name.clone(),
    }
}
