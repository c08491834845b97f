//! The node's EndpointSlice behind the Service of the cluster DNS.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use watch_cache::WatchCache;

use crate::{Config, Deps};

pub(crate) const NAMESPACE: &str = "kube-system";
pub(crate) const SERVICE: &str = "kube-dns";
const MANAGER: &str = "dns.fairlead";
const RETRY: Duration = Duration::from_secs(2);

/// Writes the slices and writes them again when somebody changes or deletes them.
pub(crate) async fn keep_published(config: &Config, deps: &Deps, shutdown: CancellationToken) {
    let cache: WatchCache<EndpointSlice> = deps.caches.of();
    let nodes: Api<Node> = Api::all(deps.client.clone());
    let mut changes = cache.subscribe();
    loop {
        let attempt = async {
            let node = nodes.get(&config.node_name).await?;
            for slice in slices(config, &node) {
                publish(&deps.client, &cache, slice).await?;
            }
            Ok::<(), kube::Error>(())
        };
        let wait = match attempt.await {
            Ok(()) => None,
            Err(error) => {
                tracing::warn!(%error, "the DNS server's endpoint was not published, it is tried again");
                Some(RETRY)
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = disturbed(config, &mut changes) => {}
            () = pause(wait) => {}
        }
    }
}

async fn pause(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// Ends when a slice of ours changed, or when changes were missed.
async fn disturbed(
    config: &Config,
    changes: &mut tokio::sync::broadcast::Receiver<watch_cache::Change<EndpointSlice>>,
) {
    while let Ok(change) = changes.recv().await {
        let key = change.key();
        let is_ours = [true, false]
            .iter()
            .any(|v4| key.name == slice_name(config, *v4));
        if key.namespace == NAMESPACE && is_ours {
            return;
        }
    }
}

async fn publish(
    client: &Client,
    cache: &WatchCache<EndpointSlice>,
    slice: EndpointSlice,
) -> Result<(), kube::Error> {
    let name = slice.metadata.name.clone().unwrap_or_default();
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    let Some(known) = cache.get(NAMESPACE, &name) else {
        return match api.create(&PostParams::default(), &slice).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            other => other.map(|_| ()),
        };
    };
    let same = known.endpoints == slice.endpoints
        && known.ports == slice.ports
        && known.metadata.labels == slice.metadata.labels;
    if same {
        return Ok(());
    }
    api.patch(&name, &PatchParams::default(), &Patch::Merge(&slice))
        .await
        .map(|_| ())
}

fn slice_name(config: &Config, v4: bool) -> String {
    format!(
        "{SERVICE}-{}-{}",
        config.node_name,
        if v4 { "ipv4" } else { "ipv6" }
    )
}

/// One slice for each family in which the node has an address.
fn slices(config: &Config, node: &Node) -> Vec<EndpointSlice> {
    [true, false]
        .into_iter()
        .filter_map(|v4| {
            let address = config
                .addresses
                .iter()
                .find(|address| address.is_ipv4() == v4)?;
            Some(slice(config, node, *address))
        })
        .collect()
}

fn slice(config: &Config, node: &Node, address: IpAddr) -> EndpointSlice {
    let labels = [
        ("kubernetes.io/service-name", SERVICE),
        ("endpointslice.kubernetes.io/managed-by", MANAGER),
    ];
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: config.node_name.clone(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..Default::default()
    };
    let port = |name: &str, protocol: &str| EndpointPort {
        name: Some(name.to_owned()),
        port: Some(i32::from(config.port)),
        protocol: Some(protocol.to_owned()),
        app_protocol: None,
    };
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(slice_name(config, address.is_ipv4())),
            namespace: Some(NAMESPACE.to_owned()),
            labels: Some(BTreeMap::from(
                labels.map(|(k, v)| (k.to_owned(), v.to_owned())),
            )),
            owner_references: Some(vec![owner]),
            ..Default::default()
        },
        address_type: if address.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned(),
        ports: Some(vec![port("dns", "UDP"), port("dns-tcp", "TCP")]),
        endpoints: Some(vec![Endpoint {
            addresses: vec![address.to_string()],
            conditions: Some(EndpointConditions {
                ready: Some(true),
                serving: Some(true),
                terminating: Some(false),
            }),
            node_name: Some(config.node_name.clone()),
            hints: Some(EndpointHints {
                for_nodes: Some(vec![ForNode {
                    name: config.node_name.clone(),
                }]),
                for_zones: None,
            }),
            ..Default::default()
        }]),
    }
}
