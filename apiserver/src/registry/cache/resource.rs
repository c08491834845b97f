//! The objects of one resource, its recent events and its watchers.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use storage::{Change, Entry};
use tokio::sync::mpsc;

use super::event::{Delivery, Event, Filter};
use super::{PREFIX, key_group};
use crate::registry::fields::{Field, selectable};
use crate::registry::object::Object;

/// How many events a watcher may be behind before it is cut off.
const QUEUE: usize = 1024;

/// The ring keeps at least this many events, and more while they fit into [`RING_BYTES`].
const RING_MIN: usize = 100;
const RING_MAX: usize = 8192;
const RING_BYTES: usize = 2 << 20;
/// Younger events are kept beyond that, up to the second bounds: a client whose watch broke, or
/// that takes this long to work on a list, goes on where it was.
const RING_AGE: Duration = Duration::from_secs(75);
const YOUNG_MAX: usize = 32_768;
const YOUNG_BYTES: usize = 24 << 20;

/// See the module's documentation.
pub struct ResourceCache {
    /// `/registry/GROUP/RESOURCE/`
    pub prefix: String,
    state: RwLock<State>,
}

struct State {
    objects: BTreeMap<Arc<str>, Arc<Object>>,
    fields: Arc<[Field]>,
    ring: VecDeque<Arc<Event>>,
    ring_bytes: usize,
    /// All events after this revision are in the ring.
    floor: u64,
    /// The newest revision that touched this resource.
    touched: u64,
    watchers: Vec<Watcher>,
}

struct Watcher {
    filter: Arc<Filter>,
    queue: mpsc::Sender<Delivery>,
}

/// Objects at one revision.
pub struct Snapshot {
    pub objects: Vec<Arc<Object>>,
    pub revision: u64,
    /// How many objects of the range follow; counted only without selectors.
    pub remaining: usize,
    pub more: bool,
}

/// A registered watch: what it is told first, and its queue.
pub struct Watching {
    pub initial: Vec<Delivery>,
    /// The revision up to which `initial` goes.
    pub revision: u64,
    pub queue: mpsc::Receiver<Delivery>,
}

/// Why a watch cannot start.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    #[error("events after revision {requested} are not kept, the oldest is {oldest}")]
    TooOld { requested: u64, oldest: u64 },
}

impl ResourceCache {
    pub(super) fn new(group: &str, resource: &str, floor: u64) -> Self {
        ResourceCache {
            prefix: format!("{PREFIX}{}/{resource}/", key_group(group)),
            state: RwLock::new(State {
                objects: BTreeMap::new(),
                fields: selectable(group, resource).into(),
                ring: VecDeque::new(),
                ring_bytes: 0,
                floor,
                touched: 0,
                watchers: Vec::new(),
            }),
        }
    }

    /// The selectable fields, for filters.
    pub fn fields(&self) -> Arc<[Field]> {
        self.state.read().fields.clone()
    }

    /// Changes the selectable fields; what is cached is indexed anew.
    pub fn set_fields(&self, fields: Arc<[Field]>) {
        let mut state = self.state.write();
        if *state.fields == *fields {
            return;
        }
        for object in state.objects.values_mut() {
            *object = Arc::new(Object::new(
                object.key.clone(),
                &super::super::object::encode(&object.value()),
                object.revision,
                &fields,
            ));
        }
        state.fields = fields;
    }

