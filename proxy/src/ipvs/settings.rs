//! Settings of the kernel that IPVS needs for Services.

use kernel::sysctl;

use crate::config::Ipvs;

/// Setting, value, and why.
const ALWAYS: [(&str, &str); 5] = [
    // Packets that IPVS translated can be masqueraded, and filtered by their state.
    ("net/ipv4/vs/conntrack", "1"),
    // A client that uses its port again is scheduled anew, and not sent to an old back end.
    ("net/ipv4/vs/conn_reuse_mode", "1"),
    // Packets of a connection whose back end is gone are not silently lost.
    ("net/ipv4/vs/expire_nodest_conn", "1"),
    // Session affinity does not hold a client at a back end that is on its way out.
    ("net/ipv4/vs/expire_quiescent_template", "1"),
    // Virtual addresses are forwarded to pods.
    ("net/ipv4/ip_forward", "1"),
];

/// The node answers ARP only for addresses of the device that the question came in by: a load
/// balancer that announces addresses itself wants that.
const STRICT_ARP: [(&str, &str); 2] = [
    ("net/ipv4/conf/all/arp_ignore", "1"),
    ("net/ipv4/conf/all/arp_announce", "2"),
];

/// Writes what differs. Settings that this kernel does not have are left out.
pub(crate) fn ensure(config: &Ipvs) -> Result<(), sysctl::Error> {
    let strict: &[_] = if config.strict_arp { &STRICT_ARP } else { &[] };
    for (name, value) in ALWAYS.iter().chain(strict) {
        match sysctl::ensure(name, value) {
            Err(error) if error.is_not_found() => {
                tracing::debug!(name, "this kernel does not have the setting");
            }
            other => {
                other?;
            }
        }
    }
    Ok(())
}
