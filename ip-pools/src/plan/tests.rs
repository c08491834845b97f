use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::Asked;
use crate::resources::IpPoolSpec;

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pool(inputs: &mut Inputs, name: &str, cidr: &str, change: impl FnOnce(&mut IpPoolSpec)) {
    let mut spec = IpPoolSpec {
        cidr: cidr.to_owned(),
        ..IpPoolSpec::default()
    };
    change(&mut spec);
    let read = Pool::read(name, &spec).unwrap();
    inputs.pools.insert(name.to_owned(), read);
}

fn block(inputs: &mut Inputs, cidr: &str, node: &str) {
    let block = Block {
        node: node.to_owned(),
        ..Block::default()
    };
    inputs.blocks.insert(net(cidr), block);
}

/// Node a of a cluster of two, each with a range of its own.
fn cluster() -> Inputs {
    let nodes = [("a", "10.244.1.0/24"), ("b", "10.244.2.0/24")];
    Inputs {
        node: "a".to_owned(),
        labels: [("rack".to_owned(), "1".to_owned())].into(),
        nodes: nodes
            .map(|(node, range)| (node.to_owned(), vec![net(range)]))
            .into(),
        max_blocks: 20,
        ..Inputs::default()
    }
}

/// The answer as text: spans, or the step that comes first.
fn told(decided: Result<Decision, Refusal>) -> String {
    let span = |own: &Span| format!("{}-{}", own.first, own.last);
    let source = |own: &Source| own.spans.iter().map(span).collect::<Vec<_>>().join(",");
    match decided {
        Ok(Decision::Answer(all)) => all.iter().map(source).collect::<Vec<_>>().join(" + "),
        Ok(Decision::First(step)) => format!("{step:?}"),
        Err(refusal) => format!("no: {refusal}"),
    }
}

fn check(inputs: &Inputs, wish: &Wish, full: &[&str], expected: &str) {
    let full = full.iter().map(|text| net(text)).collect();
    let told = told(decide(inputs, wish, &full));
    assert!(told.contains(expected), "{told}\n  instead of\n{expected}");
}

fn asking(pools: &[&str]) -> Wish {
    Wish {
        pools_v4: Some(pools.iter().map(|own| (*own).to_owned()).collect()),
        ..Wish::default()
    }
}

fn wanting(address: &str) -> Wish {
    Wish {
        addresses: vec![ip(address)],
        ..Wish::default()
    }
}

#[test]
fn without_pools_the_nodes_ranges_are_the_answer() {
    let mut inputs = cluster();
    check(&inputs, &Wish::default(), &[], "10.244.1.2-10.244.1.254");
    inputs.nodes.get_mut("a").unwrap().push(net("fd00:1::/64"));
    check(
        &inputs,
        &Wish::default(),
        &[],
        "10.244.1.2-10.244.1.254 + fd00:1::2-fd00:1::",
    );
    check(
        &inputs,
        &Wish::default(),
        &["10.244.1.0/24"],
        "10.244.1.0/24 is full",
    );
    inputs.nodes.clear();
    check(
        &inputs,
        &Wish::default(),
        &[],
        "neither a range of pod addresses of the node nor a pool",
    );
}

#[test]
fn a_pool_without_selectors_is_used_when_the_nodes_range_is_full() {
    let mut inputs = cluster();
    pool(&mut inputs, "more", "10.50.0.0/24", |_| {});
    check(&inputs, &Wish::default(), &[], "10.244.1.2-");
    let full = ["10.244.1.0/24"];
    check(
        &inputs,
        &Wish::default(),
        &full,
        "Claim(V4(Ipv4Network { addr: 10.50.0.",
    );
    block(&mut inputs, "10.50.0.64/26", "a");
    check(&inputs, &Wish::default(), &full, "10.50.0.65-10.50.0.127");
}

