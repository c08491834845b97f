//! Priority and fairness of requests.

use std::collections::BTreeSet;

use super::field::{Errors, Node};
use super::{Change, internal, names};

const VERBS: [&str; 9] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "proxy",
    "update",
    "watch",
];
const MAX_PRECEDENCE: i64 = 10_000;
const MAX_QUEUES: i64 = 10_000_000;
const MAX_HASH_BITS: u32 = 60;

/// FlowSchema
pub(super) fn schema(e: &mut Errors, change: &Change<'_>) {
    let (new, spec) = (&change.new, change.new.get("spec"));
    if !change.is_status() {
        let precedence = spec.get("matchingPrecedence");
        let value = precedence.int();
        if value <= 0 {
            e.invalid(&precedence, value, "must be a positive value");
        }
        if value > MAX_PRECEDENCE {
            let why = format!("must not be greater than {MAX_PRECEDENCE}");
            e.invalid(&precedence, value, why);
        }
        if value == 1 && new.get("metadata.name").text() != "exempt" {
            let why = "only the schema named 'exempt' may have matchingPrecedence 1";
            e.invalid(&precedence, value, why);
        }
        let method = spec.get("distinguisherMethod");
        let kind = method.get("type");
        if method.is_set() && !["ByNamespace", "ByUser"].contains(&kind.text()) {
            let shown = internal::shown("FlowDistinguisherMethod", method.value);
            e.not_supported(&kind, shown, &["ByNamespace", "ByUser"]);
        }
        let level = spec.get("priorityLevelConfiguration.name");
        if level.is_empty() {
            e.required(&level, "must reference a priority level");
        } else {
            e.check(&level, names::subdomain_faults);
        }
        for rule in spec.get("rules").items() {
            self::rule(e, &rule);
        }
    }
    conditions(e, &new.get("status.conditions"));
}

fn rule(e: &mut Errors, rule: &Node<'_>) {
    let subjects = rule.get("subjects");
    if subjects.is_empty() {
        e.required(&subjects, "subjects must contain at least one value");
    }
    for subject in subjects.items() {
        self::subject(e, &subject);
    }
    let (resources, others) = (rule.get("resourceRules"), rule.get("nonResourceRules"));
    if resources.is_empty() && others.is_empty() {
        let why = "at least one of resourceRules and nonResourceRules has to be non-empty";
        e.required(rule, why);
    }
    for rule in resources.items() {
        resource_rule(e, &rule);
    }
    for rule in others.items() {
        url_rule(e, &rule);
    }
}

fn subject(e: &mut Errors, subject: &Node<'_>) {
    let kinds = [
        ("Group", "group"),
        ("ServiceAccount", "serviceAccount"),
        ("User", "user"),
    ];
    let kind = subject.get("kind");
    let Some((own, field)) = kinds.into_iter().find(|(k, _)| *k == kind.text()) else {
        return e.not_supported(&kind, kind.text(), &kinds.map(|(k, _)| k));
    };
    let node = subject.get(field);
    if node.is_set() {
        let name = node.get("name");
        if name.is_empty() {
            e.required(&name, "");
        } else if own == "ServiceAccount" && name.text() != "*" {
            e.check(&name, names::subdomain_faults);
        }
        let namespace = node.get("namespace");
        if own == "ServiceAccount" && namespace.is_empty() {
            e.required(&namespace, "must specify namespace for service account");
        } else if own == "ServiceAccount" {
            e.check(&namespace, names::label_faults);
        }
    } else {
        let why = format!("{field} is required when subject kind is '{own}'");
        e.required(&node, why);
    }
    // Upstream tells them in this order.
    for (other, field) in [kinds[1], kinds[2], kinds[0]] {
        let node = subject.get(field);
        if other != own && node.is_set() {
            let why = format!("{field} is forbidden when subject kind is not '{other}'");
            e.forbidden(&node, why);
        }
    }
}

fn verbs(e: &mut Errors, verbs: &Node<'_>) {
    let listed = verbs.texts();
    if listed.is_empty() {
        e.required(verbs, "verbs must contain at least one value");
    } else if listed.contains(&"*") {
        alone(e, verbs, "verbs");
    } else if !listed.iter().all(|v| VERBS.contains(v)) {
        e.not_supported(verbs, verbs, &VERBS);
    }
}

/// Who asks for everything cannot ask for more.
fn alone(e: &mut Errors, list: &Node<'_>, what: &str) {
    if list.len() > 1 && list.texts().contains(&"*") {
        let why = format!("if '*' is present, must not specify other {what}");
        e.bad(list, why);
    }
}

fn resource_rule(e: &mut Errors, rule: &Node<'_>) {
    verbs(e, &rule.get("verbs"));
    for (field, one, many) in [
        ("apiGroups", "api group", "api groups"),
        ("resources", "resource", "resources"),
    ] {
        let list = rule.get(field);
        if list.is_empty() {
            e.required(
                &list,
                format!("resource rules must supply at least one {one}"),
            );
        }
        alone(e, &list, many);
    }
    let namespaces = rule.get("namespaces");
    if namespaces.is_empty() && !rule.get("clusterScope").flag() {
        let why = "resource rules that are not cluster scoped must supply at least one namespace";
        e.required(&namespaces, why);
    } else if namespaces.texts().contains(&"*") {
        alone(e, &namespaces, "namespaces");
    } else {
        for namespace in namespaces.items() {
            for fault in names::label_faults(namespace.text()) {
                let why =
                    format!("each member of this list must be '*' or a DNS-1123 label; {fault}");
                e.bad(&namespace, why);
            }
        }
    }
}

