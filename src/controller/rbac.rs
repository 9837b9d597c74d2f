//! What the operator may do, as data: the one list that the chart's roles are compared with, that `doctor` asks about, and
//! that the requests recorded in tests must fill exactly. Nothing here reads a Secret: pods mount them by name and report what is wrong.

/// One RBAC rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Resources, with their subresource where only that is meant.
    pub resources: &'static [&'static str],
    /// Verbs.
    pub verbs: &'static [&'static str],
}

/// What is needed to keep children as they should be.
const KEEP: &[&str] = &["get", "list", "watch", "create", "patch", "delete"];

/// Everything the operator is allowed, in each namespace that it watches.
pub const RULES: &[Rule] = &[
    Rule { group: "chatservice.dev", resources: &["chatservices"], verbs: &["get", "list", "watch"] },
    Rule { group: "chatservice.dev", resources: &["chatservices/status"], verbs: &["patch"] },
    Rule { group: "apps", resources: &["deployments"], verbs: KEEP },
    Rule { group: "", resources: &["configmaps", "serviceaccounts", "services"], verbs: KEEP },
    Rule { group: "policy", resources: &["poddisruptionbudgets"], verbs: KEEP },
    Rule { group: "autoscaling", resources: &["horizontalpodautoscalers"], verbs: KEEP },
    Rule { group: "networking.k8s.io", resources: &["networkpolicies"], verbs: KEEP },
    Rule { group: "", resources: &["pods"], verbs: &["list", "watch", "patch"] },
    // `patch` too: a repeated event is written into the series of the first.
    Rule { group: "events.k8s.io", resources: &["events"], verbs: &["create", "patch"] },
];

/// What it is allowed beside [`RULES`] in the namespace that it runs in, and nowhere else: its Lease.
pub const OWN_RULES: &[Rule] =
    &[Rule { group: "coordination.k8s.io", resources: &["leases"], verbs: &["get", "create", "update"] }];

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(group: &str, resource: &str, verb: &str) -> bool {
        RULES.iter().any(|rule| {
            rule.group == group && rule.resources.contains(&resource) && rule.verbs.contains(&verb)
        })
    }

    #[test]
    fn secrets_roles_and_wildcards_are_out_of_reach() {
        for verb in ["get", "list", "watch", "create", "patch", "delete"] {
            assert!(!allows("", "secrets", verb));
            assert!(!allows("rbac.authorization.k8s.io", "roles", verb));
            assert!(!allows("coordination.k8s.io", "leases", verb), "only in its own namespace");
        }
        for rule in RULES.iter().chain(OWN_RULES) {
            assert!(!rule.resources.contains(&"*") && !rule.verbs.contains(&"*"), "{rule:?}");
        }
    }
}
