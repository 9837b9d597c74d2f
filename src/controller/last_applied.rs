//! What need not be applied again. In: what was applied to a child, and its resourceVersion after that. Out: whether it is still so.
//!
//! An apply that changes nothing writes nothing, but costs the API server as much as one that does.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::ObjectKey;
use super::dereference::ChildKey;

/// Remembers the last apply of each child.
#[derive(Debug, Default)]
pub struct LastApplied(Mutex<HashMap<ObjectKey, Vec<(ChildKey, Applied)>>>);

/// An intent together with the resourceVersion that a child had with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied(blake3::Hash);

impl Applied {
    /// None where the intent cannot be written down: it is applied then.
    pub fn of(intent: &impl Serialize, version: &str) -> Option<Self> {
        let mut hasher = blake3::Hasher::new();
        // No version holds a 0.
        hasher.update(version.as_bytes()).update(&[0]);
        serde_json::to_writer(&mut hasher, intent).ok()?;
        Some(Self(hasher.finalize()))
    }
}

impl LastApplied {
    /// Whether this was the last apply to `child` of `service`, and nobody wrote the child since.
    pub fn is(&self, service: &ObjectKey, child: &ChildKey, applied: Applied) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.get(service).and_then(|children| children.iter().find(|(key, _)| key == child));
        known.is_some_and(|(_, known)| *known == applied)
    }

    /// Notes an apply that was answered.
    pub fn note(&self, service: &ObjectKey, child: ChildKey, applied: Applied) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let children = all.entry(service.clone()).or_default();
        match children.iter_mut().find(|(key, _)| *key == child) {
            Some((_, known)) => *known = applied,
            None => children.push((child, applied)),
        }
    }

    /// The ChatService is gone.
    pub fn forget(&self, service: &ObjectKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(service);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_intent_or_another_version_or_another_child_is_applied() {
        let last = LastApplied::default();
        let service = ObjectKey { namespace: "chat".into(), name: "demo".into() };
        let child = |name: &str| ChildKey { kind: "Service", name: name.into() };
        let applied = |intent: &str, version: &str| Applied::of(&intent, version).unwrap();
        assert!(!last.is(&service, &child("a"), applied("i", "7")));
        last.note(&service, child("a"), applied("i", "7"));
        assert!(last.is(&service, &child("a"), applied("i", "7")));
        for (name, intent, version) in [("b", "i", "7"), ("a", "j", "7"), ("a", "i", "8"), ("a", "7", "i")] {
            assert!(!last.is(&service, &child(name), applied(intent, version)), "{name} {intent} {version}");
        }
        last.note(&service, child("a"), applied("i", "8"));
        assert!(!last.is(&service, &child("a"), applied("i", "7")), "one that is over");
        last.forget(&service);
        assert!(last.0.lock().unwrap().is_empty());
    }
}
