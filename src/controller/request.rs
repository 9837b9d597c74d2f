//! A request to the API server as RBAC sees it. In: method and URL. Out: verb, group, resource. Pure; metrics count by it,
//! and tests compare what was sent with [`super::rbac`].

use http::{Method, Uri};

/// What a request does, and to what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiRequest {
    /// The verb of RBAC: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: &'static str,
    /// API group; empty for the core group.
    pub group: String,
    /// The resource, with its subresource behind a slash where there is one.
    pub resource: String,
    /// Whose it is; None for what has no namespace, or for all of them.
    pub namespace: Option<String>,
    /// The object; None for a collection.
    pub name: Option<String>,
}

impl ApiRequest {
    /// Reads a request; None for what is not about a resource, such as `/version` and `/openapi`.
    #[must_use]
    pub fn of(method: &Method, uri: &Uri) -> Option<Self> {
        let mut parts = uri.path().trim_matches('/').split('/');
        let group = match parts.next()? {
            "api" => "",
            "apis" => parts.next()?,
            _ => return None,
        };
        let _version = parts.next()?;
        let rest: Vec<&str> = parts.collect();
        // The object "x" of the resource `namespaces`, and everything that is in the namespace "x".
        let (namespace, rest) = match rest.as_slice() {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() && !is_subresource(rest) => {
                (Some((*namespace).to_owned()), rest)
            }
            all => (None, all),
        };
        let (resource, name) = match rest {
            [resource] => ((*resource).to_owned(), None),
            [resource, name] => ((*resource).to_owned(), Some((*name).to_owned())),
            [resource, name, subresource, ..] => {
                (format!("{resource}/{subresource}"), Some((*name).to_owned()))
            }
            [] => return None,
        };
        let watches = || {
            let pairs = uri.query().unwrap_or_default().split('&');
            pairs.into_iter().any(|pair| matches!(pair, "watch" | "watch=1" | "watch=true"))
        };
        let verb = match (method.as_str(), &name) {
            ("GET" | "HEAD", Some(_)) => "get",
            ("GET" | "HEAD", None) if watches() => "watch",
            ("GET" | "HEAD", None) => "list",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", Some(_)) => "delete",
            ("DELETE", None) => "deletecollection",
            _ => return None,
        };
        Some(Self { verb, group: group.to_owned(), resource, namespace, name })
    }

    /// Resource and group in one, as kubectl writes it: `deployments.apps`.
    #[must_use]
    pub fn qualified(&self) -> String {
        qualified(&self.group, &self.resource)
    }
}

/// A resource with its group: `deployments.apps`, `pods`, `chatservices.chatservice.dev/status`.
#[must_use]
pub fn qualified(group: &str, resource: &str) -> String {
    match (group, resource.split_once('/')) {
        ("", _) => resource.to_owned(),
        (group, None) => format!("{resource}.{group}"),
        (group, Some((resource, subresource))) => format!("{resource}.{group}/{subresource}"),
    }
}

/// Whether what follows a namespace is a part of it and not in it.
fn is_subresource(rest: &[&str]) -> bool {
    matches!(rest, ["status" | "finalize"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_rbac_reads_them() {
        for (method, url, verb, resource, namespace, name) in [
            ("GET", "/api/v1/pods", "list", "pods", None, None),
            ("GET", "/api/v1/namespaces/chat/pods?watch=true&x=1", "watch", "pods", Some("chat"), None),
            ("GET", "/api/v1/namespaces/chat", "get", "namespaces", None, Some("chat")),
            ("PUT", "/api/v1/namespaces/chat/finalize", "update", "namespaces/finalize", None, Some("chat")),
            (
                "POST",
                "/apis/apps/v1/namespaces/chat/deployments",
                "create",
                "deployments.apps",
                Some("chat"),
                None,
            ),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/chat/deployments/demo?fieldManager=m",
                "patch",
                "deployments.apps",
                Some("chat"),
                Some("demo"),
            ),
            (
                "PATCH",
                "/apis/chatservice.dev/v1alpha1/namespaces/chat/chatservices/demo/status?",
                "patch",
                "chatservices.chatservice.dev/status",
                Some("chat"),
                Some("demo"),
            ),
            (
                "DELETE",
                "/api/v1/namespaces/chat/services/demo",
                "delete",
                "services",
                Some("chat"),
                Some("demo"),
            ),
            (
                "DELETE",
                "/api/v1/namespaces/chat/services",
                "deletecollection",
                "services",
                Some("chat"),
                None,
            ),
        ] {
            let method = method.parse().unwrap();
            let found = ApiRequest::of(&method, &url.parse().unwrap()).unwrap();
            assert_eq!((found.verb, found.qualified().as_str()), (verb, resource), "{url}");
            assert_eq!((found.namespace.as_deref(), found.name.as_deref()), (namespace, name), "{url}");
        }
        for url in ["/version", "/openapi/v3", "/", "/api", "/apis/apps", "/apis/apps/v1"] {
            assert_eq!(ApiRequest::of(&Method::GET, &url.parse().unwrap()), None, "{url}");
        }
    }
}
