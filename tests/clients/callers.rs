//! Callers that say who they are, by the unchanged SDKs: with a key, or with the token of a ServiceAccount.

use chatservice::crd::LogFormat;
use chatservice::server::config::{
    AuthConfig, BackendConfig, DynamicConfig, FORMAT_VERSION, Identity, ServerConfig, StaticConfig,
};
use serde_json::Value;

use crate::mock_openai::Script;
use crate::process::Process;
use crate::rig::MODEL;
use crate::tokens::{Signer, accepting, claims};
use crate::{Rig, with_both_sdks};

const KEYS: &str = "mobile=sk-mobile-0123456789abcdef,web=sk-web-0123456789abcdefghij";

/// A server that lets in the ServiceAccount shop/web, and a token of this one.
pub async fn keyless(namespace: &str, name: &str) -> (Process, String) {
    let signer = Signer::new("ES256");
    let mut dynamic = DynamicConfig::new(MODEL, BackendConfig::Echo {});
    let accounts = accepting(&["shop/web"], vec![signer.public("k1")]);
    dynamic.auth = Some(AuthConfig { service_accounts: Some(accounts), callers: Vec::new() });
    let identity = Identity {
        namespace: "test".to_owned(),
        name: "demo".to_owned(),
        uid: uuid::Uuid::new_v4().to_string(),
        generation: 1,
    };
    let fixed = StaticConfig { log_format: LogFormat::Json, ..StaticConfig::default() };
    let config = ServerConfig { format_version: FORMAT_VERSION, identity, fixed, dynamic };
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("config.json");
    std::fs::write(&file, config.to_text()).unwrap();
    let claims: Value = claims(namespace, name);
    (Process::configured(&file).await, signer.token("k1", &claims))
}

with_both_sdks! {
    /// A wrong key is the SDK's own exception and not tried again; what one caller has stored is not there for another.
    async fn authentication(sdk: Sdk) {
        let rig = Rig::with_secrets("auth: {apiKeysSecretRef: {name: keys}}", &[("CHATSERVICE_API_KEYS", KEYS)]).await;
        rig.mock.script(Script::Words(2)).script(Script::Words(3));
        sdk.passes(rig.url()).await;
        assert_eq!(rig.answered(401).await, 1, "nobody tried again");
    }

    async fn permission_denied(sdk: Sdk) {
        let (server, token) = keyless("shop", "other").await;
        sdk.passes_with(&server.url, &[&token]).await;
    }

    /// A function as the key, called for each request.
    async fn token_as_key(sdk: Sdk) {
        let (server, token) = keyless("shop", "web").await;
        sdk.passes_with(&server.url, &[&token]).await;
    }
}
