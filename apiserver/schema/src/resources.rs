//! The resource table: which resources there are, under which names, scopes and verbs.
//!
//! Built-in resources come from `data/resources.txt`; resources of custom kinds are
//! [`Resource`] values that the caller makes from their definitions. Both go through the
//! same discovery documents and the same handler.

mod conversion;
mod custom;
mod selectable;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use crate::types::{Gvk, StructRef, root};

pub use conversion::{ConversionError, convert};
pub use custom::{compare_versions, custom, storage_version_hash};

type Text = Cow<'static, str>;

/// Whether objects live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In the cluster.
    Cluster,
}

/// A path below an object: `status`, `scale`, `log`, ...
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// Last part of the path.
    pub name: Text,
    /// The kind that it reads and writes.
    pub kind: Text,
    /// Group and version of that kind where they are not the resource's own.
    pub group_version: Option<(Text, Text)>,
    /// Allowed verbs, sorted.
    pub verbs: Vec<Text>,
}

/// A resource in one group and version.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Empty for the core group.
    pub group: Text,
    /// For example `v1`.
    pub version: Text,
    /// Name in paths: `pods`.
    pub plural: Text,
    /// Name of one: `pod`.
    pub singular: Text,
    /// Kind of an object.
    pub kind: Text,
    /// Kind of a list.
    pub list_kind: Text,
    /// Scope.
    pub scope: Scope,
    /// Allowed verbs, sorted.
    pub verbs: Vec<Text>,
    /// Short names of `kubectl`.
    pub short_names: Vec<Text>,
    /// Categories of `kubectl`, such as `all`.
    pub categories: Vec<Text>,
    /// Hash of the version that is stored, as discovery shows it.
    pub storage_version_hash: Option<Text>,
    /// Group and version that objects are stored in.
    pub storage: (Text, Text),
    /// Subresources, sorted by name.
    pub subresources: Vec<Subresource>,
    /// Field selectors besides `metadata.name` and `metadata.namespace`.
    pub selectable_fields: Vec<Text>,
}

impl Resource {
    /// The kind of its objects.
    pub fn gvk(&self) -> Gvk {
        Gvk {
            group: self.group.clone(),
            version: self.version.clone(),
            kind: self.kind.clone(),
        }
    }

    /// The kind that its objects are stored as.
    pub fn storage_gvk(&self) -> Gvk {
        Gvk {
            group: self.storage.0.clone(),
            version: self.storage.1.clone(),
            kind: self.kind.clone(),
        }
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        self.gvk().api_version()
    }

    /// Whether it lives in a namespace.
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Whether a verb is allowed.
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// The subresource of that name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// The built-in shape of its objects.
    pub fn shape(&self) -> Option<StructRef> {
        root(&self.group, &self.version, &self.kind)
    }

    /// The path of its collection, for a namespace where it has one.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let base = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        match namespace.filter(|_| self.namespaced()) {
            Some(ns) => format!("{base}/namespaces/{ns}/{}", self.plural),
            None => format!("{base}/{}", self.plural),
        }
    }
}

/// One version of a group.
#[derive(Clone, Debug)]
pub struct GroupVersion {
    /// For example `v1`.
    pub version: Text,
    /// Sorted by plural name.
    pub resources: Vec<Resource>,
}

/// A group: versions in order of preference.
#[derive(Clone, Debug)]
pub struct Group {
    /// Empty for the core group.
    pub name: Text,
    /// The preferred one first.
    pub versions: Vec<GroupVersion>,
}

/// Groups in order of priority, with a look-up by path.
#[derive(Clone, Debug, Default)]
pub struct ResourceTable {
    /// Groups, the core group first.
    pub groups: Vec<Group>,
    places: HashMap<(String, String, String), (usize, usize, usize)>,
}

impl ResourceTable {
    /// A table of these groups.
    pub fn new(groups: Vec<Group>) -> Self {
        let mut places = HashMap::new();
        for (g, group) in groups.iter().enumerate() {
            for (v, version) in group.versions.iter().enumerate() {
                for (r, resource) in version.resources.iter().enumerate() {
                    let key = (
                        group.name.to_string(),
                        version.version.to_string(),
                        resource.plural.to_string(),
                    );
                    places.insert(key, (g, v, r));
                }
            }
        }
        Self { groups, places }
    }

    /// The resource of a path.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Resource> {
        let key = (group.to_owned(), version.to_owned(), plural.to_owned());
        let (g, v, r) = *self.places.get(&key)?;
        self.groups.get(g)?.versions.get(v)?.resources.get(r)
    }

    /// The resource of a kind.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Resource> {
        self.group_version(group, version)?
            .resources
            .iter()
            .find(|r| r.kind == kind)
    }

    /// The resources of a group and version.
    pub fn group_version(&self, group: &str, version: &str) -> Option<&GroupVersion> {
        self.groups
            .iter()
            .find(|g| g.name == group)?
            .versions
            .iter()
            .find(|v| v.version == version)
    }

    /// Every resource.
    pub fn iter(&self) -> impl Iterator<Item = &Resource> {
        self.groups
            .iter()
            .flat_map(|g| &g.versions)
            .flat_map(|v| &v.resources)
    }
}

