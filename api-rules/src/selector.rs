//! Label selectors and node selectors.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

pub type Labels = BTreeMap<String, String>;

/// Whether a label selector picks the labels. An empty selector picks everything; an absent
/// one is the caller's to decide, since its meaning differs from field to field.
pub fn label_selector_matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(k, v)| labels.get(k) == Some(v));
    equal
        && selector
            .match_expressions
            .iter()
            .flatten()
            .all(|r| requirement_matches(r, labels))
}

/// Whether every pair of an equality map (`spec.selector` of a Service) is in the labels.
pub fn map_matches(selector: &Labels, labels: &Labels) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

fn requirement_matches(requirement: &LabelSelectorRequirement, labels: &Labels) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    set_matches(&requirement.operator, labels.get(&requirement.key), values)
}

/// An unknown operator picks nothing: a selector is never wider than what was meant.
fn set_matches(operator: &str, actual: Option<&String>, values: &[String]) -> bool {
    match operator {
        "In" => actual.is_some_and(|a| values.contains(a)),
        "NotIn" => actual.is_none_or(|a| !values.contains(a)),
        "Exists" => actual.is_some(),
        "DoesNotExist" => actual.is_none(),
        "Gt" => compares(actual, values, |actual, wanted| actual > wanted),
        "Lt" => compares(actual, values, |actual, wanted| actual < wanted),
        _ => false,
    }
}

fn compares(actual: Option<&String>, values: &[String], holds: fn(i64, i64) -> bool) -> bool {
    let actual = actual.and_then(|a| a.parse::<i64>().ok());
    let wanted = match values {
        [one] => one.parse::<i64>().ok(),
        _ => None,
    };
    matches!((actual, wanted), (Some(a), Some(w)) if holds(a, w))
}

/// Whether a node is picked by any term of a node selector.
pub fn node_selector_matches(selector: &NodeSelector, node: &Node) -> bool {
    selector
        .node_selector_terms
        .iter()
        .any(|term| node_selector_term_matches(term, node))
}

/// Whether a node satisfies all requirements of a term; an empty term picks nothing.
pub fn node_selector_term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let no_labels = Labels::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&no_labels);
    expressions
        .iter()
        .all(|r| node_requirement_matches(r, labels.get(&r.key)))
        && fields.iter().all(|r| match r.key.as_str() {
            "metadata.name" => node_requirement_matches(r, node.metadata.name.as_ref()),
            _ => false,
        })
}

fn node_requirement_matches(
    requirement: &NodeSelectorRequirement,
    actual: Option<&String>,
) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    set_matches(&requirement.operator, actual, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn expression(key: &str, operator: &str, values: &[&str]) -> LabelSelector {
        LabelSelector {
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: key.to_owned(),
                operator: operator.to_owned(),
                values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
            }]),
            match_labels: None,
        }
    }

    #[test]
    fn each_operator_picks_what_it_says() {
        let have = labels(&[("app", "web"), ("tier", "3")]);
        let cases = [
            (expression("app", "In", &["web", "db"]), true),
            (expression("app", "In", &["db"]), false),
            (expression("missing", "In", &["db"]), false),
            (expression("app", "NotIn", &["web"]), false),
            (expression("missing", "NotIn", &["web"]), true),
            (expression("app", "Exists", &[]), true),
            (expression("missing", "Exists", &[]), false),
            (expression("missing", "DoesNotExist", &[]), true),
            (expression("tier", "Gt", &["2"]), true),
            (expression("tier", "Lt", &["2"]), false),
            (expression("app", "Gt", &["2"]), false),
            (expression("app", "Unheard", &["web"]), false),
            (LabelSelector::default(), true),
        ];
        for (selector, expected) in cases {
            assert_eq!(
                label_selector_matches(&selector, &have),
                expected,
                "{selector:?}"
            );
        }
    }

    #[test]
    fn an_empty_node_selector_term_picks_no_node() {
        assert!(!node_selector_term_matches(
            &NodeSelectorTerm::default(),
            &Node::default()
        ));
    }
}
