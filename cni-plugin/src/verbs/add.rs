//! ADD: an address, an interface, its rules; on failure, nothing of it.
//!
//! The record is written before the kernel is touched. Whoever is killed in between leaves a
//! record that DEL and GC find, and whose addresses nobody else gets.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use kernel::netlink::Socket;
use kernel::netns::Netns;

use super::{Call, pair, wanted_rules};
use crate::config::Ipam;
use crate::dataplane::{self, Dataplane, Made, open_netns};
use crate::delegate;
use crate::error::{Code, Error};
use crate::flows::{self, Mapping};
use crate::ipam::RangeSet;
use crate::policy::{self, PolicyRequest};
use crate::pools::{self, PoolRequest};
use crate::result::{CniResult, Dns, Interface, Ip, Route};
use crate::store::{Locked, Pod, Record, State};
use crate::wiring::{self, Pair};

/// Attaches the container and says what it has got.
pub fn add(call: &Call<'_>) -> Result<CniResult, Error> {
    let netns = require_netns(call)?;
    let previous = call.config.previous.clone();
    if let Some(previous) = previous.as_ref()
        && previous
            .sandbox_interface(&call.environment.ifname)
            .is_some()
    {
        return add_chained(call, previous);
    }
    let mut dataplane = Dataplane::open()?;
    let mut pod = dataplane::pod_socket(&netns)?;
    // Before anything of ours exists: what is there is not undone when we fail.
    make_way(call, &netns, &mut dataplane, &mut pod)?;
    let granted = addresses(call, &netns)?;
    let result = build(call, &netns, granted, &mut dataplane, &mut pod);
    if result.is_err() {
        undo(call);
    }
    let mut result = result?;
    if let Some(previous) = previous {
        result = append(previous, result);
    }
    Ok(result)
}

/// The state, without what an ADD or DEL of the same attachment has left that was killed on its
/// way.
fn lock_clear(call: &Call<'_>) -> Result<Locked, Error> {
    let locked = call.lock()?;
    if !locked.state.contains(&call.attachment()) {
        return Ok(locked);
    }
    drop(locked);
    super::del(call)?.run()?;
    call.lock()
}

/// Takes back what a failed ADD has made. The first error is the one to tell; what is left,
/// the runtime's DEL finds.
fn undo(call: &Call<'_>) {
    if let Ok(deferred) = super::del(call) {
        let _ = deferred.run();
    }
}

/// An interface of that name is an error, unless it is what a DEL of the same attachment is
/// about to delete.
fn make_way(
    call: &Call<'_>,
    netns: &Netns,
    dataplane: &mut Dataplane,
    pod: &mut Socket,
) -> Result<(), Error> {
    let attachment = call.attachment();
    let host = wiring::host_interface_name(&attachment.container_id, &attachment.ifname);
    let (_, mac) = Pair::macs(&attachment.container_id, &attachment.ifname);
    let mac = call.config.mac.unwrap_or(mac);
    if dataplane.make_way(pod, &attachment.ifname, &host, mac)? {
        return Ok(());
    }
    let (ifname, place) = (&attachment.ifname, netns.path().display());
    let message = format!("the container has an interface {ifname} already, in {place}");
    Err(Error::new(Code::InterfaceExists, message))
}

fn require_netns(call: &Call<'_>) -> Result<Netns, Error> {
    let path = call.environment.netns.clone().unwrap_or_default();
    open_netns(&path)?.ok_or_else(|| {
        Error::new(
            Code::UnknownContainer,
            "the container's namespace does not exist",
        )
        .with_details(path.display())
    })
}

/// Addresses that somebody has given us, with what else an IPAM plugin says.
struct Granted {
    addresses: Vec<IpAddr>,
    routes: Vec<Route>,
    dns: Dns,
}

fn addresses(call: &Call<'_>, netns: &Netns) -> Result<Granted, Error> {
    match &call.config.ipam {
        Ipam::Own(sets) => {
            let addresses = match &call.config.pool_socket {
                Some(socket) => from_pools(call, netns, socket)?,
                None => reserve(call, netns, sets, &call.config.requested_addresses)?,
            };
            Ok(Granted {
                addresses,
                routes: call.config.routes.clone(),
                dns: Dns::default(),
            })
        }
        Ipam::Delegate(plugin) => delegated(call, netns, plugin),
    }
}

