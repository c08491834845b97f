//! Which addresses a pod may get, and what has to be done first. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::model::{Block, Inputs, Pool};
use crate::span::{self, Span, contains, host, number, overlap};
use crate::wish::Wish;

mod chores;
#[cfg(test)]
mod tests;

pub use chores::{Chore, chores};

/// How far a free block is looked for among those of a pool.
const MOST_PROBES: u128 = 1 << 16;

/// What a request for addresses leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The pod gets one address of each.
    Answer(Vec<Source>),
    /// To be done before it is decided anew.
    First(Step),
}

/// Where one address comes from: one family, one pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub spans: Vec<Span>,
    /// This one of them.
    pub address: Option<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nobody has the block.
    Claim(IpNetwork),
    /// The node that has it is no member of the cluster any more.
    Adopt(IpNetwork),
    /// Its owner is asked for this address, or for any.
    Ask {
        block: IpNetwork,
        address: Option<IpAddr>,
    },
    /// Its owner was asked and has not answered.
    Wait(IpNetwork),
}

/// Why a pod gets no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is neither a range of pod addresses of the node nor a pool")]
    Nothing,
    #[error("there is no IPPool {0:?}; the pod or its namespace asks for it by annotation")]
    NoSuchPool(String),
    #[error("the IPPool {0:?} is disabled; the pod or its namespace asks for it by annotation")]
    Disabled(String),
    #[error("no IPPool of IPv{family} is for this node and the pod's namespace")]
    NoPoolForPod { family: u8 },
    #[error("the address {0} is in no IPPool and not in the node's range")]
    AddressOutside(IpAddr),
    #[error("the address {address} is in the pod range {range} of node {node}")]
    AddressOfNode {
        address: IpAddr,
        range: IpNetwork,
        node: String,
    },
    #[error("the address {0} is the first of its range, which is the node's own")]
    AddressOfHost(IpAddr),
    #[error("the address {address} is in the block {block} of node {node}, and {why}")]
    AddressElsewhere {
        address: IpAddr,
        block: IpNetwork,
        node: String,
        why: String,
    },
    #[error("no IPv{family} address is left: {}", tried.join("; "))]
    Exhausted { family: u8, tried: Vec<String> },
}

/// Where a pod may get addresses from, in order of preference.
enum Place<'a> {
    /// A range of the node that is in no pool.
    Range(IpNetwork),
    Pool(&'a Pool),
}

/// Decides for a pod. `full` are the ranges of which the plugin found no address free.
pub fn decide(
    inputs: &Inputs,
    wish: &Wish,
    full: &BTreeSet<IpNetwork>,
) -> Result<Decision, Refusal> {
    let families = families(inputs, wish);
    if families.is_empty() {
        return Err(Refusal::Nothing);
    }
    let mut sources = Vec::new();
    for ipv4 in families {
        let found = match wish.address(ipv4) {
            Some(address) => fixed(inputs, address)?,
            None => any(inputs, wish, full, ipv4)?,
        };
        match found {
            Ok(source) => sources.push(source),
            Err(step) => return Ok(Decision::First(step)),
        }
    }
    Ok(Decision::Answer(sources))
}

/// IPv4 (`true`) before IPv6. Those of the node's ranges; without any, those of the pools; and
/// whatever was asked for by name.
fn families(inputs: &Inputs, wish: &Wish) -> Vec<bool> {
    let ranges = inputs.ranges();
    let has = |ipv4: bool| {
        let of_ranges = ranges.iter().any(|range| range.is_ipv4() == ipv4);
        let enabled = inputs.pools.values().filter(|pool| !pool.disabled);
        let of_pools = || enabled.clone().any(|pool| pool.cidr.is_ipv4() == ipv4);
        let asked = wish.address(ipv4).is_some() || wish.pools(ipv4).is_some();
        of_ranges || asked || (ranges.is_empty() && of_pools())
    };
    [true, false]
        .into_iter()
        .filter(|ipv4| has(*ipv4))
        .collect()
}

