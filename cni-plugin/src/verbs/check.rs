//! CHECK: everything that ADD made is there, as its result says.

use std::net::IpAddr;

use super::{Call, pair, wanted_rules};
use crate::config::Ipam;
use crate::dataplane::{Dataplane, open_netns};
use crate::delegate;
use crate::error::{Code, Error};
use crate::result::{CniResult, Ip};
use crate::store::Record;
use crate::wiring;

/// Says what is missing, all of it.
pub fn check(call: &Call<'_>) -> Result<(), Error> {
    let previous = call.config.previous.as_ref().ok_or_else(|| {
        Error::new(
            Code::InvalidConfig,
            "prevResult: CHECK needs the result of ADD",
        )
    })?;
    let attachment = call.attachment();
    let record = call.store().peek()?.get(&attachment);
    let record = record.ok_or_else(|| {
        let id = &attachment.container_id;
        let message = format!(
            "nothing is known of container {id} and its interface {}",
            attachment.ifname
        );
        Error::new(Code::UnknownContainer, message)
    })?;
    let mut missing = missing_addresses(&record, previous, &attachment.ifname);
    let mut dataplane = Dataplane::open()?;
    if !record.chained {
        missing.extend(missing_parts(call, &mut dataplane, &record, previous)?);
    }
    missing.extend(dataplane.missing_rules(&wanted_rules(&record, &call.masquerade_exceptions()))?);
    let shaper = wiring::shaper_name(&attachment.container_id, &attachment.ifname);
    missing.extend(dataplane.missing_limits(&record.host_interface, &record.bandwidth, &shaper)?);
    if !missing.is_empty() {
        let message = format!(
            "container {} is not as ADD left it",
            attachment.container_id
        );
        let details = format!("missing: {}", missing.join("; "));
        return Err(Error::new(Code::CheckFailed, message).with_details(details));
    }
    match (&call.config.ipam, record.chained) {
        (Ipam::Delegate(plugin), false) => {
            delegate::run(plugin, "CHECK", call.environment, &call.config.raw).map(drop)
        }
        _ => Ok(()),
    }
}

/// The addresses of the result that are not those of the record.
fn missing_addresses(record: &Record, previous: &CniResult, ifname: &str) -> Vec<String> {
    let index = previous.sandbox_interface(ifname);
    let belongs = |ip: &&Ip| ip.interface.is_none() || ip.interface == index;
    let told: Vec<IpAddr> = previous
        .ips
        .iter()
        .filter(belongs)
        .map(|ip| ip.address.ip())
        .collect();
    let lost = told
        .iter()
        .filter(|address| !record.addresses.contains(address));
    lost.map(|address| format!("the reservation of {address}"))
        .collect()
}

fn missing_parts(
    call: &Call<'_>,
    dataplane: &mut Dataplane,
    record: &Record,
    previous: &CniResult,
) -> Result<Vec<String>, Error> {
    let path = call.environment.netns.clone().unwrap_or_default();
    let Some(netns) = open_netns(&path)? else {
        return Ok(vec![format!(
            "the container's namespace {}",
            path.display()
        )]);
    };
    let mtu = match call.config.mtu {
        Some(mtu) => mtu,
        None => told_mtu(call, previous).map_or_else(|| dataplane.default_mtu(), Ok)?,
    };
    let pair = pair(
        call,
        record.addresses.clone(),
        mtu,
        call.config.routes.clone(),
    );
    dataplane.missing_parts(&pair, &netns)
}

fn told_mtu(call: &Call<'_>, previous: &CniResult) -> Option<u32> {
    let index = previous.sandbox_interface(&call.environment.ifname)?;
    previous.interfaces.get(index)?.mtu
}
