//! Names and labels of everything that is made for a ChatService. In: its name. Out: names that fit (`NAME_MAX` leaves
//! room for each suffix) and the labels, of which two are the selector and never change.

use std::collections::BTreeMap;
use std::fmt;

use crate::constants::{NAME_MAX, label};

/// The name of a ChatService, checked: at most [`NAME_MAX`] of `a-z 0-9 -`, a letter first, no `-` last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(String);

impl ServiceName {
    /// Checks a name; None when it does not fit.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let fits = name.len() <= NAME_MAX
            && name.bytes().all(inner)
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && !name.ends_with('-');
        fits.then(|| Self(name.to_owned()))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// ConfigMap with the server's configuration.
    #[must_use]
    pub fn config(&self) -> String {
        format!("{}-config", self.0)
    }

    /// ConfigMap with the environment of apps.
    #[must_use]
    pub fn connection(&self) -> String {
        format!("{}-connection", self.0)
    }

    /// Headless Service of the admin listeners.
    #[must_use]
    pub fn admin(&self) -> String {
        format!("{}-admin", self.0)
    }

    /// The frozen selector of Deployment, Services and PodDisruptionBudget. A Deployment's selector cannot change, so
    /// nothing may ever be added here.
    #[must_use]
    pub fn selector(&self) -> BTreeMap<String, String> {
        [(label::NAME, label::NAME_VALUE), (label::INSTANCE, self.as_str())]
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    /// [`Self::selector`] as text, for the scale subresource.
    #[must_use]
    pub fn selector_text(&self) -> String {
        let pairs: Vec<String> = self.selector().into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        pairs.join(",")
    }

    /// Labels of every child and of the pods.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.selector();
        for (key, value) in [
            (label::COMPONENT, label::COMPONENT_VALUE),
            (label::PART_OF, label::NAME_VALUE),
            (label::MANAGED_BY, label::MANAGED_BY_VALUE),
        ] {
            labels.insert(key.to_owned(), value.to_owned());
        }
        labels
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the watches of children and pods select: everything of this controller, whichever ChatService it is for.
#[must_use]
pub fn watch_selector() -> String {
    format!("{}={},{}={}", label::NAME, label::NAME_VALUE, label::MANAGED_BY, label::MANAGED_BY_VALUE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_leave_room_for_every_suffix() {
        let longest = "a".repeat(NAME_MAX);
        let name = ServiceName::new(&longest).unwrap();
        for child in [name.config(), name.connection(), name.admin()] {
            assert!(child.len() <= 63, "{child}");
        }
        for bad in ["", "-a", "a-", "1a", "A", "a.b", "a_b", &"a".repeat(NAME_MAX + 1)] {
            assert_eq!(ServiceName::new(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_selector_never_changes() {
        let name = ServiceName::new("demo").unwrap();
        assert_eq!(
            name.selector_text(),
            "app.kubernetes.io/instance=demo,app.kubernetes.io/name=chatservice"
        );
    }
}
