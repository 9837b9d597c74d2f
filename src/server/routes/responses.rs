//! `/v1/responses`: OpenAI's Responses over the service's models. In: a request, which is asked as a chat completion; or the id
//! of one of the caller's stored responses. Out: a response object, its events, or what it was made from.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, header};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::completions::OpenAiError;
use super::input::{From, cache_control, invalid, read_json, unsupported};
use crate::server::backend::BackendError;
use crate::server::caller::Caller;
use crate::server::completion::to_bytes;
use crate::server::error::{ApiError, Dialect};
use crate::server::exchange::{self, Ask, Form, Keep};
use crate::server::json;
use crate::server::operation::Operation;
use crate::server::outcome::{self, Answer, Outcome};
use crate::server::responses::object::{IncompleteDetails, ResponseFault, ResponseUsage, Status};
use crate::server::responses::{self, Stored, Turn, chat, request};
use crate::server::state::{AppState, Live};

/// A request for a response. What is not listed is refused with the code `unsupported_parameter`.
#[derive(ToSchema)]
#[schema(example = json!({"model": "echo-1", "input": "Hello, how are you?"}))]
#[expect(
    dead_code,
    reason = "the members are read one by one, for errors that name them; this is their description"
)]
pub struct CreateResponse {
    /// A model of this service. Default: the service's.
    model: Option<String>,
    /// What is said: a text, or items: messages with the parts `input_text` and `input_image`, `function_call`,
    /// `function_call_output`.
    #[schema(value_type = Object, example = "Hello, how are you?")]
    input: serde_json::Value,
    /// What the model is told in front of everything, for this response alone. Default: the service's prompt.
    instructions: Option<String>,
    /// Go on from this response: the model is given what was said until then.
    #[schema(example = "resp_9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a69")]
    previous_response_id: Option<String>,
    /// Whether the response can be read, and gone on from, later. Default: true.
    store: Option<bool>,
    /// Answer as server-sent events. Default: false.
    stream: Option<bool>,
    /// Functions that the model may call: `{"type": "function", "name", "description", "parameters", "strict"}`.
    tools: Option<Vec<serde_json::Value>>,
    /// `auto`, `none`, `required` or `{"type": "function", "name": …}`. Default: auto.
    #[schema(value_type = Object, example = "auto")]
    tool_choice: Option<serde_json::Value>,
    /// Whether the model may call several functions at once. Default: the backend's.
    parallel_tool_calls: Option<bool>,
    /// `format`: `{"type": "text"}`, `{"type": "json_object"}` or `{"type": "json_schema", "name", "schema", "strict"}`; and
    /// `verbosity`.
    text: Option<serde_json::Value>,
    /// `{"effort": …}`, for models that think.
    reasoning: Option<serde_json::Value>,
    /// Longest answer in tokens.
    #[schema(minimum = 1)]
    max_output_tokens: Option<u32>,
    /// Sampling temperature. Default: the backend's.
    temperature: Option<f64>,
    /// Nucleus sampling. Default: the backend's.
    top_p: Option<f64>,
    /// Up to 16 notes of the caller's own, which the response repeats.
    metadata: Option<std::collections::BTreeMap<String, String>>,
    /// Who asks, for the backend.
    user: Option<String>,
}

/// A response.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the description of what `server::responses::object` writes")]
pub struct ResponseObject {
    /// What to read it by, and to go on from.
    #[schema(example = "resp_9b2c7f0e5d3a4c1b8a6e1f2d3c4b5a69")]
    id: String,
    /// Always `response`.
    #[schema(example = "response")]
    object: String,
    /// Seconds since 1970.
    created_at: i64,
    /// How far it has got.
    status: Status,
    /// Why there is no answer.
    error: Option<ResponseFault>,
    /// Why it stops early.
    incomplete_details: Option<IncompleteDetails>,
    /// The model that answered.
    model: String,
    /// What it says and which functions it calls: items of the types `message` and `function_call`.
    output: Vec<serde_json::Value>,
    /// The response that it goes on from.
    previous_response_id: Option<String>,
    /// Whether it can be read later: false too where it is longer than 1 MiB with all that was said, or the store was away.
    store: bool,
    /// What it took; null when the backend did not say.
    usage: Option<ResponseUsage>,
    /// The caller's notes.
    metadata: serde_json::Value,
}

/// What a response was made from, a page of it.
#[derive(Serialize, ToSchema)]
pub struct InputItems {
    /// Always `list`.
    #[schema(example = "list")]
    object: &'static str,
    /// Items.
    #[schema(value_type = Vec<Object>)]
    data: Vec<Box<RawValue>>,
    /// The id of the first.
    first_id: Option<String>,
    /// The id of the last: `after` of the next page.
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
    responses((status = 200, description = "A response, or its events with `stream: true`", body = ResponseObject),
        (status = 400, description = "Not JSON, a field is not allowed, or not supported", body = OpenAiError),
        (status = 404, description = "No such model or previous response", body = OpenAiError),
        (status = 429, description = "A limit is reached", body = OpenAiError),
        (status = 503, description = "The backend is not available", body = OpenAiError)))]
pub async fn create_response(
    State(state): State<AppState>,
    from: From,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let caller = from.caller.clone();
    match prepare(&state, from, &headers, body).await {
        Ok((ask, turn, live)) => {
            let outcome = exchange::answer(&state, &live, ask).await;
            respond(&state, &live, &caller, outcome, turn).await
        }
        Err(error) => error.into_response(Dialect::OpenAi),
    }
}

