//! Pods that wait for a node: ready to be tried, waiting out a back-off, or waiting for an event
//! that could help them. Pure: the time is an input.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use watch_cache::ObjectKey;

use crate::filter::Plugin;
use crate::pod::PodInfo;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

/// Something that changed in the cluster and may help a pod that did not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClusterEvent {
    NodeAdded,
    NodeAllocatable,
    NodeLabels,
    NodeTaints,
    /// A pod left a node or shrank.
    RoomMade,
    /// A pod was placed, or a placed pod's labels changed.
    PodPlaced,
    Volumes,
    NamespaceLabels,
}

impl ClusterEvent {
    /// Whether a refusal by this filter may be over after the event.
    pub fn helps(self, plugin: Plugin) -> bool {
        use ClusterEvent as E;
        match plugin {
            Plugin::NodeResourcesFit => {
                matches!(self, E::NodeAdded | E::NodeAllocatable | E::RoomMade)
            }
            Plugin::NodePorts => matches!(self, E::NodeAdded | E::RoomMade),
            Plugin::NodeAffinity => matches!(self, E::NodeAdded | E::NodeLabels),
            Plugin::NodeName => matches!(self, E::NodeAdded),
            Plugin::NodeUnschedulable | Plugin::TaintToleration => {
                matches!(self, E::NodeAdded | E::NodeTaints)
            }
            Plugin::PodTopologySpread => {
                !matches!(self, E::Volumes | E::NamespaceLabels | E::NodeAllocatable)
            }
            Plugin::InterPodAffinity => !matches!(self, E::Volumes | E::NodeAllocatable),
            Plugin::VolumeRestrictions => matches!(self, E::RoomMade | E::Volumes),
            Plugin::NodeVolumeLimits => matches!(self, E::NodeAdded | E::RoomMade | E::Volumes),
            Plugin::DynamicResources => false,
            Plugin::VolumeBinding => matches!(self, E::NodeAdded | E::NodeLabels | E::Volumes),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Active,
    BackOff(Instant),
    /// Since the instant, because of these filters (none: any event helps).
    Unschedulable(Instant, BTreeSet<Plugin>),
    /// Being decided or bound; events that came meanwhile.
    InFlight(HashSet<ClusterEvent>),
    /// Has scheduling gates.
    Gated,
}

#[derive(Debug)]
struct Waiting {
    pod: Arc<PodInfo>,
    place: Place,
    /// When it came, for the order among equals.
    sequence: u64,
    attempts: u32,
}

/// The pods in each part of the queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub active: usize,
    pub backoff: usize,
    pub unschedulable: usize,
    pub gated: usize,
}

type ActiveKey = (Reverse<i32>, u64, ObjectKey);

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: HashMap<ObjectKey, Waiting>,
    active: BTreeSet<ActiveKey>,
    /// Those that wait out a back-off, the next one due first.
    due: BTreeSet<(Instant, ObjectKey)>,
    next_sequence: u64,
}

/// How long after a failed attempt the next one may start.
fn backoff(attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(1).min(10);
    FIRST_BACKOFF
        .saturating_mul(1 << doublings)
        .min(LONGEST_BACKOFF)
}

fn is_gated(pod: &PodInfo) -> bool {
    pod.spec()
        .and_then(|s| s.scheduling_gates.as_ref())
        .is_some_and(|gates| !gates.is_empty())
}

/// Whether an update may make a pod fit that did not.
fn matters(old: &PodInfo, new: &PodInfo) -> bool {
    old.pod.spec != new.pod.spec || old.pod.metadata.labels != new.pod.metadata.labels
}

impl Queue {
    /// A pod without a node appeared or changed.
    pub fn set(&mut self, pod: Arc<PodInfo>) {
        let key = pod.key.clone();
        let Some(known) = self.waiting.get_mut(&key).filter(|w| w.pod.uid == pod.uid) else {
            self.remove(&key);
            self.insert(key, pod);
            return;
        };
        let old = std::mem::replace(&mut known.pod, pod.clone());
        let wake = match &known.place {
            Place::Gated => !is_gated(&pod),
            Place::Unschedulable(..) => matters(&old, &pod),
            _ => false,
        };
        if old.priority != pod.priority && known.place == Place::Active {
            self.active
                .remove(&(Reverse(old.priority), known.sequence, key.clone()));
            self.active
                .insert((Reverse(pod.priority), known.sequence, key));
        } else if wake {
            self.activate(&key);
        }
    }

