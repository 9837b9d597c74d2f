//! Step 4. In: [`Resources<Prepared>`]. Out: [`Resources<Applied>`](build::Applied), which is what the API server answered; the objects
//! that are no longer wanted are gone.
//!
//! Always server-side apply with the whole intent: what is left out is given up, and what somebody else changed in
//! a field of ours goes back. An apply that changes nothing writes nothing; where nobody wrote a child since it was applied
//! last, and nothing else is wanted of it, it is not even sent.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::reflector::Store;
use kube::{Api, Client};
use serde::Serialize;
use serde_json::json;

use super::ObjectKey;
use super::build::{self, Prepared, Resources};
use super::check::invalid;
use super::children::{Child, Children};
use super::dereference::{ChildKey, Foreign, References};
use super::error::Error;
use super::kept::Cached;
use super::last_applied::{Applied, LastApplied};
use super::validate::{Problem, ValidatedChatService};
use super::workload::{Scale, Standing};
use crate::constants::{field_manager, reason};

/// How long a cache may show what is deleted.
const LAG: Duration = Duration::from_mins(1);

/// The uids of what was deleted in the last [`LAG`]: on a busy API server a cache shows them for a while yet, and asking once
/// is enough.
#[derive(Default)]
pub struct Deleted(Mutex<HashMap<String, Instant>>);

impl Deleted {
    fn contains(&self, uid: &str) -> bool {
        let at = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(uid).copied();
        at.is_some_and(|at| at.elapsed() < LAG)
    }

    fn add(&self, uid: String) {
        let mut uids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        uids.retain(|_, at| at.elapsed() < LAG);
        uids.insert(uid, Instant::now());
    }
}

/// Why the children are not as they should be.
#[derive(Debug)]
pub enum ApplyError {
    /// Only a new spec, or somebody's hand, helps.
    Refused(Problem),
    /// It is tried again.
    Failed(Error),
}

impl From<Error> for ApplyError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Writes every child of `service`, then removes what it does not want any more.
///
/// # Errors
/// The first refusal ends the run: what comes later may depend on what was refused.
pub async fn apply(
    client: &Client,
    children: &Children,
    service: &ValidatedChatService,
    prepared: Resources<Prepared>,
    references: &References,
) -> Result<Resources<build::Applied>, ApplyError> {
    let key = ObjectKey { namespace: service.namespace.clone(), name: service.name.to_string() };
    let applier =
        Applier { client, key: &key, references, deleted: &children.deleted, applied: &children.applied };
    // No `..`: a new kind does not compile until it is applied here.
    let Resources {
        service_account,
        config,
        connection,
        service: api_service,
        admin_service,
        network_policy,
        pod_disruption_budget,
        deployment,
        replicas,
        horizontal_pod_autoscaler,
        state: _,
    } = prepared;
    // Pods need their account and their configuration, so the Deployment comes last; the Services come before it, so
    // that a pod is reachable from its first second, and the NetworkPolicy, so that not by everybody even then.
    let service_account = applier.ensure(service_account).await?;
    let config = applier.ensure(config).await?;
    let connection = applier.ensure(connection).await?;
    let api_service = applier.ensure(api_service).await?;
    let admin_service = applier.ensure(admin_service).await?;
    let network_policy = applier.ensure_if(network_policy).await?;
    let pod_disruption_budget = applier.ensure_if(pod_disruption_budget).await?;
    // One that waits for its turn stays as it is, all of its template: every change of that would be a rollout of its own.
    let deployment = match &references.outdated {
        Some(outdated) => outdated.as_ref().clone(),
        None => applier.write(deployment).await?,
    };
    let deployment = applier.scale(deployment, service).await?;
    // After it: an autoscaler that finds 0 pods does nothing for its whole period.
    let horizontal_pod_autoscaler = match horizontal_pod_autoscaler {
        Some(wanted) => Some(applier.write(wanted).await?),
        None => None,
    };
    let written = Resources {
        service_account,
        config,
        connection,
        service: api_service,
        admin_service,
        network_policy,
        pod_disruption_budget,
        deployment,
        replicas,
        horizontal_pod_autoscaler,
        state: PhantomData,
    };
    remove_unwanted(&applier, children, service, &written).await?;
    Ok(written)
}

struct Applier<'a> {
    client: &'a Client,
    /// The ChatService.
    key: &'a ObjectKey,
    references: &'a References,
    deleted: &'a Deleted,
    applied: &'a LastApplied,
}

