//! STATUS: whether an ADD would work now.

use std::path::Path;
use std::time::Duration;

use super::Call;
use crate::config::Ipam;
use crate::delegate;
use crate::error::{Code, Error};
use crate::policy;
use crate::pools::{self, PoolRequest};

/// Fails with code 50 when the next ADD would fail.
pub fn status(call: &Call<'_>) -> Result<(), Error> {
    if let Some(socket) = &call.config.policy_socket {
        policy::reachable(socket).map_err(|error| {
            let message = format!("the policy agent does not answer at {}", socket.display());
            Error::new(Code::NotAvailable, message).with_details(error)
        })?;
    }
    if let (Some(socket), Ipam::Own(_)) = (&call.config.pool_socket, &call.config.ipam) {
        return pools_have_addresses(call, socket);
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

/// Asks as an ADD would, until there is an address, a block to be had, or nothing.
fn pools_have_addresses(call: &Call<'_>, socket: &Path) -> Result<(), Error> {
    let not_available = |error: Error| {
        let details = error.details.unwrap_or_default();
        Error::new(Code::NotAvailable, error.message).with_details(details)
    };
    let mut request = PoolRequest {
        dry: true,
        ..PoolRequest::default()
    };
    let state = call.store().peek()?;
    loop {
        let offer = pools::ask(socket, &request, Duration::ZERO).map_err(not_available)?;
        let full = offer.full(&state);
        if full.is_subset(&request.full) {
            return Ok(());
        }
        request.full.extend(full);
    }
}
