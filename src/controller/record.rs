//! The last step: the status is written, if it changed. In: the status before and after. Out: a patch of the status
//! subresource, under its own field manager.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, ObjectMeta};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::ObjectKey;
use super::error::Error;
use super::status::Subject;
use crate::constants::{GROUP, KIND, VERSION, field_manager};
use crate::crd::{ChatService, ChatServiceStatus};

/// Writes statuses, and remembers what it wrote until the cache has caught up: otherwise the next reconcile would
/// compare with a status that is no longer there.
#[derive(Debug, Default)]
pub struct StatusWriter(Mutex<HashMap<ObjectKey, Written>>);

#[derive(Debug)]
struct Written {
    uid: Option<String>,
    version: u64,
    status: ChatServiceStatus,
}

impl Written {
    fn is_newer_than(&self, meta: &ObjectMeta) -> bool {
        self.uid == meta.uid && version(meta).is_some_and(|version| version < self.version)
    }
}

/// Resource versions of one resource are whole numbers in ascending order (KEP-5504).
fn version(meta: &ObjectMeta) -> Option<u64> {
    meta.resource_version.as_ref()?.parse().ok()
}

impl StatusWriter {
    /// The status that the object has now: the one in the cache, or the one written after that.
    pub fn current(
        &self,
        key: &ObjectKey,
        meta: &ObjectMeta,
        cached: ChatServiceStatus,
    ) -> ChatServiceStatus {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = written.get(key) else { return cached };
        if last.is_newer_than(meta) {
            return last.status.clone();
        }
        written.remove(key);
        cached
    }

    /// Forgets what was written if the cache, which has the object with `meta` now, has it too.
    pub fn caught_up(&self, key: &ObjectKey, meta: &ObjectMeta) {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if written.get(key).is_some_and(|last| !last.is_newer_than(meta)) {
            written.remove(key);
        }
    }

    /// Whether the object with `meta` is as the last write left it; then that write is forgotten.
    pub fn wrote(&self, key: &ObjectKey, meta: &ObjectMeta) -> bool {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ours =
            written.get(key).is_some_and(|last| last.uid == meta.uid && Some(last.version) == version(meta));
        if ours {
            written.remove(key);
        }
        ours
    }

    /// Writes `status` if it differs from the one before.
    ///
    /// # Errors
    /// The API server's refusal. An object that is gone is none.
    pub async fn write(
        &self,
        client: &Client,
        key: &ObjectKey,
        subject: &Subject,
        status: &ChatServiceStatus,
    ) -> Result<(), Error> {
        if *status == subject.previous {
            return Ok(());
        }
        // Untyped, because the status of an object that cannot be read must be written too.
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), &key.namespace, &ApiResource::erase::<ChatService>(&()));
        let patch = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": KIND,
            // With the uid, an object made anew under the same name is left alone.
            "metadata": { "name": key.name, "uid": subject.uid },
            "status": status,
        });
        match patch_status(&api, key, subject, &patch).await {
            Ok(object) => {
                let version = version(&object.metadata).unwrap_or(0);
                let written = Written { uid: object.uid(), version, status: status.clone() };
                self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), written);
                Ok(())
            }
            Err(kube::Error::Api(answer)) if answer.is_not_found() => Ok(()),
            Err(source) => Err(Error::Request {
                verb: "patch",
                resource: "chatservices.chatservice.dev/status".to_owned(),
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                source: Box::new(source),
            }),
        }
    }

    /// The object is gone.
    pub fn forget(&self, key: &ObjectKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// Applies, so that every field has its owner. An object that cannot be read is not applied to by the API server either: it
/// gets a merge patch, and what that wrote is taken away by one too, because an apply gives up only what an apply wrote.
async fn patch_status(
    api: &Api<DynamicObject>,
    key: &ObjectKey,
    subject: &Subject,
    patch: &Value,
) -> kube::Result<DynamicObject> {
    let params = PatchParams::apply(field_manager::STATUS);
    if subject.wanted.is_none() {
        return api.patch_status(&key.name, &params, &Patch::Merge(patch)).await;
    }
    let object = api.patch_status(&key.name, &params.clone().force(), &Patch::Apply(patch)).await?;
    let count =
        |object: &Value| object.pointer("/status/conditions").and_then(Value::as_array).map_or(0, Vec::len);
    if count(&object.data) > count(patch) {
        return api.patch_status(&key.name, &params, &Patch::Merge(patch)).await;
    }
    Ok(object)
}

/// The status of an object that cannot be read as a ChatService, as far as it can.
///
/// # Errors
/// The API server's refusal.
pub async fn previous_of_unreadable(client: &Client, key: &ObjectKey) -> Result<ChatServiceStatus, Error> {
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &key.namespace, &ApiResource::erase::<ChatService>(&()));
    match api.get_opt(&key.name).await {
        Ok(object) => {
            let status = object.and_then(|object| object.data.get("status").cloned());
            Ok(status.and_then(|status| serde_json::from_value(status).ok()).unwrap_or_default())
        }
        Err(source) => Err(Error::Request {
            verb: "get",
            resource: format!("chatservices.{GROUP}"),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            source: Box::new(source),
        }),
    }
}