/// A place for this very address.
fn fixed(inputs: &Inputs, address: IpAddr) -> Result<Result<Source, Step>, Refusal> {
    let here = || {
        Ok(Ok(Source {
            spans: vec![Span::all(host(address))],
            address: Some(address),
        }))
    };
    let holding = inputs
        .nodes
        .iter()
        .flat_map(|(node, ranges)| ranges.iter().map(move |range| (node, range)))
        .find(|(_, range)| range.contains(address));
    if let Some((node, range)) = holding {
        return match *node == inputs.node {
            true if Span::of_node(*range).contains(address) => here(),
            true => Err(Refusal::AddressOfHost(address)),
            false => Err(Refusal::AddressOfNode {
                address,
                range: *range,
                node: node.clone(),
            }),
        };
    }
    let claimed = inputs
        .blocks
        .iter()
        .find(|(cidr, _)| cidr.contains(address));
    let pool = inputs
        .pools
        .values()
        .filter(|pool| pool.cidr.contains(address) && !pool.disabled)
        .max_by_key(|pool| pool.cidr.prefix());
    let cidr = match (claimed, pool) {
        (Some((cidr, _)), _) => *cidr,
        (None, Some(pool)) => pool
            .block_of(address)
            .ok_or(Refusal::AddressOutside(address))?,
        (None, None) => return Err(Refusal::AddressOutside(address)),
    };
    if !Span::usable(cidr).contains(address) {
        return Err(Refusal::AddressOfHost(address));
    }
    let Some((_, block)) = claimed else {
        return Ok(Err(Step::Claim(cidr)));
    };
    let elsewhere = |node: &str, why: String| {
        Err(Refusal::AddressElsewhere {
            address,
            block: cidr,
            node: node.to_owned(),
            why,
        })
    };
    match block.lent.get(&address) {
        Some(borrower) if *borrower == inputs.node => return here(),
        Some(borrower) => return elsewhere(&block.node, format!("lent to node {borrower}")),
        None if block.node == inputs.node => return here(),
        None => {}
    }
    if !inputs.nodes.contains_key(&block.node) {
        return Ok(Err(Step::Adopt(cidr)));
    }
    if inputs.strict_affinity {
        return elsewhere(&block.node, "nodes do not lend (strictAffinity)".to_owned());
    }
    match question(inputs, cidr, block, Some(address)) {
        Ok(step) => Ok(Err(step)),
        Err(why) => elsewhere(&block.node, format!("it answers: {why}")),
    }
}

/// What is to be done about an address of another node's block, or its answer when it is no.
fn question(
    inputs: &Inputs,
    cidr: IpNetwork,
    block: &Block,
    address: Option<IpAddr>,
) -> Result<Step, String> {
    match block.asked.get(&inputs.node) {
        None => Ok(Step::Ask {
            block: cidr,
            address,
        }),
        // A question about something else comes first.
        Some(asked) => match &asked.refused {
            None => Ok(Step::Wait(cidr)),
            Some(_) if asked.address != address => Ok(Step::Ask {
                block: cidr,
                address,
            }),
            Some(why) => Err(why.clone()),
        },
    }
}

/// A place for any address of a family.
fn any(
    inputs: &Inputs,
    wish: &Wish,
    full: &BTreeSet<IpNetwork>,
    ipv4: bool,
) -> Result<Result<Source, Step>, Refusal> {
    let family = if ipv4 { 4 } else { 6 };
    let places = places(inputs, wish, ipv4)?;
    if places.is_empty() {
        return Err(Refusal::NoPoolForPod { family });
    }
    let mut tried = Vec::new();
    for place in &places {
        let mut spans = spans(inputs, place);
        let here = spans.len();
        spans.retain(|span| !full.contains(&span.subnet));
        if !spans.is_empty() {
            return Ok(Ok(Source {
                spans,
                address: None,
            }));
        }
        match place {
            Place::Range(range) => tried.push(format!("the node's range {range} is full")),
            Place::Pool(pool) => match free_block(inputs, pool) {
                Ok(step) => return Ok(Err(step)),
                Err(why) => {
                    let (name, cidr) = (&pool.name, pool.cidr);
                    let own = if here == 0 { "no" } else { "every" };
                    tried.push(format!(
                        "of pool {name} ({cidr}) {own} part of this node's has a free one and {why}"
                    ));
                }
            },
        }
    }
    match borrow(inputs, &places, &mut tried) {
        Some(step) => Ok(Err(step)),
        None => Err(Refusal::Exhausted { family, tried }),
    }
}

/// An address of another node's block.
fn borrow(inputs: &Inputs, places: &[Place<'_>], tried: &mut Vec<String>) -> Option<Step> {
    if inputs.strict_affinity {
        tried.push("nodes do not lend (strictAffinity)".to_owned());
        return None;
    }
    for place in places {
        let Place::Pool(pool) = place else { continue };
        for (cidr, block) in &inputs.blocks {
            let alive = inputs.nodes.contains_key(&block.node);
            if block.node == inputs.node || !alive || !contains(&pool.cidr, cidr) {
                continue;
            }
            match question(inputs, *cidr, block, None) {
                Ok(step) => return Some(step),
                Err(why) => tried.push(format!("node {} lends none of {cidr}: {why}", block.node)),
            }
        }
    }
    None
}

/// Those that were asked for by name, whatever their selectors say; otherwise, of what is for
/// this node and the namespace: pools with a selector, the node's own range, the other pools.
fn places<'a>(inputs: &'a Inputs, wish: &Wish, ipv4: bool) -> Result<Vec<Place<'a>>, Refusal> {
    if let Some(asked) = wish.pools(ipv4) {
        let named = asked.iter().map(|text| named(inputs, text, ipv4));
        return named.map(|pool| pool.map(Place::Pool)).collect();
    }
    let fits = |pool: &&Pool| {
        pool.cidr.is_ipv4() == ipv4
            && !pool.disabled
            && pool.nodes.matches(&inputs.labels)
            && pool.namespaces.matches(&wish.namespace)
    };
    let fitting: Vec<&Pool> = inputs.pools.values().filter(fits).collect();
    let in_no_pool = |range: &&IpNetwork| {
        let within = |pool: &Pool| contains(&pool.cidr, range);
        range.is_ipv4() == ipv4 && !inputs.pools.values().any(within)
    };
    let of = |selective: bool| {
        let pools = fitting.iter().copied();
        pools
            .filter(move |pool| pool.is_selective() == selective)
            .map(Place::Pool)
    };
    let ranges = inputs.ranges().iter().filter(in_no_pool);
    let ranges = ranges.map(|range| Place::Range(*range));
    Ok(of(true).chain(ranges).chain(of(false)).collect())
}

