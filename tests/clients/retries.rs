//! What the SDKs do by themselves after a failure, with their default settings.

use serde_json::json;

use crate::mock_openai::Script;
use crate::{Rig, with_both_sdks};

with_both_sdks! {
    /// One request in 3 s: who waits as `retry-after-ms` says meets one 429, who waits the SDK's own half second meets more.
    async fn retry_after_is_honoured(sdk: Sdk) {
        let rig = Rig::with("rateLimits: {requestsPerMinute: 20, burst: 1}").await;
        rig.mock.script(Script::Words(1)).script(Script::Words(1));
        sdk.passes(rig.url()).await;
        assert_eq!((rig.answered(200).await, rig.answered(429).await), (2, 1));
    }

    /// A spent budget is a 429 too, which an SDK would try again if it were not told.
    async fn spent_budget_is_not_tried_again(sdk: Sdk) {
        let model = "models: [{name: gpt-4o-mini, maxOutputTokens: 16384}]";
        let rig = Rig::with(&format!("budget: {{amount: \"0.001\", period: Month}}, {model}")).await;
        sdk.passes(rig.url()).await;
        assert_eq!((rig.mock.count(), rig.answered(429).await), (0, 1));
    }

    /// A backend that is away for a moment: the SDK's second try is answered.
    async fn unavailable_is_tried_again(sdk: Sdk) {
        let rig = Rig::start().await;
        let away = json!({"error": {"message": "away", "type": "server_error", "code": null}}).to_string();
        rig.mock.script(Script::Status(500, Vec::new(), away)).script(Script::Words(1));
        sdk.passes(rig.url()).await;
        assert_eq!((rig.answered(503).await, rig.answered(200).await), (1, 1));
    }
}
