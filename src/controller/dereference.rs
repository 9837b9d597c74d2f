//! Step 1: the only step that reads other objects before deciding. In: a ChatService and the caches of its children.
//! Out: for each child's name, whether it is free, ours, or somebody else's.

use std::collections::BTreeMap;
use std::fmt;

/// A child by kind and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChildKey {
    /// Its kind.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
}

/// Who has the name of a child now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody: the first apply is made without force.
    Nobody,
    /// We: later applies take back what others changed.
    Us,
    /// An object that is not ours, and whose it is.
    Foreign(String),
}

/// What was read before deciding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    holders: BTreeMap<ChildKey, Holder>,
}

/// A foreign object in the place of a child.
#[derive(Debug)]
pub struct Foreign<'a> {
    key: &'a ChildKey,
    owner: &'a str,
}

impl fmt::Display for Foreign<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key: ChildKey { kind, name }, owner } = self;
        write!(
            f,
            "{kind} \"{name}\" already exists and belongs to {owner}: it is left alone. Fix: delete or rename it, or give the ChatService another name"
        )
    }
}

impl References {
    /// Records who has a name.
    pub fn insert(&mut self, key: ChildKey, holder: Holder) {
        self.holders.insert(key, holder);
    }

    /// The foreign objects, sorted by kind and name.
    pub fn foreign(&self) -> impl Iterator<Item = Foreign<'_>> {
        self.holders.iter().filter_map(|(key, holder)| match holder {
            Holder::Foreign(owner) => Some(Foreign { key, owner }),
            Holder::Nobody | Holder::Us => None,
        })
    }
}
