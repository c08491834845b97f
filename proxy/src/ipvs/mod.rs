//! The IPVS backend: a virtual server for each front end, back ends as its real servers.
//!
//! A packet's way when a connection begins: every virtual address is an address of the
//! device `kube-ipvs0`, so the packet is delivered to the node itself, where IPVS takes it,
//! chooses by the Service's scheduler and translates. A small nftables table (`fairlead-ipvs`,
//! the nftables backend with [`Translation::Ipvs`](crate::nftables::Translation)) marks and
//! masquerades, filters source ranges, refuses what nobody serves, keeps host ports from being
//! reached by virtual addresses, and serves what begins in the cluster and goes to a front end
//! whose external policy is Local.
//!
//! A back end that is gone gets weight 0: its connections end by themselves, and it is removed
//! when it has none left or the deadline has passed.

mod backend;
mod device;
mod drain;
mod plan;
mod settings;

pub(crate) use backend::IpvsBackend;

/// Whether IPVS is in use on this machine. Asking IPVS itself would load its module.
pub(crate) fn is_used() -> bool {
    std::path::Path::new("/proc/net/ip_vs").exists()
}