fn url_rule(e: &mut Errors, rule: &Node<'_>) {
    verbs(e, &rule.get("verbs"));
    let urls = rule.get("nonResourceURLs");
    if urls.is_empty() {
        e.required(&urls, "nonResourceURLs must contain at least one value");
    } else if urls.texts().contains(&"*") {
        alone(e, &urls, "non-resource URLs");
    } else {
        for url in urls.items() {
            if let Some(why) = url_fault(url.text()) {
                e.bad(&url, why);
            }
        }
    }
}

fn url_fault(path: &str) -> Option<&'static str> {
    let stars = path.matches('*').count();
    match path {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !path.starts_with('/') => Some("must start with slash"),
        _ if path.contains(' ') => Some("must not contain white-space"),
        _ if path.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || (stars == 1 && !path.ends_with("/*")) => {
            Some("wildcard can only do suffix matching")
        }
        _ => None,
    }
}

fn conditions(e: &mut Errors, list: &Node<'_>) {
    let mut known = BTreeSet::new();
    for condition in list.items() {
        let kind = condition.get("type");
        if !known.insert(kind.text()) {
            e.duplicate(&kind, kind.text());
        }
        if kind.is_empty() {
            e.required(&kind, "must not be empty");
        }
    }
}

/// PriorityLevelConfiguration
pub(super) fn priority_level(e: &mut Errors, change: &Change<'_>) {
    let (new, spec) = (&change.new, change.new.get("spec"));
    if !change.is_status() {
        let kind = spec.get("type");
        let exempt = new.get("metadata.name").text() == "exempt";
        if exempt != (kind.text() == "Exempt") {
            let why = "must be 'Exempt' if and only if `name` is 'exempt'";
            e.invalid(&kind, kind.text(), why);
        }
        let (limited, free) = (spec.get("limited"), spec.get("exempt"));
        match kind.text() {
            "Exempt" => {
                if limited.is_set() {
                    e.forbidden(&limited, "must be nil if the type is not Limited");
                }
                shares(e, &free);
            }
            "Limited" => {
                if free.is_set() {
                    e.forbidden(&free, "must be nil if the type is Limited");
                }
                if limited.is_set() {
                    self::limited(e, &limited);
                } else {
                    e.required(&limited, "must not be empty when type is Limited");
                }
            }
            other => e.not_supported(&kind, other, &["Exempt", "Limited"]),
        }
    }
    conditions(e, &new.get("status.conditions"));
}

fn shares(e: &mut Errors, node: &Node<'_>) {
    let shares = node.get("nominalConcurrencyShares");
    if shares.int() < 0 {
        e.bad(&shares, "must be a non-negative integer");
    }
    lendable(e, node);
}

fn lendable(e: &mut Errors, node: &Node<'_>) {
    let lendable = node.get("lendablePercent");
    if !(0..=100).contains(&lendable.int()) {
        e.bad(&lendable, "must be between 0 and 100, inclusive");
    }
}

fn limited(e: &mut Errors, node: &Node<'_>) {
    let shares = node.get("nominalConcurrencyShares");
    if shares.int() < 0 {
        e.bad(&shares, "must be a non-negative integer");
    }
    response(e, &node.get("limitResponse"));
    lendable(e, node);
    let borrowed = node.get("borrowingLimitPercent");
    if borrowed.int() < 0 {
        e.bad(&borrowed, "if specified, must be a non-negative integer");
    }
}

fn response(e: &mut Errors, response: &Node<'_>) {
    let (kind, queuing) = (response.get("type"), response.get("queuing"));
    match kind.text() {
        "Reject" => {
            if queuing.is_set() {
                let why = "must be nil if limited.limitResponse.type is not Limited";
                e.forbidden(&queuing, why);
            }
        }
        "Queue" if !queuing.is_set() => {
            let why = "must not be empty if limited.limitResponse.type is Limited";
            e.required(&queuing, why);
        }
        "Queue" => self::queuing(e, &queuing),
        other => e.not_supported(&kind, other, &["Queue", "Reject"]),
    }
}

fn queuing(e: &mut Errors, queuing: &Node<'_>) {
    let (limit, queues, hand) = (
        queuing.get("queueLengthLimit"),
        queuing.get("queues"),
        queuing.get("handSize"),
    );
    for node in [&limit, &queues] {
        if node.int() <= 0 {
            e.invalid(node, node.int(), "must be positive");
        }
    }
    if queues.int() > MAX_QUEUES {
        e.bad(&queues, format!("must not be greater than {MAX_QUEUES}"));
    }
    let (deck, size) = (queues.int(), hand.int());
    if size <= 0 {
        e.invalid(&hand, size, "must be positive");
    } else if size > deck {
        e.bad(&hand, format!("should not be greater than queues ({deck})"));
    } else if entropy_bits(deck, size) > MAX_HASH_BITS {
        let why = format!(
            "required entropy bits of deckSize {deck} and handSize {size} should not be greater than {MAX_HASH_BITS}"
        );
        e.bad(&hand, why);
    }
}

/// How many bits it takes to deal a hand.
fn entropy_bits(deck: i64, hand: i64) -> u32 {
    let product = (0..hand).try_fold(1u128, |all, i| {
        all.checked_mul(u128::try_from(deck - i).unwrap_or(1))
    });
    product.map_or(u32::MAX, |n| u128::BITS - (n.max(1) - 1).leading_zeros())
}
