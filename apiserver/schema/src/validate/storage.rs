//! Claims, and the kinds of the storage group.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::field::{Errors, IMMUTABLE, Node, Path, Place, same};
use super::pod::volume::driver_name;
use super::volume::{Use, VOLUME_MODES, access_modes, positive, specification};
use super::{Change, Rule, diff, internal, meta, names};
use crate::quantity;

/// The rules of a kind of the group.
pub(super) fn rule(kind: &str) -> Option<Rule> {
    let found: Rule = match kind {
        "StorageClass" => storage_class,
        "VolumeAttributesClass" => attributes_class,
        "VolumeAttachment" => attachment,
        "CSIDriver" => driver,
        "CSINode" => csi_node,
        "CSIStorageCapacity" => capacity,
        _ => return None,
    };
    Some(found)
}

/// A template of claims in a pod.
pub(super) fn claim_template(e: &mut Errors, template: &Node<'_>) {
    meta::template_metadata(e, &template.get("metadata"));
    claim_spec(e, &template.get("spec"));
}

/// PersistentVolumeClaim
pub(super) fn claim(e: &mut Errors, change: &Change<'_>) {
    if change.is_status() {
        return claim_status(e, &change.new);
    }
    let spec = change.new.get("spec");
    claim_spec(e, &spec);
    if let Some(old) = &change.old {
        claim_spec(e, &spec);
        claim_update(e, &change.new, old);
    }
}

fn claim_spec(e: &mut Errors, spec: &Node<'_>) {
    let modes = spec.get("accessModes");
    if modes.is_empty() {
        e.required(&modes, "at least 1 access mode is required");
    }
    meta::selector(e, &spec.get("selector"));
    access_modes(e, &modes);
    // Upstream leaves `requests` out of the place.
    let at = spec.path.child("resources").key("storage");
    let size = Node::new(&spec.value["resources"]["requests"]["storage"], at);
    if size.is_set() {
        positive(e, &size);
    } else {
        e.required(&size, "");
    }
    e.check_optional(&spec.get("storageClassName"), names::subdomain_faults);
    e.one_of(&spec.get("volumeMode"), &VOLUME_MODES);
    let (source, reference) = (spec.get("dataSource"), spec.get("dataSourceRef"));
    data_source(e, &source);
    data_source(e, &reference);
    let both = source.is_set() && reference.is_set();
    let namespaced = !reference.get("namespace").is_empty();
    let differs = ["apiGroup", "kind", "name"]
        .iter()
        .any(|f| !same(source.get(f).value, reference.get(f).value));
    let shown = source.place().to_owned();
    if both && namespaced {
        let why = "may not be specified when dataSourceRef.namespace is specified";
        e.invalid(spec, &shown, why);
    } else if both && differs {
        e.invalid(spec, &shown, "must match dataSourceRef");
    }
    e.check_optional(
        &spec.get("volumeAttributesClassName"),
        names::subdomain_faults,
    );
}

fn data_source(e: &mut Errors, source: &Node<'_>) {
    if !source.is_set() {
        return;
    }
    e.need(&source.get("name"));
    let kind = source.get("kind");
    e.need(&kind);
    let group = source.get("apiGroup");
    if group.is_empty() && kind.text() != "PersistentVolumeClaim" {
        let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        e.invalid(source, kind.text(), why);
    }
    e.check_optional(&group, names::subdomain_faults);
    e.check_optional(&source.get("namespace"), names::label_faults);
}

