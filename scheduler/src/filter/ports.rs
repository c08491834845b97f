//! Ports of the node's addresses that pods take.

use super::{Plugin, Rejection};
use crate::pod::{HostPort, PodInfo};
use crate::state::NodeInfo;

const ANY: &str = "0.0.0.0";

pub(super) fn filter(pod: &PodInfo, info: &NodeInfo) -> Result<(), Rejection> {
    let taken = pod.host_ports.iter().any(|wanted| conflicts(wanted, info));
    if !taken {
        return Ok(());
    }
    Err(Rejection::new(
        Plugin::NodePorts,
        "node(s) didn't have free ports for the requested pod ports",
        true,
    ))
}

fn conflicts((protocol, address, number): &HostPort, info: &NodeInfo) -> bool {
    info.host_ports
        .iter()
        .any(|(other_protocol, other_address, other_number)| {
            number == other_number
                && protocol == other_protocol
                && (address == other_address || address == ANY || other_address == ANY)
        })
}
