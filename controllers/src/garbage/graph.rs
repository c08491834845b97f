//! Who depends on whom, and what a change means for the others. Pure.
//!
//! An owner that is referred to but was never seen is a *virtual* node: it has to be looked
//! up before its dependants may be judged.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

pub(crate) const ORPHAN: &str = "orphan";
pub(crate) const FOREGROUND: &str = "foregroundDeletion";

pub(crate) type Uid = String;

/// Where an object is to be found: group and kind, namespace, name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub group: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
}

/// What the collector keeps of an object.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub place: Place,
    pub owners: Vec<OwnerReference>,
    pub observed: bool,
    pub deleting: bool,
    /// Being deleted, after its dependants.
    pub foreground: bool,
    pub orphaning: bool,
}

impl Node {
    pub(crate) fn of(group: &str, kind: &str, meta: &ObjectMeta) -> Self {
        let deleting = meta.deletion_timestamp.is_some();
        let has = |name: &str| {
            meta.finalizers
                .iter()
                .flatten()
                .any(|finalizer| finalizer == name)
        };
        Self {
            place: Place {
                group: group.to_owned(),
                kind: kind.to_owned(),
                namespace: meta.namespace.clone().unwrap_or_default(),
                name: meta.name.clone().unwrap_or_default(),
            },
            owners: meta.owner_references.clone().unwrap_or_default(),
            observed: true,
            deleting,
            foreground: deleting && has(FOREGROUND),
            orphaning: deleting && has(ORPHAN),
        }
    }

    fn refers(&self, owner: &str) -> Option<&OwnerReference> {
        self.owners.iter().find(|reference| reference.uid == owner)
    }
}

/// Something to look at more closely, with the API.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Todo {
    /// Maybe this object is to go: its owner went, or it waits for its dependants.
    Judge(Uid),
    /// The dependants of this object are to lose it as an owner.
    Orphan(Uid),
}

pub(crate) fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// The graph of all objects.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    nodes: HashMap<Uid, Node>,
    dependents: HashMap<Uid, BTreeSet<Uid>>,
}

impl Graph {
    pub(crate) fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The dependants of an object with their nodes.
    pub(crate) fn dependents(&self, uid: &str) -> Vec<(Uid, Node)> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| Some((uid.clone(), self.nodes.get(uid)?.clone())))
            .collect()
    }

    /// The dependants that keep their owner from going in a foreground deletion.
    pub(crate) fn blocking(&self, uid: &str) -> Vec<(Uid, Node)> {
        let mut blocking = self.dependents(uid);
        blocking.retain(|(_, node)| {
            node.refers(uid)
                .is_some_and(|reference| reference.block_owner_deletion == Some(true))
        });
        blocking
    }

    /// An object was seen, new or changed.
    pub(crate) fn upsert(&mut self, uid: &str, new: Node) -> Vec<Todo> {
        let mut todo = Vec::new();
        let old = self.nodes.insert(uid.to_owned(), new.clone());
        let old_owners = old
            .as_ref()
            .map(|old| old.owners.clone())
            .unwrap_or_default();
        for reference in &old_owners {
            let now = new.refers(&reference.uid);
            if now.is_none() {
                self.unlink(&reference.uid, uid);
            }
            let blocked = reference.block_owner_deletion == Some(true);
            let blocks = now.is_some_and(|now| now.block_owner_deletion == Some(true));
            if blocked && !blocks && self.waits(&reference.uid) {
                todo.push(Todo::Judge(reference.uid.clone()));
            }
        }
        for reference in &new.owners {
            if !old_owners.iter().any(|known| known.uid == reference.uid) {
                todo.extend(self.link(reference, uid, &new.place.namespace));
            }
        }
        // A virtual owner that turns out to be another object than the one referred to.
        if old
            .as_ref()
            .is_some_and(|old| !old.observed && !same_object(&old.place, &new.place))
        {
            todo.extend(
                self.dependents(uid)
                    .into_iter()
                    .map(|(uid, _)| Todo::Judge(uid)),
            );
        }
        let was = |state: fn(&Node) -> bool| old.as_ref().is_some_and(state);
        if new.orphaning && !was(|node| node.orphaning) {
            todo.push(Todo::Orphan(uid.to_owned()));
        }
        if new.foreground && !was(|node| node.foreground) {
            todo.extend(
                self.dependents(uid)
                    .into_iter()
                    .map(|(uid, _)| Todo::Judge(uid)),
            );
            todo.push(Todo::Judge(uid.to_owned()));
        }
        todo
    }

    /// An object is gone.
    pub(crate) fn remove(&mut self, uid: &str) -> Vec<Todo> {
        let Some(node) = self.nodes.remove(uid) else {
            return Vec::new();
        };
        let mut todo = Vec::new();
        for reference in &node.owners {
            self.unlink(&reference.uid, uid);
            if self.waits(&reference.uid) {
                todo.push(Todo::Judge(reference.uid.clone()));
            }
        }
        let dependents = self.dependents.get(uid).cloned().unwrap_or_default();
        todo.extend(dependents.into_iter().map(Todo::Judge));
        todo
    }

    fn waits(&self, uid: &str) -> bool {
        self.nodes.get(uid).is_some_and(|node| node.foreground)
    }

    fn link(&mut self, owner: &OwnerReference, dependent: &str, namespace: &str) -> Option<Todo> {
        self.dependents
            .entry(owner.uid.clone())
            .or_default()
            .insert(dependent.to_owned());
        if self.nodes.contains_key(&owner.uid) {
            return None;
        }
        let place = Place {
            group: group_of(&owner.api_version).to_owned(),
            kind: owner.kind.clone(),
            namespace: namespace.to_owned(),
            name: owner.name.clone(),
        };
        let node = Node {
            place,
            owners: Vec::new(),
            observed: false,
            deleting: false,
            foreground: false,
            orphaning: false,
        };
        self.nodes.insert(owner.uid.clone(), node);
        Some(Todo::Judge(owner.uid.clone()))
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
                // Nobody speaks of a virtual owner any more.
                if self.nodes.get(owner).is_some_and(|node| !node.observed) {
                    self.nodes.remove(owner);
                }
            }
        }
    }
}

