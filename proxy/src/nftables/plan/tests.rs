use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::backend::Pictures;
use crate::config::Config;
use crate::model::Family;
use crate::nftables::Translation;
use crate::nftables::content::content;
use crate::samples::{HERE, histories, pictures, play, ready, service, slice, variety};

fn config() -> Config {
    Config {
        cluster_cidrs: vec!["10.244.0.0/16".parse().expect("a range")],
        service_cidrs: vec!["10.96.0.0/12".parse().expect("a range")],
        ..Config::default()
    }
}

fn layout(translation: Translation) -> Layout {
    Layout::new(&config(), Family::V4, translation)
}

fn whole(pictures: &Pictures, layout: &Layout) -> (Transaction, Held) {
    let mut transaction = Transaction::new();
    layout.create(&mut transaction);
    let mut held = Held::default();
    let pairs: Vec<(Content, Content)> = pictures
        .values()
        .map(|picture| (Content::default(), content(picture, layout)))
        .collect();
    changes(&pairs, &mut held, layout, &mut transaction);
    (transaction, held)
}

/// A table as the kernel would hold it, strict about what is missing and what is still used.
#[derive(Debug, Clone, Default, PartialEq)]
struct Table {
    chains: BTreeMap<String, Vec<String>>,
    sets: BTreeMap<String, BTreeMap<String, String>>,
}

impl Table {
    fn apply(&mut self, transaction: &Transaction) {
        for op in &transaction.ops {
            match op {
                Op::AddTable(_) => {}
                Op::DeleteTable(_) => *self = Self::default(),
                Op::AddChain(chain) => {
                    self.chains.entry(chain.name.to_string()).or_default();
                }
                Op::FlushChain { chain, .. } => {
                    self.chains
                        .get_mut(&**chain)
                        .expect("a chain to flush")
                        .clear();
                }
                Op::DeleteChain { chain, .. } => {
                    let rules = self.chains.remove(&**chain).expect("a chain to delete");
                    assert!(rules.is_empty(), "{chain} is not empty");
                    let mention = format!("goto {chain}");
                    let used = |text: &String| text.ends_with(&mention);
                    assert!(!self.chains.values().flatten().any(used), "{chain} is used");
                    let used = |elements: &BTreeMap<String, String>| elements.values().any(used);
                    assert!(
                        !self.sets.values().any(used),
                        "{chain} is used by an element"
                    );
                }
                Op::AddRule(rule) => {
                    self.check_names(&rule.body);
                    let chain = self
                        .chains
                        .get_mut(&*rule.chain)
                        .expect("a chain to add to");
                    chain.push(text(&rule.body));
                }
                Op::AddSet(set) => {
                    self.sets.entry(set.name.to_string()).or_default();
                }
                Op::DeleteSet { set, .. } => {
                    self.sets.remove(&**set).expect("a set to delete");
                    let mention = format!("@{set}");
                    let used = |text: &String| text.contains(&mention);
                    assert!(!self.chains.values().flatten().any(used), "{set} is used");
                }
                Op::AddElements { set, elements } => {
                    for element in elements {
                        if let Some(ElementData::Verdict(verdict)) = &element.data {
                            self.check_verdict(verdict);
                        }
                        let data = element.data.as_ref().map(|data| format!("{data:?}"));
                        let data = readable(&data.unwrap_or_default());
                        let elements = self.sets.get_mut(&*set.name).expect("a set to add to");
                        let old = elements.insert(format!("{:?}", element.key), data);
                        assert!(old.is_none(), "{} has {:?} already", set.name, element.key);
                    }
                }
                Op::DeleteElements { set, elements } => {
                    for element in elements {
                        let elements = self.sets.get_mut(&*set.name).expect("a set");
                        let old = elements.remove(&format!("{:?}", element.key));
                        assert!(old.is_some(), "{} lacks {:?}", set.name, element.key);
                    }
                }
                other => panic!("not expected: {other:?}"),
            }
        }
    }

    fn check_verdict(&self, verdict: &kernel::nftables::Verdict) {
        use kernel::nftables::Verdict::{Goto, Jump};
        if let Goto(chain) | Jump(chain) = verdict {
            assert!(self.chains.contains_key(&**chain), "no chain {chain} yet");
        }
    }

    fn check_names(&self, body: &[Statement]) {
        for statement in body {
            match statement {
                Statement::Verdict(verdict) => self.check_verdict(verdict),
                Statement::Lookup {
                    set: kernel::nftables::SetRef::Named(set),
                    ..
                }
                | Statement::Dynset { set, .. } => {
                    assert!(self.sets.contains_key(&**set), "no set {set} yet");
                }
                _ => {}
            }
        }
    }

