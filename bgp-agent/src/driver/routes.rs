//! The kernel's routes, and what the kernel says about next hops.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use kernel::Ifindex;
use kernel::monitor::Event;
use kernel::route::{MAIN_TABLE, NextHop, Protocol, Route};

use crate::kernel_routes::{self, KernelRoutes};
use crate::speaker::{Forwarding, Speaker};

/// Notifications that come together are one look.
const SETTLE: Duration = Duration::from_millis(20);
/// Routes that could not be written are tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// See the module's documentation.
pub(super) struct Routes {
    kernel: KernelRoutes,
    /// How each next hop is reached; nothing where it is not.
    hops: BTreeMap<IpAddr, Option<NextHop>>,
    /// Prefixes whose routes could not be written.
    failed: BTreeSet<IpNetwork>,
    /// When everything has to be looked at.
    due: Option<Instant>,
    repairs: u64,
}

impl Routes {
    pub(super) fn open() -> Result<Self, kernel::netlink::Error> {
        Ok(Self {
            kernel: KernelRoutes::open()?,
            hops: BTreeMap::new(),
            failed: BTreeSet::new(),
            due: None,
            repairs: 0,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kernel.actual.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.kernel.actual.len()
    }

    pub(super) fn repairs(&self) -> u64 {
        self.repairs
    }

    /// When [`Routes::repair`] is wanted.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    fn look_after(&mut self, wait: Duration) {
        let at = Instant::now() + wait;
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// A change in the kernel: what we did ourselves, and what no route or next hop of ours hangs
    /// on, is nothing to look at.
    pub(super) fn heard(&mut self, event: &Event) {
        let is_connected =
            |route: &Route| route.table == MAIN_TABLE && route.protocol == Protocol::KERNEL;
        match event {
            Event::NewRoute(route) if is_connected(route) => {
                self.kernel.connected.insert(route.destination);
            }
            Event::DeletedRoute(route) if is_connected(route) => {
                self.kernel.connected.remove(&route.destination);
            }
            _ => {}
        }
        if self.concerns_us(event) {
            self.look_after(SETTLE);
        }
    }

    fn concerns_us(&self, event: &Event) -> bool {
        let actual = &self.kernel.actual;
        match event {
            Event::NewRoute(route) | Event::DeletedRoute(route) if route.table != MAIN_TABLE => {
                false
            }
            Event::NewRoute(route) if route.protocol == Protocol::BGP => !actual
                .get(&route.destination)
                .is_some_and(|own| kernel_routes::is_same(own, route)),
            Event::DeletedRoute(route) if route.protocol == Protocol::BGP => {
                actual.contains_key(&route.destination)
            }
            Event::NewRoute(route) | Event::DeletedRoute(route) => {
                actual.contains_key(&route.destination) || self.leads_to_hop(route)
            }
            Event::NewLink(link) | Event::DeletedLink(link) => {
                self.hops.values().any(Option::is_none) || self.uses(link.index)
            }
            Event::Lost => true,
            _ => false,
        }
    }

    fn leads_to_hop(&self, route: &Route) -> bool {
        let mut hops = self.hops.keys();
        hops.any(|hop| route.destination.contains(*hop))
    }

    fn uses(&self, interface: Ifindex) -> bool {
        let mut hops = self.hops.values().flatten();
        hops.any(|hop| hop.interface == Some(interface))
    }

    /// Looks how next hops that just came are reached.
    pub(super) fn resolve_new(&mut self, speaker: &mut Speaker) {
        for hop in speaker.take_new_hops() {
            let found = self.kernel.resolve(hop);
            speaker.set_reachable(hop, found.is_some());
            self.hops.insert(hop, found);
        }
    }

    /// Somebody changed routes or links: what is there is read anew and put right.
    pub(super) fn repair(&mut self, speaker: &mut Speaker) {
        self.due = None;
        self.repairs += 1;
        let before = std::mem::take(&mut self.kernel.actual);
        if let Err(error) = self.kernel.observe() {
            tracing::warn!(%error, "the kernel's routes were not read");
            self.kernel.actual = before;
            return self.look_after(RETRY);
        }
        let hops: Vec<IpAddr> = speaker.rib().hops().map(|(hop, _)| hop).collect();
        self.hops.clear();
        for hop in hops {
            let found = self.kernel.resolve(hop);
            speaker.set_reachable(hop, found.is_some());
            self.hops.insert(hop, found);
        }
        let prefixes: BTreeSet<IpNetwork> = speaker.rib().prefixes().collect();
        self.write(speaker, prefixes);
        self.sweep(speaker);
    }

    /// Routes of ours that nobody wants go, unless a previous life's are still kept.
    pub(super) fn sweep(&mut self, speaker: &Speaker) {
        let all = self.kernel.actual.keys().copied().collect();
        self.write(speaker, all);
    }

    /// Brings the kernel in line for these prefixes, and for those that failed before.
    pub(super) fn write(&mut self, speaker: &Speaker, mut prefixes: BTreeSet<IpNetwork>) {
        prefixes.append(&mut self.failed);
        let sweep = speaker.may_sweep();
        let wanted: BTreeMap<IpNetwork, Forwarding> = prefixes
            .iter()
            .filter(|prefix| !self.kernel.connected.contains(prefix))
            .filter_map(|prefix| Some((*prefix, speaker.forwarding(prefix)?)))
            .collect();
        // While a previous life's routes are kept, only what is known is changed.
        let looked_at: BTreeSet<IpNetwork> = match sweep {
            true => prefixes,
            false => prefixes
                .into_iter()
                .filter(|prefix| wanted.contains_key(prefix))
                .collect(),
        };
        let hops = &self.hops;
        let resolve = |gateway: IpAddr| hops.get(&gateway).cloned().flatten();
        let ops = kernel_routes::plan(&wanted, &looked_at, &self.kernel.actual, &resolve);
        if ops.is_empty() {
            return;
        }
        match self.kernel.apply(&ops) {
            Ok(failed) => self.failed.extend(failed),
            Err(error) => {
                tracing::error!(%error, "routes were not written, they are tried again");
                self.failed.extend(looked_at);
            }
        }
        if !self.failed.is_empty() {
            self.look_after(RETRY);
        }
    }
}
