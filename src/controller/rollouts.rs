//! How many ChatServices an upgrade of the operator rolls at a time. In: whose pods have an older default image, and whose
//! rollout is over. Out: whose turn it is. Bounded, because an upgrade concerns all ChatServices of a cluster at once, and an
//! image that does not start should be met by a few of them first.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ObjectKey;

/// Asks for a reconcile of a ChatService.
pub type Wake = Arc<dyn Fn(&ObjectKey) + Send + Sync>;

/// The places and who waits for one. Shared by all scopes.
pub struct Rollouts {
    limit: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    under_way: HashSet<ObjectKey>,
    /// In the order in which they came.
    waiting: VecDeque<(ObjectKey, Wake)>,
}

impl Rollouts {
    /// At most `limit` at a time.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, inner: Mutex::default() }
    }

    /// Counts one that an earlier process has begun, even where that makes more than the limit.
    pub fn resume(&self, key: ObjectKey) {
        self.lock().under_way.insert(key);
    }

    /// Takes a place and keeps it until [`Self::leave`]. False: there is none; `wake` is called when there is.
    pub fn enter(&self, key: &ObjectKey, wake: &Wake) -> bool {
        let mut inner = self.lock();
        if inner.under_way.contains(key) {
            return true;
        }
        let first = inner.waiting.iter().position(|(waiting, _)| waiting == key);
        // Those that came before have the places that are free.
        let before = first.unwrap_or(inner.waiting.len());
        if inner.under_way.len() + before < self.limit {
            inner.waiting.retain(|(waiting, _)| waiting != key);
            inner.under_way.insert(key.clone());
            return true;
        }
        if first.is_none() {
            inner.waiting.push_back((key.clone(), Arc::clone(wake)));
        }
        false
    }

    /// Its rollout is over, or it does not want one any more: the place goes to who waits longest.
    pub fn leave(&self, key: &ObjectKey) {
        let mut woken = Vec::new();
        {
            let mut inner = self.lock();
            inner.waiting.retain(|(waiting, _)| waiting != key);
            if !inner.under_way.remove(key) {
                return;
            }
            while inner.under_way.len() < self.limit {
                let Some((next, wake)) = inner.waiting.pop_front() else { break };
                inner.under_way.insert(next.clone());
                woken.push((next, wake));
            }
        }
        for (key, wake) in woken {
            wake(&key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey { namespace: "chat".into(), name: name.into() }
    }

    #[test]
    fn places_are_given_in_order_and_kept_until_they_are_left() {
        let woken: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = Arc::clone(&woken);
        let wake: Wake = Arc::new(move |key| noted.lock().unwrap().push(key.name.clone()));
        let rollouts = Rollouts::new(2);
        let enter = |name: &str| rollouts.enter(&key(name), &wake);
        assert_eq!(["a", "b", "c", "d", "e"].map(enter), [true, true, false, false, false]);
        assert!(enter("a") && !enter("c"), "asking again changes nothing");
        rollouts.leave(&key("d"));
        assert!(woken.lock().unwrap().is_empty(), "who only waited leaves no place");
        rollouts.leave(&key("b"));
        assert_eq!(*woken.lock().unwrap(), ["c"]);
        assert!(enter("c") && !enter("e") && !enter("b"), "the place is kept for who was woken");
        rollouts.leave(&key("a"));
        rollouts.leave(&key("c"));
        assert_eq!(*woken.lock().unwrap(), ["c", "e", "b"]);
        rollouts.leave(&key("never seen"));
    }

    #[test]
    fn what_an_earlier_process_began_counts() {
        let rollouts = Rollouts::new(1);
        let wake: Wake = Arc::new(|_| ());
        rollouts.resume(key("a"));
        rollouts.resume(key("b"));
        assert!(rollouts.enter(&key("a"), &wake) && !rollouts.enter(&key("c"), &wake));
        rollouts.leave(&key("a"));
        assert!(!rollouts.enter(&key("c"), &wake), "one is enough");
        rollouts.leave(&key("b"));
        assert!(rollouts.enter(&key("c"), &wake));
    }
}