#[test]
fn a_pool_with_a_selector_comes_before_the_nodes_range() {
    let mut inputs = cluster();
    pool(&mut inputs, "team", "10.60.0.0/26", |spec| {
        spec.namespace_selector = Some("team == 'x'".into());
    });
    pool(&mut inputs, "elsewhere", "10.70.0.0/26", |spec| {
        spec.node_selector = Some("rack == '9'".into());
    });
    check(&inputs, &Wish::default(), &[], "10.244.1.2-");
    let of_team = Wish {
        namespace: [("team".to_owned(), "x".to_owned())].into(),
        ..Wish::default()
    };
    check(
        &inputs,
        &of_team,
        &[],
        "Claim(V4(Ipv4Network { addr: 10.60.0.0",
    );
    block(&mut inputs, "10.60.0.0/26", "b");
    // All of it is somebody else's: what fits next is taken before a neighbour is asked.
    check(&inputs, &of_team, &[], "10.244.1.2-");
    check(&inputs, &of_team, &["10.244.1.0/24"], "Ask");
}

#[test]
fn a_pool_that_has_nodes_ranges_has_no_blocks() {
    let mut inputs = cluster();
    pool(&mut inputs, "all", "10.244.0.0/16", |_| {});
    check(&inputs, &Wish::default(), &[], "10.244.1.2-10.244.1.254");
    check(
        &inputs,
        &Wish::default(),
        &["10.244.1.0/24"],
        "those of nodes' own ranges",
    );
    inputs.pools.get_mut("all").unwrap().disabled = true;
    check(
        &inputs,
        &Wish::default(),
        &[],
        "no IPPool of IPv4 is for this node",
    );
}

#[test]
fn pools_asked_for_by_name_or_range_are_taken_whatever_they_select() {
    let mut inputs = cluster();
    pool(&mut inputs, "x", "10.60.0.0/26", |spec| {
        spec.node_selector = Some("!all()".into())
    });
    pool(&mut inputs, "off", "10.61.0.0/26", |spec| {
        spec.disabled = true
    });
    check(
        &inputs,
        &asking(&["x"]),
        &[],
        "Claim(V4(Ipv4Network { addr: 10.60.0.0",
    );
    check(
        &inputs,
        &asking(&["10.60.0.0/26"]),
        &[],
        "Claim(V4(Ipv4Network { addr: 10.60.0.0",
    );
    check(&inputs, &asking(&["off"]), &[], "\"off\" is disabled");
    check(&inputs, &asking(&["none"]), &[], "no IPPool \"none\"");
    check(&inputs, &asking(&[]), &[], "no IPPool of IPv4");
}

#[test]
fn reserved_and_lent_addresses_are_left_out() {
    let mut inputs = cluster();
    pool(&mut inputs, "x", "10.60.0.0/28", |_| {});
    block(&mut inputs, "10.60.0.0/28", "a");
    inputs.reserved = vec![net("10.60.0.8/29"), net("10.244.1.0/25")];
    let lent = &mut inputs.blocks.get_mut(&net("10.60.0.0/28")).unwrap().lent;
    lent.insert(ip("10.60.0.3"), "b".to_owned());
    check(
        &inputs,
        &asking(&["x"]),
        &[],
        "10.60.0.1-10.60.0.2,10.60.0.4-10.60.0.7",
    );
    check(&inputs, &Wish::default(), &[], "10.244.1.128-10.244.1.254");
    // Whoever asks for it gets a reserved one.
    check(&inputs, &wanting("10.60.0.9"), &[], "10.60.0.9-10.60.0.9");
}

#[test]
fn blocks_are_taken_where_nobody_has_one_then_of_nodes_that_are_gone() {
    let mut inputs = cluster();
    pool(&mut inputs, "x", "10.60.0.0/27", |spec| {
        spec.block_size = Some(28)
    });
    block(&mut inputs, "10.60.0.0/28", "gone");
    check(
        &inputs,
        &asking(&["x"]),
        &[],
        "Claim(V4(Ipv4Network { addr: 10.60.0.16",
    );
    block(&mut inputs, "10.60.0.16/28", "b");
    check(
        &inputs,
        &asking(&["x"]),
        &[],
        "Adopt(V4(Ipv4Network { addr: 10.60.0.0",
    );
    inputs.max_blocks = 0;
    check(&inputs, &asking(&["x"]), &[], "Ask");
    inputs.strict_affinity = true;
    let expected = "of pool x (10.60.0.0/27) no part of this node's has a free one and the node has 0 blocks, as many as it may; nodes do not lend";
    check(&inputs, &asking(&["x"]), &[], expected);
}

