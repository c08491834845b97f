//! What an operator decides about the controllers.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnetwork::IpNetwork;

/// The name of the Lease and of the event source that stand for all controllers.
pub const LEASE_NAME: &str = "kube-controller-manager";

/// A list entry that names no controller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no controller: the names are {names}", names = crate::registry::names().join(", "))]
pub struct UnknownController(pub String);

/// Which controllers run, as kube-controller-manager's `--controllers` says it: `*` for all
/// that are on by default, `name` for one more, `-name` for one less.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    all: bool,
    with: BTreeSet<&'static str>,
    without: BTreeSet<&'static str>,
}

impl Default for Selection {
    fn default() -> Self {
        Self {
            all: true,
            with: BTreeSet::new(),
            without: BTreeSet::new(),
        }
    }
}

impl Selection {
    /// Reads a list, with commas between names or as several items.
    pub fn parse<'a>(items: impl IntoIterator<Item = &'a str>) -> Result<Self, UnknownController> {
        let mut selection = Self {
            all: false,
            with: BTreeSet::new(),
            without: BTreeSet::new(),
        };
        for item in items
            .into_iter()
            .flat_map(|list| list.split(','))
            .map(str::trim)
        {
            let resolve = |name: &str| {
                crate::registry::canonical(name).ok_or_else(|| UnknownController(name.to_owned()))
            };
            match item {
                "" => {}
                "*" => selection.all = true,
                _ => match item.strip_prefix('-') {
                    Some(name) => drop(selection.without.insert(resolve(name)?)),
                    None => drop(selection.with.insert(resolve(item)?)),
                },
            }
        }
        Ok(selection)
    }

    /// Whether the controller with this name runs.
    pub fn enables(&self, name: &str, on_by_default: bool) -> bool {
        !self.without.contains(name) && (self.with.contains(name) || (self.all && on_by_default))
    }
}

/// The key pair that signs certificate requests.
#[derive(Clone)]
pub struct Signer {
    pub ca_cert_pem: String,
    pub ca_key_pem: String,
    /// The longest validity that is given.
    pub validity: Duration,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}

/// How node failures are noticed and answered.
#[derive(Debug, Clone)]
pub struct NodeHealth {
    /// A node whose Lease and status stand still for this long is not ready.
    pub grace_period: Duration,
    /// A new node has this long until its first sign of life.
    pub startup_grace_period: Duration,
    /// Nodes per second whose pods are evicted, in a healthy zone.
    pub eviction_rate: f64,
    /// The same in a zone where many nodes fail, if the cluster is large.
    pub secondary_eviction_rate: f64,
    /// A cluster with more nodes than this is large.
    pub large_cluster: usize,
    /// The share of nodes that fail together in a zone that is partly down.
    pub unhealthy_zone_threshold: f64,
}

impl Default for NodeHealth {
    fn default() -> Self {
        Self {
            grace_period: Duration::from_secs(40),
            startup_grace_period: Duration::from_secs(60),
            eviction_rate: 0.1,
            secondary_eviction_rate: 0.01,
            large_cluster: 50,
            unhealthy_zone_threshold: 0.55,
        }
    }
}

/// The configuration of all controllers.
#[derive(Debug, Clone)]
pub struct Config {
    pub controllers: Selection,
    /// Whether to act only while holding the Lease.
    pub leader_elect: bool,
    /// Who this process is in the election. A server that restarts with the same identity
    /// goes on at once; two processes must never share one.
    pub identity: String,
    /// The ranges that pod addresses come from, at most one for each family.
    pub cluster_cidrs: Vec<IpNetwork>,
    /// The prefix length of a node's IPv4 range.
    pub node_cidr_mask_v4: u8,
    /// The prefix length of a node's IPv6 range.
    pub node_cidr_mask_v6: u8,
    /// The ranges of Service addresses; a node's range never overlaps them.
    pub service_cidrs: Vec<IpNetwork>,
    /// What pods trust the API server by: `ca.crt` of `kube-root-ca.crt`. Empty: not published.
    pub root_ca_pem: String,
    /// Signs certificate requests; without it they stay unsigned.
    pub signer: Option<Signer>,
    pub node_health: NodeHealth,
    /// Ended pods beyond this number are deleted, oldest first; 0 for no limit.
    pub terminated_pod_threshold: usize,
    /// Syncs of one controller at the same time.
    pub workers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            controllers: Selection::default(),
            leader_elect: true,
            identity: format!("fairlead_{}", uuid::Uuid::new_v4()),
            cluster_cidrs: Vec::new(),
            node_cidr_mask_v4: 24,
            node_cidr_mask_v6: 64,
            service_cidrs: Vec::new(),
            root_ca_pem: String::new(),
            signer: None,
            node_health: NodeHealth::default(),
            terminated_pod_threshold: 12_500,
            workers: 5,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_list_selects_as_kube_controller_manager_does() {
        let cases = [
            ("*", "deployment-controller", true, true),
            ("*", "bootstrap-signer-controller", false, false),
            ("*,-deployment", "deployment-controller", true, false),
            (
                "*,-deployment-controller",
                "replicaset-controller",
                true,
                true,
            ),
            ("deployment", "deployment-controller", true, true),
            ("deployment", "replicaset-controller", true, false),
            ("-deployment,*", "deployment-controller", true, false),
            ("", "deployment-controller", true, false),
        ];
        for (list, name, on_by_default, expect) in cases {
            let selection = Selection::parse([list]).expect("known names");
            assert_eq!(
                selection.enables(name, on_by_default),
                expect,
                "{list} {name}"
            );
        }
        assert_eq!(
            Selection::parse(["*,nope"]),
            Err(UnknownController("nope".to_owned()))
        );
    }
}
