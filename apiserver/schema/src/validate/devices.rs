//! What drivers publish of their devices.

use std::collections::BTreeSet;

use super::field::{Errors, Node, Path};
use super::pod::scheduling::node_selector;
use super::pod::volume::driver_name;
use super::{Change, internal, names};

const MAX_DEVICES: usize = 128;
/// Of a slice whose devices have taints or counters.
const MAX_SPECIAL_DEVICES: usize = 64;
const MAX_POOL_NAME: usize = 253;
const MAX_NAME: usize = 32;
const MAX_VALUE: usize = 64;
const MAX_ENTRIES: usize = 32;
const ONE_PLACE: &str =
    "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";

/// ResourceSlice
pub(super) fn slice(e: &mut Errors, change: &Change<'_>) {
    let spec = change.new.get("spec");
    driver_name(e, &spec.get("driver"));
    pool(e, &spec.get("pool"));
    for field in ["spec.pool.name", "spec.driver", "spec.nodeName"] {
        change.immutable(e, field);
    }
    place(e, &spec);
    let devices = spec.get("devices");
    if spec.get("sharedCounters").is_set() && devices.is_set() {
        let why = "only one of `sharedCounters` or `devices` is allowed";
        e.invalid(&spec, "", why);
    }
    let special =
        |d: &Node<'_>| !d.get("taints").is_empty() || !d.get("consumesCounters").is_empty();
    let most = if devices.items().any(|d| special(&d)) {
        MAX_SPECIAL_DEVICES
    } else {
        MAX_DEVICES
    };
    if devices.len() > most {
        return e.too_many(&devices, devices.len(), most);
    }
    let each = spec.get("perDeviceNodeSelection").flag();
    for device in devices.items() {
        self::device(e, &device, each);
    }
    unique(e, &devices);
}

/// Names that stand twice.
fn unique(e: &mut Errors, list: &Node<'_>) {
    let mut known = BTreeSet::new();
    for item in list.items() {
        let name = item.get("name").text();
        if !known.insert(name) {
            e.duplicate(&item, name);
        }
    }
}

fn pool(e: &mut Errors, pool: &Node<'_>) {
    let name = pool.get("name");
    if name.is_empty() {
        e.required(&name, "");
    } else {
        if name.text().len() > MAX_POOL_NAME {
            e.too_long(&name, MAX_POOL_NAME);
        }
        for part in name.text().split('/') {
            e.faults(&name, part, names::subdomain_faults(part));
        }
    }
    let count = pool.get("resourceSliceCount");
    if count.int() <= 0 {
        e.invalid(&count, count.int(), "must be greater than zero");
    }
    let generation = pool.get("generation");
    if generation.int() < 0 {
        e.bad(&generation, "must be greater than or equal to zero");
    }
}

/// On which nodes the devices are.
fn place(e: &mut Errors, spec: &Node<'_>) {
    let mut set = Vec::new();
    let node = spec.get("nodeName");
    if node.is_set() && node.is_empty() {
        e.bad(&node, "must be either unset or set to a non-empty string");
    } else if node.is_set() {
        set.push("`nodeName`");
        e.check(&node, names::subdomain_faults);
    }
    let selector = spec.get("nodeSelector");
    if selector.is_set() {
        set.push("`nodeSelector`");
        node_selector(e, &selector);
        let terms = selector.get("nodeSelectorTerms");
        if terms.len() != 1 {
            let shown = internal::shown("[NodeSelectorTerm]", terms.value);
            e.invalid(&terms, shown, "must have exactly one node selector term");
        }
    }
    for (field, name) in [
        ("allNodes", "`allNodes`"),
        ("perDeviceNodeSelection", "`perDeviceNodeSelection`"),
    ] {
        let flag = spec.get(field);
        if flag.flag() {
            set.push(name);
        } else if flag.is_set() {
            e.bad(&flag, "must be either unset or set to true");
        }
    }
    match set.as_slice() {
        [] => e.required(spec, ONE_PLACE),
        [_] => {}
        several => {
            let shown = format!("{{{}}}", several.join(", "));
            let why = format!("{ONE_PLACE}, but multiple fields are set");
            e.invalid(spec, &shown, why);
        }
    }
}

fn device(e: &mut Errors, device: &Node<'_>, each: bool) {
    e.check(&device.get("name"), names::label_faults);
    let (attributes, capacity) = (device.get("attributes"), device.get("capacity"));
    let entries = attributes.len() + capacity.len();
    if entries > MAX_ENTRIES {
        let why =
            format!("the total number of attributes and capacities must not exceed {MAX_ENTRIES}");
        e.invalid(device, i64::try_from(entries).unwrap_or(i64::MAX), why);
    }
    for (name, attribute) in attributes.entries() {
        qualified_name(e, &attribute.path, name);
        self::attribute(e, &attribute);
    }
    for (name, amount) in capacity.entries() {
        qualified_name(e, &amount.path, name);
        let policy = amount.get("requestPolicy");
        if policy.is_set() && !device.get("allowMultipleAllocations").flag() {
            e.forbidden(&policy, "allowMultipleAllocations must be true");
        }
    }
    for taint in device.get("taints").items() {
        self::taint(e, &taint);
    }
    own_place(e, device, each);
}

