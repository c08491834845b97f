//! Pools, blocks and nodes as plain ordered data.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node;

use crate::resources::{IpPoolSpec, IpamBlockSpec};
use crate::selector::{Labels, NotASelector, Selector};
use crate::span;

/// On a Node: its blocks and borrowed addresses, with commas between.
pub const BLOCKS_ANNOTATION: &str = "fairlead.io/pod-blocks";
const BLOCK_V4: u8 = 26;
const BLOCK_V6: u8 = 122;

/// A pool that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    pub name: String,
    pub cidr: IpNetwork,
    /// The prefix length of its blocks.
    pub block: u8,
    pub nodes: Selector,
    pub namespaces: Selector,
    pub disabled: bool,
}

/// Why a pool cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPool {
    #[error("cidr: {0:?} is no network such as 10.0.0.0/8")]
    Cidr(String),
    #[error("blockSize: {size} is not between {least} and {most}, the pool's own prefix included")]
    BlockSize { size: u8, least: u8, most: u8 },
    #[error("{field}: {source}")]
    Selector {
        field: &'static str,
        source: NotASelector,
    },
}

impl Pool {
    pub fn read(name: &str, spec: &IpPoolSpec) -> Result<Self, InvalidPool> {
        let cidr = spec.cidr.parse::<IpNetwork>().map(span::clean);
        let cidr = cidr.map_err(|_| InvalidPool::Cidr(spec.cidr.clone()))?;
        let (usual, smallest, most) = if cidr.is_ipv4() {
            (BLOCK_V4, 20, 32)
        } else {
            (BLOCK_V6, 116, 128)
        };
        let least = smallest.max(cidr.prefix());
        // A small pool is one block.
        let size = spec.block_size.unwrap_or(usual.max(cidr.prefix()));
        if !(least..=most).contains(&size) {
            return Err(InvalidPool::BlockSize { size, least, most });
        }
        let selector = |field, text: &Option<String>| {
            let parsed = Selector::parse(text.as_deref().unwrap_or_default());
            parsed.map_err(|source| InvalidPool::Selector { field, source })
        };
        Ok(Self {
            name: name.to_owned(),
            cidr,
            block: size,
            nodes: selector("nodeSelector", &spec.node_selector)?,
            namespaces: selector("namespaceSelector", &spec.namespace_selector)?,
            disabled: spec.disabled,
        })
    }

    /// Whether it is for some nodes or namespaces only.
    pub fn is_selective(&self) -> bool {
        self.nodes != Selector::All || self.namespaces != Selector::All
    }

    /// The block that an address of the pool is in.
    pub fn block_of(&self, address: IpAddr) -> Option<IpNetwork> {
        let block = IpNetwork::new(address, self.block).ok().map(span::clean)?;
        self.cidr.contains(address).then_some(block)
    }
}

/// A claimed block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Block {
    pub node: String,
    /// Addresses that other nodes have.
    pub lent: BTreeMap<IpAddr, String>,
    /// What nodes want of it.
    pub asked: BTreeMap<String, Asked>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    pub address: Option<IpAddr>,
    pub refused: Option<String>,
}

impl Block {
    /// The block's range and what is said of it; entries that cannot be read are left out.
    pub fn read(spec: &IpamBlockSpec) -> Option<(IpNetwork, Self)> {
        let cidr = span::clean(spec.cidr.parse().ok()?);
        let lent = spec.lent.iter();
        let lent = lent.filter_map(|(address, node)| Some((address.parse().ok()?, node.clone())));
        let asked = spec.asked.iter().map(|(node, question)| {
            let address = question.address.as_deref();
            let asked = Asked {
                address: address.and_then(|text| text.parse().ok()),
                refused: question.refused.clone(),
            };
            (node.clone(), asked)
        });
        let block = Self {
            node: spec.node.clone(),
            lent: lent.collect(),
            asked: asked.collect(),
        };
        Some((cidr, block))
    }
}

/// Everything that decides, from the view of one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inputs {
    pub node: String,
    pub labels: Labels,
    /// Every node of the cluster with its own pod ranges (`podCIDRs`).
    pub nodes: BTreeMap<String, Vec<IpNetwork>>,
    pub pools: BTreeMap<String, Pool>,
    pub reserved: Vec<IpNetwork>,
    pub blocks: BTreeMap<IpNetwork, Block>,
    pub strict_affinity: bool,
    pub max_blocks: usize,
}

impl Inputs {
    /// The node's own pod ranges.
    pub fn ranges(&self) -> &[IpNetwork] {
        self.nodes.get(&self.node).map_or(&[], Vec::as_slice)
    }

