//! The checks of single values that `validate` is made of. In: a value as people wrote it. Out: the parsed value or a
//! problem with what is allowed. They say what the schema and its CEL rules say.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use super::validate::Problem;
use crate::constants::reason;
use crate::units;

/// `InvalidSpec` about a field.
pub(super) fn invalid(field: &str, message: impl Into<String>) -> Problem {
    Problem { reason: reason::INVALID_SPEC, field: field.to_owned(), message: message.into() }
}

/// Durations that are allowed.
pub(super) struct Span {
    /// The shortest.
    pub min_ms: u64,
    /// The longest.
    pub max_ms: u64,
    /// Both in words, with an example.
    pub says: &'static str,
}

/// The problems found so far.
#[derive(Debug, Default)]
pub(super) struct Checks(Vec<Problem>);

impl Checks {
    /// Adds an `InvalidSpec`.
    pub fn push(&mut self, field: &str, message: impl Into<String>) {
        self.0.push(invalid(field, message));
    }

    /// Adds problems of any reason.
    pub fn extend(&mut self, problems: impl IntoIterator<Item = Problem>) {
        self.0.extend(problems);
    }

    /// All of them, if there are any.
    pub fn finish(self) -> Result<(), Vec<Problem>> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }

    /// A whole number between bounds.
    pub fn range<N: Into<i64> + Copy>(&mut self, field: &str, value: N, allowed: RangeInclusive<i64>) {
        let value = value.into();
        if !allowed.contains(&value) {
            self.push(field, format!("is {value}: must be from {} to {}", allowed.start(), allowed.end()));
        }
    }

    /// The name of a Secret or ConfigMap. It becomes part of a mount, so a path must never pass.
    pub fn object_name(&mut self, field: &str, kind: &str, name: &str) {
        let label = |part: &str| {
            !part.is_empty()
                && !part.starts_with('-')
                && !part.ends_with('-')
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if name.len() > 253 || !name.split('.').all(label) {
            self.push(
                field,
                format!(
                    "must be the name of a {kind}: lower-case letters, digits, '-' and '.', such as openai"
                ),
            );
        }
    }

    /// Milliseconds of a duration within `span`; 0 when it is none, which is a problem then.
    pub fn duration_ms(&mut self, field: &str, text: &str, span: &Span) -> u64 {
        let millis = units::duration(text).and_then(|duration| u64::try_from(duration.as_millis()).ok());
        let Some(millis) = millis.filter(|millis| (span.min_ms..=span.max_ms).contains(millis)) else {
            self.push(field, format!("\"{text}\" must be a duration {}", span.says));
            return 0;
        };
        millis
    }

    /// Billionths of an amount of USD above 0; None when it is none, which is a problem then.
    pub fn amount(&mut self, field: &str, text: &str) -> Option<u64> {
        let amount = nano_usd(text).filter(|amount| *amount > 0);
        if amount.is_none() {
            self.push(
                field,
                "must be USD as a decimal in quotes, above 0, below 1000000 and with at most six decimals, such as \"25.00\"",
            );
        }
        amount
    }

    /// Bytes between 1Mi and 16Gi.
    pub fn memory(&mut self, field: &str, text: &str) -> u64 {
        let Some(bytes) = units::bytes(text).filter(|bytes| (1 << 20..=16 << 30).contains(bytes)) else {
            self.push(
                field,
                format!("\"{text}\" must be a whole number of bytes from 1Mi to 16Gi, such as 64Mi"),
            );
            return 0;
        };
        bytes
    }
}

/// Whether this can be the name of a model.
pub(super) fn model_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "._:/@-".contains(c);
    (1..=128).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(inner)
}

/// Whether this can be the key of a label or annotation: a name, maybe with a domain in front.
pub(super) fn qualified_name(key: &str) -> bool {
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    match key.split_once('/') {
        None => is_name(key),
        Some((domain, name)) => {
            domain.starts_with(lower)
                && domain.ends_with(lower)
                && domain.len() <= 253
                && domain.chars().all(|c| lower(c) || c == '-' || c == '.')
                && is_name(name)
        }
    }
}

/// Whether this can be the value of a label.
pub(super) fn label_value(value: &str) -> bool {
    value.is_empty() || is_name(value)
}

fn is_name(name: &str) -> bool {
    let outer = |c: char| c.is_ascii_alphanumeric();
    (1..=63).contains(&name.len())
        && name.starts_with(outer)
        && name.ends_with(outer)
        && name.chars().all(|c| outer(c) || "-_.".contains(c))
}

/// Whether this is a Kubernetes quantity and not below zero, such as `100m`, `0.5`, `64Mi`, `1e3` or `+1`.
pub(super) fn quantity(text: &str) -> bool {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let zero = number.bytes().all(|b| matches!(b, b'0' | b'.'));
    let number_fits = number.bytes().any(|b| b.is_ascii_digit()) && number.matches('.').count() <= 1;
    let suffixes = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    // Rust reads what Go reads: digits behind one sign.
    let exponent =
        |suffix: &str| suffix.strip_prefix(['e', 'E']).is_some_and(|power| power.parse::<i32>().is_ok());
    text.len() <= 32 && number_fits && (zero || !negative) && (suffixes.contains(&suffix) || exponent(suffix))
}