    fn insert(&mut self, key: ObjectKey, pod: Arc<PodInfo>) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let gated = is_gated(&pod);
        let waiting = Waiting {
            pod,
            place: Place::Gated,
            sequence,
            attempts: 0,
        };
        self.waiting.insert(key.clone(), waiting);
        if !gated {
            self.activate(&key);
        }
    }

    /// The pod is gone, or has a node.
    pub fn remove(&mut self, key: &ObjectKey) {
        if let Some(waiting) = self.waiting.remove(key) {
            self.active
                .remove(&(Reverse(waiting.pod.priority), waiting.sequence, key.clone()));
            if let Place::BackOff(until) = waiting.place {
                self.due.remove(&(until, key.clone()));
            }
        }
    }

    /// Removes every pod that the condition does not hold for.
    pub fn retain(&mut self, keep: impl Fn(&PodInfo) -> bool) {
        let gone: Vec<ObjectKey> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| !keep(&waiting.pod))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.remove(&key);
        }
    }

    /// How many pods are where.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for waiting in self.waiting.values() {
            match waiting.place {
                Place::Active => counts.active += 1,
                Place::BackOff(_) => counts.backoff += 1,
                Place::Unschedulable(..) => counts.unschedulable += 1,
                Place::Gated => counts.gated += 1,
                Place::InFlight(_) => {}
            }
        }
        counts
    }

    fn activate(&mut self, key: &ObjectKey) {
        if let Some(waiting) = self.waiting.get_mut(key) {
            waiting.place = Place::Active;
            self.active
                .insert((Reverse(waiting.pod.priority), waiting.sequence, key.clone()));
        }
    }

    /// The most important pod that may be tried now. It stays in flight until
    /// [`Queue::failed`] or [`Queue::remove`].
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        self.release_due(now);
        let (_, _, key) = self.active.pop_first()?;
        let waiting = self.waiting.get_mut(&key)?;
        waiting.place = Place::InFlight(HashSet::new());
        waiting.attempts += 1;
        Some(waiting.pod.clone())
    }

    fn release_due(&mut self, now: Instant) {
        while self.due.first().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, key)) = self.due.pop_first() {
                self.activate(&key);
            }
        }
    }

    /// The pod did not fit because of these filters, or could not be bound (no filters).
    pub fn failed(&mut self, key: &ObjectKey, plugins: BTreeSet<Plugin>, now: Instant) {
        let Some(waiting) = self.waiting.get_mut(key) else {
            return;
        };
        let Place::InFlight(events) = &waiting.place else {
            return;
        };
        let missed = events
            .iter()
            .any(|event| plugins.iter().any(|p| event.helps(*p)));
        if missed || plugins.is_empty() {
            let until = now + backoff(waiting.attempts);
            waiting.place = Place::BackOff(until);
            self.due.insert((until, key.clone()));
        } else {
            waiting.place = Place::Unschedulable(now, plugins);
        }
    }

    /// Wakes the pods that the event may help.
    pub fn event(&mut self, event: ClusterEvent, now: Instant) {
        for (key, waiting) in &mut self.waiting {
            match &mut waiting.place {
                Place::InFlight(events) => {
                    events.insert(event);
                }
                Place::Unschedulable(since, plugins)
                    if plugins.iter().any(|plugin| event.helps(*plugin)) =>
                {
                    let until = (*since + backoff(waiting.attempts)).max(now);
                    waiting.place = Place::BackOff(until);
                    self.due.insert((until, key.clone()));
                }
                _ => {}
            }
        }
        self.release_due(now);
    }

    /// Wakes every pod that has waited for an event for so long that one may have been missed.
    pub fn flush(&mut self, longest: Duration, now: Instant) {
        for (key, waiting) in &mut self.waiting {
            if matches!(&waiting.place, Place::Unschedulable(since, _) if *since + longest <= now) {
                waiting.place = Place::BackOff(now);
                self.due.insert((now, key.clone()));
            }
        }
        self.release_due(now);
    }

    /// When [`Queue::pop`] may have something that it has not now.
    pub fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(until, _)| *until)
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests;
