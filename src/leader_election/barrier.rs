//! Whether this process may write. In: when the Lease was renewed last. Out: a layer under its client that lets reads pass, and writes
//! only in the time that a renewal gives.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use http::{Method, Request};
use tokio::time::Instant;
use tower::{BoxError, Layer, Service};

use super::RENEW_DEADLINE;

/// Whether this process leads, and how long it may write without another renewal. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Leadership(Arc<Mutex<Option<Instant>>>);

impl Leadership {
    /// Until when writes are allowed; None: they are not.
    #[must_use]
    pub fn writes_until(&self) -> Option<Instant> {
        let renewed = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        renewed.map(|renewed| renewed + RENEW_DEADLINE).filter(|&until| Instant::now() < until)
    }

    /// The Lease was renewed by a request that was sent at `sent`.
    pub(super) fn renewed(&self, sent: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sent);
    }

    pub(super) fn ended(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Why a write was refused before it left the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this process does not hold the Lease, so it writes nothing")]
pub struct NotLeading;

/// Puts the barrier under a client: reads pass, writes only while [`Leadership::writes_until`] allows them.
#[derive(Clone, Debug)]
pub struct BarrierLayer(Leadership);

impl BarrierLayer {
    /// A barrier that `leadership` opens.
    #[must_use]
    pub fn new(leadership: Leadership) -> Self {
        Self(leadership)
    }
}

impl<S> Layer<S> for BarrierLayer {
    type Service = Barrier<S>;

    fn layer(&self, inner: S) -> Barrier<S> {
        Barrier { inner, leadership: self.0.clone() }
    }
}

/// What [`BarrierLayer`] makes.
#[derive(Clone, Debug)]
pub struct Barrier<S> {
    inner: S,
    leadership: Leadership,
}

impl<S, B> Service<Request<B>> for Barrier<S>
where
    S: Service<Request<B>, Error: Into<BoxError>>,
    S::Future: Send + 'static,
    S::Response: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
            let sending = self.inner.call(request);
            return Box::pin(async move { sending.await.map_err(Into::into) });
        }
        if self.leadership.writes_until().is_none() {
            return Box::pin(std::future::ready(Err(NotLeading.into())));
        }
        let sending = self.inner.call(request);
        let leadership = self.leadership.clone();
        Box::pin(async move {
            let mut sending = std::pin::pin!(sending);
            // A renewal while it is under way gives it more time.
            while let Some(until) = leadership.writes_until() {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(until) => {}
                    answer = &mut sending => return answer.map_err(Into::into),
                }
            }
            Err(NotLeading.into())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tower::ServiceExt;

    use super::super::RETRY_PERIOD;
    use super::*;

    /// A client's bottom that counts what reaches it and answers after `delay`.
    fn wire(
        leadership: &Leadership,
        delay: Duration,
    ) -> (Arc<AtomicUsize>, impl Service<Request<()>, Response = (), Error = BoxError, Future: Send> + Clone)
    {
        let arrived = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&arrived);
        let bottom = tower::service_fn(move |_: Request<()>| {
            let counter = Arc::clone(&counter);
            async move {
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(delay).await;
                Ok::<_, Infallible>(())
            }
        });
        (arrived, BarrierLayer::new(leadership.clone()).layer(bottom))
    }

    fn request(method: Method) -> Request<()> {
        Request::builder().method(method).body(()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_barrier_lets_writes_pass_only_while_the_lease_is_fresh() {
        let leadership = Leadership::default();
        let (arrived, service) = wire(&leadership, Duration::ZERO);
        let ask = async |method: Method| service.clone().oneshot(request(method)).await;
        for method in [Method::POST, Method::PATCH, Method::PUT, Method::DELETE] {
            assert!(ask(method).await.unwrap_err().is::<NotLeading>(), "nobody leads yet");
        }
        ask(Method::GET).await.unwrap();
        assert_eq!(arrived.load(Ordering::SeqCst), 1, "nothing but the read was sent");
        leadership.renewed(Instant::now());
        ask(Method::PATCH).await.unwrap();
        tokio::time::advance(RENEW_DEADLINE.checked_sub(Duration::from_millis(1)).unwrap()).await;
        ask(Method::PATCH).await.unwrap();
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(ask(Method::DELETE).await.unwrap_err().is::<NotLeading>());
        ask(Method::GET).await.unwrap();
        leadership.renewed(Instant::now());
        ask(Method::DELETE).await.unwrap();
        leadership.ended();
        assert!(ask(Method::PATCH).await.unwrap_err().is::<NotLeading>());
        assert_eq!(arrived.load(Ordering::SeqCst), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_under_way_is_given_up_when_the_lease_ends_and_not_when_it_is_renewed() {
        let leadership = Leadership::default();
        leadership.renewed(Instant::now());
        let (_, service) = wire(&leadership, RENEW_DEADLINE + RENEW_DEADLINE);
        let begun = Instant::now();
        let error = service.clone().oneshot(request(Method::PATCH)).await.unwrap_err();
        assert!(error.is::<NotLeading>());
        assert_eq!(begun.elapsed().as_secs(), RENEW_DEADLINE.as_secs());

        leadership.renewed(Instant::now());
        let renewing = async {
            loop {
                tokio::time::sleep(RETRY_PERIOD).await;
                leadership.renewed(Instant::now());
            }
        };
        tokio::select! {
            answer = service.oneshot(request(Method::PATCH)) => answer.unwrap(),
            () = renewing => unreachable!(),
        }
    }
}
