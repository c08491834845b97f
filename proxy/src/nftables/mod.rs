//! The nftables backend: verdict maps and sets with constant-time lookup, written by netlink.
//!
//! A table `fairlead-proxy` per family. A packet's way when a connection begins:
//!
//! 1. `service-ips` (address, protocol, port) or, for the node's own addresses,
//!    `service-nodeports` gives a chain by how the front end is to be treated and how many
//!    back ends it has: `cluster-ip-2`, `external-3`, `nodeport-local-4-1`. These chains are
//!    the same for all Services.
//! 2. There the packet is marked for masquerading if need be, and translated by one lookup in
//!    `endpoints` with a random number below the number of back ends as part of the key.
//! 3. Services with session affinity have chains of their own instead, with a set for each
//!    back end that remembers its clients.
//! 4. What nobody translated is looked up in `unserved-ips` and `unserved-nodeports`, and
//!    rejected if it goes to a Service's address.
//!
//! So a Service without affinity is nothing but elements: the number of chains and rules does
//! not depend on the number of Services, and a changed Service is a handful of elements.
//!
//! [`content`] says what one Service adds, [`layout`] what is there once, [`plan`] makes
//! transactions of both, from the state last committed: nothing is listed to write.

mod affinity;
mod backend;
mod content;
mod layout;
mod plan;
mod verify;

pub(crate) use backend::NftablesBackend;
pub(crate) use layout::Translation;
