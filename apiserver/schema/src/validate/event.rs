//! Events of both groups: upstream judges the core group's form of them.

use serde_json::Value;

use super::field::{Errors, Node, Path};
use super::{Change, names};

/// An event by the names of either group.
struct Event<'a> {
    event: &'a Node<'a>,
    /// Whether it is of the core group.
    core: bool,
}

impl<'a> Event<'a> {
    /// A field by its core name: where the core group has it, whatever it is called here.
    fn get(&self, name: &str) -> Node<'a> {
        let own = match (self.core, name) {
            (true, "reportingController") => "reportingComponent",
            (false, "involvedObject") => "regarding",
            (false, "message") => "note",
            (false, "source") => "deprecatedSource",
            (false, "firstTimestamp") => "deprecatedFirstTimestamp",
            (false, "lastTimestamp") => "deprecatedLastTimestamp",
            (false, "count") => "deprecatedCount",
            _ => name,
        };
        Node::new(&self.event.value[own], Path::new(name))
    }
}

/// Event of the core group.
pub(super) fn legacy(e: &mut Errors, change: &Change<'_>) {
    let event = Event {
        event: &change.new,
        core: true,
    };
    common(e, &event);
}

/// Event of `events.k8s.io`.
pub(super) fn event(e: &mut Errors, change: &Change<'_>) {
    let event = Event {
        event: &change.new,
        core: false,
    };
    common(e, &event);
    // Whatever an event says may be changed: upstream means to compare an event with what it
    // was, compares it with itself, and conformance demands that a note can be patched.
    if change.old.is_none() {
        create(e, &event);
    }
}

fn common(e: &mut Errors, event: &Event<'_>) {
    let own = event.event.get("metadata.namespace").text();
    let about = event.get("involvedObject").get("namespace");
    let modern = event.get("eventTime").is_set();
    let other = match (modern, about.text()) {
        (false, "") => !["", "default"].contains(&own),
        (false, namespace) => namespace != own,
        (true, "") => !["default", "kube-system"].contains(&own),
        (true, _) => false,
    };
    if other {
        e.invalid(&about, about.text(), "does not match event.namespace");
    }
    if modern {
        let controller = event.get("reportingController");
        e.need(&controller);
        e.check(&controller, names::qualified_name_faults);
        for field in ["reportingInstance", "action", "reason"] {
            let node = event.get(field);
            e.need(&node);
            limited(e, &node, 128);
        }
        limited(e, &event.get("message"), 1024);
    }
    e.faults(&Path::new("namespace"), own, names::subdomain_faults(own));
}

fn limited(e: &mut Errors, node: &Node<'_>, most: usize) {
    if node.text().len() > most {
        e.invalid(node, "", format!("can have at most {most} characters"));
    }
}

fn create(e: &mut Errors, event: &Event<'_>) {
    series(e, event);
    let time = event.get("eventTime");
    if !time.is_set() {
        e.required(&time, "");
    }
    let kind = event.get("type");
    if !["Normal", "Warning"].contains(&kind.text()) {
        e.invalid(&kind, "", format!("has invalid value: {}", kind.text()));
    }
    for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
        let node = event.get(field);
        let zero = node.is_empty() || node.value == &Value::from(0);
        if !zero {
            e.invalid(&node, "", "needs to be unset");
        }
    }
}

fn series(e: &mut Errors, event: &Event<'_>) {
    let series = event.get("series");
    if !series.is_set() {
        return;
    }
    let count = series.get("count");
    if count.int() < 2 {
        e.invalid(&count, "", "should be at least 2");
    }
    e.need(&series.get("lastObservedTime"));
}
