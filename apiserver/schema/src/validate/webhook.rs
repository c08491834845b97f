//! Admission webhooks, and the rules that say what they and admission policies see.

use std::collections::BTreeSet;

use super::address::check_domain;
use super::field::{Errors, Node};
use super::{Change, meta, names};

const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];
const MAX_CONDITIONS: usize = 64;

/// ValidatingWebhookConfiguration, MutatingWebhookConfiguration
pub(super) fn configuration(e: &mut Errors, change: &Change<'_>) {
    let mut known = BTreeSet::new();
    for hook in change.new.get("webhooks").items() {
        webhook(e, &hook);
        versions(e, &hook.get("admissionReviewVersions"));
        let name = hook.get("name");
        if !name.is_empty() && !known.insert(name.text()) {
            e.duplicate(&name, name.text());
        }
    }
}

fn webhook(e: &mut Errors, hook: &Node<'_>) {
    check_domain(e, &hook.get("name"), 3);
    for rule in hook.get("rules").items() {
        self::rule(e, &rule);
    }
    e.one_of(&hook.get("failurePolicy"), &["Fail", "Ignore"]);
    e.one_of(&hook.get("matchPolicy"), &["Equivalent", "Exact"]);
    let effects = hook.get("sideEffects");
    if effects.is_set() {
        e.one_of(&effects, &["None", "NoneOnDryRun"]);
    } else {
        e.required(&effects, "must specify one of None, NoneOnDryRun");
    }
    let timeout = hook.get("timeoutSeconds");
    if timeout.is_set() && !(1..=30).contains(&timeout.int()) {
        e.bad(
            &timeout,
            "the timeout value must be between 1 and 30 seconds",
        );
    }
    meta::selector(e, &hook.get("namespaceSelector"));
    meta::selector(e, &hook.get("objectSelector"));
    e.one_of(&hook.get("reinvocationPolicy"), &["IfNeeded", "Never"]);
    client(e, &hook.get("clientConfig"));
    match_conditions(e, &hook.get("matchConditions"));
}

/// How a webhook is reached.
pub(super) fn client(e: &mut Errors, config: &Node<'_>) {
    let (url, service) = (config.get("url"), config.get("service"));
    if url.is_set() == service.is_set() {
        e.required(config, "exactly one of url or service is required");
    } else if url.is_set() {
        self::url(e, &url);
    } else {
        self::service(e, &service);
    }
}

