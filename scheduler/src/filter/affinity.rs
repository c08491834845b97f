//! Affinity and anti-affinity between pods, counted by topology domain.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use api_rules::selector::{self, Labels};

use super::{Plugin, Rejection};
use crate::pod::{AffinityTerm, PodInfo};
use crate::state::{ClusterState, NodeInfo};

/// A value of a topology label: (key, value).
type Domain = (String, String);

/// How many pods of each domain matter to the pod that is being scheduled.
pub(super) struct Counts {
    /// Domains in which a placed pod refuses company such as ours.
    refused: HashMap<Domain, usize>,
    /// For each of our required affinity terms, pods that match **all** of them, by domain.
    wanted: HashMap<Domain, usize>,
    /// Pods that one of our required anti-affinity terms matches, by domain.
    unwanted: HashMap<Domain, usize>,
}

/// Whether a term of some pod's affinity picks another pod.
pub fn term_matches(
    term: &AffinityTerm,
    other: &PodInfo,
    namespaces: &BTreeMap<String, Labels>,
) -> bool {
    let namespace = &other.key.namespace;
    let in_namespace = term.namespaces.contains(namespace)
        || term.namespace_selector.as_ref().is_some_and(|wanted| {
            let empty = Labels::new();
            let labels = namespaces.get(namespace).unwrap_or(&empty);
            selector::label_selector_matches(wanted, labels)
        });
    let empty = Labels::new();
    let labels = other.pod.metadata.labels.as_ref().unwrap_or(&empty);
    in_namespace
        && term
            .selector
            .as_ref()
            .is_some_and(|s| selector::label_selector_matches(s, labels))
}

fn domain(node: &NodeInfo, key: &str) -> Option<Domain> {
    Some((key.to_owned(), node.label(key)?.to_owned()))
}

impl Counts {
    pub(super) fn new(state: &ClusterState, pod: &PodInfo, gone: &BTreeSet<String>) -> Self {
        let mut counts = Self {
            refused: HashMap::new(),
            wanted: HashMap::new(),
            unwanted: HashMap::new(),
        };
        for (node, other) in state
            .repelling()
            .filter(|(_, other)| !gone.contains(&other.uid))
        {
            for term in &other.required_anti_affinity {
                if term_matches(term, pod, &state.namespaces) {
                    count(&mut counts.refused, node, term);
                }
            }
        }
        if pod.required_affinity.is_empty() && pod.required_anti_affinity.is_empty() {
            return counts;
        }
        for (node, other) in state.pods().filter(|(_, other)| !gone.contains(&other.uid)) {
            let matches = |term: &AffinityTerm| term_matches(term, other, &state.namespaces);
            if !pod.required_affinity.is_empty() && pod.required_affinity.iter().all(matches) {
                for term in &pod.required_affinity {
                    count(&mut counts.wanted, node, term);
                }
            }
            for term in pod
                .required_anti_affinity
                .iter()
                .filter(|term| matches(term))
            {
                count(&mut counts.unwanted, node, term);
            }
        }
        counts
    }

    pub(super) fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let reject = |reason: &str, preemptible| {
            Err(Rejection::new(
                Plugin::InterPodAffinity,
                reason,
                preemptible,
            ))
        };
        if !self.affinity_holds(pod, node) {
            return reject("node(s) didn't match pod affinity rules", false);
        }
        let has = |counts: &HashMap<Domain, usize>, key: &str| {
            domain(node, key).is_some_and(|domain| counts.contains_key(&domain))
        };
        if pod
            .required_anti_affinity
            .iter()
            .any(|t| has(&self.unwanted, &t.topology_key))
        {
            return reject("node(s) didn't match pod anti-affinity rules", true);
        }
        if self
            .refused
            .keys()
            .any(|(key, value)| node.label(key) == Some(value))
        {
            return reject(
                "node(s) didn't satisfy existing pods anti-affinity rules",
                true,
            );
        }
        Ok(())
    }

    /// The first pod of a group that wants to be together may start anywhere.
    fn affinity_holds(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        let terms = &pod.required_affinity;
        if terms
            .iter()
            .any(|term| node.label(&term.topology_key).is_none())
        {
            return false;
        }
        let present = |term: &AffinityTerm| {
            domain(node, &term.topology_key).is_some_and(|d| self.wanted.contains_key(&d))
        };
        let none = BTreeMap::new();
        terms.iter().all(present)
            || (self.wanted.is_empty() && terms.iter().all(|term| term_matches(term, pod, &none)))
    }
}

fn count(into: &mut HashMap<Domain, usize>, node: &NodeInfo, term: &AffinityTerm) {
    if let Some(domain) = domain(node, &term.topology_key) {
        *into.entry(domain).or_default() += 1;
    }
}
