//! The members of every selector that is in use, kept up to date with each change.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Learnt, SetContent, picks};
use crate::model::{DomainPattern, Labels, Node, ObjectName, Pod, PodSelector, Protocol, Selector};

/// A port's name in a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    pub name: String,
    pub protocol: Protocol,
}

/// What a set is made from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Interned {
    Pods(PodSelector),
    Port(NamedPort),
    Nodes(Selector),
    Domains(BTreeSet<DomainPattern>),
}

/// A pod as a selector sees it: its namespace, the namespace's labels, itself.
type Seen<'a> = (&'a str, Option<&'a Labels>, &'a Pod);

#[derive(Debug)]
struct Entry {
    id: u32,
    /// How many pods have each member: an address may pass from one pod to the next before the
    /// first one's end is seen.
    addresses: BTreeMap<IpAddr, usize>,
    ports: BTreeMap<(IpAddr, Protocol, u16), usize>,
    content: SetContent,
    stale: bool,
}

#[derive(Debug, Default)]
pub(super) struct Members {
    entries: HashMap<Interned, Entry>,
    next_id: u32,
}

impl Members {
    /// The number of the set for this selector; its members are looked up when it is new.
    pub(super) fn intern(
        &mut self,
        interned: Interned,
        namespaces: &BTreeMap<String, Labels>,
        pods: &BTreeMap<ObjectName, Pod>,
        nodes: &BTreeMap<String, Node>,
    ) -> u32 {
        if let Some(entry) = self.entries.get(&interned) {
            return entry.id;
        }
        let mut entry = Entry::new(self.next_id, &interned);
        self.next_id += 1;
        for ((namespace, _), pod) in pods {
            entry.count(&interned, (namespace, namespaces.get(namespace), pod), true);
        }
        for node in nodes.values() {
            entry.count_node(&interned, node, true);
        }
        let id = entry.id;
        self.entries.insert(interned, entry);
        id
    }

    /// Drops the sets that nobody uses.
    pub(super) fn retain(&mut self, live: &BTreeSet<u32>) {
        self.entries.retain(|_, entry| live.contains(&entry.id));
    }

    /// A pod was what `was` says and is what `is` says.
    pub(super) fn change(&mut self, was: Option<Seen<'_>>, is: Option<Seen<'_>>) {
        for (interned, entry) in &mut self.entries {
            if let Some(is) = is {
                entry.count(interned, is, true);
            }
            if let Some(was) = was {
                entry.count(interned, was, false);
            }
        }
    }

    /// A node was what `was` says and is what `is` says.
    pub(super) fn change_node(&mut self, was: Option<&Node>, is: Option<&Node>) {
        for (interned, entry) in &mut self.entries {
            if let Some(is) = is {
                entry.count_node(interned, is, true);
            }
            if let Some(was) = was {
                entry.count_node(interned, was, false);
            }
        }
    }

    /// Something is new about a name; whether a set has it.
    pub(super) fn learnt(&mut self, name: &str) -> bool {
        let mut concerned = false;
        for (interned, entry) in &mut self.entries {
            if let Interned::Domains(patterns) = interned
                && patterns.iter().any(|pattern| pattern.matches(name))
            {
                entry.stale = true;
                concerned = true;
            }
        }
        concerned
    }

    pub(super) fn contents(&mut self, learnt: &Learnt) -> BTreeMap<u32, SetContent> {
        self.entries
            .iter_mut()
            .map(|(interned, entry)| {
                entry.refresh(interned, learnt);
                (entry.id, entry.content.clone())
            })
            .collect()
    }
}

impl Entry {
    fn new(id: u32, interned: &Interned) -> Self {
        let content = match interned {
            Interned::Pods(_) | Interned::Nodes(_) => SetContent::Addresses(Arc::default()),
            Interned::Port(_) => SetContent::Ports(Arc::default()),
            Interned::Domains(_) => SetContent::Learnt(Arc::default()),
        };
        Self {
            id,
            addresses: BTreeMap::new(),
            ports: BTreeMap::new(),
            stale: matches!(interned, Interned::Domains(_)),
            content,
        }
    }

    fn count(&mut self, interned: &Interned, seen: Seen<'_>, present: bool) {
        let (namespace, namespace_labels, pod) = seen;
        match interned {
            Interned::Pods(selector) => {
                if picks(selector, namespace, namespace_labels, &pod.labels) {
                    for address in &pod.addresses {
                        self.stale |= step(&mut self.addresses, *address, present);
                    }
                }
            }
            Interned::Port(wanted) => {
                let named = pod.named_ports.iter();
                for (_, protocol, port) in
                    named.filter(|(name, p, _)| *name == wanted.name && *p == wanted.protocol)
                {
                    for address in &pod.addresses {
                        let member = (*address, *protocol, *port);
                        self.stale |= step(&mut self.ports, member, present);
                    }
                }
            }
            Interned::Nodes(_) | Interned::Domains(_) => {}
        }
    }

    fn count_node(&mut self, interned: &Interned, node: &Node, present: bool) {
        let Interned::Nodes(selector) = interned else {
            return;
        };
        if selector.matches(&node.labels) {
            for address in &node.addresses {
                self.stale |= step(&mut self.addresses, *address, present);
            }
        }
    }

    fn refresh(&mut self, interned: &Interned, learnt: &Learnt) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        match &mut self.content {
            SetContent::Addresses(content) => {
                replace(content, self.addresses.keys().copied().collect());
            }
            SetContent::Ports(content) => replace(content, self.ports.keys().copied().collect()),
            SetContent::Learnt(content) => {
                if let Interned::Domains(patterns) = interned {
                    replace(content, learnt.matching(patterns));
                }
            }
        }
    }
}

/// Keeps the shared content where nothing changed in the end.
fn replace<T: PartialEq>(content: &mut Arc<T>, new: T) {
    if **content != new {
        *content = Arc::new(new);
    }
}

/// Counts a member up or down; whether it appeared or disappeared.
fn step<T: Ord>(counts: &mut BTreeMap<T, usize>, member: T, present: bool) -> bool {
    if present {
        let count = counts.entry(member).or_default();
        *count += 1;
        return *count == 1;
    }
    let Some(count) = counts.get_mut(&member) else {
        return false;
    };
    *count -= 1;
    if *count > 0 {
        return false;
    }
    counts.remove(&member);
    true
}
