//! The two ConfigMaps: what the server is told, and what apps need to find it.

use k8s_openapi::api::core::v1::ConfigMap;

use super::{ValidatedChatService, metadata};
use crate::constants::{env, mount};

/// `<name>-config`: the file that the server reads.
pub(super) fn config(service: &ValidatedChatService) -> ConfigMap {
    let file = (mount::CONFIG_FILE.to_owned(), service.config.to_text());
    ConfigMap {
        metadata: metadata(service, service.name.config()),
        data: Some([file].into()),
        ..ConfigMap::default()
    }
}

/// `<name>-connection`: for `envFrom` in apps. SDKs refuse to start without a key, although none is needed.
pub(super) fn connection(service: &ValidatedChatService) -> ConfigMap {
    let data = [
        (env::CONNECTION_BASE_URL.to_owned(), service.endpoint()),
        (env::OPENAI_API_KEY.to_owned(), "unused".to_owned()),
    ];
    ConfigMap {
        metadata: metadata(service, service.name.connection()),
        data: Some(data.into()),
        ..ConfigMap::default()
    }
}