/// Billionths of an amount of USD that is below a million and has six decimals at most.
pub(super) fn nano_usd(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| (1..=6).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let fits = digits(whole) && digits(fraction) && (whole == "0" || !whole.starts_with('0'));
    fits.then(|| format!("{whole}{fraction:0<9}").parse().ok()).flatten()
}

/// Whether this can be the name of a member of a request.
pub(super) fn member(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

const PLAIN: &str = "plain http is only allowed to loopback, private addresses and cluster-local names (*.svc, *.local, *.internal or a name without dots): write https://";

/// What is wrong with a `baseURL`.
pub(super) fn base_url(url: &str) -> Option<&'static str> {
    match Url::parse(url) {
        None => Some(
            "must be http(s)://host[:port][/path] without user, query or fragment, such as https://api.openai.com/v1",
        ),
        Some(url) => url.reveals().then_some(PLAIN),
    }
}

/// What is wrong with an `otlpEndpoint`.
pub(super) fn otlp_endpoint(url: &str) -> Option<&'static str> {
    match Url::parse(url) {
        None => Some(
            "must be http(s)://host[:port][/path] without user, query or fragment, such as http://otel-collector.observability.svc:4318, or be left out for no traces",
        ),
        Some(url) => url.reveals().then_some(PLAIN),
    }
}

/// What is wrong with a `proxyURL`. There is no port that proxies agree on, so it must be there. What goes through one is
/// encrypted for the backend, so plain http is allowed to any.
pub(super) fn proxy_url(url: &str) -> Option<&'static str> {
    let fits = Url::parse(url)
        .is_some_and(|url| url.authority.len() > url.host.len() && matches!(url.path, "" | "/"));
    (!fits).then_some(
        "must be http(s)://host:port without user, path, query or fragment, such as http://proxy.example.com:3128, or be left out for no proxy",
    )
}

/// An origin as browsers write it: in lower case, without the port that its scheme has anyway. None for what is none.
pub(super) fn origin(text: &str) -> Option<String> {
    if text == "*" {
        return Some(text.to_owned());
    }
    let url = Url::parse(text).filter(|url| url.path.is_empty() && text.len() <= 300)?;
    let usual = if url.plain { ":80" } else { ":443" };
    let authority =
        url.authority.strip_suffix(usual).filter(|host| *host == url.host).unwrap_or(url.authority);
    let scheme = if url.plain { "http" } else { "https" };
    Some(format!("{scheme}://{authority}").to_ascii_lowercase())
}

/// The parts of `http(s)://host[:port][/path]`.
struct Url<'a> {
    /// Not encrypted.
    plain: bool,
    /// With the port.
    authority: &'a str,
    /// Without.
    host: &'a str,
    /// With its slash, or empty.
    path: &'a str,
}

impl<'a> Url<'a> {
    /// None for everything that has a user, a query, a fragment or a blank.
    fn parse(url: &'a str) -> Option<Self> {
        let (plain, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return None,
        };
        if url.len() > 2048 || rest.contains(['?', '#']) || rest.contains(|c| matches!(c, '\t'..='\r' | ' '))
        {
            return None;
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        Some(Self { plain, authority, host: host(authority)?, path })
    }

    /// Whether what is sent there can be read on the way through the world.
    fn reveals(&self) -> bool {
        self.plain && !near(self.host)
    }
}

/// The host of `host[:port]`, or None when it is not one (a user part, a bad port).
fn host(authority: &str) -> Option<&str> {
    let end = match authority.strip_prefix('[') {
        Some(_) => authority.find(']')? + 1,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at(end);
    let port_fits = rest.is_empty()
        || rest
            .strip_prefix(':')
            .is_some_and(|port| !port.starts_with(['0', '+']) && port.parse::<u16>().is_ok());
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let name_fits = match host.strip_prefix('[') {
        // An IPv4 address in the end of an IPv6 one has a plainer form.
        Some(address) => !address.contains('.') && address.strip_suffix(']')?.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(inner),
    };
    (port_fits && name_fits).then_some(host)
}

/// Loopback, private addresses, and names that only resolve inside. A name without dots begins with a letter: many
/// resolvers take `134744072` and `0x8080808` for addresses.
fn near(host: &str) -> bool {
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return address.is_loopback() || address.is_private();
    }
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return address == "::1"
            || address.parse::<Ipv6Addr>().is_ok_and(|address| address.is_unique_local());
    }
    if !host.contains('.') {
        return host.starts_with(|c: char| c.is_ascii_alphabetic());
    }
    let ends = [".svc", ".local", ".localhost", ".internal"];
    ends.iter().any(|end| host.strip_suffix(end).is_some_and(|name| !name.is_empty()))
}