const TABLE: &str = include_str!("../data/resources.txt");

static BUILTIN: LazyLock<ResourceTable> = LazyLock::new(|| ResourceTable::new(parse(TABLE)));

/// The built-in resources.
pub fn builtin() -> &'static ResourceTable {
    &BUILTIN
}

fn parse(text: &'static str) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for line in text.lines() {
        let words: Vec<&'static str> = line.split(' ').collect();
        match words.as_slice() {
            ["group", name, version] => {
                let name = if *name == "-" { "" } else { name };
                if groups.last().is_none_or(|g| g.name != name) {
                    groups.push(Group {
                        name: Cow::Borrowed(name),
                        versions: Vec::new(),
                    });
                }
                if let Some(group) = groups.last_mut() {
                    group.versions.push(GroupVersion {
                        version: Cow::Borrowed(version),
                        resources: Vec::new(),
                    });
                }
            }
            ["resource", rest @ ..] => {
                if let Some(group) = groups.last_mut() {
                    let name = group.name.clone();
                    if let Some(version) = group.versions.last_mut() {
                        let own = resource(&name, &version.version, rest);
                        version.resources.extend(own);
                    }
                }
            }
            ["sub", name, kind, foreign, verbs] => {
                let last = groups
                    .last_mut()
                    .and_then(|g| g.versions.last_mut())
                    .and_then(|v| v.resources.last_mut());
                if let Some(resource) = last {
                    resource.subresources.push(Subresource {
                        name: Cow::Borrowed(name),
                        kind: Cow::Borrowed(kind),
                        group_version: foreign
                            .split_once('/')
                            .map(|(g, v)| (Cow::Borrowed(g), Cow::Borrowed(v))),
                        verbs: list(verbs),
                    });
                }
            }
            _ => {}
        }
    }
    groups
}

fn list(words: &'static str) -> Vec<Text> {
    words
        .split(',')
        .filter(|w| !w.is_empty() && *w != "-")
        .map(Cow::Borrowed)
        .collect()
}

fn resource(group: &Text, version: &Text, words: &[&'static str]) -> Option<Resource> {
    let [
        plural,
        kind,
        singular,
        scope,
        verbs,
        short,
        categories,
        hash,
    ] = words
    else {
        return None;
    };
    Some(Resource {
        group: group.clone(),
        version: version.clone(),
        plural: Cow::Borrowed(plural),
        singular: Cow::Borrowed(singular),
        kind: Cow::Borrowed(kind),
        list_kind: Cow::Owned(format!("{kind}List")),
        scope: if *scope == "Namespaced" {
            Scope::Namespaced
        } else {
            Scope::Cluster
        },
        verbs: list(verbs),
        short_names: list(short),
        categories: list(categories),
        storage_version_hash: Some(*hash).filter(|h| *h != "-").map(Cow::Borrowed),
        storage: conversion::storage_version(group, kind).map_or_else(
            || (group.clone(), version.clone()),
            |(g, v)| (g.into(), v.into()),
        ),
        subresources: Vec::new(),
        selectable_fields: selectable::fields(group, plural)
            .iter()
            .copied()
            .map(Cow::Borrowed)
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_knows_pods_and_their_subresources() {
        let pods = builtin().get("", "v1", "pods").expect("built in");
        assert_eq!(
            (pods.kind.as_ref(), pods.list_kind.as_ref()),
            ("Pod", "PodList")
        );
        assert!(pods.namespaced() && pods.allows("watch"));
        let eviction = pods.subresource("eviction").expect("a subresource");
        assert_eq!(eviction.group_version, Some(("policy".into(), "v1".into())));
        assert_eq!(pods.path(Some("a")), "/api/v1/namespaces/a/pods");
        assert!(pods.selectable_fields.contains(&"spec.nodeName".into()));
    }

    #[test]
    fn every_resource_has_a_shape_for_itself_and_its_subresources() {
        for r in builtin().iter() {
            assert!(r.shape().is_some(), "{} {}", r.api_version(), r.kind);
            for s in r
                .subresources
                .iter()
                .filter(|s| !s.kind.ends_with("Options"))
            {
                let (g, v) = s
                    .group_version
                    .clone()
                    .unwrap_or((r.group.clone(), r.version.clone()));
                assert!(root(&g, &v, &s.kind).is_some(), "{}/{}", r.plural, s.name);
            }
        }
    }

    #[test]
    fn two_versions_of_one_resource_share_their_storage() {
        let old = builtin()
            .get("autoscaling", "v1", "horizontalpodautoscalers")
            .expect("built in");
        assert_eq!(
            old.storage_gvk(),
            Gvk::new("autoscaling", "v2", "HorizontalPodAutoscaler")
        );
        let event = builtin()
            .get("events.k8s.io", "v1", "events")
            .expect("built in");
        assert_eq!(event.storage_gvk(), Gvk::new("", "v1", "Event"));
    }
}
