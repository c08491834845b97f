//! What a node needs for its pods in either mode: the configuration that the container
//! runtime reads, forwarding, and masquerading of what leaves the pod network.

mod accept;
mod conflist;
mod keep;
mod masquerade;
pub mod transition;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use kernel::nftables::{self, Connection};
use kernel::sysctl;

pub use crate::config::Pools;
pub use accept::Accept;
pub use conflist::{NETWORK, conflist};
pub use keep::{Routed, keep};
pub use masquerade::{Masquerade, TABLE as MASQUERADE_TABLE};

/// The node's part in the pod network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeNetwork {
    /// The ranges of the node's pods.
    pub pod_networks: Vec<IpNetwork>,
    /// Those that the plugin knows without asking.
    pub own_ranges: Vec<IpNetwork>,
    /// Where it asks for others.
    pub pool_socket: Option<PathBuf>,
    pub mtu: u32,
    /// Nothing when pods keep their addresses everywhere.
    pub masquerade: Option<Masquerade>,
    /// The agent that a pod's policy comes from; the CNI plugin waits for it.
    pub policy_socket: Option<PathBuf>,
    pub conflist: PathBuf,
    /// The interfaces to other nodes.
    pub underlay: Vec<String>,
}

/// Part of the node's network could not be set up; everything is tried again later.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot let the node forward packets: {0}")]
    Forwarding(#[from] sysctl::Error),
    #[error("cannot write the masquerading rules: {0}")]
    Masquerade(#[from] nftables::Error),
}

/// What [`NodeNetwork::apply`] had to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changes {
    pub conflist: bool,
    pub masquerade: bool,
    pub forwarding: bool,
}

impl NodeNetwork {
    /// Makes everything so; what is so already is not touched. The configuration of the
    /// runtime comes last: it says that pods can be started.
    pub fn apply(&self) -> Result<Changes, Error> {
        let forwarding = self.forward()?;
        let masquerade = match &self.masquerade {
            Some(masquerade) => masquerade.apply(&mut Connection::open()?)?,
            None => masquerade::remove(&mut Connection::open()?)?,
        };
        let text = conflist(self);
        let conflist = write_if_changed(&self.conflist, text.as_bytes())?;
        Ok(Changes {
            conflist,
            masquerade,
            forwarding,
        })
    }

    fn forward(&self) -> Result<bool, Error> {
        let mut changed = false;
        if self.pod_networks.iter().any(IpNetwork::is_ipv4) {
            changed |= sysctl::ensure("net/ipv4/ip_forward", "1")?;
        }
        if self.pod_networks.iter().any(IpNetwork::is_ipv6) {
            // A router ignores what other routers announce, unless it is told not to: the
            // node would lose its own default route.
            for interface in &self.underlay {
                let name = format!("net/ipv6/conf/{interface}/accept_ra");
                if sysctl::read(&name).is_ok_and(|value| value == "1") {
                    sysctl::write(&name, "2")?;
                }
            }
            changed |= sysctl::ensure("net/ipv6/conf/all/forwarding", "1")?;
        }
        Ok(changed)
    }
}

/// Everything that pods have addresses of: the cluster's ranges and those of pools.
pub(crate) fn with_pools(cluster: &[IpNetwork], pools: Option<&Pools>) -> Vec<IpNetwork> {
    let mut all = cluster.to_vec();
    if let Some(pools) = pools {
        let ranges = pools.ranges.borrow();
        all.extend(ranges.all.iter().filter(|range| !cluster.contains(range)));
    }
    all
}

/// Replaces the file as a whole; readers see the old or the new one. `true` when it differed.
pub fn write_if_changed(path: &Path, content: &[u8]) -> Result<bool, Error> {
    if std::fs::read(path).is_ok_and(|there| there == content) {
        return Ok(false);
    }
    let write = || -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(directory)?;
        // The runtime reads every *.conflist of the directory: this is none.
        let new = path.with_extension("new");
        let mut file = std::fs::File::create(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    write().map_err(|source| Error::Write {
        path: path.to_owned(),
        source,
    })?;
    Ok(true)
}
