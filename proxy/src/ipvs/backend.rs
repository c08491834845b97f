//! Observes and applies: IPVS, the device, and the table beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::Ifindex;
use kernel::ipvs::{Ipvs, Op, VirtualId};
use kernel::netlink::{self, Socket};

use super::device;
use super::drain::Draining;
use super::plan::{self, Context, Virtual, Virtuals, addresses, virtuals};
use super::settings;
use crate::backend::{Backend, BackendError, Desired, Outcome};
use crate::config::Config;
use crate::model::{ServiceKey, ServicePicture};
use crate::nftables::{NftablesBackend, Translation};
use crate::picture::Changes;

/// Looking for foreign changes may take this share of the time.
const CHECK_SHARE: u32 = 100;
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// The IPVS backend, for both families.
pub(crate) struct IpvsBackend {
    ipvs: Ipvs,
    route: Socket,
    table: NftablesBackend,
    config: Config,
    context: Context,
    device: Option<Ifindex>,
    committed: BTreeMap<ServiceKey, Arc<ServicePicture>>,
    /// Services that the kernel refused, in whole or in part.
    refused: BTreeSet<ServiceKey>,
    /// By how many Services each address of the device is used.
    users: BTreeMap<IpAddr, usize>,
    draining: Draining,
    next_check: Instant,
    /// Whoever asked knows that somebody changed what was written.
    told: bool,
    /// Another backend has taken over; until when connections may last.
    retires_at: Option<Instant>,
}

impl IpvsBackend {
    /// Fails where the kernel has no IPVS; nothing is changed then.
    pub(crate) fn new(config: &Config) -> Result<Self, BackendError> {
        let ipvs = Ipvs::open()?;
        Ok(Self {
            ipvs,
            route: Socket::route()?,
            table: NftablesBackend::new(config, Translation::Ipvs)?,
            config: config.clone(),
            context: Context::default(),
            device: None,
            committed: BTreeMap::new(),
            refused: BTreeSet::new(),
            users: BTreeMap::new(),
            draining: Draining::default(),
            next_check: Instant::now(),
            told: false,
            retires_at: None,
        })
    }

    /// The node's addresses as they are now, and what follows from them.
    fn read_context(&mut self) -> Result<(Context, BTreeSet<IpAddr>), netlink::Error> {
        let (held, node_addresses) = device::addresses(&mut self.route, self.device)?;
        let without = |address: &&IpAddr| !self.config.allows_node_ports(**address);
        let context = Context {
            scheduler: self.config.ipvs.scheduler.clone(),
            without_nodeports: node_addresses.iter().filter(without).copied().collect(),
            node_addresses,
        };
        Ok((context, held))
    }

    /// The virtual servers in the kernel that are ours: those on the device's addresses, and
    /// those on the node's own at node ports.
    fn observe(&mut self, held: &BTreeSet<IpAddr>) -> Result<Virtuals, kernel::ipvs::Error> {
        let mut observed = Virtuals::new();
        for (id, server) in self.ipvs.services()? {
            let node_port =
                self.context.node_addresses.contains(&id.address) && NODE_PORTS.contains(&id.port);
            if !held.contains(&id.address) && !node_port {
                continue;
            }
            let listed = self.ipvs.servers(id)?;
            let reals = listed.iter().map(|real| (real.id, real.weight)).collect();
            observed.insert(id, Virtual { server, reals });
        }
        Ok(observed)
    }

    /// Performs the operations and names the Services of those that were refused.
    fn perform(
        &mut self,
        ops: &[Op],
        owners: &BTreeMap<VirtualId, ServiceKey>,
        outcome: &mut Outcome,
    ) -> Result<(), BackendError> {
        let results = self.ipvs.apply(ops)?;
        let mut again = Vec::new();
        for (op, result) in ops.iter().zip(results) {
            match (result, other_way(op)) {
                (Ok(()), _) => {}
                (Err(error), _) if error.is_not_found() && is_delete(op) => {}
                (Err(error), Some(other)) if error.is_exists() || error.is_not_found() => {
                    again.push((other, error));
                }
                (Err(error), _) => refuse(op, &error, owners, outcome),
            }
        }
        let second: Vec<Op> = again.iter().map(|(op, _)| op.clone()).collect();
        for (op, result) in second.iter().zip(self.ipvs.apply(&second)?) {
            if let Err(error) = result {
                refuse(op, &error, owners, outcome);
            }
        }
        Ok(())
    }

    fn write(
        &mut self,
        old: &Virtuals,
        new: &Virtuals,
        owners: &BTreeMap<VirtualId, ServiceKey>,
        outcome: &mut Outcome,
    ) -> Result<(), BackendError> {
        let plan = plan::plan(old, new, &self.draining.places());
        self.draining.settle(&plan.settled);
        self.draining
            .start(&plan.drained, Instant::now(), self.config.ipvs.drain);
        self.perform(&plan.ops, owners, outcome)
    }