fn url(e: &mut Errors, node: &Node<'_>) {
    let mut fault = |value: &str, why: &str| {
        let why = format!("{why}; desired format: https://host[/path]");
        e.invalid(node, value, why);
    };
    let text = node.text();
    let (text, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (scheme, rest) = text.split_once(':').unwrap_or(("", text));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest.strip_prefix("//").unwrap_or_default();
    let authority = authority.split('/').next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if scheme != "https" {
        fault(scheme, "'https' is the only allowed URL scheme");
    }
    if host.is_empty() {
        fault(host, "host must be specified");
    }
    if !user.is_empty() {
        fault(user, "user information is not permitted in the URL");
    }
    if !fragment.is_empty() {
        fault(fragment, "fragments are not permitted in the URL");
    }
    if !query.is_empty() {
        fault(query, "query parameters are not permitted in the URL");
    }
}

fn service(e: &mut Errors, service: &Node<'_>) {
    let (name, namespace) = (service.get("name"), service.get("namespace"));
    if name.is_empty() {
        e.required(&name, "service name is required");
    }
    if namespace.is_empty() {
        e.required(&namespace, "service namespace is required");
    }
    let port = service.get("port");
    if port.is_set() && !names::is_port(port.int()) {
        e.bad(
            &port,
            format!("port is not valid: {}", names::between(1, 65535)),
        );
    }
    path(e, &service.get("path"));
}

fn path(e: &mut Errors, path: &Node<'_>) {
    let text = path.text();
    if text.is_empty() || text == "/" {
        return;
    }
    if text == "//" {
        return e.bad(path, "segment[0] may not be empty");
    }
    if !text.starts_with('/') {
        e.bad(path, "must start with a '/'");
    }
    let inner = text.get(1..).unwrap_or_default();
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    for (i, step) in inner.split('/').enumerate() {
        if step.is_empty() {
            e.bad(path, format!("segment[{i}] may not be empty"));
            continue;
        }
        for fault in names::subdomain_faults(step) {
            e.bad(path, format!("segment[{i}]: {fault}"));
        }
    }
}

fn versions(e: &mut Errors, list: &Node<'_>) {
    if list.is_empty() {
        return e.required(list, "must specify one of v1, v1beta1");
    }
    let mut known = BTreeSet::new();
    for version in list.items() {
        if known.insert(version.text()) {
            e.check(&version, names::label_1035_faults);
        } else {
            e.bad(&version, "duplicate version");
        }
    }
    if !REVIEWS.iter().any(|v| known.contains(v)) {
        e.bad(list, "must include at least one of v1, v1beta1");
    }
}

/// Operations and what they are done to.
pub(super) fn rule(e: &mut Errors, rule: &Node<'_>) {
    let operations = rule.get("operations");
    let listed = operations.texts();
    e.need(&operations);
    if listed.len() > 1 && listed.contains(&"*") {
        let why = "if '*' is present, must not specify other operations";
        e.bad(&operations, why);
    }
    for operation in operations.items() {
        e.one_of(&operation, &OPERATIONS);
    }
    for (field, what) in [("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        let list = rule.get(field);
        e.need(&list);
        if list.len() > 1 && list.texts().contains(&"*") {
            let why = format!("if '*' is present, must not specify other {what}");
            e.bad(&list, why);
        }
        if field == "apiVersions" {
            for version in list.items() {
                e.need(&version);
            }
        }
    }
    resources(e, &rule.get("resources"));
    e.one_of(&rule.get("scope"), &["*", "Cluster", "Namespaced"]);
}

fn resources(e: &mut Errors, list: &Node<'_>) {
    e.need(list);
    let (mut whole, mut anywhere) = (BTreeSet::new(), BTreeSet::new());
    let mut plain = false;
    for resource in list.items() {
        let text = resource.text();
        if text.is_empty() {
            e.required(&resource, "");
            continue;
        }
        let Some((name, sub)) = text.split_once('/') else {
            plain = text != "*";
            continue;
        };
        if whole.contains(name) {
            let why = format!("if '{name}/*' is present, must not specify {text}");
            e.bad(&resource, why);
        }
        if anywhere.contains(sub) {
            let why = format!("if '*/{sub}' is present, must not specify {text}");
            e.bad(&resource, why);
        }
        if sub == "*" {
            whole.insert(name);
        }
        if name == "*" {
            anywhere.insert(sub);
        }
    }
    let all = list.texts();
    if all.len() > 1 && all.contains(&"*/*") {
        e.bad(
            list,
            "if '*/*' is present, must not specify other resources",
        );
    }
    if plain && all.contains(&"*") {
        let why = "if '*' is present, must not specify other resources without subresources";
        e.bad(list, why);
    }
}

/// Conditions for a call.
pub(super) fn match_conditions(e: &mut Errors, list: &Node<'_>) {
    if list.len() > MAX_CONDITIONS {
        e.too_many(list, list.len(), MAX_CONDITIONS);
    }
    let mut known = BTreeSet::new();
    for condition in list.items() {
        let (name, expression) = (condition.get("name"), condition.get("expression"));
        if expression.text().trim().is_empty() {
            e.required(&expression, "");
        }
        e.check_required(&name, names::qualified_name_faults);
        if !name.is_empty() && !known.insert(name.text()) {
            e.duplicate(&name, name.text());
        }
    }
}
