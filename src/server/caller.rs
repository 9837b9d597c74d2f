//! Who sent a request, as far as limits, ownership and metrics go. In: what `middleware/authenticate.rs` found out. Out:
//! whose limits are charged, what belongs to whom in the store and in the cache, and a label.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use uuid::Uuid;

use super::metrics::OTHER;
use super::store::{CallerKey, OwnedId};

/// Rises when what was stored under the old names must no longer be found.
const OWNER_CONTEXT: &str = "chatservice.dev 2026-11 owner of a stored object v1";

/// Who sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Whose limits.
    key: CallerKey,
    /// Whether it has proved to be who it says.
    proved: bool,
    /// Its name in metrics; None: one of many.
    label: Option<Arc<str>>,
}

impl Caller {
    /// Somebody at this address, who need not say more: the service is open. An IPv6 address counts by its /64, since that
    /// is what one customer is given; an IPv4 address that arrived in IPv6 clothes is the IPv4 address.
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        Self { key: key_of(address), proved: false, label: None }
    }

    /// Who has proved to be `identity`: the name of an API key, or `namespace/name` of a ServiceAccount. A name has no
    /// slash, so the two cannot be mistaken. `label` is its name in metrics, for those whom the configuration names.
    #[must_use]
    pub fn proved(identity: &str, label: Option<Arc<str>>) -> Self {
        Self { key: CallerKey(identity.into()), proved: true, label }
    }

    /// Whose limits it takes of.
    #[must_use]
    pub fn key(&self) -> &CallerKey {
        &self.key
    }

    /// Who it has proved to be; None where the service is open: an address is no identity.
    #[must_use]
    pub fn identity(&self) -> Option<&str> {
        self.proved.then_some(&*self.key.0)
    }

    /// Label `caller` of metrics: its name where the configuration has it, else `other`.
    #[must_use]
    pub fn label(&self) -> &str {
        self.label.as_deref().unwrap_or(OTHER)
    }

    /// Whether metrics tell it from others.
    #[must_use]
    pub fn is_labelled(&self) -> bool {
        self.label.is_some()
    }

    /// Where the store keeps what this caller calls `id`: a conversation, a stored response. For another caller the same id
    /// is another place, where there is nothing. Without an identity whoever holds the id owns what it names, since an
    /// app's replicas come from several addresses.
    #[must_use]
    pub fn owned(&self, id: Uuid) -> OwnedId {
        let Some(identity) = self.identity() else { return OwnedId::new(id) };
        let mut hasher = blake3::Hasher::new_derive_key(OWNER_CONTEXT);
        hasher.update(id.as_bytes());
        hasher.update(identity.as_bytes());
        let mut place = [0; 16];
        hasher.finalize_xof().fill(&mut place);
        OwnedId::new(Uuid::from_bytes(place))
    }
}

/// Whose limits are charged where there is nothing but an address.
#[must_use]
pub fn key_of(address: IpAddr) -> CallerKey {
    match address.to_canonical() {
        IpAddr::V4(v4) => CallerKey(v4.to_string().into()),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            CallerKey(format!("{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_identity_a_caller_is_its_address_and_ipv6_counts_by_64() {
        for (address, key) in [
            ("203.0.113.7", "203.0.113.7"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
            ("::1", "::/64"),
        ] {
            let caller = Caller::at(address.parse().unwrap());
            assert_eq!(*caller.key().0, *key, "{address}");
            assert_eq!((caller.identity(), caller.label()), (None, OTHER));
        }
    }

    #[test]
    fn what_a_caller_owns_is_nowhere_for_another() {
        let id = Uuid::new_v4();
        let (web, mobile) =
            (Caller::proved("shop/web", None), Caller::proved("mobile", Some("mobile".into())));
        assert_eq!(web.owned(id), web.owned(id));
        assert_ne!(web.owned(id), web.owned(Uuid::new_v4()));
        let anybody = Caller::at([127, 0, 0, 1].into());
        assert_eq!(anybody.owned(id), Caller::at([10, 0, 0, 1].into()).owned(id), "who holds the id owns it");
        let places = [web.owned(id), mobile.owned(id), anybody.owned(id)];
        assert!(places.iter().all(|place| places.iter().filter(|other| *other == place).count() == 1));
        assert_eq!((mobile.label(), web.label()), ("mobile", OTHER));
    }
}
