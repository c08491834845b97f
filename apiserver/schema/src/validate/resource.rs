//! Devices that pods claim.

use std::collections::BTreeSet;

use super::field::{Errors, Node, same};
use super::{Change, Rule, internal, literal, meta, names};

const MAX_REQUESTS: usize = 32;
const MAX_SELECTORS: usize = 32;
const MAX_ALTERNATIVES: usize = 8;

/// The rule of a kind of `resource.k8s.io`.
pub(super) fn rule(kind: &str) -> Option<Rule> {
    Some(match kind {
        "ResourceClaim" => claim,
        "ResourceClaimTemplate" => template,
        "DeviceClass" => class,
        "ResourceSlice" => slice,
        _ => return None,
    })
}

fn claim(e: &mut Errors, change: &Change<'_>) {
    if change.is_status() {
        return;
    }
    if let Some(old) = &change.old {
        let (new, old) = (change.new.get("spec"), old.get("spec"));
        if !same(new.value, old.value) {
            e.invalid(
                &new,
                internal::shown("ResourceClaimSpec", new.value),
                super::field::IMMUTABLE,
            );
        }
    }
    claim_spec(e, &change.new.get("spec"));
}

fn template(e: &mut Errors, change: &Change<'_>) {
    let spec = change.new.get("spec");
    if let Some(old) = &change.old {
        let old = old.get("spec");
        if !same(spec.value, old.value) {
            let shown = internal::shown("ResourceClaimTemplateSpec", spec.value);
            e.invalid(&spec, shown, super::field::IMMUTABLE);
        }
    }
    meta::template_metadata(e, &spec.get("metadata"));
    claim_spec(e, &spec.get("spec"));
}

fn claim_spec(e: &mut Errors, spec: &Node<'_>) {
    let devices = spec.get("devices");
    let requests = devices.get("requests");
    if requests.len() > MAX_REQUESTS {
        e.too_many(&requests, requests.len(), MAX_REQUESTS);
    }
    let mut known = BTreeSet::new();
    for request in requests.items() {
        let name = request.get("name");
        request_name(e, &name);
        if !name.is_empty() && !known.insert(name.text().to_owned()) {
            e.duplicate(&request, name.text());
        }
        self::request(e, &request, &mut known);
    }
    for constraint in devices.get("constraints").items() {
        for own in constraint.get("requests").items() {
            if !known.contains(own.text()) {
                let why = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
                e.bad(&own, why);
            }
        }
        let attribute = constraint.get("matchAttribute");
        if attribute.is_set() {
            qualified(e, &attribute);
        } else if !constraint.get("distinctAttribute").is_set() {
            e.required(&attribute, "");
        }
    }
    for config in devices.get("config").items() {
        for own in config.get("requests").items() {
            if !known.contains(own.text()) {
                let why = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
                e.bad(&own, why);
            }
        }
        opaque(e, &config);
    }
}

fn request_name(e: &mut Errors, name: &Node<'_>) {
    e.check_required(name, names::label_faults);
}

fn request(e: &mut Errors, request: &Node<'_>, known: &mut BTreeSet<String>) {
    let (exactly, alternatives) = (request.get("exactly"), request.get("firstAvailable"));
    match (exactly.is_set(), !alternatives.is_empty()) {
        (true, true) => e.wrong(
            request,
            "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
        ),
        (false, false) => e.required(
            request,
            "exactly one of `exactly` or `firstAvailable` is required",
        ),
        (true, false) => wanted(e, &exactly),
        (false, true) => {
            if alternatives.len() > MAX_ALTERNATIVES {
                e.too_many(&alternatives, alternatives.len(), MAX_ALTERNATIVES);
            }
            let mut own = BTreeSet::new();
            for alternative in alternatives.items() {
                let name = alternative.get("name");
                request_name(e, &name);
                if !own.insert(name.text()) {
                    e.duplicate(&alternative, name.text());
                }
                known.insert(format!("{}/{}", request.get("name").text(), name.text()));
                wanted(e, &alternative);
            }
        }
    }
}

