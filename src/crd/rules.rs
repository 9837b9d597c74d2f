//! The CEL rules of the schema that need more than a line. `controller::check` says the same in Rust, and a table of
//! specs that is offered to both keeps them together.

/// A tag or a digest is required: what runs must not depend on when it was pulled.
pub(super) const IMAGE_RULE: &str =
    "self == '' || self.matches('^[^[:space:]]+(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|@sha256:[a-f0-9]{64})$')";

/// A host name, an IPv4 address or an IPv6 address in brackets; a port below 65536; a path. Regular expressions of
/// rules are read by Go's RE2 in the API server and by Rust's regex here, so they use only what both mean alike.
pub(super) const URL_RULE: &str = concat!(
    r"self.matches('^https?://([A-Za-z0-9._-]+|\\[(",
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
    "(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?",
    "(/[^?#[:space:]]*)?$')",
);

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
