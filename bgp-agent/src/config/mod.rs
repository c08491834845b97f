//! What the speaker is told to do.

mod filter;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;

pub use filter::{
    Change, Community, Filter, FilterRule, Match, NotACommunity, PeerKind, PrefixMatch, Relation,
    Subject, Verdict,
};

use crate::bfd;
use crate::session;
use crate::wire::Family;
use crate::wire::open::AddPath;

/// Calico's and MetalLB's default as well; private use (RFC 6996).
pub const DEFAULT_AS: u32 = 64512;
pub const PORT: u16 = 179;
/// Seconds for which peers keep our routes while the process restarts.
pub const RESTART_TIME: u16 = 120;
/// Seconds of silence that end a session.
pub const HOLD_TIME: u16 = 90;

/// A key that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Arc<str>);

impl Password {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Which next hop a peer is told of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NextHopMode {
    /// Ours; of reflected routes the one that they came with.
    #[default]
    Auto,
    /// Always ours.
    Own,
    /// The one that the route came with, also towards another AS.
    Keep,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The object that it is configured by, for people.
    pub name: String,
    pub asn: u32,
    /// Our AS towards this peer, where it is not the speaker's.
    pub local_as: Option<u32>,
    pub port: u16,
    pub passive: bool,
    pub hold_time: u16,
    /// Its routes are reflected to all our internal peers, and theirs to it.
    pub client: bool,
    pub next_hop: NextHopMode,
    pub import: Filter,
    pub export: Filter,
    pub max_prefixes: Option<usize>,
    pub add_path: Option<AddPath>,
    /// Segments are signed with it (RFC 2385).
    pub password: Option<Password>,
    /// The peer is at most this many hops away, and says so (RFC 5082).
    pub ttl_security: Option<u8>,
    /// Our address in the session; the kernel chooses without.
    pub source: Option<IpAddr>,
    /// How often our own AS may be in a path.
    pub own_as_allowed: usize,
    pub bfd: Option<bfd::Settings>,
    /// Seconds for which we keep the peer's routes after a graceful restart failed (RFC 9494).
    pub long_lived: u32,
}

impl Peer {
    /// A peer of our own AS, such as every node in a full mesh.
    pub fn internal(asn: u32) -> Self {
        Self {
            name: String::new(),
            asn,
            local_as: None,
            port: PORT,
            passive: false,
            hold_time: HOLD_TIME,
            client: false,
            next_hop: NextHopMode::Auto,
            import: Filter::ACCEPT,
            export: Filter::ACCEPT,
            max_prefixes: None,
            add_path: None,
            password: None,
            ttl_security: None,
            source: None,
            own_as_allowed: 0,
            bfd: None,
            long_lived: 0,
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

    /// Whether a session can go on when this becomes `other`: only what is done with routes
    /// differs.
    pub(crate) fn has_same_session(&self, other: &Self) -> bool {
        let without_policy = |peer: &Self| Self {
            name: String::new(),
            import: Filter::ACCEPT,
            export: Filter::ACCEPT,
            next_hop: NextHopMode::Auto,
            max_prefixes: None,
            bfd: None,
            ..peer.clone()
        };
        without_policy(self) == without_policy(other)
    }
}

/// A range of our own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origination {
    pub communities: Vec<Community>,
    /// What has no more specific route here is dropped instead of sent back.
    pub blackhole: bool,
}

/// Peers that come from anywhere in a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DynamicPeers {
    pub peer: Peer,
    /// No more than this many at a time.
    pub most: usize,
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
    pub dynamic: BTreeMap<IpNetwork, DynamicPeers>,
    /// 0: no graceful restart.
    pub restart_time: u16,
    /// How many equal paths share the load of a prefix.
    pub multipath: usize,
    /// Peers are asked to prefer other ways: this node is about to go (RFC 8326).
    pub graceful_shutdown: bool,
    /// Routes inside these ranges are passed on but not written into the kernel: addresses of
    /// Services, which this node translates itself, and pods that a tunnel leads to.
    pub not_for_kernel: BTreeSet<IpNetwork>,
}

impl Config {
    /// A speaker that has no peers and says nothing.
    pub fn new(local_as: u32, router_id: Ipv4Addr) -> Self {
        Self {
            local_as,
            router_id,
            cluster_id: router_id.to_bits(),
            next_hop_v4: None,
            next_hop_v6: None,
            own_addresses: BTreeSet::new(),
            originate: BTreeMap::new(),
            peers: BTreeMap::new(),
            dynamic: BTreeMap::new(),
            restart_time: RESTART_TIME,
            multipath: 1,
            graceful_shutdown: false,
            not_for_kernel: BTreeSet::new(),
        }
    }

    pub(crate) fn session(&self, peer: &Peer, restarting: bool) -> session::Config {
        session::Config {
            local_as: peer.local_as.unwrap_or(self.local_as),
            peer_as: peer.asn,
            router_id: self.router_id,
            hold_time: peer.hold_time,
            connect_retry: Duration::from_secs(2),
            passive: peer.passive,
            families: Family::ALL.to_vec(),
            restart_time: self.restart_time,
            restarting,
            add_path: peer.add_path,
            long_lived: peer.long_lived,
        }
    }

    /// The settings for a peer that is not listed.
    pub(crate) fn dynamic_peer(&self, address: IpAddr) -> Option<(&IpNetwork, &DynamicPeers)> {
        let within = self
            .dynamic
            .iter()
            .filter(|(range, _)| range.contains(address));
        within.max_by_key(|(range, _)| range.prefix())
    }

    /// Whether the kernel has nothing to do with a route.
    pub(crate) fn is_kept_from_kernel(&self, prefix: &IpNetwork) -> bool {
        self.not_for_kernel.iter().any(|range| {
            range.is_ipv4() == prefix.is_ipv4()
                && range.prefix() <= prefix.prefix()
                && range.contains(prefix.network())
        })
    }
}
