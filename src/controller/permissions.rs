//! Permissions without which nothing can be said on a ChatService itself. In: what the API server answered. Out: `/readyz`,
//! which names what is missing. What children need is a condition of their ChatService instead.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use super::ObjectKey;
use crate::admin::Readiness;

/// What was refused last, and for which objects.
pub struct Permissions {
    readiness: Readiness,
    missing: Mutex<HashMap<&'static str, HashSet<ObjectKey>>>,
}

impl Permissions {
    /// Nothing is missing yet.
    #[must_use]
    pub fn new(readiness: Readiness) -> Self {
        Self { readiness, missing: Mutex::default() }
    }

    /// `what`, one of `constants::readiness`, was refused for an object, or was not.
    pub fn note(&self, what: &'static str, key: &ObjectKey, refused: bool) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let objects = missing.entry(what).or_default();
        if refused {
            objects.insert(key.clone());
            self.readiness.wait_for(what);
        } else if objects.remove(key) && objects.is_empty() {
            self.readiness.done(what);
        }
    }

    /// An object is gone, and what was refused for it with it.
    pub fn forget(&self, key: &ObjectKey) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        for (what, objects) in missing.iter_mut() {
            if objects.remove(key) && objects.is_empty() {
                self.readiness.done(what);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constants::readiness::{EVENTS_PERMISSION, STATUS_PERMISSION};
    use crate::shutdown::Shutdown;

    #[test]
    fn it_is_ready_again_when_nothing_is_refused_any_more() {
        let key = |name: &str| ObjectKey { namespace: "chat".into(), name: name.into() };
        let readiness = Readiness::new(Shutdown::new(), &[]);
        let permissions = Permissions::new(readiness.clone());
        permissions.note(STATUS_PERMISSION, &key("a"), false);
        assert!(readiness.is_ready());
        permissions.note(STATUS_PERMISSION, &key("a"), true);
        permissions.note(STATUS_PERMISSION, &key("b"), true);
        permissions.note(EVENTS_PERMISSION, &key("b"), true);
        assert_eq!(readiness.reasons(), [EVENTS_PERMISSION, STATUS_PERMISSION]);
        permissions.note(STATUS_PERMISSION, &key("a"), false);
        assert!(!readiness.is_ready(), "one object is still refused");
        permissions.forget(&key("b"));
        assert!(readiness.is_ready());
    }
}