/// Which devices are wanted, and how many.
fn wanted(e: &mut Errors, request: &Node<'_>) {
    e.check_required(&request.get("deviceClassName"), names::subdomain_faults);
    selectors(e, &request.get("selectors"));
    let (mode, count) = (request.get("allocationMode"), request.get("count"));
    match mode.text() {
        "All" => {
            if count.int() != 0 {
                e.bad(&count, "must not be specified when allocationMode is 'All'");
            }
        }
        "ExactCount" => {
            if count.int() <= 0 {
                e.invalid(&count, count.int(), "must be greater than zero");
            }
        }
        other => e.not_supported(&mode, other, &["All", "ExactCount"]),
    }
    for toleration in request.get("tolerations").items() {
        let key = toleration.get("key");
        e.check_optional(&key, names::qualified_name_faults);
        e.one_of(&toleration.get("operator"), &["Equal", "Exists"]);
    }
}

fn selectors(e: &mut Errors, list: &Node<'_>) {
    if list.len() > MAX_SELECTORS {
        e.too_many(list, list.len(), MAX_SELECTORS);
    }
    for selector in list.items() {
        let cel = selector.get("cel");
        if !cel.is_set() {
            e.required(&cel, "");
            continue;
        }
        let expression = cel.get("expression");
        if expression.is_empty() {
            e.required(&expression, "");
        } else {
            literal::check_selector(e, &expression);
        }
    }
}

fn opaque(e: &mut Errors, config: &Node<'_>) {
    let opaque = config.get("opaque");
    if !opaque.is_set() {
        return e.required(&opaque, "");
    }
    driver(e, &opaque.get("driver"));
    let parameters = opaque.get("parameters");
    if parameters.is_empty() {
        e.required(&parameters, "");
    }
}

fn driver(e: &mut Errors, driver: &Node<'_>) {
    if driver.is_empty() {
        return e.required(driver, "");
    }
    if driver.text().len() > 63 {
        e.too_long(driver, 63);
    }
    e.check(driver, names::subdomain_faults);
}

/// `example.com/name`
fn qualified(e: &mut Errors, node: &Node<'_>) {
    let text = node.text();
    if text.is_empty() {
        return e.required(node, "name required");
    }
    let (domain, own) = text.split_once('/').unwrap_or(("", text));
    if domain.is_empty() {
        e.bad(node, "must include a domain");
    } else {
        e.faults(node, domain, names::subdomain_faults(domain));
    }
    e.faults(node, own, names::c_identifier_faults(own));
}

fn class(e: &mut Errors, change: &Change<'_>) {
    let spec = change.new.get("spec");
    selectors(e, &spec.get("selectors"));
    for config in spec.get("config").items() {
        opaque(e, &config);
    }
}

fn slice(e: &mut Errors, change: &Change<'_>) {
    let spec = change.new.get("spec");
    driver(e, &spec.get("driver"));
    let pool = spec.get("pool");
    let name = pool.get("name");
    if name.is_empty() {
        e.required(&name, "");
    }
    for part in name.text().split('/').filter(|_| !name.is_empty()) {
        e.faults(&name, part, names::subdomain_faults(part));
    }
    let count = pool.get("resourceSliceCount");
    if count.int() <= 0 {
        e.invalid(&count, count.int(), "must be greater than zero");
    }
    e.non_negative(&pool.get("generation"));
    let mut known = BTreeSet::new();
    for device in spec.get("devices").items() {
        let name = device.get("name");
        e.check_required(&name, names::label_faults);
        if !known.insert(name.text()) {
            e.duplicate(&device, name.text());
        }
    }
    change.immutable(e, "spec.driver");
    change.immutable(e, "spec.nodeName");
    change.immutable(e, "spec.pool.name");
}
