//! The two ConfigMaps: what the server is told, and what apps need to find it.

use std::collections::BTreeMap;

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

/// `<name>-connection`: for `envFrom` in apps. SDKs refuse to start without a key, also where none is needed; where one is,
/// each app brings its own.
pub(super) fn connection(service: &ValidatedChatService) -> ConfigMap {
    let mut data = BTreeMap::from([(env::CONNECTION_BASE_URL.to_owned(), service.endpoint())]);
    if service.config.dynamic.auth.is_none() {
        data.insert(env::OPENAI_API_KEY.to_owned(), "unused".to_owned());
    }
    ConfigMap {
        metadata: metadata(service, service.name.connection()),
        data: Some(data),
        ..ConfigMap::default()
    }
}
