//! Any OpenAI-compatible API. In: a request body, sent as it is. Out: the answer, or the error that its status, its
//! silence or its stream means. One call is one attempt; nothing here tries again.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream;
use http::uri::{Parts, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::TaskTracker;

use super::address::{lower_host, operation_uri, proxy_uri};
use super::attempts::Marks;
use super::connect::{Connector, ConnectorOptions, DialError, DialPolicy, Resolve, SystemResolver};
use super::events::{Events, Piece};
use super::http1::{Body, Client, SendError};
use super::refusal::{self, ErrorObject};
use super::tls::Authorities;
use super::{Backend, BackendError, Deadline, UpstreamAnswer, UpstreamRequest};
use crate::constants::{DEFAULT_ALLOWED_HOST, header::REQUEST_ID, header::TRACE_PARENT, secret_key};
use crate::server::completion::MAX_BYTES;
use crate::server::config::TimeoutConfig;
use crate::server::json;
use crate::server::operation::Operation;

/// Most bytes read of an error's body.
const MAX_ERROR_BODY: usize = 64 << 10;
/// Longest wait for an error's body: its status already says most.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest id of an upstream call that is passed on.
const MAX_REQUEST_ID: usize = 128;
/// Headers of a call, and room for two that not every call has.
const HEADERS: usize = 8;
const USER_AGENT: &str = concat!("chatservice/", env!("CARGO_PKG_VERSION"));

/// How long each part of a call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Name resolution, TCP and TLS together.
    pub connect: Duration,
    /// Streams: from the call to the first event.
    pub first_token: Duration,
    /// Streams: from one event to the next, while somebody waits for it.
    pub idle: Duration,
}

impl From<TimeoutConfig> for Timeouts {
    fn from(config: TimeoutConfig) -> Self {
        Self {
            connect: Duration::from_millis(config.connect_ms),
            first_token: Duration::from_millis(config.first_token_ms),
            idle: Duration::from_millis(config.idle_ms),
        }
    }
}

/// What [`OpenAi`] needs to know.
#[derive(Clone, Debug)]
pub struct OpenAiOptions {
    /// The URL in front of `/chat/completions` and `/embeddings`.
    pub base_url: String,
    /// The key; None: calls carry no Authorization.
    pub api_key: Option<SecretString>,
    /// Hosts that the key may be sent to; without any, [`DEFAULT_ALLOWED_HOST`] alone. Loopback inside a cluster is
    /// called only when it is named here.
    pub allowed_hosts: Vec<String>,
    /// An HTTP proxy, as http(s)://host:port; None: calls go straight, whatever the environment says.
    pub proxy_url: Option<String>,
    /// Authorities that are trusted beside the public ones.
    pub authorities: Option<Authorities>,
    /// Whether this runs in a cluster, where loopback is the pod itself.
    pub in_cluster: bool,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Owns the task that closes idle connections, which ends with their client: who runs the server waits for it.
    pub connections: TaskTracker,
}

