//! What the operator adds to a ChatService, and which images one may name. In: `--server-image`, `--allowed-images`. Out:
//! yes, or the patterns.
//!
//! The check matters because the image sees the Secrets that are mounted: only our image keeps a key from going to a
//! host that its Secret does not allow.

use super::workload::OperatorPods;

/// What the operator adds to a ChatService.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Image of the servers whose ChatService names none.
    pub server_image: String,
    /// Patterns that a `spec.image` must match as a whole; `*` stands for any run of characters. Empty: every tag and
    /// digest of the repository of [`Self::server_image`].
    pub allowed_images: Vec<String>,
    /// The operator's own pods, which NetworkPolicies let in; None: it is not known where it runs.
    pub operator: Option<OperatorPods>,
}

impl Defaults {
    /// The patterns in force, as people are told them.
    #[must_use]
    pub fn patterns(&self) -> Vec<String> {
        if self.allowed_images.is_empty() {
            let repository = repository(&self.server_image);
            return vec![format!("{repository}:*"), format!("{repository}@*")];
        }
        self.allowed_images.clone()
    }

    /// Whether a ChatService may name `image`.
    #[must_use]
    pub fn allows(&self, image: &str) -> bool {
        if self.allowed_images.is_empty() {
            // Not by the pattern: in `name:5000/other:1` the name is a registry.
            let version = image.strip_prefix(repository(&self.server_image));
            return version.is_some_and(|rest| rest.starts_with([':', '@']) && !rest.contains('/'))
                || image == self.server_image;
        }
        image == self.server_image || self.allowed_images.iter().any(|pattern| matches(pattern, image))
    }
}

/// `registry:5000/team/name` of `registry:5000/team/name:tag@sha256:…`: a colon is a tag's only after the last slash.
fn repository(image: &str) -> &str {
    let image = image.split_once('@').map_or(image, |(name, _)| name);
    let last = image.rfind('/').map_or(0, |slash| slash + 1);
    match image[last..].find(':') {
        Some(colon) => &image[..last + colon],
        None => image,
    }
}

/// Glob with `*` alone, linear in the text for each star.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults(server_image: &str, allowed: &[&str]) -> Defaults {
        Defaults {
            server_image: server_image.to_owned(),
            allowed_images: allowed.iter().map(|&a| a.to_owned()).collect(),
            operator: None,
        }
    }

    #[test]
    fn by_default_only_the_operators_own_repository_is_allowed() {
        let own = defaults("registry.example.com:5000/team/chatservice:0.1.0", &[]);
        for (image, allowed) in [
            ("registry.example.com:5000/team/chatservice:0.1.0", true),
            ("registry.example.com:5000/team/chatservice:0.2.0", true),
            ("registry.example.com:5000/team/chatservice@sha256:00", true),
            ("registry.example.com:5000/team/chatservice:0.1.0@sha256:00", true),
            ("registry.example.com:5000/team/chatservice", false),
            ("registry.example.com:5000/team/chatservice:5000/evil:0.1.0", false),
            ("registry.example.com:5000/team/chatservice@x/evil:0.1.0", false),
            ("registry.example.com:5000/team/chatservice-evil:0.1.0", false),
            ("registry.example.com:5000/team/chatservice/evil:0.1.0", false),
            ("evil.example.com/team/chatservice:0.1.0", false),
            ("x/registry.example.com:5000/team/chatservice:0.1.0", false),
        ] {
            assert_eq!(own.allows(image), allowed, "{image}");
        }
    }

    #[test]
    fn a_name_without_a_registry_is_none_by_default() {
        let own = defaults("chatservice:0.1.0", &[]);
        for (image, allowed) in [("chatservice:1", true), ("chatservice:5000/evil:1", false)] {
            assert_eq!(own.allows(image), allowed, "{image}");
        }
    }

    #[test]
    fn patterns_match_the_whole_image() {
        for (pattern, image, allowed) in [
            ("a/b:*", "a/b:1", true),
            ("a/b:*", "za/b:1", false),
            ("a/*:1", "a/b/c:1", true),
            ("a/*:1", "a/b/c:11", false),
            ("*", "anything:1", true),
            ("a/b:1", "a/b:1", true),
            ("a/b:1", "a/b:12", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "ac", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(matches(pattern, image), allowed, "{pattern} {image}");
        }
    }
}
