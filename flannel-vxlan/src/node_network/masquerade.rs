//! What pods send to anywhere outside the pod network gets the node's address.

use std::sync::Arc;

use ipnetwork::IpNetwork;
use kernel::nftables::{
    BaseChain, Chain, Connection, DataType, Element, Error, Family, Field, Hook, Rule, Set,
    Statement, Table, Transaction,
};

pub const TABLE: &str = "fairlead-masquerade";
const CHAIN: &str = "postrouting";
/// The mark of packets that the Service proxy masquerades itself.
const PROXY_MARK: u32 = 0x4000;

/// Which packets are masqueraded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Masquerade {
    /// The node's own pod ranges: what comes from elsewhere was masqueraded there.
    pub sources: Vec<IpNetwork>,
    /// Destinations that see the pods' own addresses: the pod network, and what the operator
    /// says.
    pub exceptions: Vec<IpNetwork>,
}

fn table() -> Table {
    Table::new(Family::Inet, TABLE)
}

impl Masquerade {
    /// For a node's ranges: those of pools that keep their addresses are left out, and no pool
    /// sees another address than the pod's.
    pub fn of(own: &[IpNetwork], mut exceptions: Vec<IpNetwork>, pools: &ip_pools::Ranges) -> Self {
        exceptions.extend(own);
        exceptions.extend(&pools.all);
        let keeps = |range: &IpNetwork| {
            let mut all = pools.not_masqueraded.iter();
            all.any(|pool| ip_pools::span::contains(pool, range))
        };
        Self {
            sources: own.iter().copied().filter(|range| !keeps(range)).collect(),
            exceptions,
        }
    }

    /// Makes the rules so; `true` when they were not.
    pub fn apply(&self, connection: &mut Connection) -> Result<bool, Error> {
        let transaction = self.transaction();
        let fingerprint = fingerprint(&transaction);
        if is_written(connection, &fingerprint)? {
            return Ok(false);
        }
        let mut marked = transaction;
        if let Some(rule) = last_rule(&mut marked) {
            rule.comment = Some(fingerprint.as_str().into());
        }
        connection.apply(&marked).map(|()| true)
    }

    /// The whole table, in place of whatever it was.
    pub fn transaction(&self) -> Transaction {
        let table = table();
        let mut transaction = Transaction::new();
        transaction.reset_table(&table);
        let base = BaseChain::nat(Hook::Postrouting, 100);
        transaction.add_chain(Chain::new(&table, CHAIN).base(base));
        let mut add = |body| {
            transaction.add_rule(Rule::new(&table, CHAIN, body));
        };
        add(vec![
            Statement::mark(PROXY_MARK, PROXY_MARK),
            Statement::return_(),
        ]);
        let mut sets = Vec::new();
        for v6 in [false, true] {
            let of = |networks: &[IpNetwork]| -> Vec<IpNetwork> {
                merged(
                    networks
                        .iter()
                        .copied()
                        .filter(|n| n.is_ipv6() == v6)
                        .collect(),
                )
            };
            let multicast = if v6 { "ff00::/8" } else { "224.0.0.0/4" };
            let mut exceptions = self.exceptions.clone();
            exceptions.extend(multicast.parse::<IpNetwork>());
            let (sources, exceptions) = (of(&self.sources), of(&exceptions));
            let suffix = if v6 { "6" } else { "4" };
            let set = |name: &str| {
                let name = format!("{name}{suffix}");
                Arc::new(Set::new(&table, name, vec![DataType::address(v6)]).interval())
            };
            let (from, to) = (set("pods"), set("exceptions"));
            add(vec![
                Statement::is_in([Field::saddr(v6)], from.name.clone()),
                Statement::not_in([Field::daddr(v6)], to.name.clone()),
                Statement::Masquerade { fully_random: true },
            ]);
            sets.push((from, sources));
            sets.push((to, exceptions));
        }
        with_sets(transaction, &table, sets)
    }
}