/// Why options were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// The base URL is not one that may be called.
    #[error("the base URL {0}")]
    BaseUrl(&'static str),
    /// The proxy URL is not one.
    #[error("the proxy URL must be http(s)://host:port without user, path, query or fragment")]
    ProxyUrl,
    /// The key cannot be sent in a header.
    #[error("the API key holds characters that no key has, such as a line break: store it again")]
    Key,
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

/// An OpenAI-compatible API.
pub struct OpenAi {
    client: Client,
    chat_path: Uri,
    embeddings_path: Uri,
    /// What is told with every call.
    headers: HeaderMap,
    /// To take it out of the backend's words.
    key: Option<SecretString>,
    /// Why the key may not be sent to this host; then nothing is called.
    mismatch: Option<String>,
    timeouts: Timeouts,
}

impl OpenAi {
    /// Checks the options and prepares a client; nothing is dialled.
    pub fn new(options: OpenAiOptions) -> Result<Self, OptionsError> {
        Self::with_resolver(options, Arc::new(SystemResolver))
    }

    /// The same with a resolver of the caller's.
    pub fn with_resolver(options: OpenAiOptions, resolver: Arc<dyn Resolve>) -> Result<Self, OptionsError> {
        let uri = operation_uri(&options.base_url, Operation::Chat)?;
        let embeddings_uri = operation_uri(&options.base_url, Operation::Embeddings)?;
        let host = lower_host(&uri);
        let named = options
            .allowed_hosts
            .iter()
            .map(|allowed| allowed.trim().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase());
        let mut allowed: Vec<String> = named.filter(|allowed| !allowed.is_empty()).collect();
        if allowed.is_empty() {
            allowed.push(DEFAULT_ALLOWED_HOST.to_owned());
        }
        let is_allowed = allowed.contains(&host);
        let mismatch = (options.api_key.is_some() && !is_allowed).then(|| {
            format!(
                "the API key may be sent to {} only, and the base URL's host is {host}: whoever owns the key adds {host} to \
                 the data key `{}` of its Secret (comma-separated hosts)",
                allowed.join(", "),
                secret_key::ALLOWED_HOSTS
            )
        });
        let policy = |is_allowed| DialPolicy { loopback: !options.in_cluster || is_allowed };
        let proxy = options.proxy_url.as_deref().map(proxy_uri).transpose()?;
        let connector = Connector::new(ConnectorOptions {
            resolver,
            policy: policy(is_allowed),
            proxy: proxy.map(|uri| (uri.clone(), policy(allowed.contains(&lower_host(&uri))))),
            authorities: options.authorities,
            timeout: options.timeouts.connect,
        })
        .map_err(|error| OptionsError::Tls(error.to_string()))?;
        let mut headers = HeaderMap::with_capacity(HEADERS);
        headers.insert(header::HOST, host_header(&uri)?);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        if let Some(key) = &options.api_key {
            headers.insert(header::AUTHORIZATION, authorization(key)?);
        }
        let client = Client::new(connector, origin(&uri)?, options.connections);
        let (chat_path, embeddings_path) = (path(uri)?, path(embeddings_uri)?);
        let (key, timeouts) = (options.api_key, options.timeouts);
        Ok(Self { client, chat_path, embeddings_path, headers, key, mismatch, timeouts })
    }

    async fn run(&self, request: UpstreamRequest) -> Result<UpstreamAnswer, BackendError> {
        if let Some(mismatch) = &self.mismatch {
            return Err(BackendError::NotConfigured(mismatch.clone()));
        }
        let whole = request.deadline;
        if !request.stream {
            return timeout_at(whole.at, self.plain(request)).await.unwrap_or(Err(whole.passed()));
        }
        let limit = self.timeouts.first_token;
        let first = Deadline { at: Instant::now() + limit, limit };
        let end = if first.at < whole.at { first } else { whole };
        timeout_at(end.at, self.stream(request)).await.unwrap_or(Err(end.passed()))
    }

    async fn plain(&self, request: UpstreamRequest) -> Result<UpstreamAnswer, BackendError> {
        let refused = request.marks.refused.clone();
        let response = self.send(request, "application/json").await?;
        let request_id = request_id(response.headers());
        let body = read(response.into_body(), MAX_BYTES)
            .await
            .map_err(|unread| match unread {
                Unread::TooLong => BackendError::Broken("it is longer than 32 MiB".into()),
                Unread::Cut => BackendError::Broken("it was cut".into()),
            })?
            .freeze();
        let object =
            json::object(&body).map_err(|_| BackendError::Broken("it is not a JSON object".into()))?;
        if object.non_null("error").is_some() {
            refused.set();
            return Err(self.error_in_place_of_an_answer(&body));
        }
        Ok(UpstreamAnswer::Complete { body, request_id })
    }

    async fn stream(&self, request: UpstreamRequest) -> Result<UpstreamAnswer, BackendError> {
        let (deadline, refused) = (request.deadline, request.marks.refused.clone());
        let response = self.send(request, "text/event-stream").await?;
        let request_id = request_id(response.headers());
        if is_json(response.headers()) {
            let body = read(response.into_body(), MAX_ERROR_BODY).await.unwrap_or_default();
            let failed = json::object(&body).is_ok_and(|object| object.non_null("error").is_some());
            return Err(if failed {
                refused.set();
                self.error_in_place_of_an_answer(&body)
            } else {
                BackendError::Broken("a plain answer came where a stream was asked for".into())
            });
        }
        let Timeouts { first_token, idle, .. } = self.timeouts;
        let mut events = Events::new(response.into_body(), deadline);
        let first = match events.first(first_token).await? {
            Piece::Chunk(data) => data,
            Piece::Error(data) => {
                refused.set();
                return Err(self.error_in_place_of_an_answer(&data));
            }
            Piece::Done => return Err(BackendError::Broken("the stream ended before an event".into())),
        };
        let rest = stream::unfold(Some(events), move |events| async move {
            let mut events = events?;
            match events.next(idle).await {
                Ok(Piece::Chunk(data)) => Some((Ok(data), Some(events))),
                Ok(Piece::Done) => {
                    events.leave().await;
                    None
                }
                Ok(Piece::Error(_)) => {
                    let error = BackendError::Broken("it reported an error in its stream".into());
                    Some((Err(error), None))
                }
                Err(error) => Some((Err(error), None)),
            }
        });
        let events = stream::iter([Ok(first)]).chain(rest).boxed();
        Ok(UpstreamAnswer::Stream { events, request_id })
    }

    /// One request; the response has status 200.
    async fn send(
        &self,
        UpstreamRequest { operation, body, marks: Marks { written, refused }, trace_parent, .. }: UpstreamRequest,
        accept: &'static str,
    ) -> Result<Response<Body>, BackendError> {
        let path = match operation {
            Operation::Chat => &self.chat_path,
            Operation::Embeddings => &self.embeddings_path,
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.clone();
        let headers = request.headers_mut();
        headers.clone_from(&self.headers);
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        if let Some(parent) = trace_parent {
            headers.insert(TRACE_PARENT, parent);
        }
        let response = self.client.send(request, &written).await.map_err(|error| no_answer(&error))?;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(response);
        }
        refused.set();
        let (parts, body) = response.into_parts();
        let body = timeout(ERROR_BODY_TIMEOUT, read(body, MAX_ERROR_BODY)).await;
        let body = body.ok().and_then(Result::ok).unwrap_or_default();
        Err(refusal::of_status(status, &parts.headers, &body, Timestamp::now(), |text| self.clean(text)))
    }

    fn error_in_place_of_an_answer(&self, body: &[u8]) -> BackendError {
        refusal::of_object(ErrorObject::of_body(body), |text| self.clean(text))
    }

    /// A text of the backend's without our key, which some servers repeat.
    fn clean(&self, text: &str) -> String {
        match &self.key {
            Some(key) if !key.expose_secret().trim().is_empty() => {
                text.replace(key.expose_secret().trim(), "[redacted]")
            }
            _ => text.to_owned(),
        }
    }
}

impl Backend for OpenAi {
    fn call(&self, request: UpstreamRequest) -> BoxFuture<'_, Result<UpstreamAnswer, BackendError>> {
        Box::pin(self.run(request))
    }
}