fn named<'a>(inputs: &'a Inputs, text: &str, ipv4: bool) -> Result<&'a Pool, Refusal> {
    let is_it = |pool: &&Pool| pool.name == text || pool.cidr.to_string() == text;
    let found = inputs.pools.values().find(is_it);
    let found = found.filter(|pool| pool.cidr.is_ipv4() == ipv4);
    match found {
        None => Err(Refusal::NoSuchPool(text.to_owned())),
        Some(pool) if pool.disabled => Err(Refusal::Disabled(text.to_owned())),
        Some(pool) => Ok(pool),
    }
}

/// What the node can give of a place, without what is reserved or lent.
fn spans(inputs: &Inputs, place: &Place<'_>) -> Vec<Span> {
    let mut spans = Vec::new();
    match place {
        Place::Range(range) => spans.extend(Span::of_node(*range).without(&inputs.reserved)),
        Place::Pool(pool) => {
            let within = |network: &IpNetwork| contains(&pool.cidr, network);
            for range in inputs.ranges().iter().filter(|range| within(range)) {
                spans.extend(Span::of_node(*range).without(&inputs.reserved));
            }
            for (cidr, block) in inputs.own_blocks().filter(|(cidr, _)| within(cidr)) {
                let mut holes = inputs.reserved.clone();
                holes.extend(block.lent.keys().copied().map(host));
                spans.extend(Span::usable(*cidr).without(&holes));
            }
            let borrowed = inputs.borrowed().map(host);
            for single in borrowed.filter(within) {
                spans.extend(Span::all(single).without(&inputs.reserved));
            }
        }
    }
    spans
}

/// A block to take of the pool, or why there is none.
fn free_block(inputs: &Inputs, pool: &Pool) -> Result<Step, String> {
    if inputs.is_of_ranges(pool) {
        return Err("its addresses are those of nodes' own ranges".to_owned());
    }
    let own = inputs.own_blocks().count();
    if own >= inputs.max_blocks {
        return Err(format!("the node has {own} blocks, as many as it may"));
    }
    if let Some(block) = unclaimed(inputs, pool) {
        return Ok(Step::Claim(block));
    }
    let gone = inputs.blocks.iter().find(|(cidr, block)| {
        contains(&pool.cidr, cidr) && !inputs.nodes.contains_key(&block.node)
    });
    match gone {
        Some((cidr, _)) => Ok(Step::Adopt(*cidr)),
        None => Err("all of its blocks are claimed".to_owned()),
    }
}

/// The first block that nobody has, from a place on that differs from node to node.
fn unclaimed(inputs: &Inputs, pool: &Pool) -> Option<IpNetwork> {
    let ipv4 = pool.cidr.is_ipv4();
    let shift = u32::from(if ipv4 { 32 } else { 128 } - pool.block);
    let count = 1u128 << u32::from(pool.block - pool.cidr.prefix()).min(127);
    let start = u128::from(spread(&inputs.node)) % count;
    // Blocks of another size are of the time before the pool's was changed.
    let odd: Vec<&IpNetwork> = inputs
        .blocks
        .keys()
        .filter(|cidr| cidr.prefix() != pool.block)
        .collect();
    (0..count.min(MOST_PROBES))
        .filter_map(|probe| {
            let index = (start + probe) % count;
            let first = number(pool.cidr.network()) + index.checked_shl(shift).unwrap_or(0);
            IpNetwork::new(span::address(first, ipv4), pool.block).ok()
        })
        .find(|block| {
            let reserved = inputs.reserved.iter().any(|own| contains(own, block));
            let taken = inputs.blocks.contains_key(block);
            !reserved && !taken && !odd.iter().any(|other| overlap(other, block))
        })
}

/// The same number for a node always (FNV-1a).
fn spread(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
