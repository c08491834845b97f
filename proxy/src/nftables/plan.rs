//! Transactions: everything anew, or what changed since the state last committed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kernel::nftables::{
    Chain, Element, ElementData, ElementKey, Key, Op, Rule, Statement, Transaction,
};

use super::content::Content;
use super::layout::{Layout, Map, Shared, Translation};

/// What is in the kernel besides the Services' own content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Shared chains. They stay when nobody uses them any more: there are few.
    pub(crate) shared: BTreeSet<Shared>,
    /// By how many Services each element is used that they may have in common.
    pub(crate) counted: BTreeMap<(Map, Key), usize>,
    /// With IPVS: pairs of back ends that are gone, of which [`finish`] disposes. A connection
    /// may still begin until IPVS knows that they are.
    pub(crate) late: BTreeSet<Key>,
}

/// The operations from the old contents of some Services to their new ones.
pub(crate) fn changes(
    pairs: &[(Content, Content)],
    held: &mut Held,
    layout: &Layout,
    transaction: &mut Transaction,
) {
    let wanted = pairs.iter().flat_map(|(_, new)| &new.shared);
    let missing: BTreeSet<Shared> = wanted
        .filter(|shared| !held.shared.contains(shared))
        .copied()
        .collect();
    for shared in &missing {
        transaction.add_chain(Chain::new(&layout.table, shared.name()));
    }
    for shared in &missing {
        rules(
            transaction,
            layout,
            &shared.name(),
            &layout.shared_rules(*shared),
        );
    }
    held.shared.extend(missing);
    add_own(pairs, layout, transaction);
    elements(pairs, held, layout, transaction);
    remove_own(pairs, layout, transaction);
}

fn rules(transaction: &mut Transaction, layout: &Layout, chain: &str, rules: &[Vec<Statement>]) {
    for body in rules {
        transaction.add_rule(Rule::new(&layout.table, chain, body.clone()));
    }
}

/// Sets and chains of the Services' own; first all chains, since rules refer to them.
fn add_own(pairs: &[(Content, Content)], layout: &Layout, transaction: &mut Transaction) {
    for (old, new) in pairs {
        for (name, set) in &new.sets {
            match old.sets.get(name) {
                Some(before) if before == set => {}
                // A set cannot change its timeout: its clients are forgotten.
                Some(before) => {
                    release(pairs, &before.name, layout, transaction);
                    transaction.delete_set(before).add_set(set);
                }
                None => {
                    transaction.add_set(set);
                }
            }
        }
    }
    for (old, new) in pairs {
        for name in new
            .chains
            .keys()
            .filter(|name| !old.chains.contains_key(*name))
        {
            transaction.add_chain(Chain::new(&layout.table, name.as_str()));
        }
    }
    for (old, new) in pairs {
        for (name, body) in &new.chains {
            match old.chains.get(name) {
                Some(before) if before == body && !refers_to_replaced(old, new, body) => continue,
                Some(_) => {
                    transaction.flush_chain(&layout.table, name.as_str());
                }
                None => {}
            }
            rules(transaction, layout, name, body);
        }
    }
}

fn replaced<'a>(old: &'a Content, new: &'a Content) -> impl Iterator<Item = &'a String> {
    new.sets
        .iter()
        .filter(|(name, set)| old.sets.get(*name).is_some_and(|before| before != *set))
        .map(|(name, _)| name)
}

fn names_set(body: &[Vec<Statement>], set: &str) -> bool {
    body.iter().flatten().any(|statement| match statement {
        Statement::Lookup {
            set: kernel::nftables::SetRef::Named(name),
            ..
        }
        | Statement::Dynset { set: name, .. } => &**name == set,
        _ => false,
    })
}

fn refers_to_replaced(old: &Content, new: &Content, body: &[Vec<Statement>]) -> bool {
    replaced(old, new).any(|name| names_set(body, name))
}

/// Empties the chains that refer to a set, so that it can be deleted.
fn release(
    pairs: &[(Content, Content)],
    set: &str,
    layout: &Layout,
    transaction: &mut Transaction,
) {
    for (old, _) in pairs {
        for (name, body) in &old.chains {
            if names_set(body, set) {
                transaction.flush_chain(&layout.table, name.as_str());
            }
        }
    }
}

fn element(key: &Key, data: Option<&ElementData>) -> Element {
    Element {
        key: ElementKey::One(key.clone()),
        data: data.cloned(),
        timeout: None,
        comment: None,
    }
}

