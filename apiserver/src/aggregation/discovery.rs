//! Aggregated groups in this server's discovery documents; pure.

use std::cmp::Ordering;

use schema::resources::compare_versions;
use serde_json::{Value, json};

use super::Entry;

/// Versions of one group, the preferred one first.
fn versions_of<'a>(entries: &'a [Entry], group: &str) -> Vec<&'a Entry> {
    let mut own: Vec<&Entry> = entries
        .iter()
        .filter(|e| e.announced.group == group)
        .collect();
    own.sort_by(|a, b| by_priority(a, b));
    own
}

fn by_priority(a: &Entry, b: &Entry) -> Ordering {
    let (a, b) = (&a.announced, &b.announced);
    b.version_priority
        .cmp(&a.version_priority)
        .then_with(|| compare_versions(&a.version, &b.version))
}

/// The groups with their priority, the most important first.
fn groups(entries: &[Entry]) -> Vec<(&str, i64)> {
    let mut groups: Vec<(&str, i64)> = Vec::new();
    for entry in entries {
        let (name, priority) = (
            entry.announced.group.as_str(),
            entry.announced.group_priority,
        );
        match groups.iter_mut().find(|(n, _)| *n == name) {
            Some((_, known)) => *known = priority.max(*known),
            None => groups.push((name, priority)),
        }
    }
    groups.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    groups
}

/// Puts a group where its priority says; `priority_of` tells those of the others.
fn insert(
    list: &mut Vec<Value>,
    own: Value,
    (name, priority): (&str, i64),
    name_of: impl Fn(&Value) -> String,
    priority_of: impl Fn(&str) -> i64,
) {
    let before = |other: &Value| {
        let other_name = name_of(other);
        let other = priority_of(&other_name);
        other > priority || (other == priority && other_name.as_str() <= name)
    };
    let at = list.iter().position(|g| !before(g)).unwrap_or(list.len());
    list.insert(at, own);
}

fn group_versions(entries: &[Entry], group: &str) -> Vec<Value> {
    versions_of(entries, group)
        .iter()
        .map(|e| {
            let version = &e.announced.version;
            json!({"groupVersion": format!("{group}/{version}"), "version": version})
        })
        .collect()
}

/// Adds to the groups of an `APIGroupList`.
pub(crate) fn add_groups(
    document: &mut Value,
    entries: &[Entry],
    priority_of: impl Fn(&str) -> i64,
) {
    let Some(list) = document["groups"].as_array_mut() else {
        return;
    };
    for (name, priority) in groups(entries) {
        let versions = group_versions(entries, name);
        match list.iter_mut().find(|g| g["name"] == name) {
            Some(group) => extend(&mut group["versions"], versions),
            None => {
                let own =
                    json!({"name": name, "versions": versions, "preferredVersion": versions[0]});
                let named = |g: &Value| g["name"].as_str().unwrap_or_default().to_owned();
                insert(list, own, (name, priority), named, &priority_of);
            }
        }
    }
}

fn extend(list: &mut Value, more: Vec<Value>) {
    if let Some(list) = list.as_array_mut() {
        for own in more {
            if !list.iter().any(|v| v["version"] == own["version"]) {
                list.push(own);
            }
        }
    }
}

/// `/apis/GROUP`, from the local document (null when there is none).
pub(crate) fn group_document(
    local: Option<Value>,
    entries: &[Entry],
    group: &str,
) -> Option<Value> {
    let versions = group_versions(entries, group);
    match (local, versions.first()) {
        (local, None) => local,
        (Some(mut document), Some(_)) => {
            extend(&mut document["versions"], versions);
            Some(document)
        }
        (None, Some(first)) => Some(json!({
            "kind": "APIGroup", "apiVersion": "v1", "name": group,
            "preferredVersion": first, "versions": versions,
        })),
    }
}

