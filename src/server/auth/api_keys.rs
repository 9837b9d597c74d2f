//! API keys of callers. In: the data keys of a Secret, or a variable. Out: a set of hashes by caller, and what of it cannot
//! be used. A key itself is forgotten as soon as it is hashed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use crate::server::caller::Caller;

/// Shortest key, in characters: what is shorter can be guessed.
pub const KEY_MIN: usize = 16;
/// Longest key.
pub const KEY_MAX: usize = 512;
/// Keys of all callers together: each is compared with an unknown one.
const KEYS: usize = 1024;
/// What begins a value that is a hash already.
pub(crate) const HASHED: &str = "sha256:";

/// SHA-256 of a key.
pub(in crate::server) type Digest = [u8; 32];

/// The keys of all callers.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ApiKeys {
    /// A caller without one has an entry that says so.
    callers: BTreeMap<String, Vec<Digest>>,
    /// Callers whose entry cannot be used.
    unusable: BTreeSet<String>,
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeys").field("callers", &self.callers.len()).finish_non_exhaustive()
    }
}

/// Why the entry of a caller cannot be used. Holds no part of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableKey {
    /// There is none.
    #[error("it is empty")]
    Empty,
    /// It can be guessed.
    #[error("a key in it is shorter than {KEY_MIN} characters: make one with openssl rand -hex 24")]
    Short,
    /// It is none.
    #[error(
        "a key in it is longer than {KEY_MAX} characters, or has a blank or another character than visible ASCII"
    )]
    NoKey,
    /// It is none.
    #[error("what follows sha256: is not 64 hex digits: make them with printf %s KEY | sha256sum")]
    NoHash,
    /// Two callers cannot be told apart.
    #[error("it has a key that {other} has too: give each caller its own")]
    Shared {
        /// Who has it.
        other: String,
    },
    /// There are too many.
    #[error("there are more than {KEYS} keys")]
    TooMany,
}

impl ApiKeys {
    /// Takes up the entry of a caller: keys and hashes of keys, one a line.
    pub fn add(&mut self, caller: &str, text: &str) -> Result<(), UnusableKey> {
        let added = self.parse(caller, text);
        match added {
            Ok(digests) => self.callers.entry(caller.to_owned()).or_default().extend(digests),
            Err(error) => {
                self.refuse(caller);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Notes that the entry of a caller is empty: it has no key, whatever it had before.
    pub fn revoke(&mut self, caller: &str) {
        self.callers.insert(caller.to_owned(), Vec::new());
    }

    /// Notes that a caller has an entry which cannot be used.
    pub fn refuse(&mut self, caller: &str) {
        self.callers.remove(caller);
        self.unusable.insert(caller.to_owned());
    }

    fn parse(&self, caller: &str, text: &str) -> Result<Vec<Digest>, UnusableKey> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let digests = lines.map(digest).collect::<Result<Vec<_>, _>>()?;
        if digests.is_empty() {
            return Err(UnusableKey::Empty);
        }
        let others = self.callers.iter().filter(|(name, _)| *name != caller);
        if let Some((other, _)) =
            others.clone().find(|(_, theirs)| theirs.iter().any(|digest| digests.contains(digest)))
        {
            return Err(UnusableKey::Shared { other: other.clone() });
        }
        if self.callers.values().map(Vec::len).sum::<usize>() + digests.len() > KEYS {
            return Err(UnusableKey::TooMany);
        }
        Ok(digests)
    }

    /// Whether nobody has a key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.callers.values().all(Vec::is_empty)
    }

    /// Whether every entry says that its caller has no key: nobody is to have one, and nothing is wrong.
    #[must_use]
    pub fn revokes_all(&self) -> bool {
        self.is_empty() && self.unusable.is_empty() && !self.callers.is_empty()
    }

    /// Whether there is no entry at all, usable or not.
    #[must_use]
    pub fn says_nothing(&self) -> bool {
        self.callers.is_empty() && self.unusable.is_empty()
    }

    /// These; and for callers whose entry cannot be used, what they had before.
    #[must_use]
    pub fn or_previous(mut self, previous: Option<&Self>) -> Self {
        for caller in &self.unusable {
            let Some(before) = previous.and_then(|previous| previous.callers.get(caller)) else { continue };
            let taken: BTreeSet<&Digest> = self.callers.values().flatten().collect();
            let kept: Vec<Digest> = before.iter().filter(|digest| !taken.contains(digest)).copied().collect();
            if !kept.is_empty() {
                self.callers.insert(caller.clone(), kept);
            }
        }
        self
    }

    /// The hashes of each caller.
    pub(in crate::server) fn by_caller(&self) -> impl Iterator<Item = (&str, &[Digest])> {
        self.callers.iter().map(|(name, digests)| (name.as_str(), digests.as_slice()))
    }
}

fn digest(line: &str) -> Result<Digest, UnusableKey> {
    if let Some(hex) = line.strip_prefix(HASHED) {
        return blake3::Hash::from_hex(hex).map(Into::into).map_err(|_| UnusableKey::NoHash);
    }
    if line.len() > KEY_MAX || !line.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(UnusableKey::NoKey);
    }
    if line.len() < KEY_MIN {
        return Err(UnusableKey::Short);
    }
    Ok(Sha256::digest(line).into())
}

