//! The CEL rules of the schema that need more than a line. `controller::check` says the same in Rust, and a table of
//! specs that is offered to both keeps them together.

/// A tag or a digest is required: what runs must not depend on when it was pulled.
pub(super) const IMAGE_RULE: &str =
    "self == '' || self.matches('^[^[:space:]]+(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|@sha256:[a-f0-9]{64})$')";

/// A host name, an IPv4 address or an IPv6 address in brackets. Regular expressions of rules are read by Go's RE2 in the
/// API server and by Rust's regex here, so they use only what both mean alike.
macro_rules! host {
    () => {
        concat!(
            r"([A-Za-z0-9._-]+|\\[(",
            "([0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}|",
            "([0-9A-Fa-f]{1,4}:){1,7}:|",
            "([0-9A-Fa-f]{1,4}:){1,6}(:[0-9A-Fa-f]{1,4}){1,1}|",
            "([0-9A-Fa-f]{1,4}:){1,5}(:[0-9A-Fa-f]{1,4}){1,2}|",
            "([0-9A-Fa-f]{1,4}:){1,4}(:[0-9A-Fa-f]{1,4}){1,3}|",
            "([0-9A-Fa-f]{1,4}:){1,3}(:[0-9A-Fa-f]{1,4}){1,4}|",
            "([0-9A-Fa-f]{1,4}:){1,2}(:[0-9A-Fa-f]{1,4}){1,5}|",
            "([0-9A-Fa-f]{1,4}:){1,1}(:[0-9A-Fa-f]{1,4}){1,6}|",
            ":(:[0-9A-Fa-f]{1,4}){1,7}|",
            "::",
            r")\\])",
        )
    };
}

/// A port from 1 to 65535, with its colon.
macro_rules! port {
    () => {
        "(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))"
    };
}

/// A scheme, a host, maybe a port and a path.
pub(super) const URL_RULE: &str =
    concat!("self.matches('^https?://", host!(), port!(), "?(/[^?#[:space:]]*)?$')");

/// A scheme, a host and a port: there is no port that proxies agree on.
pub(super) const PROXY_RULE: &str = concat!("self.matches('^https?://", host!(), port!(), "/?$')");

/// On `cors.allowOrigins`: what a browser writes into `Origin`, or all of them.
pub(super) const ORIGINS_RULE: &str =
    concat!("self.all(o, o == '*' || o.matches('^https?://", host!(), port!(), "?$'))");

/// On `cors.allowOrigins`.
pub(super) const ALL_ORIGINS_RULE: &str = "size(self) < 2 || !('*' in self)";

/// A number of an IPv4 address: 0 to 255 without zeros in front.
macro_rules! octet {
    () => {
        "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
    };
}

/// What stays inside a machine or a cluster: loopback, RFC 1918 and ULA addresses, names that public DNS has not. A name
/// without dots begins with a letter, as that of a Service does: `134744072` and `0x8080808` are addresses to many.
pub(super) const PLAIN_HTTP_RULE: &str = concat!(
    "!self.startsWith('http://') || self.matches('^http://(",
    "[A-Za-z][A-Za-z0-9_-]*|[A-Za-z0-9._-]+[.](svc|local|localhost|internal)|",
    "(127[.]",
    octet!(),
    "|10[.]",
    octet!(),
    "|192[.]168|172[.](1[6-9]|2[0-9]|3[01]))",
    "[.]",
    octet!(),
    "[.]",
    octet!(),
    "|",
    r"\\[::1\\]|\\[[fF][cCdD][0-9A-Fa-f]{2}:[0-9A-Fa-f:]+\\]",
    ")(:[0-9]+)?(/.*)?$')",
);

/// The name of an object of Kubernetes.
pub(super) const OBJECT_NAME_RULE: &str =
    "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')";

/// What callers and backends call a model.
pub(super) const MODEL_NAME_RULE: &str = "self.matches('^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}$')";

/// On the spec: what a caller gets who names no model is something that callers may ask for.
pub(super) const MODEL_AMONG_RULE: &str = "!has(self.models) || self.models.exists(m, m.name == self.model)";

/// On the spec. The prices are looked up by the operator, because a table of them is nothing for a rule.
pub(super) const BUDGET_CAPS_RULE: &str =
    "!has(self.budget) || (has(self.models) && self.models.all(m, has(m.maxOutputTokens)))";

