//! The custom resources of pools. Kinds and fields are named as Calico's users know them.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResource, CustomResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub const GROUP: &str = "fairlead.io";
/// The configuration that counts for every node.
pub const DEFAULT: &str = "default";

/// Whether an object is used, and why not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Acceptance {
    pub accepted: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A range of pod addresses: who gets them, and how nodes reach them.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "fairlead.io",
    version = "v1",
    kind = "IPPool",
    root = "IpPool",
    plural = "ippools",
    status = "Acceptance",
    derive = "PartialEq",
    printcolumn = r#"{"name":"CIDR","type":"string","jsonPath":".spec.cidr"}"#,
    printcolumn = r#"{"name":"VXLAN","type":"string","jsonPath":".spec.vxlanMode"}"#,
    printcolumn = r#"{"name":"Nodes","type":"string","jsonPath":".spec.nodeSelector"}"#,
    printcolumn = r#"{"name":"Disabled","type":"boolean","jsonPath":".spec.disabled"}"#,
    printcolumn = r#"{"name":"Accepted","type":"boolean","jsonPath":".status.accepted"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct IpPoolSpec {
    pub cidr: String,
    /// In the routed mode: whether packets to other nodes' pods go through a tunnel: never (the
    /// default), to nodes on other subnets, or always.
    pub vxlan_mode: Option<VxlanMode>,
    /// The pool's ranges are told to nobody.
    #[serde(default, rename = "disableBGPExport")]
    pub disable_bgp_export: bool,
    /// The prefix length of the blocks that nodes claim: 20 to 32, 26 when not given; for IPv6
    /// 116 to 128, 122 when not given.
    #[schemars(range(min = 20, max = 128))]
    pub block_size: Option<u8>,
    /// The nodes whose pods get addresses of it; all when not given.
    pub node_selector: Option<String>,
    /// The namespaces whose pods get addresses of it; all when not given.
    pub namespace_selector: Option<String>,
    /// No pod gets an address of it any more; those that have one keep it.
    #[serde(default)]
    pub disabled: bool,
    /// Whether what its pods send to outside all pools has the node's address; yes when not
    /// given.
    pub nat_outgoing: Option<bool>,
}

#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum VxlanMode {
    #[default]
    Never,
    CrossSubnet,
    Always,
}

/// Addresses that no pod gets unless it asks for them by name.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "fairlead.io",
    version = "v1",
    kind = "IPReservation",
    root = "IpReservation",
    plural = "ipreservations",
    derive = "PartialEq",
    status = "Acceptance",
    printcolumn = r#"{"name":"CIDRs","type":"string","jsonPath":".spec.reservedCIDRs"}"#
)]
pub struct IpReservationSpec {
    #[serde(default, rename = "reservedCIDRs")]
    pub reserved_cidrs: Vec<String>,
}

/// What holds for all pools. Only the one named `default` counts.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "fairlead.io",
    version = "v1",
    kind = "IPAMConfiguration",
    root = "IpamConfiguration",
    plural = "ipamconfigurations",
    derive = "PartialEq",
    status = "Acceptance",
    printcolumn = r#"{"name":"Strict","type":"boolean","jsonPath":".spec.strictAffinity"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct IpamConfigurationSpec {
    /// Nodes give addresses of their own blocks only and borrow none.
    #[serde(default)]
    pub strict_affinity: bool,
    /// The most blocks that a node claims; 20 when not given.
    #[schemars(range(min = 1, max = 10_000))]
    pub max_blocks_per_host: Option<u32>,
}

/// A part of a pool, and the node that gives its addresses. Written by nodes only.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "fairlead.io",
    version = "v1",
    kind = "IPAMBlock",
    root = "IpamBlock",
    plural = "ipamblocks",
    derive = "PartialEq",
    printcolumn = r#"{"name":"CIDR","type":"string","jsonPath":".spec.cidr"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".spec.node"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct IpamBlockSpec {
    pub cidr: String,
    /// Whose it is.
    pub node: String,
    /// Single addresses that other nodes have, by address.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lent: BTreeMap<String, String>,
    /// Nodes that want an address of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub asked: BTreeMap<String, Question>,
}

/// A node's wish for an address of another one's block.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Question {
    /// This address; any when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The owner's answer, when it is no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// What has to be applied to a cluster before the resources can be.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![
        IpPool::crd(),
        IpReservation::crd(),
        IpamConfiguration::crd(),
        IpamBlock::crd(),
    ]
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
        let wanted = ["IPPool", "IPReservation", "IPAMConfiguration", "IPAMBlock"];
        assert_eq!(names, wanted);
        for definition in definitions() {
            assert_eq!(definition.spec.group, GROUP);
            assert_eq!(definition.spec.scope, "Cluster");
        }
    }

    #[test]
    fn a_pool_reads_as_people_write_it() {
        let spec: IpPoolSpec = serde_json::from_value(serde_json::json!({
            "cidr": "10.50.0.0/16", "blockSize": 28, "nodeSelector": "rack == 'a'",
            "namespaceSelector": "has(team)", "natOutgoing": false, "disabled": true,
            "vxlanMode": "CrossSubnet", "disableBGPExport": true,
        }))
        .unwrap();
        assert_eq!(spec.block_size, Some(28));
        assert!(spec.disabled && spec.disable_bgp_export);
        assert_eq!(spec.nat_outgoing, Some(false));
        assert_eq!(spec.vxlan_mode, Some(VxlanMode::CrossSubnet));
    }
}
