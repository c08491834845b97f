//! From old and new pictures to the input of one `iptables-restore --noflush`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::base::{Jump, chains, jumps};
use super::names::PER_SERVICE;
use super::rules::{Rules, Settings, Table, rules};
use crate::config::Config;
use crate::model::{ServiceKey, ServicePicture};

/// Which Service the lines of an input belong to, to name the one whose line is refused.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Input {
    pub(crate) text: String,
    /// First line (from 1 on) and owner of runs of lines.
    owners: Vec<(usize, Option<ServiceKey>)>,
    lines: usize,
}

impl Input {
    fn line(&mut self, owner: Option<&ServiceKey>, line: std::fmt::Arguments<'_>) {
        self.lines += 1;
        if self
            .owners
            .last()
            .is_none_or(|(_, last)| last.as_ref() != owner)
        {
            self.owners.push((self.lines, owner.cloned()));
        }
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{line}");
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines == 0
    }

    /// Whose line it is.
    pub(crate) fn owner(&self, line: usize) -> Option<&ServiceKey> {
        let at = self
            .owners
            .partition_point(|(first, _)| *first <= line)
            .checked_sub(1)?;
        self.owners[at].1.as_ref()
    }
}

/// A Service whose picture changes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delta<'a> {
    pub(crate) key: &'a ServiceKey,
    /// What the kernel holds.
    pub(crate) old: Option<&'a ServicePicture>,
    pub(crate) new: Option<&'a ServicePicture>,
}