/// On the spec: what a caller may spend is reserved as what all may.
pub(super) const CALLER_BUDGET_CAPS_RULE: &str = concat!(
    "!has(self.auth) || !has(self.auth.callers) || self.auth.callers.all(c, !has(c.budget)) || ",
    "(has(self.models) && self.models.all(m, has(m.maxOutputTokens)))",
);

/// On the spec: without `auth` a caller is an address, which is worth no budget.
pub(super) const BUDGET_PER_RULE: &str =
    "!has(self.budget) || !has(self.budget.per) || self.budget.per != 'Caller' || has(self.auth)";

/// On the spec: without `auth` there is nobody whose answers they are.
pub(super) const CACHE_SCOPE_RULE: &str =
    "!has(self.cache) || !has(self.cache.scope) || self.cache.scope != 'Caller' || has(self.auth)";

/// On `trustedProxies`. Whoever trusts all addresses lets everybody choose theirs.
pub(super) const PROXIES_RULE: &str = "self.all(p, (isCIDR(p) || isIP(p)) && !p.endsWith('/0'))";

/// On `auth.callers`.
pub(super) const CALLERS_UNIQUE_RULE: &str = "self.all(c, self.exists_one(d, d.name == c.name))";

/// A data key of a Secret, or a namespace and the name of a ServiceAccount.
pub(super) const CALLER_NAME_RULE: &str = "self.matches('^([-._a-zA-Z0-9]{1,253}|[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)$')";

/// The name of a namespace.
pub(super) const NAMESPACE_RULE: &str = "self.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')";

/// The name of a ServiceAccount.
pub(super) const ACCOUNT_NAME_RULE: &str = "self.matches('^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$')";

/// What a token can be made for.
pub(super) const AUDIENCE_RULE: &str = "self.matches('^[!-~]*$')";

/// On `models`.
pub(super) const MODELS_UNIQUE_RULE: &str = "self.all(m, self.exists_one(n, n.name == m.name))";

/// On `models`.
pub(super) const FALLBACKS_KNOWN_RULE: &str =
    "self.all(m, !has(m.fallbacks) || m.fallbacks.all(f, self.exists(n, n.name == f)))";

/// Keeps of `names` those with a fallback in it: what begins a way that is one longer.
macro_rules! one_step_more {
    () => {
        ".map(names, self.filter(m, has(m.fallbacks) && m.fallbacks.exists(f, f in names)).map(m, m.name))"
    };
}

/// On `models`: no way along fallbacks has more than 8 models, so none is a circle. A list of one list stands for a
/// variable, which rules do not have.
pub(super) const FALLBACKS_END_RULE: &str = concat!(
    "[self.map(m, m.name)]",
    one_step_more!(),
    one_step_more!(),
    one_step_more!(),
    one_step_more!(),
    one_step_more!(),
    one_step_more!(),
    one_step_more!(),
    one_step_more!(),
    ".all(names, size(names) == 0)",
);

/// On a list of strings.
pub(super) const UNIQUE_RULE: &str = "self.all(a, self.exists_one(b, b == a))";

/// On `omit`.
pub(super) const MEMBERS_RULE: &str = "self.all(m, m.matches('^[A-Za-z_][A-Za-z0-9_]*$'))";

/// On `omit`. The output cap is what reservations rely on.
pub(super) const NOT_OMITTED_RULE: &str =
    "!self.exists(m, m in ['model', 'messages', 'stream', 'max_tokens', 'max_completion_tokens'])";

/// USD: below a million, six decimals.
macro_rules! usd {
    () => {
        "self.matches('^(0|[1-9][0-9]{0,5})([.][0-9]{1,6})?$')"
    };
}

/// May be 0: a model of one's own may cost nothing.
pub(super) const PRICE_RULE: &str = usd!();

/// May not be 0.
pub(super) const AMOUNT_RULE: &str = concat!(usd!(), " && !self.matches('^[0.]*$')");

/// On `timeouts`. What is no duration has a sentence of its own.
pub(super) const TIMEOUTS_ORDER_RULE: &str = concat!(
    "[has(self.request) ? self.request : '10m'].all(r, ",
    "[has(self.connect) ? self.connect : '0s', has(self.firstToken) ? self.firstToken : '0s', ",
    "has(self.idle) ? self.idle : '0s'].all(t, ",
    "!t.matches('^([0-9]{1,5}h|[0-9]{1,7}(m|s|ms))+$') || !r.matches('^([0-9]{1,5}h|[0-9]{1,7}(m|s|ms))+$')",
    " || duration(t) <= duration(r)))",
);