#[test]
fn a_neighbour_is_asked_once_and_its_answer_counts() {
    let mut inputs = cluster();
    pool(&mut inputs, "x", "10.60.0.0/28", |_| {});
    block(&mut inputs, "10.60.0.0/28", "b");
    let there = net("10.60.0.0/28");
    check(&inputs, &asking(&["x"]), &[], "Ask");
    let asked = |inputs: &mut Inputs, asked: Asked| {
        let block = inputs.blocks.get_mut(&there).unwrap();
        block.asked.insert("a".to_owned(), asked);
    };
    asked(&mut inputs, Asked::default());
    check(&inputs, &asking(&["x"]), &[], "Wait");
    let no = Asked {
        refused: Some("none is free".into()),
        ..Asked::default()
    };
    asked(&mut inputs, no);
    check(
        &inputs,
        &asking(&["x"]),
        &[],
        "node b lends none of 10.60.0.0/28: none is free",
    );
    assert_eq!(chores(&inputs, &BTreeSet::new()), [Chore::TakeBack(there)]);
    let block = inputs.blocks.get_mut(&there).unwrap();
    block.asked.clear();
    block.lent.insert(ip("10.60.0.15"), "a".to_owned());
    check(&inputs, &asking(&["x"]), &[], "10.60.0.15-10.60.0.15");
    check(&inputs, &asking(&["x"]), &["10.60.0.15/32"], "Ask");
    assert_eq!(inputs.published(), [net("10.60.0.15/32")].into());
}

#[test]
fn an_address_asked_for_is_found_wherever_it_is() {
    let mut inputs = cluster();
    pool(&mut inputs, "x", "10.60.0.0/24", |_| {});
    block(&mut inputs, "10.60.0.64/26", "a");
    block(&mut inputs, "10.60.0.128/26", "b");
    let full = ["10.60.0.64/26"];
    check(
        &inputs,
        &wanting("10.244.1.7"),
        &full,
        "10.244.1.7-10.244.1.7",
    );
    check(
        &inputs,
        &wanting("10.244.1.1"),
        &full,
        "10.244.1.1 is the first of its range",
    );
    check(
        &inputs,
        &wanting("10.244.2.7"),
        &full,
        "in the pod range 10.244.2.0/24 of node b",
    );
    check(
        &inputs,
        &wanting("10.60.0.70"),
        &full,
        "10.60.0.70-10.60.0.70",
    );
    check(
        &inputs,
        &wanting("10.60.0.7"),
        &full,
        "Claim(V4(Ipv4Network { addr: 10.60.0.0",
    );
    check(
        &inputs,
        &wanting("10.60.0.64"),
        &full,
        "10.60.0.64 is the first",
    );
    check(&inputs, &wanting("10.60.0.130"), &full, "Ask");
    check(
        &inputs,
        &wanting("192.0.2.7"),
        &full,
        "192.0.2.7 is in no IPPool",
    );
    inputs.strict_affinity = true;
    check(&inputs, &wanting("10.60.0.130"), &full, "nodes do not lend");
    inputs.nodes.remove("b");
    check(&inputs, &wanting("10.60.0.130"), &full, "Adopt");
}

#[test]
fn empty_blocks_are_released_but_one_of_each_pool() {
    let mut inputs = cluster();
    pool(&mut inputs, "x", "10.60.0.0/24", |_| {});
    pool(&mut inputs, "off", "10.61.0.0/24", |spec| {
        spec.disabled = true
    });
    for cidr in [
        "10.60.0.0/26",
        "10.60.0.64/26",
        "10.60.0.128/26",
        "10.61.0.0/26",
    ] {
        block(&mut inputs, cidr, "a");
    }
    block(&mut inputs, "10.60.0.192/26", "b");
    let used = [ip("10.60.0.5")].into();
    let expected = ["10.60.0.128/26", "10.61.0.0/26"].map(|own| Chore::Release(net(own)));
    assert_eq!(chores(&inputs, &used), expected);
    let lent = &mut inputs.blocks.get_mut(&net("10.60.0.128/26")).unwrap().lent;
    lent.insert(ip("10.60.0.129"), "b".into());
    assert_eq!(
        chores(&inputs, &used),
        [Chore::Release(net("10.61.0.0/26"))]
    );
}