/// The chat completion to ask for, and, where it is answered plain, the response that its answer becomes.
async fn prepare(
    state: &AppState,
    from: From,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Ask, Option<Turn>, Arc<Live>), ApiError> {
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
    said.extend(request.input);
    let turn = Turn::new(request.settings, said, &model.name);
    let stream = request.stream;
    let system_prompt = live.config.dynamic.defaults.system_prompt.as_deref();
    let upstream = chat::body(&model.name, turn.said(), turn.settings(), system_prompt, stream)?;
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
        form,
        stream,
        include_usage: true,
        cache,
        keep,
        conversation: None,
        model,
        started,
    };
    Ok((ask, turn, live))
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
    params(("id" = String, Path, description = "The id of a response")),
    responses((status = 200, body = ResponseObject),
        (status = 404, description = "No such response, or not any more", body = OpenAiError),
        (status = 429, description = "A limit is reached", body = OpenAiError),
        (status = 503, description = "Responses cannot be read just now", body = OpenAiError)))]
pub async fn get_response(
    State(state): State<AppState>,
    from: From,
    id: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Response {
    stored(&state, from, id, async |live, caller, id| {
        Query::read(query.as_deref(), &[])?;
        let found = responses::find(&state, live, caller, id, false).await?;
        Ok(found.map(|found| json_response(found.response.get().to_owned())))
    })
    .await
}

/// Erase a stored response at once. Later ones keep what they were given of it.
#[utoipa::path(delete, path = "/v1/responses/{id}", tag = "openai",
    params(("id" = String, Path, description = "The id of a response")),
    responses((status = 200, body = DeletedResponse),
        (status = 404, description = "No such response, or not any more", body = OpenAiError),
        (status = 429, description = "A limit is reached", body = OpenAiError),
        (status = 503, description = "Responses cannot be erased just now", body = OpenAiError)))]
pub async fn delete_response(
    State(state): State<AppState>,
    from: From,
    id: Result<Path<String>, PathRejection>,
) -> Response {
    stored(&state, from, id, async |live, caller, text| {
        let Some(id) = responses::parse_id(text) else { return Ok(None) };
        let erased = live.store.delete_response(caller.owned(id)).await.map_err(|_| {
            state.metrics().store_error("delete_response");
            ApiError::StoreUnavailable
        })?;
        let deleted = DeletedResponse { id: text.to_owned(), object: "response", deleted: true };
        Ok(erased.then(|| Json(deleted).into_response()))
    })
    .await
}

/// What a stored response was made from: all that the model was given, with what earlier responses brought along.
#[utoipa::path(get, path = "/v1/responses/{id}/input_items", tag = "openai",
    params(("id" = String, Path, description = "The id of a response"),
        ("limit" = Option<u32>, Query, description = "Items of a page, 1 to 100. Default: 20"),
        ("order" = Option<String>, Query, description = "`desc`, the latest first, or `asc`. Default: desc"),
        ("after" = Option<String>, Query, description = "The id of the item that the page begins behind")),
    responses((status = 200, body = InputItems),
        (status = 400, description = "A parameter is not allowed", body = OpenAiError),
        (status = 404, description = "No such response, or not any more", body = OpenAiError),
        (status = 429, description = "A limit is reached", body = OpenAiError),
        (status = 503, description = "Responses cannot be read just now", body = OpenAiError)))]
pub async fn input_items(
    State(state): State<AppState>,
    from: From,
    id: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Response {
    stored(&state, from, id, async |live, caller, id| {
        let query = Query::read(query.as_deref(), &["limit", "order", "after"])?;
        let found = responses::find(&state, live, caller, id, false).await?;
        found.map(|found| query.page(found).map(|page| json_response(to_bytes(&page)))).transpose()
    })
    .await
}

/// Charges one request, then does what is to be done with the stored response; None: there is none.
async fn stored(
    state: &AppState,
    from: From,
    id: Result<Path<String>, PathRejection>,
    act: impl AsyncFnOnce(&Live, &Caller, &str) -> Result<Option<Response>, ApiError>,
) -> Response {
    let mut limits = HeaderMap::new();
    let done = async {
        let live = state.live()?;
        let (admitted, headers) = exchange::admit_request(state, &live, &from.caller).await;
        limits = headers;
        admitted?;
        let Path(id) = id.map_err(|_| ApiError::ResponseNotFound)?;
        act(&live, &from.caller, &id).await?.ok_or(ApiError::ResponseNotFound)
    };
    let mut response = done.await.unwrap_or_else(|error| error.into_response(Dialect::OpenAi));
    response.headers_mut().extend(limits);
    response
}

/// What people said is for nobody's cache.
fn json_response(body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Which items are wanted.
struct Query {
    limit: usize,
    ascending: bool,
    after: Option<String>,
}

impl Query {
    /// Reads a query; a parameter that is not among these is refused.
    fn read(query: Option<&str>, known: &[&str]) -> Result<Self, ApiError> {
        let mut read = Self { limit: 20, ascending: false, after: None };
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name: String = name.chars().take(64).collect();
            if !known.contains(&name.as_str()) {
                return Err(unsupported(&name, "leave it out"));
            }
            match name.as_str() {
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=100).contains(limit));
                    read.limit = limit.ok_or_else(|| invalid("limit", "a whole number from 1 to 100"))?;
                }
                "order" => match value {
                    "asc" => read.ascending = true,
                    "desc" => read.ascending = false,
                    _ => return Err(invalid("order", "asc or desc")),
                },
                _ => read.after = Some(value.to_owned()),
            }
        }
        Ok(read)
    }

    fn page(self, stored: Stored) -> Result<InputItems, ApiError> {
        let mut items: Vec<(String, Box<RawValue>)> =
            stored.input.into_iter().map(|item| (id_of(&item), item)).collect();
        if !self.ascending {
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
        Ok(InputItems {
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
