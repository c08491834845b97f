//! What the speaker is told to do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::session;
use crate::wire::open::AddPath;
use crate::wire::{Attributes, Family};

/// Calico's and MetalLB's default as well; private use (RFC 6996).
pub const DEFAULT_AS: u32 = 64512;
pub const PORT: u16 = 179;
/// Seconds for which peers keep our routes while the process restarts.
pub const RESTART_TIME: u16 = 120;

/// One step of a filter: the first rule that matches decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilterRule {
    /// Prefixes inside this one, with a length between the two numbers.
    pub prefix: Option<(IpNetwork, u8, u8)>,
    /// Paths with this community.
    pub community: Option<u32>,
    pub accept: bool,
    pub set_local_pref: Option<u32>,
    pub add_communities: Vec<u32>,
    /// How often our AS is put before the path in addition.
    pub prepend: usize,
}

/// What of a peer's routes is taken, or what of ours it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    pub rules: Vec<FilterRule>,
    /// What happens with the rest.
    pub accept_rest: bool,
}

impl Filter {
    pub const ACCEPT: Self = Self {
        rules: Vec::new(),
        accept_rest: true,
    };
    /// The default towards another AS (RFC 8212).
    pub const REJECT: Self = Self {
        rules: Vec::new(),
        accept_rest: false,
    };

    /// The attributes with the matching rule's changes; `None` if it is refused.
    pub fn apply(
        &self,
        prefix: &IpNetwork,
        attributes: &Attributes,
        own_as: u32,
    ) -> Option<Attributes> {
        let Some(rule) = self
            .rules
            .iter()
            .find(|rule| rule.matches(prefix, attributes))
        else {
            return self.accept_rest.then(|| attributes.clone());
        };
        if !rule.accept {
            return None;
        }
        let mut attributes = attributes.clone();
        attributes.local_pref = rule.set_local_pref.or(attributes.local_pref);
        for community in &rule.add_communities {
            if !attributes.communities.contains(community) {
                attributes.communities.push(*community);
            }
        }
        attributes.prepend(own_as, rule.prepend);
        Some(attributes)
    }

    /// Whether everything passes unchanged.
    pub fn is_open(&self) -> bool {
        self.rules.is_empty() && self.accept_rest
    }
}

impl FilterRule {
    fn matches(&self, prefix: &IpNetwork, attributes: &Attributes) -> bool {
        let by_prefix = self.prefix.is_none_or(|(within, shortest, longest)| {
            within.is_ipv4() == prefix.is_ipv4()
                && within.prefix() <= prefix.prefix()
                && within.contains(prefix.network())
                && (shortest..=longest).contains(&prefix.prefix())
        });
        by_prefix
            && self
                .community
                .is_none_or(|own| attributes.communities.contains(&own))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub asn: u32,
    pub port: u16,
    pub passive: bool,
    pub hold_time: u16,
    /// Its routes are reflected to all our internal peers, and theirs to it.
    pub client: bool,
    /// Tells it our address as the next hop of routes of other systems.
    pub next_hop_self: bool,
    pub import: Filter,
    pub export: Filter,
    pub max_prefixes: Option<usize>,
    pub add_path: Option<AddPath>,
}

impl Peer {
    /// A peer of our own AS, such as every node in a full mesh.
    pub fn internal(asn: u32) -> Self {
        Self {
            asn,
            port: PORT,
            passive: false,
            hold_time: 90,
            client: false,
            next_hop_self: true,
            import: Filter::ACCEPT,
            export: Filter::ACCEPT,
            max_prefixes: None,
            add_path: None,
        }
    }

    /// A peer of another AS: nothing passes until filters say so (RFC 8212).
    pub fn external(asn: u32) -> Self {
        Self {
            import: Filter::REJECT,
            export: Filter::REJECT,
            ..Self::internal(asn)
        }
    }
}

/// A range of our own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origination {
    pub communities: Vec<u32>,
    /// What has no more specific route here is dropped instead of sent back.
    pub blackhole: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub local_as: u32,
    pub router_id: Ipv4Addr,
    /// Of this reflector and those that serve the same clients.
    pub cluster_id: u32,
    /// Our addresses as next hops.
    pub next_hop_v4: Option<Ipv4Addr>,
    pub next_hop_v6: Option<Ipv6Addr>,
    /// All our addresses: a route to one of them is not taken.
    pub own_addresses: BTreeSet<IpAddr>,
    pub originate: BTreeMap<IpNetwork, Origination>,
    pub peers: BTreeMap<IpAddr, Peer>,
    /// 0: no graceful restart.
    pub restart_time: u16,
    /// How many equal paths share the load of a prefix.
    pub multipath: usize,
}

impl Config {
    pub(crate) fn session(&self, peer: &Peer, restarting: bool) -> session::Config {
        session::Config {
            local_as: self.local_as,
            peer_as: peer.asn,
            router_id: self.router_id,
            hold_time: peer.hold_time,
            connect_retry: Duration::from_secs(2),
            passive: peer.passive,
            families: Family::ALL.to_vec(),
            restart_time: self.restart_time,
            restarting,
            add_path: peer.add_path,
            max_prefixes: peer.max_prefixes,
        }
    }
}
