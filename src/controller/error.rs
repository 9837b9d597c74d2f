//! What can go wrong in a reconcile. In: the API server's answers. Out: a reason for conditions, metrics and logs, and
//! whether the namespace is simply going away.

use kube::core::Status;

use super::children::Child;
use super::signing_keys::Unreadable;
use crate::constants::reason;
use crate::leader_election::Lost;

/// How the API server says that an admission webhook or a ValidatingAdmissionPolicy refused a request, and not RBAC.
const POLICIES: [&str; 2] = ["denied the request", "ValidatingAdmissionPolicy"];

/// A reconcile, or the operator itself, failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused a request or did not answer it.
    #[error("failed to {verb} {resource} {namespace}/{name}: {source}")]
    Request {
        /// What was tried.
        verb: &'static str,
        /// On which resource, such as `deployments.apps`.
        resource: String,
        /// Where.
        namespace: String,
        /// On which object.
        name: String,
        /// The answer.
        source: Box<kube::Error>,
    },
    /// The caches are not filled yet, so nothing can be decided.
    #[error("failed to list or watch {resource}: {message}")]
    Watch {
        /// The resource.
        resource: &'static str,
        /// Whether a permission is missing.
        forbidden: bool,
        /// The API server's answer.
        message: String,
    },
    /// What the API server publishes about ServiceAccount tokens cannot be read, and never was.
    #[error("failed to read the keys of ServiceAccount tokens from {path}: {source}")]
    SigningKeys {
        /// Where.
        path: &'static str,
        /// Why not.
        source: Unreadable,
    },
    /// The reconcile took too long.
    #[error("failed to finish within {0} s")]
    Deadline(u64),
    /// There is no usable configuration for talking to the API server.
    #[error(
        "failed to find out how to reach the API server: {0}. Run in a cluster, or set KUBECONFIG to a readable file"
    )]
    Configuration(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The admin listener cannot be opened.
    #[error("failed to listen on {address}: {source}. Use another address, or stop what listens there")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// A metric cannot be registered.
    #[error("failed to register the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The Lease is lost, so another process may write now.
    #[error("failed to keep leading: {0}. A new process waits for its turn")]
    Lost(#[from] Lost),
    /// A part of the operator ended by itself.
    #[error("failed to keep running: {0} ended by itself")]
    Ended(&'static str),
}

impl Error {
    /// A request about a child.
    pub(super) fn request<K: Child>(
        verb: &'static str,
        namespace: &str,
        name: &str,
        source: kube::Error,
    ) -> Self {
        let resource = if K::GROUP.is_empty() {
            K::URL_PATH_SEGMENT.to_owned()
        } else {
            format!("{}.{}", K::URL_PATH_SEGMENT, K::GROUP)
        };
        Self::Request {
            verb,
            resource,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            source: Box::new(source),
        }
    }

    /// The API server's answer, if it gave one.
    pub(super) fn answer(&self) -> Option<&Status> {
        match self {
            Self::Request { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            _ => None,
        }
    }

    /// The namespace is being deleted: everything in it goes, and nothing new is let in.
    pub(super) fn is_namespace_terminating(&self) -> bool {
        self.answer().is_some_and(is_terminating)
    }

    /// A permission is missing.
    pub(super) fn is_forbidden(&self) -> bool {
        self.answer().is_some_and(|status| status.is_forbidden() && !is_terminating(status))
    }

    /// Somebody else wrote at the same time: worth another try at once, and no warning.
    pub(super) fn is_conflict(&self) -> bool {
        self.answer().is_some_and(Status::is_conflict)
    }

    /// What the `Ready` condition says of it: reason and message. None for what is over with the next try.
    pub(super) fn condition(&self) -> Option<(&'static str, String)> {
        if let Self::Watch { resource, forbidden: true, message } = self {
            return Some((
                reason::FORBIDDEN,
                forbidden("list and watch", resource, "this namespace", message),
            ));
        }
        if let Self::SigningKeys { path, source: Unreadable::Status(401 | 403) } = self {
            let message = format!(
                "the operator may not read {path}, by which tokens of ServiceAccounts are checked. Fix: kubectl create clusterrolebinding service-account-issuer-discovery --clusterrole=system:service-account-issuer-discovery --group=system:serviceaccounts"
            );
            return Some((reason::FORBIDDEN, message));
        }
        let Self::Request { verb, resource, namespace, .. } = self else { return None };
        let status = self.answer().filter(|status| status.is_forbidden())?;
        if status.message.contains("exceeded quota") {
            let message = format!(
                "{}. Fix: raise the quota, or make room: kubectl -n {namespace} describe resourcequota",
                status.message
            );
            return Some((reason::QUOTA_EXCEEDED, message));
        }
        let place = format!("namespace \"{namespace}\"");
        if POLICIES.iter().any(|words| status.message.contains(words)) {
            let message = format!(
                "a policy of the cluster refuses to {verb} {resource} in {place}. Fix: change the spec or the policy that is named here. The API server says: {}",
                status.message
            );
            return Some((reason::FORBIDDEN, message));
        }
        let verb = denied_verb(&status.message).unwrap_or(verb);
        Some((reason::FORBIDDEN, forbidden(verb, resource, &place, &status.message)))
    }

    /// A label for metrics: one of few.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        if let Some((reason, _)) = self.condition() {
            return reason;
        }
        match self {
            Self::Request { .. } if self.is_conflict() => "Conflict",
            Self::Request { .. } => "RequestFailed",
            Self::Watch { .. } => "NotInitialised",
            Self::Deadline(_) => "DeadlineExceeded",
            Self::SigningKeys { .. } => "SigningKeysUnreadable",
            Self::Configuration(_)
            | Self::Listen { .. }
            | Self::Metrics(_)
            | Self::Lost(_)
            | Self::Ended(_) => "Internal",
        }
    }
}

/// The API server refuses because the namespace is being deleted.
pub(super) fn is_terminating(status: &Status) -> bool {
    let mut causes = status.details.iter().flat_map(|details| &details.causes);
    causes.any(|cause| cause.reason == "NamespaceTerminating")
}

/// The verb that RBAC misses, in the words of the API server. An apply of what does not exist needs `create` too.
fn denied_verb(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once(" cannot ")?;
    rest.split_once(" resource ").map(|(verb, _)| verb).filter(|verb| !verb.contains(' '))
}

fn forbidden(verb: &str, resource: &str, place: &str, message: &str) -> String {
    format!(
        "the operator may not {verb} {resource} in {place}. Fix: helm upgrade the operator's chart, whose roles hold every rule it needs. The API server says: {message}"
    )
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use kube::core::response::{StatusCause, StatusDetails};

    use super::*;

    fn refused(code: u16, reason: &str, message: &str, cause: &str) -> Error {
        let details = StatusDetails {
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: vec![StatusCause { reason: cause.into(), message: String::new(), field: String::new() }],
            retry_after_seconds: 0,
        };
        let status = Status::failure(message, reason).with_code(code).with_details(details);
        Error::request::<Deployment>("patch", "chat", "demo", kube::Error::Api(status.boxed()))
    }

    #[test]
    fn a_missing_permission_is_named_with_verb_and_resource() {
        let (reason, message) = refused(403, "Forbidden", "no", "").condition().unwrap();
        assert_eq!(reason, reason::FORBIDDEN);
        assert!(
            message.starts_with("the operator may not patch deployments.apps in namespace \"chat\""),
            "{message}"
        );
    }

    #[test]
    fn the_verb_is_the_one_that_is_missing_and_not_the_one_that_was_sent() {
        let said = "deployments.apps \"demo\" is forbidden: User \"u\" cannot create resource \"deployments\" in API group \"apps\" in the namespace \"chat\"";
        let (_, message) = refused(403, "Forbidden", said, "").condition().unwrap();
        assert!(
            message.starts_with("the operator may not create deployments.apps in namespace"),
            "{message}"
        );
    }

    #[test]
    fn keys_of_tokens_that_may_not_be_read_are_told_with_the_binding_that_lets() {
        let unreadable =
            |status| Error::SigningKeys { path: "/openid/v1/jwks", source: Unreadable::Status(status) };
        let (reason, message) = unreadable(403).condition().unwrap();
        assert_eq!(reason, reason::FORBIDDEN);
        assert!(
            message.contains("may not read /openid/v1/jwks") && message.contains("Fix: kubectl"),
            "{message}"
        );
        assert_eq!((unreadable(503).condition(), unreadable(503).reason()), (None, "SigningKeysUnreadable"));
    }

    #[test]
    fn a_quota_is_told_from_a_missing_permission() {
        let error = refused(403, "Forbidden", "services \"demo\" is forbidden: exceeded quota: small", "");
        assert_eq!(error.reason(), reason::QUOTA_EXCEEDED);
    }

    #[test]
    fn a_policy_is_told_from_a_missing_permission() {
        for said in [
            "admission webhook \"images.example.com\" denied the request: not signed",
            "deployments.apps \"demo\" is forbidden: ValidatingAdmissionPolicy 'owners' with binding 'all' denied request: no",
        ] {
            let (reason, message) = refused(403, "Forbidden", said, "").condition().unwrap();
            assert_eq!(reason, reason::FORBIDDEN);
            assert!(
                message.starts_with("a policy of the cluster refuses to patch deployments.apps"),
                "{message}"
            );
            assert!(message.contains(said) && !message.contains("chart"), "{message}");
        }
    }

    #[test]
    fn a_namespace_that_goes_away_is_no_failure() {
        assert!(
            refused(403, "Forbidden", "being terminated", "NamespaceTerminating").is_namespace_terminating()
        );
        assert!(!refused(403, "Forbidden", "no", "").is_namespace_terminating());
    }

    #[test]
    fn what_the_next_try_may_heal_has_no_condition() {
        for (error, label) in [
            (refused(409, "Conflict", "", ""), "Conflict"),
            (refused(500, "InternalError", "", ""), "RequestFailed"),
            (Error::Deadline(30), "DeadlineExceeded"),
        ] {
            assert_eq!(error.condition(), None);
            assert_eq!(error.reason(), label);
        }
    }
}