impl Applier<'_> {
    /// Applies a whole child whose status nobody asks for, if it may not be as it should; it is then given back as it was wanted.
    async fn ensure<K: Child>(&self, object: K) -> Result<K, ApplyError> {
        let key = ChildKey::of::<K>(object.meta().name.as_deref().unwrap_or_default());
        let ours = self.references.ours(&key);
        let last = ours.and_then(|ours| Applied::of(&object, &ours.version));
        if last.is_some_and(|last| self.applied.is(self.key, &key, last)) {
            return Ok(object);
        }
        let written = self.write(object.clone()).await?;
        let version = written.meta().resource_version.as_deref().unwrap_or_default();
        if let Some(applied) = Applied::of(&object, version) {
            self.applied.note(self.key, key, applied);
        }
        Ok(written)
    }

    async fn ensure_if<K: Child>(&self, object: Option<K>) -> Result<Option<K>, ApplyError> {
        match object {
            Some(object) => self.ensure(object).await.map(Some),
            None => Ok(None),
        }
    }

    /// Applies a whole child. The first time without force: a conflict then means that somebody else made the object
    /// since it was looked for. Later with the uid that was looked at: another object of that name is a conflict too.
    async fn write<K: Child>(&self, mut object: K) -> Result<K, ApplyError> {
        let name = object.meta().name.clone().unwrap_or_default();
        let uid = self.references.ours(&ChildKey::of::<K>(&name)).map(|ours| ours.uid.clone());
        let params = PatchParams { force: uid.is_some(), ..PatchParams::apply(field_manager::CONTROLLER) };
        object.meta_mut().uid = uid;
        self.patch(&name, &params, &object).await
    }

    /// Sets the number of pods under its own field manager, always with force: `kubectl scale deployment` is undone,
    /// because the ChatService's own `replicas` is what counts. While an autoscaler sets it, that manager is silent: an
    /// apply that leaves the field out would have the API server make it 1. The uid keeps it from making a Deployment of
    /// nothing but a number where the one just written is gone again.
    async fn scale(
        &self,
        written: Deployment,
        service: &ValidatedChatService,
    ) -> Result<Deployment, ApplyError> {
        let name = written.metadata.name.as_deref().unwrap_or_default();
        if let Scale::Fixed(_) = &service.scale {
            // Gone before the number is written, or it could still change it.
            for (name, uid) in &service.autoscalers.ours {
                self.delete::<HorizontalPodAutoscaler>(name, uid).await?;
            }
        }
        let standing = Standing {
            created: self.references.ours(&ChildKey::of::<Deployment>(name)).is_none(),
            replicas: written.spec.replicas.unwrap_or(1),
            pods_before: service.pods_before,
        };
        let Some(replicas) = service.scale.replicas(&standing) else { return Ok(written) };
        let params = PatchParams::apply(field_manager::REPLICAS).force();
        let replicas = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": { "name": name, "uid": written.metadata.uid },
            "spec": { "replicas": replicas },
        });
        self.patch(name, &params, &replicas).await
    }

    /// Deletes a child of ours. The uid is a precondition, so that an object that came under the same name since then
    /// stays.
    async fn delete<K: Child>(&self, name: &str, uid: &str) -> Result<(), Error> {
        if self.deleted.contains(uid) {
            return Ok(());
        }
        let preconditions = Preconditions { uid: Some(uid.to_owned()), ..Preconditions::default() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.key.namespace);
        let error = |verb, source| Error::request::<K>(verb, &self.key.namespace, name, source);
        match api.delete(name, &params).await {
            Ok(_) => tracing::info!(kind = K::KIND, name, "deleted what the spec does not want any more"),
            // Gone already: that is what was wanted.
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(source) => {
                if !matches!(&source, kube::Error::Api(status) if status.is_conflict()) {
                    return Err(error("delete", source));
                }
                // Another object has the name now; or else somebody wrote this one meanwhile.
                let live = api.get_metadata_opt(name).await.map_err(|source| error("get", source))?;
                if live.is_some_and(|live| live.metadata.uid.as_deref() == Some(uid)) {
                    return Err(error("delete", source));
                }
            }
        }
        self.deleted.add(uid.to_owned());
        Ok(())
    }

    async fn patch<K: Child>(
        &self,
        name: &str,
        params: &PatchParams,
        object: &(impl Serialize + std::fmt::Debug),
    ) -> Result<K, ApplyError> {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.key.namespace);
        api.patch(name, params, &Patch::Apply(object)).await.map_err(|source| {
            let error = Error::request::<K>("patch", &self.key.namespace, name, source);
            refusal(&error, &ChildKey::of::<K>(name), params.force)
                .map_or(ApplyError::Failed(error), ApplyError::Refused)
        })
    }
}