fn claim_update(e: &mut Errors, new: &Node<'_>, old: &Node<'_>) {
    const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
    let (mut after, mut before) = (new.value["spec"].clone(), old.value["spec"].clone());
    if old.get("spec.volumeName").is_empty() {
        copy(&mut before, &after, "volumeName");
    }
    let annotation = |n: &Node<'_>| {
        n.value["metadata"]["annotations"][BETA_CLASS]
            .as_str()
            .map(str::to_owned)
    };
    let (was, is) = (annotation(old), annotation(new));
    let class = new.get("spec.storageClassName");
    let unclassed = class.is_set() && !old.get("spec.storageClassName").is_set();
    let upgrades = unclassed && was.as_deref() == Some(class.text()) && (is.is_none() || is == was);
    if upgrades {
        copy(&mut after, &before, "storageClassName");
    } else {
        if was.clone().unwrap_or_default() != is.clone().unwrap_or_default() {
            let at = Path::new(format!("metadata.annotations.{BETA_CLASS}"));
            e.invalid(&at, is.unwrap_or_default().as_str(), IMMUTABLE);
        }
        if unclassed && was.is_none_or(|w| w == class.text()) {
            copy(&mut after, &before, "storageClassName");
        }
    }
    if new.get("status.phase").text() == "Bound" {
        let size = before["resources"]["requests"]["storage"].clone();
        if let Some(requests) = after
            .pointer_mut("/resources/requests")
            .and_then(Value::as_object_mut)
        {
            requests.insert("storage".into(), size);
        }
        if after["volumeAttributesClassName"].is_string() {
            copy(&mut after, &before, "volumeAttributesClassName");
        }
    }
    let spec = new.get("spec");
    if !same(&after, &before) {
        let difference = diff::unified(
            &internal::indented("PersistentVolumeClaimSpec", &before),
            &internal::indented("PersistentVolumeClaimSpec", &after),
        );
        let why = format!(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n{difference}"
        );
        e.forbidden(&spec, why);
    }
    shrunk(e, new, old);
    let mode = Node::new(spec.get("volumeMode").value, new.path.child("volumeMode"));
    e.immutable(&mode, &old.get("spec.volumeMode"));
    let class = spec.get("volumeAttributesClassName");
    if old.get("spec.volumeAttributesClassName").is_set() {
        if !class.is_set() {
            e.forbidden(&class, "update from non-nil value to nil is forbidden");
        } else if class.is_empty() {
            let why = "update from non-nil value to an empty string is forbidden";
            e.forbidden(&class, why);
        }
    }
}

/// A claim can become smaller again as long as its volume did not grow.
fn shrunk(e: &mut Errors, new: &Node<'_>, old: &Node<'_>) {
    let size = new.get("spec.resources.requests.storage");
    let less = |a: &str, b: &str| quantity::compare(a, b).is_ok_and(|o| o.is_lt());
    let amount = |n: &Node<'_>| if n.is_set() { n.text() } else { "0" }.to_owned();
    let now = amount(&size);
    if less(&now, &amount(&old.get("spec.resources.requests.storage"))) {
        let held = amount(&old.get("status.capacity.storage"));
        if !less(&held, &now) {
            e.forbidden(&size, "field can not be less than status.capacity");
        }
    }
}

fn copy(to: &mut Value, from: &Value, field: &str) {
    if let Some(map) = to.as_object_mut() {
        match from.get(field) {
            Some(value) => map.insert(field.to_owned(), value.clone()),
            None => map.remove(field),
        };
    }
}

fn claim_status(e: &mut Errors, claim: &Node<'_>) {
    if claim.get("spec.accessModes").is_empty() {
        e.required(&claim.path.child("Spec.accessModes"), "");
    }
    let basic = |e: &mut Errors, amount: &Node<'_>| {
        if let Some(number) = quantity::to_integer(amount.text()).filter(|n| *n < 0) {
            e.invalid(amount, number, "must be a valid resource quantity");
        }
    };
    for (_, amount) in claim.get("status.capacity").entries() {
        basic(e, &amount);
    }
    const STATES: [&str; 5] = [
        "ControllerResizeInProgress",
        "ControllerResizeInfeasible",
        "NodeResizeInProgress",
        "NodeResizeInfeasible",
        "NodeResizePending",
    ];
    let at = claim.path.child("status.allocatedResourceStatus");
    for (key, state) in claim.get("status.allocatedResourceStatuses").entries() {
        resource_key(e, &at, key);
        if !STATES.contains(&state.text()) {
            e.not_supported(&at, key, &STATES);
        }
    }
    let allocated = claim.get("status.allocatedResources");
    for (key, amount) in allocated.entries() {
        if resource_key(e, &allocated.path, key) {
            basic(e, &amount);
        }
    }
}

fn resource_key(e: &mut Errors, at: &Path, key: &str) -> bool {
    let faults = names::qualified_name_faults(key);
    let right = faults.is_empty();
    e.faults(at, key, faults);
    let native = !key.contains('/') || key.contains("kubernetes.io/");
    if right && native && key != "storage" {
        e.not_supported(at, key, &["storage"]);
        return false;
    }
    right
}

