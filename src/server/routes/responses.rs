//! `/v1/responses`: OpenAI's Responses over the service's models. In: a request, which is asked as a chat completion; or the id
//! of one of the caller's stored responses. Out: a response object, its events, or what it was made from.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, header};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::charged::charged;
use super::input::{From, cache_control, invalid, read_json, unsupported};
use crate::server::backend::BackendError;
use crate::server::caller::Caller;
use crate::server::completion::to_bytes;
use crate::server::error::{ApiError, Dialect};
use crate::server::exchange::{self, Ask, Form, Keep};
use crate::server::json;
use crate::server::operation::Operation;
use crate::server::outcome::{self, Answer, Outcome};
use crate::server::responses::object::ResponseObject;
use crate::server::responses::schema::{CreateResponse, ResponseItem};
use crate::server::responses::{self, Names, Stored, Turn, chat, request};
use crate::server::state::{AppState, Live};

/// What a response was made from, a page of it.
#[derive(Serialize, ToSchema)]
pub struct InputItemPage {
    /// Always `list`.
    #[schema(example = "list")]
    object: &'static str,
    /// Items.
    #[schema(value_type = Vec<ResponseItem>)]
    data: Vec<Box<RawValue>>,
    /// The id of the first.
    #[schema(required)]
    first_id: Option<String>,
    /// The id of the last: `after` of the next page.
    #[schema(required)]
    last_id: Option<String>,
    /// Whether there is a next page.
    has_more: bool,
}

/// That a response is gone.
#[derive(Serialize, ToSchema)]
pub struct DeletedResponse {
    /// Its id.
    id: String,
    /// Always `response`.
    #[schema(example = "response")]
    object: &'static str,
    /// Always true.
    deleted: bool,
}

/// Ask for a response.
#[utoipa::path(post, path = "/v1/responses", tag = "openai", request_body = CreateResponse,
    responses((status = 200, description = "A response, or its events with `stream: true`", body = ResponseObject)))]
pub async fn create_response(
    State(state): State<AppState>,
    from: From,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let caller = from.caller.clone();
    match prepare(&state, from, &headers, body).await {
        Ok(Prepared { ask, turn, names, live }) => {
            let mut outcome = exchange::answer(&state, &live, ask).await;
            outcome.result = outcome.result.map_err(|error| names.translate(error));
            respond(&state, &live, &caller, outcome, turn).await
        }
        Err(error) => error.into_response(Dialect::OpenAi),
    }
}

/// A request that has been read.
struct Prepared {
    /// The chat completion to ask for.
    ask: Ask,
    /// Where it is answered plain, the response that its answer becomes.
    turn: Option<Turn>,
    /// What the caller calls what is in it.
    names: Names,
    live: Arc<Live>,
}

async fn prepare(
    state: &AppState,
    from: From,
    headers: &HeaderMap,
    body: Body,
) -> Result<Prepared, ApiError> {
    let started = Instant::now();
    let live = state.live()?;
    let (body, room) = read_json(state, headers, body).await?;
    let object = json::object(&body).map_err(|error| ApiError::BadJson(error.to_string()))?;
    let request = request::read(&object)?;
    let model = live.model(request.model.as_deref())?;
    let mut said = match &request.settings.previous {
        Some(previous) => responses::said_until(state, &live, &from.caller, previous).await?,
        None => Vec::new(),
    };
    let before = said.len();
    said.extend(responses::resolve(state, &live, &from.caller, request.input).await?);
    let turn = Turn::new(request.ids, request.settings, said, &model.name);
    let stream = request.stream;
    let system_prompt = live.config.dynamic.defaults.system_prompt.as_deref();
    let (upstream, origins) = chat::body(&model.name, turn.said(), turn.settings(), system_prompt, stream)?;
    let sent = upstream.0.iter().map(|(name, _)| name.to_string()).collect();
    let names = Names::new(&origins, before, request.as_text, sent);
    let cache = cache_control(headers);
    let members = upstream.0.iter().map(|(name, value)| (name.as_ref(), value.get().as_bytes()));
    let keep = Keep::new(&live, &from.caller, cache, (Operation::Chat, &model), members);
    let body = to_bytes(&upstream);
    drop(upstream);
    let (form, turn) =
        if stream { (Form::Response(Box::new(turn)), None) } else { (Form::Chunks, Some(turn)) };
    let ask = Ask {
        caller: from.caller,
        id: from.id,
        trace: from.trace,
        room,
        operation: Operation::Chat,
        body,
        known: None,
        form,
        stream,
        include_usage: true,
        cache,
        keep,
        conversation: None,
        model,
        started,
    };
    Ok(Prepared { ask, turn, names, live })
}

async fn respond(
    state: &AppState,
    live: &Arc<Live>,
    caller: &Caller,
    outcome: Outcome,
    turn: Option<Turn>,
) -> Response {
    let headers = outcome.headers();
    let mut response = match outcome.result {
        Ok(Answer::Plain(plain)) => {
            let Some(mut turn) = turn else { return ApiError::Internal.into_response(Dialect::OpenAi) };
            turn.answered_by(&plain.model);
            match turn.answer(&plain.completion) {
                Ok(()) => {
                    responses::keep(state, live, caller, &mut turn).await;
                    Json(turn.object()).into_response()
                }
                Err(error) => ApiError::Backend(BackendError::from(error)).into_response(Dialect::OpenAi),
            }
        }
        Ok(Answer::Stream { body, fault, .. }) => outcome::event_stream(body, fault),
        Err(error) => error.into_response(Dialect::OpenAi),
    };
    response.headers_mut().extend(headers);
    response
}

