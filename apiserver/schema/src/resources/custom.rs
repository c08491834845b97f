//! Resources of custom resource definitions, and a table that holds them too.

use std::borrow::Cow;
use std::cmp::Ordering;

use base64::Engine as _;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Group, GroupVersion, Resource, ResourceTable, Scope, Subresource, Text};

fn owned(text: &str) -> Text {
    Cow::Owned(text.to_owned())
}

fn texts(value: &Value) -> Vec<Text> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(owned)
        .collect()
}

fn verbs(names: &[&'static str]) -> Vec<Text> {
    names.iter().copied().map(Cow::Borrowed).collect()
}

/// The served resources of a definition, one for each version. The names are the accepted
/// ones where the status has them.
pub fn custom(definition: &Value) -> Vec<Resource> {
    let spec = &definition["spec"];
    let accepted = &definition["status"]["acceptedNames"];
    let names = if accepted["plural"].as_str().is_some_and(|p| !p.is_empty()) {
        accepted
    } else {
        &spec["names"]
    };
    let versions = || spec["versions"].as_array().into_iter().flatten();
    let storage = versions()
        .find(|v| v["storage"] == true)
        .and_then(|v| v["name"].as_str())
        .unwrap_or_default();
    let group = spec["group"].as_str().unwrap_or_default();
    let kind = names["kind"].as_str().unwrap_or_default();
    let served = versions().filter(|v| v["served"] == true);
    served
        .map(|v| Resource {
            group: owned(group),
            version: owned(v["name"].as_str().unwrap_or_default()),
            plural: owned(names["plural"].as_str().unwrap_or_default()),
            singular: owned(names["singular"].as_str().unwrap_or_default()),
            kind: owned(kind),
            list_kind: names["listKind"]
                .as_str()
                .map_or_else(|| Cow::Owned(format!("{kind}List")), owned),
            scope: if spec["scope"] == "Cluster" {
                Scope::Cluster
            } else {
                Scope::Namespaced
            },
            // The order in which upstream announces the verbs of custom resources.
            verbs: verbs(&[
                "delete",
                "deletecollection",
                "get",
                "list",
                "patch",
                "create",
                "update",
                "watch",
            ]),
            short_names: texts(&names["shortNames"]),
            categories: texts(&names["categories"]),
            storage_version_hash: Some(Cow::Owned(storage_version_hash(group, storage, kind))),
            storage: (owned(group), owned(storage)),
            subresources: subresources(&v["subresources"], kind),
            selectable_fields: selectable(&v["selectableFields"]),
        })
        .collect()
}

fn selectable(fields: &Value) -> Vec<Text> {
    let paths = fields
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|f| f["jsonPath"].as_str());
    paths.map(|p| owned(p.trim_start_matches('.'))).collect()
}

fn subresources(declared: &Value, kind: &str) -> Vec<Subresource> {
    let mut all = Vec::new();
    if declared["scale"].is_object() {
        all.push(Subresource {
            name: "scale".into(),
            kind: "Scale".into(),
            group_version: Some(("autoscaling".into(), "v1".into())),
            verbs: verbs(&["get", "patch", "update"]),
        });
    }
    if declared["status"].is_object() {
        all.push(Subresource {
            name: "status".into(),
            kind: owned(kind),
            group_version: None,
            verbs: verbs(&["get", "patch", "update"]),
        });
    }
    all
}

/// What discovery shows for the version that is stored.
pub fn storage_version_hash(group: &str, version: &str, kind: &str) -> String {
    let digest = Sha256::digest(format!("{group}/{version}/{kind}"));
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}

impl ResourceTable {
    /// This table and these resources. A new group comes after the built-in ones, sorted by
    /// name; its versions are in the order of [`compare_versions`].
    pub fn with(&self, resources: Vec<Resource>) -> Self {
        let mut groups = self.groups.clone();
        let known = groups.len();
        for r in resources {
            let at = groups
                .iter()
                .position(|g| g.name == r.group)
                .unwrap_or_else(|| {
                    groups.push(Group {
                        name: r.group.clone(),
                        versions: Vec::new(),
                    });
                    groups.len() - 1
                });
            let versions = &mut groups[at].versions;
            match versions.iter_mut().find(|v| v.version == r.version) {
                Some(v) => v.resources.push(r),
                None => versions.push(GroupVersion {
                    version: r.version.clone(),
                    resources: vec![r],
                }),
            }
            if at >= known {
                versions.sort_by(|a, b| compare_versions(&a.version, &b.version));
            }
        }
        groups[known..].sort_by(|a, b| a.name.cmp(&b.name));
        for version in groups.iter_mut().flat_map(|g| &mut g.versions) {
            version.resources.sort_by(|a, b| a.plural.cmp(&b.plural));
        }
        Self::new(groups)
    }
}

/// Kubernetes' order of version names, the most stable and newest first: `v10`, `v2`,
/// `v11beta2`, `v3beta1`, `v12alpha1`, then other names in alphabetical order.
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    match (parse(a), parse(b)) {
        (Some(x), Some(y)) => y.cmp(&x),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// (stability, major, minor)
fn parse(version: &str) -> Option<(u8, u32, u32)> {
    let rest = version.strip_prefix('v')?;
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let major = rest[..digits].parse().ok()?;
    let suffix = &rest[digits..];
    if suffix.is_empty() {
        return Some((2, major, 0));
    }
    for (name, stability) in [("beta", 1), ("alpha", 0)] {
        if let Some(minor) = suffix.strip_prefix(name) {
            return Some((stability, major, minor.parse().ok()?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_sort_by_stability_and_then_by_number() {
        let mut all = vec![
            "foo1",
            "v11alpha2",
            "v3beta1",
            "v1",
            "v10",
            "foo10",
            "v12alpha1",
            "v11beta2",
            "v10beta3",
            "v2",
        ];
        all.sort_by(|a, b| compare_versions(a, b));
        assert_eq!(
            all,
            [
                "v10",
                "v2",
                "v1",
                "v11beta2",
                "v10beta3",
                "v3beta1",
                "v12alpha1",
                "v11alpha2",
                "foo1",
                "foo10"
            ]
        );
    }

    #[test]
    fn the_hash_of_a_built_in_resource_is_the_same_function() {
        let table = crate::resources::builtin();
        let pods = table
            .get("", "v1", "pods")
            .and_then(|r| r.storage_version_hash.clone());
        assert_eq!(
            pods.as_deref(),
            Some(storage_version_hash("", "v1", "Pod").as_str())
        );
    }
}