/// Asks the other plugin, and remembers whom we asked before it can be forgotten.
fn delegated(call: &Call<'_>, netns: &Netns, plugin: &str) -> Result<Granted, Error> {
    delegate::find(plugin, call.environment)?;
    let mut record = new_record(call, netns, Vec::new());
    record.ipam = Some(plugin.to_owned());
    let mut locked = lock_clear(call)?;
    locked.state.insert(&record);
    locked.save()?;
    drop(locked);
    let forget = |error| {
        undo(call);
        error
    };
    let output =
        delegate::run(plugin, "ADD", call.environment, &call.config.raw).map_err(forget)?;
    let result: CniResult = serde_json::from_slice(&output).map_err(|error| {
        let error = Error::new(
            Code::Decode,
            format!("the result of {plugin} cannot be read"),
        )
        .with_details(error);
        forget(error)
    })?;
    record.addresses = result.ips.iter().map(|ip| ip.address.ip()).collect();
    if record.addresses.is_empty() {
        return Err(forget(Error::new(
            Code::Delegate,
            format!("{plugin} gave no address"),
        )));
    }
    let mut locked = call.lock()?;
    locked.state.insert(&record);
    locked.save()?;
    Ok(Granted {
        addresses: record.addresses,
        routes: result.routes,
        dns: result.dns,
    })
}

fn new_record(call: &Call<'_>, netns: &Netns, addresses: Vec<IpAddr>) -> Record {
    let environment = call.environment;
    let arguments = &environment.arguments;
    let pod = arguments
        .pod_namespace
        .clone()
        .zip(arguments.pod_name.clone());
    Record {
        attachment: call.attachment(),
        netns: netns.path().to_owned(),
        host_interface: wiring::host_interface_name(&environment.container_id, &environment.ifname),
        addresses,
        ports: call.config.ports.clone(),
        bandwidth: call.config.bandwidth,
        masquerade: call.config.masquerade,
        chained: false,
        ipam: None,
        aliases: call.config.aliases.clone(),
        pod: pod.map(|(namespace, name)| Pod { namespace, name }),
    }
}

/// Takes addresses of the ranges that the agent names; those that are full it is told, until it
/// has no further ones.
fn from_pools(call: &Call<'_>, netns: &Netns, socket: &Path) -> Result<Vec<IpAddr>, Error> {
    // Its addresses may be the last ones.
    drop(lock_clear(call)?);
    let arguments = &call.environment.arguments;
    let mut request = PoolRequest {
        pod_namespace: arguments.pod_namespace.clone().unwrap_or_default(),
        pod_name: arguments.pod_name.clone().unwrap_or_default(),
        ..PoolRequest::default()
    };
    loop {
        let offer = pools::ask(socket, &request, call.config.policy_timeout)?;
        let mut asked = call.config.requested_addresses.clone();
        asked.extend(&offer.addresses);
        let failure = match reserve(call, netns, &offer.sets, &asked) {
            Err(error) if error.is(Code::Exhausted) => error,
            other => return other,
        };
        let known = request.full.len();
        let state = call.store().peek()?;
        request.full.extend(offer.full(&state));
        if request.full.len() == known {
            return Err(failure);
        }
    }
}

/// Takes one address of each set for the attachment, and writes that down.
fn reserve(
    call: &Call<'_>,
    netns: &Netns,
    sets: &[RangeSet],
    asked: &[IpAddr],
) -> Result<Vec<IpAddr>, Error> {
    let mut locked = lock_clear(call)?;
    let addresses = match choose(&mut locked.state, sets, asked) {
        Err(error) if error.is(Code::Exhausted) && reclaim(&mut locked.state) => {
            choose(&mut locked.state, sets, asked)?
        }
        other => other?,
    };
    locked
        .state
        .released
        .retain(|address| !addresses.contains(address));
    locked
        .state
        .insert(&new_record(call, netns, addresses.clone()));
    locked.save()?;
    Ok(addresses)
}

