//! DEL: takes away whatever ADD may have made, however often and in whatever order.

use std::path::Path;

use kernel::MacAddress;

use super::{Call, wanted_rules};
use crate::config::{Attachment, Ipam};
use crate::dataplane::{Dataplane, open_netns};
use crate::delegate;
use crate::error::{Error, join};
use crate::store::Record;
use crate::wiring::{self, Pair};

/// Detaches the container. What is not there is no error; all that can be done is done, and
/// then the errors are told.
pub fn del(call: &Call<'_>) -> Result<(), Error> {
    let attachment = call.attachment();
    let record = call.lock()?.state.get(&attachment).cloned();
    let mut errors = Vec::new();
    let mut attempt = |result: Result<(), Error>| errors.extend(result.err());
    attempt(dismantle(call, &attachment, record.as_ref()));
    let asked = record.as_ref().and_then(|record| record.ipam.clone());
    let configured = match &call.config.ipam {
        Ipam::Delegate(plugin) => Some(plugin.clone()),
        Ipam::Own(_) => None,
    };
    let chained = record.as_ref().is_some_and(|record| record.chained);
    if let Some(plugin) = asked.or(configured).filter(|_| !chained) {
        let run = delegate::run(&plugin, "DEL", call.environment, &call.config.raw);
        attempt(run.map(drop));
    }
    if errors.is_empty() && record.is_some() {
        // Last: an address is free when nothing uses it any more.
        let mut locked = call.lock()?;
        locked.state.remove(&attachment);
        locked.save()?;
    }
    join(errors)
}

/// Takes everything of an attachment out of the kernel.
pub(super) fn dismantle(
    call: &Call<'_>,
    attachment: &Attachment,
    record: Option<&Record>,
) -> Result<(), Error> {
    let mut dataplane = Dataplane::open()?;
    let mut errors = Vec::new();
    let name = wiring::host_interface_name(&attachment.container_id, &attachment.ifname);
    if !record.is_some_and(|record| record.chained) {
        errors.extend(dataplane.delete_link(&name).err());
        if let Some(netns) = call.environment.netns.as_deref() {
            errors.extend(delete_inside(&mut dataplane, netns, attachment, call.config.mac).err());
        }
    }
    let shaper = wiring::shaper_name(&attachment.container_id, &attachment.ifname);
    errors.extend(dataplane.delete_link(&shaper).err());
    if let Some(record) = record {
        let wanted = wanted_rules(record, &call.masquerade_exceptions());
        errors.extend(dataplane.uninstall_rules(&wanted).err());
    }
    join(errors)
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
