//! The address of a client behind proxies. In: the address of the connection, `X-Forwarded-For`, and the proxies that are
//! believed. Out: the nearest address that is not one of theirs. Pure.
//!
//! Each proxy appends whom it was asked by, so the list is true from its right end on for as long as believed proxies wrote
//! it. What is further left was written by whoever asked, and is not looked at.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

/// The header, as everybody writes it.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The client's address, as far as it can be believed.
pub(super) fn client(peer: IpAddr, headers: &HeaderMap, proxies: &[IpNet]) -> IpAddr {
    let mut client = peer.to_canonical();
    let hops = headers.get_all(FORWARDED_FOR).iter().rev();
    // What is not text is one hop that nobody can be.
    let mut hops = hops.flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
    while proxies.iter().any(|proxy| proxy.contains(&client)) {
        let Some(hop) = hops.next().and_then(address) else { break };
        client = hop;
    }
    client
}

/// An address, as proxies write it: alone, in brackets, with a port.
fn address(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let bare = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']')).unwrap_or(hop);
    let parsed = bare.parse().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    parsed.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(peer: &str, lines: &[&str]) -> String {
        let proxies = ["10.0.0.0/8", "2001:db8:1::/48", "192.0.2.7/32"].map(|proxy| proxy.parse().unwrap());
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
        }
        client(peer.parse().unwrap(), &headers, &proxies).to_string()
    }

    #[test]
    fn x1_only_what_believed_proxies_wrote_counts() {
        for (peer, lines, client) in [
            // Nobody is believed who is not a proxy.
            ("198.51.100.1", &["203.0.113.9"][..], "198.51.100.1"),
            ("198.51.100.1", &["10.0.0.1"], "198.51.100.1"),
            // A proxy says who asked it.
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("::ffff:10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("2001:db8:1::5", &["2001:db8:2::9"], "2001:db8:2::9"),
            // From the right, through proxies only.
            ("10.0.0.1", &["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["1.1.1.1,203.0.113.9, 10.9.9.9 ,192.0.2.7"], "203.0.113.9"),
            ("10.0.0.1", &["1.1.1.1, 10.2.2.2, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["1.1.1.1", "203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["203.0.113.9", "10.0.0.7"], "203.0.113.9"),
            // All of the way is ours: the one that is furthest away.
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            // As proxies write addresses.
            ("10.0.0.1", &["203.0.113.9:4711"], "203.0.113.9"),
            ("10.0.0.1", &["[2001:db8:2::9]:4711"], "2001:db8:2::9"),
            ("10.0.0.1", &["[2001:db8:2::9]"], "2001:db8:2::9"),
            ("10.0.0.1", &["::ffff:203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["::ffff:10.0.0.9, 10.0.0.2"], "10.0.0.9"),
            // What is none ends the way.
            ("10.0.0.1", &["203.0.113.9, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9,"], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9, 10.0.0.256"], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9, fe80::1%eth0"], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9, 0xCB007109"], "10.0.0.1"),
            ("10.0.0.1", &["for=203.0.113.9"], "10.0.0.1"),
            ("10.0.0.1", &[""], "10.0.0.1"),
        ] {
            assert_eq!(of(peer, lines), client, "{peer} {lines:?}");
        }
    }

    #[test]
    fn what_is_not_text_is_believed_of_nobody() {
        let mut headers = HeaderMap::new();
        headers.append(FORWARDED_FOR, HeaderValue::from_bytes(b"203.0.113.9, \xff").unwrap());
        let proxies = ["10.0.0.0/8".parse().unwrap()];
        let peer = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(client(peer, &headers, &proxies), peer);
    }
}