/// The addresses for a new attachment: those that were asked for, the next ones of the sets
/// that nobody asked for one of.
pub fn choose(
    state: &mut State,
    sets: &[RangeSet],
    asked: &[IpAddr],
) -> Result<Vec<IpAddr>, Error> {
    if sets.is_empty() {
        return Err(Error::new(
            Code::InvalidConfig,
            "ipam.ranges: there is no range of addresses",
        ));
    }
    let used = state.used();
    // What was given away is as if somebody had it.
    let withdrawn = state.withdrawn_of(sets);
    let taken: BTreeSet<IpAddr> = used.union(&withdrawn).copied().collect();
    if let Some(stray) = asked
        .iter()
        .find(|a| !sets.iter().any(|set| set.contains(**a)))
    {
        let message = format!("the address {stray} that was asked for is in none of the ranges");
        return Err(Error::new(Code::AddressUnavailable, message));
    }
    let mut chosen = Vec::new();
    for set in sets {
        let address = match asked.iter().find(|address| set.contains(**address)) {
            Some(address) => check_free(state, &taken, *address)?,
            None => {
                let last = state.last.get(&set.to_string()).copied();
                let next = set
                    .next(&taken, &state.released, last)
                    .map_err(|exhausted| Error::new(Code::Exhausted, exhausted.to_string()))?;
                state.last.insert(set.to_string(), next);
                next
            }
        };
        chosen.push(address);
    }
    Ok(chosen)
}

fn check_free(state: &State, used: &BTreeSet<IpAddr>, address: IpAddr) -> Result<IpAddr, Error> {
    if !used.contains(&address) {
        return Ok(address);
    }
    let owner = state.owner(address).map(|owner| owner.container_id);
    let message = format!("the address {address} that was asked for is in use");
    let details = match owner {
        Some(container) => format!("by container {container}"),
        None => "by another node, to which it was lent".to_owned(),
    };
    Err(Error::new(Code::AddressUnavailable, message).with_details(details))
}

/// Frees what belongs to containers whose namespaces are gone: their DEL never came. An ADD
/// under way has its namespace still.
fn reclaim(state: &mut State) -> bool {
    let gone: Vec<_> = state
        .records()
        .filter(|record| !record.netns.as_os_str().is_empty() && !record.netns.exists())
        .map(|record| record.attachment)
        .collect();
    gone.iter().for_each(|attachment| state.remove(attachment));
    !gone.is_empty()
}

fn build(
    call: &Call<'_>,
    netns: &Netns,
    granted: Granted,
    dataplane: &mut Dataplane,
    pod: &mut Socket,
) -> Result<CniResult, Error> {
    let config = call.config;
    let mtu = match config.mtu {
        Some(mtu) => mtu,
        None => dataplane.default_mtu()?,
    };
    let record = new_record(call, netns, granted.addresses.clone());
    let pair = pair(call, granted.addresses, mtu, granted.routes);
    let sysctl: Vec<(String, String)> = config
        .sysctl
        .iter()
        .map(|(name, value)| (name.replace("IFNAME", &pair.pod_name), value.clone()))
        .collect();
    let made = dataplane.create(&pair, netns, pod, &sysctl)?;
    dataplane.configure_host(&pair, !record.ports.is_empty())?;
    let wanted = wanted_rules(&record, &call.masquerade_exceptions());
    dataplane.install_rules(&wanted)?;
    flows::forget(dataplane, &wanted, Mapping::New);
    let shaper = wiring::shaper_name(&record.attachment.container_id, &pair.pod_name);
    dataplane.limit(made.host, &config.bandwidth, &shaper, mtu)?;
    wait_for_policy(call, &record)?;
    dataplane.open_host_side(&pair, &made)?;
    Ok(describe(call, netns, &pair, &made, granted.dns))
}