fn elements(
    pairs: &[(Content, Content)],
    held: &mut Held,
    layout: &Layout,
    transaction: &mut Transaction,
) {
    let mut gone: BTreeMap<Map, Vec<Element>> = BTreeMap::new();
    let mut come: BTreeMap<Map, Vec<Element>> = BTreeMap::new();
    for (old, new) in pairs {
        for ((map, key), data) in &old.elements {
            if new.elements.get(&(*map, key.clone())) != Some(data) {
                gone.entry(*map).or_default().push(element(key, None));
            }
        }
        for ((map, key), data) in &new.elements {
            if old.elements.get(&(*map, key.clone())) != Some(data) {
                come.entry(*map)
                    .or_default()
                    .push(element(key, data.as_ref()));
            }
        }
    }
    let (lost, found) = count(pairs, held);
    for (map, key) in &lost {
        if layout.translation == Translation::Ipvs && *map == Map::Hairpin {
            held.late.insert(key.clone());
        } else {
            gone.entry(*map).or_default().push(element(key, None));
        }
    }
    for (map, key) in &found {
        if *map != Map::Hairpin || !held.late.remove(key) {
            come.entry(*map).or_default().push(element(key, None));
        }
    }
    for (map, elements) in gone {
        transaction.delete_elements(layout.set(map), elements);
    }
    for (map, elements) in come {
        transaction.add_elements(layout.set(map), elements);
    }
}

/// Keeps the pairs of back ends that no Service has any more, until [`finish`].
pub(crate) fn keep(
    addresses: impl Iterator<Item = IpAddr>,
    held: &mut Held,
    layout: &Layout,
    transaction: &mut Transaction,
) {
    let pairs = addresses.map(|address| Key::from([address.into(), address.into()]));
    let unused: Vec<Key> = pairs
        .filter(|key| !held.counted.contains_key(&(Map::Hairpin, key.clone())))
        .filter(|key| held.late.insert(key.clone()))
        .collect();
    let elements: Vec<Element> = unused.iter().map(|key| element(key, None)).collect();
    if !elements.is_empty() {
        transaction.add_elements(layout.set(Map::Hairpin), elements);
    }
}

/// Removes what was only kept until IPVS knew of the changes.
pub(crate) fn finish(held: &mut Held, layout: &Layout, transaction: &mut Transaction) {
    let late = std::mem::take(&mut held.late);
    let elements: Vec<Element> = late.iter().map(|key| element(key, None)).collect();
    if !elements.is_empty() {
        transaction.delete_elements(layout.set(Map::Hairpin), elements);
    }
}

/// An element that Services may have in common.
type Shareable = (Map, Key);

/// Counts the users of elements that Services may have in common; answers with those that lost
/// their last user and those that got their first one.
fn count(pairs: &[(Content, Content)], held: &mut Held) -> (Vec<Shareable>, Vec<Shareable>) {
    let mut touched: BTreeMap<&(Map, Key), bool> = BTreeMap::new();
    for (old, new) in pairs {
        for element in new.counted.difference(&old.counted) {
            let users = held.counted.entry(element.clone()).or_default();
            touched.entry(element).or_insert(*users > 0);
            *users += 1;
        }
    }
    for (old, new) in pairs {
        for element in old.counted.difference(&new.counted) {
            let users = held.counted.entry(element.clone()).or_default();
            touched.entry(element).or_insert(*users > 0);
            *users = users.saturating_sub(1);
        }
    }
    held.counted.retain(|_, users| *users > 0);
    let (mut lost, mut found) = (Vec::new(), Vec::new());
    for (element, before) in touched {
        match (before, held.counted.contains_key(element)) {
            (true, false) => lost.push(element.clone()),
            (false, true) => found.push(element.clone()),
            _ => {}
        }
    }
    (lost, found)
}

/// Chains and sets that nobody refers to any more: by now the elements that did are gone.
fn remove_own(pairs: &[(Content, Content)], layout: &Layout, transaction: &mut Transaction) {
    let gone: Vec<&String> = pairs
        .iter()
        .flat_map(|(old, new)| {
            old.chains
                .keys()
                .filter(|name| !new.chains.contains_key(*name))
        })
        .collect();
    // They refer to each other: first all are emptied.
    for name in &gone {
        transaction.flush_chain(&layout.table, name.as_str());
    }
    for name in &gone {
        let (table, chain) = (layout.table.clone(), name.as_str().into());
        transaction.push(Op::DeleteChain { table, chain });
    }
    for (old, new) in pairs {
        for (_, set) in old
            .sets
            .iter()
            .filter(|(name, _)| !new.sets.contains_key(*name))
        {
            transaction.delete_set(set);
        }
    }
}

#[cfg(test)]
mod tests;
