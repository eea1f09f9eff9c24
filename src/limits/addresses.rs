//! Limits the connections from one address (G6), because anybody can open any number of them without an account.
//!
//! Behind a load balancer, all connections come from its address. Therefore, load balancers' addresses are not counted,
//! but those of their clients are, taken from the PROXY protocol or the `X-Forwarded-For` header.

use crate::config::Network;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The connections of each address.
#[derive(Clone, Debug)]
pub struct Addresses(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: u32,
    trusted: Vec<Network>,
    counts: Mutex<HashMap<IpAddr, u32>>,
}

/// The client that a load balancer acts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskedFor {
    /// It does not say.
    Nobody,
    /// A client's address.
    Client(IpAddr),
    /// An address that cannot be parsed.
    Unreadable,
}

/// A connection's place in its address's count; released on drop.
#[derive(Debug)]
pub struct AddressPlace {
    /// `None`: a load balancer's.
    address: Option<IpAddr>,
    /// `None`: not counted.
    counted_by: Option<Addresses>,
}

impl AddressPlace {
    /// Returns the address, or the network for IPv6; `None` for a load balancer's, when the client is unknown.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }
}

impl Addresses {
    /// Allows this many connections per address; 0: no limit. `trusted`: load balancers that are trusted to name their
    /// clients.
    pub fn new(max: u32, trusted: Vec<Network>) -> Addresses {
        Addresses(Arc::new(Inner { max, trusted, counts: Mutex::default() }))
    }

    /// Returns true if this is a load balancer's address.
    pub fn is_trusted(&self, address: IpAddr) -> bool {
        self.0.trusted.iter().any(|network| network.contains(address))
    }

    /// Takes a place for one more connection; `None` if the address has its maximum.
    pub fn enter(&self, address: IpAddr) -> Option<AddressPlace> {
        if self.is_trusted(address) {
            return Some(AddressPlace { address: None, counted_by: None });
        }
        self.enter_counted(address)
    }

    /// The same, but counts load balancers too: all clients that they do not identify are counted together.
    pub fn enter_counted(&self, address: IpAddr) -> Option<AddressPlace> {
        let key = counted_as(address);
        if self.0.max == 0 {
            return Some(AddressPlace { address: Some(key), counted_by: None });
        }
        let mut counts = self.counts();
        let count = counts.entry(key).or_default();
        if *count >= self.0.max {
            return None;
        }
        *count += 1;
        Some(AddressPlace { address: Some(key), counted_by: Some(self.clone()) })
    }

    /// Returns the client that load balancers act for: in the list to which each of them appends the address it was
    /// called from, this is the last one that is not a load balancer's. The client controls everything before that,
    /// down to the bytes.
    pub fn client_of<'a>(&self, forwarded_for: impl DoubleEndedIterator<Item = &'a [u8]>) -> AskedFor {
        // Several headers form one list (RFC 9110, section 5.3), in which empty elements are ignored (section 5.6.1).
        let entries = forwarded_for.rev().flat_map(|list| list.rsplit(|byte| *byte == b','));
        for entry in entries.map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty()) {
            match std::str::from_utf8(entry).ok().and_then(parse_entry) {
                Some(address) if self.is_trusted(address) => {}
                Some(address) => return AskedFor::Client(address),
                None => return AskedFor::Unreadable,
            }
        }
        AskedFor::Nobody
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let (Some(addresses), Some(key)) = (&self.counted_by, self.address) else { return };
        let mut counts = addresses.counts();
        if let Some(count) = counts.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&key);
            }
        }
    }
}

/// Parses an address with or without a port.
fn parse_entry(entry: &str) -> Option<IpAddr> {
    let bare = entry.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(entry, |(address, _)| address);
    bare.parse().ok().or_else(|| entry.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()))
}

/// Maps an IPv6 address to its /64 network, since one client may have a whole one.
fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_so_many_places_and_one_that_is_given_up_is_taken() {
        let addresses = Addresses::new(2, vec!["10.0.0.0/8".parse().unwrap()]);
        let held = [addresses.enter(ip("192.0.2.1")), addresses.enter(ip("::ffff:192.0.2.1"))];
        assert!(held.iter().all(Option::is_some));
        assert!(addresses.enter(ip("192.0.2.1")).is_none());
        assert!(addresses.enter(ip("192.0.2.2")).is_some(), "another address");
        drop(held);
        let held: Vec<_> = (0..3).map(|n| addresses.enter(ip(&format!("2001:db8::{n}:1")))).collect();
        assert!(held[2].is_none(), "one network of 64 bits is one client");
        let balancer: Vec<_> = (0..9).map(|_| addresses.enter(ip("10.1.2.3"))).collect();
        assert!(balancer.iter().all(Option::is_some));
        drop(held);
        assert!(addresses.counts().is_empty());
        let unlimited = Addresses::new(0, vec![]);
        assert!((0..9).map(|_| unlimited.enter(ip("192.0.2.1"))).all(|place| place.is_some()));
    }

    #[test]
    fn the_client_is_the_last_address_that_is_no_balancer_s() {
        let addresses = Addresses::new(1, vec!["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()]);
        let client = |address| AskedFor::Client(ip(address));
        for (lists, asked_for) in [
            (&["203.0.113.7"][..], client("203.0.113.7")),
            (&["198.51.100.1, 203.0.113.7"], client("203.0.113.7")),
            (&["198.51.100.1", "203.0.113.7"], client("203.0.113.7")),
            (&["198.51.100.1, 203.0.113.7, 10.0.0.2, ::1"], client("203.0.113.7")),
            (&["203.0.113.7:4711,10.0.0.2"], client("203.0.113.7")),
            (&["[2001:db8::7]:4711"], client("2001:db8::7")),
            (&["2001:db8::7"], client("2001:db8::7")),
            (&["ÿ, \u{1}, 203.0.113.7"], client("203.0.113.7")),
            (&["ÿ", "203.0.113.7, 10.0.0.2, ,"], client("203.0.113.7")),
            (&["203.0.113.7, unknown, 10.0.0.2"], AskedFor::Unreadable),
            (&["203.0.113.7, ÿ"], AskedFor::Unreadable),
            (&["10.0.0.2"], AskedFor::Nobody),
            (&["", " , "], AskedFor::Nobody),
            (&[], AskedFor::Nobody),
        ] {
            assert_eq!(addresses.client_of(lists.iter().map(|list| list.as_bytes())), asked_for, "{lists:?}");
        }
        assert_eq!(addresses.client_of([&b"\xff, 203.0.113.7"[..]].into_iter()), client("203.0.113.7"));
        assert_eq!(addresses.client_of([&b"203.0.113.7, \xff"[..]].into_iter()), AskedFor::Unreadable);
        let held = addresses.enter_counted(ip("10.0.0.2"));
        assert!(held.is_some() && addresses.enter_counted(ip("10.0.0.2")).is_none(), "a balancer's own place");
        assert!(addresses.enter(ip("10.0.0.2")).is_some());
    }
}