/// Go's form without signs and fractions; the number of digits is bounded so that `duration()` cannot overflow.
pub(super) const DURATION: &str = "self.matches('^([0-9]{1,5}h|[0-9]{1,7}(m|s|ms))+$')";

pub(super) const MEMORY_RULE: &str = concat!(
    "self.matches('^[0-9]{1,12}(k|M|G|Ki|Mi|Gi)?$')",
    " && quantity(self).compareTo(quantity('1Mi')) >= 0 && quantity(self).compareTo(quantity('16Gi')) <= 0",
);

/// Values are integers or strings, hence `string()`.
pub(super) const QUANTITIES_RULE: &str =
    "self.all(k, isQuantity(string(self[k])) && quantity(string(self[k])).compareTo(quantity('0')) >= 0)";

pub(super) const RESOURCE_NAMES_RULE: &str = concat!(
    "self.all(k, k in ['cpu', 'memory', 'ephemeral-storage'] || k.startsWith('hugepages-') || ",
    "k.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$'))",
);

pub(super) const REQUESTS_BELOW_LIMITS_RULE: &str = concat!(
    "!has(self.requests) || !has(self.limits) || self.requests.all(k, !(k in self.limits) || ",
    "!isQuantity(string(self.requests[k])) || !isQuantity(string(self.limits[k])) || ",
    "quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) <= 0)",
);

/// A name with maybe a domain in front, as keys of labels and annotations are.
macro_rules! qualified {
    () => {
        "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
    };
}

/// On labels: what the API server takes for some.
pub(super) const LABELS_RULE: &str = concat!(
    "self.all(k, k.matches('",
    qualified!(),
    "') && self[k].matches('^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$'))",
);

/// On labels of pods: those that select them and say whose they are stay ours.
pub(super) const OWN_LABELS_RULE: &str =
    "self.all(k, !k.startsWith('app.kubernetes.io/') && !k.startsWith('chatservice.dev/'))";

/// On annotations.
pub(super) const ANNOTATIONS_RULE: &str = concat!("self.all(k, k.matches('", qualified!(), "'))");

/// On annotations.
pub(super) const OWN_ANNOTATIONS_RULE: &str = "self.all(k, !k.startsWith('chatservice.dev/'))";

/// On a list of objects with a name.
pub(super) const UNIQUE_NAMES_RULE: &str = "self.all(a, self.exists_one(b, b.name == a.name))";

/// On `metrics`: exactly the member that `type` names.
pub(super) const METRICS_RULE: &str = concat!(
    "self.all(m, m.type in ['Resource', 'ContainerResource', 'Pods', 'Object', 'External']",
    " && has(m.resource) == (m.type == 'Resource')",
    " && has(m.containerResource) == (m.type == 'ContainerResource')",
    " && has(m.pods) == (m.type == 'Pods')",
    " && has(m.object) == (m.type == 'Object')",
    " && has(m.external) == (m.type == 'External'))",
);

/// On the spec: a share of what is requested needs a request. A limit counts as one; so do the defaults.
pub(super) const CPU_REQUEST_RULE: &str = concat!(
    "!has(self.autoscaling) || !has(self.resources)",
    " || !(has(self.autoscaling.targetCPUUtilizationPercentage)",
    " || (!has(self.autoscaling.targetMemoryUtilizationPercentage)",
    " && (!has(self.autoscaling.metrics) || size(self.autoscaling.metrics) == 0)))",
    " || (has(self.resources.requests) && 'cpu' in self.resources.requests)",
    " || (has(self.resources.limits) && 'cpu' in self.resources.limits)",
);

/// On the spec.
pub(super) const MEMORY_REQUEST_RULE: &str = concat!(
    "!has(self.autoscaling) || !has(self.resources)",
    " || !has(self.autoscaling.targetMemoryUtilizationPercentage)",
    " || (has(self.resources.requests) && 'memory' in self.resources.requests)",
    " || (has(self.resources.limits) && 'memory' in self.resources.limits)",
);

/// On a peer of a NetworkPolicy.
pub(super) const PEER_RULE: &str =
    "has(self.ipBlock) != (has(self.namespaceSelector) || has(self.podSelector))";

/// A range of addresses.
pub(super) const CIDR_RULE: &str = "isCIDR(self)";

/// On an `ipBlock`. What is no range has a sentence of its own.
pub(super) const BLOCK_EXCEPT_RULE: &str = concat!(
    "!has(self.except) || !isCIDR(self.cidr)",
    " || self.except.all(e, isCIDR(e) && cidr(self.cidr).containsCIDR(e))",
);
