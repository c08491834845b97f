//! Which writes a webhook or a policy is about: rules, selectors and equivalent versions.

use std::sync::Arc;

use schema::types::Gvk;
use serde_json::Value;

use super::{Attributes, Operation};
use crate::registry::{Call, LabelSelector, Resource};
use crate::response::ApiError;

pub(crate) const GROUP: &str = "admissionregistration.k8s.io";

/// Kinds that decide about writes are not decided about by their own kind: a webhook could lock
/// everybody out of its own removal.
pub(super) fn is_exempt(call: &Call) -> bool {
    call.resource.group == GROUP
        && (call.resource.plural.ends_with("webhookconfigurations")
            || call.resource.plural.contains("admissionpolic"))
}

/// Parsed once for each version of a configuration.
#[derive(Debug, Default)]
pub(super) struct Criteria {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// Without a rule everything matches.
    open: bool,
    /// Other versions of what a rule names match too.
    equivalent: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
}

#[derive(Debug)]
struct Rule {
    groups: Vec<String>,
    versions: Vec<String>,
    operations: Vec<String>,
    /// Resource and subresource.
    resources: Vec<(String, String)>,
    scope: Scope,
    /// Only objects of these names; empty for all.
    names: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Any,
    Namespaced,
    Cluster,
}

/// The resource as which a webhook or policy gets to see the request.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) resource: Arc<Resource>,
    pub(super) kind: Gvk,
}

impl Seen {
    fn of(resource: Arc<Resource>, subresource: &str) -> Self {
        let kind = kind_of(&resource, subresource);
        Seen { resource, kind }
    }

    /// The request as it is.
    pub(super) fn as_sent(call: &Call) -> Self {
        Seen::of(call.resource.clone(), &call.info.subresource)
    }
}

/// The kind of the object in a request to a resource or subresource.
fn kind_of(resource: &Resource, subresource: &str) -> Gvk {
    let own = || Gvk {
        group: resource.group.clone(),
        version: resource.version.clone(),
        kind: resource.kind.clone(),
    };
    if subresource.is_empty() {
        return own();
    }
    resource
        .subresource_gvk(subresource)
        .filter(|gvk| !gvk.kind.is_empty())
        .unwrap_or_else(own)
}

fn texts(value: &Value) -> Vec<String> {
    let items = value.as_array().into_iter().flatten();
    items
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect()
}

impl Rule {
    fn parse(rule: &Value) -> Self {
        let split = |text: &String| match text.split_once('/') {
            Some((resource, sub)) => (resource.to_owned(), sub.to_owned()),
            None => (text.clone(), String::new()),
        };
        Rule {
            groups: texts(&rule["apiGroups"]),
            versions: texts(&rule["apiVersions"]),
            operations: texts(&rule["operations"]),
            resources: texts(&rule["resources"]).iter().map(split).collect(),
            scope: match rule["scope"].as_str() {
                Some("Namespaced") => Scope::Namespaced,
                Some("Cluster") => Scope::Cluster,
                _ => Scope::Any,
            },
            names: texts(&rule["resourceNames"]),
        }
    }

    fn matches(&self, a: &Attributes<'_>, resource: &Resource) -> bool {
        let any = |list: &[String], own: &str| list.iter().any(|x| x == "*" || x == own);
        let is_namespace = resource.group.is_empty() && resource.plural == "namespaces";
        let in_scope = match self.scope {
            Scope::Any => true,
            Scope::Namespaced => resource.namespaced(),
            Scope::Cluster => !resource.namespaced() || is_namespace,
        };
        let sub = a.call.info.subresource.as_str();
        in_scope
            && any(&self.operations, a.operation.name())
            && any(&self.groups, &resource.group)
            && any(&self.versions, &resource.version)
            && self.resources.iter().any(|(own, own_sub)| {
                (own == "*" || *own == resource.plural.as_ref())
                    && (own_sub == "*" || own_sub == sub)
            })
            && (self.names.is_empty() || self.names.contains(&a.object_name()))
    }
}