/// Whether only a new spec, or somebody's hand, helps against `error`.
fn refusal(error: &Error, key: &ChildKey, forced: bool) -> Option<Problem> {
    let status = error.answer()?;
    let ChildKey { kind, name } = key;
    let causes = || status.details.iter().flat_map(|details| &details.causes);
    if status.is_conflict() && !forced && causes().next().is_some() {
        let managers: Vec<&str> = causes().map(|cause| cause.message.as_str()).collect();
        let owner = format!("somebody else ({})", managers.join("; "));
        return Some(Problem {
            reason: reason::NAME_TAKEN,
            field: String::new(),
            message: Foreign { key, owner: &owner }.to_string(),
        });
    }
    if !status.is_invalid() && status.code != 400 {
        return None;
    }
    if status.message.contains("immutable") {
        return Some(Problem {
            reason: reason::FIELD_IMMUTABLE,
            field: String::new(),
            message: format!(
                "{kind} \"{name}\" cannot be changed: {}. Fix: undo that change of the spec, or delete the {kind} and it is made anew",
                status.message
            ),
        });
    }
    Some(invalid("", format!("the API server refuses {kind} \"{name}\" of this spec: {}", status.message)))
}

/// Deletes what has our labels and our owner uid and was not applied in this run.
async fn remove_unwanted(
    applier: &Applier<'_>,
    children: &Children,
    service: &ValidatedChatService,
    written: &Resources<build::Applied>,
) -> Result<(), Error> {
    let Resources {
        service_account,
        config,
        connection,
        service: api_service,
        admin_service,
        network_policy,
        pod_disruption_budget,
        deployment,
        replicas: _,
        horizontal_pod_autoscaler,
        state: _,
    } = written;
    let Some(owner) = &service.owner else { return Ok(()) };
    let remover = Remover { applier, instance: service.name.as_str(), owner_uid: &owner.uid };
    remover.keep_only(&children.service_accounts, &[service_account]).await?;
    remover.keep_only(&children.config_maps, &[config, connection]).await?;
    remover.keep_only(&children.services, &[api_service, admin_service]).await?;
    let budgets: Vec<_> = pod_disruption_budget.iter().collect();
    remover.keep_only(&children.pod_disruption_budgets, &budgets).await?;
    let autoscalers: Vec<_> = horizontal_pod_autoscaler.iter().collect();
    remover.keep_only(&children.horizontal_pod_autoscalers, &autoscalers).await?;
    let policies: Vec<_> = network_policy.iter().collect();
    remover.keep_only(&children.network_policies, &policies).await?;
    remover.keep_only(&children.deployments, &[deployment]).await
}

struct Remover<'a> {
    applier: &'a Applier<'a>,
    instance: &'a str,
    owner_uid: &'a str,
}

impl Remover<'_> {
    async fn keep_only<K, S>(&self, cache: &Store<S>, wanted: &[&K]) -> Result<(), Error>
    where
        K: Child,
        S: Cached,
    {
        let namespace = self.applier.key.namespace.as_str();
        let unwanted = cache.state_filter(|object| {
            let facts = object.facts();
            *facts.namespace == *namespace
                && !facts.is_going
                && facts.instance.as_deref() == Some(self.instance)
                && facts.is_of(self.owner_uid)
                && !wanted.iter().any(|wanted| wanted.meta().name.as_deref() == Some(&*facts.name))
        });
        for object in unwanted {
            let facts = object.facts();
            self.applier.delete::<K>(&facts.name, &facts.uid).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_deleted_is_known_for_a_while_and_forgotten_then() {
        let deleted = Deleted::default();
        let old = Instant::now().checked_sub(LAG).unwrap();
        deleted.0.lock().unwrap().insert("old".to_owned(), old);
        assert!(!deleted.contains("old") && !deleted.contains("new"));
        deleted.add("new".to_owned());
        assert!(deleted.contains("new"));
        assert_eq!(deleted.0.lock().unwrap().len(), 1);
    }
}