/// The namespace of a virtual owner is a guess, since the owner may have none.
fn same_object(a: &Place, b: &Place) -> bool {
    a.group == b.group
        && a.kind == b.kind
        && a.name == b.name
        && (a.namespace == b.namespace || b.namespace.is_empty())
}

/// How an owner reference of an object stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// It is there.
    Solid,
    /// It is gone.
    Dangling,
    /// It is going, and waits for its dependants to go first.
    Waiting,
}

/// What is to be done with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Judgement {
    Keep,
    /// Keep it, without these owners.
    Drop(Vec<Uid>),
    /// Delete it in the way that its own finalizers say.
    Delete,
    /// Delete it after its own dependants, since its owner waits for all of them.
    DeleteForeground {
        unblock: bool,
    },
}

/// Judges an object by its owners. `dependents` are its own.
pub(crate) fn judge(owners: &BTreeMap<Uid, Owner>, dependents: &[(Uid, Node)]) -> Judgement {
    if owners.is_empty() {
        return Judgement::Keep;
    }
    let of = |state: Owner| owners.iter().filter(move |(_, is)| **is == state);
    if of(Owner::Solid).next().is_some() {
        let gone = owners.iter().filter(|(_, state)| **state != Owner::Solid);
        let gone: Vec<Uid> = gone.map(|(uid, _)| uid.clone()).collect();
        return if gone.is_empty() {
            Judgement::Keep
        } else {
            Judgement::Drop(gone)
        };
    }
    if of(Owner::Waiting).next().is_some() && !dependents.is_empty() {
        // A dependant that itself waits for its dependants may be part of a circle.
        let unblock = dependents.iter().any(|(_, node)| node.foreground);
        return Judgement::DeleteForeground { unblock };
    }
    Judgement::Delete
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn meta(name: &str, owners: &[(&str, bool)], finalizer: Option<&str>) -> ObjectMeta {
        let owners: Vec<_> = owners
            .iter()
            .map(|(uid, block)| {
                json!({"apiVersion": "apps/v1", "kind": "K", "name": uid, "uid": uid,
                       "blockOwnerDeletion": block})
            })
            .collect();
        let mut meta = json!({"name": name, "namespace": "ns", "ownerReferences": owners});
        if let Some(finalizer) = finalizer {
            meta["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            meta["finalizers"] = json!([finalizer]);
        }
        serde_json::from_value(meta).expect("metadata")
    }

    fn put(
        graph: &mut Graph,
        uid: &str,
        owners: &[(&str, bool)],
        finalizer: Option<&str>,
    ) -> Vec<Todo> {
        graph.upsert(uid, Node::of("apps", "K", &meta(uid, owners, finalizer)))
    }

    fn judge_these(uids: &[&str]) -> Vec<Todo> {
        uids.iter()
            .map(|uid| Todo::Judge((*uid).to_owned()))
            .collect()
    }

    #[test]
    fn an_unknown_owner_is_looked_up_and_a_known_one_is_not() {
        let mut graph = Graph::default();
        assert_eq!(
            put(&mut graph, "pod", &[("rs", true)], None),
            judge_these(&["rs"])
        );
        assert!(!graph.get("rs").expect("virtual").observed);
        assert_eq!(put(&mut graph, "rs", &[], None), []);
        assert!(graph.get("rs").expect("seen").observed);
        assert_eq!(put(&mut graph, "pod2", &[("rs", true)], None), []);
    }

    #[test]
    fn dependants_are_judged_when_their_owner_goes() {
        let mut graph = Graph::default();
        put(&mut graph, "rs", &[], None);
        put(&mut graph, "a", &[("rs", true)], None);
        put(&mut graph, "b", &[("rs", true)], None);
        assert_eq!(graph.remove("rs"), judge_these(&["a", "b"]));
        assert_eq!(graph.remove("rs"), []);
    }

    #[test]
    fn a_foreground_deletion_judges_dependants_and_then_the_owner() {
        let mut graph = Graph::default();
        put(&mut graph, "rs", &[], None);
        put(&mut graph, "a", &[("rs", true)], None);
        put(&mut graph, "b", &[("rs", false)], None);
        assert_eq!(
            put(&mut graph, "rs", &[], Some(FOREGROUND)),
            judge_these(&["a", "b", "rs"])
        );
        assert_eq!(put(&mut graph, "rs", &[], Some(FOREGROUND)), []);
        let blocking: Vec<_> = graph
            .blocking("rs")
            .into_iter()
            .map(|(uid, _)| uid)
            .collect();
        assert_eq!(blocking, ["a"]);
        assert_eq!(graph.remove("a"), judge_these(&["rs"]));
    }

    #[test]
    fn a_dependant_that_stops_blocking_wakes_its_waiting_owner() {
        let mut graph = Graph::default();
        put(&mut graph, "rs", &[], Some(FOREGROUND));
        put(&mut graph, "a", &[("rs", true)], None);
        assert_eq!(
            put(&mut graph, "a", &[("rs", false)], None),
            judge_these(&["rs"])
        );
    }

    #[test]
    fn orphaning_is_told_once() {
        let mut graph = Graph::default();
        put(&mut graph, "rs", &[], None);
        assert_eq!(
            put(&mut graph, "rs", &[], Some(ORPHAN)),
            [Todo::Orphan("rs".to_owned())]
        );
        assert_eq!(put(&mut graph, "rs", &[], Some(ORPHAN)), []);
    }

    #[test]
    fn a_virtual_owner_is_forgotten_with_its_last_dependant() {
        let mut graph = Graph::default();
        put(&mut graph, "a", &[("ghost", true)], None);
        graph.remove("a");
        assert_eq!(graph.len(), 0);
    }

    #[test]
    fn judgements_follow_the_state_of_the_owners() {
        use Owner::{Dangling, Solid, Waiting};
        let mut graph = Graph::default();
        put(&mut graph, "child", &[("it", true)], None);
        let children = graph.dependents("it");
        put(&mut graph, "child", &[("it", true)], Some(FOREGROUND));
        let waiting_children = graph.dependents("it");
        let drop_it = |uid: &str| Judgement::Drop(vec![uid.to_owned()]);
        type Case<'a> = (&'a [Owner], &'a [(Uid, Node)], Judgement);
        let cases: [Case<'_>; 9] = [
            (&[], &[], Judgement::Keep),
            (&[Solid], &children, Judgement::Keep),
            (&[Solid, Dangling], &[], drop_it("1")),
            (&[Solid, Waiting], &children, drop_it("1")),
            (&[Dangling], &children, Judgement::Delete),
            (&[Waiting], &[], Judgement::Delete),
            (
                &[Waiting],
                &children,
                Judgement::DeleteForeground { unblock: false },
            ),
            (
                &[Waiting],
                &waiting_children,
                Judgement::DeleteForeground { unblock: true },
            ),
            (&[Waiting, Dangling], &[], Judgement::Delete),
        ];
        for (owners, dependents, expect) in cases {
            let owners = owners
                .iter()
                .enumerate()
                .map(|(n, state)| (n.to_string(), *state))
                .collect();
            assert_eq!(judge(&owners, dependents), expect, "{owners:?}");
        }
    }
}
