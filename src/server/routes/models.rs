//! `GET /v1/models` and `GET /v1/models/{model}`: what a caller may ask for.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::charged::charged;
use super::input::From;
use crate::server::error::Dialect;
use crate::server::models;
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
    responses((status = 200, body = ModelList)))]
pub async fn list_models(State(state): State<AppState>, from: From) -> Response {
    charged(&state, &from.caller, Dialect::OpenAi, async |live| {
        let data = live.models.iter().map(|model| describe(&state, live, model)).collect();
        Ok(Json(ModelList { object: "list", data }).into_response())
    })
    .await
}

/// One of them.
#[utoipa::path(get, path = "/v1/models/{model}", tag = "openai",
    params(("model" = String, Path, description = "Its name; a name with a slash as it is", example = "gpt-4o-mini")),
    responses((status = 200, body = Model)))]
pub async fn model(
    State(state): State<AppState>,
    from: From,
    name: Result<Path<String>, PathRejection>,
) -> Response {
    one(&state, &from, name.ok().map(|Path(name)| name)).await
}

/// The same for a name with slashes, which `{model}` does not match.
pub async fn model_with_slashes(
    State(state): State<AppState>,
    from: From,
    name: Result<Path<(String, String)>, PathRejection>,
) -> Response {
    one(&state, &from, name.ok().map(|Path((owner, rest))| format!("{owner}/{rest}"))).await
}

/// None: what the path holds is no text, and so the name of no model.
async fn one(state: &AppState, from: &From, name: Option<String>) -> Response {
    charged(state, &from.caller, Dialect::OpenAi, async |live| {
        let model = live.model(Some(name.as_deref().unwrap_or("�")))?;
        Ok(Json(describe(state, live, &model)).into_response())
    })
    .await
}

fn describe(state: &AppState, live: &Live, model: &models::Model) -> Model {
    Model {
        id: model.name.to_string(),
        object: "model",
        created: state.started_at(),
        owned_by: live.config.identity.name.clone(),
    }
}
