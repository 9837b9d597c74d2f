//! What is decided before a request may cost anything: memory, the backend, a trip to the store. In: a request on a path
//! that is limited. Out: its response, whose body holds the permit; or a refusal.
//!
//! Order: who sends it? → was its caller refused just now? → is a permit free, or soon?

use std::convert::Infallible;
use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use futures::FutureExt;
use futures::future::ready;
use tokio::sync::OwnedSemaphorePermit;
use tower::Layer;

use super::{Answering, Below, Layered, Pass, authenticate, layer};
use crate::server::admission;
use crate::server::error::{ApiError, Dialect};
use crate::server::exchange;
use crate::server::held_body::HeldBody;
use crate::server::overload::Overload;
use crate::server::state::AppState;

/// The layer.
#[must_use]
pub fn admit<S>(state: AppState, overload: Overload) -> impl Layer<S, Service = Layered<Admit, S>> + Clone {
    layer(Admit { state, overload })
}

/// See [`admit`].
#[derive(Clone)]
pub struct Admit {
    state: AppState,
    overload: Overload,
}

impl Admit {
    /// A refusal that nothing need be read for.
    fn refuse(&self, request: &mut Request, dialect: Dialect) -> Result<(), Box<Response>> {
        // The listener knows it of every connection.
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
        let peer = peer.ok_or_else(|| Box::new(ApiError::Internal.into_response(dialect)))?;
        let caller = authenticate::identify(&self.state, peer, request)?;
        let live = self.state.live().ok();
        match live.and_then(|live| admission::refused_lately(&self.state, &live, &caller)) {
            None => Ok(()),
            Some((error, headers)) => {
                let mut response = error.into_response(dialect);
                response.headers_mut().extend(headers);
                Err(Box::new(response))
            }
        }
    }
}

impl Pass for Admit {
    fn pass(&self, mut request: Request, below: &mut impl Below) -> Answering {
        let dialect = Dialect::of(request.uri().path());
        if let Err(refused) = self.refuse(&mut request, dialect) {
            return ready(Ok(*refused)).boxed();
        }
        if let Some(permit) = self.overload.try_enter() {
            return holding(permit, below.call(request)).boxed();
        }
        let (overload, mut below) = (self.overload.clone(), below.clone());
        async move {
            match overload.enter().await {
                Some(permit) => holding(permit, below.call(request)).await,
                None => Ok(exchange::busy().into_response(dialect)),
            }
        }
        .boxed()
    }
}

/// An answer that holds the permit to its end.
async fn holding(
    permit: OwnedSemaphorePermit,
    answer: impl Future<Output = Result<Response, Infallible>>,
) -> Result<Response, Infallible> {
    Ok(answer.await?.map(|body| Body::new(HeldBody::new(body, permit))))
}
