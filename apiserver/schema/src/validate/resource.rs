//! Devices that pods claim.

use std::collections::BTreeSet;

use super::field::{Errors, Node, same};
use super::pod::volume::driver_name;
use super::{Change, Rule, devices, internal, literal, meta, names};

const MAX_REQUESTS: usize = 32;
const MAX_SELECTORS: usize = 32;
const MAX_ALTERNATIVES: usize = 8;

/// The rule of a kind of `resource.k8s.io`.
pub(super) fn rule(kind: &str) -> Option<Rule> {
    Some(match kind {
        "ResourceClaim" => claim,
        "ResourceClaimTemplate" => template,
        "DeviceClass" => class,
        "ResourceSlice" => devices::slice,
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
            request_reference(e, &own, &known);
        }
        let (same, distinct) = (
            constraint.get("matchAttribute"),
            constraint.get("distinctAttribute"),
        );
        if same.is_set() {
            devices::fully_qualified_name(e, &same);
        } else if distinct.is_set() {
            devices::fully_qualified_name(e, &distinct);
        } else {
            // Upstream says so, although none is set.
            let why = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
            e.required(&constraint, why);
        }
    }
    for config in devices.get("config").items() {
        for own in config.get("requests").items() {
            request_reference(e, &own, &known);
        }
        opaque(e, &config);
    }
}

/// The name of a request of the claim, or of an alternative of one.
fn request_reference(e: &mut Errors, node: &Node<'_>, known: &BTreeSet<String>) {
    let parts: Vec<&str> = node.text().split('/').collect();
    if parts.len() <= 2 {
        for part in parts {
            e.faults(node, part, names::label_faults(part));
        }
    }
    if !known.contains(node.text()) {
        let why = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
        e.bad(node, why);
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
        devices::toleration(e, &toleration);
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
    driver_name(e, &opaque.get("driver"));
    let parameters = opaque.get("parameters");
    if parameters.is_empty() {
        e.required(&parameters, "");
    }
}

fn class(e: &mut Errors, change: &Change<'_>) {
    let spec = change.new.get("spec");
    selectors(e, &spec.get("selectors"));
    for config in spec.get("config").items() {
        opaque(e, &config);
    }
    let extended = spec.get("extendedResourceName");
    if extended.is_set() && !super::pod::resources::is_extended(extended.text()) {
        e.bad(&extended, "must be a valid extended resource name");
    }
}
