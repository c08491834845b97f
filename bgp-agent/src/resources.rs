//! The custom resources that configure the routed mode. Kinds and fields are named as Calico's
//! users know them; `README.md` says which are ours alone.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResource, CustomResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use ip_pools::resources::{Acceptance, GROUP, IpPool, IpPoolSpec, VxlanMode};

/// The configuration that counts for every node.
pub const DEFAULT: &str = "default";
/// What the names of configurations for single nodes begin with; the node's name follows.
pub const NODE_PREFIX: &str = "node.";

/// The name of the configuration for one node.
pub fn of_node(node: &str) -> String {
    format!("{NODE_PREFIX}{node}")
}

/// The cluster's BGP: who peers with whom, and what is advertised. The one named `default` counts for
/// every node; in one named `node.NAME` that node has settings of its own in their place.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "fairlead.io",
    version = "v1",
    kind = "BGPConfiguration",
    root = "BgpConfiguration",
    plural = "bgpconfigurations",
    status = "Acceptance",
    derive = "PartialEq",
    printcolumn = r#"{"name":"AS","type":"integer","jsonPath":".spec.asNumber"}"#,
    printcolumn = r#"{"name":"Mesh","type":"boolean","jsonPath":".spec.nodeToNodeMeshEnabled"}"#,
    printcolumn = r#"{"name":"Accepted","type":"boolean","jsonPath":".status.accepted"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct BgpConfigurationSpec {
    /// The AS of nodes that have no other by annotation; 64512 when not given.
    pub as_number: Option<u32>,
    /// Every node peers with every other; on when not given.
    pub node_to_node_mesh_enabled: Option<bool>,
    /// The key of sessions between nodes.
    pub node_mesh_password: Option<Password>,
    /// Seconds for which nodes keep the routes of one that restarts; 120 when not given.
    #[schemars(range(max = 4095))]
    pub node_mesh_max_restart_time: Option<u16>,
    /// Nodes that reflect routes, in the place of the full mesh.
    pub route_reflectors: Option<RouteReflectors>,
    /// Failure detection between nodes.
    pub bfd: Option<Bfd>,
    /// Seconds of silence after which a node is given up; 90 when not given.
    pub hold_time: Option<u16>,
    /// The most paths that share the load of a prefix; 16 when not given.
    #[schemars(range(min = 1, max = 128))]
    pub max_paths: Option<u16>,
    /// Ranges of ClusterIPs to advertise.
    #[serde(default, rename = "serviceClusterIPs")]
    pub service_cluster_ips: Vec<Block>,
    /// Ranges of external addresses of Services to advertise.
    #[serde(default, rename = "serviceExternalIPs")]
    pub service_external_ips: Vec<Block>,
    /// Ranges of addresses of load balancers to advertise.
    #[serde(default, rename = "serviceLoadBalancerIPs")]
    pub service_load_balancer_ips: Vec<Block>,
    /// Whether load balancers' ranges are advertised as a whole (the default) or each address by
    /// itself.
    pub service_load_balancer_aggregation: Option<Switch>,
    /// Names for communities.
    #[serde(default)]
    pub communities: Vec<NamedCommunity>,
    /// Communities of what is advertised.
    #[serde(default)]
    pub prefix_advertisements: Vec<PrefixAdvertisement>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Switch {
    Enabled,
    Disabled,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Block {
    pub cidr: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NamedCommunity {
    pub name: String,
    /// `65000:100` or `65000:1:2`.
    pub value: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PrefixAdvertisement {
    /// Everything advertised inside it has the communities.
    pub cidr: String,
    /// Names or values.
    pub communities: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Password {
    /// A key of a Secret in `kube-system`.
    pub secret_key_ref: Option<SecretKeyRef>,
}

#[derive(
    Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub struct SecretKeyRef {
    pub name: String,
    pub key: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteReflectors {
    /// The nodes that reflect; without it they are chosen.
    pub node_selector: Option<String>,
    /// Above so many nodes reflectors are chosen; never when not given.
    pub automatic_above: Option<u32>,
    /// How many are chosen; 3 when not given.
    #[schemars(range(min = 1, max = 16))]
    pub count: Option<u32>,
}

/// Intervals in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bfd {
    /// 300 when not given.
    #[schemars(range(min = 10, max = 60000))]
    pub transmit_interval: Option<u32>,
    /// 300 when not given.
    #[schemars(range(min = 10, max = 60000))]
    pub receive_interval: Option<u32>,
    /// So many lost packets are a lost peer; 3 when not given.
    #[schemars(range(min = 1, max = 255))]
    pub detect_multiplier: Option<u8>,
}

/// A router that nodes peer with, or nodes that peer with others.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "fairlead.io",
    version = "v1",
    kind = "BGPPeer",
    root = "BgpPeer",
    plural = "bgppeers",
    status = "BgpPeerStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Peer","type":"string","jsonPath":".spec.peerIP"}"#,
    printcolumn = r#"{"name":"AS","type":"integer","jsonPath":".spec.asNumber"}"#,
    printcolumn = r#"{"name":"Accepted","type":"boolean","jsonPath":".status.accepted"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct BgpPeerSpec {
    /// The node that peers; with neither this nor a selector every node does.
    pub node: Option<String>,
    /// The nodes that peer.
    pub node_selector: Option<String>,
    /// The peer's address, with `:PORT` where it is not 179; a range such as 192.0.2.0/24 takes
    /// whoever connects from there.
    #[serde(rename = "peerIP")]
    pub peer_ip: Option<String>,
    /// Nodes as the peers.
    pub peer_selector: Option<String>,
    /// The peer's AS; that of the cluster when not given.
    pub as_number: Option<u32>,
    /// Our AS towards this peer.
    #[serde(rename = "localASNumber")]
    pub local_as_number: Option<u32>,
    /// The most peers that a range may bring; 100 when not given.
    pub max_dynamic_peers: Option<u32>,
    pub next_hop_mode: Option<NextHopMode>,
    /// The same as `nextHopMode: Keep`.
    #[serde(default)]
    pub keep_original_next_hop: bool,
    pub password: Option<Password>,
    pub source_address: Option<SourceAddress>,
    /// Seconds; the hold time is three times that.
    pub keepalive_time: Option<u16>,
    /// How often our own AS may be in a path; 0 when not given.
    #[serde(rename = "numAllowedLocalASNumbers")]
    pub num_allowed_local_as_numbers: Option<u32>,
    /// The peer is at most so many hops away, and both sides see to it (RFC 5082).
    #[schemars(range(min = 1, max = 255))]
    pub ttl_security: Option<u8>,
    /// BGPFilters; the first rule that matches decides.
    #[serde(default)]
    pub filters: Vec<String>,
    /// What happens with routes that no rule matches. Without filters nothing passes to or from
    /// another AS unless this says `Accept` (RFC 8212).
    pub default_action: Option<Action>,
    /// A peer that sends more is cut off.
    pub max_prefixes: Option<u32>,
    pub bfd: Option<Bfd>,
    /// Several paths for a prefix (RFC 7911).
    pub add_path: Option<AddPath>,
    /// We wait for the peer to connect.
    #[serde(default)]
    pub passive: bool,
    /// The peer is a client of ours as a route reflector.
    #[serde(default)]
    pub reflector_client: bool,
    /// Seconds for which routes are kept after the peer did not come back from a restart
    /// (RFC 9494).
    pub long_lived_stale_time: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NextHopMode {
    Auto,
    #[serde(rename = "Self")]
    Own,
    Keep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SourceAddress {
    #[serde(rename = "UseNodeIP")]
    UseNodeIp,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AddPath {
    Send,
    Receive,
    Both,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Action {
    Accept,
    Reject,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BgpPeerStatus {
    pub accepted: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The sessions by `NODE` and the peer's address: `NODE/ADDRESS`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sessions: BTreeMap<String, SessionStatus>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionStatus {
    /// Under the names of RFC 4271.
    pub state: String,
    /// Why the last session ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_end: Option<String>,
}

/// What passes to and from peers that name it.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "fairlead.io",
    version = "v1",
    kind = "BGPFilter",
    root = "BgpFilter",
    plural = "bgpfilters",
    status = "Acceptance",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Accepted","type":"boolean","jsonPath":".status.accepted"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct BgpFilterSpec {
    #[serde(default)]
    pub export_v4: Vec<Rule>,
    #[serde(default)]
    pub import_v4: Vec<Rule>,
    #[serde(default)]
    pub export_v6: Vec<Rule>,
    #[serde(default)]
    pub import_v6: Vec<Rule>,
}

/// Everything that is given has to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    pub cidr: Option<String>,
    pub match_operator: Option<MatchOperator>,
    pub prefix_length: Option<PrefixLength>,
    /// Only what a peer told, not the node's own.
    pub source: Option<RuleSource>,
    pub peer_type: Option<PeerType>,
    pub communities: Option<Communities>,
    /// Numbers that the path starts with.
    #[serde(default)]
    pub as_path_prefix: Vec<u32>,
    /// A number that the path has somewhere.
    pub as_path_contains: Option<u32>,
    pub max_as_path_length: Option<u32>,
    /// The next hop is in this range.
    pub next_hop: Option<String>,
    pub action: Action,
    #[serde(default)]
    pub operations: Vec<Operation>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MatchOperator {
    Equal,
    NotEqual,
    In,
    NotIn,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PrefixLength {
    pub min: Option<u8>,
    pub max: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RuleSource {
    RemotePeers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PeerType {
    #[serde(rename = "eBGP")]
    External,
    #[serde(rename = "iBGP")]
    Internal,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Communities {
    /// One of these.
    pub values: Vec<String>,
}

/// One change to what passes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    pub add_community: Option<CommunityValue>,
    pub remove_community: Option<CommunityValue>,
    #[serde(rename = "prependASPath")]
    pub prepend_as_path: Option<Prepend>,
    pub set_local_preference: Option<NumberValue>,
    #[serde(rename = "setMED")]
    pub set_med: Option<NumberValue>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommunityValue {
    pub value: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Prepend {
    pub prefix: Vec<u32>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NumberValue {
    pub value: u32,
}

/// What has to be applied to a cluster before the resources can be.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    let mut all = vec![BgpConfiguration::crd(), BgpPeer::crd(), BgpFilter::crd()];
    all.extend(ip_pools::resources::definitions());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_have_the_names_that_calicos_users_know() {
        let names: Vec<String> = definitions()
            .iter()
            .map(|own| own.spec.names.kind.clone())
            .collect();
        assert_eq!(
            names[..4],
            ["BGPConfiguration", "BGPPeer", "BGPFilter", "IPPool"]
        );
        for (number, definition) in definitions().into_iter().enumerate() {
            assert_eq!(definition.spec.group, GROUP);
            assert_eq!(definition.spec.scope, "Cluster");
            // What nodes note of addresses among themselves has no status.
            let has_status = definition.spec.versions[0].subresources.is_some();
            assert!(has_status || number >= 4, "{number}");
        }
    }

    #[test]
    fn a_peer_reads_as_people_write_it() {
        let spec: BgpPeerSpec = serde_json::from_value(serde_json::json!({
            "peerIP": "192.0.2.1:1179", "asNumber": 4_200_000_000_u32, "nextHopMode": "Self",
            "localASNumber": 65001, "numAllowedLocalASNumbers": 1, "ttlSecurity": 1,
            "password": {"secretKeyRef": {"name": "bgp-secrets", "key": "tor"}},
            "sourceAddress": "UseNodeIP", "filters": ["tor"], "addPath": "Both",
            "bfd": {"transmitInterval": 100},
        }))
        .unwrap();
        assert_eq!(spec.next_hop_mode, Some(NextHopMode::Own));
        assert_eq!(spec.local_as_number, Some(65001));
        assert_eq!(spec.bfd.unwrap().transmit_interval, Some(100));
    }
}
