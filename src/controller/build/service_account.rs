//! The ServiceAccount of the pods. The server never talks to the API server, so no token is mounted.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::{ValidatedChatService, metadata};

pub(super) fn build(service: &ValidatedChatService) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(service, service.name.to_string()),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