fn authorization(key: &SecretString) -> Result<HeaderValue, OptionsError> {
    // A file often ends with a line break that is not part of the key.
    let mut value = HeaderValue::try_from(format!("Bearer {}", key.expose_secret().trim()))
        .map_err(|_| OptionsError::Key)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Scheme and authority of a URL.
fn origin(uri: &Uri) -> Result<Uri, OptionsError> {
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static("/"));
    Uri::from_parts(parts).map_err(|_| OptionsError::BaseUrl("is not a URL"))
}

/// What a request line has of a URL.
fn path(uri: Uri) -> Result<Uri, OptionsError> {
    let mut parts = Parts::default();
    parts.path_and_query = uri.into_parts().path_and_query;
    Uri::from_parts(parts).map_err(|_| OptionsError::BaseUrl("is not a URL"))
}

/// The host of a URL, with its port where that is not its scheme's own.
fn host_header(uri: &Uri) -> Result<HeaderValue, OptionsError> {
    let own = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let host = uri.host().unwrap_or_default();
    let named = match uri.port_u16().filter(|port| *port != own) {
        Some(port) => HeaderValue::try_from(format!("{host}:{port}")),
        None => HeaderValue::from_str(host),
    };
    named.map_err(|_| OptionsError::BaseUrl("is not a URL"))
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    content_type.to_ascii_lowercase().starts_with(b"application/json")
}

fn request_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    (1..=MAX_REQUEST_ID).contains(&id.len()).then(|| id.to_owned())
}

enum Unread {
    TooLong,
    Cut,
}

/// A whole body, if it is no longer than `limit`.
async fn read(mut body: Body, limit: usize) -> Result<BytesMut, Unread> {
    let mut out = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Unread::Cut)?.into_data() else { continue };
        if out.len() + data.len() > limit {
            return Err(Unread::TooLong);
        }
        out.extend_from_slice(&data);
    }
    Ok(out)
}

/// What a call that got no response means.
fn no_answer(error: &SendError) -> BackendError {
    let error = match error {
        SendError::Call(Some(error)) if error.is_parse() => {
            return BackendError::Broken("it is not HTTP".into());
        }
        SendError::Call(_) => {
            return BackendError::Unavailable("the connection closed before an answer".into());
        }
        SendError::Connect(error) => error,
    };
    let causes = || std::iter::successors(Some(&**error as &dyn std::error::Error), |error| error.source());
    match causes().find_map(|error| error.downcast_ref()) {
        Some(DialError::Refused(why)) => BackendError::NotConfigured(why.clone()),
        Some(DialError::Timeout(limit)) => BackendError::Timeout(*limit),
        Some(DialError::Proxy(why)) => BackendError::Unavailable(why.clone()),
        None => {
            // The innermost error is the system's or TLS's and names no secret.
            let root = causes().last().map(ToString::to_string).unwrap_or_default();
            BackendError::Unavailable(format!("cannot connect: {root}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_loses_its_line_break_and_may_hold_no_other() {
        assert_eq!(authorization(&"sk-1\n".into()).unwrap(), "Bearer sk-1");
        assert_eq!(authorization(&"sk\n1".into()), Err(OptionsError::Key));
    }
}
