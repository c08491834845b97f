//! The only place where Fairlead touches the kernel.
//!
//! Everything goes through [`netlink::Socket`], which blocks and needs no async runtime: the
//! CNI plugin uses the same code as the node's process. A module per kind of object gives
//!
//! * plain ordered types ([`route::Route`], [`neighbour::Neighbour`], ...), which planners use;
//! * pure functions from such a value to a [`netlink::Request`] (`create`, `replace`, `delete`);
//! * thin functions that read the kernel's state (`list`, `get`).
//!
//! Requests are sent with [`netlink::Socket::execute`] (one) or [`netlink::Socket::batch`]
//! (many in one system call, each with its own result). A socket belongs to the network
//! namespace in which it was opened: [`netns::Netns::socket`] opens one elsewhere.
//!
//! **Invariant:** no other crate of the workspace has `unsafe` code or opens netlink sockets.

pub mod address;
pub mod arp;
pub mod conntrack;
pub mod ethtool;
pub mod flight;
pub mod icmp;
pub mod iptables;
pub mod ipvs;
pub mod link;
pub mod mac;
pub mod memory;
pub mod monitor;
pub mod neighbour;
pub mod netlink;
pub mod netns;
pub mod nflog;
pub mod nftables;
pub mod process;
pub mod qdisc;
pub mod route;
pub mod rule;
pub mod sockopt;
pub mod sysctl;
pub mod testing;

pub use link::Ifindex;
pub use mac::MacAddress;

/// What the names of the host sides of pods' interfaces start with. No other program's devices
/// do (Flannel's start with `flannel`).
pub const POD_INTERFACE_PREFIX: &str = "fld";
