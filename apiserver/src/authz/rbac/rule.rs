//! One rule of a role.

use serde::{Deserialize, Serialize};

use crate::authz::Attributes;

/// As the API has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    pub verbs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

/// Matches everything of its dimension.
pub(super) const ALL: &str = "*";

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == ALL || item == wanted)
}

impl Rule {
    pub fn allows(&self, attributes: &Attributes) -> bool {
        if !has(&self.verbs, &attributes.verb) {
            return false;
        }
        if !attributes.is_resource_request() {
            return self.covers_path(&attributes.path);
        }
        has(&self.api_groups, &attributes.api_group)
            && self.has_resource(&attributes.resource, &attributes.subresource)
            && (self.resource_names.is_empty() || self.resource_names.contains(&attributes.name))
    }

    /// `pods/log`, `*` for everything and `*/scale` for one subresource of everything.
    pub(super) fn has_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|item| {
            if item == ALL {
                return true;
            }
            match item.split_once('/') {
                None => subresource.is_empty() && item == resource,
                Some((parent, sub)) => {
                    !subresource.is_empty()
                        && sub == subresource
                        && (parent == ALL || parent == resource)
                }
            }
        })
    }

    pub(super) fn covers_path(&self, path: &str) -> bool {
        self.non_resource_urls
            .iter()
            .any(|url| match url.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => url == path,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(groups: &[&str], resources: &[&str], verbs: &[&str], names: &[&str]) -> Rule {
        let owned = |items: &[&str]| items.iter().map(|&item| item.to_owned()).collect();
        Rule {
            verbs: owned(verbs),
            api_groups: owned(groups),
            resources: owned(resources),
            resource_names: owned(names),
            non_resource_urls: Vec::new(),
        }
    }

    fn check(rule: &Rule, verb: &str, resource: &str, name: &str, expected: bool) {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let mut attributes = Attributes::resource(verb, "apps", resource, "n", name);
        subresource.clone_into(&mut attributes.subresource);
        assert_eq!(
            rule.allows(&attributes),
            expected,
            "{verb} {resource}/{subresource} {name}"
        );
    }

    #[test]
    fn rules_match_resources_and_subresources() {
        let one = rule(&["apps"], &["deployments", "*/scale"], &["get"], &[]);
        check(&one, "get", "deployments", "a", true);
        check(&one, "list", "deployments", "", false);
        check(&one, "get", "deployments/status", "a", false);
        check(&one, "get", "replicasets/scale", "a", true);
        check(&one, "get", "replicasets", "a", false);
        let all = rule(&["*"], &["*"], &["*"], &[]);
        check(&all, "delete", "anything/at-all", "", true);
        check(
            &rule(&[""], &["*"], &["*"], &[]),
            "get",
            "deployments",
            "a",
            false,
        );
    }

    #[test]
    fn names_restrict_to_named_requests() {
        let named = rule(&["apps"], &["deployments"], &["*"], &["one"]);
        check(&named, "get", "deployments", "one", true);
        check(&named, "get", "deployments", "two", false);
        check(&named, "list", "deployments", "", false);
    }

    #[test]
    fn paths_match_exactly_or_by_prefix() {
        let urls = ["/healthz", "/api/*"].map(str::to_owned).to_vec();
        let rule = Rule {
            verbs: vec!["get".into()],
            non_resource_urls: urls,
            ..Rule::default()
        };
        let check = |verb: &str, path: &str, expected: bool| {
            let attributes = Attributes {
                verb: verb.into(),
                path: path.into(),
                ..Attributes::default()
            };
            assert_eq!(rule.allows(&attributes), expected, "{verb} {path}");
        };
        check("get", "/healthz", true);
        check("get", "/healthz/etcd", false);
        check("get", "/api/v1", true);
        check("get", "/api", false);
        check("post", "/healthz", false);
    }
}