fn provisioner(e: &mut Errors, node: &Node<'_>) {
    e.need(node);
    if !node.is_empty() {
        let lower = node.text().to_lowercase();
        e.faults(node, &lower, names::qualified_name_faults(&lower));
    }
}

fn parameters(e: &mut Errors, node: &Node<'_>, may_be_empty: bool) {
    const MOST: usize = 256 * 1024;
    if node.len() > 512 {
        return e.too_long(node, 512);
    }
    let mut size = 0;
    for (key, value) in node.entries() {
        if key.is_empty() {
            e.invalid(node, key, "field can not be empty.");
        }
        size += key.len() + value.text().len();
    }
    if size > MOST {
        e.too_long(node, MOST);
    }
    if !may_be_empty && node.is_empty() {
        e.required(node, "must contain at least one key/value pair");
    }
}

fn storage_class(e: &mut Errors, change: &Change<'_>) {
    let class = &change.new;
    provisioner(e, &class.get("provisioner"));
    parameters(e, &class.get("parameters"), true);
    let policy = class.get("reclaimPolicy");
    if !policy.is_empty() {
        e.one_of(&policy, &["Delete", "Retain"]);
    }
    let mode = class.get("volumeBindingMode");
    if mode.is_set() {
        e.one_of(&mode, &["Immediate", "WaitForFirstConsumer"]);
    } else {
        e.required(&mode, "");
    }
    topologies(e, &class.get("allowedTopologies"));
    for field in [
        "parameters",
        "provisioner",
        "reclaimPolicy",
        "volumeBindingMode",
    ] {
        change.immutable(e, field);
    }
}

fn topologies(e: &mut Errors, list: &Node<'_>) {
    let mut known: Vec<BTreeMap<&str, BTreeSet<&str>>> = Vec::new();
    for term in list.items() {
        let mut own: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let expressions = term.get("matchLabelExpressions");
        for expression in expressions.items() {
            let values = expression.get("values");
            let mut seen = BTreeSet::new();
            if values.is_empty() {
                e.required(&values, "");
            }
            for value in values.items() {
                if !seen.insert(value.text()) {
                    e.duplicate(&value, value.text());
                }
            }
            let key = expression.get("key");
            e.check(&key, names::qualified_name_faults);
            if own.insert(key.text(), seen).is_some() {
                e.duplicate(&key, key.text());
            }
        }
        if known.contains(&own) {
            e.duplicate(&expressions, "");
        }
        known.push(own);
    }
}

fn attributes_class(e: &mut Errors, change: &Change<'_>) {
    let (name, own) = (change.new.get("driverName"), change.new.get("parameters"));
    change.immutable(e, "driverName");
    change.immutable(e, "parameters");
    provisioner(e, &name);
    parameters(e, &own, false);
}

fn attachment(e: &mut Errors, change: &Change<'_>) {
    let new = &change.new;
    let spec = new.get("spec");
    let (attacher, source) = (spec.get("attacher"), spec.get("source"));
    e.need(&attacher);
    let (inline, named) = (
        source.get("inlineVolumeSpec"),
        source.get("persistentVolumeName"),
    );
    let one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (inline.is_set(), named.is_set()) {
        (false, false) => e.required(&source, one),
        (true, true) => e.forbidden(&source, one),
        (false, true) => {
            if named.is_empty() {
                e.required(&named, "must specify non empty persistentVolumeName");
            }
        }
        (true, false) => specification(e, &inline, "", Use::Inline),
    }
    e.check(&spec.get("nodeName"), names::subdomain_faults);
    let status = new.get("status");
    for field in ["attachError", "detachError"] {
        let error = status.get(field);
        let message = error.get("message");
        if message.text().len() > 1024 {
            e.too_long(&message, 256 * 1024);
        }
        let code = error.get("errorCode");
        if code.int() < 0 {
            e.bad(&code, names::between(0, i64::from(i32::MAX)));
        }
    }
    match &change.old {
        Some(old) => {
            if !same(spec.value, old.get("spec").value) {
                e.bad(&spec, IMMUTABLE);
            }
        }
        None => {
            driver_name(e, &attacher);
            if named.is_set() {
                e.check(&named, names::subdomain_faults);
            }
        }
    }
}

