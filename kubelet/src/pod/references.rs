//! The objects that a pod refers to by name.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

use super::containers;

/// Names of objects in the pod's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    pub config_maps: BTreeSet<String>,
    pub secrets: BTreeSet<String>,
    /// Secrets with the credentials of registries.
    pub pull_secrets: BTreeSet<String>,
}

/// What the containers' environments and the volumes refer to.
pub fn of(pod: &Pod) -> References {
    let mut references = References::default();
    for spec in containers::all(pod) {
        for env in spec.container.env.iter().flatten() {
            let Some(source) = &env.value_from else {
                continue;
            };
            references
                .config_maps
                .extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
            references
                .secrets
                .extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
        }
        for source in spec.container.env_from.iter().flatten() {
            references
                .config_maps
                .extend(source.config_map_ref.as_ref().map(|r| r.name.clone()));
            references
                .secrets
                .extend(source.secret_ref.as_ref().map(|r| r.name.clone()));
        }
    }
    let spec = containers::spec(pod);
    for volume in spec.volumes.iter().flatten() {
        references
            .config_maps
            .extend(volume.config_map.as_ref().map(|source| source.name.clone()));
        references.secrets.extend(
            volume
                .secret
                .as_ref()
                .and_then(|source| source.secret_name.clone()),
        );
        let projected = volume
            .projected
            .as_ref()
            .and_then(|projected| projected.sources.as_ref());
        for source in projected.into_iter().flatten() {
            references
                .config_maps
                .extend(source.config_map.as_ref().map(|source| source.name.clone()));
            references
                .secrets
                .extend(source.secret.as_ref().map(|source| source.name.clone()));
        }
    }
    let pull = spec
        .image_pull_secrets
        .iter()
        .flatten()
        .map(|reference| reference.name.clone());
    references.pull_secrets.extend(pull);
    references.config_maps.retain(|name| !name.is_empty());
    references.secrets.retain(|name| !name.is_empty());
    references
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::pod;

    #[test]
    fn every_place_that_names_an_object_is_found() {
        let pod = pod(json!({"spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "s1"}}]}],
            "containers": [{"name": "c", "env": [
                {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m1", "key": "k"}}}]}],
            "volumes": [
                {"name": "a", "secret": {"secretName": "s2"}},
                {"name": "b", "projected": {"sources": [{"configMap": {"name": "m2"}}]}},
            ],
        }}));
        let found = of(&pod);
        let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(found.config_maps, set(&["m1", "m2"]));
        assert_eq!(found.secrets, set(&["s1", "s2"]));
        assert_eq!(found.pull_secrets, set(&["pull"]));
    }
}
