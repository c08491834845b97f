//! Events, and who wants to hear of them.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use serde_json::Value;

use super::super::fields::Field;
use super::super::object::Object;
use super::super::selector::{FieldSelector, LabelSelector};

/// What happened, as a watcher is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    Added,
    Modified,
    Deleted,
}

impl EventKind {
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Added => "ADDED",
            EventKind::Modified => "MODIFIED",
            EventKind::Deleted => "DELETED",
        }
    }
}

/// One change of one object.
#[derive(Debug)]
pub struct Event {
    pub revision: u64,
    pub before: Option<Arc<Object>>,
    pub after: Option<Arc<Object>>,
    /// When this cache saw it.
    pub(super) at: Instant,
    /// `before` under this event's revision: what DELETED shows.
    gone: OnceLock<Arc<Object>>,
}

/// An event as one watcher gets it.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub kind: EventKind,
    pub object: Arc<Object>,
    /// The state before, for those who filter once more themselves.
    pub before: Option<Arc<Object>>,
}

impl Event {
    pub fn new(revision: u64, before: Option<Arc<Object>>, after: Option<Arc<Object>>) -> Self {
        Event {
            revision,
            before,
            after,
            at: Instant::now(),
            gone: OnceLock::new(),
        }
    }

    /// What a watcher with this filter is told: leaving the selection looks like a deletion,
    /// entering it like a creation.
    pub fn seen_through(&self, filter: &Filter) -> Option<Delivery> {
        let was = self.before.as_deref().is_some_and(|o| filter.matches(o));
        let is = self.after.as_deref().is_some_and(|o| filter.matches(o));
        let (kind, object) = match (was, is, &self.after) {
            (false, true, Some(after)) => (EventKind::Added, after.clone()),
            (true, true, Some(after)) => (EventKind::Modified, after.clone()),
            (true, false, _) => (EventKind::Deleted, self.gone()?),
            _ => return None,
        };
        Some(Delivery {
            kind,
            object,
            before: self.before.clone().filter(|_| was && filter.late.is_some()),
        })
    }

    fn gone(&self) -> Option<Arc<Object>> {
        let before = self.before.as_ref()?;
        Some(
            self.gone
                .get_or_init(|| Arc::new(before.at_revision(self.revision)))
                .clone(),
        )
    }

    pub(super) fn size(&self) -> usize {
        let size = |o: &Option<Arc<Object>>| o.as_ref().map_or(0, |o| o.bytes.len());
        size(&self.before) + size(&self.after) + 256
    }
}

/// Which objects a list or watch is about.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Empty: all.
    pub namespace: String,
    pub labels: LabelSelector,
    pub fields: FieldSelector,
    /// The resource's selectable fields, to find a field's position in the index.
    pub known: Arc<[Field]>,
    /// What the index cannot answer, because objects are converted first.
    pub late: Option<LateFilter>,
}

/// Selects by fields of the version that is asked for, once objects are in it.
#[derive(Debug, Clone)]
pub struct LateFilter {
    pub terms: FieldSelector,
    pub known: Vec<Field>,
}

impl LateFilter {
    pub fn matches(&self, object: &Value) -> bool {
        self.terms.holds(|label| {
            let field = self.known.iter().find(|f| f.label == label);
            field.map(|f| f.text(object)).unwrap_or_default()
        })
    }
}

impl Filter {
    /// Whether everything passes.
    pub fn is_empty(&self) -> bool {
        self.namespace.is_empty() && self.selects_all()
    }

    /// Whether only the namespace decides.
    pub fn selects_all(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty() && self.late.is_none()
    }

    pub fn matches(&self, object: &Object) -> bool {
        if !self.namespace.is_empty() && self.namespace != object.namespace() {
            return false;
        }
        let field = |label: &str| match label {
            "metadata.name" => object.name(),
            "metadata.namespace" => object.namespace(),
            label => self
                .known
                .iter()
                .position(|f| f.label == label)
                .map_or("", |i| object.field(i)),
        };
        (self.fields.is_empty() || self.fields.matches(field))
            && (self.labels.is_empty() || self.labels.matches(|k| object.label(k)))
    }
}
