//! The operations of the protocol.

mod add;
mod check;
mod del;
mod gc;
mod status;

pub use add::{add, choose};
pub use check::check;
pub use del::{Deferred, del};
pub use gc::gc;
pub use status::status;

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::config::{Attachment, Config, Ipam};
use crate::dataplane::Dataplane;
use crate::environment::Environment;
use crate::error::Error;
use crate::rules::Wanted;
use crate::store::{Locked, Record, Seen, Store};
use crate::wiring::{self, Pair};

/// One invocation.
pub struct Call<'a> {
    pub environment: &'a Environment,
    pub config: &'a Config,
}

impl Call<'_> {
    fn attachment(&self) -> Attachment {
        Attachment {
            container_id: self.environment.container_id.clone(),
            ifname: self.environment.ifname.clone(),
        }
    }

    fn store(&self) -> Store {
        Store::new(&self.config.data_dir, &self.config.name)
    }

    fn lock(&self) -> Result<Locked, Error> {
        lock(&self.store(), &self.config.name, None)
    }

    /// Takes a lock again that was given up.
    fn lock_again(&self, seen: Seen) -> Result<Locked, Error> {
        lock(&self.store(), &self.config.name, Some(seen))
    }

    /// The ranges of the network; what is not to be masqueraded towards.
    fn masquerade_exceptions(&self) -> Vec<IpNetwork> {
        let mut exceptions = self.config.masquerade_exceptions.clone();
        if let Ipam::Own(sets) = &self.config.ipam {
            exceptions.extend(
                sets.iter()
                    .flat_map(|set| set.ranges())
                    .map(|range| range.subnet()),
            );
        }
        exceptions
    }
}

/// Takes the lock of a network's state. One that was lost is found again in the kernel first.
pub fn lock(store: &Store, network: &str, seen: Option<Seen>) -> Result<Locked, Error> {
    let mut locked = store.lock(seen)?;
    if let Some(reason) = locked.corrupt.take() {
        eprintln!(
            "fairlead-cni: the state of network {network} is damaged ({reason}); it is completed from the interfaces"
        );
        recover(&mut locked, network)?;
        locked.save()?;
    } else if std::mem::take(&mut locked.fresh) {
        // Somebody may have deleted the directory.
        recover(&mut locked, network)?;
    }
    Ok(locked)
}

/// What an interface says about itself.
pub fn alias(network: &str, attachment: &Attachment) -> String {
    format!(
        "fairlead-cni {network} {} {}",
        attachment.container_id, attachment.ifname
    )
}

fn parse_alias(alias: &str, network: &str) -> Option<Attachment> {
    let mut words = alias.split(' ');
    let ours = words.next() == Some("fairlead-cni") && words.next() == Some(network);
    let (container_id, ifname) = (words.next()?, words.next()?);
    let attachment = Attachment {
        container_id: container_id.to_owned(),
        ifname: ifname.to_owned(),
    };
    (ours && words.next().is_none()).then_some(attachment)
}

/// Adds to the state what is really there: interfaces that carry our mark, with the addresses
/// that our routes lead to.
fn recover(locked: &mut Locked, network: &str) -> Result<(), Error> {
    let mut dataplane = Dataplane::open()?;
    for link in dataplane.marked_links()? {
        let alias = link.alias.as_deref().unwrap_or_default();
        let Some(attachment) = parse_alias(alias, network) else {
            continue;
        };
        if locked.state.contains(&attachment) {
            continue;
        }
        let addresses = dataplane.routed_addresses(link.index)?;
        locked.state.insert(&Record {
            host_interface: link.name,
            ..Record::found(attachment, addresses)
        });
    }
    Ok(())
}

/// The rules that a record needs.
fn wanted_rules(record: &Record, exceptions: &[IpNetwork]) -> Wanted {
    Wanted {
        interface: record.host_interface.clone(),
        addresses: record.addresses.clone(),
        ports: record.ports.clone(),
        antispoof: !record.chained,
        masquerade: record.masquerade.then(|| exceptions.to_vec()),
    }
}

/// The pair of an attachment, as it is or has to be.
fn pair(
    call: &Call<'_>,
    addresses: Vec<IpAddr>,
    mtu: u32,
    routes: Vec<crate::result::Route>,
) -> Pair {
    let attachment = call.attachment();
    let (host_mac, pod_mac) = Pair::macs(&attachment.container_id, &attachment.ifname);
    Pair {
        host_name: wiring::host_interface_name(&attachment.container_id, &attachment.ifname),
        host_mac,
        pod_name: attachment.ifname.clone(),
        pod_mac: call.config.mac.unwrap_or(pod_mac),
        mtu,
        addresses,
        routes,
        alias: alias(&call.config.name, &attachment),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_names_its_attachment_and_no_other_network() {
        let attachment = Attachment {
            container_id: "abc".into(),
            ifname: "eth0".into(),
        };
        let text = alias("net", &attachment);
        assert_eq!(parse_alias(&text, "net"), Some(attachment));
        assert_eq!(parse_alias(&text, "other"), None);
        for text in [
            "",
            "fairlead-cni net abc",
            "fairlead-cni net abc eth0 more",
            "mine",
        ] {
            assert_eq!(parse_alias(text, "net"), None, "{text}");
        }
    }
}