    pub fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.state.read().objects.get(key).cloned()
    }

    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The newest revision that touched this resource.
    pub fn touched(&self) -> u64 {
        self.state.read().touched
    }

    /// The objects that pass the filter, after the key `after`, at most `limit` (0: all).
    /// `applied` is the cacher's revision, read before the call.
    pub fn list(
        &self,
        filter: &Filter,
        after: Option<&str>,
        limit: usize,
        applied: u64,
    ) -> Snapshot {
        let state = self.state.read();
        let start = if filter.namespace.is_empty() {
            self.prefix.clone()
        } else {
            format!("{}{}/", self.prefix, filter.namespace)
        };
        let lower = match after {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(start.as_str()),
        };
        let mut range = state
            .objects
            .range::<str, _>((lower, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&start))
            .map(|(_, object)| object);
        let all = filter.selects_all();
        let wanted = if limit == 0 { usize::MAX } else { limit };
        let mut objects = Vec::new();
        let mut more = false;
        // Whether there is more is told without looking at it: as upstream, which may then answer
        // with an empty last chunk.
        for object in range.by_ref() {
            if objects.len() == wanted {
                more = true;
                break;
            }
            if all || filter.matches(object) {
                objects.push(object.clone());
            }
        }
        let remaining = if more && all { 1 + range.count() } else { 0 };
        Snapshot {
            objects,
            revision: applied.max(state.touched),
            remaining,
            more,
        }
    }

    /// Registers a watch that begins with the present state.
    pub fn watch_from_now(&self, filter: Arc<Filter>, initial: bool, applied: u64) -> Watching {
        let mut state = self.state.write();
        let objects: Vec<Delivery> = if initial {
            let all = filter.is_empty();
            let chosen = state.objects.values().filter(|o| all || filter.matches(o));
            chosen
                .map(|o| Delivery {
                    kind: super::EventKind::Added,
                    object: o.clone(),
                    before: None,
                })
                .collect()
        } else {
            Vec::new()
        };
        let revision = applied.max(state.touched);
        Watching {
            initial: objects,
            revision,
            queue: state.register(filter),
        }
    }

    /// Registers a watch for everything after `revision`.
    pub fn watch_after(
        &self,
        filter: Arc<Filter>,
        revision: u64,
        applied: u64,
    ) -> Result<Watching, WatchError> {
        let mut state = self.state.write();
        if revision < state.floor {
            return Err(WatchError::TooOld {
                requested: revision,
                oldest: state.floor,
            });
        }
        let start = state.ring.partition_point(|e| e.revision <= revision);
        let initial = state
            .ring
            .range(start..)
            .filter_map(|e| e.seen_through(&filter))
            .collect();
        let revision = applied.max(state.touched).max(revision);
        Ok(Watching {
            initial,
            revision,
            queue: state.register(filter),
        })
    }

    /// Takes in a listed object without telling anybody; only for the first load.
    pub(super) fn load(&self, entry: &Entry) {
        let mut state = self.state.write();
        let object = Object::from_entry(entry, &state.fields);
        state.touched = state.touched.max(entry.mod_revision);
        state.objects.insert(entry.key.clone(), Arc::new(object));
    }

    pub(super) fn set_floor(&self, floor: u64) {
        let mut state = self.state.write();
        state.floor = floor;
    }

    /// Forgets everything, cuts all watchers off: the store's history had a gap.
    pub(super) fn reset(&self) {
        let mut state = self.state.write();
        state.objects.clear();
        state.ring.clear();
        state.ring_bytes = 0;
        state.watchers.clear();
    }

    pub(super) fn apply(&self, revision: u64, change: &Change) {
        let mut state = self.state.write();
        let event = match change {
            Change::Put { entry } => {
                let after = Arc::new(Object::from_entry(entry, &state.fields));
                let before = state.objects.insert(entry.key.clone(), after.clone());
                Event::new(revision, before, Some(after))
            }
            Change::Delete { key } => match state.objects.remove(key) {
                Some(before) => Event::new(revision, Some(before), None),
                None => return,
            },
        };
        state.touched = revision;
        state.publish(Arc::new(event));
    }
}

impl State {
    fn register(&mut self, filter: Arc<Filter>) -> mpsc::Receiver<Delivery> {
        let (queue, receiver) = mpsc::channel(QUEUE);
        self.watchers.push(Watcher { filter, queue });
        receiver
    }

    fn publish(&mut self, event: Arc<Event>) {
        // A full queue is a watcher that does not keep up; a closed one is gone. Both are dropped.
        self.watchers
            .retain(|w| match event.seen_through(&w.filter) {
                Some(delivery) => w.queue.try_send(delivery).is_ok(),
                None => true,
            });
        self.ring_bytes += event.size();
        self.ring.push_back(event);
        while self.has_too_many() {
            let Some(old) = self.ring.pop_front() else {
                break;
            };
            self.ring_bytes -= old.size();
            self.floor = old.revision;
        }
    }

    /// Whether the oldest event has to go.
    fn has_too_many(&self) -> bool {
        let (events, bytes) = (self.ring.len(), self.ring_bytes);
        if events <= RING_MAX && (bytes <= RING_BYTES || events <= RING_MIN) {
            return false;
        }
        let oldest = self.ring.front();
        let young = oldest.is_some_and(|oldest| oldest.at.elapsed() < RING_AGE);
        !young || events > YOUNG_MAX || bytes > YOUNG_BYTES
    }
}
