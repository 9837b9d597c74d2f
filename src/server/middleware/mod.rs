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

use super::state::AppState;
use observe::Observation;

pub mod authenticate;
pub mod cors;
pub mod load;
pub mod observe;
pub mod panic;

/// What a layer's service answers with.
type Answering = BoxFuture<'static, Result<Response, Infallible>>;

/// What is below a layer: a path, or another layer.
pub trait Below:
    Service<Request, Response = Response, Error = Infallible, Future: Send + 'static> + Clone + Send + 'static
{
}

impl<S> Below for S
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
}

/// What a layer does with a request.
trait Pass: Clone {
    /// Passes it on, or answers it.
    fn pass(&self, request: Request, below: &mut impl Below) -> Answering;
}

/// What a layer makes of a path.
#[derive(Clone)]
pub struct Layered<P, S> {
    pass: P,
    below: S,
}

fn layer<P: Clone, S>(pass: P) -> impl Layer<S, Service = Layered<P, S>> + Clone {
    layer_fn(move |below| Layered { pass: pass.clone(), below })
}

impl<P: Pass, S: Below> Service<Request> for Layered<P, S> {
    type Response = Response;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.below.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Answering {
        self.pass.pass(request, &mut self.below)
    }
}

/// The layer around every path: log and metrics, pages from elsewhere, panics.
#[must_use]
pub fn every<S>(state: AppState) -> impl Layer<S, Service = Layered<Every, S>> + Clone {
    layer(Every { state })
}

/// See [`every`].
#[derive(Clone)]
pub struct Every {
    state: AppState,
}

impl Pass for Every {
    fn pass(&self, mut request: Request, below: &mut impl Below) -> Answering {
        let observation = Observation::begin(&self.state, &mut request);
        let dialect = observation.dialect;
        match cors::layer_of(&self.state, &request) {
            None => {
                let answered = panic::catch(dialect, below.call(request));
                answered.map(|response| Ok(observation.end(response))).boxed()
            }
            Some(layer) => {
                let below = below.clone();
                let caught = tower::service_fn(move |request: Request| {
                    panic::catch(dialect, below.clone().call(request)).map(Ok::<_, Infallible>)
                });
                cors::through(&layer, caught, request).map(|response| Ok(observation.end(response))).boxed()
            }
        }
    }
}
