//! What a node does about blocks when no pod waits.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::model::{Block, Inputs, Pool};
use crate::span::contains;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chore {
    /// Nobody uses the block, and the node has another one or may not use it any more.
    Release(IpNetwork),
    /// A borrowed address goes back.
    Return { block: IpNetwork, address: IpAddr },
    /// Our question was answered by a no: it may be asked again.
    TakeBack(IpNetwork),
    /// A node waits for an address of our block.
    Lend {
        block: IpNetwork,
        to: String,
        address: Option<IpAddr>,
    },
}

/// Everything that is to be done. `used` are the addresses that pods of this node have.
pub fn chores(inputs: &Inputs, used: &BTreeSet<IpAddr>) -> Vec<Chore> {
    let mut chores = Vec::new();
    for (cidr, block) in &inputs.blocks {
        if block.node == inputs.node {
            chores.extend(lend(*cidr, block));
            continue;
        }
        let idle = |(address, node): &(&IpAddr, &String)| {
            **node == inputs.node && !used.contains(*address)
        };
        let back = block
            .lent
            .iter()
            .filter(idle)
            .map(|(address, _)| Chore::Return {
                block: *cidr,
                address: *address,
            });
        chores.extend(back);
        let own = block.asked.get(&inputs.node);
        if own.is_some_and(|asked| asked.refused.is_some()) {
            chores.push(Chore::TakeBack(*cidr));
        }
    }
    chores.extend(release(inputs, used));
    chores
}

fn lend(cidr: IpNetwork, block: &Block) -> impl Iterator<Item = Chore> {
    let open = block
        .asked
        .iter()
        .filter(|(_, asked)| asked.refused.is_none());
    open.map(move |(node, asked)| Chore::Lend {
        block: cidr,
        to: node.clone(),
        address: asked.address,
    })
}

/// Empty blocks: all of a pool that is not for this node any more, all but one of another.
fn release(inputs: &Inputs, used: &BTreeSet<IpAddr>) -> Vec<Chore> {
    let is_empty = |cidr: &IpNetwork, block: &Block| {
        let nobody = !used.iter().any(|address| cidr.contains(*address));
        nobody && block.lent.is_empty() && block.asked.is_empty()
    };
    let serves = |pool: &&Pool| !pool.disabled && pool.nodes.matches(&inputs.labels);
    let mut kept: BTreeMap<&str, usize> = BTreeMap::new();
    let mut chores = Vec::new();
    // A node without a range of its own always keeps what it has of a pool.
    for (cidr, _) in inputs
        .own_blocks()
        .filter(|(cidr, block)| is_empty(cidr, block))
    {
        let within = |pool: &&Pool| contains(&pool.cidr, cidr);
        match inputs.pools.values().filter(within).find(serves) {
            None => chores.push(Chore::Release(*cidr)),
            Some(pool) => {
                let number = kept.entry(&pool.name).or_default();
                *number += 1;
                if *number > 1 {
                    chores.push(Chore::Release(*cidr));
                }
            }
        }
    }
    chores
}
