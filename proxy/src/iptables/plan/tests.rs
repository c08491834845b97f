use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::backend::Pictures;
use crate::model::Family;
use crate::samples::{histories, play, variety};

fn config() -> Config {
    Config {
        cluster_cidrs: vec!["10.244.0.0/16".parse().expect("a range")],
        service_cidrs: vec!["10.96.0.0/12".parse().expect("a range")],
        ..Config::default()
    }
}

fn settings(section: Option<usize>) -> Settings {
    Settings {
        section,
        ..Settings::new(&config(), Family::V4)
    }
}

/// Tables as `iptables-restore --noflush` leaves them, strict about what is missing and what
/// is still used.
#[derive(Debug, Clone, PartialEq)]
struct Tables {
    chains: BTreeMap<(Table, String), Vec<String>>,
}

impl Tables {
    fn new() -> Self {
        let mut chains = BTreeMap::new();
        for name in ["INPUT", "FORWARD", "OUTPUT"] {
            chains.insert((Table::Filter, name.to_owned()), Vec::new());
        }
        for name in ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"] {
            chains.insert((Table::Nat, name.to_owned()), Vec::new());
        }
        Self { chains }
    }

    fn restore(&mut self, input: &Input) {
        let mut table = None;
        for line in input.text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = Table::ALL.into_iter().find(|table| table.name() == name);
                continue;
            }
            let Some(table) = table else {
                panic!("before any table: {line}");
            };
            if line == "COMMIT" {
                self.check(table);
            } else {
                self.line(table, line);
            }
        }
    }

    fn line(&mut self, table: Table, line: &str) {
        if let Some(rest) = line.strip_prefix(':') {
            let name = rest.split(' ').next().expect("a name");
            self.chains.insert((table, name.to_owned()), Vec::new());
            return;
        }
        let mut words = line.splitn(3, ' ');
        let (command, name) = (
            words.next().expect("a command"),
            words.next().expect("a chain"),
        );
        let rule = words.next().unwrap_or_default();
        let key = (table, name.to_owned());
        if command == "-X" {
            let rules = self.chains.remove(&key);
            assert_eq!(rules, Some(Vec::new()), "{line}");
            return;
        }
        let chain = self
            .chains
            .get_mut(&key)
            .unwrap_or_else(|| panic!("no chain: {line}"));
        match command {
            "-A" => chain.push(rule.to_owned()),
            "-I" => chain.insert(0, rule.to_owned()),
            "-D" => {
                let at = chain.iter().position(|held| held == rule);
                chain.remove(at.unwrap_or_else(|| panic!("no rule: {line}")));
            }
            other => panic!("not expected: {other}"),
        }
    }

    /// Every jump leads to a chain.
    fn check(&self, table: Table) {
        for ((_, from), rules) in self.chains.iter().filter(|((of, _), _)| *of == table) {
            for rule in rules {
                let to = rule.split(' ').skip_while(|word| *word != "-j").nth(1);
                if let Some(to) = to.filter(|to| to.starts_with("KUBE-")) {
                    let there = self.chains.contains_key(&(table, to.to_owned()));
                    assert!(there, "{from} jumps to {to}, which is not there");
                }
            }
        }
    }

    /// The order within shared chains is of no importance, but for what must be last.
    fn sorted(&self) -> Self {
        let fixed = |rule: &String| {
            rule.contains("must be the last") || rule.contains("no Service has this address")
        };
        let mut sorted = self.clone();
        for ((_, name), rules) in &mut sorted.chains {
            if SHARED.contains(&name.as_str()) {
                let first_fixed = rules.iter().position(fixed).unwrap_or(rules.len());
                assert!(rules[first_fixed..].iter().all(fixed), "{rules:?}");
                rules[..first_fixed].sort();
            }
        }
        sorted
    }

    /// As `iptables-save` prints them.
    fn saved(&self) -> String {
        let mut text = String::new();
        for table in Table::ALL {
            let _ = writeln!(text, "*{}", table.name());
            let own = || self.chains.iter().filter(|((of, _), _)| *of == table);
            for ((_, name), _) in own() {
                let _ = writeln!(text, ":{name} - [0:0]");
            }
            for ((_, name), rules) in own() {
                for rule in rules {
                    let _ = writeln!(text, "-A {name} {rule}");
                }
            }
            text.push_str("COMMIT\n");
        }
        text
    }
}