fn wait_for_policy(call: &Call<'_>, record: &Record) -> Result<(), Error> {
    let Some(socket) = &call.config.policy_socket else {
        return Ok(());
    };
    let pod = record.pod.clone();
    let (pod_namespace, pod_name) = pod.map(|pod| (pod.namespace, pod.name)).unwrap_or_default();
    let request = PolicyRequest {
        container_id: record.attachment.container_id.clone(),
        ifname: record.attachment.ifname.clone(),
        host_interface: record.host_interface.clone(),
        addresses: record.addresses.clone(),
        pod_namespace,
        pod_name,
    };
    policy::wait(socket, &request, call.config.policy_timeout)
}

fn describe(call: &Call<'_>, netns: &Netns, pair: &Pair, made: &Made, dns: Dns) -> CniResult {
    let host = Interface {
        name: pair.host_name.clone(),
        mac: Some(made.host_mac.to_string()),
        mtu: Some(pair.mtu),
        ..Interface::default()
    };
    let inside = Interface {
        name: pair.pod_name.clone(),
        mac: Some(made.pod_mac.to_string()),
        mtu: Some(pair.mtu),
        sandbox: Some(netns.path().display().to_string()),
        ..Interface::default()
    };
    let ip = |address: &IpAddr| Ip {
        version: None,
        address: (*address).into(),
        gateway: Some(wiring::gateway(address.is_ipv4())),
        interface: Some(1),
    };
    let own = &call.config.dns;
    CniResult {
        interfaces: vec![host, inside],
        ips: pair.addresses.iter().map(ip).collect(),
        routes: pair.destinations(),
        dns: if own.is_empty() { dns } else { own.clone() },
        ..CniResult::default()
    }
}

/// Our part behind that of the plugins before us.
fn append(mut previous: CniResult, own: CniResult) -> CniResult {
    let offset = previous.interfaces.len();
    previous.interfaces.extend(own.interfaces);
    previous.ips.extend(own.ips.into_iter().map(|ip| Ip {
        interface: ip.interface.map(|index| index + offset),
        ..ip
    }));
    previous.routes.extend(own.routes);
    if previous.dns.is_empty() {
        previous.dns = own.dns;
    }
    previous
}

/// Another plugin has made the interface: host ports, limits and policy are ours to add.
fn add_chained(call: &Call<'_>, previous: &CniResult) -> Result<CniResult, Error> {
    let host = previous
        .host_interface()
        .map(|interface| interface.name.clone());
    let index = previous.sandbox_interface(&call.environment.ifname);
    let belongs = |ip: &&Ip| ip.interface.is_none() || ip.interface == index;
    let netns = require_netns(call)?;
    let record = Record {
        addresses: previous
            .ips
            .iter()
            .filter(belongs)
            .map(|ip| ip.address.ip())
            .collect(),
        host_interface: host.unwrap_or_default(),
        chained: true,
        masquerade: call.config.masquerade,
        ..new_record(call, &netns, Vec::new())
    };
    let mut locked = call.lock()?;
    locked.state.insert(&record);
    locked.save()?;
    drop(locked);
    let result = decorate(call, &record);
    if result.is_err() {
        undo(call);
    }
    result.map(|()| previous.clone())
}

fn decorate(call: &Call<'_>, record: &Record) -> Result<(), Error> {
    let mut dataplane = Dataplane::open()?;
    let wanted = wanted_rules(record, &call.masquerade_exceptions());
    dataplane.install_rules(&wanted)?;
    flows::forget(&mut dataplane, &wanted, Mapping::New);
    let bandwidth = &call.config.bandwidth;
    if *bandwidth != crate::config::Bandwidth::default() {
        let host = kernel::link::get(dataplane.host(), &record.host_interface)
            .map_err(|error| Error::kernel("cannot read the host's interface", error))?
            .ok_or_else(|| {
                Error::new(
                    Code::InvalidConfig,
                    "bandwidth: prevResult names no interface of the host",
                )
            })?;
        let attachment = &record.attachment;
        let shaper = wiring::shaper_name(&attachment.container_id, &attachment.ifname);
        dataplane.limit(host.index, bandwidth, &shaper, host.mtu)?;
    }
    wait_for_policy(call, record)
}
