//! From old and new pictures to the input of one `iptables-restore --noflush`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::base::{Jump, chains, jumps};
use super::names::{EXTERNAL_SERVICES, NODEPORTS, PER_SERVICE, PROXY_FIREWALL, SERVICES};
use super::rules::{Rules, Settings, Table, rules};
use crate::config::Config;
use crate::model::{ServiceKey, ServicePicture};

/// Chains of our own that hold rules of the Services.
const SHARED: [&str; 4] = [SERVICES, NODEPORTS, EXTERNAL_SERVICES, PROXY_FIREWALL];

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
        incremental_table(&mut input, table, &pairs, settings);
    }
    input
}

fn incremental_table(
    input: &mut Input,
    table: Table,
    pairs: &[(&ServiceKey, Rules, Rules)],
    settings: &Settings,
) {
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
            body.rules
                .extend(gone.map(|rule| (Some(*key), format!("-D {chain} {rule}"))));
            let come = after.iter().filter(|rule| !before.contains(rule));
            // In front, since the last rule of some chains must stay the last.
            body.rules
                .extend(come.map(|rule| (Some(*key), format!("-I {chain} {rule}"))));
        }
        if table == Table::Nat {
            let changed = new
                .chains
                .iter()
                .filter(|(name, rules)| old.chains.get(*name) != Some(rules));
            body.chains
                .extend(changed.map(|(name, rules)| (Some(*key), name.as_str(), rules.as_slice())));
            let gone = old
                .chains
                .keys()
                .filter(|name| !new.chains.contains_key(*name));
            body.removed
                .extend(gone.map(|name| (Some(*key), name.as_str())));
        }
    }
    body.write(input, table, settings);
}

type Owner<'a> = Option<&'a ServiceKey>;

/// What is to happen in a table, in this order.
#[derive(Default)]
struct Body<'a> {
    /// Chains to be made, or emptied, and filled.
    chains: Vec<(Owner<'a>, &'a str, &'a [String])>,
    /// Chains that Services share, to be emptied before the rules come.
    shared: Vec<&'a str>,
    /// Single rules, with their command.
    rules: Vec<(Owner<'a>, String)>,
    /// Chains to be deleted.
    removed: Vec<(Owner<'a>, &'a str)>,
}

/// Chains that others jump to come first.
fn rank(chain: &str) -> usize {
    let order = [
        "KUBE-MARK-",
        "KUBE-SEP-",
        "KUBE-SVC-",
        "KUBE-SVL-",
        "KUBE-EXT-",
        "KUBE-FW-",
    ];
    order
        .iter()
        .position(|prefix| chain.starts_with(prefix))
        .unwrap_or(order.len())
}

impl Body<'_> {
    /// Writes the table's lines, in one section or in several that each take effect as a
    /// whole: nothing refers to a chain of a later section.
    fn write(mut self, input: &mut Input, table: Table, settings: &Settings) {
        let limit = settings.section.unwrap_or(usize::MAX);
        let all = self.chains.len() + self.removed.len();
        if all + self.rules.len() == 0 {
            return;
        }
        if all <= limit {
            input.line(None, format_args!("*{}", table.name()));
            declare(
                input,
                self.chains.iter().map(|(owner, name, _)| (*owner, *name)),
            );
            declare(input, self.shared.iter().map(|name| (None, *name)));
            declare(input, self.removed.iter().copied());
            self.fill(input, &self.chains);
            self.finish(input, &self.removed);
            input.line(None, format_args!("COMMIT"));
            return;
        }
        self.chains.sort_by_key(|(_, name, _)| rank(name));
        let section = |input: &mut Input, body: &mut dyn FnMut(&mut Input)| {
            input.line(None, format_args!("*{}", table.name()));
            body(input);
            input.line(None, format_args!("COMMIT"));
        };
        for part in self.chains.chunks(limit) {
            section(input, &mut |input| {
                declare(input, part.iter().map(|(owner, name, _)| (*owner, *name)));
                self.fill(input, part);
            });
        }
        section(input, &mut |input| {
            declare(input, self.shared.iter().map(|name| (None, *name)));
            self.finish(input, &[]);
        });
        for part in self.removed.chunks(limit) {
            section(input, &mut |input| declare(input, part.iter().copied()));
        }
        for part in self.removed.chunks(limit) {
            section(input, &mut |input| remove(input, part));
        }
    }

    fn fill(&self, input: &mut Input, chains: &[(Owner<'_>, &str, &[String])]) {
        for (owner, name, rules) in chains {
            for rule in *rules {
                input.line(*owner, format_args!("-A {name} {rule}"));
            }
        }
    }

    fn finish(&self, input: &mut Input, removed: &[(Owner<'_>, &str)]) {
        for (owner, line) in &self.rules {
            input.line(*owner, format_args!("{line}"));
        }
        remove(input, removed);
    }
}

/// A chain that is declared is emptied, and made where it is missing.
fn declare<'a>(input: &mut Input, chains: impl Iterator<Item = (Owner<'a>, &'a str)>) {
    for (owner, name) in chains {
        input.line(owner, format_args!(":{name} - [0:0]"));
    }
}

fn remove(input: &mut Input, chains: &[(Owner<'_>, &str)]) {
    for (owner, name) in chains {
        input.line(*owner, format_args!("-X {name}"));
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
        let mut body = Body::default();
        if table == Table::Nat {
            for (key, rules) in &all {
                let own = rules.chains.iter();
                body.chains
                    .extend(own.map(|(name, r)| (Some(*key), name.as_str(), r.as_slice())));
            }
        }
        for (_, name, fixed) in base.iter().filter(|(of, ..)| *of == table) {
            if !SHARED.contains(name) {
                body.chains.push((None, *name, fixed));
                continue;
            }
            body.shared.push(*name);
            for (key, rules) in &all {
                let shared = rules.shared.get(&(table, *name)).into_iter().flatten();
                body.rules
                    .extend(shared.map(|rule| (Some(*key), format!("-A {name} {rule}"))));
            }
            body.rules
                .extend(fixed.iter().map(|rule| (None, format!("-A {name} {rule}"))));
        }
        // Inserted in reverse, so that they stand in their order in front of other rules.
        let missing = jumps
            .iter()
            .rev()
            .filter(|j| j.table == table && !observed.has(j));
        body.rules
            .extend(missing.map(|jump| (None, format!("-I {} {}", jump.from, jump.rule))));
        body.removed.extend(
            stale(table, &all, observed)
                .into_iter()
                .map(|name| (None, name)),
        );
        body.write(&mut input, table, settings);
    }
    input
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

/// A digest of all that is ours, in the spelling of `iptables-save`, without counters.
pub(crate) fn digest(saved: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    for line in saved.lines() {
        let ours = match line.as_bytes().first() {
            Some(b'*') => true,
            Some(b'-') => line.contains("KUBE-"),
            _ => false,
        };
        if ours {
            line.hash(&mut hasher);
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests;