/// Changes of some Services, where everything else is in the kernel already.
pub(crate) fn incremental(deltas: &[Delta<'_>], settings: &Settings) -> Input {
    let of = |picture: Option<&ServicePicture>| {
        picture.map_or_else(Rules::default, |picture| rules(picture, settings))
    };
    let pairs: Vec<(&ServiceKey, Rules, Rules)> = deltas
        .iter()
        .map(|delta| (delta.key, of(delta.old), of(delta.new)))
        .collect();
    let mut input = Input::default();
    for table in Table::ALL {
        incremental_table(&mut input, table, &pairs);
    }
    input
}

fn incremental_table(input: &mut Input, table: Table, pairs: &[(&ServiceKey, Rules, Rules)]) {
    let mut body = Body::default();
    for (key, old, new) in pairs {
        let mut names: BTreeSet<&'static str> = BTreeSet::new();
        names.extend(
            old.shared
                .keys()
                .filter(|(t, _)| *t == table)
                .map(|(_, chain)| *chain),
        );
        names.extend(
            new.shared
                .keys()
                .filter(|(t, _)| *t == table)
                .map(|(_, chain)| *chain),
        );
        for chain in names {
            let empty = Vec::new();
            let before = old.shared.get(&(table, chain)).unwrap_or(&empty);
            let after = new.shared.get(&(table, chain)).unwrap_or(&empty);
            let gone = before.iter().filter(|rule| !after.contains(rule));
            body.deleted
                .extend(gone.map(|rule| (*key, format!("-D {chain} {rule}"))));
            let come = after.iter().filter(|rule| !before.contains(rule));
            // In front, since the last rule of some chains must stay the last.
            body.inserted
                .extend(come.map(|rule| (*key, format!("-I {chain} {rule}"))));
        }
        if table == Table::Nat {
            for (name, rules) in &new.chains {
                if old.chains.get(name) != Some(rules) {
                    body.chains.push((key, name, rules));
                }
            }
            let gone = old
                .chains
                .keys()
                .filter(|name| !new.chains.contains_key(*name));
            body.removed.extend(gone.map(|name| (*key, name.as_str())));
        }
    }
    body.write(input, table);
}

#[derive(Default)]
struct Body<'a> {
    chains: Vec<(&'a ServiceKey, &'a String, &'a Vec<String>)>,
    inserted: Vec<(&'a ServiceKey, String)>,
    deleted: Vec<(&'a ServiceKey, String)>,
    removed: Vec<(&'a ServiceKey, &'a str)>,
}

impl Body<'_> {
    fn write(&self, input: &mut Input, table: Table) {
        let nothing = self.chains.is_empty()
            && self.inserted.is_empty()
            && self.deleted.is_empty()
            && self.removed.is_empty();
        if nothing {
            return;
        }
        input.line(None, format_args!("*{}", table.name()));
        // A chain that is declared is emptied, and made where it is missing.
        for (key, name, _) in &self.chains {
            input.line(Some(key), format_args!(":{name} - [0:0]"));
        }
        for (key, name) in &self.removed {
            input.line(Some(key), format_args!(":{name} - [0:0]"));
        }
        for (key, name, rules) in &self.chains {
            for rule in *rules {
                input.line(Some(key), format_args!("-A {name} {rule}"));
            }
        }
        for (key, line) in self.deleted.iter().chain(&self.inserted) {
            input.line(Some(key), format_args!("{line}"));
        }
        for (key, name) in &self.removed {
            input.line(Some(key), format_args!("-X {name}"));
        }
        input.line(None, format_args!("COMMIT"));
    }
}

/// What is in the kernel, as far as a full write needs to know it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    /// The chains of each table.
    pub(crate) chains: BTreeMap<Table, BTreeSet<String>>,
    /// Jumps from the kernel's chains, as (table, from, to).
    pub(crate) jumps: BTreeSet<(Table, String, String)>,
    /// Rules in each chain.
    pub(crate) sizes: BTreeMap<(Table, String), usize>,
}

impl Observed {
    /// Reads what `iptables-save` printed.
    pub(crate) fn parse(saved: &str) -> Self {
        let mut observed = Self::default();
        let mut table = None;
        for line in saved.lines() {
            match line.as_bytes().first() {
                Some(b'*') => {
                    table = Table::ALL
                        .into_iter()
                        .find(|table| table.name() == &line[1..]);
                }
                Some(b':') => {
                    let name = line[1..].split(' ').next();
                    if let (Some(table), Some(name)) = (table, name) {
                        observed
                            .chains
                            .entry(table)
                            .or_default()
                            .insert(name.to_owned());
                    }
                }
                Some(b'-') => {
                    if let Some(table) = table {
                        observed.rule(table, line);
                    }
                }
                _ => {}
            }
        }
        observed
    }

    fn rule(&mut self, table: Table, line: &str) {
        let mut words = line.split(' ');
        let Some(from) = words.nth(1) else { return };
        *self.sizes.entry((table, from.to_owned())).or_default() += 1;
        if from.starts_with("KUBE-") {
            return;
        }
        let target = words.skip_while(|word| *word != "-j").nth(1);
        if let Some(to) = target.filter(|to| to.starts_with("KUBE-")) {
            self.jumps.insert((table, from.to_owned(), to.to_owned()));
        }
    }

    fn has(&self, jump: &Jump) -> bool {
        self.jumps
            .contains(&(jump.table, jump.from.to_owned(), jump.to.to_owned()))
    }
}

/// Everything anew, over whatever is there: other programs' chains and rules stay.
pub(crate) fn full(
    pictures: &BTreeMap<ServiceKey, std::sync::Arc<ServicePicture>>,
    observed: &Observed,
    config: &Config,
    settings: &Settings,
) -> Input {
    let all: Vec<(&ServiceKey, Rules)> = pictures
        .iter()
        .map(|(key, picture)| (key, rules(picture, settings)))
        .collect();
    let mut input = Input::default();
    let base = chains(config, settings.family);
    let jumps = jumps(config, settings.family);
    for table in Table::ALL {
        input.line(None, format_args!("*{}", table.name()));
        let own = |chain: &&(Table, &'static str, Vec<String>)| chain.0 == table;
        for (_, name, _) in base.iter().filter(own) {
            input.line(None, format_args!(":{name} - [0:0]"));
        }
        if table == Table::Nat {
            for (key, rules) in &all {
                for name in rules.chains.keys() {
                    input.line(Some(key), format_args!(":{name} - [0:0]"));
                }
            }
        }
        let stale = stale(table, &all, observed);
        for name in &stale {
            input.line(None, format_args!(":{name} - [0:0]"));
        }
        for (_, name, fixed) in base.iter().filter(own) {
            shared_chain(&mut input, table, name, fixed, &all);
        }
        if table == Table::Nat {
            for (key, rules) in &all {
                for (name, rules) in &rules.chains {
                    for rule in rules {
                        input.line(Some(key), format_args!("-A {name} {rule}"));
                    }
                }
            }
        }
        // Inserted in reverse, so that they stand in their order in front of other rules.
        for jump in jumps
            .iter()
            .rev()
            .filter(|jump| jump.table == table && !observed.has(jump))
        {
            input.line(None, format_args!("-I {} {}", jump.from, jump.rule));
        }
        for name in &stale {
            input.line(None, format_args!("-X {name}"));
        }
        input.line(None, format_args!("COMMIT"));
    }
    input
}

fn shared_chain(
    input: &mut Input,
    table: Table,
    name: &'static str,
    fixed: &[String],
    all: &[(&ServiceKey, Rules)],
) {
    for (key, rules) in all {
        for rule in rules.shared.get(&(table, name)).into_iter().flatten() {
            input.line(Some(key), format_args!("-A {name} {rule}"));
        }
    }
    for rule in fixed {
        input.line(None, format_args!("-A {name} {rule}"));
    }
}

/// Chains of Services that nobody wants any more.
fn stale<'a>(table: Table, all: &[(&ServiceKey, Rules)], observed: &'a Observed) -> Vec<&'a str> {
    if table != Table::Nat {
        return Vec::new();
    }
    let wanted: BTreeSet<&String> = all
        .iter()
        .flat_map(|(_, rules)| rules.chains.keys())
        .collect();
    let there = observed.chains.get(&table).into_iter().flatten();
    there
        .filter(|name| PER_SERVICE.iter().any(|prefix| name.starts_with(prefix)))
        .filter(|name| !wanted.contains(name))
        .map(String::as_str)
        .collect()
}