/// The API and three nodes, whose views may be old, of others' writes.
struct World {
    api: BTreeMap<IpNetwork, Block>,
    views: Vec<Inputs>,
    used: Vec<BTreeSet<IpAddr>>,
    withdrawn: Vec<BTreeSet<IpNetwork>>,
}

impl World {
    fn new() -> Self {
        let view = |node: &str| {
            let mut inputs = Inputs {
                node: node.to_owned(),
                nodes: ["a", "b", "c"]
                    .map(|own| (own.to_owned(), Vec::new()))
                    .into(),
                max_blocks: 4,
                ..Inputs::default()
            };
            pool(&mut inputs, "x", "10.60.0.0/28", |spec| {
                spec.block_size = Some(30)
            });
            inputs
        };
        Self {
            api: BTreeMap::new(),
            views: ["a", "b", "c"].map(view).into(),
            used: vec![BTreeSet::new(); 3],
            withdrawn: vec![BTreeSet::new(); 3],
        }
    }

    /// A write that counts only if the node has seen the newest; what it was answered it knows.
    fn write(&mut self, node: usize, cidr: IpNetwork, change: impl FnOnce(&mut Option<Block>)) {
        let mut entry = self.api.get(&cidr).cloned();
        if entry == self.views[node].blocks.get(&cidr).cloned() {
            change(&mut entry);
            match entry.clone() {
                Some(block) => self.api.insert(cidr, block),
                None => self.api.remove(&cidr),
            };
        }
        match entry {
            Some(block) => self.views[node].blocks.insert(cidr, block),
            None => self.views[node].blocks.remove(&cidr),
        };
    }

    fn withdraw(&mut self, node: usize, network: IpNetwork) -> bool {
        let free = !self.used[node].iter().any(|own| network.contains(*own));
        free && {
            self.withdrawn[node].insert(network);
            true
        }
    }

    /// As the driver's: what the node has is given again.
    fn settle(&mut self, node: usize) {
        let inputs = &self.views[node];
        let single: BTreeSet<IpAddr> = inputs.borrowed().collect();
        // A block of which it borrows now, and which was its own once.
        let whole = self.withdrawn[node]
            .iter()
            .filter(|own| !span::is_host(own));
        let split: Vec<IpNetwork> = whole
            .filter(|own| single.iter().any(|address| own.contains(*address)))
            .copied()
            .collect();
        for cidr in split {
            let others = cidr.iter().filter(|own| !single.contains(own)).map(host);
            self.withdrawn[node].extend(others);
            self.withdrawn[node].remove(&cidr);
        }
        self.withdrawn[node].retain(|network| {
            let whole = inputs.own_blocks().any(|(cidr, _)| cidr == network);
            let part = inputs.own_blocks().any(|(cidr, own)| {
                cidr.contains(network.ip()) && !own.lent.contains_key(&network.ip())
            });
            let borrowed = single.contains(&network.ip());
            !(whole || (span::is_host(network) && (part || borrowed)))
        });
    }

    /// A pod starts: it gets an address, or the node takes one step, or there is none.
    fn add(&mut self, node: usize, keep: usize) {
        let mut full = BTreeSet::new();
        loop {
            match decide(&self.views[node], &Wish::default(), &full) {
                Ok(Decision::Answer(sources)) => {
                    let spans = &sources[0].spans;
                    let taken = |own: &IpAddr| {
                        self.used[node].contains(own)
                            || self.withdrawn[node]
                                .iter()
                                .any(|network| network.contains(*own))
                    };
                    let all = (0..16u8).map(|last| IpAddr::from([10, 60, 0, last]));
                    let offered = all.filter(|own| spans.iter().any(|span| span.contains(*own)));
                    let free: Vec<IpAddr> = offered.filter(|own| !taken(own)).collect();
                    if !free.is_empty() {
                        self.used[node].insert(free[keep % free.len()]);
                        return;
                    }
                    full.extend(spans.iter().map(|span| span.subnet));
                }
                Ok(Decision::First(step)) => return self.step(node, step),
                Err(_) => return,
            }
        }
    }