fn driver(e: &mut Errors, change: &Change<'_>) {
    let spec = change.new.get("spec");
    for (field, at) in [
        ("attachRequired", "attachedRequired"),
        ("podInfoOnMount", "podInfoOnMount"),
        ("storageCapacity", "storageCapacity"),
    ] {
        if !spec.get(field).is_set() {
            e.required(&spec.path.child(at), "");
        }
    }
    e.one_of(
        &spec.get("fsGroupPolicy"),
        &["File", "None", "ReadWriteOnceWithFSType"],
    );
    let mut audiences = BTreeSet::new();
    for request in spec.get("tokenRequests").items() {
        let audience = request.get("audience");
        if !audiences.insert(audience.text()) {
            e.duplicate(&audience, audience.text());
            continue;
        }
        let seconds = request.get("expirationSeconds");
        match seconds.number() {
            Some(n) if n < 600 => {
                let why = "may not specify a duration less than 10 minutes";
                e.bad(&seconds, why);
            }
            Some(n) if n > 1 << 32 => {
                let why = "may not specify a duration larger than 2^32 seconds";
                e.bad(&seconds, why);
            }
            _ => {}
        }
    }
    let modes = spec.get("volumeLifecycleModes");
    for mode in modes.texts() {
        if !["Persistent", "Ephemeral"].contains(&mode) {
            e.not_supported(&modes, mode, &["Persistent", "Ephemeral"]);
        }
    }
    let linux = spec.get("seLinuxMount");
    if !linux.is_set() {
        e.required(&linux, "");
    }
    let period = spec.get("nodeAllocatableUpdatePeriodSeconds");
    if period.number().is_some_and(|p| p < 10) {
        e.bad(&period, "must be greater than or equal to 10 seconds");
    }
    let Some(old) = &change.old else { return };
    let attach = spec.get("attachRequired");
    let at = Node::new(attach.value, spec.path.child("attachedRequired"));
    e.immutable(&at, &old.get("spec.attachRequired"));
    e.immutable(&modes, &old.get("spec.volumeLifecycleModes"));
}

fn csi_node(e: &mut Errors, change: &Change<'_>) {
    let drivers = change.new.get("spec.drivers");
    let mut known = BTreeSet::new();
    for driver in drivers.items() {
        let name = driver.get("name");
        driver_name(e, &name);
        let id = driver.get("nodeID");
        e.need(&id);
        if id.text().len() > 256 {
            e.bad(&id, "must be 256 characters or less");
        }
        e.non_negative(&driver.get("allocatable.count"));
        if !known.insert(name.text()) {
            e.duplicate(&name, name.text());
        }
        let mut keys = BTreeSet::new();
        for key in driver.get("topologyKeys").texts() {
            if key.is_empty() {
                e.required(&driver, "");
            }
            if !keys.insert(key) {
                e.duplicate(&driver, key);
            }
            e.faults(&driver, key, names::qualified_name_faults(key));
        }
    }
    let Some(old) = &change.old else { return };
    let fixed = |n: &Node<'_>| {
        let mut map = n.value.as_object().cloned().unwrap_or_default();
        map.remove("allocatable");
        Value::Object(map)
    };
    for before in old.get("spec.drivers").items() {
        for after in drivers.items() {
            let named = after.get("name").text() == before.get("name").text();
            if named && !same(&fixed(&after), &fixed(&before)) {
                let shown = internal::shown("CSINodeDriver", &fixed(&after));
                e.invalid(&drivers, shown, IMMUTABLE);
            }
        }
    }
}

fn capacity(e: &mut Errors, change: &Change<'_>) {
    let new = &change.new;
    let topology = new.get("nodeTopology");
    if let Some(old) = &change.old {
        if !same(topology.value, old.get("nodeTopology").value) {
            e.invalid(&topology, meta::shown_selector(&topology), IMMUTABLE);
        }
        return change.immutable(e, "storageClassName");
    }
    meta::selector(e, &topology);
    e.check(&new.get("storageClassName"), names::subdomain_faults);
    let own = new.get("capacity");
    if own.is_set() {
        e.non_negative_quantity(&own);
    }
}