/// A stored response.
#[utoipa::path(get, path = "/v1/responses/{id}", tag = "openai",
    params(("id" = String, Path, description = "The id of a response",
        example = "resp_9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a69")),
    responses((status = 200, body = ResponseObject)))]
pub async fn get_response(
    State(state): State<AppState>,
    from: From,
    id: Result<Path<String>, PathRejection>,
    pairs: Pairs,
) -> Response {
    charged(&state, &from.caller, Dialect::OpenAi, async |live| {
        Page::read(pairs, &[])?;
        let stored = stored(&state, live, &from.caller, id).await?;
        Ok(json_response(stored.response.get().to_owned()))
    })
    .await
}

/// Erase a stored response at once. Later ones keep what they were given of it.
#[utoipa::path(delete, path = "/v1/responses/{id}", tag = "openai",
    params(("id" = String, Path, description = "The id of a response",
        example = "resp_9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a69")),
    responses((status = 200, body = DeletedResponse)))]
pub async fn delete_response(
    State(state): State<AppState>,
    from: From,
    id: Result<Path<String>, PathRejection>,
) -> Response {
    charged(&state, &from.caller, Dialect::OpenAi, async |live| {
        let Path(id) = id.map_err(|_| ApiError::ResponseNotFound)?;
        if responses::erase(&state, live, &from.caller, &id).await? {
            Ok(Json(DeletedResponse { id, object: "response", deleted: true }).into_response())
        } else {
            Err(ApiError::ResponseNotFound)
        }
    })
    .await
}

/// What a stored response was made from: all that the model was given, with what earlier responses brought along.
#[utoipa::path(get, path = "/v1/responses/{id}/input_items", tag = "openai",
    params(("id" = String, Path, description = "The id of a response",
        example = "resp_9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a69"),
        ("limit" = Option<u32>, Query, description = "Items of a page. Default: 20", minimum = 1, maximum = 100),
        ("order" = inline(Option<Order>), Query, description = "Which come first: the latest, or the earliest. Default: desc"),
        ("after" = Option<String>, Query, description = "The id of the item that the page begins behind")),
    responses((status = 200, body = InputItemPage)))]
pub async fn input_items(
    State(state): State<AppState>,
    from: From,
    id: Result<Path<String>, PathRejection>,
    pairs: Pairs,
) -> Response {
    charged(&state, &from.caller, Dialect::OpenAi, async |live| {
        let page = Page::read(pairs, &["limit", "order", "after"])?;
        let stored = stored(&state, live, &from.caller, id).await?;
        Ok(json_response(to_bytes(&page.of(stored)?)))
    })
    .await
}

async fn stored(
    state: &AppState,
    live: &Live,
    caller: &Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Stored, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::ResponseNotFound)?;
    responses::find(state, live, caller, &id, false).await?.ok_or(ApiError::ResponseNotFound)
}

/// What people said is for nobody's cache.
fn json_response(body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The decoded pairs of a query.
type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// Which items come first.
#[derive(Clone, Copy, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The earliest.
    Asc,
    /// The latest.
    Desc,
}

/// Which items are wanted.
struct Page {
    limit: usize,
    order: Order,
    after: Option<String>,
}

impl Page {
    /// Reads a query; a parameter that is not among these is refused.
    fn read(pairs: Pairs, known: &[&str]) -> Result<Self, ApiError> {
        let mut read = Self { limit: 20, order: Order::Desc, after: None };
        let Query(pairs) = pairs.map_err(|_| invalid("query", "pairs such as limit=20"))?;
        for (name, value) in pairs {
            let name: String = name.chars().take(64).collect();
            if !known.contains(&name.as_str()) {
                return Err(unsupported(&name, "leave it out"));
            }
            match name.as_str() {
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=100).contains(limit));
                    read.limit = limit.ok_or_else(|| invalid("limit", "a whole number from 1 to 100"))?;
                }
                "order" => match value.as_str() {
                    "asc" => read.order = Order::Asc,
                    "desc" => read.order = Order::Desc,
                    _ => return Err(invalid("order", "asc or desc")),
                },
                _ => read.after = Some(value),
            }
        }
        Ok(read)
    }

    fn of(self, stored: Stored) -> Result<InputItemPage, ApiError> {
        let mut items: Vec<(String, Box<RawValue>)> =
            stored.input.into_iter().map(|item| (id_of(&item), item)).collect();
        if self.order == Order::Desc {
            items.reverse();
        }
        if let Some(after) = &self.after {
            let position = items.iter().position(|(id, _)| id == after);
            let position = position.ok_or_else(|| invalid("after", "the id of an item of this response"))?;
            items.drain(..=position);
        }
        let has_more = items.len() > self.limit;
        items.truncate(self.limit);
        let (ids, data): (Vec<_>, Vec<_>) = items.into_iter().unzip();
        Ok(InputItemPage {
            object: "list",
            data,
            first_id: ids.first().cloned(),
            last_id: ids.last().cloned(),
            has_more,
        })
    }
}

fn id_of(item: &RawValue) -> String {
    #[derive(serde::Deserialize)]
    struct Named {
        id: String,
    }
    serde_json::from_str::<Named>(item.get()).map(|named| named.id).unwrap_or_default()
}