    fn step(&mut self, node: usize, step: Step) {
        let name = self.views[node].node.clone();
        match step {
            Step::Claim(cidr) => self.write(node, cidr, |entry| {
                *entry = Some(Block {
                    node: name,
                    ..Block::default()
                });
            }),
            Step::Ask { block, .. } => self.write(node, block, |entry| {
                if let Some(own) = entry {
                    own.asked.insert(name, Asked::default());
                }
            }),
            Step::Adopt(_) | Step::Wait(_) => {}
        }
    }

    /// As the driver: lending at once, the rest from time to time (`tidy`). A no that was taken
    /// back before the next node is asked would be asked for again, for ever.
    fn chores(&mut self, node: usize, tidy: bool) {
        self.settle(node);
        let name = self.views[node].node.clone();
        let mut due = chores(&self.views[node].clone(), &self.used[node].clone());
        due.retain(|chore| tidy || matches!(chore, Chore::Lend { .. }));
        for chore in due {
            match chore {
                Chore::Release(cidr) => {
                    if self.withdraw(node, cidr) {
                        self.write(node, cidr, |entry| *entry = None);
                    }
                }
                Chore::Return { block, address } => {
                    if self.withdraw(node, host(address)) {
                        self.write(node, block, |entry| {
                            if let Some(own) = entry {
                                own.lent.remove(&address);
                            }
                        });
                    }
                }
                Chore::TakeBack(block) => self.write(node, block, |entry| {
                    if let Some(own) = entry {
                        own.asked.remove(&name);
                    }
                }),
                Chore::Lend { block, to, .. } => {
                    let lent = self.views[node].blocks[&block].lent.clone();
                    let all = block.iter().skip(1).filter(|own| !lent.contains_key(own));
                    let found = all
                        .collect::<Vec<_>>()
                        .into_iter()
                        .find(|own| self.withdraw(node, host(*own)));
                    self.write(node, block, |entry| {
                        let Some(own) = entry else { return };
                        match found {
                            Some(address) => {
                                own.asked.remove(&to);
                                own.lent.insert(address, to);
                            }
                            None => {
                                own.asked.entry(to).or_default().refused = Some("none".into());
                            }
                        }
                    });
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever the order, and however old the views of others' writes are, no address is two
    /// nodes'; and when all is quiet, a node that asks gets what is free.
    #[test]
    fn no_address_is_ever_two_nodes(operations in proptest::collection::vec((0usize..3, 0u8..6, 0usize..16), 1..120)) {
        let mut world = World::new();
        for (node, operation, number) in operations {
            match operation {
                0 | 1 => world.add(node, number),
                2 => {
                    let used = &mut world.used[node];
                    if let Some(gone) = used.iter().nth(number % used.len().max(1)).copied() {
                        used.remove(&gone);
                    }
                }
                3 => world.views[node].blocks = world.api.clone(),
                _ => world.chores(node, operation == 4),
            }
            let total: usize = world.used.iter().map(BTreeSet::len).sum();
            let all: BTreeSet<IpAddr> = world.used.iter().flatten().copied().collect();
            prop_assert_eq!(all.len(), total);
        }
        let before = world.used[0].len();
        let taken: usize = world.used.iter().map(BTreeSet::len).sum();
        for round in 0..60 {
            for node in 0..3 {
                world.views[node].blocks = world.api.clone();
                world.chores(node, round % 20 == 0);
            }
            if world.used[0].len() == before {
                world.add(0, 0);
            }
        }
        prop_assert!(world.used[0].len() > before || taken == 12, "{} of 12 are taken", taken);
    }
}