    /// The blocks that this node gives addresses of.
    pub fn own_blocks(&self) -> impl Iterator<Item = (&IpNetwork, &Block)> {
        let own = |(_, block): &(&IpNetwork, &Block)| block.node == self.node;
        self.blocks.iter().filter(own)
    }

    /// Single addresses that this node has of others' blocks.
    pub fn borrowed(&self) -> impl Iterator<Item = IpAddr> {
        let foreign = self.blocks.values().filter(|block| block.node != self.node);
        let lent = foreign.flat_map(|block| &block.lent);
        lent.filter(|(_, node)| **node == self.node)
            .map(|(address, _)| *address)
    }

    /// What the node has beside its own ranges: what has to be published before it is used.
    pub fn published(&self) -> BTreeSet<IpNetwork> {
        let blocks = self.own_blocks().map(|(cidr, _)| *cidr);
        blocks.chain(self.borrowed().map(span::host)).collect()
    }

    /// Whether the pool's addresses are those of nodes' own ranges: no blocks are claimed of it.
    pub fn is_of_ranges(&self, pool: &Pool) -> bool {
        let mut all = self.nodes.values().flatten();
        all.any(|range| span::overlap(range, &pool.cidr))
    }
}

/// The ranges of a Node's pods: its own (`podCIDRs`), then the blocks and addresses that it has
/// published. What cannot be read is left out.
pub fn pod_ranges(node: &Node) -> Vec<IpNetwork> {
    let mut ranges = own_ranges(node);
    let annotations = node.metadata.annotations.as_ref();
    let published = annotations.and_then(|all| all.get(BLOCKS_ANNOTATION));
    let texts = published.into_iter().flat_map(|text| text.split(','));
    ranges.extend(texts.filter_map(|text| text.trim().parse::<IpNetwork>().ok()));
    ranges
}

/// A Node's own ranges alone.
pub fn own_ranges(node: &Node) -> Vec<IpNetwork> {
    let Some(spec) = &node.spec else {
        return Vec::new();
    };
    let mut texts: Vec<&String> = spec.pod_cidrs.iter().flatten().collect();
    if texts.is_empty() {
        texts.extend(&spec.pod_cidr);
    }
    let parsed = texts.into_iter().filter_map(|text| text.parse().ok());
    parsed.collect()
}

/// The annotation's value.
pub fn annotation(published: &BTreeSet<IpNetwork>) -> String {
    let texts: Vec<String> = published.iter().map(ToString::to_string).collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(cidr: &str, block: Option<u8>) -> Result<Pool, InvalidPool> {
        let spec = IpPoolSpec {
            cidr: cidr.to_owned(),
            block_size: block,
            ..IpPoolSpec::default()
        };
        Pool::read("p", &spec)
    }

    #[test]
    fn block_sizes_fit_the_pool() {
        assert_eq!(read("10.0.0.0/16", None).unwrap().block, 26);
        assert_eq!(read("fd00::/64", None).unwrap().block, 122);
        assert_eq!(read("10.0.0.0/28", None).unwrap().block, 28);
        assert_eq!(
            read("10.0.0.9/16", Some(32)).unwrap().cidr.to_string(),
            "10.0.0.0/16"
        );
        for (cidr, block) in [
            ("10.0.0.0/16", 19),
            ("10.0.0.0/24", 23),
            ("10.0.0.0/16", 33),
            ("fd00::/64", 26),
        ] {
            let error = read(cidr, Some(block)).unwrap_err();
            assert!(
                matches!(error, InvalidPool::BlockSize { .. }),
                "{cidr} {block}"
            );
        }
        assert!(matches!(read("ten", None), Err(InvalidPool::Cidr(_))));
        let spec = IpPoolSpec {
            cidr: "10.0.0.0/8".into(),
            node_selector: Some("rack = 'a'".into()),
            ..IpPoolSpec::default()
        };
        let text = Pool::read("p", &spec).unwrap_err().to_string();
        assert!(text.starts_with("nodeSelector: "), "{text}");
    }

    #[test]
    fn a_nodes_ranges_come_first_and_then_what_it_published() {
        let node: Node = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "a", "annotations": {BLOCKS_ANNOTATION: "10.1.0.0/26,10.1.9.7/32,x"}},
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00::/64"]},
        }))
        .unwrap();
        let texts: Vec<String> = pod_ranges(&node).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            ["10.244.1.0/24", "fd00::/64", "10.1.0.0/26", "10.1.9.7/32"]
        );
    }
}
