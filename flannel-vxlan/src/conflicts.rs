//! Other machines that have the node's addresses. Whatever the network's mode is, packets to the
//! node go then here, then there; an event of the Node says so and whose doing it is.
//!
//! Of its IPv4 addresses the node asks the link now and then, and listens to what others say
//! (RFC 5227, section 2.4). Of IPv6 addresses the kernel finds out by itself when they are set.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ::kernel::arp::Arp;
use ::kernel::netlink::{self, Socket};
use ::kernel::{Ifindex, MacAddress, address, link};
use k8s_openapi::api::core::v1::Node;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use watch_cache::WatchCache;

use crate::driver::{Deps, internal_addresses, post_warning};

/// How often it is looked what others said.
const LOOK: Duration = Duration::from_millis(500);
/// How often others are asked.
const ASK: Duration = Duration::from_secs(10);
/// How long a conflict counts as the same after it was last heard of.
const REMEMBERED: Duration = Duration::from_secs(600);
/// More packets than a link has in the time between two looks.
const MOST: usize = 4096;

/// What of the node may not be anybody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ours {
    mac: MacAddress,
    /// Of all of the node's interfaces: one may answer for the address of another.
    macs: BTreeSet<MacAddress>,
    addresses: BTreeSet<Ipv4Addr>,
}

/// An interface with addresses of the node.
struct Listener {
    arp: Arp,
    ours: Ours,
}

struct Watcher {
    listeners: BTreeMap<Ifindex, Listener>,
    /// The machines and addresses that were told of, and when they were last heard.
    told: BTreeMap<(IpAddr, Option<MacAddress>), Instant>,
}

/// Watches until `shutdown`. Without the right to listen it says so and does nothing.
pub async fn watch(node_name: String, deps: Deps, shutdown: CancellationToken) {
    let nodes: WatchCache<Node> = deps.caches.of();
    let mut watcher = Watcher {
        listeners: BTreeMap::new(),
        told: BTreeMap::new(),
    };
    let mut ask = Instant::now();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let Some(node) = nodes.get("", &node_name) else {
            continue;
        };
        let now = Instant::now();
        if now >= ask {
            ask = now + ASK;
            let addresses = internal_addresses(&node).into_iter().collect();
            match watcher.ask(&addresses) {
                Ok(duplicates) => watcher.report(&deps, &node, duplicates, now).await,
                Err(error) => {
                    tracing::warn!(%error, "nobody is asked whether he has this node's address");
                }
            }
        }
        let claims = watcher.claims();
        watcher.report(&deps, &node, claims, now).await;
    }
}

/// Why the link could not be asked.
#[derive(Debug, thiserror::Error)]
enum Unasked {
    #[error("the addresses of the interfaces cannot be read: {0}")]
    Kernel(#[from] netlink::Error),
    #[error("ARP: {0}")]
    Arp(#[from] io::Error),
}

type Found = BTreeSet<(IpAddr, Option<MacAddress>)>;

impl Watcher {
    /// Asks on every link; the IPv6 addresses of which the kernel found out.
    fn ask(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<Found, Unasked> {
        let mut socket = Socket::route()?;
        let mut duplicates = Found::new();
        let mut wanted: BTreeMap<Ifindex, BTreeSet<Ipv4Addr>> = BTreeMap::new();
        for own in address::list(&mut socket, None)? {
            match own.network.ip() {
                ip if !addresses.contains(&ip) => {}
                IpAddr::V4(ip) => drop(wanted.entry(own.interface).or_default().insert(ip)),
                ip @ IpAddr::V6(_) if own.duplicate => drop(duplicates.insert((ip, None))),
                IpAddr::V6(_) => {}
            }
        }
        let links = link::list(&mut socket)?;
        let macs: BTreeMap<Ifindex, MacAddress> = links
            .iter()
            .filter_map(|link| Some((link.index, link.mac?)))
            .collect();
        self.listeners
            .retain(|index, _| wanted.contains_key(index) && macs.contains_key(index));
        for (index, addresses) in wanted {
            let Some(mac) = macs.get(&index).copied() else {
                continue;
            };
            let ours = Ours {
                mac,
                macs: macs.values().copied().collect(),
                addresses,
            };
            if let Some(listener) = self.listeners.get_mut(&index) {
                listener.ours = ours;
            } else {
                let arp = Arp::open(index)?;
                self.listeners.insert(index, Listener { arp, ours });
            }
        }
        for Listener { arp, ours } in self.listeners.values() {
            for address in &ours.addresses {
                arp.probe(ours.mac, *address)?;
            }
        }
        Ok(duplicates)
    }

    /// The addresses of ours that others said to have.
    fn claims(&mut self) -> Found {
        let mut found = Found::new();
        self.listeners.retain(|interface, Listener { arp, ours }| {
            let claims = match arp.claims(MOST) {
                Ok(claims) => claims,
                Err(error) => {
                    // Down, or gone; opened again with the next question.
                    tracing::debug!(?interface, %error, "ARP is not heard");
                    return false;
                }
            };
            let others = claims.into_iter().filter(|claim| {
                ours.addresses.contains(&claim.address) && !ours.macs.contains(&claim.mac)
            });
            found.extend(others.map(|claim| (IpAddr::V4(claim.address), Some(claim.mac))));
            true
        });
        found
    }

    /// Tells of each once, as long as it is heard again and again.
    async fn report(&mut self, deps: &Deps, node: &Node, found: Found, now: Instant) {
        self.told
            .retain(|_, heard| now.duration_since(*heard) < REMEMBERED);
        for (address, mac) in found {
            if self.told.insert((address, mac), now).is_some() {
                continue;
            }
            let message = message(address, mac);
            tracing::error!("{message}");
            post_warning(&deps.client, node, &message).await;
        }
    }
}

fn message(address: IpAddr, mac: Option<MacAddress>) -> String {
    let who = match mac {
        Some(mac) => format!("the machine with the Ethernet address {mac}"),
        None => "another machine on the link".to_owned(),
    };
    format!(
        "{who} has this node's address {address} as well: packets to the node are lost; give one of \
         them another address"
    )
}
