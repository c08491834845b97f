//! Discovery documents, from a resource table.
//!
//! The table is [`crate::resources::builtin`], or [`ResourceTable::with`] of it and the
//! resources of the custom resource definitions that are established.

use serde_json::{Map, Value, json};

use crate::resources::{Group, GroupVersion, Resource, ResourceTable, Scope};

/// Versions of the aggregated documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AggregatedVersion {
    /// `apidiscovery.k8s.io/v2`
    V2,
    /// `apidiscovery.k8s.io/v2beta1`, of clients before 1.30
    V2Beta1,
}

impl AggregatedVersion {
    /// The document's `apiVersion`.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::V2 => "apidiscovery.k8s.io/v2",
            Self::V2Beta1 => "apidiscovery.k8s.io/v2beta1",
        }
    }

    /// The media type of the answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::V2 => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            Self::V2Beta1 => {
                "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
            }
        }
    }
}

/// `/api`; the address (`host:port`) is where clients reach the server.
pub fn api_versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

/// `/apis`
pub fn group_list(table: &ResourceTable) -> Value {
    let groups: Vec<Value> = table
        .groups
        .iter()
        .filter(|g| !g.name.is_empty())
        .map(group_object)
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`
pub fn group(table: &ResourceTable, name: &str) -> Option<Value> {
    let mut own = group_object(
        table
            .groups
            .iter()
            .find(|g| !g.name.is_empty() && g.name == name)?,
    );
    own["kind"] = "APIGroup".into();
    own["apiVersion"] = "v1".into();
    Some(own)
}

fn group_object(group: &Group) -> Value {
    let version = |v: &GroupVersion| json!({"groupVersion": format!("{}/{}", group.name, v.version), "version": v.version});
    let versions: Vec<Value> = group.versions.iter().map(version).collect();
    json!({"name": group.name, "preferredVersion": versions.first(), "versions": versions})
}

/// `/api/v1` and `/apis/GROUP/VERSION`
pub fn resource_list(table: &ResourceTable, group: &str, version: &str) -> Option<Value> {
    let own = table.group_version(group, version)?;
    let mut resources: Vec<Value> = own.resources.iter().flat_map(api_resources).collect();
    resources.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    let mut out = Map::new();
    out.insert("kind".into(), "APIResourceList".into());
    if group.is_empty() {
        out.insert("groupVersion".into(), version.into());
    } else {
        // The core group's list is older than this field.
        out.insert("apiVersion".into(), "v1".into());
        out.insert("groupVersion".into(), format!("{group}/{version}").into());
    }
    out.insert("resources".into(), resources.into());
    Some(out.into())
}

/// A resource and its subresources as `APIResource` objects.
fn api_resources(r: &Resource) -> Vec<Value> {
    let mut own = json!({
        "name": r.plural, "singularName": r.singular, "namespaced": r.namespaced(), "kind": r.kind, "verbs": r.verbs,
    });
    names(&mut own, r);
    if let Some(hash) = &r.storage_version_hash {
        own["storageVersionHash"] = hash.as_ref().into();
    }
    let subresource = |s: &crate::resources::Subresource| {
        let mut out = json!({
            "name": format!("{}/{}", r.plural, s.name), "singularName": "", "namespaced": r.namespaced(),
            "kind": s.kind, "verbs": s.verbs,
        });
        if let Some((group, version)) = &s.group_version {
            out["group"] = group.as_ref().into();
            out["version"] = version.as_ref().into();
        }
        out
    };
    std::iter::once(own)
        .chain(r.subresources.iter().map(subresource))
        .collect()
}

fn names(out: &mut Value, r: &Resource) {
    if !r.short_names.is_empty() {
        out["shortNames"] = json!(r.short_names);
    }
    if !r.categories.is_empty() {
        out["categories"] = json!(r.categories);
    }
}

/// `/api` (`core`) or `/apis` in the aggregated form.
pub fn aggregated(table: &ResourceTable, core: bool, version: AggregatedVersion) -> Value {
    let groups = table.groups.iter().filter(|g| g.name.is_empty() == core);
    let items: Vec<Value> = groups.map(aggregated_group).collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": version.api_version(), "metadata": {}, "items": items})
}

fn aggregated_group(group: &Group) -> Value {
    let version = |v: &GroupVersion| {
        let resources: Vec<Value> = v.resources.iter().map(aggregated_resource).collect();
        json!({"version": v.version, "freshness": "Current", "resources": resources})
    };
    let versions: Vec<Value> = group.versions.iter().map(version).collect();
    let metadata = if group.name.is_empty() {
        json!({})
    } else {
        json!({"name": group.name})
    };
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(r: &Resource) -> Value {
    let scope = if r.scope == Scope::Namespaced {
        "Namespaced"
    } else {
        "Cluster"
    };
    let mut own = json!({
        "resource": r.plural, "singularResource": r.singular, "scope": scope, "verbs": r.verbs,
        "responseKind": {"group": "", "version": "", "kind": r.kind},
    });
    names(&mut own, r);
    if !r.subresources.is_empty() {
        let subresource = |s: &crate::resources::Subresource| {
            let (group, version) = s
                .group_version
                .as_ref()
                .map_or(("", ""), |(g, v)| (g.as_ref(), v.as_ref()));
            json!({"subresource": s.name, "verbs": s.verbs,
                   "responseKind": {"group": group, "version": version, "kind": s.kind}})
        };
        own["subresources"] = r
            .subresources
            .iter()
            .map(subresource)
            .collect::<Vec<_>>()
            .into();
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::{builtin, custom};

    #[test]
    fn the_core_group_is_only_below_api() {
        let list = group_list(builtin());
        let names: Vec<&str> = list["groups"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|g| g["name"].as_str())
            .collect();
        assert!(names.contains(&"apps") && !names.contains(&""));
        assert_eq!(
            aggregated(builtin(), true, AggregatedVersion::V2)["items"]
                .as_array()
                .map(Vec::len),
            Some(1)
        );
        assert!(resource_list(builtin(), "", "v1").is_some_and(|l| l.get("apiVersion").is_none()));
        assert!(group(builtin(), "nothing.example.com").is_none());
    }

    #[test]
    fn the_preferred_version_comes_first() {
        let own = group(builtin(), "autoscaling").expect("a built-in group");
        assert_eq!(own["preferredVersion"]["version"], "v2");
        assert_eq!(own["versions"][1]["version"], "v1");
    }

    #[test]
    fn a_definition_adds_its_group_after_the_built_in_ones() {
        let definition = json!({"spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["w"]},
            "versions": [{"name": "v1beta1", "served": true, "storage": false},
                         {"name": "v1", "served": true, "storage": true, "subresources": {"status": {}, "scale": {}}},
                         {"name": "v2", "served": false, "storage": false}]}});
        let table = builtin().with(custom(&definition));
        let own = group(&table, "example.com").expect("added");
        assert_eq!(own["versions"].as_array().map(Vec::len), Some(2));
        assert_eq!(own["preferredVersion"]["version"], "v1");
        let list = resource_list(&table, "example.com", "v1").expect("added");
        let names: Vec<&str> = list["resources"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|r| r["name"].as_str())
            .collect();
        assert_eq!(names, ["widgets", "widgets/scale", "widgets/status"]);
        assert_eq!(list["resources"][1]["group"], "autoscaling");
        assert_eq!(
            table.groups.last().map(|g| g.name.as_ref()),
            Some("example.com")
        );
    }
}