fn fresh(pictures: &Pictures, settings: &Settings) -> Tables {
    let mut tables = Tables::new();
    let observed = Observed::parse(&tables.saved());
    tables.restore(&full(pictures, &observed, &config(), settings));
    tables
}

#[test]
fn what_iptables_gets_is_readable() {
    let observed = Observed::default();
    let input = full(&variety(), &observed, &config(), &settings(None));
    insta::assert_snapshot!("iptables", input.text);
}

#[test]
fn nothing_is_to_be_done_where_everything_is_as_wanted() {
    let all = variety();
    let deltas: Vec<Delta<'_>> = all
        .iter()
        .map(|(key, picture)| Delta {
            key,
            old: Some(picture),
            new: Some(picture),
        })
        .collect();
    assert!(incremental(&deltas, &settings(None)).is_empty());
}

#[test]
fn a_full_write_over_anything_leads_to_the_same_and_leaves_others_alone() {
    let settings = settings(None);
    let mut tables = fresh(&variety(), &settings);
    let foreign = (Table::Nat, "DOCKER".to_owned());
    tables
        .chains
        .insert(foreign.clone(), vec!["-j RETURN".to_owned()]);
    tables
        .chains
        .entry((Table::Filter, "INPUT".to_owned()))
        .or_default()
        .insert(0, "-j ACCEPT".to_owned());
    let some: Pictures = variety().into_iter().take(2).collect();
    let observed = Observed::parse(&tables.saved());
    tables.restore(&full(&some, &observed, &config(), &settings));
    assert_eq!(
        tables.chains.remove(&foreign),
        Some(vec!["-j RETURN".to_owned()])
    );
    let input = tables.chains.get_mut(&(Table::Filter, "INPUT".to_owned()));
    assert_eq!(input.expect("INPUT").remove(0), "-j ACCEPT");
    assert_eq!(tables, fresh(&some, &settings));
}

#[test]
fn a_cleanup_leaves_nothing_of_ours() {
    let settings = settings(None);
    let mut tables = fresh(&variety(), &settings);
    let observed = Observed::parse(&tables.saved());
    tables.restore(&cleanup(&observed, &config(), &settings));
    assert_eq!(tables, Tables::new());
}

#[test]
fn the_owner_of_a_refused_line_is_named() {
    let input = full(&variety(), &Observed::default(), &config(), &settings(None));
    for (number, line) in input.text.lines().enumerate() {
        if line.starts_with("-A KUBE-SVC-") && line.contains("default/sticky") {
            let owner = input.owner(number + 1).map(ToString::to_string);
            assert_eq!(owner.as_deref(), Some("default/sticky"), "{line}");
        }
    }
}

proptest! {
    #[test]
    fn any_history_leads_to_the_rules_that_its_end_alone_makes(
        history in histories(),
        section in prop_oneof![Just(None), Just(Some(2))],
    ) {
        let settings = settings(section);
        let (steps, end) = play(&history);
        let mut tables = fresh(&Pictures::new(), &settings);
        let mut committed = Pictures::new();
        for step in steps {
            let deltas: Vec<Delta<'_>> = step
                .iter()
                .map(|(key, new)| Delta {
                    key,
                    old: committed.get(key).map(Arc::as_ref),
                    new: new.as_deref(),
                })
                .collect();
            tables.restore(&incremental(&deltas, &settings));
            for (key, new) in step {
                match new {
                    Some(picture) => committed.insert(key, picture),
                    None => committed.remove(&key),
                };
            }
        }
        prop_assert_eq!(tables.sorted(), fresh(&end, &settings).sorted());
        let observed = Observed::parse(&tables.saved());
        let sizes = sizes(&end, &config(), &settings);
        prop_assert!(intact(&observed, &sizes, &config(), &settings));
    }
}