    /// Without the shared chains, which stay when nobody uses them any more.
    fn own(&self, held: &Held) -> Self {
        let mut own = self.clone();
        for shared in &held.shared {
            own.chains.remove(&shared.name());
        }
        own
    }
}

/// `Verdict(Goto("x"))` as `goto x`, so that uses are found.
fn readable(data: &str) -> String {
    match data.strip_prefix("Verdict(Goto(\"") {
        Some(rest) => format!("goto {}", rest.trim_end_matches("\"))")),
        None => data.to_owned(),
    }
}

fn text(body: &[Statement]) -> String {
    let mut text = String::new();
    for statement in body {
        let _ = write!(text, "{statement} ");
    }
    text.trim_end().to_owned()
}

#[test]
fn what_nftables_gets_is_readable() {
    for (name, translation) in [
        ("nftables", Translation::Nftables),
        ("ipvs", Translation::Ipvs),
    ] {
        let (transaction, _) = whole(&variety(), &layout(translation));
        let lines: Vec<String> = transaction.ops.iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(name, lines.join("\n"));
    }
}

#[test]
fn nothing_is_to_be_done_where_everything_is_as_wanted() {
    let layout = layout(Translation::Nftables);
    let all = variety();
    let (_, mut held) = whole(&all, &layout);
    let before = held.clone();
    let same: Vec<(Content, Content)> = all
        .values()
        .map(|picture| (content(picture, &layout), content(picture, &layout)))
        .collect();
    let mut transaction = Transaction::new();
    changes(&same, &mut held, &layout, &mut transaction);
    assert!(transaction.is_empty(), "{:?}", transaction.ops);
    assert_eq!(held, before);
}

#[test]
fn a_back_ends_pair_stays_until_ipvs_has_been_told_that_it_is_gone() {
    let layout = layout(Translation::Ipvs);
    let near = ready("10.244.1.3", HERE);
    let of = |ends: &[serde_json::Value]| {
        let web = service("web", "10.96.0.10", serde_json::json!({}));
        let all = pictures(&[web], &[slice("web", "a", ends)]);
        let picture = all.values().next().expect("a picture").clone();
        content(&picture, &layout)
    };
    let (with, without) = (of(std::slice::from_ref(&near)), of(&[]));
    let pairs = |table: &Table| table.sets["hairpin"].len();
    let (empty, mut held) = whole(&Pictures::new(), &layout);
    let mut table = Table::default();
    table.apply(&empty);
    let mut step = |old: &Content, new: &Content, last: bool| {
        let mut transaction = Transaction::new();
        let pair = [(old.clone(), new.clone())];
        changes(&pair, &mut held, &layout, &mut transaction);
        table.apply(&transaction);
        let before = pairs(&table);
        if last {
            let mut transaction = Transaction::new();
            finish(&mut held, &layout, &mut transaction);
            table.apply(&transaction);
        }
        (before, pairs(&table))
    };
    assert_eq!(step(&Content::default(), &with, true), (1, 1));
    assert_eq!(step(&with, &without, false), (1, 1));
    assert_eq!(step(&without, &with, true), (1, 1), "it is wanted again");
    assert_eq!(step(&with, &without, true), (1, 0));
}

proptest! {
    #[test]
    fn any_history_leads_to_the_table_that_its_end_alone_makes(history in histories()) {
        for translation in [Translation::Nftables, Translation::Ipvs] {
            let layout = layout(translation);
            let (steps, end) = play(&history);
            let (empty, mut held) = whole(&Pictures::new(), &layout);
            let mut table = Table::default();
            table.apply(&empty);
            let mut committed = Pictures::new();
            for step in steps {
                let pairs: Vec<(Content, Content)> = step
                    .iter()
                    .map(|(key, new)| {
                        let of = |p: Option<&std::sync::Arc<crate::model::ServicePicture>>| {
                            p.map_or_else(Content::default, |p| content(p, &layout))
                        };
                        (of(committed.get(key)), of(new.as_ref()))
                    })
                    .collect();
                let mut transaction = Transaction::new();
                changes(&pairs, &mut held, &layout, &mut transaction);
                finish(&mut held, &layout, &mut transaction);
                table.apply(&transaction);
                for (key, new) in step {
                    match new {
                        Some(picture) => committed.insert(key, picture),
                        None => committed.remove(&key),
                    };
                }
            }
            let (transaction, fresh_held) = whole(&end, &layout);
            let mut fresh = Table::default();
            fresh.apply(&transaction);
            prop_assert_eq!(table.own(&held), fresh.own(&fresh_held));
            prop_assert_eq!(held.counted, fresh_held.counted);
        }
    }
}
