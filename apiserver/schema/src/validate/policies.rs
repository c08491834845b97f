//! Admission policies and what binds them.

use std::collections::BTreeSet;

use super::field::{Errors, Node};
use super::{Change, Rule, meta, names, webhook};

/// The most that the expression of an audit annotation may have, in bytes.
const MAX_VALUE_EXPRESSION: usize = 5 * 1024;

/// Words that are no names in expressions.
const RESERVED: [&str; 21] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// The rule of a kind of admission policy.
pub(super) fn rule(kind: &str) -> Option<Rule> {
    Some(match kind {
        "ValidatingAdmissionPolicy" => validating,
        "MutatingAdmissionPolicy" => mutating,
        "ValidatingAdmissionPolicyBinding" => validating_binding,
        "MutatingAdmissionPolicyBinding" => mutating_binding,
        _ => return None,
    })
}

fn validating(e: &mut Errors, change: &Change<'_>) {
    let spec = change.new.get("spec");
    common(e, &spec);
    let (validations, annotations) = (spec.get("validations"), spec.get("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        let why = "validations or auditAnnotations must contain at least one item";
        e.required(&validations, why);
        e.required(&annotations, why);
        return;
    }
    for validation in validations.items() {
        self::validation(e, &validation);
    }
    audit_annotations(e, &annotations, change.new.get("metadata.name").text());
}

fn mutating(e: &mut Errors, change: &Change<'_>) {
    let spec = change.new.get("spec");
    common(e, &spec);
    let mutations = spec.get("mutations");
    if mutations.is_empty() {
        e.required(&mutations, "mutations must contain at least one item");
    }
    for mutation in mutations.items() {
        self::mutation(e, &mutation);
    }
    e.one_of_required(&spec.get("reinvocationPolicy"), &["IfNeeded", "Never"]);
}

fn mutation(e: &mut Errors, mutation: &Node<'_>) {
    let kind = mutation.get("patchType");
    let kinds = [
        ("ApplyConfiguration", "applyConfiguration"),
        ("JSONPatch", "jsonPatch"),
    ];
    e.one_of_required(&kind, &kinds.map(|(kind, _)| kind));
    for (own, field) in kinds {
        let patch = mutation.get(field);
        if kind.text() != own {
            if patch.is_set() && kinds.iter().any(|(k, _)| *k == kind.text()) {
                let why = format!("must not be specified when patchType is {}", kind.text());
                e.forbidden(&patch, why);
            }
        } else if patch.is_set() {
            expression(e, &patch.get("expression"));
        } else {
            e.required(&patch, format!("must be specified when patchType is {own}"));
        }
    }
}

fn common(e: &mut Errors, spec: &Node<'_>) {
    e.one_of_required(&spec.get("failurePolicy"), &["Fail", "Ignore"]);
    let kind = spec.get("paramKind");
    if kind.is_set() {
        param_kind(e, &kind);
    }
    let constraints = spec.get("matchConstraints");
    if constraints.is_set() {
        match_resources(e, &constraints);
        e.need(&constraints.get("resourceRules"));
    } else {
        e.required(&constraints, "");
    }
    webhook::match_conditions(e, &spec.get("matchConditions"));
    variables(e, &spec.get("variables"));
}

fn param_kind(e: &mut Errors, param: &Node<'_>) {
    let (version, kind) = (param.get("apiVersion"), param.get("kind"));
    let text = version.text();
    if text.is_empty() {
        e.required(&version, "");
    } else if text.matches('/').count() > 1 {
        e.bad(&version, format!("unexpected GroupVersion string: {text}"));
    } else {
        let (group, own) = text.split_once('/').unwrap_or(("", text));
        if !group.is_empty() {
            let faults = names::subdomain_faults(group);
            if !faults.is_empty() {
                e.invalid(&version, group, faults.join(","));
            }
        }
        let faults = names::label_1035_faults(own);
        if own.is_empty() {
            e.bad(&version, "version must be specified");
        } else if !faults.is_empty() {
            e.invalid(&version, own, faults.join(","));
        }
    }
    if kind.is_empty() {
        return e.required(&kind, "");
    }
    if let Some(fault) = names::label_1035_faults(&kind.text().to_lowercase()).first() {
        let why = format!("may have mixed case, but should otherwise match: {fault}");
        e.bad(&kind, why);
    }
}

fn match_resources(e: &mut Errors, node: &Node<'_>) {
    e.one_of_required(&node.get("matchPolicy"), &["Equivalent", "Exact"]);
    for field in ["namespaceSelector", "objectSelector"] {
        let selector = node.get(field);
        if selector.is_set() {
            meta::selector(e, &selector);
        } else {
            e.required(&selector, "");
        }
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in node.get(list).items() {
            let mut known = BTreeSet::new();
            for name in rule.get("resourceNames").items() {
                let faults = names::path_segment_faults(name.text());
                if !faults.is_empty() {
                    e.bad(&name, faults.join(","));
                }
                if !known.insert(name.text()) {
                    e.duplicate(&name, name.text());
                }
            }
            webhook::rule(e, &rule);
        }
    }
}

fn variables(e: &mut Errors, list: &Node<'_>) {
    for variable in list.items() {
        let name = variable.get("name");
        if name.text().trim().is_empty() {
            e.required(&name, "name is not specified");
        } else if !names::c_identifier_faults(name.text()).is_empty()
            || RESERVED.contains(&name.text())
        {
            e.bad(&name, "name is not a valid CEL identifier");
        }
        expression(e, &variable.get("expression"));
    }
}

/// An expression has to be there; what it says is judged where it can be compiled.
fn expression(e: &mut Errors, node: &Node<'_>) {
    if node.text().trim().is_empty() {
        e.required(node, "expression is not specified");
    }
}

fn validation(e: &mut Errors, validation: &Node<'_>) {
    expression(e, &validation.get("expression"));
    let words = validation.get("messageExpression");
    if !words.is_empty() && words.text().trim().is_empty() {
        e.bad(&words, "must be non-empty if specified");
    }
    let message = validation.get("message");
    let trimmed = message.text().trim();
    if !message.is_empty() && trimmed.is_empty() {
        e.bad(&message, "message must be non-empty if specified");
    } else if trimmed.contains(['\n', '\r']) {
        e.bad(&message, "message must not contain line breaks");
    }
    let reasons = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
    e.one_of(&validation.get("reason"), &reasons);
}

fn audit_annotations(e: &mut Errors, list: &Node<'_>, policy: &str) {
    if list.len() > 20 {
        e.bad(list, "must not have more than 20 auditAnnotations");
    }
    let mut known = BTreeSet::new();
    for annotation in list.items() {
        let (key, value) = (annotation.get("key"), annotation.get("valueExpression"));
        let whole = format!("{policy}/{}", key.text());
        e.faults(&key, &whole, names::qualified_name_faults(&whole));
        let source = value.text().trim();
        if source.is_empty() {
            e.required(&value, "valueExpression is not specified");
        } else if source.len() > MAX_VALUE_EXPRESSION {
            let why = format!("must not exceed {MAX_VALUE_EXPRESSION} bytes in length");
            e.required(&value, why);
        }
        if !known.insert(key.text()) {
            e.duplicate(&key, key.text());
        }
    }
}

fn validating_binding(e: &mut Errors, change: &Change<'_>) {
    let spec = change.new.get("spec");
    binding(e, &spec);
    let actions = spec.get("validationActions");
    let mut known = BTreeSet::new();
    for action in actions.items() {
        e.one_of(&action, &["Audit", "Deny", "Warn"]);
        if !known.insert(action.text()) {
            e.duplicate(&action, action.text());
        }
    }
    if known.contains("Deny") && known.contains("Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        e.bad(&actions, why);
    }
    if actions.is_empty() {
        e.required(&actions, "at least one validation action is required");
    }
}

fn mutating_binding(e: &mut Errors, change: &Change<'_>) {
    binding(e, &change.new.get("spec"));
}

fn binding(e: &mut Errors, spec: &Node<'_>) {
    e.check_required(&spec.get("policyName"), names::subdomain_faults);
    let param = spec.get("paramRef");
    if param.is_set() {
        param_ref(e, &param);
    }
    let resources = spec.get("matchResources");
    if resources.is_set() {
        // Upstream's spelling of the field.
        let at = spec.path.child("matchResouces");
        match_resources(e, &Node::new(resources.value, at));
    }
}

fn param_ref(e: &mut Errors, param: &Node<'_>) {
    const BOTH: &str = "name and selector are mutually exclusive";
    let (name, selector) = (param.get("name"), param.get("selector"));
    if !name.is_empty() {
        e.check(&name, names::path_segment_faults);
        if selector.is_set() {
            e.forbidden(&name, BOTH);
        }
    }
    if selector.is_set() {
        meta::selector(e, &selector);
        if !name.is_empty() {
            e.forbidden(&selector, BOTH);
        }
    }
    if name.is_empty() && !selector.is_set() {
        e.required(param, "one of name or selector must be specified");
    }
    e.one_of_required(&param.get("parameterNotFoundAction"), &["Deny", "Allow"]);
}
