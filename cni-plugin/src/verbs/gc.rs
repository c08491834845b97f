//! GC: takes away every attachment of the network that the runtime does not name.

use std::collections::BTreeSet;

use super::{Call, del, parse_alias};
use crate::config::{Attachment, Ipam};
use crate::dataplane::Dataplane;
use crate::delegate;
use crate::error::{Code, Error, join};

/// Goes on after an error and tells all of them at the end.
pub fn gc(call: &Call<'_>) -> Result<(), Error> {
    let valid = call.config.valid_attachments.as_ref().ok_or_else(|| {
        // Without the list everything would look unwanted.
        Error::new(Code::InvalidConfig, "cni.dev/valid-attachments is missing")
    })?;
    let valid: BTreeSet<&Attachment> = valid.iter().collect();
    let mut errors = Vec::new();
    for stale in known(call)?
        .iter()
        .filter(|attachment| !valid.contains(attachment))
    {
        errors.extend(remove(call, stale).err());
    }
    if let Ipam::Delegate(plugin) = &call.config.ipam {
        let run = delegate::run(plugin, "GC", call.environment, &call.config.raw);
        errors.extend(run.err());
    }
    join(errors)
}

/// What the state or an interface speaks of.
fn known(call: &Call<'_>) -> Result<BTreeSet<Attachment>, Error> {
    let state = &call.lock()?.state;
    let mut known: BTreeSet<Attachment> = state.attachments().collect();
    for link in Dataplane::open()?.marked_links()? {
        known.extend(parse_alias(
            link.alias.as_deref().unwrap_or_default(),
            &call.config.name,
        ));
    }
    Ok(known)
}

fn remove(call: &Call<'_>, attachment: &Attachment) -> Result<(), Error> {
    let record = call.lock()?.state.get(attachment);
    let (deferred, mut errors) = del::dismantle(call, attachment, record.as_ref())?;
    errors.extend(deferred.run().err());
    join(errors)?;
    let mut locked = call.lock()?;
    locked.state.remove(attachment);
    locked.save()
}