/// Whose key it is. All are compared, in the same time whatever is found.
pub(super) fn find<'a>(keys: &'a [(Digest, Arc<Caller>)], credential: &str) -> Option<&'a Arc<Caller>> {
    let sought: Digest = Sha256::digest(credential).into();
    keys.iter().fold(
        None,
        |found, (digest, caller)| {
            if bool::from(digest.ct_eq(&sought)) { Some(caller) } else { found }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "sk-0123456789abcdef";
    const OTHER: &str = "sk-fedcba9876543210";
    /// `printf %s sk-0123456789abcdef | sha256sum`
    const HASH: &str = "sha256:221df437bc4f8c4d9718bd7a9ec4c1021c72fd69dfb2a5f568ecf4607c824bee";

    fn of(entries: &[(&str, &str)]) -> (ApiKeys, Vec<UnusableKey>) {
        let mut keys = ApiKeys::default();
        let errors = entries.iter().filter_map(|(caller, text)| keys.add(caller, text).err()).collect();
        (keys, errors)
    }

    fn who(keys: &ApiKeys, credential: &str) -> Option<String> {
        let all: Vec<_> = keys
            .by_caller()
            .flat_map(|(name, digests)| {
                let caller = Arc::new(Caller::proved(name, None));
                digests.iter().map(move |digest| (*digest, caller.clone()))
            })
            .collect();
        find(&all, credential).map(|caller| caller.key().0.to_string())
    }

    #[test]
    fn a_value_is_a_key_or_its_hash_or_several_of_them() {
        let both = format!("{OTHER}\n\n  {HASH}  \n");
        for entry in [KEY, HASH, &HASH.to_uppercase().replace("SHA256:", "sha256:"), &both] {
            let (keys, errors) = of(&[("web", entry)]);
            assert_eq!((who(&keys, KEY).as_deref(), errors), (Some("web"), vec![]), "{entry}");
        }
        let (keys, _) = of(&[("web", &both)]);
        assert_eq!(who(&keys, OTHER).as_deref(), Some("web"));
        for wrong in ["", "sk-0123456789abcde", "sk-0123456789abcdef ", HASH, &HASH["sha256:".len()..]] {
            assert_eq!(who(&keys, wrong), None, "{wrong:?}");
        }
        assert!(!format!("{keys:?}").contains(KEY));
    }

    #[test]
    fn what_cannot_be_used_is_said_and_costs_nobody_else() {
        let long = "x".repeat(KEY_MAX + 1);
        for (text, error) in [
            ("", UnusableKey::Empty),
            (" \n", UnusableKey::Empty),
            ("short", UnusableKey::Short),
            (long.as_str(), UnusableKey::NoKey),
            ("two words of a key", UnusableKey::NoKey),
            ("sk-0123456789abcdé", UnusableKey::NoKey),
            (&HASH[..HASH.len() - 1], UnusableKey::NoHash),
            (&HASH.replace('f', "g"), UnusableKey::NoHash),
            (HASH, UnusableKey::Shared { other: "app".to_owned() }),
            ("sha256:", UnusableKey::NoHash),
            (KEY, UnusableKey::Shared { other: "app".to_owned() }),
        ] {
            let (keys, errors) = of(&[("app", KEY), ("web", text)]);
            assert_eq!(errors, [error], "{text}");
            assert_eq!(who(&keys, KEY).as_deref(), Some("app"));
        }
        let many = (0..=KEYS).map(|n| format!("key-of-some-caller-{n}")).collect::<Vec<_>>().join("\n");
        assert_eq!(of(&[("web", &many)]).1, [UnusableKey::TooMany]);
    }

    #[test]
    fn a_caller_whose_new_entry_is_bad_keeps_its_key_and_only_that_caller_does() {
        let before = of(&[("app", KEY), ("web", OTHER), ("gone", "sk-of-somebody-gone")]).0;
        let (now, _) = of(&[("app", "bad"), ("web", "sk-the-new-key-of-web")]);
        let kept = now.or_previous(Some(&before));
        assert_eq!(who(&kept, KEY).as_deref(), Some("app"));
        assert_eq!(who(&kept, OTHER), None, "replaced");
        assert_eq!(who(&kept, "sk-of-somebody-gone"), None, "taken out");
        let mut emptied = of(&[("app", "bad")]).0;
        emptied.revoke("web");
        let kept = emptied.or_previous(Some(&before));
        assert_eq!((who(&kept, OTHER), who(&kept, KEY).as_deref()), (None, Some("app")), "revoked");
        let (moved, _) = of(&[("app", "bad"), ("web", KEY)]);
        assert_eq!(who(&moved.or_previous(Some(&before)), KEY).as_deref(), Some("web"));
    }

    #[test]
    fn nobody_is_to_have_a_key_where_every_entry_says_so() {
        let revoked = |keys: &ApiKeys| (keys.is_empty(), keys.revokes_all(), keys.says_nothing());
        let mut keys = ApiKeys::default();
        assert_eq!(revoked(&keys), (true, false, true), "no entry says nothing");
        keys.revoke("web");
        assert_eq!(revoked(&keys), (true, true, false));
        let mut broken = keys.clone();
        broken.refuse("app");
        assert_eq!(revoked(&broken), (true, false, false), "app is to have one");
        keys.add("app", KEY).unwrap();
        assert_eq!(revoked(&keys), (false, false, false));
    }
}