impl Criteria {
    /// From a webhook, whose rules are under `rules`.
    pub(super) fn of_webhook(webhook: &Value) -> Self {
        Criteria {
            rules: rules(&webhook["rules"]),
            ..Criteria::selecting(webhook)
        }
    }

    /// From a policy's `matchConstraints` or a binding's `matchResources`.
    pub(super) fn of_policy(constraints: &Value) -> Self {
        Criteria {
            rules: rules(&constraints["resourceRules"]),
            excluded: rules(&constraints["excludeResourceRules"]),
            open: constraints["resourceRules"]
                .as_array()
                .is_none_or(Vec::is_empty),
            ..Criteria::selecting(constraints)
        }
    }

    fn selecting(value: &Value) -> Self {
        Criteria {
            equivalent: value["matchPolicy"] != "Exact",
            namespaces: LabelSelector::from_value(&value["namespaceSelector"]).unwrap_or_default(),
            objects: LabelSelector::from_value(&value["objectSelector"]).unwrap_or_default(),
            ..Criteria::default()
        }
    }

    /// As what the request matches; `None` when it does not.
    pub(super) fn matches(&self, a: &Attributes<'_>) -> Result<Option<Seen>, ApiError> {
        let (in_namespace, failed) = match self.namespace_matches(a) {
            Ok(matches) => (matches, None),
            Err(error) => (true, Some(error)),
        };
        if !in_namespace || !self.object_matches(a) {
            return Ok(None);
        }
        let seen = self.rule_matches(a);
        match (seen, failed) {
            // Whoever is not concerned is not told that the namespace cannot be found.
            (Some(_), Some(error)) => Err(error),
            (seen, _) => Ok(seen),
        }
    }

    fn rule_matches(&self, a: &Attributes<'_>) -> Option<Seen> {
        let call = a.call;
        if self.excluded.iter().any(|r| r.matches(a, &call.resource)) {
            return None;
        }
        if self.open || self.rules.iter().any(|r| r.matches(a, &call.resource)) {
            return Some(Seen::as_sent(call));
        }
        if !self.equivalent {
            return None;
        }
        let others = call.registry.catalog.equivalents(&call.resource);
        if self
            .excluded
            .iter()
            .any(|r| others.iter().any(|o| r.matches(a, o)))
        {
            return None;
        }
        let sub = &call.info.subresource;
        for rule in &self.rules {
            let mut fitting = others.iter().filter(|o| rule.matches(a, o));
            if let Some(other) = fitting.next() {
                return Some(Seen::of(other.clone(), sub));
            }
        }
        None
    }

    fn namespace_matches(&self, a: &Attributes<'_>) -> Result<bool, ApiError> {
        if self.namespaces.is_empty() {
            return Ok(true);
        }
        let call = a.call;
        let is_namespace = call.resource.group.is_empty() && call.resource.plural == "namespaces";
        if !call.resource.namespaced() && !is_namespace {
            // Nothing that is in no namespace is exempted by its namespace.
            return Ok(true);
        }
        let by_labels = |object: &Value| {
            let labels = &object["metadata"]["labels"];
            self.namespaces.matches(|key| labels[key].as_str())
        };
        let written = matches!(a.operation, Operation::Create | Operation::Update);
        if is_namespace && call.info.subresource.is_empty() && written {
            return Ok(a.object.as_deref().is_some_and(by_labels));
        }
        let name = a.namespace();
        let found = call.registry.lookup("", "namespaces", "", name);
        let found = found.ok_or_else(|| ApiError::not_found("", "namespaces", name))?;
        Ok(by_labels(&found.value()))
    }

    fn object_matches(&self, a: &Attributes<'_>) -> bool {
        if self.objects.is_empty() {
            return true;
        }
        let by_labels = |object: &Value| {
            let labels = &object["metadata"]["labels"];
            object.is_object() && self.objects.matches(|key| labels[key].as_str())
        };
        a.object.as_deref().is_some_and(by_labels) || a.old.is_some_and(by_labels)
    }
}

fn rules(value: &Value) -> Vec<Rule> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .map(Rule::parse)
        .collect()
}
