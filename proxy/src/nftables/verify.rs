//! How many things a table holds, to compare what was written with what is there where the
//! kernel's notices do not tell.

use std::collections::BTreeMap;

use kernel::nftables::{Connection, Error, Op, Table, Transaction};

use super::layout::Shared;

/// Rules by chain, and elements by set, of those sets that only we fill.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    rules: BTreeMap<String, usize>,
    elements: BTreeMap<String, usize>,
}

/// What a transaction that writes everything leaves behind, and shared chains that were used
/// once: those stay.
pub(crate) fn expected<'a>(
    transaction: &Transaction,
    held: impl Iterator<Item = &'a Shared>,
) -> Counts {
    let mut counts = Counts::default();
    for op in &transaction.ops {
        match op {
            Op::AddChain(chain) => {
                counts.rules.entry(chain.name.to_string()).or_default();
            }
            Op::AddRule(rule) => *counts.rules.entry(rule.chain.to_string()).or_default() += 1,
            Op::AddSet(set) if !is_filled_by_packets(&set.name) => {
                counts.elements.entry(set.name.to_string()).or_default();
            }
            Op::AddElements { set, elements } if !is_filled_by_packets(&set.name) => {
                *counts.elements.entry(set.name.to_string()).or_default() += elements.len();
            }
            _ => {}
        }
    }
    for shared in held {
        counts.rules.entry(shared.name()).or_default();
    }
    counts
}

fn is_filled_by_packets(set: &str) -> bool {
    set.starts_with("clients-")
}

/// What the table holds. Chains that once were used may have any number of rules.
pub(crate) fn observe(
    connection: &mut Connection,
    table: &Table,
    expected: &Counts,
) -> Result<Counts, Error> {
    let mut found = Counts::default();
    for chain in missing_is_empty(connection.chains(table))? {
        found.rules.insert(chain.name, 0);
    }
    for rule in missing_is_empty(connection.rules(table, None))? {
        *found.rules.entry(rule.chain).or_default() += 1;
    }
    for (chain, count) in &mut found.rules {
        if expected.rules.get(chain) == Some(&0) {
            *count = 0;
        }
    }
    let sets = missing_is_empty(connection.sets(table))?;
    for set in sets
        .iter()
        .filter(|set| !set.anonymous && !is_filled_by_packets(&set.name))
    {
        let elements = missing_is_empty(connection.elements(table, &set.name))?;
        found.elements.insert(set.name.clone(), elements.len());
    }
    Ok(found)
}

fn missing_is_empty<T>(listed: Result<Vec<T>, Error>) -> Result<Vec<T>, Error> {
    match listed {
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        other => other,
    }
}
