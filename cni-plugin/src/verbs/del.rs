//! DEL: takes away whatever ADD may have made, however often and in whatever order.

use std::path::Path;

use kernel::{Ifindex, MacAddress};

use super::{Call, wanted_rules};
use crate::config::{Attachment, Ipam};
use crate::dataplane::{Dataplane, open_netns};
use crate::delegate;
use crate::error::{Error, join};
use crate::flows::{self, Mapping};
use crate::store::Record;
use crate::wiring::{self, Pair};

/// What is left to do when the answer is given: the kernel takes its time to forget an
/// interface, and nobody has to wait for that. Nothing passes it any more, and its address
/// and name are free.
pub struct Deferred {
    dataplane: Dataplane,
    /// By number: an ADD that comes before this is done gives the same names to other ones.
    links: Vec<Ifindex>,
}

impl Deferred {
    /// Deletes the interfaces.
    pub fn run(mut self) -> Result<(), Error> {
        join(
            self.links
                .iter()
                .filter_map(|index| self.dataplane.delete_link(*index).err())
                .collect(),
        )
    }

    /// The same in a process of its own, or here where there can be none.
    pub fn detach(mut self) -> std::io::Result<()> {
        kernel::process::detach(|| {
            for index in &self.links {
                // What fails is found by the next DEL or GC, or goes with the container.
                let _ = self.dataplane.delete_link(*index);
            }
        })
    }
}

/// Detaches the container. What is not there is no error; all that can be done is done, and
/// then the errors are told.
pub fn del(call: &Call<'_>) -> Result<Deferred, Error> {
    let attachment = call.attachment();
    let seen = call.lock()?.release();
    let record = seen.state.get(&attachment);
    let (deferred, mut errors) = dismantle(call, &attachment, record.as_ref())?;
    let asked = record.as_ref().and_then(|record| record.ipam.clone());
    let configured = match &call.config.ipam {
        Ipam::Delegate(plugin) => Some(plugin.clone()),
        Ipam::Own(_) => None,
    };
    let chained = record.as_ref().is_some_and(|record| record.chained);
    if let Some(plugin) = asked.or(configured).filter(|_| !chained) {
        let run = delegate::run(&plugin, "DEL", call.environment, &call.config.raw);
        errors.extend(run.err());
    }
    if errors.is_empty() && record.is_some() {
        // Last: an address is free when nothing uses it any more.
        let mut locked = call.lock_again(seen)?;
        locked.state.remove(&attachment);
        locked.save()?;
    }
    join(errors).map(|()| deferred)
}

/// Takes everything of an attachment out of the kernel; its interfaces are down, and remain
/// to be deleted. Comes with what failed.
pub(super) fn dismantle(
    call: &Call<'_>,
    attachment: &Attachment,
    record: Option<&Record>,
) -> Result<(Deferred, Vec<Error>), Error> {
    let mut dataplane = Dataplane::open()?;
    let mut errors = Vec::new();
    let mut links = Vec::new();
    let name = wiring::host_interface_name(&attachment.container_id, &attachment.ifname);
    if !record.is_some_and(|record| record.chained) {
        match dataplane.retire_link(&name) {
            Ok(Some(index)) => links.push(index),
            Ok(None) => {
                if let Some(netns) = call.environment.netns.as_deref() {
                    let mac = call.config.mac;
                    errors.extend(delete_inside(&mut dataplane, netns, attachment, mac).err());
                }
            }
            Err(error) => errors.push(error),
        }
    }
    let shaper = wiring::shaper_name(&attachment.container_id, &attachment.ifname);
    match dataplane.retire_link(&shaper) {
        Ok(Some(index)) => links.push(index),
        Ok(None) => {}
        Err(error) => errors.push(error),
    }
    if let Some(record) = record {
        let wanted = wanted_rules(record, &call.masquerade_exceptions());
        errors.extend(dataplane.uninstall_rules(&wanted).err());
        flows::forget(&mut dataplane, &wanted, Mapping::Gone);
    }
    Ok((Deferred { dataplane, links }, errors))
}

fn delete_inside(
    dataplane: &mut Dataplane,
    netns: &Path,
    attachment: &Attachment,
    mac: Option<MacAddress>,
) -> Result<(), Error> {
    let Some(netns) = open_netns(netns)? else {
        return Ok(());
    };
    let (_, own) = Pair::macs(&attachment.container_id, &attachment.ifname);
    dataplane.delete_inside(&netns, &attachment.ifname, mac.unwrap_or(own))
}
