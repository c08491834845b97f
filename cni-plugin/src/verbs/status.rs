//! STATUS: whether an ADD would work now.

use super::Call;
use crate::config::Ipam;
use crate::delegate;
use crate::error::{Code, Error};
use crate::policy;

/// Fails with code 50 when the next ADD would fail.
pub fn status(call: &Call<'_>) -> Result<(), Error> {
    if let Some(socket) = &call.config.policy_socket {
        policy::reachable(socket).map_err(|error| {
            let message = format!("the policy agent does not answer at {}", socket.display());
            Error::new(Code::NotAvailable, message).with_details(error)
        })?;
    }
    match &call.config.ipam {
        Ipam::Delegate(plugin) => {
            delegate::run(plugin, "STATUS", call.environment, &call.config.raw).map(drop)
        }
        Ipam::Own(sets) if sets.is_empty() => Err(Error::new(
            Code::NotAvailable,
            "ipam.ranges: there is no range of addresses",
        )),
        Ipam::Own(sets) => {
            let used = call.store().peek()?.used();
            let full = sets.iter().find(|set| {
                let (taken, capacity) = set.usage(&used);
                taken >= capacity
            });
            match full {
                Some(set) => Err(Error::new(
                    Code::NotAvailable,
                    set.exhausted(&used).to_string(),
                )),
                None => Ok(()),
            }
        }
    }
}
