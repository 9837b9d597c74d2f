//! Each error as the exception that the SDK has for it, with the code, the field and the request's id where it shows them.

use serde_json::json;

use crate::mock_openai::Script;
use crate::{Rig, with_both_sdks};

fn refusal(status: u16, code: &str, param: Option<&str>) -> Script {
    let error = json!({"error": {"message": "the backend's own words", "type": "invalid_request_error", "param": param, "code": code}});
    Script::Status(status, Vec::new(), error.to_string())
}

with_both_sdks! {
    /// A field that the server does not allow, and one that the backend does not.
    async fn bad_request(sdk: Sdk) {
        let rig = Rig::start().await;
        rig.mock.script(refusal(400, "context_length_exceeded", Some("messages")));
        sdk.passes(rig.url()).await;
        assert_eq!(rig.mock.count(), 1, "the server's own refusal asks no backend");
    }

    async fn not_found(sdk: Sdk) {
        let rig = Rig::start().await;
        sdk.passes(rig.url()).await;
        assert_eq!(rig.mock.count(), 0);
    }

    async fn unprocessable_entity(sdk: Sdk) {
        let rig = Rig::start().await;
        rig.mock.script(refusal(422, "unprocessable", None));
        sdk.passes(rig.url()).await;
    }

    /// A request that met another one at the backend. The SDK tries again by itself, as it does at OpenAI; we do not do it for it.
    async fn conflict(sdk: Sdk) {
        let rig = Rig::start().await;
        rig.mock.script(refusal(409, "conflict", None));
        rig.mock.script(refusal(409, "conflict", None)).script(Script::Words(1));
        sdk.passes(rig.url()).await;
        assert_eq!((rig.mock.count(), rig.answered(409).await, rig.answered(200).await), (3, 2, 1));
    }

    async fn rate_limit(sdk: Sdk) {
        let rig = Rig::with("rateLimits: {requestsPerMinute: 1, burst: 1}").await;
        rig.mock.script(Script::Words(1));
        sdk.passes(rig.url()).await;
        assert_eq!(rig.mock.count(), 1);
    }

    /// The backend refuses the server's key: no fault of the caller, who gets no 401 and no reason to try again.
    async fn backend_refuses_the_key(sdk: Sdk) {
        let rig = Rig::start().await;
        rig.mock.script(refusal(401, "invalid_api_key", None));
        sdk.passes(rig.url()).await;
        assert_eq!((rig.mock.count(), rig.answered(502).await), (1, 1), "nobody tried again");
    }

    async fn internal_server(sdk: Sdk) {
        let rig = Rig::start().await;
        rig.mock.script(Script::Status(500, Vec::new(), "{}".to_owned()));
        sdk.passes(rig.url()).await;
    }

    /// Nobody listens.
    async fn connection(sdk: Sdk) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        sdk.passes(&url).await;
    }

    /// The caller's own time is up, and the backend is not left working.
    async fn timeout(sdk: Sdk) {
        let rig = Rig::start().await;
        rig.mock.always(Script::silence());
        // A busy machine may need longer than the caller waits until the backend is asked at all.
        for seconds in ["0.5", "4", "30"] {
            sdk.passes_with(rig.url(), &[seconds]).await;
            if rig.mock.count() > 0 {
                break;
            }
        }
        rig.mock.wait_disconnects(1).await;
    }
}
