//! A handler that panics. In: what answers a request. Out: its response; or, when that panicked, an internal error in the dialect
//! of the path in place of a closed connection. The panic hook has logged the place, and not the text, by then.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;

use axum::response::Response;
use futures::FutureExt;

use crate::server::error::{ApiError, Dialect};

/// Waits for an answer in this dialect, and gives one if that panics.
pub async fn catch(dialect: Dialect, answer: impl Future<Output = Result<Response, Infallible>>) -> Response {
    // What the handler shared with others is behind locks that outlive a panic; what was its own is gone.
    let answered = AssertUnwindSafe(answer).catch_unwind().await;
    answered.map_or_else(|_| ApiError::Internal.into_response(dialect), |Ok(response)| response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::extract::Request;
    use axum::middleware::Next;
    use axum::routing::get;
    use tower::ServiceExt;

    #[tokio::test]
    async fn a_handler_that_panics_is_an_internal_error_in_the_dialect_of_its_path() {
        async fn broken() -> &'static str {
            panic!("a prompt")
        }
        let app = Router::new()
            .route("/v1/broken", get(broken))
            .route("/api/v1/broken", get(broken))
            .route("/v1/good", get(async || "good"))
            .layer(axum::middleware::from_fn(async |request: Request, next: Next| {
                let dialect = Dialect::of(request.uri().path());
                catch(dialect, next.run(request).map(Ok)).await
            }));
        for (path, status, pointer) in [
            ("/v1/broken", 500, Some("/error/message")),
            ("/api/v1/broken", 500, Some("/message")),
            ("/v1/good", 200, None),
        ] {
            let request = http::Request::get(path).body(Body::empty()).unwrap();
            let response = app.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), status, "{path}");
            let body = to_bytes(response.into_body(), 4096).await.unwrap();
            let Some(pointer) = pointer else { continue };
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert!(body.pointer(pointer).is_some_and(serde_json::Value::is_string), "{path}: {body}");
            assert!(!body.to_string().contains("a prompt"), "{body}");
        }
    }
}
