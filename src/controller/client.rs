//! How the operator talks to the API server. In: where it is. Out: two clients: one for all work, behind the barrier of
//! [`leader_election`](crate::leader_election), and one for the Lease alone. Every request of both is counted.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tower::{BoxError, Layer, Service};

use super::Scope;
use super::metrics::ControllerMetrics;
use super::request::ApiRequest;
use crate::leader_election::{BarrierLayer, Leadership};

/// For a connection to be made; requests have deadlines of their own.
const CONNECT: Duration = Duration::from_secs(5);

/// The operator's clients.
#[derive(Clone)]
pub struct Clients {
    /// For everything but the Lease: writes only while this process leads.
    pub work: Client,
    /// For the Lease, over connections of its own, so that nothing that waits can hold up a renewal.
    pub lease: Client,
    /// Opens the barrier.
    pub leadership: Leadership,
    /// What the API server says to watches.
    pub watches: WatchAnswers,
}

/// What the API server said last to whoever lists or watches a resource in a namespace. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct WatchAnswers(Arc<Mutex<HashMap<Watch, u16>>>);

/// Resource and namespace; None for all of them.
type Watch = (String, Option<String>);

impl WatchAnswers {
    fn note(&self, request: &ApiRequest, code: u16) {
        if request.verb == "list" || request.verb == "watch" {
            let key = (request.resource.clone(), request.namespace.clone());
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, code);
        }
    }

    /// Whether it was refused for want of a permission.
    #[must_use]
    pub fn refused(&self, resource: &str, scope: &Scope) -> bool {
        let key = (resource.to_owned(), scope.namespace().map(str::to_owned));
        let answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(&key).is_some_and(|&code| code == 403)
    }
}

impl Clients {
    /// Clients by the configuration that kube finds.
    ///
    /// # Errors
    /// It cannot be used, for instance a certificate that is none.
    pub fn connect(mut config: Config, metrics: &ControllerMetrics) -> kube::Result<Self> {
        config.connect_timeout = Some(CONNECT);
        config.default_retry = false;
        let (work, lease) = (ClientBuilder::try_from(config.clone())?, ClientBuilder::try_from(config)?);
        Ok(Self::assemble(work, lease, metrics))
    }

    /// Puts barrier and counters on what talks to the API server. It must not repeat requests by itself (kube's
    /// `default_retry`): a repetition would be sent under the barrier, and reconciles are repeated anyway.
    pub fn assemble<S, B>(
        work: ClientBuilder<S>,
        lease: ClientBuilder<S>,
        metrics: &ControllerMetrics,
    ) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>> + Send + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let (leadership, watches) = (Leadership::default(), WatchAnswers::default());
        let counting = CountLayer { metrics: metrics.clone(), watches: watches.clone() };
        let barrier = BarrierLayer::new(leadership.clone());
        Self {
            work: work.with_layer(&counting).with_layer(&barrier).build(),
            lease: lease.with_layer(&counting).build(),
            leadership,
            watches,
        }
    }
}

/// Counts requests by verb, resource and answer.
#[derive(Clone)]
struct CountLayer {
    metrics: ControllerMetrics,
    watches: WatchAnswers,
}

impl<S> Layer<S> for CountLayer {
    type Service = Count<S>;

    fn layer(&self, inner: S) -> Count<S> {
        Count { inner, layer: self.clone() }
    }
}

#[derive(Clone)]
struct Count<S> {
    inner: S,
    layer: CountLayer,
}

/// Counts once, also when the request is given up.
struct Counted {
    layer: CountLayer,
    request: Option<ApiRequest>,
    code: Option<u16>,
}

impl Counted {
    fn answered(&mut self, code: u16) {
        self.code = Some(code);
        if let Some(request) = &self.request {
            self.layer.watches.note(request, code);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(request) = &self.request {
            self.layer.metrics.asked(request, self.code);
        }
    }
}

impl<S, B> Service<Request<Body>> for Count<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>>,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut counted = Counted {
            layer: self.layer.clone(),
            request: ApiRequest::of(request.method(), request.uri()),
            code: None,
        };
        let answering = self.inner.call(request);
        Box::pin(async move {
            let response = answering.await.map_err(Into::into)?;
            counted.answered(response.status().as_u16());
            Ok(response)
        })
    }
}
