//! What requests pass on their way to a route. In: any request. Out: its response. One concern a file, and one layer around
//! every path: for each request axum clones, at each layer, everything below it.
//!
//! Layers that every answer passes are services of their own: those that axum makes of functions take the request apart, clone
//! what is below once more and make three allocations, each a hundredth of a request's time.

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::response::Response;
use futures::FutureExt;
use futures::future::BoxFuture;
use tower::layer::layer_fn;
use tower::{Layer, Service};

use super::error::Dialect;
use super::state::AppState;
use observe::Observation;

pub mod authenticate;
pub mod cors;
pub mod load;
pub mod observe;
pub mod panic;

/// What a layer's service answers with.
type Answering = BoxFuture<'static, Result<Response, Infallible>>;

/// The layer around every path: log and metrics, pages from elsewhere, panics.
#[must_use]
pub fn every<S>(state: AppState) -> impl Layer<S, Service = Every<S>> + Clone {
    layer_fn(move |inner| Every { state: state.clone(), inner })
}

/// What it makes of a path.
#[derive(Clone)]
pub struct Every<S> {
    state: AppState,
    inner: S,
}

impl<S> Service<Request> for Every<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Answering {
        let observation = Observation::begin(&self.state, &mut request);
        let dialect = Dialect::of(request.uri().path());
        match cors::layer_of(&self.state, &request) {
            None => {
                let answered = panic::catch(dialect, self.inner.call(request));
                answered.map(|response| Ok(observation.end(response))).boxed()
            }
            Some(layer) => {
                let inner = self.inner.clone();
                let caught = tower::service_fn(move |request: Request| {
                    panic::catch(dialect, inner.clone().call(request)).map(Ok::<_, Infallible>)
                });
                cors::through(&layer, caught, request).map(|response| Ok(observation.end(response))).boxed()
            }
        }
    }
}