/// Adds to the items of an `APIGroupDiscoveryList`.
pub(crate) fn add_aggregated(
    document: &mut Value,
    entries: &[Entry],
    priority_of: impl Fn(&str) -> i64,
) {
    let Some(list) = document["items"].as_array_mut() else {
        return;
    };
    for (name, priority) in groups(entries) {
        let versions: Vec<Value> = versions_of(entries, name)
            .into_iter()
            .filter(|e| !e.published.resources.is_null())
            .map(version_document)
            .collect();
        if versions.is_empty() {
            continue;
        }
        match list.iter_mut().find(|g| g["metadata"]["name"] == name) {
            Some(group) => extend(&mut group["versions"], versions),
            None => {
                let own = json!({"metadata": {"name": name}, "versions": versions});
                let named = |g: &Value| {
                    g["metadata"]["name"]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned()
                };
                insert(list, own, (name, priority), named, &priority_of);
            }
        }
    }
}

/// An `APIResourceList` in the aggregated form.
fn version_document(entry: &Entry) -> Value {
    let listed = entry.published.resources["resources"].as_array();
    let mut resources: Vec<Value> = Vec::new();
    for own in listed.into_iter().flatten() {
        let name = own["name"].as_str().unwrap_or_default();
        let kind = json!({
            "group": own["group"].as_str().unwrap_or(&entry.announced.group),
            "version": own["version"].as_str().unwrap_or(&entry.announced.version),
            "kind": own["kind"],
        });
        let Some((parent, subresource)) = name.split_once('/') else {
            let scope = if own["namespaced"] == true {
                "Namespaced"
            } else {
                "Cluster"
            };
            let mut made = json!({"resource": name, "responseKind": kind, "scope": scope,
                "singularResource": own["singularName"], "verbs": own["verbs"]});
            for key in ["shortNames", "categories"] {
                if own[key].is_array() {
                    made[key] = own[key].clone();
                }
            }
            resources.push(made);
            continue;
        };
        let made = json!({"subresource": subresource, "responseKind": kind, "verbs": own["verbs"]});
        if let Some(parent) = resources.iter_mut().find(|r| r["resource"] == parent) {
            match parent["subresources"].as_array_mut() {
                Some(list) => list.push(made),
                None => parent["subresources"] = json!([made]),
            }
        }
    }
    let freshness = if entry.available { "Current" } else { "Stale" };
    json!({"version": entry.announced.version, "freshness": freshness, "resources": resources})
}

#[cfg(test)]
mod tests {
    use super::super::{Announced, Published};
    use super::*;
    use crate::outbound::Place;

    fn entry(group: &str, version: &str, priority: i64) -> Entry {
        Entry {
            announced: Announced {
                name: format!("{version}.{group}"),
                group: group.into(),
                version: version.into(),
                group_priority: priority,
                version_priority: 10,
                place: Place::Host {
                    host: "h".into(),
                    port: 443,
                },
                authorities: Vec::new(),
                insecure: false,
            },
            available: true,
            published: Published {
                resources: json!({"resources": [
                    {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
                    {"name": "flunders/status", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
                ]}),
                ..Published::default()
            },
        }
    }

    fn priority(group: &str) -> i64 {
        if group == "apps" { 17_800 } else { 1000 }
    }

    #[test]
    fn groups_come_in_the_order_of_their_priority() {
        let mut list = json!({"groups": [{"name": "apps"}, {"name": "crd.example.com"}]});
        let entries = [
            entry("wardle", "v1", 2000),
            entry("wardle", "v1beta1", 2000),
        ];
        add_groups(&mut list, &entries, priority);
        let names: Vec<&str> = list["groups"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|g| g["name"].as_str())
            .collect();
        assert_eq!(names, ["apps", "wardle", "crd.example.com"]);
        assert_eq!(list["groups"][1]["preferredVersion"]["version"], "v1");
        let own = group_document(None, &entries, "wardle").expect("it is announced");
        assert_eq!(own["versions"].as_array().map(Vec::len), Some(2));
        assert!(group_document(None, &entries, "other").is_none());
    }

    #[test]
    fn resource_lists_become_aggregated_documents() {
        let mut list = json!({"items": []});
        add_aggregated(&mut list, &[entry("wardle", "v1", 2000)], priority);
        let version = &list["items"][0]["versions"][0];
        assert_eq!(version["freshness"], "Current");
        assert_eq!(version["resources"][0]["scope"], "Namespaced");
        assert_eq!(
            version["resources"][0]["subresources"][0]["subresource"],
            "status"
        );
    }
}
