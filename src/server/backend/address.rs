//! The URLs that a configuration names, checked again: it may not have passed the ChatService's schema. In: their text. Out:
//! where to call, or what is wrong.

use std::net::IpAddr;

use http::Uri;

use super::connect::host;
use super::openai::OptionsError;
use crate::server::operation::Operation;

/// Where a backend is called for an operation.
pub(super) fn operation_uri(base_url: &str, operation: Operation) -> Result<Uri, OptionsError> {
    let refuse = |why| Err(OptionsError::BaseUrl(why));
    let base_url = base_url.trim_end_matches('/');
    let Ok(base) = base_url.parse::<Uri>() else {
        return refuse("is not a URL: write it as https://host[:port][/path]");
    };
    if base.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return refuse("must not hold a user or a password: a key belongs into the Secret");
    }
    if base.query().is_some() || base_url.contains('#') {
        return refuse("must not hold a query or a fragment");
    }
    match base.scheme_str() {
        Some("https") => {}
        Some("http") if plain_http_is_allowed(host(&base)) => {}
        Some("http") => {
            return refuse(
                "may be plain http only to loopback, private addresses and cluster-local names: write https://",
            );
        }
        _ => return refuse("must begin with https:// or http://"),
    }
    if host(&base).is_empty() {
        return refuse("has no host");
    }
    format!("{base_url}{}", operation.path()).parse().or(refuse("is not a URL"))
}

/// A proxy's URL, checked again: what names none, or holds a password, is refused.
pub(super) fn proxy_uri(proxy_url: &str) -> Result<Uri, OptionsError> {
    let uri: Uri = proxy_url.parse().map_err(|_| OptionsError::ProxyUrl)?;
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let fits = matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.port_u16().is_some_and(|port| port > 0)
        && !host(&uri).is_empty()
        && !authority.contains('@')
        && !proxy_url.contains(['?', '#'])
        && matches!(uri.path(), "" | "/");
    if fits { Ok(uri) } else { Err(OptionsError::ProxyUrl) }
}

/// The host of a URL in the spelling of allowed hosts.
pub(super) fn lower_host(uri: &Uri) -> String {
    host(uri).to_ascii_lowercase()
}

/// The rule of the ChatService's schema, which a configuration may not have passed.
fn plain_http_is_allowed(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(v4)) => v4.is_loopback() || v4.is_private(),
        Ok(IpAddr::V6(v6)) => v6.is_loopback() || v6.is_unique_local(),
        Err(_) => {
            let host = host.to_ascii_lowercase();
            let local = [".svc", ".local", ".localhost", ".internal"];
            !host.contains('.') || local.iter().any(|suffix| host.ends_with(suffix))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_are_checked_again() {
        for (base_url, expected) in [
            ("https://api.openai.com/v1", Some("https://api.openai.com/v1/chat/completions")),
            ("https://api.openai.com/v1/", Some("https://api.openai.com/v1/chat/completions")),
            ("https://host", Some("https://host/chat/completions")),
            ("http://vllm.models.svc:8000/v1", Some("http://vllm.models.svc:8000/v1/chat/completions")),
            ("http://[::1]:8000/v1", Some("http://[::1]:8000/v1/chat/completions")),
            ("http://10.1.2.3/v1", Some("http://10.1.2.3/v1/chat/completions")),
            ("http://example.com/v1", None),
            ("http://8.8.8.8/v1", None),
            ("https://user:pass@host/v1", None),
            ("https://host/v1?a=b", None),
            ("https://host/v1#a", None),
            ("ftp://host/v1", None),
            ("file:///etc/passwd", None),
            ("host/v1", None),
            ("", None),
        ] {
            let uri = operation_uri(base_url, Operation::Chat).map(|uri| uri.to_string()).ok();
            assert_eq!(uri.as_deref(), expected, "{base_url}");
        }
    }

    #[test]
    fn x10_proxy_urls_are_checked_again() {
        for (proxy_url, good) in [
            ("http://proxy.example.com:3128", true),
            ("https://proxy.example.com:3128/", true),
            ("http://[fd00::1]:3128", true),
            ("http://proxy.example.com", false),
            ("http://user:pass@proxy.example.com:3128", false),
            ("http://user@proxy.example.com:3128", false),
            ("http://proxy.example.com:0", false),
            ("http://proxy.example.com:3128/path", false),
            ("http://proxy.example.com:3128?a=b", false),
            ("http://proxy.example.com:3128#a", false),
            ("socks5://proxy.example.com:1080", false),
            ("file:///etc/passwd", false),
            ("proxy.example.com:3128", false),
            ("", false),
        ] {
            assert_eq!(proxy_uri(proxy_url).is_ok(), good, "{proxy_url}");
        }
    }
}
