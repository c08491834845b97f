//! Node IPAM: every node gets a range of pod addresses of each family, and no two the same.
//!
//! The nodes themselves are the record: what is taken is what nodes have, plus what this
//! process has just given and the cache does not show yet. So a restart cannot forget.

mod plan;

use std::collections::{BTreeMap, BTreeSet};

use ip_pools::resources::IpPool;
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use parking_lot::Mutex;
use serde_json::json;
use watch_cache::WatchCache;

use crate::Config;
use crate::framework::{Context, Error, EventType, Outcome, Reconciler, Tolerate, act};
use plan::Pool;

const NAME: &str = "node-ipam-controller";

/// Checks the configured ranges.
pub(crate) fn pools(config: &Config) -> Result<Vec<Pool>, crate::Error> {
    let mut pools: Vec<Pool> = Vec::new();
    for cidr in &config.cluster_cidrs {
        let prefix = match cidr {
            IpNetwork::V4(_) => config.node_cidr_mask_v4,
            IpNetwork::V6(_) => config.node_cidr_mask_v6,
        };
        let fault = |reason| crate::Error::ClusterCidr {
            cidr: cidr.to_string(),
            reason,
        };
        if pools
            .iter()
            .any(|pool| pool.cidr.is_ipv4() == cidr.is_ipv4())
        {
            return Err(fault("there is another one of its family"));
        }
        let pool = Pool::new(*cidr, prefix, config.service_cidrs.clone());
        pools.push(pool.ok_or_else(|| fault("it is smaller than a node's range"))?);
    }
    Ok(pools)
}

/// Starts the controller, if there are ranges to give from.
pub(crate) fn start(context: &Context) {
    let pools = match pools(&context.config) {
        Ok(pools) if !pools.is_empty() => pools,
        _ => return,
    };
    let nodes = context.caches.of::<Node>();
    let controller = Controller {
        context: context.clone(),
        nodes: nodes.clone(),
        pools,
        given: Mutex::default(),
    };
    // One worker: two nodes at once could be given the same range.
    context
        .controller(NAME)
        .watch(&nodes, |change| [change.key().name])
        .run(1, controller);
}

struct Controller {
    context: Context,
    nodes: WatchCache<Node>,
    pools: Vec<Pool>,
    /// Given, but not seen on the node in the cache.
    given: Mutex<BTreeMap<String, Vec<IpNetwork>>>,
}

impl Reconciler for Controller {
    type Key = String;

    async fn sync(&self, name: &String) -> Result<Outcome, Error> {
        let Some(node) = self.nodes.get("", name) else {
            self.given.lock().remove(name);
            return Ok(Outcome::Done);
        };
        if !plan::ranges(&node).is_empty() {
            self.given.lock().remove(name);
            return Ok(Outcome::Done);
        }
        if node.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        let before = self.given.lock().get(name).cloned();
        let ranges = match before {
            Some(ranges) => ranges,
            None => {
                let pools = self.ip_pools().await?;
                let Some(ranges) = self.choose(&pools) else {
                    let kind = EventType::Warning;
                    let message = format!("Node {name} status is now: CIDRNotAvailable");
                    let recorder = &self.context.recorder;
                    recorder.event(NAME, node.as_ref(), kind, "CIDRNotAvailable", message);
                    let reason = "no range is left in the cluster CIDR".to_owned();
                    let object = format!("Node {name}");
                    return Err(Error::Invalid {
                        object,
                        field: "spec.podCIDR",
                        reason,
                    });
                };
                ranges
            }
        };
        self.given.lock().insert(name.clone(), ranges.clone());
        let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        let change = json!({"spec": {"podCIDR": ranges.first(), "podCIDRs": ranges}});
        act::merge(&self.context.cluster_api::<Node>(), node.as_ref(), change)
            .await
            .unless_gone()?;
        Ok(Outcome::Done)
    }
}

impl Controller {
    /// The ranges of IPPools. A cluster that does not know the kind has none.
    async fn ip_pools(&self) -> Result<Vec<IpNetwork>, Error> {
        let api = self.context.cluster_api::<IpPool>();
        let pools = match api.list(&ListParams::default()).await {
            Ok(pools) => pools,
            // Another cluster's authorizer comes before the question whether there is the kind.
            Err(kube::Error::Api(status)) if [403, 404].contains(&status.code) => {
                return Ok(Vec::new());
            }
            Err(source) => {
                return Err(Error::Api {
                    action: "list",
                    object: "IPPools".to_owned(),
                    source: Box::new(source),
                });
            }
        };
        let ranges = pools.iter().filter_map(|pool| pool.spec.cidr.parse().ok());
        Ok(ranges.collect())
    }

    fn choose(&self, ip_pools: &[IpNetwork]) -> Option<Vec<IpNetwork>> {
        let given = self.given.lock();
        let nodes = self.nodes.list();
        let taken = nodes.iter().flat_map(|node| plan::ranges(node));
        let mut taken: BTreeSet<IpNetwork> =
            taken.chain(given.values().flatten().copied()).collect();
        let clusters: Vec<IpNetwork> = self.pools.iter().map(|pool| pool.cidr).collect();
        taken.extend(plan::left_to_blocks(ip_pools, &clusters, &taken));
        self.pools
            .iter()
            .map(|pool| pool.allocate(&taken))
            .collect()
    }
}
