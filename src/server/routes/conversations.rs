//! `GET` and `DELETE /api/v1/conversations/{id}`. In: the id of one of the caller's conversations.
//! Out: its turns and totals; or nothing, once it is erased.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::charged::charged;
use super::chat::rfc3339;
use super::input::From;
use crate::server::conversations;
use crate::server::error::{ApiError, Dialect};
use crate::server::pricing::NanoUsd;
use crate::server::state::AppState;
use crate::server::store::{Conversation, ConversationId, Retention};

/// A conversation.
#[derive(Serialize, ToSchema)]
pub struct ConversationResponse {
    /// Its id.
    #[schema(format = "uuid")]
    conversation_id: String,
    /// Its latest messages, oldest first: whole turns, as many as the service keeps.
    messages: Vec<ConversationMessage>,
    /// Sum of `tokens_used` of all its answers, also of those that are no longer kept; estimated where the backend did not
    /// say.
    total_tokens: u64,
    /// Sum of `cost_estimate` of all its answers, in USD; null where no price is known.
    #[schema(required)]
    total_cost: Option<f64>,
    /// When its last turn ended: RFC 3339, UTC.
    #[schema(example = "2026-01-02T03:04:05Z")]
    updated_at: String,
}

/// A message of a conversation.
#[derive(Serialize, ToSchema)]
pub struct ConversationMessage {
    /// `user` or `assistant`.
    #[schema(example = "user")]
    role: &'static str,
    /// The text.
    content: String,
}

impl ConversationResponse {
    fn new(id: ConversationId, conversation: &Conversation, retention: Retention) -> Self {
        let message = |role, content: &str| ConversationMessage { role, content: content.to_owned() };
        let messages = conversations::fitting(&conversation.turns, retention)
            .iter()
            .flat_map(|turn| [message("user", &turn.said.user), message("assistant", &turn.said.assistant)]);
        Self {
            conversation_id: id.0.to_string(),
            messages: messages.collect(),
            total_tokens: conversation.total_tokens,
            total_cost: conversation.total_cost.map(NanoUsd::usd),
            updated_at: rfc3339(conversation.updated_at),
        }
    }
}

/// What a conversation holds.
#[utoipa::path(get, path = "/api/v1/conversations/{id}", tag = "chat",
    params(("id" = String, Path, description = "The conversation_id of an answer", format = "uuid",
        example = "9b2d3a52-4b8a-4b52-9d3e-2f6a1c8e7d10")),
    responses((status = 200, description = "Its latest turns and its totals", body = ConversationResponse)))]
pub async fn get_conversation(
    State(state): State<AppState>,
    from: From,
    id: Result<Path<String>, PathRejection>,
) -> Response {
    charged(&state, &from.caller, Dialect::Simple, async |live| {
        let id = read_id(id)?;
        let found = live.store.conversation(from.caller.owned(id.0), None).await;
        let found = found.map_err(|_| state.store_away("conversation"))?;
        let conversation = found.ok_or(ApiError::ConversationNotFound)?;
        let retention = Retention::from(&live.config.dynamic.conversations);
        let answer = Json(ConversationResponse::new(id, &conversation, retention));
        // What people said is for nobody's cache.
        Ok(([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], answer).into_response())
    })
    .await
}

/// Erase a conversation at once. A turn that is being answered does not bring it back.
#[utoipa::path(delete, path = "/api/v1/conversations/{id}", tag = "chat",
    params(("id" = String, Path, description = "The conversation_id of an answer", format = "uuid",
        example = "9b2d3a52-4b8a-4b52-9d3e-2f6a1c8e7d10")),
    responses((status = 204, description = "It is erased")))]
pub async fn delete_conversation(
    State(state): State<AppState>,
    from: From,
    id: Result<Path<String>, PathRejection>,
) -> Response {
    charged(&state, &from.caller, Dialect::Simple, async |live| {
        let id = read_id(id)?;
        let erased = live.store.delete_conversation(from.caller.owned(id.0)).await;
        if erased.map_err(|_| state.store_away("delete_conversation"))? {
            Ok(StatusCode::NO_CONTENT.into_response())
        } else {
            Err(ApiError::ConversationNotFound)
        }
    })
    .await
}

/// What is no id of ours is the id of no conversation.
fn read_id(id: Result<Path<String>, PathRejection>) -> Result<ConversationId, ApiError> {
    let id = id.ok().and_then(|Path(id)| conversations::parse_id(&id));
    id.ok_or(ApiError::ConversationNotFound)
}
