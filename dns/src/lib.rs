//! Cluster DNS: names of Services and pods, answered in every node's own process.
//!
//! A query's walk: [`server`] decodes it (hickory) → [`zone::answer`] decides from the watch
//! caches behind [`zone::Directory`] (pure) → what is not the cluster's goes to the node's own
//! resolvers ([`forward`]). [`publish`] keeps one EndpointSlice per node behind the Service
//! `kube-system/kube-dns`, with a hint that makes every node ask itself first.
//!
//! Source: "Kubernetes DNS-Based Service Discovery", schema version 1.1.0.

mod directory;
mod forward;
mod publish;
mod server;
mod tell;
pub mod zone;

use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use watch_cache::WatchCaches;

pub use directory::CachedDirectory;
pub use tell::Answered;

#[derive(Debug, Clone)]
pub struct Config {
    /// Names the EndpointSlice, and the node that prefers this server.
    pub node_name: String,
    /// The node's own addresses, on which the server listens.
    pub addresses: Vec<IpAddr>,
    pub port: u16,
    pub cluster_domain: String,
    /// Pod and Service ranges: reverse queries about them never leave the cluster.
    pub cluster_ranges: Vec<IpNetwork>,
    /// Who is asked about other names; read from `resolv_conf` if empty.
    pub upstreams: Vec<IpAddr>,
    pub resolv_conf: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            addresses: Vec::new(),
            port: 53,
            cluster_domain: "cluster.local".to_owned(),
            cluster_ranges: Vec::new(),
            upstreams: Vec::new(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
        }
    }
}

pub struct Deps {
    pub client: kube::Client,
    pub caches: WatchCaches,
    /// Who has to know the addresses of a name before the client does: what enforces policies that
    /// name domains.
    pub listener: Option<mpsc::Sender<Answered>>,
}

/// Faults that an operator has to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "dns: cannot listen on {address}: {source}; end the resolver that holds the port or bind it to another address"
    )]
    Listen {
        address: std::net::SocketAddr,
        source: std::io::Error,
    },
    #[error("dns: the cluster domain {domain:?} is not a domain name: {reason}")]
    Domain { domain: String, reason: String },
    #[error("dns: the resolvers for other names cannot be set up: {reason}")]
    Upstreams { reason: String },
}

/// Serves until `shutdown`.
pub async fn run(config: Config, deps: Deps, shutdown: CancellationToken) -> Result<(), Error> {
    let directory = CachedDirectory::new(&deps.caches);
    let sockets = server::Sockets::bind(&config).await?;
    let handler = server::Handler::new(&config, directory.clone(), deps.listener.clone())?;
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        () = directory.synced() => {}
    }
    let publishing = publish::keep_published(&config, &deps, shutdown.clone());
    let serving = sockets.serve(handler, shutdown.clone());
    tokio::join!(publishing, serving);
    Ok(())
}