fn own_place(e: &mut Errors, device: &Node<'_>, each: bool) {
    let why = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    let fields = ["nodeName", "nodeSelector", "allNodes"];
    let present: Vec<&str> = fields
        .into_iter()
        .filter(|f| device.get(f).is_set())
        .collect();
    if !each {
        if !present.is_empty() {
            let why = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            e.invalid(device, &serde_json::Value::Null, why);
        }
        return;
    }
    let mut set = Vec::new();
    let node = device.get("nodeName");
    if node.is_set() && node.is_empty() {
        e.bad(&node, "must not be empty");
    } else if node.is_set() {
        set.push("`nodeName`");
        e.check(&node, names::subdomain_faults);
    }
    let selector = device.get("nodeSelector");
    if selector.is_set() {
        set.push("`nodeSelector`");
        node_selector(e, &selector);
    }
    let all = device.get("allNodes");
    if all.flag() {
        set.push("`allNodes`");
    } else if all.is_set() {
        e.bad(&all, "must be either unset or set to true");
    }
    match set.as_slice() {
        [] => e.required(device, why),
        [_] => {}
        several => e.invalid(device, &format!("{{{}}}", several.join(", ")), why),
    }
}

fn attribute(e: &mut Errors, attribute: &Node<'_>) {
    let mut count = 0;
    for field in ["bool", "int", "string", "version"] {
        let value = attribute.get(field);
        if !value.is_set() {
            continue;
        }
        count += 1;
        if field == "version" && !is_version(value.text()) {
            let why = "must be a string compatible with semver.org spec 2.0.0";
            e.bad(&value, why);
        }
        if value.text().len() > MAX_VALUE {
            e.too_long(&value, MAX_VALUE);
        }
    }
    let why = "exactly one value must be specified";
    match count {
        0 => e.invalid(attribute, "", why),
        1 => {}
        _ => e.invalid(
            attribute,
            internal::shown("DeviceAttribute", attribute.value),
            why,
        ),
    }
}

/// `1.2.3-alpha.1+build`
fn is_version(text: &str) -> bool {
    let word = |s: &str| !s.is_empty() && s.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|c| c.is_ascii_digit());
    let number = |s: &str| digits(s) && (s == "0" || !s.starts_with('0'));
    let (rest, build) = text
        .split_once('+')
        .map_or((text, None), |(r, b)| (r, Some(b)));
    let (core, early) = rest
        .split_once('-')
        .map_or((rest, None), |(c, p)| (c, Some(p)));
    let parts: Vec<&str> = core.split('.').collect();
    parts.len() == 3
        && parts.iter().all(|p| number(p))
        && early.is_none_or(|p| p.split('.').all(|s| word(s) && (number(s) || !digits(s))))
        && build.is_none_or(|b| b.split('.').all(word))
}

const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

fn taint(e: &mut Errors, taint: &Node<'_>) {
    e.check(&taint.get("key"), names::qualified_name_faults);
    e.check_optional(&taint.get("value"), names::label_value_faults);
    e.one_of_required(&taint.get("effect"), &EFFECTS);
}

/// A toleration of a request.
pub(super) fn toleration(e: &mut Errors, toleration: &Node<'_>) {
    e.check_optional(&toleration.get("key"), names::qualified_name_faults);
    let (operator, value) = (toleration.get("operator"), toleration.get("value"));
    match operator.text() {
        "Exists" => {
            if !value.is_empty() {
                e.bad(&value, "must be empty for operator `Exists`");
            }
        }
        "Equal" => e.check_optional(&value, names::label_value_faults),
        "" => e.required(&operator, ""),
        other => e.not_supported(&operator, other, &["Equal", "Exists"]),
    }
    let effect = toleration.get("effect");
    if !effect.is_empty() {
        e.one_of(&effect, &EFFECTS);
    }
}

/// `name` or `example.com/name`
fn qualified_name(e: &mut Errors, at: &Path, text: &str) {
    match text.split('/').collect::<Vec<_>>().as_slice() {
        [own] => identifier(e, at, own),
        [domain, own] => {
            if domain.is_empty() {
                e.invalid(at, "", "the domain must not be empty");
            } else {
                e.faults(at, domain, names::subdomain_faults(&domain.to_lowercase()));
            }
            if own.is_empty() {
                e.invalid(at, "", "the name must not be empty");
            } else {
                identifier(e, at, own);
            }
        }
        _ => e.invalid(at, text, "must not contain more than one slash"),
    }
}

/// `example.com/name`
pub(super) fn fully_qualified_name(e: &mut Errors, node: &Node<'_>) {
    qualified_name(e, &node.path, node.text());
    if !node.text().contains('/') {
        let why = "a fully qualified name must be a domain and a name separated by a slash";
        e.bad(node, why);
    }
}

fn identifier(e: &mut Errors, at: &Path, text: &str) {
    if text.len() > MAX_NAME {
        e.too_long(at, MAX_NAME);
    }
    e.faults(at, text, names::c_identifier_faults(text));
}

#[cfg(test)]
mod tests {
    use super::is_version;

    #[test]
    fn versions_are_semantic() {
        for right in ["0.0.1", "1.2.3-alpha.1", "1.2.3+a-b.01", "1.0.0-0a"] {
            assert!(is_version(right), "{right}");
        }
        for wrong in [
            "x", "1.2", "1.2.3.4", "01.2.3", "1.2.3-01", "1.2.3-", "1.2.3+",
        ] {
            assert!(!is_version(wrong), "{wrong}");
        }
    }
}