    /// Counts the users of addresses; answers with those to be added and to be removed.
    fn count_users(
        &mut self,
        old: &BTreeSet<IpAddr>,
        new: &BTreeSet<IpAddr>,
    ) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let (mut come, mut gone) = (Vec::new(), Vec::new());
        for address in new.difference(old) {
            let users = self.users.entry(*address).or_default();
            *users += 1;
            if *users == 1 {
                come.push(*address);
            }
        }
        for address in old.difference(new) {
            if let Some(users) = self.users.get_mut(address) {
                *users -= 1;
                if *users == 0 {
                    self.users.remove(address);
                    gone.push(*address);
                }
            }
        }
        (come, gone)
    }

    /// Removes what has drained.
    fn drain(&mut self) -> Result<(), BackendError> {
        let mut ops = Vec::new();
        for service in self.draining.services() {
            let servers = match self.ipvs.servers(service) {
                Ok(servers) => servers,
                Err(kernel::ipvs::Error::Netlink(error)) if error.is_not_found() => Vec::new(),
                Err(error) => return Err(error.into()),
            };
            ops.extend(self.draining.finished(service, &servers, Instant::now()));
        }
        self.perform(&ops, &BTreeMap::new(), &mut Outcome::default())
    }

    fn has_connections(&mut self, observed: &Virtuals) -> Result<bool, BackendError> {
        for id in observed.keys().filter(|id| !plan::is_datagram(id)) {
            let servers = self.ipvs.servers(*id)?;
            if servers.iter().any(|held| held.active + held.inactive > 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the kernel's virtual servers are those that were written. Of Services that it
    /// refused it may have any part.
    fn same_services(&mut self) -> Result<bool, BackendError> {
        let (context, held) = self.read_context()?;
        if context != self.context || !self.users.keys().all(|address| held.contains(address)) {
            return Ok(false);
        }
        let mut observed = self.observe(&held)?;
        let leaving = self.draining.places();
        let mut wanted: Virtuals = BTreeMap::new();
        for (key, picture) in &self.committed {
            let own = virtuals(picture, &self.context);
            if self.refused.contains(key) {
                observed.retain(|id, _| !own.contains_key(id));
            } else {
                wanted.extend(own);
            }
        }
        let same = |id: &VirtualId, held: &Virtual| {
            wanted.get(id).is_some_and(|wanted| {
                wanted.server == held.server
                    && held
                        .reals
                        .iter()
                        .filter(|(real, _)| !leaving.contains(&(*id, **real)))
                        .eq(wanted.reals.iter())
            })
        };
        Ok(observed.len() == wanted.len() && observed.iter().all(|(id, held)| same(id, held)))
    }
}

fn backends(virtuals: &Virtuals) -> BTreeSet<IpAddr> {
    let reals = virtuals.values().flat_map(|own| own.reals.keys());
    reals.map(|real| real.address).collect()
}

/// What to do where the kernel says that the thing is there already, or is not there.
fn other_way(op: &Op) -> Option<Op> {
    Some(match op.clone() {
        Op::AddService { id, server } => Op::UpdateService { id, server },
        Op::UpdateService { id, server } => Op::AddService { id, server },
        Op::AddServer {
            service,
            server,
            weight,
        } => Op::UpdateServer {
            service,
            server,
            weight,
        },
        // One that should only drain is gone: so much the better.
        Op::UpdateServer { weight: 0, .. } => return None,
        Op::UpdateServer {
            service,
            server,
            weight,
        } => Op::AddServer {
            service,
            server,
            weight,
        },
        Op::DeleteService { .. } | Op::DeleteServer { .. } => return None,
    })
}

fn is_delete(op: &Op) -> bool {
    matches!(
        op,
        Op::DeleteService { .. } | Op::DeleteServer { .. } | Op::UpdateServer { weight: 0, .. }
    )
}

fn refuse(
    op: &Op,
    error: &netlink::Error,
    owners: &BTreeMap<VirtualId, ServiceKey>,
    outcome: &mut Outcome,
) {
    match owners.get(&op.service()) {
        Some(key) => {
            outcome.failed.insert(key.clone(), error.to_string());
        }
        None => tracing::warn!(%error, "IPVS refused a change"),
    }
}

impl Backend for IpvsBackend {
    fn resync(&mut self, desired: &Desired) -> Result<Outcome, BackendError> {
        // Before anything of it is mended. What a failed check told is told by then.
        let foreign = self.device.is_some() && !self.told && !self.same_services()?;
        settings::ensure(&self.config.ipvs)?;
        let timeouts = &self.config.ipvs;
        self.ipvs.set_timeouts(
            timeouts.tcp_timeout,
            timeouts.tcp_fin_timeout,
            timeouts.udp_timeout,
        )?;
        self.device = Some(device::ensure(&mut self.route)?);
        let (context, held) = self.read_context()?;
        self.context = context;
        self.table
            .own_addresses
            .clone_from(&self.context.node_addresses);
        let mut wanted = Virtuals::new();
        let mut owners = BTreeMap::new();
        self.users.clear();
        for (key, picture) in &desired.services {
            let own = virtuals(picture, &self.context);
            owners.extend(own.keys().map(|id| (*id, key.clone())));
            wanted.extend(own);
            for address in addresses(picture, &self.context) {
                *self.users.entry(address).or_default() += 1;
            }
        }
        let observed = self.observe(&held)?;
        self.table.leaving = &backends(&observed) - &backends(&wanted);
        let mut outcome = self.table.resync(desired)?;
        outcome.foreign &= !self.told;
        outcome.foreign |= foreign;
        self.told = false;
        let come: Vec<IpAddr> = self
            .users
            .keys()
            .filter(|address| !held.contains(address))
            .copied()
            .collect();
        let gone: Vec<IpAddr> = held
            .iter()
            .filter(|address| !self.users.contains_key(address))
            .copied()
            .collect();
        let device = self.device.unwrap_or(Ifindex(0));
        device::add(&mut self.route, device, &come)?;
        self.draining.clear();
        self.write(&observed, &wanted, &owners, &mut outcome)?;
        self.table.finish()?;
        device::remove(&mut self.route, device, &gone)?;
        self.committed.clone_from(&desired.services);
        self.refused = outcome.failed.keys().cloned().collect();
        Ok(outcome)
    }

    fn apply(&mut self, changes: &Changes) -> Result<Outcome, BackendError> {
        let (mut old, mut new, mut owners) = (Virtuals::new(), Virtuals::new(), BTreeMap::new());
        let (mut come, mut gone) = (Vec::new(), Vec::new());
        for (key, picture) in changes {
            let of = |picture: Option<&Arc<ServicePicture>>| {
                picture.map_or_else(Default::default, |p| {
                    (virtuals(p, &self.context), addresses(p, &self.context))
                })
            };
            let (before, addresses_before) = of(self.committed.get(key));
            let (after, addresses_after) = of(picture.as_ref());
            owners.extend(
                before
                    .keys()
                    .chain(after.keys())
                    .map(|id| (*id, key.clone())),
            );
            old.extend(before);
            new.extend(after);
            let (added, removed) = self.count_users(&addresses_before, &addresses_after);
            come.extend(added);
            gone.extend(removed);
        }
        // An address that one Service gave up and another one took.
        gone.retain(|address| !self.users.contains_key(address));
        let device = self.device.unwrap_or(Ifindex(0));
        device::add(&mut self.route, device, &come)?;
        let mut outcome = self.table.apply(changes)?;
        self.write(&old, &new, &owners, &mut outcome)?;
        self.table.finish()?;
        device::remove(&mut self.route, device, &gone)?;
        for (key, picture) in changes {
            match outcome.failed.contains_key(key) {
                true => self.refused.insert(key.clone()),
                false => self.refused.remove(key),
            };
            match picture {
                Some(picture) => self.committed.insert(key.clone(), picture.clone()),
                None => self.committed.remove(key),
            };
        }
        Ok(outcome)
    }

    fn intact(&mut self) -> Result<bool, BackendError> {
        if !self.draining.is_empty() {
            self.drain()?;
        }
        if !self.table.intact()? {
            self.told = true;
            return Ok(false);
        }
        let start = Instant::now();
        if start < self.next_check {
            return Ok(true);
        }
        let same = self.same_services()?;
        self.told = !same;
        self.next_check =
            Instant::now() + start.elapsed().max(Duration::from_millis(1)) * CHECK_SHARE;
        Ok(same)
    }

    /// What the other backend translates never gets here. Established connections go on here:
    /// their packets are still sent to virtual addresses.
    fn retire(&mut self) -> Result<bool, BackendError> {
        let (_, held) = self.read_context()?;
        let observed = self.observe(&held)?;
        let now = Instant::now();
        let deadline = match self.retires_at {
            Some(deadline) => deadline,
            None => {
                self.table.cleanup()?;
                let ops = plan::retire(&observed);
                self.perform(&ops, &BTreeMap::new(), &mut Outcome::default())?;
                let deadline = now + self.config.ipvs.drain;
                self.retires_at = Some(deadline);
                deadline
            }
        };
        if now < deadline && self.has_connections(&observed)? {
            return Ok(false);
        }
        self.cleanup()?;
        Ok(true)
    }

    fn cleanup(&mut self) -> Result<(), BackendError> {
        self.device = device::find(&mut self.route)?;
        let (context, held) = self.read_context()?;
        self.context = context;
        let observed = self.observe(&held)?;
        let ops: Vec<Op> = observed
            .keys()
            .map(|id| Op::DeleteService { id: *id })
            .collect();
        self.perform(&ops, &BTreeMap::new(), &mut Outcome::default())?;
        device::delete(&mut self.route)?;
        self.table.cleanup()?;
        self.device = None;
        self.draining.clear();
        self.committed.clear();
        self.refused.clear();
        self.users.clear();
        Ok(())
    }
}
