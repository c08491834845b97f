//! One valid object of every built-in kind: `data/objects.yaml`.

use anyhow::Context;
use serde_json::Value;

const TEXT: &str = include_str!("../data/objects.yaml");

/// The manifests, with the place of what names a namespace filled in.
pub fn manifests(namespace: &str) -> String {
    TEXT.replace("NAMESPACE", namespace)
}

/// The same, as values.
pub fn objects(namespace: &str) -> anyhow::Result<Vec<Value>> {
    let text = manifests(namespace);
    text.split("\n---\n")
        .map(|document| {
            serde_saphyr::from_str(document)
                .with_context(|| format!("objects.yaml: not YAML: {document}"))
        })
        .collect()
}

/// `VERSION` or `GROUP/VERSION`, and the kind.
pub fn kind_of(object: &Value) -> (String, String) {
    let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    (text("apiVersion"), text("kind"))
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn every_object_says_what_it_is_and_no_kind_comes_twice() {
        let all = objects("here").unwrap();
        let kinds: std::collections::BTreeSet<_> = all.iter().map(kind_of).collect();
        assert_eq!(kinds.len(), all.len());
        for object in &all {
            assert!(object["metadata"]["name"].is_string(), "{object}");
            assert!(!object.to_string().contains("NAMESPACE"), "{object}");
        }
    }
}
