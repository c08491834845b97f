//! Pools of pod addresses: their agent, joined with the plugin's memory of addresses.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use cni_plugin::pools::Memory;
use flannel_vxlan::node_network::{NETWORK, Pools};
use ip_pools::LocalAddresses;
use ipnetwork::IpNetwork;
use tokio_util::sync::CancellationToken;
use watch_cache::WatchCaches;

struct Plugin(Memory);

impl LocalAddresses for Plugin {
    fn used(&self) -> io::Result<BTreeSet<IpAddr>> {
        self.0.used().map_err(io::Error::other)
    }

    fn withdraw(&self, network: IpNetwork) -> io::Result<bool> {
        self.0.withdraw(network).map_err(io::Error::other)
    }

    fn admit(&self, network: IpNetwork) -> io::Result<()> {
        self.0.admit(network).map_err(io::Error::other)
    }

    fn withdrawn(&self) -> io::Result<BTreeSet<IpNetwork>> {
        self.0.withdrawn().map_err(io::Error::other)
    }
}

/// What the network modes need to know of pools.
pub(crate) fn followed(caches: &WatchCaches, shutdown: CancellationToken) -> Pools {
    Pools {
        socket: ip_pools::SOCKET.into(),
        ranges: ip_pools::ranges(caches, shutdown),
    }
}

/// Runs the node's agent.
pub(crate) fn run(
    node: &str,
    caches: WatchCaches,
    shutdown: CancellationToken,
) -> impl Future<Output = Result<(), ip_pools::driver::Error>> + Send + use<> {
    let config = ip_pools::Config {
        node_name: node.to_owned(),
        ..ip_pools::Config::default()
    };
    let memory = Memory {
        data_dir: PathBuf::from(cni_plugin::config::DEFAULT_DATA_DIR),
        network: NETWORK.to_owned(),
    };
    let deps = ip_pools::Deps {
        caches,
        local: Arc::new(Plugin(memory)),
    };
    ip_pools::run(config, deps, shutdown)
}