/// Sets have to be there before the rules that name them.
fn with_sets(
    rules: Transaction,
    table: &Table,
    sets: Vec<(Arc<Set>, Vec<IpNetwork>)>,
) -> Transaction {
    let mut transaction = Transaction::new();
    transaction.reset_table(table);
    for (set, networks) in sets {
        transaction.add_set(&set);
        transaction.add_elements(&set, networks.into_iter().map(Element::network).collect());
    }
    transaction.ops.extend(rules.ops.into_iter().skip(3));
    transaction
}

/// Without those that others contain: an interval set takes no overlaps.
fn merged(mut networks: Vec<IpNetwork>) -> Vec<IpNetwork> {
    networks.sort_by_key(|network| (network.prefix(), network.network()));
    let mut kept: Vec<IpNetwork> = Vec::new();
    for network in networks {
        if !kept.iter().any(|other| other.contains(network.network())) {
            kept.push(network);
        }
    }
    kept.sort();
    kept
}

fn last_rule(transaction: &mut Transaction) -> Option<&mut Rule> {
    transaction.ops.iter_mut().rev().find_map(|op| match op {
        kernel::nftables::Op::AddRule(rule) => Some(rule),
        _ => None,
    })
}

/// Tells whether the rules in the kernel are these: a hash of their text.
fn fingerprint(transaction: &Transaction) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(transaction.to_string());
    let hex: String = digest
        .iter()
        .take(12)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("fairlead {hex}")
}

fn is_written(connection: &mut Connection, fingerprint: &str) -> Result<bool, Error> {
    let rules = match connection.rules(&table(), Some(CHAIN)) {
        Err(error) if error.is_not_found() => return Ok(false),
        other => other?,
    };
    let whole = rules.len() == RULES;
    Ok(whole
        && rules
            .last()
            .is_some_and(|rule| rule.comment.as_deref() == Some(fingerprint)))
}

/// How many rules there are; one that somebody took away is missed by the number.
const RULES: usize = 3;

/// Takes the table away; `true` when there was one.
pub(super) fn remove(connection: &mut Connection) -> Result<bool, Error> {
    if !connection
        .tables()?
        .iter()
        .any(|listed| listed.table == table())
    {
        return Ok(false);
    }
    let mut transaction = Transaction::new();
    transaction.remove_table(&table());
    connection.apply(&transaction).map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_within_others_are_left_out() {
        let nets = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<_>>();
        let all = nets(&[
            "10.244.1.0/24",
            "10.0.0.0/8",
            "192.0.2.0/24",
            "192.0.2.0/24",
        ]);
        assert_eq!(merged(all), nets(&["10.0.0.0/8", "192.0.2.0/24"]));
    }

    #[test]
    fn pods_of_a_pool_without_nat_keep_their_addresses() {
        let net = |text: &str| -> IpNetwork { text.parse().unwrap() };
        let pools = ip_pools::Ranges {
            all: [net("10.50.0.0/16"), net("10.60.0.0/16")].into(),
            not_masqueraded: [net("10.60.0.0/16")].into(),
        };
        let own = [net("10.50.1.0/26"), net("10.60.1.0/26")];
        let made = Masquerade::of(&own, vec![net("10.244.0.0/16")], &pools);
        assert_eq!(made.sources, [net("10.50.1.0/26")]);
        for range in ["10.244.0.0/16", "10.50.0.0/16", "10.60.0.0/16"] {
            assert!(made.exceptions.contains(&net(range)), "{range}");
        }
    }

    #[test]
    fn the_fingerprint_changes_with_the_exceptions() {
        let base = Masquerade {
            sources: vec!["10.1.0.0/24".parse().unwrap()],
            exceptions: vec![],
        };
        let mut other = base.clone();
        other.exceptions.push("10.0.0.0/8".parse().unwrap());
        assert_eq!(
            fingerprint(&base.transaction()),
            fingerprint(&base.transaction())
        );
        assert_ne!(
            fingerprint(&base.transaction()),
            fingerprint(&other.transaction())
        );
    }
}
