//! Nobody grants what he does not have: which of some rules do others not cover?

use super::Rule;
use super::rule::ALL;

/// Refused for that; the text is the API's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "user {user:?} (groups={groups}) is attempting to grant RBAC permissions not currently \
     held:\n{missing}"
)]
pub struct EscalationError {
    pub user: String,
    pub groups: String,
    pub missing: String,
}

impl EscalationError {
    pub fn new(user: &crate::authn::UserInfo, missing: &[Rule]) -> Self {
        let quoted: Vec<String> = user
            .groups
            .iter()
            .map(|group| format!("{group:?}"))
            .collect();
        let mut lines: Vec<String> = missing.iter().map(describe).collect();
        lines.sort();
        lines.dedup();
        EscalationError {
            user: user.name.clone(),
            groups: format!("[{}]", quoted.join(" ")),
            missing: lines.join("\n"),
        }
    }
}

/// The parts of `wanted` that no rule of `held` covers, joined as far as they belong together.
pub fn uncovered(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let parts: Vec<Rule> = wanted.iter().flat_map(split).collect();
    let missing: Vec<Rule> = parts
        .into_iter()
        .filter(|part| !held.iter().any(|rule| covers(rule, part)))
        .collect();
    join(missing)
}

/// A rule as simple ones: one verb and one resource, name or path each.
fn split(rule: &Rule) -> Vec<Rule> {
    let mut parts = Vec::new();
    let one = |item: &String| vec![item.clone()];
    for verb in &rule.verbs {
        for url in &rule.non_resource_urls {
            let part = Rule {
                verbs: one(verb),
                non_resource_urls: one(url),
                ..Rule::default()
            };
            parts.push(part);
        }
    }
    for group in &rule.api_groups {
        for resource in &rule.resources {
            for verb in &rule.verbs {
                let part = Rule {
                    verbs: one(verb),
                    api_groups: one(group),
                    resources: one(resource),
                    ..Rule::default()
                };
                if rule.resource_names.is_empty() {
                    parts.push(part);
                    continue;
                }
                for name in &rule.resource_names {
                    parts.push(Rule {
                        resource_names: one(name),
                        ..part.clone()
                    });
                }
            }
        }
    }
    parts
}

/// Whether `owner` allows everything that the simple rule `part` does.
fn covers(owner: &Rule, part: &Rule) -> bool {
    let within = |have: &[String], want: &[String]| {
        have.iter().any(|item| item == ALL) || want.iter().all(|item| have.contains(item))
    };
    let resource = |item: &String| {
        let sub = item.split_once('/').map(|(_, sub)| format!("*/{sub}"));
        owner
            .resources
            .iter()
            .any(|have| have == ALL || have == item)
            || sub.is_some_and(|general| owner.resources.contains(&general))
    };
    let path = |item: &String| match item.strip_suffix('*') {
        // A prefix is covered by the same or a shorter one.
        Some(prefix) => owner.non_resource_urls.iter().any(|have| {
            have.strip_suffix('*')
                .is_some_and(|shorter| prefix.starts_with(shorter))
        }),
        None => owner.covers_path(item),
    };
    let names = owner.resource_names.is_empty()
        || (!part.resource_names.is_empty() && within(&owner.resource_names, &part.resource_names));
    within(&owner.verbs, &part.verbs)
        && within(&owner.api_groups, &part.api_groups)
        && part.resources.iter().all(resource)
        && part.non_resource_urls.iter().all(path)
        && names
}

/// Puts simple rules that differ only in their verb together again.
fn join(parts: Vec<Rule>) -> Vec<Rule> {
    let mut joined: Vec<Rule> = Vec::new();
    for part in parts {
        let same = joined.iter_mut().find(|rule| {
            rule.api_groups == part.api_groups
                && rule.resources == part.resources
                && rule.resource_names == part.resource_names
                && rule.non_resource_urls == part.non_resource_urls
        });
        match same {
            Some(rule) => rule.verbs.extend(part.verbs),
            None => joined.push(part),
        }
    }
    joined
}

/// As the API's messages print a rule.
fn describe(rule: &Rule) -> String {
    let mut parts = Vec::new();
    let mut list = |name: &str, items: &[String]| {
        if !items.is_empty() {
            let quoted: Vec<String> = items.iter().map(|item| format!("{item:?}")).collect();
            parts.push(format!("{name}:[{}]", quoted.join(" ")));
        }
    };
    list("APIGroups", &rule.api_groups);
    list("Resources", &rule.resources);
    list("ResourceNames", &rule.resource_names);
    list("NonResourceURLs", &rule.non_resource_urls);
    list("Verbs", &rule.verbs);
    format!("{{{}}}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::authn::UserInfo;

    fn rules(value: Value) -> Vec<Rule> {
        serde_json::from_value(value).unwrap()
    }

    fn check(held: Value, wanted: Value, missing: &str) {
        let missing_rules = uncovered(&rules(held), &rules(wanted));
        let found: Vec<String> = missing_rules.iter().map(describe).collect();
        assert_eq!(found.join("\n"), missing);
    }

    #[test]
    fn what_is_held_may_be_granted() {
        let pods = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]);
        let get = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
        check(pods.clone(), get.clone(), "");
        check(
            get,
            pods,
            r#"{APIGroups:[""], Resources:["pods"], Verbs:["list"]}"#,
        );
        let all = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
        let some = json!([{"apiGroups": ["a"], "resources": ["b/c"], "resourceNames": ["d"], "verbs": ["e"]}]);
        check(all, some, "");
    }

    #[test]
    fn rights_on_names_do_not_cover_rights_on_all() {
        let named = json!([{"apiGroups": [""], "resources": ["x"], "resourceNames": ["a"], "verbs": ["get"]}]);
        let all = json!([{"apiGroups": [""], "resources": ["x"], "verbs": ["get"]}]);
        check(
            named,
            all,
            r#"{APIGroups:[""], Resources:["x"], Verbs:["get"]}"#,
        );
    }

    #[test]
    fn paths_are_covered_by_prefixes() {
        let held = json!([{"nonResourceURLs": ["/a/*"], "verbs": ["get"]}]);
        check(
            held.clone(),
            json!([{"nonResourceURLs": ["/a/b", "/a/b/*"], "verbs": ["get"]}]),
            "",
        );
        check(
            held,
            json!([{"nonResourceURLs": ["/*"], "verbs": ["get"]}]),
            r#"{NonResourceURLs:["/*"], Verbs:["get"]}"#,
        );
    }

    #[test]
    fn the_message_is_the_api_s() {
        let wanted = rules(json!([
            {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
            {"nonResourceURLs": ["*"], "verbs": ["*"]},
        ]));
        let carol = UserInfo::new("carol", ["system:authenticated"]);
        let error = EscalationError::new(&carol, &uncovered(&[], &wanted));
        assert_eq!(
            error.to_string(),
            "user \"carol\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC \
             permissions not currently held:\n{APIGroups:[\"*\"], Resources:[\"*\"], \
             Verbs:[\"*\"]}\n{NonResourceURLs:[\"*\"], Verbs:[\"*\"]}"
        );
    }
}