/// Removes everything of ours that is there.
pub(crate) fn cleanup(observed: &Observed, config: &Config, settings: &Settings) -> Input {
    let mut input = Input::default();
    let base = chains(config, settings.family);
    let jumps = jumps(config, settings.family);
    for table in Table::ALL {
        let empty = BTreeSet::new();
        let there = observed.chains.get(&table).unwrap_or(&empty);
        let ours: Vec<&str> = there
            .iter()
            .map(String::as_str)
            .filter(|name| {
                base.iter().any(|(t, base, _)| *t == table && base == name)
                    || (table == Table::Nat && PER_SERVICE.iter().any(|p| name.starts_with(p)))
            })
            .collect();
        if ours.is_empty() {
            continue;
        }
        input.line(None, format_args!("*{}", table.name()));
        for name in &ours {
            input.line(None, format_args!(":{name} - [0:0]"));
        }
        for jump in jumps
            .iter()
            .filter(|jump| jump.table == table && observed.has(jump))
        {
            input.line(None, format_args!("-D {} {}", jump.from, jump.rule));
        }
        for name in &ours {
            input.line(None, format_args!("-X {name}"));
        }
        input.line(None, format_args!("COMMIT"));
    }
    input
}

/// How many rules each of our chains has when everything is written, to notice changes by
/// others.
pub(crate) fn sizes(
    pictures: &BTreeMap<ServiceKey, std::sync::Arc<ServicePicture>>,
    config: &Config,
    settings: &Settings,
) -> BTreeMap<(Table, String), usize> {
    let mut sizes: BTreeMap<(Table, String), usize> = BTreeMap::new();
    for (table, name, fixed) in chains(config, settings.family) {
        sizes.insert((table, name.to_owned()), fixed.len());
    }
    for picture in pictures.values() {
        let rules = rules(picture, settings);
        for ((table, chain), rules) in &rules.shared {
            *sizes.entry((*table, (*chain).to_owned())).or_default() += rules.len();
        }
        for (name, rules) in rules.chains {
            sizes.insert((Table::Nat, name), rules.len());
        }
    }
    sizes
}

/// Whether the kernel still holds all of our chains, with as many rules as we wrote, and the
/// jumps to them.
pub(crate) fn intact(
    observed: &Observed,
    sizes: &BTreeMap<(Table, String), usize>,
    config: &Config,
    settings: &Settings,
) -> bool {
    let chain = |(table, name): &(Table, String)| {
        observed
            .chains
            .get(table)
            .is_some_and(|chains| chains.contains(name))
    };
    let rules = |key: &(Table, String)| observed.sizes.get(key).copied().unwrap_or_default();
    sizes
        .iter()
        .all(|(key, size)| chain(key) && rules(key) == *size)
        && jumps(config, settings.family)
            .iter()
            .all(|jump| observed.has(jump))
}
