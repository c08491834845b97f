//! Revisions of a template, kept as ControllerRevisions: for DaemonSets and StatefulSets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::ResourceExt;
use serde_json::{Value, json};

pub const HASH_LABEL: &str = "controller-revision-hash";

/// The patch that makes an owner's template this one.
pub fn data(template: &PodTemplateSpec) -> Result<Value, serde_json::Error> {
    let mut template = serde_json::to_value(template)?;
    template["$patch"] = json!("replace");
    Ok(json!({"spec": {"template": template}}))
}

/// The template in a revision's data.
pub fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let data = revision.data.as_ref()?;
    serde_json::from_value(data.0.get("spec")?.get("template")?.clone()).ok()
}

fn same(revision: &ControllerRevision, data: &Value) -> bool {
    revision.data.as_ref().is_some_and(|known| known.0 == *data)
}

pub fn hash(revision: &ControllerRevision) -> String {
    revision
        .labels()
        .get(HASH_LABEL)
        .cloned()
        .unwrap_or_default()
}

/// Where the wanted template stands in the history.
#[derive(Debug, Clone)]
pub enum Current {
    /// It is the newest revision.
    Newest(Arc<ControllerRevision>),
    /// It is an older revision, which becomes the newest with this number: a rollback.
    Again(Arc<ControllerRevision>, i64),
    /// There is no such revision: it is to be made with this number.
    Missing(i64),
}

/// Finds the revision of some data. `history` in any order.
pub fn current(history: &[Arc<ControllerRevision>], data: &Value) -> Current {
    let newest = history
        .iter()
        .map(|revision| revision.revision)
        .max()
        .unwrap_or(0);
    let equal = history.iter().filter(|revision| same(revision, data));
    match equal.max_by_key(|revision| revision.revision) {
        Some(found) if found.revision == newest => Current::Newest(found.clone()),
        Some(found) => Current::Again(found.clone(), newest + 1),
        None => Current::Missing(newest + 1),
    }
}

/// Everything that a new revision consists of.
#[derive(Debug)]
pub struct Snapshot<'a> {
    pub owner: OwnerReference,
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub hash: &'a str,
    pub number: i64,
    pub data: Value,
}

pub fn snapshot(parts: Snapshot<'_>) -> ControllerRevision {
    let mut labels = parts.labels;
    labels.insert(HASH_LABEL.to_owned(), parts.hash.to_owned());
    // A name may have 253 characters, of which the hash takes up to eleven.
    let prefix: String = parts.owner.name.chars().take(223).collect();
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{prefix}-{}", parts.hash)),
            namespace: Some(parts.namespace),
            labels: Some(labels),
            annotations: Some(parts.annotations).filter(|notes| !notes.is_empty()),
            owner_references: Some(vec![parts.owner]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(parts.data)),
        revision: parts.number,
    }
}

/// The oldest revisions beyond the limit that nothing uses any more.
pub fn surplus(
    history: &[Arc<ControllerRevision>],
    in_use: &BTreeSet<String>,
    limit: Option<i32>,
) -> Vec<Arc<ControllerRevision>> {
    let limit = limit
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(10);
    let mut unused: Vec<_> = history
        .iter()
        .filter(|revision| {
            !in_use.contains(&hash(revision)) && !in_use.contains(&revision.name_any())
        })
        .cloned()
        .collect();
    unused.sort_by_key(|revision| (revision.revision, revision.name_any()));
    unused.truncate(unused.len().saturating_sub(limit));
    unused
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(number: i64, image: &str) -> Arc<ControllerRevision> {
        Arc::new(snapshot(Snapshot {
            owner: OwnerReference {
                name: "ds".to_owned(),
                ..OwnerReference::default()
            },
            namespace: "ns".to_owned(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            hash: image,
            number,
            data: json!({"image": image}),
        }))
    }

    #[test]
    fn a_template_is_new_newest_or_a_rollback() {
        let history = [revision(1, "a"), revision(2, "b")];
        let at = |image: &str| current(&history, &json!({"image": image}));
        assert!(matches!(at("b"), Current::Newest(found) if found.revision == 2));
        assert!(matches!(at("a"), Current::Again(found, 3) if found.revision == 1));
        assert!(matches!(at("c"), Current::Missing(3)));
        assert!(matches!(current(&[], &json!({})), Current::Missing(1)));
    }

    #[test]
    fn only_unused_revisions_beyond_the_limit_go() {
        let history: Vec<_> = ["a", "b", "c", "d"]
            .iter()
            .zip(1..)
            .map(|(image, n)| revision(n, image))
            .collect();
        let in_use = ["a".to_owned(), "d".to_owned()].into();
        let names = |limit| -> Vec<String> {
            surplus(&history, &in_use, limit)
                .iter()
                .map(|r| r.name_any())
                .collect()
        };
        assert_eq!(names(Some(1)), ["ds-b"]);
        assert_eq!(names(Some(0)), ["ds-b", "ds-c"]);
        assert!(names(None).is_empty());
    }
}
