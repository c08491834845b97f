//! The iptables backend: chains as a user of kube-proxy knows them.
//!
//! `nat`: `KUBE-SERVICES` finds the front end and jumps to `KUBE-SVC-*` (or `KUBE-SVL-*` for
//! the local policy, `KUBE-EXT-*` and `KUBE-FW-*` for traffic from outside), which chooses a
//! back end's `KUBE-SEP-*`, which translates. `KUBE-MARK-MASQ` marks, `KUBE-POSTROUTING`
//! masquerades what is marked. `filter`: rejects what nobody serves.
//!
//! [`rules`] says what one Service adds. [`plan`] makes from it the input of one
//! `iptables-restore --noflush`: only chains that changed are written, and rules of the shared
//! chains are inserted and deleted one by one.

mod backend;
mod base;
mod names;
mod plan;
mod rules;

pub(crate) use backend::IptablesBackend;

use crate::model::Protocol;

/// Marks what does not come from any of the cluster's ranges, where there are several.
pub(crate) const OFF_CLUSTER: &str = "KUBE-MARK-OFF-CLUSTER";

/// How a refusal is told. To an ICMP error in the middle of connecting, Linux clients over
/// IPv6 react only at their next attempt, a second later; to a reset at once.
pub(crate) fn reject(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => " --reject-with tcp-reset",
        Protocol::Udp | Protocol::Sctp => "",
    }
}
